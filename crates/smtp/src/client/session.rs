//! The client session: what was sent, whose replies are awaited, what each recipient got.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail::status::EnhancedCode;

use super::offer::Offer;
use super::reader::{Heard, Reader};
use super::security::{Exchange, Security};
use super::{Command, RcptResult, Settings, Step, Transaction};
use crate::{Protocol, Reply};

/// Commands that may be under way at once: their replies must fit into any socket buffer, or both
/// sides could wait for each other (RFC 2920 section 3.1).
const WINDOW: usize = 64;

/// One connection to one server, for one message after the other.
pub struct Session {
    settings: Arc<Settings>,
    pub(super) server: String,
    pub(super) offer: Offer,
    pub(super) reader: Reader,
    pub(super) output: Vec<u8>,
    /// Commands whose replies are awaited, in order.
    pub(super) awaited: VecDeque<Awaited>,
    pub(super) security: Security,
    pub(super) starttls_offered: bool,
    /// STARTTLS was accepted: the handshake is the caller's next step.
    pub(super) tls_due: bool,
    pub(super) encrypted: bool,
    pub(super) exchange: Option<Exchange>,
    /// The handshake is over.
    ready: bool,
    current: Option<Current>,
    /// The last transaction was left without its end.
    needs_reset: bool,
    eof: bool,
    /// No further message may go this way.
    spent: bool,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    /// The end of the message; of which recipient in LMTP.
    End(Option<usize>),
    Quit,
}

/// The message under way.
struct Current {
    transaction: Transaction,
    results: Vec<Option<RcptResult>>,
    /// Recipients that the server took, in order.
    accepted: Vec<usize>,
    /// The next command to send: MAIL, the recipients, DATA.
    next: usize,
    mail_accepted: bool,
    body: bool,
    done: bool,
}

impl Session {
    /// A session on a connection just made. `server` names the server in log texts: `host[address]:port` or a socket's path.
    pub fn new(settings: Arc<Settings>, server: impl Into<String>) -> Session {
        Session {
            reader: Reader::new(settings.line_length_limit, settings.reply_lines_limit),
            settings,
            server: server.into(),
            offer: Offer::default(),
            output: Vec::new(),
            awaited: VecDeque::from([Awaited::Greeting]),
            security: Security::default(),
            starttls_offered: false,
            tls_due: false,
            encrypted: false,
            exchange: None,
            ready: false,
            current: None,
            needs_reset: false,
            eof: false,
            spent: false,
            closed: false,
        }
    }

    /// Starts a message. To be called first, and after `Step::Done` while `is_open`.
    pub fn begin(&mut self, transaction: Transaction) {
        let results = vec![None; transaction.recipients.len()];
        self.current = Some(Current {
            transaction,
            results,
            accepted: Vec::new(),
            next: 0,
            mail_accepted: false,
            body: false,
            done: false,
        });
        if self.spent || self.closed {
            self.break_off(
                EnhancedCode::new(4, 4, 2),
                format!("connection to {} is closed", self.server),
            );
        } else if self.ready {
            self.start();
        }
    }

    /// Says QUIT; to be called after `Step::Done`.
    pub fn quit(&mut self) {
        if !self.closed && !self.eof && self.ready {
            self.output.extend_from_slice(b"QUIT\r\n");
            self.awaited.push_back(Awaited::Quit);
        } else {
            self.closed = true;
        }
        self.spent = true;
    }

    /// Appends bytes that were read from the server.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// The server has closed its side, or reading or writing failed.
    pub fn eof(&mut self) {
        self.eof = true;
        if self.in_body() {
            self.lose_connection();
        }
    }

    /// Nothing came within the time of `Step::Read`, or writing took too long.
    pub fn timed_out(&mut self) {
        let activity = self.command().activity();
        let text = format!(
            "conversation with {} timed out while {activity}",
            self.server
        );
        self.break_off(EnhancedCode::new(4, 4, 2), text);
    }

    /// The message and its end have been written.
    pub fn body_sent(&mut self) {
        let Some(current) = &mut self.current else {
            return;
        };
        if !std::mem::take(&mut current.body) {
            return;
        }
        match self.settings.protocol {
            Protocol::Smtp => self.awaited.push_back(Awaited::End(None)),
            Protocol::Lmtp => self
                .awaited
                .extend(current.accepted.iter().map(|i| Awaited::End(Some(*i)))),
        }
    }

    /// The message could not be read from the queue: the connection must be closed now, every recipient
    /// is told to try later.
    pub fn body_failed(&mut self, text: &str) {
        self.break_off(EnhancedCode::new(4, 3, 0), text.to_owned());
    }

    /// What to do next.
    pub fn step(&mut self) -> Step {
        loop {
            if let Some(current) = &mut self.current {
                let answered = current.results.iter().all(Option::is_some);
                if !current.done
                    && (self.closed || (answered && self.awaited.is_empty() && !current.body))
                {
                    current.done = true;
                    return Step::Done;
                }
            }
            if self.closed {
                return Step::Closed;
            }
            if !self.output.is_empty() {
                return Step::Send(Bytes::from(std::mem::take(&mut self.output)));
            }
            if self.tls_due {
                return Step::StartTls;
            }
            if self.in_body() {
                return Step::Body;
            }
            let Some(awaited) = self.awaited.front().copied() else {
                // Nothing was begun: there is nothing to wait for.
                self.closed = true;
                continue;
            };
            match self.reader.reply() {
                Some(Ok(heard)) => {
                    self.awaited.pop_front();
                    self.handle(awaited, heard);
                }
                Some(Err(malformed)) => {
                    let text = format!(
                        "Protocol error: host {} said: {}",
                        self.server, malformed.text
                    );
                    self.break_off(EnhancedCode::new(4, 5, 0), text);
                }
                None if self.eof => self.lose_connection(),
                None => {
                    return Step::Read {
                        timeout: self.timeout(awaited),
                    };
                }
            }
        }
    }

    /// The results, one a recipient in order, after `Step::Done`.
    pub fn take_results(&mut self) -> Vec<RcptResult> {
        let Some(current) = self.current.take() else {
            return Vec::new();
        };
        let missing = || RcptResult::Failed {
            dsn: EnhancedCode::new(4, 3, 0),
            text: "delivery was not finished".to_owned(),
        };
        current
            .results
            .into_iter()
            .map(|result| result.unwrap_or_else(missing))
            .collect()
    }

    /// Another message can be sent over this connection.
    pub fn is_open(&self) -> bool {
        self.ready && !self.spent && !self.closed && !self.eof
    }

    /// The name of the server in log texts.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The settings given at the start.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Commands.
impl Session {
    /// After the handshake, or for the next message.
    fn start(&mut self) {
        let Some(current) = &self.current else { return };
        if let Err((dsn, text)) = self.offer.check(&current.transaction, &self.server) {
            for result in &mut self.current.iter_mut().flat_map(|c| &mut c.results) {
                *result = Some(RcptResult::Failed {
                    dsn,
                    text: text.clone(),
                });
            }
            return;
        }
        if current.results.is_empty() {
            return;
        }
        if std::mem::take(&mut self.needs_reset) {
            self.output.extend_from_slice(b"RSET\r\n");
            self.awaited.push_back(Awaited::Rset);
        }
        self.send_more();
    }

    /// Sends as many of MAIL, RCPT … and DATA as may be under way.
    fn send_more(&mut self) {
        let window = if self.offer.pipelining { WINDOW } else { 1 };
        let Some(current) = &mut self.current else {
            return;
        };
        let recipients = current.transaction.recipients.len();
        while self.awaited.len() < window && current.next <= recipients + 1 {
            match current.next {
                0 => {
                    self.offer
                        .write_mail(&current.transaction, &mut self.output);
                    self.awaited.push_back(Awaited::Mail);
                }
                n if n <= recipients => {
                    self.offer
                        .write_rcpt(&current.transaction, n - 1, &mut self.output);
                    self.awaited.push_back(Awaited::Rcpt(n - 1));
                }
                // DATA may be pipelined behind the last RCPT; yet where all were refused already it is pointless.
                _ if self.awaited.is_empty() && current.accepted.is_empty() => {
                    self.needs_reset = current.mail_accepted;
                    current.next += 1;
                    return;
                }
                _ => {
                    self.output.extend_from_slice(b"DATA\r\n");
                    self.awaited.push_back(Awaited::Data);
                }
            }
            current.next += 1;
        }
    }

    pub(super) fn say_hello(&mut self, hello: Awaited) {
        let verb = match (self.settings.protocol, hello) {
            (Protocol::Lmtp, _) => "LHLO",
            (Protocol::Smtp, Awaited::Helo) => "HELO",
            (Protocol::Smtp, _) => "EHLO",
        };
        self.output
            .extend_from_slice(format!("{verb} {}\r\n", self.settings.helo_name).as_bytes());
        self.awaited.push_back(hello);
    }
}

/// Replies.
impl Session {
    fn handle(&mut self, awaited: Awaited, heard: Heard) {
        if heard.reply.code == 421 {
            self.spent = true;
        }
        match awaited {
            Awaited::Greeting => self.greeted(heard),
            Awaited::Ehlo | Awaited::Helo => self.hello_answered(awaited, heard),
            Awaited::StartTls => self.starttls_answered(&heard),
            Awaited::Auth => self.auth_answered(&heard),
            // A server that cannot forget is of no further use, but MAIL may yet work.
            Awaited::Rset => self.send_more(),
            Awaited::Mail => self.mail_answered(heard),
            Awaited::Rcpt(i) => self.rcpt_answered(i, heard),
            Awaited::Data => self.data_answered(heard),
            Awaited::End(which) => self.end_answered(which, heard),
            Awaited::Quit => self.closed = true,
        }
    }

    fn greeted(&mut self, heard: Heard) {
        if heard.reply.code / 100 != 2 {
            return self.refused_to_talk(heard, self.settings.skip_5xx_greeting);
        }
        let esmtp =
            self.settings.always_send_ehlo || heard.raw.to_ascii_uppercase().contains("ESMTP");
        let lmtp = self.settings.protocol == Protocol::Lmtp;
        let hello = if lmtp || (esmtp && !self.settings.never_send_ehlo) {
            Awaited::Ehlo
        } else {
            Awaited::Helo
        };
        self.say_hello(hello);
    }

    fn hello_answered(&mut self, hello: Awaited, heard: Heard) {
        if heard.reply.is_positive() {
            if hello == Awaited::Ehlo {
                self.offer = Offer::parse(&heard.reply.text, &self.settings.discard_ehlo_keywords);
            }
            self.make_secure();
        } else if hello == Awaited::Ehlo
            && self.settings.protocol == Protocol::Smtp
            && heard.reply.code != 421
        {
            self.say_hello(Awaited::Helo);
        } else {
            self.refused_to_talk(heard, false);
        }
    }

    pub(super) fn begin_messages(&mut self) {
        self.ready = true;
        self.start();
    }

    fn refused_to_talk(&mut self, heard: Heard, temporary: bool) {
        let mut dsn = code_of(&heard.reply);
        if temporary || !heard.reply.is_permanent() {
            dsn.class = 4;
        }
        self.break_off(
            dsn,
            format!("host {} refused to talk to me: {}", self.server, heard.raw),
        );
    }

    fn mail_answered(&mut self, heard: Heard) {
        if heard.reply.is_positive() {
            if let Some(current) = &mut self.current {
                current.mail_accepted = true;
            }
        } else {
            self.refuse_rest(&heard, Command::Mail);
            return self.skip_to_end();
        }
        self.send_more();
    }

    fn rcpt_answered(&mut self, i: usize, heard: Heard) {
        let refusal = self.refusal(&heard, Command::Rcpt);
        if let Some(current) = &mut self.current {
            match &mut current.results[i] {
                Some(_) => {}
                None if heard.reply.is_positive() => current.accepted.push(i),
                unset => *unset = Some(refusal),
            }
        }
        self.send_more();
    }

    fn data_answered(&mut self, heard: Heard) {
        let nobody = self
            .current
            .as_ref()
            .is_none_or(|current| current.accepted.is_empty());
        match (heard.reply.code, nobody) {
            (354, true) => {
                // The server took DATA although it took nobody: an empty message ends it (RFC 2920 section 3.1).
                self.output.extend_from_slice(b".\r\n");
                if self.settings.protocol == Protocol::Smtp {
                    self.awaited.push_back(Awaited::End(None));
                }
            }
            (354, false) => {
                if let Some(current) = &mut self.current {
                    current.body = true;
                }
            }
            _ => {
                self.refuse_rest(&heard, Command::Data);
                self.needs_reset = true;
            }
        }
    }

    fn end_answered(&mut self, which: Option<usize>, heard: Heard) {
        let refusal = self.refusal(&heard, Command::EndOfData);
        let Some(current) = &mut self.current else {
            return;
        };
        let result = if heard.reply.is_positive() {
            RcptResult::Accepted { reply: heard.reply }
        } else {
            refusal
        };
        match which {
            Some(i) => current.results[i] = Some(result),
            None => {
                for unset in current.results.iter_mut().filter(|r| r.is_none()) {
                    *unset = Some(result.clone());
                }
            }
        }
    }

    /// Gives every recipient without a result this refusal, and takes nobody for accepted.
    fn refuse_rest(&mut self, heard: &Heard, command: Command) {
        let refusal = self.refusal(heard, command);
        let Some(current) = &mut self.current else {
            return;
        };
        for unset in current.results.iter_mut().filter(|r| r.is_none()) {
            *unset = Some(refusal.clone());
        }
        current.accepted.clear();
    }

    fn skip_to_end(&mut self) {
        if let Some(current) = &mut self.current {
            current.next = usize::MAX;
        }
    }

    fn refusal(&self, heard: &Heard, command: Command) -> RcptResult {
        let text = format!(
            "host {} said: {} (in reply to {})",
            self.server,
            heard.raw,
            command.name()
        );
        if !heard.reply.is_transient() && !heard.reply.is_permanent() {
            // 2xx or 3xx where it makes no sense.
            return RcptResult::Failed {
                dsn: EnhancedCode::new(4, 5, 0),
                text: format!("Protocol error: {text}"),
            };
        }
        let mut reply = heard.reply.clone();
        if heard.plain {
            reply.enhanced = Some(code_of(&reply));
        }
        RcptResult::Refused {
            reply,
            command,
            text,
        }
    }

    fn lose_connection(&mut self) {
        let activity = self.command().activity();
        let text = format!("lost connection with {} while {activity}", self.server);
        self.break_off(EnhancedCode::new(4, 4, 2), text);
    }

    /// The session is over; who has no result yet gets this one.
    pub(super) fn break_off(&mut self, dsn: EnhancedCode, text: String) {
        self.closed = true;
        self.spent = true;
        self.tls_due = false;
        self.awaited.clear();
        self.output.clear();
        if let Some(current) = &mut self.current {
            current.body = false;
            for unset in current.results.iter_mut().filter(|r| r.is_none()) {
                *unset = Some(RcptResult::Failed {
                    dsn,
                    text: text.clone(),
                });
            }
        }
    }

    fn in_body(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.body)
    }

    /// What is under way.
    fn command(&self) -> Command {
        if self.in_body() {
            return Command::Body;
        }
        match self.awaited.front() {
            None | Some(Awaited::Greeting) => Command::Greeting,
            Some(Awaited::Ehlo) if self.settings.protocol == Protocol::Lmtp => Command::Lhlo,
            Some(Awaited::Ehlo) => Command::Ehlo,
            Some(Awaited::Helo) => Command::Helo,
            Some(Awaited::StartTls) => Command::StartTls,
            Some(Awaited::Auth) => Command::Auth,
            Some(Awaited::Rset) => Command::Rset,
            Some(Awaited::Mail) => Command::Mail,
            Some(Awaited::Rcpt(_)) => Command::Rcpt,
            Some(Awaited::Data) => Command::Data,
            Some(Awaited::End(_)) => Command::EndOfData,
            Some(Awaited::Quit) => Command::Quit,
        }
    }

    fn timeout(&self, awaited: Awaited) -> Duration {
        let timeouts = &self.settings.timeouts;
        match awaited {
            Awaited::Greeting
            | Awaited::Ehlo
            | Awaited::Helo
            | Awaited::StartTls
            | Awaited::Auth => timeouts.helo,
            Awaited::Rset => timeouts.rset,
            Awaited::Mail => timeouts.mail,
            Awaited::Rcpt(_) => timeouts.rcpt,
            Awaited::Data => timeouts.data_init,
            Awaited::End(_) => timeouts.data_done,
            Awaited::Quit => timeouts.quit,
        }
    }
}

/// The enhanced code of a reply, or what its code alone tells.
pub(super) fn code_of(reply: &Reply) -> EnhancedCode {
    reply
        .enhanced
        .unwrap_or(EnhancedCode::new((reply.code / 100) as u8, 0, 0))
}
