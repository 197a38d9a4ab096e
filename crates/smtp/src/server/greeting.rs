//! The greeting, and clients that are no mail clients.

use super::input::Line;
use super::session::{Session, printable, refusal};
use super::verb::Verb;
use super::{Answer, CloseReason};
use crate::{Reply, reply};

impl Session {
    /// After connecting, and after XCLIENT.
    pub(super) fn connected(&mut self, answer: Answer) {
        self.note_pipelining();
        if let Answer::Greet(greeting) = answer {
            return self.say(&greeting);
        }
        match refusal(answer) {
            Ok(None) => {
                let greeting = Reply::plain(220, self.settings.banner.clone());
                self.say(&greeting);
            }
            Ok(Some(greeting)) => self.say(&greeting),
            Err(refusal) => {
                self.deny();
                self.say(&refusal);
                if refusal.code == 421 || refusal.code == 521 {
                    self.end(CloseReason::Disconnected, None);
                }
            }
        }
    }

    /// A web client, or a message that somebody takes for a dialogue: `smtpd_forbidden_commands`, or a header.
    pub(super) fn is_forbidden(&self, word: &str) -> bool {
        let Some(first) = word.bytes().next() else {
            return false;
        };
        let is_header = || {
            word.split_once(':')
                .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_graphic()))
        };
        (self.settings.forbid_leading_non_letter && !first.is_ascii_alphabetic())
            || self
                .settings
                .forbidden_commands
                .iter()
                .any(|f| f.eq_ignore_ascii_case(word))
            || is_header()
    }

    pub(super) fn say_goodbye_to_rule_breaker(&mut self, line: &str) {
        let shown: String = printable(line.as_bytes()).chars().take(100).collect();
        let client = self.peer.name_and_address();
        tracing::warn!(prog = "smtpd", "non-SMTP command from {client}: {shown}");
        self.end(
            CloseReason::ForbiddenCommand,
            Some(&reply::FORBIDDEN_COMMAND),
        );
    }

    pub(super) fn warn_of_long_line(&self, line: &Line) {
        let mut start: String = printable(&line.bytes).chars().take(30).collect();
        let mut limit = self.settings.line_length_limit;
        if start
            .trim_start()
            .get(..4)
            .is_some_and(|word| word.eq_ignore_ascii_case("AUTH"))
        {
            // What stands behind it may be a password.
            start = Verb::Auth.name().to_owned();
            limit = limit.max(self.settings.sasl_response_limit);
        }
        let client = self.peer.name_and_address();
        tracing::warn!(
            prog = "smtpd",
            "{client}: request longer than {limit}: {start}..."
        );
    }

    pub(super) fn refuse_bare_newline(&mut self) {
        let reply = reply::bare_newline(
            self.settings.forbid_bare_newline_reject_code,
            &self.settings.hostname,
        );
        self.refuse(&reply);
    }
}
