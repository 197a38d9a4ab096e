//! Lists of domains: `mydestination`, `virtual_mailbox_domains`, `relay_domains` and their like,
//! asked through a walk.

use std::sync::Arc;

use mail::fold::fold;
use tables::{Check, MatchList};

use crate::walk::{Failure, Walk};

/// A list, and the parameter that has it.
pub(crate) struct DomainList {
    pub parameter: &'static str,
    pub list: MatchList,
}

impl DomainList {
    /// Whether the list has the domain.
    pub async fn has(&self, walk: &mut Walk, domain: &str) -> Result<bool, Failure> {
        let folded = fold(domain);
        for check in self.list.checks(&folded) {
            match check {
                Check::Fits { negated } => return Ok(!negated),
                Check::Ask {
                    table,
                    keys,
                    negated,
                } => {
                    for key in keys {
                        if walk.ask(self.parameter, table, key).await?.is_some() {
                            return Ok(!negated);
                        }
                    }
                }
                Check::Broken(error) => {
                    return Err(Failure {
                        parameter: self.parameter,
                        table: Arc::from(error.table()),
                        key: domain.to_owned(),
                        reason: error.to_string(),
                    });
                }
            }
        }
        Ok(false)
    }
}
