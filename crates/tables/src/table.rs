//! An open table and its lookups, and lists of tables that are asked in turn.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crate::accounts::Accounts;
use crate::base64::base64;
use crate::cidr::CidrTable;
use crate::error::{ErrorKind, TableError};
use crate::front::Front;
use crate::lmdb::LmdbTable;
use crate::pattern::PatternTable;
use crate::remote::memcache::MemcacheTable;
use crate::remote::socketmap::SocketmapTable;
use crate::remote::tcp::TcpTable;
use crate::source::file_content;
use crate::sql::SqlTable;
use crate::statistics::Counters;
use crate::text::TextTable;
use crate::{Answer, Entry, lines};

/// How keys are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fold {
    No,
    Ascii,
    Unicode,
}

/// An open table. Clones share it.
#[derive(Clone)]
pub struct Table {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub spec: String,
    pub fold: Fold,
    pub utf8: bool,
    pub files: bool,
    pub engine: Engine,
    pub counters: Arc<Counters>,
}

pub(crate) enum Engine {
    Sql(Box<SqlTable>),
    Text(TextTable),
    Lmdb(LmdbTable),
    Inline(HashMap<String, String>),
    Static(String),
    Fail,
    Environment,
    Accounts(Accounts),
    Pattern(PatternTable),
    Cidr(CidrTable),
    Union(Vec<Table>),
    Pipe(Vec<Table>),
    Random(Vec<String>),
    Proxied(Table),
    Debug(Table),
    Socketmap(Box<SocketmapTable>, Option<Front>),
    Tcp(Box<TcpTable>, Option<Front>),
    Memcache(Box<MemcacheTable>),
    Broken(TableError),
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Table").field(&self.inner.spec).finish()
    }
}

impl Table {
    pub(crate) fn new(inner: Inner) -> Table {
        Table {
            inner: Arc::new(inner),
        }
    }

    /// The table as it was named, `type:name`.
    pub fn spec(&self) -> &str {
        &self.inner.spec
    }

    /// A table of patterns (regexp, pcre, cidr), or one that a socketmap or tcp_table server answers: it is asked
    /// for whole addresses only, not for the parts of one.
    pub fn is_pattern(&self) -> bool {
        match &self.inner.engine {
            Engine::Pattern(_) | Engine::Cidr(_) | Engine::Socketmap(..) | Engine::Tcp(..) => true,
            Engine::Proxied(table) | Engine::Debug(table) => table.is_pattern(),
            _ => false,
        }
    }

    /// Looks up a key as given; the table folds it.
    pub async fn lookup(&self, key: &str) -> Answer {
        if let Engine::Proxied(table) = &self.inner.engine {
            let answer = boxed(table, key).await;
            return answer.map_err(|error| self.failed(error));
        }
        let start = Instant::now();
        let answer = self.ask(key).await;
        self.inner.counters.lookup(&answer, start.elapsed());
        answer
    }

    async fn ask(&self, key: &str) -> Answer {
        match &self.inner.engine {
            Engine::Sql(table) => table.lookup(&self.folded(key)).await,
            Engine::Union(tables) => union(tables, key)
                .await
                .map_err(|error| error.passed_on(self.spec())),
            Engine::Pipe(tables) => pipe(tables, key)
                .await
                .map_err(|error| error.passed_on(self.spec())),
            // Boxed, because every lookup of whatever table would be as large as these otherwise.
            Engine::Socketmap(table, front) => {
                let query = Box::pin(async { self.utf8_value(key, table.lookup(key).await?) });
                behind(front.as_ref(), key, query).await
            }
            Engine::Tcp(table, front) => {
                let query = Box::pin(async { self.utf8_value(key, table.lookup(key).await?) });
                behind(front.as_ref(), key, query).await
            }
            Engine::Memcache(table) => {
                let key = self.folded(key);
                self.utf8_value(&key, Box::pin(table.lookup(&key)).await?)
            }
            Engine::Debug(table) => debug(table, key).await,
            _ => self.lookup_in_memory(key),
        }
    }

    fn folded<'a>(&self, key: &'a str) -> Cow<'a, str> {
        match self.inner.fold {
            Fold::No => key.into(),
            Fold::Ascii => key.to_ascii_lowercase().into(),
            Fold::Unicode => mail::fold(key),
        }
    }

    /// A value that is not UTF-8 is reported and fails the lookup.
    fn utf8_value(&self, key: &str, value: Option<Vec<u8>>) -> Answer {
        let Some(value) = value else {
            return Ok(None);
        };
        match String::from_utf8(value) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let (shown, spec) = (lines::shown(error.as_bytes()), self.spec());
                tracing::warn!(
                    "{spec}: key \"{key}\": non-UTF-8 value \"{shown}\": malformed UTF-8 or invalid codepoint"
                );
                Err(TableError::lookup(ErrorKind::Table, spec))
            }
        }
    }

    /// Looks up a key that may not be UTF-8: such a key is reported and not found, unless the table
    /// was opened without UTF-8. Patterns then see its bytes.
    pub async fn lookup_bytes(&self, key: &[u8]) -> Answer {
        match std::str::from_utf8(key) {
            Ok(key) => self.lookup(key).await,
            Err(_) if self.inner.utf8 => {
                self.report_non_utf8(key);
                Ok(None)
            }
            Err(_) => match &self.inner.engine {
                Engine::Pattern(table) => self.content(table.lookup(self.spec(), key)?),
                _ => Ok(None),
            },
        }
    }

    /// The answers for many keys in their order, up to the first failure, from a table that is
    /// quicker when it is asked for many at once; `None` for the others. The log has what lookups
    /// one after the other would have left there. Not for `-F`: values come as they are.
    pub async fn lookup_together(&self, keys: &[Vec<u8>]) -> Option<Vec<Answer>> {
        match &self.inner.engine {
            Engine::Sql(table) if !self.inner.files => {
                let texts = keys.iter().map(|key| std::str::from_utf8(key).ok());
                let texts: Vec<&str> = texts.collect::<Option<_>>()?;
                let folded: Vec<Cow<'_, str>> = texts.iter().map(|key| self.folded(key)).collect();
                let folded: Vec<&str> = folded.iter().map(|key| &**key).collect();
                let start = Instant::now();
                let answers = table.lookup_together(&folded).await?;
                let each = start.elapsed() / u32::try_from(answers.len().max(1)).unwrap_or(1);
                for answer in &answers {
                    self.inner.counters.lookup(answer, each);
                }
                Some(answers)
            }
            Engine::Proxied(table) => {
                let answers = Box::pin(table.lookup_together(keys)).await?;
                let named = |answer: Answer| answer.map_err(|error| self.failed(error));
                Some(answers.into_iter().map(named).collect())
            }
            _ => None,
        }
    }

    /// The answer of a table that holds bytes (`lmdb:`) and was opened without UTF-8; `None` for all others.
    pub fn lookup_octets(&self, key: &[u8]) -> Option<Result<Option<Vec<u8>>, TableError>> {
        match &self.inner.engine {
            Engine::Lmdb(table) if !self.inner.utf8 => Some(match self.inner.fold {
                Fold::No => table.get(key),
                _ => table.get(&key.to_ascii_lowercase()),
            }),
            _ => None,
        }
    }

    fn report_non_utf8(&self, key: &[u8]) {
        let (shown, spec) = (lines::shown(key), self.spec());
        tracing::warn!("{spec}: non-UTF-8 key \"{shown}\": malformed UTF-8 or invalid codepoint");
    }

    /// Keys and values of a table that can list them, for `postmap -s`; `None` for the others.
    pub fn entries(&self) -> Result<Option<Vec<Entry>>, TableError> {
        let bytes = |(key, value): (&str, &str)| (key.into(), value.into());
        match &self.inner.engine {
            Engine::Text(table) => Ok(Some(table.iter().map(bytes).collect())),
            Engine::Lmdb(table) => table.entries().map(Some),
            Engine::Inline(table) => {
                let mut entries: Vec<_> = table.iter().map(|(k, v)| bytes((k, v))).collect();
                entries.sort();
                Ok(Some(entries))
            }
            _ => Ok(None),
        }
    }

    /// What a pattern gave, or the content of the files that it names in base64.
    fn content(&self, value: Option<String>) -> Answer {
        match value {
            Some(names) if self.inner.files => match file_content(&names) {
                Ok(content) => Ok(Some(base64(&content))),
                Err(error) => {
                    tracing::warn!("{}: {error}", self.spec());
                    Err(TableError::lookup(ErrorKind::Operator, self.spec()))
                }
            },
            value => Ok(value),
        }
    }

    fn lookup_in_memory(&self, key: &str) -> Answer {
        let folded = || self.folded(key);
        Ok(match &self.inner.engine {
            Engine::Text(table) => table.get(&folded()).map(str::to_string),
            Engine::Inline(table) => table.get(&*folded()).cloned(),
            Engine::Static(value) => Some(value.clone()),
            Engine::Environment => std::env::var(&*folded()).ok(),
            Engine::Accounts(accounts) => return accounts.lookup(self.spec(), &folded()),
            Engine::Lmdb(table) => return self.utf8_value(key, table.get(folded().as_bytes())?),
            Engine::Pattern(table) => {
                return self.content(table.lookup(self.spec(), key.as_bytes())?);
            }
            Engine::Cidr(table) => return self.content(table.lookup(key)),
            Engine::Random(values) => values.get(fastrand::usize(..values.len())).cloned(),
            Engine::Broken(error) => return Err(self.failed(error.clone())),
            Engine::Fail => {
                let text = format!("table {}: query error: Application error", self.spec());
                return Err(TableError::new(ErrorKind::Table, self.spec(), text));
            }
            // The callers have dealt with these.
            Engine::Sql(_)
            | Engine::Union(_)
            | Engine::Pipe(_)
            | Engine::Proxied(_)
            | Engine::Debug(_)
            | Engine::Socketmap(..)
            | Engine::Tcp(..)
            | Engine::Memcache(_) => None,
        })
    }

    fn failed(&self, error: TableError) -> TableError {
        let text = format!("table {}: query error: {error}", self.spec());
        TableError::new(error.kind(), self.spec(), text)
    }
}

/// A lookup that may contain another one of its own kind.
pub(crate) fn boxed<'a>(
    table: &'a Table,
    key: &'a str,
) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
    Box::pin(table.lookup(key))
}

/// What the front knows, where there is one, or what the query says.
async fn behind(front: Option<&Front>, key: &str, query: impl Future<Output = Answer>) -> Answer {
    match front {
        Some(front) => front.answer(key, query).await,
        None => query.await,
    }
}

/// `debug:`: the answer of the table, which goes to the log.
async fn debug(table: &Table, key: &str) -> Answer {
    let answer = boxed(table, key).await;
    let spec = table.spec();
    match &answer {
        Ok(Some(value)) => tracing::info!("{spec} lookup: \"{key}\" = \"{value}\""),
        Ok(None) => tracing::info!("{spec} lookup: \"{key}\" = \"not_found\""),
        Err(_) => tracing::info!("{spec} lookup: \"{key}\" = \"error\""),
    }
    answer
}

/// `unionmap:`: all answers, joined by commas. Empty ones at the beginning leave no trace.
async fn union(tables: &[Table], key: &str) -> Answer {
    let mut values = String::new();
    for table in tables {
        if let Some(value) = boxed(table, key).await? {
            if !values.is_empty() {
                values.push(',');
            }
            values.push_str(&value);
        }
    }
    Ok(Some(values).filter(|values| !values.is_empty()))
}

/// `pipemap:`: each answer is the key for the next table.
async fn pipe(tables: &[Table], key: &str) -> Answer {
    let mut value = key.to_string();
    for table in tables {
        match boxed(table, &value).await? {
            Some(next) => value = next,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// Tables that are asked in turn.
#[derive(Debug, Clone, Default)]
pub struct TableList {
    tables: Vec<Table>,
}

impl TableList {
    pub(crate) fn new(tables: Vec<Table>) -> TableList {
        TableList { tables }
    }

    /// The tables, in the order in which they are asked.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The first answer. A table that fails ends the search: what it knows might have come first.
    pub async fn lookup(&self, key: &str) -> Answer {
        for table in &self.tables {
            if let Some(value) = table.lookup(key).await? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}
