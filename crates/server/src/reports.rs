//! The reports of an attempt: which are due, and the messages they become.

use std::time::{Instant, SystemTime};

use delivery::dsn::{self, Kind};
use delivery::{Outcome, Rcpt, Status};
use mail::EnhancedCode;
use queue::{Envelope, Message, QueueError, QueueId, Recipient, RecipientState, Update};
use route::Walk;

use crate::attempt::{Attempt, Result1};

impl Attempt<'_> {
    pub(crate) fn reports_due(
        &self,
        envelope: &Envelope,
        mail: &delivery::Message,
        results: &[Result1],
        now: SystemTime,
    ) -> bool {
        !self.unreported(envelope, mail).is_empty()
            || self
                .delivered_with_notice(envelope, mail, results)
                .next()
                .is_some()
            || self.delay_to_tell(envelope, mail, now)
    }

    /// Bounced recipients whose sender is not told yet and wants to know.
    fn unreported(&self, envelope: &Envelope, mail: &delivery::Message) -> Vec<usize> {
        let recipients = envelope.recipients.iter().enumerate();
        let due = recipients.filter(|(index, recipient)| {
            let unreported = matches!(
                recipient.state,
                RecipientState::Bounced {
                    reported: false,
                    ..
                }
            );
            unreported && dsn::is_wanted(Kind::Failure, mail, &Rcpt::new(*index, recipient, false))
        });
        due.map(|(index, _)| index).collect()
    }

    fn delivered_with_notice<'a>(
        &self,
        envelope: &'a Envelope,
        mail: &'a delivery::Message,
        results: &'a [Result1],
    ) -> impl Iterator<Item = (Rcpt, &'a Outcome)> {
        results.iter().filter_map(|(index, outcome)| {
            let rcpt = Rcpt::new(*index, &envelope.recipients[*index], false);
            let wanted =
                outcome.status == Status::Sent && dsn::is_wanted(Kind::Success, mail, &rcpt);
            wanted.then_some((rcpt, outcome))
        })
    }

    fn delay_to_tell(
        &self,
        envelope: &Envelope,
        mail: &delivery::Message,
        now: SystemTime,
    ) -> bool {
        let wanted = |index: usize| {
            let rcpt = Rcpt::new(index, &envelope.recipients[index], false);
            dsn::is_wanted(Kind::Delay, mail, &rcpt)
        };
        !envelope.delay_warned
            && self
                .generation
                .schedule
                .warns_of_delay(envelope.arrival, now)
            && envelope.unfinished().any(wanted)
    }

    /// Sends what reports are due; `false` when one could not be sent and must be tried again.
    pub(crate) async fn send_reports(
        &self,
        id: QueueId,
        envelope: &mut Envelope,
        mail: &delivery::Message,
        results: &[Result1],
        now: SystemTime,
    ) -> Result<bool, QueueError> {
        let mut all_sent = true;
        let delivered: Vec<_> = self
            .delivered_with_notice(envelope, mail, results)
            .collect();
        if !delivered.is_empty() {
            let about: Vec<_> = delivered
                .iter()
                .map(|(rcpt, outcome)| (rcpt, *outcome))
                .collect();
            let name = "sender delivery status notification";
            self.send_report(id, Kind::Success, mail, &about, name)
                .await;
        }
        let unreported = self.unreported(envelope, mail);
        if !unreported.is_empty() {
            let about = failures(envelope, &unreported, results);
            let about: Vec<_> = about
                .iter()
                .map(|(rcpt, outcome)| (rcpt, outcome))
                .collect();
            let name = "sender non-delivery notification";
            if self
                .send_report(id, Kind::Failure, mail, &about, name)
                .await
            {
                let states = unreported
                    .iter()
                    .map(|&index| (index, as_reported(envelope.recipients[index].state.clone())));
                let update = Update {
                    recipients: states.collect(),
                    ..Update::default()
                };
                envelope.apply(&update);
                if !envelope.is_finished() {
                    self.spool.update(id, update).await?;
                }
            } else {
                all_sent = false;
            }
        }
        if self.delay_to_tell(envelope, mail, now) {
            let waiting: Vec<usize> = envelope.unfinished().collect();
            let about = failures(envelope, &waiting, results);
            let about: Vec<_> = about
                .iter()
                .map(|(rcpt, outcome)| (rcpt, outcome))
                .collect();
            if self
                .send_report(id, Kind::Delay, mail, &about, "sender delay notification")
                .await
            {
                let update = Update {
                    delay_warned: Some(true),
                    ..Update::default()
                };
                envelope.apply(&update);
                self.spool.update(id, update).await?;
            }
        }
        Ok(all_sent)
    }

    /// Puts a report into the queue. Its recipient goes through the aliases like any other.
    async fn send_report(
        &self,
        id: QueueId,
        kind: Kind,
        mail: &delivery::Message,
        about: &[(&Rcpt, &Outcome)],
        name: &str,
    ) -> bool {
        match self.compose_and_commit(kind, mail, about).await {
            Ok(report) => {
                tracing::info!(prog = "bounce", "{id}: {name}: {}", report.id);
                self.scheduler.accept(report);
                true
            }
            Err(error) => {
                tracing::warn!(prog = "bounce", "{id}: {name} could not be sent: {error}");
                false
            }
        }
    }

    async fn compose_and_commit(
        &self,
        kind: Kind,
        mail: &delivery::Message,
        about: &[(&Rcpt, &Outcome)],
    ) -> Result<Message, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut walk = Walk::new(Instant::now());
        let tree = self
            .generation
            .router
            .recipients_of(&mut walk, &mail.sender)
            .await;
        let tree = tree.map_err(|error| text(&error))?;
        let mut spooling = self.spool.incoming().map_err(|error| text(&error))?;
        let now = SystemTime::now();
        let report_id = spooling.id().to_string();
        let settings = &self.generation.reports;
        let report = dsn::compose(settings, kind, mail, about, &report_id, now)
            .map_err(|error| text(&error))?;
        let message_id = &report.message_id;
        tracing::info!(prog = "cleanup", "{report_id}: message-id={message_id}");
        spooling
            .append(&report.content)
            .await
            .map_err(|error| text(&error))?;
        let recipients = tree
            .leaf_addresses()
            .map(|leaf| Recipient::new(leaf, &report.recipient));
        let mut envelope = Envelope::new("", recipients.collect(), now);
        envelope.smtputf8 = report.smtputf8;
        envelope.eight_bit = true;
        self.spool
            .commit(spooling, envelope)
            .await
            .map_err(|error| text(&error))
    }
}

fn as_reported(state: RecipientState) -> RecipientState {
    match state {
        RecipientState::Bounced {
            dsn,
            text,
            relay,
            diagnostic,
            ..
        } => RecipientState::Bounced {
            dsn,
            text,
            relay,
            diagnostic,
            reported: true,
        },
        other => other,
    }
}

/// The recipients with what was last heard of them: in this attempt, or in an earlier one.
fn failures(envelope: &Envelope, indices: &[usize], results: &[Result1]) -> Vec<(Rcpt, Outcome)> {
    let of = |&index: &usize| {
        let recipient = &envelope.recipients[index];
        let known = results.iter().rfind(|(found, _)| *found == index);
        let outcome = match (known, &recipient.state) {
            (Some((_, outcome)), _) => outcome.clone(),
            (
                None,
                RecipientState::Bounced {
                    dsn, text, relay, ..
                },
            ) => {
                let code = dsn.parse().unwrap_or(EnhancedCode::new(5, 0, 0));
                Outcome::bounced("qmgr", code, text.clone()).via(relay.clone().unwrap_or_default())
            }
            (None, RecipientState::Deferred { dsn, text, .. }) => {
                let code = dsn.parse().unwrap_or(EnhancedCode::new(4, 0, 0));
                Outcome::deferred("qmgr", code, text.clone())
            }
            (None, _) => Outcome::deferred("qmgr", EnhancedCode::new(4, 0, 0), "not tried yet"),
        };
        (Rcpt::new(index, recipient, false), outcome)
    };
    indices.iter().map(of).collect()
}
