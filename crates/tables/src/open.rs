//! From `type:name` to a table: what is open, and what a type's name and settings mean.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use config::Config;

use crate::accounts::Accounts;
use crate::base64::base64;
use crate::cidr::CidrTable;
use crate::error::TableError;
use crate::front::{Front, Sharing};
use crate::lists::{CidrList, MatchList};
use crate::lmdb::{LmdbTable, Nulls};
use crate::parameters::Parameters;
use crate::pattern::{Flavour, PatternTable};
use crate::remote::memcache::MemcacheTable;
use crate::remote::socketmap::SocketmapTable;
use crate::remote::tcp::TcpTable;
use crate::remote::{Endpoint, Links};
use crate::source::file_content;
use crate::sql::{Engine as SqlEngine, Patience, Pool, SqlTable, Target};
use crate::statistics::{Counters, Statistics};
use crate::table::{Engine, Fold, Inner, Table, TableList};
use crate::text::{Format, Reading, TextTable};
use crate::{index, simple, spec};

/// Opens tables by `type:name`. Clones share what is open: a table that is named twice is read
/// once, and tables that name the same server, user and database share its connections.
#[derive(Clone)]
pub struct Tables {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    /// Whether every lookup asks by itself.
    alone: bool,
    ascii_only: bool,
    open: Mutex<HashMap<(String, Open), Table>>,
    files: Mutex<BTreeSet<PathBuf>>,
    pools: Mutex<HashMap<Target, Arc<Pool>>>,
    links: Mutex<HashMap<(Endpoint, Duration), Arc<Links>>>,
    counters: Mutex<BTreeMap<String, Arc<Counters>>>,
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
        Tables::build(config, false)
    }

    /// The same for a tool that shows what the database says now: nothing is remembered, and no
    /// lookup shares the query of another.
    pub fn without_cache(config: &Config) -> Tables {
        Tables::build(config, true)
    }

    fn build(config: &Config, alone: bool) -> Tables {
        let ascii_only = config
            .raw("smtputf8_enable")
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("no"));
        Tables {
            shared: Arc::new(Shared {
                config: config.clone(),
                alone,
                ascii_only,
                open: Mutex::default(),
                files: Mutex::default(),
                pools: Mutex::default(),
                links: Mutex::default(),
                counters: Mutex::default(),
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
        let table = Table::new(Inner {
            spec: spec.to_string(),
            fold: if how.fold {
                self.folding(how)
            } else {
                Fold::No
            },
            utf8: how.utf8 && !self.shared.ascii_only,
            files: how.files,
            engine: self.engine(spec, how)?,
            counters: self.counters(spec),
        });
        lock().insert(known, table.clone());
        Ok(table)
    }

    /// Opens every table of a list; the first that cannot be opened is an error.
    pub fn open_list(&self, specs: &str) -> Result<TableList, TableError> {
        let tables = spec::split_specs(specs)
            .iter()
            .map(|spec| self.open(spec))
            .collect::<Result<_, _>>()?;
        Ok(TableList::new(tables))
    }

    /// Opens a list as the running mail system does: a table that cannot be opened is reported
    /// once and then fails every lookup.
    pub fn open_list_lenient(&self, specs: &str) -> TableList {
        let tables = spec::split_specs(specs)
            .iter()
            .map(|spec| self.open_lenient(spec))
            .collect();
        TableList::new(tables)
    }

    /// Opens one table as [`Tables::open_list_lenient`] does.
    pub fn open_lenient(&self, spec: &str) -> Table {
        self.open(spec).unwrap_or_else(|error| {
            tracing::warn!("{spec} is unavailable. {error}");
            Table::new(Inner {
                spec: spec.to_string(),
                fold: Fold::No,
                utf8: true,
                files: false,
                engine: Engine::Broken(error),
                counters: self.counters(spec),
            })
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

    /// What was looked up so far, and how the connections to the databases stand.
    pub fn statistics(&self) -> Statistics {
        let counters = self.shared.counters.lock();
        let tables = counters
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(spec, counters)| counters.read(spec))
            .collect();
        let pools = self.shared.pools.lock();
        let mut pools: Vec<_> = pools
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|pool| pool.statistics())
            .collect();
        pools.sort();
        Statistics { tables, pools }
    }

    /// What stands in front of a table on a server. `parameters` are the table's own, where it has any.
    pub(crate) fn front(
        &self,
        spec: &str,
        parameters: Option<&Parameters>,
        sharing: Sharing,
    ) -> Result<Option<Front>, TableError> {
        if self.shared.alone {
            return Ok(None);
        }
        let counters = self.counters(spec);
        Front::open(spec, self.config(), parameters, sharing, counters)
    }

    fn counters(&self, spec: &str) -> Arc<Counters> {
        let counters = self.shared.counters.lock();
        let mut counters = counters.unwrap_or_else(PoisonError::into_inner);
        counters.entry(spec.to_string()).or_default().clone()
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

    /// How many connections one server gets.
    pub(crate) fn connections(&self) -> usize {
        let connections = self.shared.config.int("postroom_table_connections");
        let connections = connections
            .ok()
            .and_then(|count| usize::try_from(count).ok());
        // `Config::check` reports what is no number; without one connection there are no answers.
        connections.unwrap_or(1).max(1)
    }

    /// The connections to this server, for all tables that it answers.
    pub(crate) fn links(&self, endpoint: Endpoint, timeout: Duration) -> Arc<Links> {
        let connections = self.connections();
        let links = self.shared.links.lock();
        let mut links = links.unwrap_or_else(PoisonError::into_inner);
        links
            .entry((endpoint, timeout))
            .or_insert_with_key(|(endpoint, _)| {
                Arc::new(Links::new(endpoint.clone(), connections, timeout))
            })
            .clone()
    }

    /// Where paths of sockets that are not absolute begin.
    pub(crate) fn queue_directory(&self) -> PathBuf {
        self.shared
            .config
            .string("queue_directory")
            .unwrap_or_default()
            .into()
    }

    /// The pool for these servers, user and database.
    pub(crate) fn pool(&self, target: Target) -> Arc<Pool> {
        let connections = self.connections();
        let mut pools = self
            .shared
            .pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pools
            .entry(target)
            .or_insert_with_key(|target| {
                Arc::new(Pool::new(target.clone(), connections, Patience::default()))
            })
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
            // A process's own memory, empty at first; nothing here writes into it.
            "internal" => Ok(Engine::Inline(HashMap::new())),
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
            "socketmap" => {
                let table = SocketmapTable::open(full, name, self)?;
                let front = self.front(full, None, Sharing::Yes)?;
                Ok(Engine::Socketmap(Box::new(table), front))
            }
            "tcp" => {
                let table = TcpTable::open(full, name, self)?;
                let front = self.front(full, None, Sharing::Yes)?;
                Ok(Engine::Tcp(Box::new(table), front))
            }
            "memcache" => {
                let parameters = Parameters::open(full, name, self.config());
                if name.starts_with('/') || name.starts_with('.') {
                    self.note_file(name);
                }
                let table = MemcacheTable::open(&parameters?, self, how)?;
                Ok(Engine::Memcache(Box::new(table)))
            }
            "debug" => Ok(Engine::Debug(self.open_with(name, how)?)),
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
        let path = Path::new(name);
        if kind != "texthash" {
            if let Some(error) = index::without_source(full, path) {
                return Err(error);
            }
            // A tool's messages are its output.
            if !self.shared.alone {
                index::report_newer(path);
            }
        }
        let table = TextTable::load(full, path, &reading)?;
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
