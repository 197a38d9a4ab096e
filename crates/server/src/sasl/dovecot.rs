//! The client side of Dovecot's authentication protocol, version 1: lines of fields between tabs.
//! Every step has a limit in time and size, whatever the server does.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

/// Where the server is: `smtpd_sasl_path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Inet(String),
}

impl Endpoint {
    /// `path`, `unix:path`, `inet:host:port`; a relative path lies below `queue_directory`.
    pub fn of(text: &str, queue_directory: &Path) -> Option<Endpoint> {
        if let Some(address) = text.strip_prefix("inet:") {
            let (host, port) = address.rsplit_once(':')?;
            let good = !host.is_empty() && port.parse::<u16>().is_ok();
            return good.then(|| Endpoint::Inet(address.to_owned()));
        }
        let path = text.strip_prefix("unix:").unwrap_or(text);
        (!path.is_empty()).then(|| Endpoint::Unix(queue_directory.join(path)))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
            Endpoint::Inet(address) => write!(f, "inet:{address}"),
        }
    }
}

/// The SMTP connection that the authentication is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    pub client: IpAddr,
    pub server: IpAddr,
    pub encrypted: bool,
}

/// A mechanism and its properties, as the server announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mechanism {
    pub name: String,
    properties: Vec<String>,
}

impl Mechanism {
    /// From the fields behind `MECH`.
    pub fn of(name: &str, properties: &str) -> Mechanism {
        Mechanism {
            name: name.to_owned(),
            properties: properties.split('\t').map(str::to_owned).collect(),
        }
    }

    /// What a server that cannot be asked most likely has.
    pub fn common() -> Vec<Mechanism> {
        ["PLAIN", "LOGIN"]
            .map(|name| Mechanism::of(name, "plaintext"))
            .to_vec()
    }

    pub fn has(&self, property: &str) -> bool {
        self.properties.iter().any(|own| own == property)
    }
}

/// The server's word on an authentication.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted {
        user: String,
    },
    /// A challenge, base64.
    Continue(String),
    Refused {
        user: Option<String>,
        reason: Option<String>,
        temporary: bool,
    },
}

/// Why there is no word.
#[derive(Debug)]
pub(crate) enum Fault {
    Connect(Endpoint, io::Error),
    Lost(Endpoint, io::Error),
    /// Not this protocol.
    Nonsense(Endpoint, &'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Connect(endpoint, error) => {
                write!(
                    f,
                    "Connect to Dovecot auth socket '{endpoint}' failed: {error}"
                )
            }
            Fault::Lost(endpoint, error) => {
                write!(
                    f,
                    "Connection to Dovecot auth socket '{endpoint}' lost: {error}"
                )
            }
            Fault::Nonsense(endpoint, problem) => {
                write!(
                    f,
                    "Dovecot auth socket '{endpoint}' does not speak the protocol: {problem}"
                )
            }
        }
    }
}

/// For connecting and greeting, and for each answer; as in Postfix.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest line of the server.
const LONGEST_LINE: u64 = 64 * 1024;

/// Most lines before `DONE`.
const LONGEST_GREETING: usize = 100;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection for one authentication.
pub(crate) struct Connection {
    stream: BufReader<Box<dyn Stream>>,
    endpoint: Endpoint,
    mechanisms: Vec<Mechanism>,
}

/// The one request of a connection.
const REQUEST: &str = "1";

impl Connection {
    /// Connects and greets.
    pub async fn open(endpoint: &Endpoint) -> Result<Connection, Fault> {
        let opening = async {
            let stream: io::Result<Box<dyn Stream>> = match endpoint {
                Endpoint::Unix(path) => match UnixStream::connect(path).await {
                    Ok(stream) => Ok(Box::new(stream)),
                    Err(error) => Err(error),
                },
                Endpoint::Inet(address) => match TcpStream::connect(address.as_str()).await {
                    Ok(stream) => Ok(Box::new(stream)),
                    Err(error) => Err(error),
                },
            };
            let stream = stream.map_err(|error| Fault::Connect(endpoint.clone(), error))?;
            let mut connection = Connection {
                stream: BufReader::new(stream),
                endpoint: endpoint.clone(),
                mechanisms: Vec::new(),
            };
            connection.greet().await?;
            Ok(connection)
        };
        match tokio::time::timeout(PATIENCE, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Fault::Lost(
                endpoint.clone(),
                io::ErrorKind::TimedOut.into(),
            )),
        }
    }

    pub fn mechanisms(&self) -> &[Mechanism] {
        &self.mechanisms
    }

    /// The mechanism of that name, in any case.
    pub fn mechanism(&self, name: &str) -> Option<&Mechanism> {
        let mut all = self.mechanisms.iter();
        all.find(|mechanism| mechanism.name.eq_ignore_ascii_case(name))
    }

    async fn greet(&mut self) -> Result<(), Fault> {
        let greeting = format!("VERSION\t1\t1\nCPID\t{}\n", client_number());
        self.write(&greeting).await?;
        let mut versions = 0;
        for _ in 0..LONGEST_GREETING {
            let line = self.line().await?;
            match line.split_once('\t').unwrap_or((&line, "")) {
                ("VERSION", version) => {
                    if version.split('\t').next() != Some("1") {
                        return Err(self.nonsense("its version is not 1"));
                    }
                    versions += 1;
                }
                ("MECH", mechanism) => {
                    let (name, properties) = mechanism.split_once('\t').unwrap_or((mechanism, ""));
                    if !is_mechanism_name(name) {
                        return Err(self.nonsense("a mechanism has no proper name"));
                    }
                    self.mechanisms.push(Mechanism::of(name, properties));
                }
                ("DONE", _) if versions > 0 => return Ok(()),
                ("DONE", _) => return Err(self.nonsense("no version")),
                _ => {}
            }
        }
        Err(self.nonsense("its greeting has no end"))
    }

    /// Begins an authentication. `initial` is base64.
    pub async fn authenticate(
        &mut self,
        mechanism: &str,
        service: &str,
        situation: &Situation,
        initial: Option<&str>,
    ) -> Result<Verdict, Fault> {
        let Situation {
            client,
            server,
            encrypted,
        } = situation;
        let secured = if *encrypted { "\tsecured" } else { "" };
        let initial = initial.map_or(String::new(), |initial| format!("\tresp={initial}"));
        // `resp` must be the last field.
        self.ask(&format!(
            "AUTH\t{REQUEST}\t{mechanism}\tservice={service}\tnologin\tlip={server}\trip={client}{secured}{initial}\n"
        ))
        .await
    }

    /// Answers a challenge. `response` is base64.
    pub async fn respond(&mut self, response: &str) -> Result<Verdict, Fault> {
        self.ask(&format!("CONT\t{REQUEST}\t{response}\n")).await
    }

    async fn ask(&mut self, request: &str) -> Result<Verdict, Fault> {
        let asking = async {
            self.write(request).await?;
            loop {
                let line = self.line().await?;
                if let Some(verdict) = verdict(&line) {
                    return verdict.map_err(|problem| self.nonsense(problem));
                }
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(verdict) => verdict,
            Err(_) => Err(self.lost(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn write(&mut self, text: &str) -> Result<(), Fault> {
        let written = self.stream.get_mut().write_all(text.as_bytes()).await;
        written.map_err(|error| self.lost(error))
    }

    async fn line(&mut self) -> Result<String, Fault> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(LONGEST_LINE);
        let read = limited.read_until(b'\n', &mut line).await;
        read.map_err(|error| self.lost(error))?;
        match line.pop() {
            Some(b'\n') => {}
            None => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Some(_) if line.len() as u64 + 1 < LONGEST_LINE => {
                return Err(self.lost(io::ErrorKind::UnexpectedEof.into()));
            }
            Some(_) => return Err(self.nonsense("a line has no end")),
        }
        // Somebody's idea of a user name may be anything.
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn lost(&self, error: io::Error) -> Fault {
        Fault::Lost(self.endpoint.clone(), error)
    }

    fn nonsense(&self, problem: &'static str) -> Fault {
        Fault::Nonsense(self.endpoint.clone(), problem)
    }
}

/// The answer to our request; `None` for lines that are about something else.
fn verdict(line: &str) -> Option<Result<Verdict, &'static str>> {
    let mut fields = line.split('\t');
    let command = fields.next()?;
    if !["OK", "CONT", "FAIL"].contains(&command) {
        return None;
    }
    if fields.next() != Some(REQUEST) {
        return Some(Err("it answers what was not asked"));
    }
    if command == "CONT" {
        let challenge = fields.next().unwrap_or("");
        return Some(match super::is_base64(challenge) {
            true => Ok(Verdict::Continue(challenge.to_owned())),
            false => Err("a challenge is not base64"),
        });
    }
    let (mut user, mut reason, mut temporary) = (None, None, false);
    for field in fields {
        match field.split_once('=') {
            Some(("user", value)) => user = Some(unescape(value)),
            Some(("reason", value)) => reason = Some(unescape(value)),
            Some(("code", "temp_fail")) => temporary = true,
            None if field == "temp" => temporary = true,
            _ => {}
        }
    }
    Some(match (command, user) {
        ("OK", Some(user)) if !user.is_empty() => Ok(Verdict::Accepted { user }),
        ("OK", _) => Err("it accepts nobody by name"),
        (_, user) => Ok(Verdict::Refused {
            user,
            reason,
            temporary,
        }),
    })
}

/// What Dovecot puts in the place of NUL, tab and line end: `\x01` and a letter.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1}' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('0') => '\0',
            Some('1') => '\u{1}',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('n') => '\n',
            Some(other) => other,
            None => break,
        });
    }
    out
}

/// RFC 4422 section 3.1.
fn is_mechanism_name(name: &str) -> bool {
    let good =
        |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (1..=20).contains(&name.len()) && name.bytes().all(good)
}

/// Dovecot wants a number of its own from every connection, and takes it for a process id: ours are above all of these.
fn client_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |now| now.subsec_nanos() ^ std::process::id()) | 1
    };
    let _ = NEXT.compare_exchange(0, start(), Ordering::Relaxed, Ordering::Relaxed);
    0x4000_0000 | (NEXT.fetch_add(1, Ordering::Relaxed) & 0x3fff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let refused = |user: Option<&str>, reason: Option<&str>, temporary| Verdict::Refused {
            user: user.map(str::to_owned),
            reason: reason.map(str::to_owned),
            temporary,
        };
        let accepted = |user: &str| Verdict::Accepted { user: user.into() };
        for (line, expected) in [
            ("OK\t1\tuser=a@b", Some(Ok(accepted("a@b")))),
            ("OK\t1\tx=y\tuser=a\u{1}tb\tz", Some(Ok(accepted("a\tb")))),
            ("OK\t1", Some(Err(()))),
            ("OK\t1\tuser=", Some(Err(()))),
            ("OK\t2\tuser=a", Some(Err(()))),
            ("OK", Some(Err(()))),
            ("FAIL\t1", Some(Ok(refused(None, None, false)))),
            (
                "FAIL\t1\tuser=a\treason=no\u{1}nway",
                Some(Ok(refused(Some("a"), Some("no\nway"), false))),
            ),
            (
                "FAIL\t1\tuser=a\ttemp",
                Some(Ok(refused(Some("a"), None, true))),
            ),
            (
                "FAIL\t1\tcode=temp_fail",
                Some(Ok(refused(None, None, true))),
            ),
            ("CONT\t1\tAAAA", Some(Ok(Verdict::Continue("AAAA".into())))),
            ("CONT\t1", Some(Ok(Verdict::Continue(String::new())))),
            ("CONT\t1\t\r", Some(Err(()))),
            ("MECH\tPLAIN", None),
            ("", None),
        ] {
            let found = verdict(line).map(|verdict| verdict.map_err(drop));
            assert_eq!(found, expected, "{line:?}");
        }
    }

    #[test]
    fn endpoints() {
        let queue = Path::new("/var/spool/postfix");
        let unix = |path: &str| Some(Endpoint::Unix(path.into()));
        for (text, expected) in [
            ("private/auth", unix("/var/spool/postfix/private/auth")),
            ("/run/auth", unix("/run/auth")),
            ("unix:private/auth", unix("/var/spool/postfix/private/auth")),
            (
                "inet:localhost:12345",
                Some(Endpoint::Inet("localhost:12345".into())),
            ),
            ("inet:12345", None),
            ("inet:host:x", None),
            ("", None),
        ] {
            assert_eq!(Endpoint::of(text, queue), expected, "{text}");
        }
    }
}
