//! The tables of the command line, each opened when a key gets to it.

use std::sync::{Mutex, PoisonError};

use config::Config;
use tables::{Answer, Open, Table, TableError, Tables, base64_decoded};

use super::Fatal;
use super::options::Options;
use crate::cmd::tool_log::{holding, release};

pub(super) struct Maps {
    pub specs: Vec<String>,
    pub separator: &'static [u8],
    tables: Tables,
    open: Mutex<Vec<Table>>,
    how: Open,
}

impl Maps {
    pub(super) fn new(config: &Config, specs: Vec<String>, options: &Options) -> Maps {
        Maps {
            specs,
            separator: options.tool.separator(),
            tables: Tables::without_cache(config),
            open: Mutex::default(),
            how: options.open(),
        }
    }

    pub(super) fn table(&self, index: usize) -> Result<Table, TableError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Tables are asked in order, so that all before this one are open.
        while open.len() <= index {
            let next = open.len();
            open.push(self.tables.open_with(&self.specs[next], self.how)?);
        }
        Ok(open[index].clone())
    }

    /// The first table's answer.
    pub(super) async fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        for index in 0..self.specs.len() {
            let table = self.table(index)?;
            let spec = table.spec();
            let found = match table.lookup_octets(key) {
                Some(answer) => answer?,
                None => {
                    let asking = async { vec![table.lookup_bytes(key).await] };
                    let mut answers = told(spec, asking).await;
                    answers.pop().unwrap_or(Ok(None))?
                }
            };
            if let Some(value) = found {
                let value = self.decoded(spec, key, value);
                let value = value.ok_or_else(|| Fatal(format!("table {spec}: query error")))?;
                warn_of_empty(spec, key, &value);
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The answers for many keys in their order, up to the first failure.
    pub(super) async fn lookup_all(&self, keys: &[Vec<u8>]) -> Vec<Result<Option<Vec<u8>>, Fatal>> {
        if self.specs.len() == 1
            && let Ok(table) = self.table(0)
        {
            // No answers: the table is asked key by key.
            let asking = async { table.lookup_together(keys).await.unwrap_or_default() };
            let answers = told(table.spec(), asking).await;
            if !answers.is_empty() {
                return answers;
            }
        }
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            answers.push(self.lookup(key).await);
            if answers.last().is_some_and(Result::is_err) {
                break;
            }
        }
        answers
    }

    /// The value, or with `-F` what its base64 stands for; what is not base64 is reported.
    pub(super) fn decoded(&self, spec: &str, key: &[u8], value: Vec<u8>) -> Option<Vec<u8>> {
        if !self.how.files {
            return Some(value);
        }
        let text = String::from_utf8_lossy(&value);
        let decoded = base64_decoded(&text);
        if decoded.is_none() {
            let key = String::from_utf8_lossy(key);
            let shown: String = text.chars().take(30).collect();
            tracing::warn!("table {spec}: key {key}: malformed BASE64 value: {shown}");
        }
        decoded
    }
}

/// Answers with their failures as the command tells them. Behind `proxy:` stands proxymap(8) in Postfix, which has a
/// log of its own, so that of a failure one line is seen: here it ends with what was wrong.
async fn told(
    spec: &str,
    asking: impl Future<Output = Vec<Answer>>,
) -> Vec<Result<Option<Vec<u8>>, Fatal>> {
    let bytes = |answer: Answer| Ok(answer?.map(String::into_bytes));
    if !spec.starts_with("proxy:") {
        return asking.await.into_iter().map(bytes).collect();
    }
    let (answers, log) = holding(asking).await;
    if answers.iter().all(Result::is_ok) {
        release(&log);
    }
    let reasons: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once(": warning: "))
        .map(|(_, reason)| reason)
        .collect();
    let failed = |error: TableError| match reasons.as_slice() {
        [] => Fatal::from(error),
        reasons => Fatal(format!(
            "table {spec}: query error: Application error: {}",
            reasons.join("; ")
        )),
    };
    let outcome = |answer: Answer| Ok(answer.map_err(failed)?.map(String::into_bytes));
    answers.into_iter().map(outcome).collect()
}

/// An empty value is no value to most of the mail system.
pub(super) fn warn_of_empty(spec: &str, key: &[u8], value: &[u8]) {
    if value.is_empty() {
        let key = String::from_utf8_lossy(key);
        tracing::warn!("table {spec}: key {key}: empty string result is not allowed");
        tracing::warn!("table {spec} should return NO RESULT in case of NOT FOUND");
    }
}
