//! DATA, the content, and its end.

use bytes::Bytes;

use super::content::Unstuffer;
use super::session::{Incoming, Pending, Session, refusal};
use super::{Answer, BareNewline, Question, Step};
use crate::{Protocol, Reply, reply};

/// Bytes of content that are given out at once, at most.
const PIECE: usize = 16 * 1024;

impl Session {
    pub(super) fn data(&mut self, rest: &str) {
        let refusal = match &self.transaction {
            None => reply::NEED_RCPT,
            Some(transaction) if transaction.recipients == 0 => reply::NO_VALID_RECIPIENTS,
            Some(_) if !rest.is_empty() => reply::DATA_SYNTAX,
            Some(_) => {
                if !self.is_out_of_step() {
                    self.ask(Question::Data, Pending::Data);
                }
                return;
            }
        };
        self.refuse(&refusal);
    }

    pub(super) fn data_answered(&mut self, answer: Answer) {
        match refusal(answer) {
            Err(refusal) => self.refuse(&refusal),
            Ok(reply) => {
                self.content = Some(Incoming {
                    unstuffer: Unstuffer::new(self.settings.replace_stray_cr),
                    size: 0,
                    wire: 0,
                    refused: None,
                });
                let reply = reply.filter(|r| r.code == 354);
                self.say(reply.as_ref().unwrap_or(&reply::START_DATA));
            }
        }
    }

    /// Takes over what is waiting. `None` when nothing is to be given out.
    pub(super) fn pump_content(&mut self) -> Option<Step> {
        let content = self.content.as_mut()?;
        let waiting = self.input.waiting();
        let waiting = &waiting[..waiting.len().min(PIECE)];
        let mut out = Vec::new();
        let end = content.unstuffer.push(waiting, &mut out);
        let taken = end.unwrap_or(waiting.len());
        self.input.consume(taken);
        content.wire += taken as u64;
        content.size += out.len() as u64;
        let limit = self.settings.message_size_limit;
        // The limit is for the message: its end is not part of it.
        if content.refused.is_none() && limit > 0 && content.wire.saturating_sub(3) > limit {
            let client = self.peer.name_and_address();
            tracing::warn!(
                prog = "smtpd",
                "{client}: message size exceeds message_size_limit {limit}"
            );
            content.refused = Some(reply::MESSAGE_TOO_BIG);
            self.refused_content();
        }
        let given_out =
            self.content.as_ref().is_some_and(|c| c.refused.is_none()) && !out.is_empty();
        if end.is_some() {
            self.end_of_data();
        }
        given_out.then(|| Step::Content(Bytes::from(out)))
    }

    fn end_of_data(&mut self) {
        let Some(content) = self.content.take() else {
            return;
        };
        self.place = "END-OF-MESSAGE";
        let reject = self.settings.forbid_bare_newline == BareNewline::Reject
            && content.unstuffer.saw_bare_newline();
        match content.refused {
            Some(reply) => {
                let replies = self.for_each_recipient(reply);
                self.transaction = None;
                self.refuse_message(&replies);
            }
            None if reject => {
                let code = self.settings.forbid_bare_newline_reject_code;
                let replies =
                    self.for_each_recipient(reply::bare_newline(code, &self.settings.hostname));
                self.drop_transaction();
                self.refuse_message(&replies);
            }
            None => self.ask(
                Question::EndOfData { size: content.size },
                Pending::EndOfData,
            ),
        }
    }

    pub(super) fn end_of_data_answered(&mut self, answer: Answer) {
        let recipients = self.transaction.as_ref().map_or(1, |t| t.recipients);
        let replies = match answer {
            Answer::Continue => self.for_each_recipient(reply::OK),
            Answer::PerRecipient(mut replies) if self.settings.protocol == Protocol::Lmtp => {
                // RFC 2033 4.2: exactly one a recipient; a missing one says "try again".
                replies.resize(recipients, reply::UNANSWERED);
                replies
            }
            other => match refusal(other) {
                Ok(reply) => self.for_each_recipient(reply.unwrap_or(reply::OK)),
                Err(refusal) => self.for_each_recipient(refusal),
            },
        };
        self.transaction = None;
        self.forwarded = None;
        if !replies.iter().any(Reply::is_positive) {
            return self.refuse_message(&replies);
        }
        // A message that was taken over clears the record.
        self.errors = 0;
        self.junk = 0;
        for (i, reply) in replies.iter().enumerate() {
            if i == 0 {
                self.accept(reply)
            } else {
                self.say(reply)
            }
        }
    }

    fn refuse_message(&mut self, replies: &[Reply]) {
        for (i, reply) in replies.iter().enumerate() {
            if i == 0 {
                self.refuse(reply)
            } else {
                self.say(reply)
            }
        }
    }

    /// One reply in SMTP, one a recipient in LMTP.
    fn for_each_recipient(&self, reply: Reply) -> Vec<Reply> {
        let recipients = self.transaction.as_ref().map_or(1, |t| t.recipients);
        match self.settings.protocol {
            Protocol::Smtp => vec![reply],
            Protocol::Lmtp => vec![reply; recipients],
        }
    }
}
