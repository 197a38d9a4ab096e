//! One milter and the connection to it, over one SMTP session: sends events, and understands the answers.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::Verdict;
use super::editor::Editor;
use super::event::{self, Event, letter_name};
use super::macros::Stage;
use super::packet::{self, LONGEST, Negotiated, Reply};
use super::settings::{DefaultAction, Endpoint, Spec};

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// What the milter may ask of us: to change bodies, headers, recipients, the sender, to quarantine, to choose macros.
const ACTIONS: u32 = 0x1ff;
/// Progress reports lengthen a wait to so many times the timeout, no further.
const PATIENCE: u32 = 12;
/// Packets without reply are sent together up to this size.
const TOGETHER: usize = 64 * 1024;

/// Where a milter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected: it has not been asked yet.
    Closed,
    Ready,
    /// It wants to hear no more of this message.
    AcceptedMessage,
    /// It wants to hear no more at all.
    AcceptedConnection,
    /// It refused the client; all that comes has the same answer.
    RejectedConnection,
    /// It failed; all that comes has the default action.
    Failed,
}

pub(super) struct Connection {
    spec: Arc<Spec>,
    stream: Option<Box<dyn Stream>>,
    out: Vec<u8>,
    state: State,
    /// The answer where the milter itself gives none.
    default: Option<Verdict>,
    /// Steps that it does not want or does not answer.
    steps: u32,
    /// The lists of macros that it has set itself.
    pub macros: BTreeMap<Stage, Vec<String>>,
    /// A message has begun that the milter has not heard the end of.
    in_message: bool,
    skip_body: bool,
    /// The content is being shown: the log calls us cleanup then.
    in_content: bool,
}

impl Connection {
    pub fn new(spec: Arc<Spec>) -> Connection {
        Connection {
            spec,
            stream: None,
            out: Vec::new(),
            state: State::Closed,
            default: None,
            steps: 0,
            macros: BTreeMap::new(),
            in_message: false,
            skip_body: false,
            in_content: false,
        }
    }

    fn warn(&self, problem: &str) {
        match self.in_content {
            true => tracing::warn!(prog = "cleanup", "{problem}"),
            false => tracing::warn!(prog = "smtpd", "{problem}"),
        }
    }

    /// Connects and negotiates. After a failure every event has the default action.
    pub async fn open(&mut self) {
        if self.state != State::Closed {
            return;
        }
        let limit = self.spec.connect_timeout;
        let connected = tokio::time::timeout(limit, connect(&self.spec.endpoint)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => self.stream = Some(stream),
            Err(error) => {
                let error = plain(&error);
                tracing::warn!(
                    prog = "smtpd",
                    "connect to Milter service {}: {error}",
                    self.spec.name
                );
                self.fail();
                return;
            }
        }
        self.state = State::Ready;
        self.negotiate().await;
    }

    async fn negotiate(&mut self) {
        let version = self.spec.protocol;
        let words = [version, ACTIONS, event::steps_of(version)].map(u32::to_be_bytes);
        packet::write(&mut self.out, b'O', &[&words.concat()]);
        let limit = self.spec.connect_timeout;
        let (letter, data) = match self.receive("SMFIC_OPTNEG", limit).await {
            Ok(reply) => reply,
            Err(()) => return self.complain("read error in initial handshake"),
        };
        if letter != b'O' {
            let letter = char::from(letter);
            return self.complain(&format!(
                "unexpected reply \"{letter}\" in initial handshake"
            ));
        }
        let Some(found) = packet::parse_negotiation(&data) else {
            return self.complain("read error in initial handshake");
        };
        self.take_over(found);
    }

    fn take_over(&mut self, found: Negotiated) {
        let ours = self.spec.protocol;
        if found.version > ours || found.version < 2 {
            return self.complain(&format!(
                "protocol version {} conflict with MTA protocol version {ours}",
                found.version
            ));
        }
        let unknown = found.steps & !event::steps_of(ours);
        if unknown != 0 {
            return self.complain(&format!(
                "wants protocol steps that version {ours} does not have: 0x{unknown:x}"
            ));
        }
        self.steps = found.steps | event::missing_in(found.version);
        for (number, names) in found.macros {
            if let Some(stage) = Stage::of_number(number) {
                let names = names.split([' ', ',']).filter(|name| !name.is_empty());
                self.macros
                    .insert(stage, names.map(str::to_owned).collect());
            }
        }
    }

    /// Logs what is wrong with the milter, and gives it up.
    fn complain(&mut self, problem: &str) {
        self.warn(&format!("milter {}: {problem}", self.spec.name));
        self.fail();
    }

    /// No more is heard of this milter in this session.
    fn fail(&mut self) {
        self.stream = None;
        self.out.clear();
        self.state = State::Failed;
        self.default = match self.spec.default_action {
            DefaultAction::Accept => None,
            DefaultAction::Reject => Some(Verdict::reply("550 5.5.0 Service unavailable")),
            DefaultAction::TempFail => Some(Verdict::reply(UNAVAILABLE)),
            DefaultAction::Quarantine => Some(Verdict::Hold),
            DefaultAction::Shutdown => Some(Verdict::Shutdown),
        };
    }

    /// Whether an event would reach the milter.
    pub fn is_listening(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether the milter wants to hear of recipients that are refused.
    pub fn wants_refused_recipients(&self) -> bool {
        self.is_listening() && self.steps & event::REFUSED_RECIPIENTS != 0
    }

    /// Headers with the blank behind their colon.
    pub fn wants_leading_space(&self) -> bool {
        self.steps & event::LEADING_SPACE != 0
    }

    pub fn wants_body(&self) -> bool {
        self.is_listening() && !self.skip_body && self.steps & event::BODY.skip == 0
    }

    /// The answer that holds without the milter being asked.
    pub fn standing(&self) -> Option<Verdict> {
        match self.state {
            State::Closed | State::AcceptedConnection | State::AcceptedMessage => None,
            State::Ready | State::RejectedConnection | State::Failed => self.default.clone(),
        }
    }

    /// The next message may come: what was decided about the last one does not count any more.
    pub fn begin_message(&mut self) {
        if self.state == State::AcceptedMessage {
            self.state = State::Ready;
        }
        if self.state == State::Ready {
            self.default = None;
            self.in_message = true;
        }
        self.skip_body = false;
    }

    /// Tells the milter of an event, and waits for its answer where it gives one. `None`: go on.
    pub async fn tell(
        &mut self,
        event: &Event,
        data: &[&[u8]],
        macros: &[(String, String)],
        mut editor: Option<&mut Editor<'_>>,
    ) -> Option<Verdict> {
        if self.state != State::Ready {
            return self.standing();
        }
        if !macros.is_empty() {
            let mut pairs = vec![event.letter];
            for (name, value) in macros {
                pairs.extend(packet::string(name.as_bytes()));
                pairs.extend(packet::string(value.as_bytes()));
            }
            packet::write(&mut self.out, b'D', &[&pairs]);
        }
        if self.steps & event.skip != 0 {
            return self.default.clone();
        }
        self.in_content = event.of_content;
        packet::write(&mut self.out, event.letter, data);
        let limit = match event.of_content {
            true => self.spec.content_timeout,
            false => self.spec.command_timeout,
        };
        if self.steps & event.no_reply != 0 {
            if self.out.len() > TOGETHER && self.flush(limit).await.is_err() {
                self.fail();
            }
            return self.default.clone();
        }
        let end = Instant::now() + limit * PATIENCE;
        loop {
            let limit = limit.min(end.saturating_duration_since(Instant::now()));
            let Ok((letter, data)) = self.receive(event.name, limit).await else {
                self.fail();
                return self.default.clone();
            };
            match packet::parse(letter, &data) {
                Some(Reply::Progress) => {}
                Some(Reply::Edit(edit)) if editor.is_some() => {
                    if let Some(editor) = &mut editor
                        && let Err(problem) = editor.apply(edit, self.wants_leading_space()).await
                    {
                        self.complain(&problem);
                        return self.default.clone();
                    }
                }
                Some(reply) => return self.decide(event, reply),
                None => return self.decide(event, Reply::ConnectionFailed),
            }
        }
    }

    /// A final reply to an event.
    fn decide(&mut self, event: &Event, reply: Reply) -> Option<Verdict> {
        let refusal = match reply {
            Reply::Continue => None,
            Reply::Accept => {
                self.state = match event.of_connection {
                    true => State::AcceptedConnection,
                    false => State::AcceptedMessage,
                };
                None
            }
            Reply::Discard if event.of_connection => {
                let name = &self.spec.name;
                tracing::warn!(
                    prog = "smtpd",
                    "milter {name}: DISCARD action is not allowed for connect or helo"
                );
                None
            }
            Reply::Discard => {
                self.state = State::AcceptedMessage;
                Some(Verdict::Discard)
            }
            Reply::Reject => Some(Verdict::reply("550 5.7.1 Command rejected")),
            Reply::TempFail => Some(Verdict::reply(UNAVAILABLE)),
            Reply::Code(text) if packet::is_valid_code(&text) => Some(Verdict::Reply(text)),
            Reply::Code(text) => {
                let text: String = text.chars().take(200).collect();
                let text = text.replace(|c: char| c.is_control(), "?");
                self.complain(&format!("malformed reply: {text}"));
                self.default = Some(Verdict::reply(
                    "451 4.3.5 Server configuration problem - try again later",
                ));
                return self.default.clone();
            }
            Reply::Shutdown => {
                self.state = State::RejectedConnection;
                self.default = Some(Verdict::Shutdown);
                return self.default.clone();
            }
            Reply::Skip if event.letter == event::BODY.letter => {
                self.skip_body = true;
                None
            }
            Reply::ConnectionFailed | Reply::Skip | Reply::Edit(_) | Reply::Progress => {
                let reply = letter_name(&reply);
                self.complain(&format!(
                    "unexpected filter response {reply} after event {}",
                    event.name
                ));
                return self.default.clone();
            }
        };
        if event.letter == event::END_OF_MESSAGE.letter {
            self.in_message = false;
        }
        if refusal.is_none() {
            return self.standing();
        }
        if event.of_connection {
            self.state = State::RejectedConnection;
            self.default.clone_from(&refusal);
        }
        refusal
    }

    /// The message ends here, whatever the milter thought of it.
    pub async fn abort(&mut self) {
        if std::mem::take(&mut self.in_message) && self.stream.is_some() {
            packet::write(&mut self.out, b'A', &[]);
            if self.flush(self.spec.command_timeout).await.is_err() {
                self.fail();
            }
        }
        if matches!(self.state, State::Ready | State::AcceptedMessage) {
            self.state = State::Ready;
            self.default = None;
        }
    }

    /// Says good-bye.
    pub async fn quit(&mut self) {
        if self.stream.is_some() {
            packet::write(&mut self.out, b'Q', &[]);
            let _ = self.flush(self.spec.command_timeout).await;
        }
        self.stream = None;
        self.state = State::Closed;
    }

    async fn flush(&mut self, limit: Duration) -> Result<(), ()> {
        let out = std::mem::take(&mut self.out);
        let Some(stream) = &mut self.stream else {
            return Err(());
        };
        let written = tokio::time::timeout(limit, stream.write_all(&out)).await;
        let written = written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        written.map_err(|error| {
            let problem = format!("error writing command: {}", plain(&error));
            self.warn(&format!("milter {}: {problem}", self.spec.name));
        })
    }

    /// Sends what is to be sent, and reads one reply.
    async fn receive(&mut self, after: &str, limit: Duration) -> Result<(u8, Vec<u8>), ()> {
        self.flush(limit).await?;
        let Some(stream) = &mut self.stream else {
            return Err(());
        };
        let read = tokio::time::timeout(limit, read_packet(stream)).await;
        let read = read.unwrap_or_else(|_| Err(Unreadable::Io(io::ErrorKind::TimedOut.into())));
        read.map_err(|problem| {
            let problem = match problem {
                Unreadable::Length(length) => {
                    format!("unreasonable packet length: {length} > {LONGEST}")
                }
                Unreadable::Io(error) => {
                    format!("can't read {after} reply packet header: {}", plain(&error))
                }
            };
            self.warn(&format!("milter {}: {problem}", self.spec.name));
        })
    }
}

const UNAVAILABLE: &str = "451 4.7.1 Service unavailable - try again later";

async fn connect(endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
    Ok(match endpoint {
        Endpoint::Inet { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            // Each packet is answered; Nagle's algorithm would hold them back.
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

enum Unreadable {
    Length(u32),
    Io(io::Error),
}

async fn read_packet(stream: &mut Box<dyn Stream>) -> Result<(u8, Vec<u8>), Unreadable> {
    let length = stream.read_u32().await.map_err(Unreadable::Io)?;
    if length == 0 || length as usize > LONGEST {
        return Err(Unreadable::Length(length));
    }
    let letter = stream.read_u8().await.map_err(Unreadable::Io)?;
    let wanted = u64::from(length) - 1;
    // Memory is taken as the bytes come, not as the length promises.
    let mut data = Vec::new();
    let read = stream.take(wanted).read_to_end(&mut data).await;
    match read.map_err(Unreadable::Io)? as u64 == wanted {
        true => Ok((letter, data)),
        false => Err(Unreadable::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// The error as the C library words it.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => return "Connection timed out".to_owned(),
        // Postfix' words for a milter that closes its connection.
        io::ErrorKind::UnexpectedEof => return "Application error".to_owned(),
        _ => {}
    }
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}
