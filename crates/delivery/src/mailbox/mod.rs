//! The virtual(8) agent: Maildir and mbox files of virtual mailboxes.
//!
//! The tables are asked first; then one blocking job writes to all mailboxes of the request with their
//! owners' rights.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use config::{Config, ConfigError};
use mail::address::{ExtensionRules, quote_local};
use mail::status::EnhancedCode;
use tables::{Answer, TableList, Tables};

use crate::content::Prepended;
use crate::request::{Message, Outcome, Rcpt, Request};

pub mod failure;
pub mod maildir;
pub mod mbox;
pub mod rights;

use failure::Failure;
use rights::Owner;

const PROG: &str = "virtual";
const DELIVERED: EnhancedCode = EnhancedCode::new(2, 0, 0);

/// The agent behind a `virtual` service.
#[derive(Clone)]
pub struct Virtual {
    /// `virtual_mailbox_base`.
    base: String,
    /// `postroom_virtual_mailbox_path`; empty: the table gives the path.
    template: String,
    mailboxes: TableList,
    uids: TableList,
    gids: TableList,
    minimum_uid: u32,
    extensions: ExtensionRules,
    /// `enable_original_recipient`.
    original_recipient: bool,
    hostname: String,
    rules: Arc<mbox::Rules>,
}

/// Where one recipient's copy goes.
#[derive(Clone, Debug, PartialEq)]
struct Plan {
    path: String,
    owner: Owner,
    head: Vec<u8>,
    name: String,
}

/// A table gave no usable answer; a warning says so. Postfix's words for the log line.
#[derive(Clone, Copy, Debug, PartialEq)]
struct BadConfiguration;

impl Virtual {
    /// Reads its parameters and opens its tables. A table that cannot be opened defers the mail that needs it.
    pub fn new(config: &Config, tables: &Tables) -> Result<Virtual, ConfigError> {
        let open = |name: &str| -> Result<TableList, ConfigError> {
            Ok(tables.open_list_lenient(&config.string(name)?))
        };
        Ok(Virtual {
            base: config.string("virtual_mailbox_base")?,
            template: config.string("postroom_virtual_mailbox_path")?,
            mailboxes: open("virtual_mailbox_maps")?,
            uids: open("virtual_uid_maps")?,
            gids: open("virtual_gid_maps")?,
            minimum_uid: u32::try_from(config.int("virtual_minimum_uid")?).unwrap_or(0),
            extensions: ExtensionRules {
                delimiters: config.string("recipient_delimiter")?,
                owner_request_special: config.bool("owner_request_special")?,
                double_bounce: config.string("double_bounce_sender")?,
            },
            original_recipient: config.bool("enable_original_recipient")?,
            hostname: config.string("myhostname")?,
            rules: Arc::new(mbox::Rules::read(
                config,
                "virtual_mailbox_lock",
                "virtual_mailbox_limit",
            )?),
        })
    }

    /// Delivers to every recipient of the request.
    pub async fn deliver(&self, request: &Request) -> Vec<Outcome> {
        let started = Instant::now();
        let mut plans = Vec::with_capacity(request.recipients.len());
        for recipient in &request.recipients {
            plans.push(self.plan(&request.message, recipient).await);
        }
        let message = Arc::clone(&request.message);
        let (rules, recovered) = (Arc::clone(&self.rules), request.recovered);
        let count = plans.len();
        let job = move || -> Vec<Outcome> {
            let write = |plan| match plan {
                Ok(plan) => write(&plan, &message, &rules, recovered),
                Err(outcome) => outcome,
            };
            plans
                .into_iter()
                .map(|plan| write(plan).via(PROG).after(started.elapsed()))
                .collect()
        };
        tokio::task::spawn_blocking(job)
            .await
            .unwrap_or_else(|stopped| {
                tracing::warn!(
                    prog = PROG,
                    "{}: delivery broke off: {stopped}",
                    request.message.id
                );
                let broken =
                    Outcome::deferred(PROG, EnhancedCode::new(4, 3, 0), "internal software error");
                vec![broken.via(PROG); count]
            })
    }

    async fn plan(&self, message: &Message, recipient: &Rcpt) -> Result<Plan, Outcome> {
        let configuration = |_| {
            Outcome::deferred(
                PROG,
                EnhancedCode::new(4, 3, 5),
                "mail system configuration error",
            )
        };
        let user = mail::fold(&recipient.address);
        let Some(path) = self.path(&user, recipient).await.map_err(configuration)? else {
            let text = format!("unknown user: \"{user}\"");
            return Err(Outcome::bounced(PROG, EnhancedCode::new(5, 1, 1), text));
        };
        let owner = self.owner(&user).await.map_err(configuration)?;
        let is_mbox = !path.ends_with('/');
        let head = Prepended {
            from_line: is_mbox.then(|| (message.sender.as_str(), SystemTime::now())),
            return_path: Some(&message.sender),
            original_to: Some(recipient.original.as_str()).filter(|_| self.original_recipient),
            delivered_to: Some(&recipient.address),
        };
        Ok(Plan {
            path,
            owner,
            head: head.to_bytes("\n"),
            name: maildir::file_name(message, recipient.index, &self.hostname),
        })
    }

    /// The mailbox's path; `None` when there is no such mailbox.
    async fn path(&self, user: &str, recipient: &Rcpt) -> Result<Option<String>, BadConfiguration> {
        if !self.base.starts_with('/') {
            let base = &self.base;
            tracing::warn!(
                prog = PROG,
                "do not specify relative pathname: virtual_mailbox_base = {base}"
            );
            return Err(BadConfiguration);
        }
        let stripped = self.extensions.strip(user);
        // With a template the name in the path depends on the key that was found, which a hint does not tell.
        let hint = recipient.mailbox_hint.as_ref();
        let (key_is_full, value) =
            match hint.filter(|_| self.template.is_empty() || stripped.is_none()) {
                Some(value) => (true, value.clone()),
                None => match self
                    .find(&self.mailboxes, "virtual_mailbox_maps", user)
                    .await?
                {
                    Some((full, value)) => (full, value),
                    None => return Ok(None),
                },
            };
        if value.is_empty() {
            tracing::warn!(
                prog = PROG,
                "recipient {user}: virtual_mailbox_maps gives an empty path"
            );
            return Err(BadConfiguration);
        }
        if self.template.is_empty() {
            return Ok(Some(format!("{}/{value}", self.base)));
        }
        let mailbox = match &stripped {
            Some((plain, _)) if !key_is_full => plain,
            _ => user,
        };
        let Some(path) = expand_template(&self.template, mailbox) else {
            tracing::warn!(
                prog = PROG,
                "recipient {user}: postroom_virtual_mailbox_path = {}: the address cannot be part of a path",
                self.template
            );
            return Err(BadConfiguration);
        };
        Ok(Some(format!("{}/{path}", self.base)))
    }

    async fn owner(&self, user: &str) -> Result<Owner, BadConfiguration> {
        let uid = self
            .id(
                &self.uids,
                "virtual_uid_maps",
                "uid",
                user,
                self.minimum_uid,
            )
            .await?;
        let gid = self
            .id(&self.gids, "virtual_gid_maps", "gid", user, 1)
            .await?;
        Ok(Owner { uid, gid })
    }

    async fn id(
        &self,
        list: &TableList,
        parameter: &str,
        kind: &str,
        user: &str,
        minimum: u32,
    ) -> Result<u32, BadConfiguration> {
        let Some((_, value)) = self.find(list, parameter, user).await? else {
            tracing::warn!(prog = PROG, "recipient {user}: not found in {parameter}");
            return Err(BadConfiguration);
        };
        match value.parse::<u32>() {
            Ok(id) if id >= minimum => Ok(id),
            _ => {
                tracing::warn!(
                    prog = PROG,
                    "recipient {user}: bad {kind} {value} in {parameter}"
                );
                Err(BadConfiguration)
            }
        }
    }

    /// virtual(8), TABLE SEARCH ORDER: the address, without its extension, its `@domain`. Tells whether
    /// the whole address was the key.
    async fn find(
        &self,
        list: &TableList,
        parameter: &str,
        user: &str,
    ) -> Result<Option<(bool, String)>, BadConfiguration> {
        let failed = |key: &str, error| {
            tracing::warn!(prog = PROG, "table {parameter}: lookup {key}: {error}");
            BadConfiguration
        };
        let stripped = self.extensions.strip(user).map(|(plain, _)| plain);
        for (full, address) in [(true, Some(user)), (false, stripped.as_deref())] {
            let Some(address) = address else { continue };
            let answer: Answer = lookup(list, address).await;
            if let Some(value) = answer.map_err(|error| failed(address, error))? {
                return Ok(Some((full, value)));
            }
        }
        let Some(at) = user.rfind('@') else {
            return Ok(None);
        };
        let answer = list.lookup(&user[at..]).await;
        Ok(answer
            .map_err(|error| failed(&user[at..], error))?
            .map(|value| (false, value)))
    }
}

/// Table keys are external addresses; a table that holds the internal form is understood too.
async fn lookup(list: &TableList, address: &str) -> Answer {
    let external = quote_local(address);
    let answer = list.lookup(&external).await?;
    if answer.is_some() || external == address {
        return Ok(answer);
    }
    list.lookup(address).await
}

fn write(plan: &Plan, message: &Message, rules: &mbox::Rules, recovered: bool) -> Outcome {
    let rights = match plan.owner.borrow() {
        Ok(rights) => rights,
        Err(text) => return Outcome::deferred(PROG, EnhancedCode::new(4, 3, 5), text),
    };
    let path = PathBuf::from(&plan.path);
    let (written, text) = if plan.path.ends_with('/') {
        let too_large = rules.limit > 0 && plan.head.len() as u64 + message.size() > rules.limit;
        let written = match too_large {
            true => Err(maildir_too_large()),
            false => maildir::deliver(&path, &plan.name, &plan.head, &message.content, recovered),
        };
        (written, "delivered to maildir")
    } else {
        let written = mbox::deliver(&path, plan.owner, &plan.head, &message.content, rules);
        (written, "delivered to mailbox")
    };
    drop(rights);
    match written {
        Ok(()) => Outcome::sent(PROG, DELIVERED, text),
        Err(failure) => {
            if plan.path.ends_with('/') && failure.text.ends_with("Permission denied") {
                warn_of_access(plan.owner, &failure);
            }
            Outcome::failed(PROG, failure.dsn, failure.text)
        }
    }
}

/// A message larger than a Maildir's limit.
pub(crate) fn maildir_too_large() -> Failure {
    let error = std::io::Error::from_raw_os_error(nix::libc::EFBIG);
    Failure::of_io("error writing message", &error).within("maildir delivery failed")
}

fn warn_of_access(owner: Owner, failure: &Failure) {
    let text = failure.text.trim_start_matches("maildir delivery failed: ");
    let Owner { uid, gid } = owner;
    tracing::warn!(
        prog = PROG,
        "maildir access problem for UID/GID={uid}/{gid}: {text}"
    );
    tracing::warn!(
        prog = PROG,
        "perhaps you need to create the maildirs in advance"
    );
}

/// `%d/%u/Maildir/` for `john@example.org` → `example.org/john/Maildir/`. `%s` is the whole address.
/// `None` when a part would lead to another folder, or the address has no domain for `%d`.
pub fn expand_template(template: &str, address: &str) -> Option<String> {
    let folded = mail::fold(address);
    let (user, domain) = match folded.rsplit_once('@') {
        Some((user, domain)) => (user, Some(domain)),
        None => (folded.as_ref(), None),
    };
    let mut path = String::with_capacity(template.len() + address.len());
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            path.push(c);
            continue;
        }
        let part = match chars.next() {
            Some('d') => domain?,
            Some('u') => user,
            Some('s') => folded.as_ref(),
            Some('%') => "%",
            _ => return None,
        };
        let leads_elsewhere =
            part.is_empty() || part.starts_with('.') || part.contains(['/', '\0']);
        if leads_elsewhere {
            return None;
        }
        path.push_str(part);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::expand_template;

    #[test]
    fn templates_never_lead_out_of_the_base() {
        for (template, address, expected) in [
            (
                "%d/%u/Maildir/",
                "John@Example.org",
                Some("example.org/john/Maildir/"),
            ),
            ("%s/", "john@example.org", Some("john@example.org/")),
            ("100%%/%u", "a@b", Some("100%/a")),
            ("%d/%u/", "../x@b", None),
            ("%d/%u/", "..@b", None),
            ("%d/%u/", "a/b@c", None),
            ("%d/%u/", "@c", None),
            ("%d/", "a", None),
            ("%x", "a@b", None),
        ] {
            assert_eq!(
                expand_template(template, address).as_deref(),
                expected,
                "{template} {address}"
            );
        }
    }
}
