//! XCLIENT: a trusted host says whom it speaks for, and from then on the session is that client's. Postfix's
//! XCLIENT_README describes it; also how tests play any client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::session::{Pending, Session, printable};
use super::{Helo, NameStatus, Peer, Question};
use crate::{Reply, reply, xtext};

/// What EHLO offers.
pub(super) const ATTRIBUTES: &str =
    "NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT";

/// The longest value that is believed.
const MAX_VALUE: usize = 255;

/// What the attributes of one command say.
#[derive(Default)]
struct Changes {
    name: Option<(String, NameStatus)>,
    reverse_name: Option<(String, NameStatus)>,
    address: Option<IpAddr>,
    port: Option<u16>,
    helo: Option<String>,
    extended: bool,
    login: Option<String>,
}

/// A decoded value.
pub(super) enum Value {
    Unavailable,
    /// `[TEMPUNAVAIL]`: not known now.
    NotNow,
    Known(String),
}

impl Session {
    pub(super) fn xclient(&mut self, rest: &str) {
        if self.transaction.is_some() {
            return self.refuse(&reply::AUTH_IN_TRANSACTION);
        }
        if rest.is_empty() {
            return self.refuse(&reply::XCLIENT_SYNTAX);
        }
        if !self.privileges.xclient {
            return self.refuse(&reply::NOT_AUTHORIZED);
        }
        match self.read_xclient(rest) {
            Ok(changes) => self.become_another(changes),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn read_xclient(&self, rest: &str) -> Result<Changes, Reply> {
        let mut changes = Changes::default();
        for (name, value) in attributes(rest) {
            let (name, value) = split(name, value)?;
            let read = decode(value).and_then(|value| self.take(&mut changes, &name, value));
            match read {
                Some(true) => {}
                Some(false) => {
                    return Err(reply::bad_attribute("XCLIENT", &printable(name.as_bytes())));
                }
                None => return Err(reply::bad_value(&name, &printable(value.as_bytes()))),
            }
        }
        Ok(changes)
    }

    /// Takes an attribute over. `None`: the value is nonsense; `false`: the attribute is unknown.
    fn take(&self, changes: &mut Changes, name: &str, value: Value) -> Option<bool> {
        match name {
            "NAME" => changes.name = Some(host_name(value)?),
            "REVERSE_NAME" => changes.reverse_name = Some(host_name(value)?),
            "ADDR" => changes.address = Some(address(value, self.settings.ipv6)?),
            "PORT" => changes.port = Some(port(value)?),
            "HELO" => changes.helo = known(value),
            "PROTO" => match known(value) {
                Some(text) if text.eq_ignore_ascii_case("ESMTP") => changes.extended = true,
                Some(text) if text.eq_ignore_ascii_case("SMTP") => changes.extended = false,
                Some(_) => return None,
                None => {}
            },
            "LOGIN" => changes.login = known(value),
            "DESTADDR" => drop(address(value, self.settings.ipv6)?),
            "DESTPORT" => drop(port(value)?),
            _ => return Some(false),
        }
        Some(true)
    }

    /// The session begins anew, with the greeting, as that of the other client.
    fn become_another(&mut self, changes: Changes) {
        let peer = &mut self.peer;
        if let Some((name, status)) = changes.name {
            (peer.name, peer.name_status) = (name, status);
            if changes.reverse_name.is_none() {
                (peer.reverse_name, peer.reverse_status) = (peer.name.clone(), status);
            }
        }
        if let Some((name, status)) = changes.reverse_name {
            (peer.reverse_name, peer.reverse_status) = (name, status);
        }
        if let Some(address) = changes.address {
            peer.address = address;
        }
        if let Some(port) = changes.port {
            peer.port = port;
        }
        let extended = changes.extended;
        self.helo = changes.helo.map(|name| Helo { name, extended });
        self.forwarded = None;
        self.authenticated = false;
        self.mechanisms.clear();
        let login = changes.login;
        self.ask(Question::Xclient { login }, Pending::Connect);
    }
}

/// `NAME=value` and what is none.
pub(super) fn attributes(rest: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let words = rest.split([' ', '\t']).filter(|word| !word.is_empty());
    words.map(|word| match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    })
}

/// The name in capitals and the value, which must not be empty.
pub(super) fn split<'a>(name: &str, value: Option<&'a str>) -> Result<(String, &'a str), Reply> {
    match value {
        Some(value) if !value.is_empty() => Ok((name.to_ascii_uppercase(), value)),
        _ => Err(reply::ATTRIBUTE_EXPECTED),
    }
}

/// Undoes xtext. `None` where that is not possible.
pub(super) fn decode(value: &str) -> Option<Value> {
    if value.eq_ignore_ascii_case("[UNAVAILABLE]") {
        return Some(Value::Unavailable);
    }
    if value.eq_ignore_ascii_case("[TEMPUNAVAIL]") {
        return Some(Value::NotNow);
    }
    let text = xtext::decode(value)?;
    (text.len() <= MAX_VALUE).then(|| Value::Known(printable(text.as_bytes())))
}

pub(super) fn known(value: Value) -> Option<String> {
    match value {
        Value::Known(text) => Some(text),
        Value::Unavailable | Value::NotNow => None,
    }
}

fn host_name(value: Value) -> Option<(String, NameStatus)> {
    match value {
        Value::Unavailable => Some((Peer::UNKNOWN.to_owned(), NameStatus::None)),
        Value::NotNow => Some((Peer::UNKNOWN.to_owned(), NameStatus::NotNow)),
        Value::Known(name) if mail::host::is_valid_name(&name) => Some((name, NameStatus::Known)),
        Value::Known(_) => None,
    }
}

/// `192.0.2.1` or `IPv6:2001:db8::1`; an address that is not available is the unspecified one.
pub(super) fn address(value: Value, ipv6: bool) -> Option<IpAddr> {
    let Value::Known(text) = value else {
        return Some(Ipv4Addr::UNSPECIFIED.into());
    };
    match text.get(..5) {
        Some(prefix) if prefix.eq_ignore_ascii_case("IPv6:") => {
            let address: Ipv6Addr = text[5..].parse().ok()?;
            ipv6.then(|| IpAddr::from(address).to_canonical())
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    }
}

/// Digits; 0 stands for a port that is not known, or is none.
pub(super) fn port(value: Value) -> Option<u16> {
    match value {
        Value::Known(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(text.parse().unwrap_or(0))
        }
        Value::Known(_) => None,
        Value::Unavailable | Value::NotNow => Some(0),
    }
}
