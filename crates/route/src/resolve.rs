//! From an address to its class, its final form and its route (trivial-rewrite(8)).

use mail::address::quote_local;
use mail::token::{Token, internal, scan};
use serde::Serialize;

use crate::Router;
use crate::find::Forms;
use crate::rewrite::{last_position, position, strip_trailing_dot};
use crate::transport::Route;
use crate::walk::{Failure, Walk};

/// The class of an address's domain (ADDRESS_CLASS_README).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// `mydestination`, or an address literal of this machine.
    Local,
    /// `virtual_alias_domains`: addresses that are aliases or nothing.
    VirtualAlias,
    /// `virtual_mailbox_domains`.
    VirtualMailbox,
    /// `relay_domains`.
    Relay,
    /// Everybody else's.
    Default,
}

impl Class {
    /// Mail for the domain is accepted from strangers.
    pub fn is_ours(self) -> bool {
        self != Class::Default
    }

    /// The words that people know the class by.
    pub fn name(self) -> &'static str {
        match self {
            Class::Local => "local",
            Class::VirtualAlias => "virtual alias domain",
            Class::VirtualMailbox => "virtual mailbox domain",
            Class::Relay => "relay domain",
            Class::Default => "not a domain of ours",
        }
    }
}

/// Where an address leads if no alias changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// The recipient for the delivery agent, always with a domain, in internal form.
    pub recipient: String,
    pub class: Class,
    #[serde(flatten)]
    pub route: Route,
    /// The local part has a routing operator (`@`, `%`, `!`): where the mail would end is uncertain.
    pub routed: bool,
    /// The address cannot be delivered: what follows `@` is neither a host's name nor a literal.
    pub malformed: bool,
}

impl Resolved {
    /// What follows the last `@`.
    pub fn domain(&self) -> &str {
        mail::address::domain(&self.recipient).unwrap_or_default()
    }
}

impl Router {
    /// Resolves an address in internal form.
    pub async fn resolve(&self, walk: &mut Walk, address: &str) -> Result<Resolved, Failure> {
        let (recipient, is_local) = self.strip_local_domains(walk, address).await?;
        let domain = mail::address::domain(&recipient)
            .unwrap_or_default()
            .to_owned();
        let malformed = !mail::host::is_valid_domain(&domain)
            || (recipient.starts_with('-') && !self.allow_leading_dash);
        let first_operator = recipient
            .find(['@', '!', '%'])
            .map_or("", |at| &recipient[at + 1..]);
        let routed = first_operator != domain;
        let class = match is_local {
            true => Class::Local,
            false => self.class_of(walk, &domain).await?,
        };
        let mut route = self.default_route(class, &domain);
        if class != Class::VirtualAlias {
            route = self
                .apply_transport_maps(walk, &recipient, &domain, route)
                .await?;
        }
        if let Some(moved) = self.moved_to(walk, &recipient).await? {
            route = Route {
                transport: "error".into(),
                nexthop: format!("5.1.6 User has moved to {moved}"),
            };
        }
        Ok(Resolved {
            recipient,
            class,
            route,
            routed,
            malformed,
        })
    }

    /// Whether an address could never be delivered, whatever its class: asks no table but
    /// `mydestination`'s.
    pub async fn is_malformed(&self, walk: &mut Walk, address: &str) -> Result<bool, Failure> {
        let (recipient, _) = self.strip_local_domains(walk, address).await?;
        Ok(self.is_undeliverable(&recipient))
    }

    fn is_undeliverable(&self, recipient: &str) -> bool {
        let domain = mail::address::domain(recipient).unwrap_or_default();
        !mail::host::is_valid_domain(domain)
            || (recipient.starts_with('-') && !self.allow_leading_dash)
    }

    /// `relocated_maps`.
    async fn moved_to(&self, walk: &mut Walk, recipient: &str) -> Result<Option<String>, Failure> {
        let maps = &self.relocated_maps;
        let found = self
            .find_address(walk, "relocated_maps", maps, recipient, Forms::All)
            .await?;
        Ok(found.map(|found| found.value))
    }

    /// The class of a domain that is not local.
    async fn class_of(&self, walk: &mut Walk, domain: &str) -> Result<Class, Failure> {
        if !walk.is_traced()
            && let Some(class) = self.remembered_class(walk, domain)
        {
            return Ok(class);
        }
        let class = if self.virtual_alias_domains.has(walk, domain).await? {
            Class::VirtualAlias
        } else if self.virtual_mailbox_domains.has(walk, domain).await? {
            Class::VirtualMailbox
        } else if self.relay_domains.has(walk, domain).await? {
            Class::Relay
        } else {
            return Ok(Class::Default);
        };
        self.remember_class(walk, domain, class);
        Ok(class)
    }

    fn remembered_class(&self, walk: &Walk, domain: &str) -> Option<Class> {
        let classes = self
            .classes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let (class, at) = classes.get(domain)?;
        (walk.now().saturating_duration_since(*at) < self.class_ttl).then_some(*class)
    }

    /// Remembers classes that are ours, never "not ours": a domain that is added counts at once.
    fn remember_class(&self, walk: &Walk, domain: &str, class: Class) {
        if self.class_ttl.is_zero() {
            return;
        }
        let mut classes = self
            .classes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if classes.len() >= 10_000 {
            classes.clear();
        }
        classes.insert(domain.to_owned(), (class, walk.now()));
    }

    /// Strips local domains off the address and follows the routing operators that appear, until
    /// a domain remains that is not local, or nothing is left to strip.
    async fn strip_local_domains(
        &self,
        walk: &mut Walk,
        address: &str,
    ) -> Result<(String, bool), Failure> {
        let mut tokens = scan(&quote_local(address));
        let mut local_domain: Vec<Token> = Vec::new();
        // Each round shortens the address; the bound is a belt to that brace.
        for _ in 0..address.len() + 100 {
            strip_trailing_dot(&mut tokens);
            if self.rewriter.resolve_null_domain && tokens.last().is_some_and(|t| t.is_op('@')) {
                tokens.pop();
            }
            if let Some(at) = last_position(&tokens, '@') {
                let domain = internal(&tokens[at + 1..]);
                if domain.is_empty() || !self.is_local(walk, &domain).await? {
                    return Ok((internal(&tokens), false));
                }
                local_domain = tokens.split_off(at);
            }
            let has = |op| position(&tokens, op).is_some();
            let rules = &self.rewriter;
            if has('@') || (rules.swap_bangpath && has('!')) || (rules.percent_hack && has('%')) {
                tokens = rules.canonical_tokens(tokens);
                continue;
            }
            match self.open_quotes(&tokens) {
                Some(opened) => tokens = self.rewriter.canonical_tokens(opened),
                None => break,
            }
        }
        if matches!(tokens.as_slice(), [] | [Token::Quoted(_)]) && internal(&tokens).is_empty() {
            tokens = vec![Token::Atom("MAILER-DAEMON".into())];
        }
        if local_domain.is_empty() {
            tokens.push(Token::Op('@'));
            tokens.extend(scan(&self.myhostname));
        } else {
            tokens.append(&mut local_domain);
        }
        Ok((internal(&tokens), true))
    }

    /// A local part that is one quoted string with a routing operator inside is taken apart, so
    /// that quotes are no way to relay.
    fn open_quotes(&self, tokens: &[Token]) -> Option<Vec<Token>> {
        let [Token::Quoted(text)] = tokens else {
            return None;
        };
        if !self.rewriter.resolve_dequoted {
            return None;
        }
        if let Some(at) = text.rfind('@') {
            return Some(scan(&quote_local(&format!(
                "{}@{}",
                &text[..at],
                &text[at + 1..]
            ))));
        }
        if self.rewriter.percent_hack
            && let Some(at) = text.rfind('%')
        {
            return Some(scan(&quote_local(&format!(
                "{}@{}",
                &text[..at],
                &text[at + 1..]
            ))));
        }
        let bang = self
            .rewriter
            .swap_bangpath
            .then(|| text.find('!'))
            .flatten()?;
        let user = &text[bang + 1..];
        Some(scan(&quote_local(&format!("{user}@{}", &text[..bang]))))
    }
}
