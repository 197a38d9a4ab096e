//! RCPT TO.

use super::param::{split, value};
use super::session::{Pending, Session, refusal};
use super::{Answer, Counted, Question, RcptTo};
use crate::{Notify, Reply, address, reply, xtext};

impl Session {
    pub(super) fn rcpt(&mut self, raw: &str) {
        if self.transaction.is_none() {
            self.refuse(&reply::NEED_MAIL);
        } else if split(raw, "TO:").is_none() {
            self.refuse(&reply::RCPT_SYNTAX);
        } else {
            self.count(Counted::Rcpt, raw);
        }
    }

    /// RCPT that the client may give: neither too early nor too often.
    pub(super) fn rcpt_counted(&mut self, raw: &str) {
        match self.parse_rcpt(raw) {
            Err(refusal) => self.refuse(&refusal),
            Ok(_) if self.is_over_limit() => {}
            Ok(rcpt) => self.ask(Question::Rcpt(rcpt), Pending::Rcpt),
        }
    }

    pub(super) fn rcpt_answered(&mut self, answer: Answer) {
        match (refusal(answer), &mut self.transaction) {
            (Err(refusal), _) => self.refuse(&refusal),
            (Ok(reply), Some(transaction)) => {
                transaction.recipients += 1;
                self.accept(&reply.unwrap_or(reply::RECIPIENT_OK));
            }
            (Ok(_), None) => self.refuse(&reply::NEED_MAIL),
        }
    }

    fn parse_rcpt(&mut self, raw: &str) -> Result<RcptTo, Reply> {
        let smtputf8 = self.transaction.as_ref().ok_or(reply::NEED_MAIL)?.smtputf8;
        let (given, words) = split(raw, "TO:").ok_or(reply::RCPT_SYNTAX)?;
        let address = self.extract(given).ok_or(reply::BAD_RECIPIENT)?;
        self.check_utf8(&address, smtputf8)?;
        if !address::is_valid(&address, smtputf8, self.rules()) {
            self.warn_of_illegal_address(given);
            return Err(reply::BAD_RECIPIENT);
        }
        let mut rcpt = RcptTo {
            address,
            raw: raw.to_owned(),
            notify: None,
            orcpt: None,
        };
        for word in words {
            parameter(&mut rcpt, word)?;
        }
        Ok(rcpt)
    }

    /// `smtpd_recipient_limit`: 452; only beyond `smtpd_recipient_overshoot_limit` it is an error too.
    fn is_over_limit(&mut self) -> bool {
        let (limit, overshoot) = (
            self.settings.recipient_limit,
            self.settings.recipient_overshoot_limit,
        );
        let Some(transaction) = self.transaction.as_mut() else {
            return false;
        };
        if limit == 0 || transaction.recipients < limit {
            return false;
        }
        transaction.overshoot += 1;
        if transaction.overshoot > overshoot {
            self.refuse(&reply::TOO_MANY_RECIPIENTS);
        } else {
            self.accept(&reply::TOO_MANY_RECIPIENTS);
        }
        true
    }
}

fn parameter(rcpt: &mut RcptTo, word: &str) -> Result<(), Reply> {
    if let Some(notify) = value(word, "NOTIFY") {
        let once = rcpt.notify.is_none();
        rcpt.notify = Some(
            Notify::parse(notify)
                .filter(|_| once)
                .ok_or(reply::BAD_NOTIFY)?,
        );
    } else if let Some(orcpt) = value(word, "ORCPT") {
        let (kind, original) = orcpt.split_once(';').ok_or(reply::BAD_ORCPT)?;
        let original = xtext::decode(original).ok_or(reply::BAD_ORCPT)?;
        if kind.is_empty() || rcpt.orcpt.is_some() {
            return Err(reply::BAD_ORCPT);
        }
        rcpt.orcpt = Some(format!("{kind};{original}"));
    } else {
        return Err(reply::unsupported_option(word));
    }
    Ok(())
}
