//! The macros in a pipe command's arguments.

use mail::address::{ExtensionRules, quote_local};

use super::spec::Spec;
use crate::request::{Rcpt, Request};

/// One word of `argv=`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Macro(Macro),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Macro {
    ClientAddress,
    ClientHelo,
    ClientHostname,
    ClientPort,
    ClientProtocol,
    Domain,
    Extension,
    Mailbox,
    Nexthop,
    OriginalRecipient,
    QueueId,
    Recipient,
    SaslMethod,
    SaslSender,
    SaslUsername,
    Sender,
    Size,
    User,
}

impl Macro {
    const NAMES: [(&'static str, Macro); 18] = [
        ("client_address", Macro::ClientAddress),
        ("client_helo", Macro::ClientHelo),
        ("client_hostname", Macro::ClientHostname),
        ("client_port", Macro::ClientPort),
        ("client_protocol", Macro::ClientProtocol),
        ("domain", Macro::Domain),
        ("extension", Macro::Extension),
        ("mailbox", Macro::Mailbox),
        ("nexthop", Macro::Nexthop),
        ("original_recipient", Macro::OriginalRecipient),
        ("queue_id", Macro::QueueId),
        ("recipient", Macro::Recipient),
        ("sasl_method", Macro::SaslMethod),
        ("sasl_sender", Macro::SaslSender),
        ("sasl_username", Macro::SaslUsername),
        ("sender", Macro::Sender),
        ("size", Macro::Size),
        ("user", Macro::User),
    ];

    /// An argument with such a macro stands once for each recipient.
    fn is_per_recipient(self) -> bool {
        use Macro::{Domain, Extension, Mailbox, OriginalRecipient, Recipient, User};
        matches!(
            self,
            Domain | Extension | Mailbox | OriginalRecipient | Recipient | User
        )
    }
}

impl Argument {
    /// Reads `${name}`, `$(name)`, `$name` and `$$`.
    pub fn parse(word: &str) -> Result<Argument, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = word;
        while let Some(at) = rest.find('$') {
            text.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                text.push('$');
                rest = after;
                continue;
            }
            let (name, after) =
                macro_name(rest).ok_or_else(|| format!("bad macro syntax: {word}"))?;
            let known = Macro::NAMES.iter().find(|(known, _)| *known == name);
            let (_, which) = known.ok_or_else(|| format!("unknown macro name: {name}"))?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Macro(*which));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Argument { parts })
    }

    /// Whether nothing stands there.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn is_per_recipient(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Macro(which) if which.is_per_recipient()))
    }
}

/// `{name}…`, `(name)…` or `name…`.
fn macro_name(text: &str) -> Option<(&str, &str)> {
    for (open, close) in [('{', '}'), ('(', ')')] {
        if let Some(inside) = text.strip_prefix(open) {
            return inside.split_once(close);
        }
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// The command's arguments for these recipients of the request.
pub fn expand(
    spec: &Spec,
    extensions: &ExtensionRules,
    request: &Request,
    recipients: &[Rcpt],
) -> Vec<String> {
    let values = Values {
        spec,
        extensions,
        request,
    };
    let mut argv = Vec::with_capacity(spec.argv.len() + recipients.len());
    for argument in &spec.argv {
        if argument.is_per_recipient() {
            argv.extend(
                recipients
                    .iter()
                    .map(|recipient| values.argument(argument, recipient)),
            );
        } else if let Some(first) = recipients.first() {
            argv.push(values.argument(argument, first));
        }
    }
    argv
}

struct Values<'a> {
    spec: &'a Spec,
    extensions: &'a ExtensionRules,
    request: &'a Request,
}

impl Values<'_> {
    fn argument(&self, argument: &Argument, recipient: &Rcpt) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Macro(which) => self.value(*which, recipient),
        };
        // A NUL ends an argument; no address has one.
        argument
            .parts
            .iter()
            .map(part)
            .collect::<String>()
            .replace('\0', "")
    }

    fn value(&self, which: Macro, recipient: &Rcpt) -> String {
        let message = &self.request.message;
        let client = &message.client;
        match which {
            Macro::ClientAddress => client.addr.clone(),
            Macro::ClientHelo => client.helo.clone(),
            Macro::ClientHostname => client.name.clone(),
            Macro::ClientPort if client.port == 0 => String::new(),
            Macro::ClientPort => client.port.to_string(),
            Macro::ClientProtocol => client.protocol.clone(),
            Macro::SaslMethod => message.sasl.method.clone(),
            Macro::SaslSender => message.sasl.sender.clone(),
            Macro::SaslUsername => message.sasl.username.clone(),
            Macro::Nexthop => self.domain(&self.request.nexthop),
            Macro::QueueId => message.id.clone(),
            Macro::Size => message.size_as_sent().to_string(),
            Macro::Sender => sender(self.spec, &message.sender),
            Macro::Recipient => self.address(&recipient.address),
            Macro::OriginalRecipient => self.address(&recipient.original),
            Macro::Domain => self.domain(
                recipient
                    .address
                    .rsplit_once('@')
                    .map_or("", |(_, domain)| domain),
            ),
            Macro::Mailbox => self.local(local_part(&recipient.address)),
            Macro::User => {
                let local = local_part(&recipient.address);
                self.local(self.extensions.split(local).map_or(local, |(user, _)| user))
            }
            Macro::Extension => {
                let split = self.extensions.split(local_part(&recipient.address));
                let extension = split.map_or("", |(_, extension)| extension);
                // Without its delimiter, which is one character.
                self.local(
                    extension
                        .char_indices()
                        .nth(1)
                        .map_or("", |(at, _)| &extension[at..]),
                )
            }
        }
    }

    fn address(&self, address: &str) -> String {
        let folded = match address.rsplit_once('@') {
            Some((local, domain)) => format!("{}@{}", self.local(local), self.domain(domain)),
            None => self.local(address),
        };
        match self.spec.flags.quote && !folded.is_empty() {
            true => quote_local(&folded),
            false => folded,
        }
    }

    fn local(&self, local: &str) -> String {
        if self.spec.flags.fold_local {
            mail::fold(local).into_owned()
        } else {
            local.to_owned()
        }
    }

    fn domain(&self, domain: &str) -> String {
        if self.spec.flags.fold_domain {
            mail::fold(domain).into_owned()
        } else {
            domain.to_owned()
        }
    }
}

fn local_part(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(local, _)| local)
}

fn sender(spec: &Spec, sender: &str) -> String {
    let text = if sender.is_empty() {
        &spec.null_sender
    } else {
        sender
    };
    match spec.flags.quote && !text.is_empty() {
        true => quote_local(text),
        false => text.to_owned(),
    }
}
