//! access(5): how clients, names and addresses are looked up, and what the values mean.

use std::net::IpAddr;

use mail::EnhancedCode;
use mail::fold::fold;
use smtp::Reply;
use tables::{TableError, TableList};

use crate::reply;

/// What an access table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Ok,
    Dunno,
    Reject(Refused),
    Defer(Refused),
    DeferIfPermit(Refused),
    DeferIfReject(Refused),
    /// FILTER, `transport:nexthop`.
    Filter(String),
    Hold(String),
    Discard(String),
    Redirect(String),
    Bcc(String),
    Prepend(String),
    Warn(String),
    Info(String),
    /// Not an action: maybe a list of restrictions.
    Other(String),
}

/// A refusal before its standard codes are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub code: Option<u16>,
    pub enhanced: Option<EnhancedCode>,
    pub text: String,
}

impl Action {
    /// Reads a table's value.
    pub fn parse(value: &str) -> Action {
        let value = value.trim();
        let (verb, rest) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
        let rest = rest.trim();
        if verb.len() == 3
            && !rest.is_empty()
            && let Some(Reply {
                code: code @ 400..,
                enhanced,
                ..
            }) = Reply::parse(value)
        {
            // The class of an enhanced code need not be the reply's.
            let (enhanced, text) = match EnhancedCode::split_prefix(rest) {
                Some((given, text)) => (enhanced.or(Some(given)), text),
                None => (enhanced, rest),
            };
            let refused = Refused {
                code: Some(code),
                enhanced,
                text: text.to_owned(),
            };
            return if code < 500 {
                Action::Defer(refused)
            } else {
                Action::Reject(refused)
            };
        }
        // A number by itself permits: tables made for pop-before-smtp hold counters.
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Action::Ok;
        }
        let refused = || {
            let (enhanced, text) = match EnhancedCode::split_prefix(rest) {
                Some((code, text)) => (Some(code), text),
                None => (None, rest),
            };
            Refused {
                code: None,
                enhanced,
                text: text.to_owned(),
            }
        };
        match verb.to_ascii_uppercase().as_str() {
            "OK" | "RELAY" | "PERMIT" => Action::Ok,
            "DUNNO" => Action::Dunno,
            "REJECT" => Action::Reject(refused()),
            "DEFER" => Action::Defer(refused()),
            "DEFER_IF_PERMIT" => Action::DeferIfPermit(refused()),
            "DEFER_IF_REJECT" => Action::DeferIfReject(refused()),
            "FILTER" => Action::Filter(rest.into()),
            "HOLD" => Action::Hold(rest.into()),
            "DISCARD" => Action::Discard(rest.into()),
            "REDIRECT" => Action::Redirect(rest.into()),
            "BCC" => Action::Bcc(rest.into()),
            "PREPEND" => Action::Prepend(rest.into()),
            "WARN" => Action::Warn(rest.into()),
            "INFO" => Action::Info(rest.into()),
            _ => Action::Other(value.into()),
        }
    }
}

impl Action {
    /// The name of an action that is about the message and not about the command.
    pub fn of_the_message(&self) -> Option<&'static str> {
        Some(match self {
            Action::Filter(_) => "FILTER",
            Action::Hold(_) => "HOLD",
            Action::Discard(_) => "DISCARD",
            Action::Redirect(_) => "REDIRECT",
            Action::Bcc(_) => "BCC",
            Action::Prepend(_) => "PREPEND",
            _ => return None,
        })
    }
}

/// Whether the line begins as a header does: printable characters and a colon.
pub(crate) fn is_header(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default();
    name.len() < line.len() && !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())
}

/// An enhanced status code of a table that is used for all kinds of things, as it fits this one (RFC 3463 section 3.2).
pub(crate) fn fitting(code: EnhancedCode, what: &str) -> EnhancedCode {
    let (subject, detail) = match (what, code.subject, code.detail) {
        (reply::SENDER, 1, 1 | 3 | 4 | 6) => (1, 7),
        (reply::SENDER, 1, 2) => (1, 8),
        (reply::SENDER, 1, 5) => (1, 0),
        (reply::RECIPIENT, 1, 7) => (1, 3),
        (reply::RECIPIENT, 1, 8) => (1, 2),
        (reply::SENDER | reply::RECIPIENT, ..) => return code,
        (_, 1, 0..=8) => (0, 0),
        _ => return code,
    };
    EnhancedCode::new(code.class, subject, detail)
}

/// The keys for an address, most specific first.
pub(crate) fn network_keys(address: IpAddr) -> Vec<String> {
    let separator = if address.is_ipv4() { '.' } else { ':' };
    let mut key = address.to_string();
    let mut keys = vec![key.clone()];
    while let Some(cut) = key.rfind(separator) {
        key.truncate(cut);
        let bare = key.trim_end_matches(':');
        if !bare.is_empty() && keys.last().is_none_or(|last| last != bare) {
            keys.push(bare.to_owned());
        }
    }
    keys
}

/// The keys for a host or domain name: itself, then its parents, written as the list wants them.
pub(crate) fn domain_keys(name: &str, parents: bool) -> Vec<String> {
    let mut keys = vec![name.to_owned()];
    let mut rest = name;
    while let Some(dot) = rest.find('.') {
        let parent = &rest[dot + 1..];
        if parent.is_empty() {
            break;
        }
        keys.push(if parents {
            parent.to_owned()
        } else {
            rest[dot..].to_owned()
        });
        rest = parent;
    }
    keys
}

/// The keys for an e-mail address: whole, without extension, its domain and parents, `user@`.
pub(crate) fn address_keys(
    address: &str,
    extensions: &mail::address::ExtensionRules,
    parents: bool,
) -> Vec<String> {
    let mut keys = vec![address.to_owned()];
    let bare = extensions.strip(address).map(|(bare, _)| bare);
    keys.extend(bare.clone());
    let Some((local, domain)) = address.rsplit_once('@') else {
        return keys;
    };
    keys.extend(domain_keys(domain, parents));
    keys.push(format!("{local}@"));
    if let Some(bare) = bare
        && let Some((user, _)) = bare.rsplit_once('@')
    {
        keys.push(format!("{user}@"));
    }
    keys
}

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub text: String,
    /// The thing itself and not a part of it: tables of patterns are asked for nothing else.
    pub whole: bool,
}

impl Key {
    /// A name, and what stands for it in a table, from the most specific on.
    pub fn all(texts: Vec<String>) -> impl Iterator<Item = Key> {
        texts.into_iter().enumerate().map(|(index, text)| Key {
            text,
            whole: index == 0,
        })
    }
}

/// An entry of an access table.
pub(crate) struct Found {
    pub table: String,
    pub key: String,
    pub value: String,
}

/// The first entry that a table of the list has for one of the keys.
pub(crate) async fn find(list: &TableList, keys: &[Key]) -> Result<Option<Found>, TableError> {
    for Key { text: key, whole } in keys {
        for table in list.tables() {
            if !whole && table.is_pattern() {
                continue;
            }
            if let Some(value) = table.lookup(&fold(key)).await? {
                return Ok(Some(Found {
                    table: table.spec().to_owned(),
                    key: key.clone(),
                    value,
                }));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions() {
        let refused = |code, enhanced: Option<&str>, text: &str| Refused {
            code,
            enhanced: enhanced.map(|code| code.parse().expect("an enhanced code")),
            text: text.into(),
        };
        for (value, action) in [
            ("OK", Action::Ok),
            ("dunno", Action::Dunno),
            ("12345678", Action::Ok),
            (
                "REJECT go away",
                Action::Reject(refused(None, None, "go away")),
            ),
            (
                "REJECT 5.7.9 no",
                Action::Reject(refused(None, Some("5.7.9"), "no")),
            ),
            (
                "550 no such",
                Action::Reject(refused(Some(550), None, "no such")),
            ),
            (
                "450 4.2.0 later",
                Action::Defer(refused(Some(450), Some("4.2.0"), "later")),
            ),
            ("HOLD", Action::Hold(String::new())),
            (
                "reject_unlisted_recipient",
                Action::Other("reject_unlisted_recipient".into()),
            ),
        ] {
            assert_eq!(Action::parse(value), action, "{value}");
        }
    }

    #[test]
    fn keys() {
        let address = "192.0.2.1".parse().expect("an address");
        assert_eq!(
            network_keys(address),
            ["192.0.2.1", "192.0.2", "192.0", "192"]
        );
        assert_eq!(domain_keys("a.b.c", true), ["a.b.c", "b.c", "c"]);
        assert_eq!(domain_keys("a.b.c", false), ["a.b.c", ".b.c", ".c"]);
    }
}
