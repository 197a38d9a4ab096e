//! Tables that another program answers, over its own protocol: `socketmap:`, `tcp:`, `memcache:`. What they have in
//! common is here: where the server is, and a bounded number of connections that are kept for a while.

pub(crate) mod memcache;
pub(crate) mod socketmap;
pub(crate) mod tcp;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::error::os_text;

/// A connection that has rested for so long is not used again; Postfix's socketmap client has the same limits.
const IDLE: Duration = Duration::from_secs(10);
/// A connection that is so old is not used again, so that a server behind a load balancer gets its share.
const AGE: Duration = Duration::from_secs(100);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    Inet {
        host: String,
        port: u16,
    },
    /// As it was named, and where that is.
    Unix {
        shown: String,
        path: PathBuf,
    },
}

impl Endpoint {
    /// Reads `inet:host:port`, `unix:path`. A path that is not absolute is below `queue`, where Postfix's
    /// programs run. The error is in Postfix's words.
    pub fn parse(text: &str, queue: &Path) -> Result<Endpoint, String> {
        let Some((transport, place)) = text.split_once(':') else {
            return Err(format!(
                "need service transport:endpoint instead of \"{text}\""
            ));
        };
        match transport {
            "inet" => Endpoint::inet(place),
            "unix" => Ok(Endpoint::Unix {
                shown: place.to_string(),
                path: queue.join(place),
            }),
            _ => Err(format!(
                "invalid transport name: {transport} in service: {text}"
            )),
        }
    }

    /// Reads `host:port`; without a host it is this machine.
    pub fn inet(text: &str) -> Result<Endpoint, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match inner {
            Some(host) => host,
            None if host.contains(':') => {
                return Err(format!(
                    "{text}: valid hostname or network address required"
                ));
            }
            None => host,
        };
        let Some(port) = port_number(port) else {
            return Err(match port.starts_with(|c: char| c.is_ascii_digit()) {
                true => format!("{text}: garbage after numerical service"),
                false => format!("{text}: unknown service: {port}"),
            });
        };
        let host = match host {
            "" => "localhost",
            host => host,
        };
        Ok(Endpoint::Inet {
            host: host.to_string(),
            port,
        })
    }

    async fn connect(&self) -> io::Result<Box<dyn Duplex>> {
        Ok(match self {
            Endpoint::Inet { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // One small request at a time: waiting for more to send only costs time.
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Endpoint::Unix { path, .. } => Box::new(UnixStream::connect(path).await?),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Inet { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Inet { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix { shown, .. } => f.write_str(shown),
        }
    }
}

/// A number, or a name in /etc/services.
fn port_number(text: &str) -> Option<u16> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return text.parse().ok();
    }
    let services = std::fs::read_to_string("/etc/services").ok()?;
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (name, port) = (words.next()?, words.next()?.strip_suffix("/tcp")?);
        let named = name == text || words.any(|alias| alias == text);
        named.then(|| port.parse().ok()).flatten()
    })
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Why there was no reply.
#[derive(Debug)]
pub(crate) enum Trouble {
    Connect(io::Error),
    /// The connection broke.
    Broken(io::Error),
    /// The server closed the connection before its reply was complete.
    Closed,
    Timeout,
    /// The reply is none; the text is for the log.
    Format(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Connect(error) | Trouble::Broken(error) => f.write_str(&os_text(error)),
            Trouble::Closed => f.write_str("unexpected disconnect"),
            Trouble::Timeout => f.write_str("time limit exceeded"),
            Trouble::Format(text) => f.write_str(text),
        }
    }
}

/// Takes bytes until a reply is complete; `None` when more are needed. An error is a text for the log.
pub(crate) trait Decoder {
    type Reply;
    fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Self::Reply>, String>;
}

/// The connections to one server.
pub(crate) struct Links {
    endpoint: Endpoint,
    timeout: Duration,
    /// As many may be in use at a time; those who come later wait their turn.
    slots: Semaphore,
    resting: Mutex<Vec<Link>>,
}

struct Link {
    stream: Box<dyn Duplex>,
    born: Instant,
    rested: Instant,
}

impl Links {
    /// No connection is made yet. `timeout` is for a whole exchange, connecting included.
    pub fn new(endpoint: Endpoint, connections: usize, timeout: Duration) -> Links {
        Links {
            endpoint,
            timeout,
            slots: Semaphore::new(connections.max(1)),
            resting: Mutex::default(),
        }
    }

    /// Where the server is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a request and reads its reply. A connection that breaks is replaced once: the server may have been
    /// started anew since it was last used.
    pub async fn exchange<D: Decoder>(
        &self,
        request: &[u8],
        decoder: impl Fn() -> D,
    ) -> Result<D::Reply, Trouble> {
        let end = Instant::now() + self.timeout;
        let slot = timeout_at(end, self.slots.acquire());
        // The semaphore is never closed; should it be, that too is a wait that came to nothing.
        let Ok(Ok(_slot)) = slot.await else {
            return Err(Trouble::Timeout);
        };
        let first = self.attempt(request, decoder(), self.rested(), end).await;
        match first {
            Err(Trouble::Broken(_) | Trouble::Closed) => {
                self.resting().clear();
                self.attempt(request, decoder(), None, end).await
            }
            outcome => outcome,
        }
    }

    async fn attempt<D: Decoder>(
        &self,
        request: &[u8],
        decoder: D,
        link: Option<Link>,
        end: Instant,
    ) -> Result<D::Reply, Trouble> {
        let work = async {
            let mut link = match link {
                Some(link) => link,
                None => self.connected().await?,
            };
            let reply = converse(&mut *link.stream, request, decoder).await?;
            link.rested = Instant::now();
            self.resting().push(link);
            Ok(reply)
        };
        timeout_at(end, work).await.unwrap_or(Err(Trouble::Timeout))
    }

    async fn connected(&self) -> Result<Link, Trouble> {
        let stream = self.endpoint.connect().await.map_err(Trouble::Connect)?;
        let now = Instant::now();
        Ok(Link {
            stream,
            born: now,
            rested: now,
        })
    }

    /// A connection that has not rested too long; the others are closed.
    fn rested(&self) -> Option<Link> {
        let mut resting = self.resting();
        resting.retain(|link| link.rested.elapsed() < IDLE && link.born.elapsed() < AGE);
        resting.pop()
    }

    fn resting(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn converse<D: Decoder>(
    stream: &mut dyn Duplex,
    request: &[u8],
    mut decoder: D,
) -> Result<D::Reply, Trouble> {
    stream.write_all(request).await.map_err(Trouble::Broken)?;
    let mut buffer = [0; 4096];
    loop {
        let size = stream.read(&mut buffer).await.map_err(Trouble::Broken)?;
        if size == 0 {
            return Err(Trouble::Closed);
        }
        let mut input = &buffer[..size];
        if let Some(reply) = decoder.feed(&mut input).map_err(Trouble::Format)? {
            // Nothing was asked that this could be the answer to: the next reply would be for the wrong key.
            return match input.is_empty() {
                true => Ok(reply),
                false => Err(Trouble::Format("more than one reply".to_string())),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let queue = Path::new("/spool");
        let inet = |host: &str, port| {
            Ok(Endpoint::Inet {
                host: host.to_string(),
                port,
            })
        };
        for (text, expected) in [
            ("inet:h.example:25", inet("h.example", 25)),
            ("inet:[::1]:25", inet("::1", 25)),
            ("inet::25", inet("localhost", 25)),
            ("inet:25", inet("localhost", 25)),
            ("inet:h:smtp", inet("h", 25)),
            (
                "inet:25x",
                Err("25x: garbage after numerical service".to_string()),
            ),
            (
                "foo:x",
                Err("invalid transport name: foo in service: foo:x".to_string()),
            ),
            (
                "x",
                Err("need service transport:endpoint instead of \"x\"".to_string()),
            ),
        ] {
            assert_eq!(Endpoint::parse(text, queue), expected, "{text}");
        }
        let Ok(Endpoint::Unix { path, .. }) = Endpoint::parse("unix:private/x", queue) else {
            panic!("a socket");
        };
        assert_eq!(path, Path::new("/spool/private/x"));
    }
}
