//! The nexthop of an smtp or lmtp transport.

use smtp::Protocol;

/// A destination as the nexthop names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// `[host]:port`, `example.org`, …: what tables know it by.
    pub name: String,
    /// An error is a text for the log line.
    pub destination: Result<Destination, String>,
}

/// One destination of a nexthop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `unix:path`.
    Unix(String),
    Host {
        name: String,
        port: u16,
        /// Ask for the name's MX records. Not with `[name]`, and never in LMTP.
        mx: bool,
    },
}

impl Destination {
    /// Reads `unix:path`, `inet:host:port`, `host`, `host:port`, `[host]`, `[host]:port`; several with
    /// commas or blanks between.
    pub fn parse_list(nexthop: &str, protocol: Protocol, default_port: u16) -> Vec<Hop> {
        let words = nexthop
            .split([',', ' ', '\t'])
            .filter(|word| !word.is_empty());
        let mut list: Vec<_> = words
            .map(|word| Hop {
                name: word.to_owned(),
                destination: parse(word, protocol, default_port),
            })
            .collect();
        if list.is_empty() {
            list.push(Hop {
                name: String::new(),
                destination: Err("empty next-hop destination".to_owned()),
            });
        }
        list
    }
}

fn parse(word: &str, protocol: Protocol, default_port: u16) -> Result<Destination, String> {
    if protocol == Protocol::Lmtp
        && let Some(path) = word.strip_prefix("unix:")
    {
        return Ok(Destination::Unix(path.to_owned()));
    }
    let text = match protocol {
        Protocol::Lmtp => word.strip_prefix("inet:").unwrap_or(word),
        Protocol::Smtp => word,
    };
    let bad = || format!("bad next-hop destination: {word}");
    let (name, port, bracketed) = match text.strip_prefix('[') {
        Some(inside) => {
            let (name, rest) = inside.split_once(']').ok_or_else(bad)?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err(bad()),
            };
            (name, port, true)
        }
        None => match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port), false),
            None => (text, None, false),
        },
    };
    let port = match port {
        Some(port) => port_number(port).ok_or_else(bad)?,
        None => default_port,
    };
    if name.is_empty() {
        return Err(bad());
    }
    let name = name
        .strip_prefix("IPv6:")
        .or_else(|| name.strip_prefix("ipv6:"))
        .unwrap_or(name);
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    let mx = protocol == Protocol::Smtp && !bracketed && !is_address;
    Ok(Destination::Host {
        name: name.to_owned(),
        port,
        mx,
    })
}

/// A number, or one of the services that mail uses.
fn port_number(text: &str) -> Option<u16> {
    match text {
        "smtp" => Some(25),
        "lmtp" => Some(24),
        "submission" => Some(587),
        "submissions" | "smtps" => Some(465),
        number => number.parse().ok().filter(|&port| port > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let host = |name: &str, port, mx| {
            Some(Destination::Host {
                name: name.into(),
                port,
                mx,
            })
        };
        let unix = |path: &str| Some(Destination::Unix(path.into()));
        for (text, protocol, expected) in [
            ("unix:private/x", Protocol::Lmtp, unix("private/x")),
            ("inet:h:24", Protocol::Lmtp, host("h", 24, false)),
            ("h", Protocol::Lmtp, host("h", 99, false)),
            ("inet:[::1]:2003", Protocol::Lmtp, host("::1", 2003, false)),
            ("h.example", Protocol::Smtp, host("h.example", 99, true)),
            (
                "h.example:587",
                Protocol::Smtp,
                host("h.example", 587, true),
            ),
            ("[h.example]", Protocol::Smtp, host("h.example", 99, false)),
            (
                "[h.example]:submission",
                Protocol::Smtp,
                host("h.example", 587, false),
            ),
            ("[IPv6:::1]:25", Protocol::Smtp, host("::1", 25, false)),
            ("127.0.0.1:25", Protocol::Smtp, host("127.0.0.1", 25, false)),
            ("h:0", Protocol::Smtp, None),
            ("[h", Protocol::Smtp, None),
            ("[h]x", Protocol::Smtp, None),
            ("", Protocol::Smtp, None),
            (":25", Protocol::Smtp, None),
        ] {
            let mut list = Destination::parse_list(text, protocol, 99);
            assert_eq!(list.remove(0).destination.ok(), expected, "{text}");
        }
        assert_eq!(
            Destination::parse_list("[a], [b]", Protocol::Smtp, 25).len(),
            2
        );
    }
}
