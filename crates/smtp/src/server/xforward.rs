//! XFORWARD: a trusted host, such as a content filter, says where the message came from. That changes what logs say of
//! it, and nothing that the message may do.

use super::session::{Session, printable};
use super::xclient::{Value, address, attributes, decode, known, port, split};
use crate::{Reply, reply};

/// What EHLO offers.
pub(super) const ATTRIBUTES: &str = "NAME ADDR PROTO HELO SOURCE PORT IDENT";

/// Where a message came from before it came through the host that sends XFORWARD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// NAME; `Some(None)`: not available.
    pub name: Option<Option<String>>,
    /// ADDR.
    pub address: Option<Option<String>>,
    /// PORT; 0 where it is not known.
    pub port: Option<u16>,
    /// PROTO.
    pub protocol: Option<String>,
    /// HELO.
    pub helo: Option<String>,
    /// IDENT: the queue id there.
    pub ident: Option<String>,
    /// SOURCE: it was submitted on that machine.
    pub local: Option<bool>,
}

impl Forwarded {
    /// `name[address]`, as far as they are known; `None` where neither was given.
    pub fn client(&self) -> Option<String> {
        if self.name.is_none() && self.address.is_none() {
            return None;
        }
        let name = self.name.as_ref().and_then(|name| name.as_deref());
        let name = name.unwrap_or("unknown");
        Some(
            match self.address.as_ref().and_then(|known| known.as_deref()) {
                Some(address) => format!("{name}[{address}]"),
                None => name.to_owned(),
            },
        )
    }
}

impl Session {
    pub(super) fn xforward(&mut self, rest: &str) {
        if self.transaction.is_some() {
            return self.refuse(&reply::AUTH_IN_TRANSACTION);
        }
        if rest.is_empty() {
            return self.refuse(&reply::XFORWARD_SYNTAX);
        }
        if !self.privileges.xforward {
            return self.refuse(&reply::NOT_AUTHORIZED);
        }
        let mut forwarded = self.forwarded.take().unwrap_or_default();
        let read = self.read_xforward(&mut forwarded, rest);
        self.forwarded = Some(forwarded);
        match read {
            Ok(()) => self.accept(&reply::OK),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn read_xforward(&self, forwarded: &mut Forwarded, rest: &str) -> Result<(), Reply> {
        for (name, value) in attributes(rest) {
            let (name, value) = split(name, value)?;
            let read = decode(value).and_then(|value| self.keep(forwarded, &name, value));
            match read {
                Some(true) => {}
                Some(false) => {
                    return Err(reply::bad_attribute(
                        "XFORWARD",
                        &printable(name.as_bytes()),
                    ));
                }
                None => return Err(reply::bad_value(&name, &shown(value))),
            }
        }
        Ok(())
    }

    /// `None`: the value is nonsense; `false`: the attribute is unknown.
    fn keep(&self, forwarded: &mut Forwarded, name: &str, value: Value) -> Option<bool> {
        match name {
            "NAME" => {
                let name = known(value);
                if let Some(name) = &name
                    && !mail::host::is_valid_name(name)
                {
                    return None;
                }
                forwarded.name = Some(name);
            }
            "ADDR" => {
                let address = address(value, self.settings.ipv6)?;
                let known = (!address.is_unspecified()).then(|| address.to_string());
                forwarded.address = Some(known);
            }
            "PORT" => forwarded.port = Some(port(value)?),
            "PROTO" => forwarded.protocol = known(value),
            "HELO" => forwarded.helo = known(value),
            "IDENT" => forwarded.ident = known(value),
            "SOURCE" => {
                forwarded.local = match known(value) {
                    Some(text) if text.eq_ignore_ascii_case("LOCAL") => Some(true),
                    Some(text) if text.eq_ignore_ascii_case("REMOTE") => Some(false),
                    Some(_) => return None,
                    None => None,
                }
            }
            _ => return Some(false),
        }
        Some(true)
    }

    /// What XFORWARD has said of the message that comes.
    pub fn forwarded(&self) -> Option<&Forwarded> {
        self.forwarded.as_ref()
    }
}

/// A value as a reply may show it: headers and logs know no comments in a name.
fn shown(value: &str) -> String {
    printable(value.as_bytes()).replace(|c| "<>()\\\";@".contains(c), "?")
}
