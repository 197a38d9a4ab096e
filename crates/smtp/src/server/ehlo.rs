//! HELO, EHLO and LHLO.

use super::session::{Pending, Session, refusal};
use super::verb::Verb;
use super::{Answer, Helo, Keyword, Question, TlsLevel, xclient, xforward};
use crate::{Protocol, Reply, reply};

impl Session {
    pub(super) fn helo_command(&mut self, verb: Verb, name: &str) {
        if (verb == Verb::Lhlo) != (self.settings.protocol == Protocol::Lmtp) {
            return self.refuse(&reply::UNKNOWN_COMMAND);
        }
        if name.is_empty() {
            let syntax = match verb {
                Verb::Helo => reply::HELO_SYNTAX,
                Verb::Ehlo => reply::EHLO_SYNTAX,
                _ => reply::LHLO_SYNTAX,
            };
            return self.refuse(&syntax);
        }
        if self.is_out_of_step() {
            return;
        }
        // RFC 5321 4.1.4: EHLO begins anew, as RSET does.
        self.drop_transaction();
        let name = name
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        let helo = Helo {
            name,
            extended: verb != Verb::Helo,
        };
        self.ask(Question::Helo(helo.clone()), Pending::Helo(helo));
    }

    pub(super) fn helo_answered(&mut self, helo: Helo, answer: Answer) {
        let text = match refusal(answer) {
            Err(refusal) => return self.refuse(&refusal),
            Ok(Some(reply)) => reply,
            Ok(None) if helo.extended => Reply::plain(250, self.keywords()),
            Ok(None) => Reply::plain(250, self.settings.hostname.clone()),
        };
        self.helo = Some(helo);
        self.accept(&text);
    }

    /// Our name and what we offer, one a line.
    fn keywords(&self) -> String {
        let mut text = self.settings.hostname.clone();
        for keyword in Keyword::ALL.into_iter().filter(|k| self.offers(*k)) {
            text.push('\n');
            text.push_str(keyword.name());
            if keyword == Keyword::Size {
                match self.settings.message_size_limit {
                    0 => {}
                    limit => text.push_str(&format!(" {limit}")),
                }
            }
            if keyword == Keyword::Xclient {
                text.push_str(&format!(" {}", xclient::ATTRIBUTES));
            }
            if keyword == Keyword::Xforward {
                text.push_str(&format!(" {}", xforward::ATTRIBUTES));
            }
            if keyword == Keyword::Auth {
                let mechanisms = self.mechanisms.join(" ");
                text.push_str(&format!(" {mechanisms}"));
                if self.settings.broken_sasl_auth_clients {
                    text.push_str(&format!("\nAUTH={mechanisms}"));
                }
            }
        }
        text
    }

    pub(super) fn offers(&self, keyword: Keyword) -> bool {
        let settings = &self.settings;
        let has = match keyword {
            Keyword::Vrfy => !settings.disable_vrfy_command,
            Keyword::Etrn => settings.protocol == Protocol::Smtp,
            Keyword::StartTls => settings.tls != TlsLevel::None && !self.tls,
            Keyword::Auth => self.may_authenticate() && !self.mechanisms.is_empty(),
            Keyword::Xclient => self.privileges.xclient,
            Keyword::Xforward => self.privileges.xforward,
            Keyword::SmtpUtf8 => settings.smtputf8_enable,
            _ => true,
        };
        has && !settings.discard_ehlo_keywords.contains(&keyword)
    }
}
