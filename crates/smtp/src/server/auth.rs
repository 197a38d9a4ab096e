//! AUTH (RFC 4954): the dialogue; who knows the passwords is asked by the caller.

use super::input::Line;
use super::session::{Pending, Session, refusal};
use super::verb::Verb;
use super::{Answer, Auth, Counted, Keyword, Question, Secret, TlsLevel};
use crate::reply;

impl Session {
    /// The mechanisms that the next EHLO reply offers; none: AUTH is not offered.
    pub fn offer_mechanisms(&mut self, mechanisms: Vec<String>) {
        self.mechanisms = mechanisms;
    }

    /// Whether AUTH is possible now: enabled, and encrypted where `smtpd_tls_auth_only` or the TLS level wants it.
    pub fn may_authenticate(&self) -> bool {
        let settings = &self.settings;
        let only_under_tls = settings.tls_auth_only || settings.tls == TlsLevel::Encrypt;
        settings.sasl
            && (self.tls || !only_under_tls)
            && !settings.discard_ehlo_keywords.contains(&Keyword::Auth)
    }

    /// How long the command line that is coming may be. RFC 4954 section 4: AUTH with an initial response, such as an OAuth
    /// token, is allowed more than others.
    pub(super) fn command_limit(&self) -> usize {
        let settings = &self.settings;
        let begins = self.input.waiting().get(..Verb::Auth.name().len());
        match begins.is_some_and(|word| word.eq_ignore_ascii_case(b"AUTH")) {
            true => settings.line_length_limit.max(settings.sasl_response_limit),
            false => settings.line_length_limit,
        }
    }

    pub(super) fn auth(&mut self, rest: &str) {
        self.count(Counted::Auth, rest);
    }

    /// AUTH that the client has not given too often.
    pub(super) fn auth_counted(&mut self, rest: &str) {
        let mut words = rest.split([' ', '\t']).filter(|word| !word.is_empty());
        let (mechanism, initial, more) = (words.next(), words.next(), words.next());
        if !self.may_authenticate() {
            return self.refuse(&reply::NO_AUTHENTICATION);
        }
        if self.transaction.is_some() {
            return self.refuse(&reply::AUTH_IN_TRANSACTION);
        }
        if self.authenticated {
            return self.refuse(&reply::ALREADY_AUTHENTICATED);
        }
        let (Some(mechanism), None) = (mechanism, more) else {
            return self.refuse(&reply::AUTH_SYNTAX);
        };
        let auth = Auth {
            mechanism: mechanism.to_owned(),
            initial: initial.map(Secret::new),
        };
        self.ask(Question::Auth(auth), Pending::Auth);
    }

    /// The line that follows a challenge.
    pub(super) fn auth_response(&mut self, line: Line) {
        self.challenged = false;
        let refusal = if line.cut {
            Some(reply::AUTH_TOO_LONG)
        } else if line.bytes == b"*" {
            Some(reply::AUTH_ABORTED)
        } else {
            None
        };
        match refusal {
            Some(refusal) => self.ask(Question::AuthAborted, Pending::AuthAborted(refusal)),
            None => {
                let response = Secret::new(String::from_utf8_lossy(&line.bytes));
                self.ask(Question::AuthResponse(response), Pending::Auth);
            }
        }
    }

    pub(super) fn auth_answered(&mut self, answer: Answer) {
        match refusal(answer) {
            Err(refusal) => self.refuse(&refusal),
            Ok(Some(challenge)) if challenge.code == 334 => {
                self.challenged = true;
                self.say(&challenge);
            }
            Ok(reply) => {
                self.authenticated = true;
                self.count_success(Verb::Auth);
                self.say(&reply.unwrap_or(reply::AUTHENTICATED));
            }
        }
    }
}
