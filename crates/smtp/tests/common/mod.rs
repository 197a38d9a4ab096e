//! Runs dialogue files against the server machine, and one machine against the other.

#![allow(dead_code)] // Each test program uses its part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postroom_smtp::EnhancedCode;
use postroom_smtp::Reply;
use postroom_smtp::server::{Answer, CloseReason, Peer, Question, Session, Settings, Step};

/// The settings of the instance that the dialogues were recorded with.
pub fn settings() -> Settings {
    Settings {
        hostname: "mail.host.example".to_owned(),
        banner: "mail.host.example ESMTP test".to_owned(),
        message_size_limit: 20_000,
        hard_error_limit: 1000,
        error_sleep_time: Duration::ZERO,
        ..Settings::default()
    }
}

pub fn peer() -> Peer {
    Peer::new("unknown", [127, 0, 0, 1].into(), 12345)
}

/// The policy of that instance: mail for example.org, host.example and bare names, nothing else.
pub fn policy(question: &Question) -> Answer {
    let denied = |address: &str| {
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let local = address.split('@').count() <= 2;
        let ours = [
            "",
            "example.org",
            "example.org.",
            "mail.host.example",
            "host.example",
        ]
        .contains(&domain);
        let code = EnhancedCode::new(5, 7, 1);
        (!ours || !local).then(|| {
            Reply::new(
                554,
                code,
                format!("<{address}>: Recipient address rejected: Access denied"),
            )
        })
    };
    let refusal = match question {
        Question::Rcpt(rcpt) => denied(&rcpt.address),
        Question::Vrfy(address) => denied(address),
        Question::Etrn(domain) => Some(Reply::plain(
            459,
            format!("<{domain}>: service unavailable"),
        )),
        Question::EndOfData { .. } => Some(Reply::new(
            250,
            EnhancedCode::new(2, 0, 0),
            "Ok: queued as QUEUEID",
        )),
        _ => None,
    };
    refusal.map_or(Answer::Continue, Answer::Reply)
}

/// A session whose questions a function answers.
pub struct Driver<F: FnMut(&Question) -> Answer> {
    pub session: Session,
    pub policy: F,
    pub sent: Vec<u8>,
    pub content: Vec<u8>,
    pub questions: Vec<Question>,
    pub slept: Duration,
    pub handshakes: usize,
    pub handshake_fails: bool,
    pub closed: Option<CloseReason>,
    pub now: Instant,
}

impl<F: FnMut(&Question) -> Answer> Driver<F> {
    pub fn new(settings: Settings, policy: F) -> Self {
        let now = Instant::now();
        Driver {
            session: Session::new(Arc::new(settings), peer(), now),
            policy,
            sent: Vec::new(),
            content: Vec::new(),
            questions: Vec::new(),
            slept: Duration::ZERO,
            handshakes: 0,
            handshake_fails: false,
            closed: None,
            now,
        }
    }

    /// Steps until the session wants to read or has ended.
    pub fn run(&mut self) {
        for _ in 0..1_000_000 {
            match self.session.step(self.now) {
                Step::Send(bytes) => self.sent.extend_from_slice(&bytes),
                Step::Read { .. } => return,
                Step::Ask(question) => {
                    let answer = (self.policy)(&question);
                    self.questions.push(question);
                    self.session.answer(answer);
                }
                Step::Content(bytes) => self.content.extend_from_slice(&bytes),
                Step::Sleep(duration) => self.slept += duration,
                Step::StartTls => {
                    self.handshakes += 1;
                    match self.handshake_fails {
                        true => self.session.tls_failed(),
                        false => self.session.tls_established(),
                    }
                }
                Step::Close { reason } => {
                    self.closed = Some(reason);
                    return;
                }
            }
        }
        panic!("the session never stops");
    }

    /// Gives bytes and collects what is sent in reply.
    pub fn talk(&mut self, bytes: &[u8]) -> String {
        self.session.receive(bytes);
        self.run();
        String::from_utf8_lossy(&std::mem::take(&mut self.sent)).into_owned()
    }
}

/// One step of a dialogue file.
#[derive(Debug)]
pub enum Line {
    /// `set name value`: a setting other than the default.
    Set(String, String),
    /// A new connection.
    Connect,
    /// The bytes of one or several `C:` lines.
    Client(Vec<u8>),
    /// An expected reply line.
    Server(String),
    /// The connection is expected to be closed by the server.
    Closed,
}

/// Reads a dialogue: `C: command` (sent with CR LF; `\xHH`, `\r`, `\n`, `\t`, `\\` understood; `C> ` without CR LF),
/// `S: reply line`, `==` (new connection), `closed`, `# comment`, `set name value`.
pub fn parse(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let parsed = match line.split_once(' ') {
            _ if line.is_empty() || line.starts_with('#') => continue,
            _ if line == "==" => Line::Connect,
            _ if line == "closed" => Line::Closed,
            _ if line == "C:" => Line::Client(b"\r\n".to_vec()),
            Some(("C:", rest)) => Line::Client([unescape(rest), b"\r\n".to_vec()].concat()),
            Some(("C>", rest)) => Line::Client(unescape(rest)),
            Some(("S:", rest)) => Line::Server(rest.to_owned()),
            Some(("set", rest)) => {
                let (name, value) = rest.split_once(' ').expect("`set` has a name and a value");
                Line::Set(name.to_owned(), value.to_owned())
            }
            _ => panic!("line {}: {line:?}", number + 1),
        };
        lines.push(parsed);
    }
    lines
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next().expect("something behind the backslash") {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'x' => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let digits = String::from_utf8(digits).expect("hexadecimal digits");
                out.push(u8::from_str_radix(&digits, 16).expect("hexadecimal digits"));
            }
            other => out.push(other),
        }
    }
    out
}
