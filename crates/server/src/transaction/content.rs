//! The content of a message on its way in: header and body checks, the header, milters at its end.

use bytes::Bytes;
use filter::checks::Step;
use filter::{Checker, Context, Findings};
use policy::Refusal;

use super::{Client, MOST_LINES, Transaction, storage_refusal};
use crate::milter::{Guard, Standing};

impl Transaction {
    /// A piece of the message.
    pub async fn content(&mut self, piece: Bytes, client: &Client<'_>) -> Result<(), Refusal> {
        let lines = piece.iter().filter(|byte| **byte == b'\n').count();
        self.received_size += (piece.len() + lines) as u64;
        match self.checker.take() {
            None => self.checked(piece).await,
            Some(checker) => Box::pin(self.check(checker, Some(piece), client)).await,
        }
    }

    /// Header and body checks. `None`: the end of the message.
    pub(super) async fn check(
        &mut self,
        mut checker: Checker,
        piece: Option<Bytes>,
        client: &Client<'_>,
    ) -> Result<(), Refusal> {
        let id = self.id().map(|id| id.to_string());
        let name = client.peer.name_and_address();
        let recipient = self.last_recipient();
        let sender = self.mail.address.clone();
        let context = Context {
            id: id.as_deref().unwrap_or("NOQUEUE"),
            client: &name,
            sender: &sender,
            recipient: recipient.as_deref(),
            protocol: client.protocol,
            helo: client.helo,
        };
        let steps = match piece {
            Some(piece) => checker.feed(&piece, &context).await,
            None => checker.finish(&context).await,
        };
        for Step { text, log } in steps {
            let of_message_id = text
                .get(..11)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"message-id:"));
            self.checked(text).await?;
            self.content_log.extend(log);
            // A message that is not to be has no more said of it, unless this very header was the reason.
            self.told_message_id |= checker.is_final() && !of_message_id;
        }
        self.checker = Some(checker);
        if self.content_log.len() > MOST_LINES {
            self.log_content();
        }
        Ok(())
    }

    /// Logs what there is to say of the content: behind what restrictions said of the end of the message, as far as that can wait.
    pub fn log_content(&mut self) {
        for line in self.content_log.drain(..) {
            tracing::info!(prog = "cleanup", "{line}");
        }
    }

    /// The recipient that the log names with the content: the last one.
    pub(super) fn last_recipient(&self) -> Option<String> {
        let last = self.accepted.last();
        last.map(|last| last.rcpt.address.clone())
    }

    pub(super) async fn checked(&mut self, piece: Bytes) -> Result<(), Refusal> {
        let piece = match &mut self.header {
            Some(header) => header.feed(piece),
            None => piece,
        };
        self.log_message_id();
        self.append(&piece).await
    }

    /// Once the header is complete, as whoever follows a message through the log expects it before
    /// anything that is said of its content.
    pub(super) fn log_message_id(&mut self) {
        if self.told_message_id || self.effects.discard.is_some() {
            return;
        }
        if let (Some(header), Some(id)) = (&self.header, self.id())
            && (header.is_complete() || header.message_id.is_some())
        {
            let message_id = header.message_id.as_deref().unwrap_or("<>");
            self.content_log
                .push(format!("{id}: message-id={message_id}"));
            self.told_message_id = true;
        }
    }

    pub(super) async fn append(&mut self, piece: &Bytes) -> Result<(), Refusal> {
        if piece.is_empty() {
            return Ok(());
        }
        match &mut self.spooling {
            Some(spooling) => spooling
                .append(piece)
                .await
                .map_err(|error| storage_refusal(&error)),
            None => Err(policy::reply::queue_file_write_error().into()),
        }
    }

    /// What header_checks(5) and its relatives want beside a changed text.
    pub(super) fn take_findings(&mut self, findings: Findings) -> Result<(), Refusal> {
        if findings.failed {
            return Err(policy::reply::queue_file_write_error().into());
        }
        if let Some((status, text)) = findings.reject {
            return Err(policy::reply::content_rejected(status, &text).into());
        }
        let effects = &mut self.effects;
        effects.hold = effects.hold.take().or(findings.hold);
        effects.discard = effects.discard.take().or(findings.discard);
        effects.filter = findings.filter.or(effects.filter.take());
        effects.redirect = findings.redirect.or(effects.redirect.take());
        effects.bcc.extend(findings.bcc);
        Ok(())
    }

    /// Shows the message to the milters, and takes it back as they want it.
    pub(super) async fn ask_milters(
        &mut self,
        client: &Client<'_>,
        guard: &mut Guard,
    ) -> Result<(), Refusal> {
        let Some(message) = self.spooling.take() else {
            return Ok(());
        };
        // Where it is to be thrown away, this still has its id.
        let empty = message.successor();
        let id = message.id().to_string();
        let recipient = self.last_recipient();
        let standing = Standing {
            id: Some(&id),
            sender: Some(&self.mail.address),
            recipient: recipient.as_deref(),
            held: self.effects.hold.is_some(),
        };
        let shown = guard
            .message(client, message, self.prepended, standing)
            .await;
        let shown = shown.map_err(|problem| {
            tracing::warn!(prog = "cleanup", "{id}: {problem}");
            policy::reply::queue_file_write_error()
        })?;
        if let Some(refusal) = shown.refusal {
            return Err(refusal.into());
        }
        self.take_findings(shown.findings)?;
        if shown.hold {
            self.effects.hold.get_or_insert_default();
        }
        if shown.discard {
            self.effects.discard.get_or_insert_default();
        }
        self.changes = shown.changes;
        self.spooling = Some(shown.message.unwrap_or(empty));
        Ok(())
    }
}
