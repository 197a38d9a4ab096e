//! From `type:name` to a table, and lists of tables.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use config::Config;

use crate::accounts::Accounts;
use crate::base64::base64;
use crate::cidr::CidrTable;
use crate::error::{ErrorKind, TableError};
use crate::lists::{CidrList, MatchList};
use crate::lmdb::{LmdbTable, Nulls};
use crate::parameters::Parameters;
use crate::pattern::{Flavour, PatternTable};
use crate::source::{file_content, shown};
use crate::sql::{Engine as SqlEngine, Pool, SqlTable, Target};
use crate::text::{Format, Reading, TextTable};
use crate::{Answer, Entry, simple, spec};

/// Opens tables by `type:name`. Clones share what is open: a table that is named twice is read
/// once, and tables that name the same server, user and database share its connections.
#[derive(Clone)]
pub struct Tables {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    ascii_only: bool,
    open: Mutex<HashMap<(String, Open), Table>>,
    files: Mutex<BTreeSet<PathBuf>>,
    pools: Mutex<HashMap<Target, Arc<Pool>>>,
    proxied: OnceLock<BTreeSet<String>>,
}

/// How a table is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Open {
    /// Whether keys are folded to lower case; `postmap -f` switches it off.
    pub fold: bool,
    /// Whether keys and values must be UTF-8 where `smtputf8_enable` says so; `postmap -u` switches it off.
    pub utf8: bool,
    /// Whether the values in source texts are names of files (`postmap -F`).
    pub files: bool,
    /// Whether stored keys and values end with a NUL (`postmap -n`, `-N`).
    pub nulls: Nulls,
    /// The syntax of `hash:` and `btree:` sources.
    pub format: Format,
}

impl Default for Open {
    fn default() -> Open {
        Open {
            fold: true,
            utf8: true,
            files: false,
            nulls: Nulls::Either,
            format: Format::Either,
        }
    }
}

impl Tables {
    /// Tables as the configuration describes them. Nothing is opened yet.
    pub fn new(config: &Config) -> Tables {
        let ascii_only = config
            .raw("smtputf8_enable")
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("no"));
        Tables {
            shared: Arc::new(Shared {
                config: config.clone(),
                ascii_only,
                open: Mutex::default(),
                files: Mutex::default(),
                pools: Mutex::default(),
                proxied: OnceLock::new(),
            }),
        }
    }

    /// Opens a table. An error names the file and the parameter.
    pub fn open(&self, spec: &str) -> Result<Table, TableError> {
        self.open_with(spec, Open::default())
    }

    /// Opens a table in another way than the mail system does.
    pub fn open_with(&self, spec: &str, how: Open) -> Result<Table, TableError> {
        let known = (spec.to_string(), how);
        let lock = || {
            self.shared
                .open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(table) = lock().get(&known) {
            return Ok(table.clone());
        }
        let table = Table {
            inner: Arc::new(Inner {
                spec: spec.to_string(),
                fold: if how.fold {
                    self.folding(how)
                } else {
                    Fold::No
                },
                utf8: how.utf8 && !self.shared.ascii_only,
                files: how.files,
                engine: self.engine(spec, how)?,
            }),
        };
        lock().insert(known, table.clone());
        Ok(table)
    }

    /// Opens every table of a list; the first that cannot be opened is an error.
    pub fn open_list(&self, specs: &str) -> Result<TableList, TableError> {
        let tables = spec::split_specs(specs)
            .iter()
            .map(|spec| self.open(spec))
            .collect::<Result<_, _>>()?;
        Ok(TableList { tables })
    }

    /// Opens a list as the running mail system does: a table that cannot be opened is reported
    /// once and then fails every lookup.
    pub fn open_list_lenient(&self, specs: &str) -> TableList {
        let tables = spec::split_specs(specs)
            .iter()
            .map(|spec| self.open_lenient(spec))
            .collect();
        TableList { tables }
    }

    /// Opens one table as [`Tables::open_list_lenient`] does.
    pub fn open_lenient(&self, spec: &str) -> Table {
        self.open(spec).unwrap_or_else(|error| {
            tracing::warn!("{spec} is unavailable. {error}");
            Table {
                inner: Arc::new(Inner {
                    spec: spec.to_string(),
                    fold: Fold::No,
                    utf8: true,
                    files: false,
                    engine: Engine::Broken(error),
                }),
            }
        })
    }

    /// A list of domains or other names, as match_list(3) reads it (`mydestination`, `relay_domains`, …).
    /// With `parent_matches_subdomains`, `example.org` also takes in what lies below it. What cannot be
    /// read is reported once and fails the lookups that get to it.
    pub fn match_list(&self, specs: &str, parent_matches_subdomains: bool) -> MatchList {
        MatchList::names(self, specs, parent_matches_subdomains)
    }

    /// The same where only whole names count (string_list(3): `virtual_mailbox_domains`,
    /// `virtual_alias_domains`, `mydestination`).
    pub fn string_list(&self, specs: &str) -> MatchList {
        MatchList::strings(self, specs)
    }

    /// A list of client addresses (`mynetworks`).
    pub fn network_list(&self, specs: &str) -> CidrList {
        CidrList::lenient(self, specs)
    }

    /// Every file that was read so far, sorted: when one of them changes, open the tables anew.
    pub fn files(&self) -> Vec<PathBuf> {
        self.shared
            .files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    pub(crate) fn note_file(&self, path: impl Into<PathBuf>) {
        self.shared
            .files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.into());
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The pool for these servers, user and database.
    pub(crate) fn pool(&self, target: Target) -> Arc<Pool> {
        let connections = self
            .shared
            .config
            .int("postroom_table_connections")
            .ok()
            .and_then(|count| usize::try_from(count).ok());
        // `Config::check` reports what is no number; without one connection there are no answers.
        let connections = connections.unwrap_or(1).max(1);
        let mut pools = self
            .shared
            .pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pools
            .entry(target)
            .or_insert_with_key(|target| Arc::new(Pool::new(target.clone(), connections)))
            .clone()
    }

    fn folding(&self, how: Open) -> Fold {
        if self.shared.ascii_only || !how.utf8 {
            Fold::Ascii
        } else {
            Fold::Unicode
        }
    }

    fn engine(&self, full: &str, how: Open) -> Result<Engine, TableError> {
        let (kind, name) = spec::split(full)?;
        let sql = |engine| {
            let parameters = Parameters::open(full, name, self.config());
            if name.starts_with('/') || name.starts_with('.') {
                self.note_file(name);
            }
            Ok(Engine::Sql(Box::new(SqlTable::open(
                &parameters?,
                engine,
                self,
            )?)))
        };
        match kind {
            "mysql" => sql(SqlEngine::MySql),
            "pgsql" => sql(SqlEngine::PgSql),
            "sqlite" => sql(SqlEngine::Sqlite),
            "hash" | "btree" | "texthash" => self.text(full, kind, name, how),
            "lmdb" => Ok(Engine::Lmdb(LmdbTable::open(full, name, how.nulls)?)),
            "inline" => self.inline(full, name, how),
            "static" => {
                let value = simple::parse_static(full, name)?;
                self.content(full, value, how).map(Engine::Static)
            }
            "fail" => Ok(Engine::Fail),
            "environ" => Ok(Engine::Environment),
            "unix" => Ok(Engine::Accounts(Accounts::open(full, name)?)),
            "regexp" | "pcre" => {
                self.note_file(name);
                let flavour = if kind == "pcre" {
                    Flavour::Pcre
                } else {
                    Flavour::Regexp
                };
                Ok(Engine::Pattern(PatternTable::load(full, name, flavour)?))
            }
            "cidr" => {
                self.note_file(name);
                Ok(Engine::Cidr(CidrTable::load(full, name)?))
            }
            "unionmap" => Ok(Engine::Union(self.members(full, kind, name, how)?)),
            "pipemap" => Ok(Engine::Pipe(self.members(full, kind, name, how)?)),
            "randmap" => self.random(full, name),
            "proxy" => self.proxied(full, name, how),
            other => Err(spec::unsupported(full, other)),
        }
    }

    fn text(&self, full: &str, kind: &str, name: &str, how: Open) -> Result<Engine, TableError> {
        self.note_file(name);
        let reading = Reading {
            fold: how.fold,
            files: how.files,
            format: match kind {
                "texthash" => Format::Map,
                _ => how.format,
            },
        };
        let table = TextTable::load(full, name.as_ref(), &reading)?;
        // For `hash:` these were reported when postmap built the table; a lookup says nothing.
        if kind == "texthash" {
            for problem in table.problems() {
                tracing::warn!("{}", problem.in_file(name));
            }
        }
        Ok(Engine::Text(table))
    }

    fn inline(&self, full: &str, name: &str, how: Open) -> Result<Engine, TableError> {
        let mut entries = simple::parse_inline(full, name, how.fold)?;
        for value in entries.values_mut() {
            *value = self.content(full, std::mem::take(value), how)?;
        }
        Ok(Engine::Inline(entries))
    }

    /// The value, or the content of the files that it names in base64.
    fn content(&self, full: &str, value: String, how: Open) -> Result<String, TableError> {
        if !how.files {
            return Ok(value);
        }
        match file_content(&value) {
            Ok(content) => Ok(base64(&content)),
            Err(error) => {
                let text = format!("{error}: \"{full}\"; need names of files");
                Err(TableError::operator(full, text))
            }
        }
    }

    fn members(
        &self,
        full: &str,
        kind: &str,
        name: &str,
        how: Open,
    ) -> Result<Vec<Table>, TableError> {
        let bad = || {
            let text = format!("bad syntax: \"{full}\"; need \"{kind}:{{type:name...}}\"");
            TableError::operator(full, text)
        };
        let specs = spec::split_specs(spec::braced(name).ok_or_else(bad)?);
        if specs.is_empty() {
            return Err(bad());
        }
        specs.iter().map(|spec| self.open_with(spec, how)).collect()
    }

    fn random(&self, full: &str, name: &str) -> Result<Engine, TableError> {
        let values = spec::braced(name)
            .map(spec::split_specs)
            .unwrap_or_default();
        if values.is_empty() {
            let text = format!("bad syntax: \"{full}\"; need \"randmap:{{value...}}\"");
            return Err(TableError::operator(full, text));
        }
        Ok(Engine::Random(values))
    }

    /// `proxy:` means the table itself here: connections are shared anyway. Who may be named is
    /// still what `proxy_read_maps` says.
    fn proxied(&self, full: &str, name: &str, how: Open) -> Result<Engine, TableError> {
        if !self.proxy_allows(full) {
            let text = format!(
                "proxymap service is not configured for table \"{name}\" (add {full} to proxy_read_maps)"
            );
            return Err(TableError::operator(full, text));
        }
        match self.open_with(name, how) {
            Ok(table) => Ok(Engine::Proxied(table)),
            // As with proxymap(8), a table that cannot be opened there fails the lookups here.
            Err(error) => Ok(Engine::Broken(error)),
        }
    }

    fn proxy_allows(&self, full: &str) -> bool {
        let allowed = self.shared.proxied.get_or_init(|| {
            let config = &self.shared.config;
            // Lists that name one another are expanded as often as needed by `string`.
            let text = config.string("proxy_read_maps").unwrap_or_else(|error| {
                tracing::warn!("{error}");
                String::new()
            });
            spec::split_specs(&text).into_iter().collect()
        });
        allowed.contains(full)
    }
}

/// How keys are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fold {
    No,
    Ascii,
    Unicode,
}

/// An open table. Clones share it.
#[derive(Clone)]
pub struct Table {
    inner: Arc<Inner>,
}

struct Inner {
    spec: String,
    fold: Fold,
    utf8: bool,
    files: bool,
    engine: Engine,
}

enum Engine {
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
    Broken(TableError),
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Table").field(&self.inner.spec).finish()
    }
}

impl Table {
    /// The table as it was named, `type:name`.
    pub fn spec(&self) -> &str {
        &self.inner.spec
    }

    /// A table of patterns (regexp, pcre, cidr): it is asked for whole addresses only, not for the
    /// parts of one.
    pub fn is_pattern(&self) -> bool {
        matches!(self.inner.engine, Engine::Pattern(_) | Engine::Cidr(_))
    }

    /// Looks up a key as given; the table folds it.
    pub async fn lookup(&self, key: &str) -> Answer {
        match &self.inner.engine {
            Engine::Sql(table) => match self.inner.fold {
                Fold::Unicode => table.lookup(&mail::fold(key)).await,
                Fold::Ascii => table.lookup(&key.to_ascii_lowercase()).await,
                Fold::No => table.lookup(key).await,
            },
            Engine::Union(tables) => union(tables, key).await,
            Engine::Pipe(tables) => pipe(tables, key).await,
            Engine::Proxied(table) => boxed(table, key).await.map_err(|error| self.failed(error)),
            _ => self.lookup_in_memory(key),
        }
    }

    /// Looks up a key that may not be UTF-8: such a key is reported and not found, unless the table
    /// was opened without UTF-8. Patterns then see a replacement character in the place of each wrong byte.
    pub async fn lookup_bytes(&self, key: &[u8]) -> Answer {
        match std::str::from_utf8(key) {
            Ok(key) => self.lookup(key).await,
            Err(_) if self.inner.utf8 => {
                self.report_non_utf8(key);
                Ok(None)
            }
            Err(_) if self.is_pattern() => self.lookup(&String::from_utf8_lossy(key)).await,
            Err(_) => Ok(None),
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
        let shown = shown(key);
        let spec = self.spec();
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

    fn lookup_lmdb(&self, table: &LmdbTable, key: &str) -> Answer {
        let Some(value) = table.get(key.as_bytes())? else {
            return Ok(None);
        };
        match String::from_utf8(value) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let shown = shown(error.as_bytes());
                let spec = self.spec();
                tracing::warn!(
                    "{spec}: key \"{key}\": non-UTF-8 value \"{shown}\": malformed UTF-8 or invalid codepoint"
                );
                Err(TableError::lookup(ErrorKind::Table, spec))
            }
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
        let folded = || match self.inner.fold {
            Fold::No => key.into(),
            Fold::Ascii => key.to_ascii_lowercase().into(),
            Fold::Unicode => mail::fold(key),
        };
        Ok(match &self.inner.engine {
            Engine::Text(table) => table.get(&folded()).map(str::to_string),
            Engine::Inline(table) => table.get(&*folded()).cloned(),
            Engine::Static(value) => Some(value.clone()),
            Engine::Environment => std::env::var(&*folded()).ok(),
            Engine::Accounts(accounts) => return accounts.lookup(self.spec(), &folded()),
            Engine::Lmdb(table) => return self.lookup_lmdb(table, &folded()),
            Engine::Pattern(table) => return self.content(table.lookup(key)),
            Engine::Cidr(table) => return self.content(table.lookup(key)),
            Engine::Random(values) => values.get(fastrand::usize(..values.len())).cloned(),
            Engine::Broken(error) => return Err(self.failed(error.clone())),
            Engine::Fail => {
                let text = format!("table {}: query error: Application error", self.spec());
                return Err(TableError::new(ErrorKind::Table, self.spec(), text));
            }
            // The callers have dealt with these.
            Engine::Sql(_) | Engine::Union(_) | Engine::Pipe(_) | Engine::Proxied(_) => None,
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

/// `unionmap:`: all answers, joined by commas.
async fn union(tables: &[Table], key: &str) -> Answer {
    let mut values = Vec::new();
    for table in tables {
        values.extend(boxed(table, key).await?);
    }
    Ok((!values.is_empty()).then(|| values.join(",")))
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
