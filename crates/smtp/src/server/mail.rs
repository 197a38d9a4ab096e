//! MAIL FROM.

use super::param::{split, value};
use super::session::{Pending, Session, Transaction, refusal};
use super::{Answer, Counted, Keyword, MailFrom, Question};
use crate::{Protocol, Reply, Ret, address, reply, xtext};

impl Session {
    pub(super) fn mail(&mut self, raw: &str) {
        match self.may_begin_mail(raw) {
            Ok(()) => self.count(Counted::Mail, raw),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// MAIL that the client may give: neither too early nor too often.
    pub(super) fn mail_counted(&mut self, raw: &str) {
        match self.parse_mail(raw) {
            Ok(mail) => {
                let pending = Pending::Mail {
                    smtputf8: mail.smtputf8,
                };
                self.ask(Question::Mail(mail), pending);
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    pub(super) fn mail_answered(&mut self, smtputf8: bool, answer: Answer) {
        match refusal(answer) {
            Err(refusal) => self.refuse(&refusal),
            Ok(reply) => {
                self.transaction = Some(Transaction {
                    smtputf8,
                    ..Transaction::default()
                });
                self.accept(&reply.unwrap_or(reply::SENDER_OK));
            }
        }
    }

    fn may_begin_mail(&self, raw: &str) -> Result<(), Reply> {
        let lmtp = self.settings.protocol == Protocol::Lmtp;
        if self.helo.is_none() && (self.settings.helo_required || lmtp) {
            return Err(if lmtp {
                reply::LHLO_FIRST
            } else {
                reply::HELO_FIRST
            });
        }
        if self.transaction.is_some() {
            return Err(reply::NESTED_MAIL);
        }
        split(raw, "FROM:").map(drop).ok_or(reply::MAIL_SYNTAX)
    }

    fn parse_mail(&mut self, raw: &str) -> Result<MailFrom, Reply> {
        let (given, words) = split(raw, "FROM:").ok_or(reply::MAIL_SYNTAX)?;
        let address = self.extract(given).ok_or(reply::BAD_SENDER)?;
        // Whether a domain is good depends on a parameter that comes behind it.
        let smtputf8 = self.offers(Keyword::SmtpUtf8)
            && words.iter().any(|w| w.eq_ignore_ascii_case("SMTPUTF8"));
        self.check_utf8(&address, smtputf8)?;
        if !address.is_empty() && !address::is_valid(&address, smtputf8, self.rules()) {
            self.warn_of_illegal_address(given);
            return Err(reply::BAD_SENDER);
        }
        let mut mail = MailFrom {
            address,
            raw: raw.to_owned(),
            size: None,
            eight_bit: false,
            smtputf8,
            envid: None,
            ret: None,
            auth: None,
        };
        for word in words {
            self.mail_parameter(&mut mail, word)?;
        }
        let limit = self.settings.message_size_limit;
        if limit > 0 && mail.size.is_some_and(|size| size > limit) {
            return Err(reply::TOO_LARGE);
        }
        Ok(mail)
    }

    fn mail_parameter(&self, mail: &mut MailFrom, word: &str) -> Result<(), Reply> {
        if let Some(size) = value(word, "SIZE") {
            mail.size = Some(parse_size(size)?);
        } else if let Some(body) = value(word, "BODY") {
            mail.eight_bit = match body {
                b if b.eq_ignore_ascii_case("8BITMIME") => true,
                b if b.eq_ignore_ascii_case("7BIT") => false,
                _ => return Err(reply::unsupported_option(word)),
            };
        } else if word.eq_ignore_ascii_case("SMTPUTF8") && mail.smtputf8 {
            // Seen before the others.
        } else if let Some(ret) = value(word, "RET") {
            let once = mail.ret.is_none();
            mail.ret = Some(Ret::parse(ret).filter(|_| once).ok_or(reply::BAD_RET)?);
        } else if let Some(envid) = value(word, "ENVID") {
            // RFC 3461 4.4: up to 100 printable ASCII characters, as xtext.
            let good = mail.envid.is_none()
                && (1..=100).contains(&envid.len())
                && envid.bytes().all(|b| b.is_ascii_graphic());
            let envid = xtext::decode(envid)
                .filter(|decoded| good && decoded.bytes().all(|b| (b' '..=b'~').contains(&b)));
            mail.envid = Some(envid.ok_or(reply::BAD_ENVID)?);
        } else if let Some(auth) = value(word, "AUTH") {
            if mail.auth.is_some() {
                return Err(reply::MULTIPLE_AUTH);
            }
            xtext::decode(auth).ok_or(reply::BAD_AUTH)?;
            mail.auth = Some(auth.to_owned());
        } else {
            return Err(reply::unsupported_option(word));
        }
        Ok(())
    }

    /// The address of MAIL or RCPT, or `None` with a warning in the log.
    pub(super) fn extract(&self, given: &str) -> Option<String> {
        match address::extract(given, self.rules()) {
            Ok(address) => Some(address),
            Err(address::Malformed::Unclosed) => None,
            Err(address::Malformed::Illegal) => {
                self.warn_of_illegal_address(given);
                None
            }
        }
    }

    /// `strict_smtputf8`.
    pub(super) fn check_utf8(&self, address: &str, smtputf8: bool) -> Result<(), Reply> {
        if self.settings.strict_smtputf8 && !smtputf8 && !address.is_ascii() {
            return Err(reply::NEED_SMTPUTF8);
        }
        Ok(())
    }
}

/// `SIZE=` (RFC 1870).
fn parse_size(text: &str) -> Result<u64, Reply> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(reply::BAD_SIZE);
    }
    text.parse::<i64>()
        .map(|size| size as u64)
        .map_err(|_| reply::TOO_LARGE_FOR_ANY)
}
