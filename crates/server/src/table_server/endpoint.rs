//! Where the table server listens: `unix:private/postroom`, `inet:127.0.0.1:10300` for socketmap,
//! `tcp:127.0.0.1:10301:NAME` for tcp_table(5), whose requests have no place for a name.

use std::fmt;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError};
use tables::split_specs;

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub protocol: Protocol,
    pub place: Place,
}

/// What is spoken there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Protocol {
    Socketmap,
    /// tcp_table(5), about what is served under this name.
    TcpTable(String),
}

/// A socket's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// An absolute path.
    Unix(PathBuf),
    /// Host and port.
    Inet(String, u16),
}

impl Endpoint {
    /// Reads a list of listeners. A relative path is below `queue_directory`, where Postfix' own
    /// relative paths begin.
    pub fn list(text: &str, config: &Config) -> Result<Vec<Endpoint>, ConfigError> {
        let queue = PathBuf::from(config.string("queue_directory")?);
        let read = |item: &String| {
            Endpoint::parse(item, &queue).ok_or_else(|| {
                ConfigError::new(
                    format!("{item:?} is no place to listen"),
                    "write unix:PATH, inet:HOST:PORT, or tcp:HOST:PORT:NAME",
                )
                .at(config.origin("postroom_tables_listen"))
                .parameter("postroom_tables_listen")
            })
        };
        split_specs(text).iter().map(read).collect()
    }

    fn parse(text: &str, queue: &Path) -> Option<Endpoint> {
        let (kind, rest) = text.split_once(':')?;
        let (protocol, place) = match kind {
            "unix" if !rest.is_empty() => (Protocol::Socketmap, Place::Unix(queue.join(rest))),
            "inet" => (Protocol::Socketmap, Place::inet(rest)?),
            "tcp" => {
                let (address, name) = rest.rsplit_once(':')?;
                let name = (!name.is_empty()).then(|| name.to_owned())?;
                (Protocol::TcpTable(name), Place::inet(address)?)
            }
            _ => return None,
        };
        Some(Endpoint { protocol, place })
    }

    /// How Postfix names a table here: the name's last part of `socketmap:…:NAME`, or the whole
    /// `tcp:HOST:PORT`. A path below the queue's folder stands relative to it, for chrooted services.
    pub fn table_type(&self, queue: &Path) -> String {
        let kind = match self.protocol {
            Protocol::Socketmap => "socketmap:",
            Protocol::TcpTable(_) => "tcp:",
        };
        match &self.place {
            Place::Unix(path) => {
                let path = path.strip_prefix(queue).unwrap_or(path);
                format!("{kind}unix:{}", path.display())
            }
            Place::Inet(host, port) if kind == "tcp:" => format!("{kind}{host}:{port}"),
            Place::Inet(host, port) => format!("{kind}inet:{host}:{port}"),
        }
    }
}

impl Place {
    pub(crate) fn inet(text: &str) -> Option<Place> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        (!host.is_empty()).then(|| Place::Inet(host.to_owned(), port))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
            Place::Inet(host, port) => write!(f, "inet:{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let queue = Path::new("/var/spool/postfix");
        let inet = |host: &str, port| Place::Inet(host.to_owned(), port);
        for (text, expected, table_type) in [
            (
                "unix:private/postroom",
                Some((
                    Protocol::Socketmap,
                    Place::Unix("/var/spool/postfix/private/postroom".into()),
                )),
                "socketmap:unix:private/postroom",
            ),
            (
                "unix:/run/x",
                Some((Protocol::Socketmap, Place::Unix("/run/x".into()))),
                "socketmap:unix:/run/x",
            ),
            (
                "inet:127.0.0.1:10300",
                Some((Protocol::Socketmap, inet("127.0.0.1", 10300))),
                "socketmap:inet:127.0.0.1:10300",
            ),
            (
                "inet:[::1]:1",
                Some((Protocol::Socketmap, inet("[::1]", 1))),
                "socketmap:inet:[::1]:1",
            ),
            (
                "tcp:localhost:2:x",
                Some((Protocol::TcpTable("x".into()), inet("localhost", 2))),
                "tcp:localhost:2",
            ),
            ("unix:", None, ""),
            ("inet:10300", None, ""),
            ("inet::1", None, ""),
            ("inet:h:99999", None, ""),
            ("tcp:127.0.0.1:1", None, ""),
            ("10300", None, ""),
        ] {
            let expected = expected.map(|(protocol, place)| Endpoint { protocol, place });
            let endpoint = Endpoint::parse(text, queue);
            assert_eq!(endpoint, expected, "{text}");
            if let Some(endpoint) = endpoint {
                assert_eq!(endpoint.table_type(queue), table_type);
            }
        }
    }
}
