//! RSET, VRFY, ETRN, QUIT, and what is no command of ours.

use super::session::{Pending, Session, refusal};
use super::{Answer, CloseReason, Keyword, Question};
use crate::address::Rules;
use crate::{Protocol, Reply, address, reply};

impl Session {
    pub(super) fn rset(&mut self, rest: &str) {
        if !rest.is_empty() {
            return self.refuse(&reply::RSET_SYNTAX);
        }
        self.drop_transaction();
        self.accept(&reply::OK);
    }

    pub(super) fn quit(&mut self) {
        self.accept(&reply::BYE);
        self.end(CloseReason::Quit, None);
    }

    pub(super) fn vrfy(&mut self, rest: &str) {
        if self.settings.disable_vrfy_command {
            return self.refuse(&reply::VRFY_DISABLED);
        }
        let utf8_offered = self.offers(Keyword::SmtpUtf8);
        let (text, smtputf8) = match rest.rsplit_once([' ', '\t']) {
            Some((text, word)) if utf8_offered && word.eq_ignore_ascii_case("SMTPUTF8") => {
                (text.trim_end(), true)
            }
            _ => (rest, false),
        };
        if text.is_empty() {
            let syntax = if utf8_offered {
                reply::VRFY_SYNTAX_UTF8
            } else {
                reply::VRFY_SYNTAX
            };
            return self.refuse(&syntax);
        }
        let rules = Rules {
            strict: false,
            ..self.rules()
        };
        let address = address::extract(text, rules)
            .ok()
            .filter(|a| address::is_valid(a, smtputf8, rules));
        let Some(address) = address else {
            self.warn_of_illegal_address(text);
            return self.refuse(&reply::BAD_RECIPIENT);
        };
        if let Err(refusal) = self.check_utf8(&address, smtputf8) {
            return self.refuse(&refusal);
        }
        self.ask(Question::Vrfy(address), Pending::Vrfy(text.to_owned()));
    }

    pub(super) fn vrfy_answered(&mut self, text: &str, answer: Answer) {
        match refusal(answer) {
            Err(refusal) => self.refuse(&refusal),
            // RFC 5321 3.5.3: "cannot verify, but will accept".
            Ok(reply) => {
                let ours = || Reply::new(252, crate::EnhancedCode::new(2, 0, 0), text.to_owned());
                self.accept(&reply.unwrap_or_else(ours));
            }
        }
    }

    pub(super) fn etrn(&mut self, rest: &str) {
        if self.settings.protocol == Protocol::Lmtp {
            return self.refuse(&reply::UNKNOWN_COMMAND);
        }
        if self.transaction.is_some() {
            return self.refuse(&reply::ETRN_IN_TRANSACTION);
        }
        if rest.is_empty() || rest.contains([' ', '\t']) {
            return self.refuse(&reply::ETRN_SYNTAX);
        }
        // RFC 1985 5.3: `@` and `#` stand before a domain and a queue name.
        let domain = rest.strip_prefix(['@', '#']).unwrap_or(rest);
        self.ask(Question::Etrn(domain.to_owned()), Pending::Etrn);
    }

    pub(super) fn unknown(&mut self, word: &str) {
        if word.is_empty() {
            return self.refuse(&reply::BAD_SYNTAX);
        }
        if self
            .settings
            .noop_commands
            .iter()
            .any(|c| c.eq_ignore_ascii_case(word))
        {
            return self.accept(&reply::OK);
        }
        match self.settings.ask_unknown {
            true => self.ask(Question::Unknown(word.to_owned()), Pending::Unknown),
            false => self.refuse(&reply::UNKNOWN_COMMAND),
        }
    }

    pub(super) fn unknown_answered(&mut self, answer: Answer) {
        match refusal(answer) {
            Err(refusal) => self.refuse(&refusal),
            Ok(_) => self.refuse(&reply::UNKNOWN_COMMAND),
        }
    }
}
