//! Milters: programs that are told of a session and its messages as they come, that may refuse or change them.
//!
//! The protocol is Sendmail's, versions 2 to 6, as Postfix speaks it. [`Milters`] are those of one SMTP session; each event goes
//! to them in order, until one decides. The content is shown at the end, each milter seeing what the one before it changed.

mod connection;
mod editor;
mod event;
mod macros;
pub mod packet;
mod settings;

pub use macros::Macros;
pub use settings::Settings;

use std::net::IpAddr;
use std::sync::Arc;

use crate::checks::{Checker, Context, Findings};
use crate::draft::{Draft, DraftError};
use connection::Connection;
use editor::Editor;
use event::Event;

/// What milters decide, where it is not "go on".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take the message, and keep it until an operator releases it.
    Hold,
    /// Take the message and throw it away.
    Discard,
    /// 421, and the end of the session.
    Shutdown,
    /// A whole reply of class 4 or 5, CR LF between its lines.
    Reply(String),
}

impl Verdict {
    fn reply(text: &str) -> Verdict {
        Verdict::Reply(text.to_owned())
    }
}

/// A change of the envelope. Addresses are as the milter gave them, in brackets or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `parameters`: as behind RCPT.
    AddRecipient {
        address: String,
        parameters: String,
    },
    DeleteRecipient {
        address: String,
    },
    /// `parameters`: as behind MAIL.
    Sender {
        address: String,
        parameters: String,
    },
}

/// What became of a message's content.
pub struct Outcome {
    pub verdict: Option<Verdict>,
    /// A milter quarantined it, or failed and has quarantine for its default action.
    pub hold: bool,
    pub changes: Vec<Change>,
    /// What `milter_header_checks` found.
    pub findings: Findings,
}

/// The milters of one session.
pub struct Milters {
    settings: Arc<Settings>,
    list: Vec<Connection>,
}

impl Milters {
    /// The milters for a client; `None` where there are none. Nothing is connected yet.
    pub async fn new(settings: &Arc<Settings>, client: IpAddr) -> Option<Milters> {
        let specs = settings.for_client(client).await;
        let list: Vec<Connection> = specs.into_iter().map(Connection::new).collect();
        (!list.is_empty()).then(|| Milters {
            settings: Arc::clone(settings),
            list,
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A client has connected. Connects to the milters.
    pub async fn connect(
        &mut self,
        name: &str,
        address: IpAddr,
        port: u16,
        facts: &dyn Macros,
    ) -> Option<Verdict> {
        let family = match address {
            IpAddr::V4(_) => b'4',
            IpAddr::V6(_) => b'6',
        };
        let mut data = packet::string(name.as_bytes());
        data.push(family);
        data.extend(port.to_be_bytes());
        data.extend(packet::string(address.to_string().as_bytes()));
        for milter in &mut self.list {
            milter.open().await;
        }
        self.tell_all(&event::CONNECT, &data, facts).await
    }

    /// HELO or EHLO.
    pub async fn helo(&mut self, name: &str, facts: &dyn Macros) -> Option<Verdict> {
        let data = packet::string(name.as_bytes());
        self.tell_all(&event::HELO, &data, facts).await
    }

    /// MAIL, with its words: the address as given, and parameters.
    pub async fn mail(&mut self, words: &[&str], facts: &dyn Macros) -> Option<Verdict> {
        for milter in &mut self.list {
            milter.begin_message();
        }
        self.tell_all(&event::MAIL, &strings(words), facts).await
    }

    /// RCPT, with its words. A recipient that is `refused` is shown to those who want to hear of it; what they say does not count.
    pub async fn rcpt(
        &mut self,
        words: &[&str],
        refused: bool,
        facts: &dyn Macros,
    ) -> Option<Verdict> {
        let data = strings(words);
        if !refused {
            return self.tell_all(&event::RCPT, &data, facts).await;
        }
        for milter in &mut self.list {
            if milter.wants_refused_recipients() {
                let macros = pairs_for(&self.settings, milter, &event::RCPT, facts);
                let _ = milter.tell(&event::RCPT, &[&data], &macros, None).await;
            }
        }
        None
    }

    pub async fn data(&mut self, facts: &dyn Macros) -> Option<Verdict> {
        self.tell_all(&event::DATA, &[], facts).await
    }

    /// A command that nobody knows.
    pub async fn unknown(&mut self, command: &str, facts: &dyn Macros) -> Option<Verdict> {
        let data = packet::string(command.as_bytes());
        self.tell_all(&event::UNKNOWN, &data, facts).await
    }

    /// What holds for commands that milters are not told of: the refusal of a client.
    pub fn other(&self) -> Option<Verdict> {
        self.list.iter().find_map(Connection::standing)
    }

    /// Shows the content to one milter after the other, and changes it as they wish.
    pub async fn message(
        &mut self,
        draft: &mut Draft,
        facts: &dyn Macros,
        context: &Context<'_>,
    ) -> Result<Outcome, DraftError> {
        let lists = self.settings.header_checks.as_ref();
        let mut checker = lists.map(|lists| Checker::new(Arc::clone(lists)));
        let mut outcome = Outcome {
            verdict: None,
            hold: false,
            changes: Vec::new(),
            findings: Findings::default(),
        };
        for milter in &mut self.list {
            let mut editor = Editor::new(
                draft,
                &mut outcome.changes,
                checker.as_mut().map(|checker| (checker, context)),
                self.settings.size_limit,
            );
            let verdict = show(&self.settings, milter, &mut editor, facts).await;
            if let Some(failure) = editor.failure {
                return Err(failure);
            }
            match verdict {
                None => {}
                Some(Verdict::Hold) => outcome.hold = true,
                Some(verdict) => {
                    outcome.verdict = Some(verdict);
                    break;
                }
            }
        }
        if let Some(mut checker) = checker {
            for line in checker.take_log() {
                tracing::info!(prog = "cleanup", "{line}");
            }
            outcome.findings = checker.into_findings();
        }
        Ok(outcome)
    }

    /// The message is not to be, or is over.
    pub async fn abort(&mut self) {
        for milter in &mut self.list {
            milter.abort().await;
        }
    }

    /// The session is over.
    pub async fn quit(&mut self) {
        for milter in &mut self.list {
            milter.quit().await;
        }
    }

    /// One event for all, in order, until one refuses or discards.
    async fn tell_all(
        &mut self,
        event: &Event,
        data: &[u8],
        facts: &dyn Macros,
    ) -> Option<Verdict> {
        let mut held = None;
        for milter in &mut self.list {
            let macros = pairs_for(&self.settings, milter, event, facts);
            match milter.tell(event, &[data], &macros, None).await {
                None => {}
                Some(Verdict::Hold) => held = Some(Verdict::Hold),
                Some(verdict) => return Some(verdict),
            }
        }
        held
    }
}

fn strings(words: &[&str]) -> Vec<u8> {
    let words = words.iter();
    words
        .flat_map(|word| packet::string(word.as_bytes()))
        .collect()
}

fn pairs_for(
    settings: &Settings,
    milter: &Connection,
    event: &Event,
    facts: &dyn Macros,
) -> Vec<(String, String)> {
    match event.stage {
        Some(stage) if milter.is_listening() => {
            macros::pairs(settings, &milter.macros, stage, facts)
        }
        _ => Vec::new(),
    }
}

/// Shows the whole content to one milter.
async fn show(
    settings: &Settings,
    milter: &mut Connection,
    editor: &mut Editor<'_>,
    facts: &dyn Macros,
) -> Option<Verdict> {
    if !milter.is_listening() {
        return milter.standing();
    }
    let headers: Vec<Vec<u8>> = editor.visible().map(<[u8]>::to_vec).collect();
    for header in headers {
        let (name, value) = split_header(&header, milter.wants_leading_space());
        let (name, value) = (packet::string(name), packet::string(value));
        let verdict = milter
            .tell(&event::HEADER, &[&name, &value], &[], None)
            .await;
        if verdict.is_some() || !milter.is_listening() {
            return verdict;
        }
    }
    let macros = pairs_for(settings, milter, &event::END_OF_HEADER, facts);
    let verdict = milter.tell(&event::END_OF_HEADER, &[], &macros, None).await;
    if verdict.is_some() || !milter.is_listening() {
        return verdict;
    }
    let mut pieces = editor.body();
    while milter.wants_body() {
        let piece = match pieces.next().await {
            None => break,
            Some(Ok(piece)) => piece,
            Some(Err(error)) => {
                editor.failure = Some(DraftError::Read(error));
                return None;
            }
        };
        for chunk in chunks(&piece) {
            if !milter.wants_body() {
                break;
            }
            let verdict = milter.tell(&event::BODY, &[&chunk], &[], None).await;
            if verdict.is_some() || !milter.is_listening() {
                return verdict;
            }
        }
    }
    let macros = pairs_for(settings, milter, &event::END_OF_MESSAGE, facts);
    let event = &event::END_OF_MESSAGE;
    let verdict = milter.tell(event, &[], &macros, Some(editor)).await;
    editor.settle().await;
    match verdict {
        None if editor.quarantine => Some(Verdict::Hold),
        verdict => verdict,
    }
}

/// Name and value of a header; the value without the blank that follows the colon, unless it is wanted.
fn split_header(header: &[u8], leading_space: bool) -> (&[u8], &[u8]) {
    let name = crate::draft::name_of(header);
    let colon = header.iter().position(|&byte| byte == b':');
    let value = &header[colon.map_or(header.len(), |at| at + 1)..];
    match value.first() {
        Some(b' ' | b'\t') if !leading_space => (name, &value[1..]),
        _ => (name, value),
    }
}

/// `MILTER_CHUNK_SIZE`.
const CHUNK: usize = 65_535;

/// Makes CR LF of the spool's line ends, in chunks of the size that milters expect.
fn chunks(piece: &[u8]) -> Vec<Vec<u8>> {
    let mut text = Vec::with_capacity(piece.len() + piece.len() / 16);
    for &byte in piece {
        if byte == b'\n' {
            text.push(b'\r');
        }
        text.push(byte);
    }
    text.chunks(CHUNK).map(<[u8]>::to_vec).collect()
}
