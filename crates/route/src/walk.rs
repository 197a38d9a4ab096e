//! One walk through the tables: what was asked, what was answered.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tables::{Table, TableList};

/// A lookup that got neither yes nor no. The mail must wait: 451 4.3.0, never "no such user".
#[derive(Clone, Debug)]
pub struct Failure {
    /// The main.cf parameter whose table failed.
    pub parameter: &'static str,
    /// `type:name` of the table.
    pub table: Arc<str>,
    pub key: String,
    /// What went wrong, without secrets.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            parameter,
            table,
            key,
            reason,
        } = self;
        write!(
            f,
            "{parameter}: {table}: lookup of \"{key}\" failed: {reason}"
        )
    }
}

/// One question to one table.
#[derive(Clone, Debug, Serialize)]
pub struct Lookup {
    pub parameter: &'static str,
    pub table: String,
    pub key: String,
    /// The table's value, if it has one for the key.
    pub found: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The lookups of one transaction. Answers are remembered as long as it lives.
pub struct Walk {
    now: Instant,
    answers: Vec<Remembered>,
    trace: Option<Vec<Lookup>>,
}

struct Remembered {
    table: Arc<str>,
    key: String,
    value: Option<String>,
}

impl Walk {
    /// A walk for mail. `now` decides which classes of domains still count as known.
    pub fn new(now: Instant) -> Walk {
        Walk {
            now,
            answers: Vec::new(),
            trace: None,
        }
    }

    /// A walk that keeps a record of each question, for `explain`.
    pub fn traced(now: Instant) -> Walk {
        Walk {
            trace: Some(Vec::new()),
            ..Walk::new(now)
        }
    }

    /// The questions asked so far, in order; empty unless the walk is traced.
    pub fn lookups(&self) -> &[Lookup] {
        self.trace.as_deref().unwrap_or_default()
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// Asks one table, or remembers its answer. Keys are folded by the tables.
    pub(crate) async fn ask(
        &mut self,
        parameter: &'static str,
        table: &Table,
        key: &str,
    ) -> Result<Option<String>, Failure> {
        let known = self
            .answers
            .iter()
            .find(|known| *known.table == *table.spec() && known.key == key);
        if let Some(known) = known {
            let value = known.value.clone();
            self.note(parameter, table, key, value.clone(), None);
            return Ok(value);
        }
        match table.lookup(key).await {
            Ok(value) => {
                self.note(parameter, table, key, value.clone(), None);
                self.answers.push(Remembered {
                    table: Arc::from(table.spec()),
                    key: key.to_owned(),
                    value: value.clone(),
                });
                Ok(value)
            }
            Err(error) => {
                let reason = error.to_string();
                self.note(parameter, table, key, None, Some(reason.clone()));
                Err(Failure {
                    parameter,
                    table: Arc::from(table.spec()),
                    key: key.to_owned(),
                    reason,
                })
            }
        }
    }

    /// Asks each table of a list in turn; the first that has a value wins. A *partial* key, one
    /// that is less than the whole address, is not for pattern tables (regexp, pcre, cidr).
    pub(crate) async fn ask_list(
        &mut self,
        parameter: &'static str,
        list: &TableList,
        key: &str,
        partial: bool,
    ) -> Result<Option<String>, Failure> {
        if key.is_empty() {
            return Ok(None);
        }
        for table in list.tables() {
            if partial && table.is_pattern() {
                continue;
            }
            let Some(value) = self.ask(parameter, table, key).await? else {
                continue;
            };
            if value.is_empty() {
                tracing::warn!(
                    "{parameter}: {}: lookup of {key} returns an empty string result; it should \
                     return no result where nothing is found",
                    table.spec()
                );
                return Err(Failure {
                    parameter,
                    table: Arc::from(table.spec()),
                    key: key.to_owned(),
                    reason: "the table returned an empty string".into(),
                });
            }
            return Ok(Some(value));
        }
        Ok(None)
    }

    fn note(
        &mut self,
        parameter: &'static str,
        table: &Table,
        key: &str,
        found: Option<String>,
        failed: Option<String>,
    ) {
        let Some(trace) = &mut self.trace else {
            return;
        };
        let again = |known: &Lookup| {
            known.parameter == parameter && known.table == table.spec() && known.key == key
        };
        if !trace.iter().any(again) {
            trace.push(Lookup {
                parameter,
                table: table.spec().to_owned(),
                key: key.to_owned(),
                found,
                failed,
            });
        }
    }
}
