//! `postroom_policy_at_leaf`: the services named there are also asked about the leaves of a recipient, so that
//! mail to the alias of a full mailbox is refused while its sender is still there.

use std::collections::HashSet;
use std::sync::Arc;

use mail::fold::{fold, same};
use route::{Expansion, Leaf, Walk};
use smtp::Reply;

use super::service::Said;
use super::{Asked, Service, found, request};
use crate::actions::Place;
use crate::evaluate::{Outcome, Question};
use crate::{Effects, Facts, Policy, Refusal, Stage, Verdict, reply};

impl Policy {
    /// Asks the services that let this recipient pass about each of its leaves. Where all leaves are
    /// refused, so is the recipient; where only some are, the log tells, and the message goes to all:
    /// those agents that cannot deliver will say so.
    pub(crate) async fn ask_about_leaves(
        &self,
        walk: &mut Walk,
        facts: Facts<'_>,
        effects: &mut Effects,
        (tree, leaves): (&Expansion, &[Leaf]),
    ) -> Verdict<()> {
        let services = std::mem::take(&mut effects.leaf_services.0);
        let recipient = facts.recipient.unwrap_or_default();
        let itself = self.router.rewrite(recipient);
        let addresses = distinct(tree, leaves);
        for service in &services {
            let mut refusals: Vec<(&str, Reply)> = Vec::new();
            for address in &addresses {
                let address = *address;
                if same(address, &itself) {
                    continue;
                }
                let facts = Facts {
                    recipient: Some(address),
                    ..facts
                };
                let said = match facts.connection.as_ref() {
                    Some(connection) => {
                        let text = request::text(&facts, connection, service.own());
                        Some(service.ask(&text).await)
                    }
                    None => None,
                };
                effects.asked.push(asked(service, address, said.as_ref()));
                let Some(said) = said else { continue };
                let refusal = self
                    .leaf_refusal(walk, facts, (service, &said), recipient)
                    .await;
                // A service that does not answer is not asked about the next thousand leaves.
                match (said, refusal) {
                    (Said::Default(_), Some(reply)) => return Err(reply.into()),
                    (Said::Default(_), None) => break,
                    (Said::Action(_), refusal) => {
                        refusals.extend(refusal.map(|reply| (address, reply)));
                    }
                }
            }
            judge(recipient, service, addresses.len(), &refusals)?;
        }
        Ok(())
    }

    /// What the answer means for the leaf: only refusals count. The reply names the recipient, not the leaf.
    async fn leaf_refusal(
        &self,
        walk: &mut Walk,
        facts: Facts<'_>,
        (service, said): (&Service, &Said),
        recipient: &str,
    ) -> Option<Reply> {
        let mut effects = Effects::default();
        let mut question = Question {
            facts,
            walk,
            effects: &mut effects,
            stage: Stage::Recipient,
            etrn: None,
            defer_if_permit: None,
            defer_if_reject: None,
            warning: 0,
        };
        let about = Place {
            what: reply::RECIPIENT,
            value: recipient,
        };
        let found = found(service, said.action().to_owned());
        match self.act(&mut question, found, about).await {
            Outcome::Refuse(reply) => Some(self.softened(reply)),
            _ => question.defer_if_permit.take(),
        }
    }
}

/// The addresses that can take mail, each once.
fn distinct<'a>(tree: &'a Expansion, leaves: &[Leaf]) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let deliverable = leaves.iter().filter(|leaf| leaf.verdict.is_deliverable());
    deliverable
        .map(|leaf| tree.nodes[leaf.node].address.as_str())
        .filter(|address| seen.insert(fold(address).into_owned()))
        .collect()
}

/// Refused are those recipients of whose leaves none is left.
fn judge(
    recipient: &str,
    service: &Service,
    addresses: usize,
    refusals: &[(&str, Reply)],
) -> Verdict<()> {
    let Some((_, first)) = refusals.first() else {
        return Ok(());
    };
    let one = |(address, reply): &(&str, Reply)| format!("{address}: {reply}");
    let detail = format!(
        "{recipient} leads to what {} refuses: {}",
        service.name(),
        refusals.iter().map(one).collect::<Vec<_>>().join("; ")
    );
    if refusals.len() < addresses {
        tracing::warn!(
            prog = "smtpd",
            "{detail}; the other destinations get the mail"
        );
        return Ok(());
    }
    // What may change by itself wins: the client is to come back.
    let temporary = refusals.iter().find(|(_, reply)| reply.code < 500);
    let reply = temporary.map_or(first, |(_, reply)| reply).clone();
    Err(Refusal {
        reply,
        detail: Some(detail),
    })
}

fn asked(service: &Arc<Service>, recipient: &str, said: Option<&Said>) -> Asked {
    Asked {
        service: service.name().to_owned(),
        recipient: recipient.to_owned(),
        action: said.map(|said| said.action().to_owned()),
    }
}
