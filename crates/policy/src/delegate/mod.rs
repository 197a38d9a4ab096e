//! `check_policy_service`: a program beside the mail system is asked, over Postfix's policy delegation protocol.
//!
//! | module | |
//! |---|---|
//! | `service` | one service: where it is, its limits in time and number, the tries |
//! | `pool` | its connections, kept and used again |
//! | `request` | what it is told |
//! | `answer` | what it says, read with limits |
//! | `leaf` | the same question for the mailboxes that an alias leads to |

mod answer;
mod leaf;
mod pool;
mod request;
mod service;

pub use request::Connection;
pub(crate) use service::{Service, Services};

use std::sync::Arc;

use crate::access::Found;
use crate::actions::Place;
use crate::evaluate::{Outcome, Question};
use crate::{Facts, Policy};

/// A policy service that was to be asked, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Asked {
    /// As it stands behind `check_policy_service`.
    pub service: String,
    /// The recipient that it was asked about.
    pub recipient: String,
    /// The action it gave; None: it was not asked.
    pub action: Option<String>,
}

/// Policy services that let a recipient pass, and are to be asked about its leaves.
#[derive(Clone, Debug, Default)]
pub struct LeafServices(pub(crate) Vec<Arc<Service>>);

impl Policy {
    /// `check_policy_service`.
    pub(crate) async fn ask_service(
        &self,
        question: &mut Question<'_>,
        service: &Arc<Service>,
        (what, value): (&'static str, &str),
    ) -> Outcome {
        let facts = question.facts;
        let action = answer_of(service, &facts).await;
        let effects = &mut *question.effects;
        effects.asked.push(Asked {
            service: service.name().to_owned(),
            recipient: facts.recipient.unwrap_or_default().to_owned(),
            action: action.clone(),
        });
        if service.at_leaf()
            && !effects
                .leaf_services
                .0
                .iter()
                .any(|known| Arc::ptr_eq(known, service))
        {
            effects.leaf_services.0.push(Arc::clone(service));
        }
        let Some(action) = action else {
            return Outcome::Dunno;
        };
        let found = found(service, action);
        self.act(question, found, Place { what, value }).await
    }
}

/// An action, as if a table had it.
fn found(service: &Service, action: String) -> Found {
    Found {
        value: action,
        table: service.name().to_owned(),
        key: String::new(),
    }
}

/// The action that the service gives; None where there is no connection that it could be told about.
async fn answer_of(service: &Service, facts: &Facts<'_>) -> Option<String> {
    let connection = facts.connection.as_ref()?;
    let request = request::text(facts, connection, service.own());
    Some(service.ask(&request).await.action().to_owned())
}
