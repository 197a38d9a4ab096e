//! The session: input, output, and where the dialogue stands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::content::Unstuffer;
use super::input::{Input, Line};
use super::verb::{Counters, Verb};
use super::{
    Answer, CloseReason, Counted, Forwarded, Helo, Peer, Privileges, Question, Settings, Step,
};
use crate::address::Rules;
use crate::{Protocol, Reply, reply};

/// One connection of one client.
pub struct Session {
    pub(super) settings: Arc<Settings>,
    pub(super) peer: Peer,
    pub(super) privileges: Privileges,
    /// XFORWARD, for the message that comes.
    pub(super) forwarded: Option<Forwarded>,
    pub(super) input: Input,
    output: Vec<u8>,
    pub(super) helo: Option<Helo>,
    pub(super) transaction: Option<Transaction>,
    /// The message that is coming in, after DATA.
    pub(super) content: Option<Incoming>,
    /// The client has sent ahead what it should not.
    pipelined: bool,
    /// The client was refused when it connected.
    denied: bool,
    /// A question to be asked in the next step; `pending` is set with it.
    question: Option<Question>,
    /// Whose answer is awaited.
    pending: Option<Pending>,
    /// The caller must be told that the transaction is dropped.
    abort_due: bool,
    pub(super) errors: usize,
    pub(super) junk: usize,
    slept: bool,
    counters: Counters,
    /// What the log names as the place of a failure.
    pub(super) place: &'static str,
    verb: Verb,
    eof: bool,
    stop: bool,
    closing: Option<CloseReason>,
    /// The connection is encrypted.
    pub(super) tls: bool,
    /// STARTTLS was accepted; its reply may still have to be sent.
    pub(super) tls_due: bool,
    /// The client has authenticated itself.
    pub(super) authenticated: bool,
    /// A response to the last challenge is awaited.
    pub(super) challenged: bool,
    /// What EHLO offers behind AUTH.
    pub(super) mechanisms: Vec<String>,
    deadline: Option<Instant>,
}

/// From MAIL to the end of the message.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub smtputf8: bool,
    /// Recipients accepted.
    pub recipients: usize,
    /// RCPT commands above the limit.
    pub overshoot: usize,
}

/// The message that is coming in.
pub(super) struct Incoming {
    pub unstuffer: Unstuffer,
    /// Bytes given out.
    pub size: u64,
    /// Bytes on the wire.
    pub wire: u64,
    /// The content is refused with this; the rest is read and thrown away.
    pub refused: Option<Reply>,
}

/// The question that is open, with what its answer needs.
pub(super) enum Pending {
    Connect,
    Helo(Helo),
    Count(Counted, String),
    Mail { smtputf8: bool },
    Rcpt,
    Data,
    EndOfData,
    Unknown,
    Vrfy(String),
    Etrn,
    Auth,
    AuthAborted(Reply),
    Abort,
}

impl Session {
    /// A session with a client that has just connected.
    pub fn new(settings: Arc<Settings>, peer: Peer, _now: Instant) -> Session {
        Session {
            settings,
            peer,
            privileges: Privileges::default(),
            forwarded: None,
            input: Input::default(),
            output: Vec::new(),
            helo: None,
            transaction: None,
            content: None,
            pipelined: false,
            denied: false,
            question: Some(Question::Connect),
            pending: Some(Pending::Connect),
            abort_due: false,
            errors: 0,
            junk: 0,
            slept: false,
            counters: Counters::default(),
            place: "CONNECT",
            verb: Verb::Unknown,
            eof: false,
            stop: false,
            closing: None,
            tls: false,
            tls_due: false,
            authenticated: false,
            challenged: false,
            mechanisms: Vec::new(),
            deadline: None,
        }
    }

    /// Appends bytes that were read from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.closing.is_none() {
            self.input.push(bytes);
        }
        if let (Some(deadline), Some(_)) = (&mut self.deadline, &self.content) {
            // `smtpd_min_data_rate`: whoever sends that fast may go on.
            let millis = bytes.len() as u64 * 1000 / self.settings.min_data_rate.max(1);
            *deadline += Duration::from_millis(millis);
        }
    }

    /// The client has closed its side, or reading failed.
    pub fn eof(&mut self) {
        self.eof = true;
    }

    /// Nothing came within the time of `Step::Read`.
    pub fn timed_out(&mut self) {
        if self.closing.is_none() {
            let reply = reply::timeout_exceeded(&self.settings.hostname);
            self.end(CloseReason::Timeout, Some(&reply));
        }
    }

    /// The server goes down: the session ends with 421 as soon as no transaction is open.
    pub fn shut_down(&mut self) {
        self.stop = true;
    }

    /// The piece of content just given could not be kept (disk full, …): the rest of the message is
    /// read and thrown away, `Question::Abort` is asked, and the client gets this reply at its end.
    pub fn refuse_content(&mut self, reply: Reply) {
        match &mut self.content {
            Some(content) if content.refused.is_none() => {
                content.refused = Some(reply);
                self.abort_due = true;
            }
            // The piece was the last one: its refusal is the answer to the end of data.
            None if matches!(self.pending, Some(Pending::EndOfData)) => {
                self.question = None;
                self.answer(Answer::Reply(reply));
                self.abort_due = true;
            }
            _ => {}
        }
    }

    /// What to do next.
    pub fn step(&mut self, now: Instant) -> Step {
        loop {
            if self.abort_due {
                self.abort_due = false;
                // The open question, if any, waits behind this one.
                if self.question.is_none() {
                    self.pending = Some(Pending::Abort);
                }
                return Step::Ask(Question::Abort);
            }
            if let Some(question) = self.question.take() {
                return Step::Ask(question);
            }
            if self.pending.is_some() {
                // A bug of the caller; nothing is let through and nothing is lost.
                self.answer(Answer::Reply(reply::UNANSWERED));
                continue;
            }
            if let Some(reason) = self.closing {
                return self.flush().unwrap_or(Step::Close { reason });
            }
            if self.tls_due {
                return self.flush().unwrap_or_else(|| self.start_tls());
            }
            let step = if self.content.is_some() {
                self.pump_content()
            } else {
                self.next_command()
            };
            if let Some(step) = step {
                return step;
            }
            if self.has_work() {
                continue;
            }
            if self.eof {
                self.end(CloseReason::LostConnection, None);
                continue;
            }
            if let Some(step) = self.flush() {
                return step;
            }
            match self.time_left(now) {
                Some(timeout) => return Step::Read { timeout },
                None => self.timed_out(),
            }
        }
    }

    /// The answer to the question of the last step.
    pub fn answer(&mut self, answer: Answer) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        if self.question.is_some() {
            // This answers an Abort that was asked first.
            self.pending = Some(pending);
            return;
        }
        if let (Answer::Disconnect(reply), false) = (&answer, matches!(pending, Pending::Abort)) {
            let reply = reply.clone();
            if matches!(pending, Pending::EndOfData) {
                self.transaction = None;
            }
            self.end(CloseReason::Disconnected, Some(&reply));
            return;
        }
        match pending {
            Pending::Connect => self.connected(answer),
            Pending::Helo(helo) => self.helo_answered(helo, answer),
            Pending::Count(command, rest) => self.counted(command, &rest, answer),
            Pending::Mail { smtputf8 } => self.mail_answered(smtputf8, answer),
            Pending::Rcpt => self.rcpt_answered(answer),
            Pending::Data => self.data_answered(answer),
            Pending::EndOfData => self.end_of_data_answered(answer),
            Pending::Unknown => self.unknown_answered(answer),
            Pending::Vrfy(text) => self.vrfy_answered(&text, answer),
            Pending::Etrn => self.finish(answer, &reply::ETRN_STARTED),
            Pending::Auth => self.auth_answered(answer),
            Pending::AuthAborted(reply) => self.refuse(&reply),
            Pending::Abort => {}
        }
    }

    /// The client.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What the client may do beside sending mail; nothing to begin with. To be said anew when XCLIENT has changed the client.
    pub fn change_privileges(&mut self, change: impl FnOnce(Privileges) -> Privileges) {
        self.privileges = change(self.privileges);
    }

    /// The command that is being answered, in capitals, or `CONNECT`, or `END-OF-MESSAGE`.
    pub fn place(&self) -> &'static str {
        self.place
    }

    /// The settings that count now.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Other settings for the commands that come, for example after a reload. `protocol` and limits that
    /// belong to a message in progress must not change: call this while no transaction is open.
    pub fn set_settings(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
    }

    /// The last accepted HELO, EHLO or LHLO.
    pub fn helo(&self) -> Option<&Helo> {
        self.helo.as_ref()
    }

    /// `SMTP`, `ESMTP` or `LMTP`, as log lines (`proto=`) and `Received: … with` have it.
    pub fn protocol_name(&self) -> &'static str {
        match (self.settings.protocol, &self.helo) {
            (Protocol::Lmtp, _) => "LMTP",
            (Protocol::Smtp, Some(Helo { extended: true, .. })) => "ESMTP",
            (Protocol::Smtp, _) => "SMTP",
        }
    }

    /// What stands behind `disconnect from name[address]` in the log: `ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4`.
    pub fn summary(&self) -> String {
        self.counters.summary()
    }
}

/// The way of a command.
impl Session {
    /// Executes the next command. `None` when there is none, or when it gave nothing to do yet.
    fn next_command(&mut self) -> Option<Step> {
        if self.errors >= self.settings.hard_error_limit {
            let reply = reply::too_many_errors(&self.settings.hostname);
            self.end(CloseReason::TooManyErrors, Some(&reply));
            return None;
        }
        if self.stop && self.transaction.is_none() {
            let reply = reply::shutting_down(&self.settings.hostname);
            self.end(CloseReason::ShuttingDown, Some(&reply));
            return None;
        }
        if self.input.has_line() && self.errors >= self.settings.soft_error_limit && !self.slept {
            let pause = self.settings.error_sleep_time;
            if !pause.is_zero() {
                if let Some(step) = self.flush() {
                    return Some(step);
                }
                self.slept = true;
                return Some(Step::Sleep(pause));
            }
        }
        if self.challenged {
            let line = self.input.line(self.settings.sasl_response_limit)?;
            self.deadline = None;
            self.auth_response(line);
            return None;
        }
        let line = self.input.line(self.command_limit())?;
        self.slept = false;
        self.deadline = None;
        self.execute(line);
        None
    }

    /// Whether `step` can go on without more input.
    fn has_work(&self) -> bool {
        self.question.is_some()
            || self.pending.is_some()
            || self.abort_due
            || self.closing.is_some()
            || self.tls_due
            || (self.content.is_none()
                && (self.input.has_line() || self.errors >= self.settings.hard_error_limit))
            || (self.content.is_some() && !self.input.is_empty())
    }

    fn execute(&mut self, line: Line) {
        if line.cut {
            self.warn_of_long_line(&line);
        }
        if line.bare_newline && self.settings.forbid_bare_newline == super::BareNewline::Reject {
            return self.refuse_bare_newline();
        }
        let Ok(text) = String::from_utf8(line.bytes) else {
            self.begin(Verb::Unknown);
            return self.refuse(&reply::BAD_UTF8);
        };
        let text = text.trim_matches([' ', '\t']);
        let (word, rest) = match text.find([' ', '\t']) {
            Some(end) => (&text[..end], text[end..].trim_start_matches([' ', '\t'])),
            None => (text, ""),
        };
        // `MAIL:` is no verb, and `RCPT<x>` neither.
        let verb = Verb::of(word);
        let behind_auth = self.place == Verb::Auth.name();
        self.begin(verb);
        if verb == Verb::Unknown && self.is_forbidden(word) {
            // A response that comes too late may be a password.
            let shown = if behind_auth {
                "(not shown after AUTH)"
            } else {
                text
            };
            return self.say_goodbye_to_rule_breaker(shown);
        }
        if self.denied && verb != Verb::Quit {
            let reply = reply::access_denied(&self.peer.name_and_address());
            return self.refuse(&reply);
        }
        if self.must_start_tls() && !verb.is_allowed_in_the_clear() {
            return self.refuse(&reply::STARTTLS_FIRST);
        }
        if verb.is_junk() {
            if self.junk > self.settings.junk_command_limit {
                self.errors += 1;
            }
            self.junk += 1;
        }
        self.watch_pipelining(verb);
        self.dispatch(verb, word, rest);
    }

    fn dispatch(&mut self, verb: Verb, word: &str, rest: &str) {
        match verb {
            Verb::Helo | Verb::Ehlo | Verb::Lhlo => self.helo_command(verb, rest),
            Verb::Mail => self.mail(rest),
            Verb::Rcpt => self.rcpt(rest),
            Verb::Data => self.data(rest),
            Verb::Rset => self.rset(rest),
            Verb::Noop => self.accept(&reply::OK),
            Verb::Vrfy => self.vrfy(rest),
            Verb::Etrn => self.etrn(rest),
            Verb::Quit => self.quit(),
            Verb::StartTls => self.starttls(rest),
            Verb::Auth => self.auth(rest),
            Verb::Bdat => self.refuse(&reply::NOT_IMPLEMENTED),
            Verb::Xclient => self.xclient(rest),
            Verb::Xforward => self.xforward(rest),
            Verb::Unknown => self.unknown(word),
        }
    }

    fn begin(&mut self, verb: Verb) {
        self.verb = verb;
        self.place = verb.name();
        self.counters.given(verb);
    }

    /// The command succeeded.
    pub(super) fn accept(&mut self, reply: &Reply) {
        self.counters.good(self.verb);
        self.say(reply);
    }

    /// The command succeeded, although its reply was given before.
    pub(super) fn count_success(&mut self, verb: Verb) {
        self.counters.good(verb);
    }

    /// The command failed, and counts as an error.
    pub(super) fn refuse(&mut self, reply: &Reply) {
        self.errors += 1;
        self.say(reply);
        if reply.code == 421 || reply.code == 521 {
            self.end(CloseReason::Disconnected, None);
        }
    }

    /// The answer's reply, or ours.
    pub(super) fn finish(&mut self, answer: Answer, ours: &Reply) {
        match refusal(answer) {
            Err(refusal) => self.refuse(&refusal),
            Ok(theirs) => self.accept(theirs.as_ref().unwrap_or(ours)),
        }
    }

    /// Puts a reply behind those not yet sent.
    pub(super) fn say(&mut self, reply: &Reply) {
        reply.write_to(&mut self.output);
    }

    /// Goes on with the command unless the client has given it too often.
    pub(super) fn count(&mut self, command: Counted, rest: &str) {
        match self.settings.count_commands {
            true => self.ask(
                Question::Count(command),
                Pending::Count(command, rest.to_owned()),
            ),
            false => self.counted(command, rest, Answer::Continue),
        }
    }

    fn counted(&mut self, command: Counted, rest: &str, answer: Answer) {
        if let Err(refusal) = refusal(answer) {
            return self.refuse(&refusal);
        }
        match command {
            Counted::Mail => self.mail_counted(rest),
            Counted::Rcpt => self.rcpt_counted(rest),
            Counted::Auth => self.auth_counted(rest),
            Counted::StartTls => self.starttls_counted(),
        }
    }

    pub(super) fn ask(&mut self, question: Question, pending: Pending) {
        self.question = Some(question);
        self.pending = Some(pending);
    }

    /// Forgets the transaction, and tells the caller so if it knows of one.
    pub(super) fn drop_transaction(&mut self) {
        self.forwarded = None;
        if self.transaction.take().is_some() {
            self.abort_due = true;
        }
    }

    pub(super) fn refused_content(&mut self) {
        self.abort_due = true;
    }

    pub(super) fn deny(&mut self) {
        self.denied = true;
    }

    /// More may wait behind a command only where both sides have agreed on pipelining, and behind some commands never
    /// (RFC 2920 section 3.1). It is logged once.
    fn watch_pipelining(&mut self, verb: Verb) {
        let agreed = self.protocol_name() == "ESMTP" && !verb.ends_a_group();
        if !agreed {
            self.note_pipelining();
        }
    }

    pub(super) fn note_pipelining(&mut self) {
        if self.pipelined || self.input.is_empty() {
            return;
        }
        self.pipelined = true;
        let ahead = shown_ahead(self.input.waiting());
        let client = self.peer.name_and_address();
        tracing::info!(
            prog = "smtpd",
            "improper command pipelining after {} from {client}: {ahead}",
            self.place
        );
    }

    /// `smtpd_forbid_unauth_pipelining`: nothing may wait behind EHLO and DATA. Ends the session if so.
    pub(super) fn is_out_of_step(&mut self) -> bool {
        let out = self.settings.forbid_unauth_pipelining && !self.input.is_empty();
        if out {
            self.end(CloseReason::Disconnected, Some(&reply::NOT_SYNCHRONIZED));
        }
        out
    }

    /// Whether the client has sent commands ahead where that is not allowed.
    pub fn has_pipelined(&self) -> bool {
        self.pipelined
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            strict: self.settings.strict_rfc821_envelopes,
            allow_min_user: self.settings.allow_min_user,
            null_domain: self.settings.resolve_null_domain,
            numeric_domain: self.settings.resolve_numeric_domain,
        }
    }

    pub(super) fn warn_of_illegal_address(&self, text: &str) {
        let client = self.peer.name_and_address();
        tracing::warn!(
            prog = "smtpd",
            "Illegal address syntax from {client} in {} command: {text}",
            self.verb.name()
        );
    }

    /// Ends the session: the client hears `last`, the caller that an open transaction is dropped.
    pub(super) fn end(&mut self, reason: CloseReason, last: Option<&Reply>) {
        if self.closing.is_some() {
            return;
        }
        let client = self.peer.name_and_address();
        let place = match &self.content {
            Some(content) => format!("DATA ({} bytes)", content.wire),
            None => self.place.to_owned(),
        };
        match reason {
            CloseReason::LostConnection => tracing::info!(
                prog = "smtpd",
                "lost connection after {place} from {client}"
            ),
            CloseReason::Timeout => {
                tracing::info!(prog = "smtpd", "timeout after {place} from {client}")
            }
            CloseReason::TooManyErrors => tracing::info!(
                prog = "smtpd",
                "too many errors after {place} from {client}"
            ),
            _ => {}
        }
        if let Some(reply) = last {
            self.say(reply);
        }
        // Of a message whose content was refused the caller knows already.
        let knows = self
            .content
            .take()
            .is_some_and(|content| content.refused.is_some());
        if knows {
            self.transaction = None;
        }
        self.drop_transaction();
        self.question = None;
        self.pending = None;
        self.tls_due = false;
        self.closing = Some(reason);
    }

    fn flush(&mut self) -> Option<Step> {
        if self.output.is_empty() {
            return None;
        }
        Some(Step::Send(Bytes::from(std::mem::take(&mut self.output))))
    }

    /// How long the client may be silent; `None`: its time is over.
    fn time_left(&mut self, now: Instant) -> Option<Duration> {
        let timeout = self.settings.timeout;
        if !self.settings.per_request_deadline {
            return Some(timeout);
        }
        let deadline = *self.deadline.get_or_insert(now + timeout);
        let left = deadline.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

/// `Err`: the reply that refuses. `Ok`: the reply that takes the place of ours, if any.
pub(super) fn refusal(answer: Answer) -> Result<Option<Reply>, Reply> {
    let reply = match answer {
        Answer::Continue => return Ok(None),
        Answer::Reply(reply) | Answer::Disconnect(reply) | Answer::Greet(reply) => reply,
        Answer::PerRecipient(replies) => match replies.into_iter().next() {
            Some(reply) => reply,
            None => return Err(reply::UNANSWERED),
        },
    };
    if reply.code < 400 {
        Ok(Some(reply))
    } else {
        Err(reply)
    }
}

/// The start of what a client sent ahead, as a log may show it: AUTH and what follows may be a password.
fn shown_ahead(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().take_while(|line| {
        let start = line.trim_start().get(..4);
        !start.is_some_and(|word| word.eq_ignore_ascii_case("AUTH"))
    });
    let shown: String = lines
        .map(|line| printable(line.as_bytes()) + "\\r\\n")
        .collect();
    shown.chars().take(100).collect()
}

/// Bytes as a log may show them: `?` for control characters.
pub(super) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
