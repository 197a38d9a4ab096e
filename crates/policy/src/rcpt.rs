//! The decision about one recipient, and about the other commands of a transaction.

use route::{ExpandError, Expansion, Leaf, Verdict as LeafVerdict, Walk};
use smtp::Reply;

use crate::evaluate::{Outcome, Question};
use crate::{Effects, Facts, Policy, reply};

/// A recipient that is welcome.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The recipient in canonical form.
    pub address: String,
    /// Its leaves, unless `postroom_resolve_at_rcpt = no` leaves them for the end of the message.
    pub leaves: Option<(Expansion, Vec<Leaf>)>,
}

/// A recipient, sender or client that is not.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub reply: Reply,
    /// For the log and the administrator: what the reply does not tell the client.
    pub detail: Option<String>,
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Self {
        Refusal {
            reply,
            detail: None,
        }
    }
}

/// Yes with what was found out, or no.
pub type Verdict<T> = Result<T, Refusal>;

/// The points of a dialogue at which restrictions decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Client,
    Helo,
    Sender,
    Recipient,
    Data,
    EndOfData,
    Etrn,
}

impl Stage {
    /// What `smtpd_delay_reject` puts off until RCPT.
    fn is_early(self) -> bool {
        matches!(self, Stage::Client | Stage::Helo | Stage::Sender)
    }
}

impl Policy {
    /// The restrictions of one stage. RCPT asks [`Policy::recipient`] and MAIL [`Policy::sender`],
    /// which decide more than that.
    pub async fn decide(
        &self,
        stage: Stage,
        walk: &mut Walk,
        facts: Facts<'_>,
        effects: &mut Effects,
    ) -> Verdict<()> {
        self.decide_on(stage, None, walk, facts, effects).await
    }

    /// ETRN for a domain.
    pub async fn etrn(
        &self,
        domain: &str,
        walk: &mut Walk,
        facts: Facts<'_>,
        effects: &mut Effects,
    ) -> Verdict<()> {
        self.decide_on(Stage::Etrn, Some(domain), walk, facts, effects)
            .await
    }

    async fn decide_on(
        &self,
        stage: Stage,
        etrn: Option<&str>,
        walk: &mut Walk,
        facts: Facts<'_>,
        effects: &mut Effects,
    ) -> Verdict<()> {
        let earlier = match stage {
            Stage::Recipient => effects.defer_if_permit.clone(),
            _ => None,
        };
        let mut question = Question {
            facts,
            walk,
            effects,
            stage,
            etrn,
            defer_if_permit: earlier,
            defer_if_reject: None,
            warning: 0,
        };
        let outcome = self.outcome(&mut question).await;
        let later = question.defer_if_permit.take();
        let reply = match (outcome, later) {
            (Outcome::Refuse(reply), _) => self.softened(reply),
            // Where the rest of a dialogue is still to come, it may yet refuse for good.
            (_, Some(later)) if stage.is_early() => {
                effects.defer_if_permit.get_or_insert(later);
                return Ok(());
            }
            (_, Some(later)) => later,
            _ => return Ok(()),
        };
        let notes = std::mem::take(&mut effects.notes);
        let detail = (!notes.is_empty()).then(|| notes.join("; "));
        Err(Refusal { reply, detail })
    }

    async fn outcome(&self, asked: &mut Question<'_>) -> Outcome {
        match asked.stage {
            stage if stage.is_early() && self.delay_reject => Outcome::Dunno,
            Stage::Client => self.client_stage(asked).await,
            Stage::Helo => self.helo_stage(asked).await,
            Stage::Sender => self.sender_stage(asked).await,
            Stage::Recipient => self.recipient_stage(asked).await,
            Stage::Data => {
                let list = &self.stages.data;
                self.run(asked, list, reply::DATA, "DATA").await
            }
            Stage::EndOfData => {
                let list = &self.stages.end_of_data;
                self.run(asked, list, reply::END_OF_DATA, "END-OF-MESSAGE")
                    .await
            }
            Stage::Etrn => self.etrn_stage(asked).await,
        }
    }

    /// At MAIL: the syntax that only rewriting shows, then the restrictions unless delayed.
    pub async fn sender(
        &self,
        walk: &mut Walk,
        facts: Facts<'_>,
        effects: &mut Effects,
    ) -> Verdict<()> {
        let sender = facts.sender.unwrap_or_default();
        if !sender.is_empty() {
            let canonical = self.router.rewrite(sender);
            if self
                .is_malformed(walk, &canonical, sender, facts.smtputf8)
                .await?
            {
                return Err(smtp::reply::BAD_SENDER.into());
            }
        }
        self.decide(Stage::Sender, walk, facts, effects).await
    }

    /// At RCPT: all restrictions that apply, then the recipient tables, then the leaves.
    pub async fn recipient(
        &self,
        walk: &mut Walk,
        facts: Facts<'_>,
        effects: &mut Effects,
    ) -> Verdict<Admission> {
        let recipient = facts.recipient.unwrap_or_default();
        let address = self.router.rewrite(recipient);
        effects.asked.clear();
        effects.leaf_services.0.clear();
        if self
            .is_malformed(walk, &address, recipient, facts.smtputf8)
            .await?
        {
            return Err(smtp::reply::BAD_RECIPIENT.into());
        }
        // RFC 5321 section 4.5.1: mail for a bare "postmaster" is always welcome.
        if !recipient.eq_ignore_ascii_case("postmaster") {
            self.decide(Stage::Recipient, walk, facts, effects).await?;
        }
        if !self.resolve_at_rcpt {
            return Ok(Admission {
                address,
                leaves: None,
            });
        }
        let leaves = self.leaves(walk, recipient, &address).await?;
        if !effects.leaf_services.0.is_empty() {
            let found = (&leaves.0, leaves.1.as_slice());
            Box::pin(self.ask_about_leaves(walk, facts, effects, found)).await?;
        }
        Ok(Admission {
            address,
            leaves: Some(leaves),
        })
    }

    async fn client_stage(&self, question: &mut Question<'_>) -> Outcome {
        if self.stages.client.is_empty() {
            return Outcome::Dunno;
        }
        let value = question.facts.client();
        self.run(question, &self.stages.client, reply::CLIENT, &value)
            .await
    }

    async fn helo_stage(&self, question: &mut Question<'_>) -> Outcome {
        let helo = question.facts.helo;
        if helo.is_empty() || self.stages.helo.is_empty() {
            return Outcome::Dunno;
        }
        self.run(question, &self.stages.helo, reply::HELO, helo)
            .await
    }

    async fn sender_stage(&self, question: &mut Question<'_>) -> Outcome {
        let sender = question.facts.sender.unwrap_or_default();
        let outcome = self
            .run(question, &self.stages.sender, reply::SENDER, sender)
            .await;
        match outcome {
            Outcome::Refuse(_) => outcome,
            _ if self.reject_unlisted_sender => self.unlisted_sender(question).await,
            outcome => outcome,
        }
    }

    async fn recipient_stage(&self, question: &mut Question<'_>) -> Outcome {
        if let Some(refusal) = self.delayed(question, true).await {
            return refusal;
        }
        let recipient = question.facts.recipient.unwrap_or_default();
        let (first, second) = match self.relay_first {
            true => (&self.stages.relay, &self.stages.recipient),
            false => (&self.stages.recipient, &self.stages.relay),
        };
        for list in [first, second] {
            let outcome = self.run(question, list, reply::RECIPIENT, recipient).await;
            if let Outcome::Refuse(_) = outcome {
                return outcome;
            }
        }
        let undecided = question.defer_if_permit.is_none() && question.effects.discard.is_none();
        if self.reject_unlisted_recipient && undecided {
            return self.unlisted_recipient(question).await;
        }
        Outcome::Dunno
    }

    /// The refusal of the restrictions that `smtpd_delay_reject` has put off.
    async fn delayed(&self, question: &mut Question<'_>, with_sender: bool) -> Option<Outcome> {
        if !self.delay_reject {
            return None;
        }
        for stage in [Stage::Client, Stage::Helo, Stage::Sender] {
            let outcome = match stage {
                Stage::Client => self.client_stage(question).await,
                Stage::Helo => self.helo_stage(question).await,
                _ if with_sender => self.sender_stage(question).await,
                _ => Outcome::Dunno,
            };
            if let Outcome::Refuse(_) = outcome {
                return Some(outcome);
            }
        }
        None
    }

    async fn etrn_stage(&self, question: &mut Question<'_>) -> Outcome {
        if let Some(refusal) = self.delayed(question, false).await {
            return refusal;
        }
        let domain = question.etrn.unwrap_or_default();
        self.run(question, &self.stages.etrn, reply::ETRN, domain)
            .await
    }

    async fn is_malformed(
        &self,
        walk: &mut Walk,
        canonical: &str,
        given: &str,
        smtputf8: bool,
    ) -> Verdict<bool> {
        // A domain in UTF-8 asks for SMTPUTF8 (RFC 6531 section 3.2); a local part, by custom, not.
        let utf8_domain = mail::address::domain(canonical).is_some_and(|domain| !domain.is_ascii());
        if utf8_domain && !smtputf8 {
            return Ok(true);
        }
        self.router
            .is_malformed(walk, canonical)
            .await
            .map_err(|failure| Refusal {
                reply: reply::lookup_failure(given),
                detail: Some(failure.to_string()),
            })
    }

    /// Follows the aliases to their leaves. A recipient of which no leaf can take mail is refused
    /// here; where only some cannot, the mail is for the others, and the log tells.
    async fn leaves(
        &self,
        walk: &mut Walk,
        recipient: &str,
        address: &str,
    ) -> Verdict<(Expansion, Vec<Leaf>)> {
        let tree = match self.router.recipients_of(walk, address).await {
            Ok(tree) => tree,
            Err(error) => {
                let reply = match &error {
                    ExpandError::Lookup(_) => reply::lookup_failure(recipient),
                    _ => reply::alias_expansion(recipient),
                };
                return Err(Refusal {
                    reply,
                    detail: Some(error.to_string()),
                });
            }
        };
        let leaves = self
            .router
            .leaves(walk, &tree)
            .await
            .map_err(|failure| Refusal {
                reply: reply::lookup_failure(recipient),
                detail: Some(failure.to_string()),
            })?;
        let dangling = |leaf: &&Leaf| !leaf.verdict.is_deliverable();
        if let Some(first) = leaves.iter().find(dangling) {
            let detail = describe_dangling(&tree, leaves.iter().filter(dangling));
            let refuses = self.reject_unlisted_recipient && self.checks_recipients;
            if leaves.iter().all(|leaf| dangling(&leaf)) && refuses {
                let reply = match first.verdict {
                    LeafVerdict::Dangling(table) => {
                        self.unknown_user(recipient, reply::RECIPIENT, table)
                    }
                    _ => smtp::reply::BAD_RECIPIENT,
                };
                return Err(Refusal {
                    reply: self.softened(reply),
                    detail: Some(detail),
                });
            }
            if self.checks_recipients && !leaves.iter().all(|leaf| dangling(&leaf)) {
                tracing::warn!(
                    prog = "smtpd",
                    "{detail}; the other destinations get the mail"
                );
            }
        }
        Ok((tree, leaves))
    }
}

/// `alias a@x leads to b@y, which is not in the virtual mailbox table`.
fn describe_dangling<'a>(tree: &Expansion, leaves: impl Iterator<Item = &'a Leaf>) -> String {
    let one = |leaf: &Leaf| {
        let path = tree.path(leaf.node);
        let end = path.last().cloned().unwrap_or_default();
        let problem = match leaf.verdict {
            LeafVerdict::Dangling(table) => format!("is not in the {}", table.table()),
            _ => "is no address that mail can be delivered to".into(),
        };
        match path.len() {
            1 => format!("{end} {problem}"),
            _ => format!(
                "alias {} leads to {end}, which {problem}",
                path[..path.len() - 1].join(" -> ")
            ),
        }
    };
    leaves.map(one).collect::<Vec<_>>().join("; ")
}
