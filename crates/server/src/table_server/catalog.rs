//! Which names the table server knows, and what it answers under them. A client chooses among what
//! main.cf names, and among nothing else: it cannot make the server open a file.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use config::{Config, ConfigError, Environment};
use route::{Failure, Router, Search, Walk};
use tables::{Statistics, TableList, Tables, split_specs};
use tokio::sync::Semaphore;

use super::parameters::{self, LIST_PREFIX};
use crate::generation::{Problem, own_addresses};

/// One state of the configuration.
pub(crate) struct Catalog {
    config: Config,
    tables: Tables,
    router: Router,
    entries: HashMap<String, Entry>,
    specs: BTreeSet<String>,
    lookups_at_once: usize,
}

enum Entry {
    Served(Arc<Served>),
    /// Several table files have this name in different folders.
    Ambiguous,
}

/// What is served under a name.
pub(crate) struct Served {
    /// The name that metrics have: the parameter's, or the file's in full.
    pub name: String,
    parameter: &'static str,
    list: TableList,
    search: Search,
    /// Lookups at once: further ones wait without the memory that a lookup needs, and those of other
    /// names do not wait for them.
    room: Semaphore,
}

/// Enough to keep all connections of a database busy, and few enough for thousands of clients to
/// cost little.
const LOOKUPS_AT_ONCE: usize = 256;

/// No such name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    Name,
    Ambiguous,
}

impl Catalog {
    /// Reads the settings and opens the tables. A table that cannot be opened is logged and fails
    /// its lookups; [`Catalog::broken`] lists them.
    pub fn build(config: &Config, environment: &Environment) -> Result<Catalog, Vec<Problem>> {
        let problems: Vec<Problem> = config.check().into_iter().map(Problem::from).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        Catalog::assemble(config, environment).map_err(|error| vec![Problem::from(error)])
    }

    fn assemble(config: &Config, environment: &Environment) -> Result<Catalog, ConfigError> {
        let tables = Tables::new(config);
        let own = own_addresses(config, environment)?;
        let lists = parameters::served(config)?;
        let searched = parameters::for_the_search(config, &lists);
        let router = Router::new(&searched, &tables, own)?;
        let connections = config.int("postroom_table_connections")?;
        let connections = usize::try_from(connections).unwrap_or_default();
        let mut catalog = Catalog {
            lookups_at_once: LOOKUPS_AT_ONCE.max(connections.min(Semaphore::MAX_PERMITS)),
            config: config.clone(),
            tables,
            router,
            entries: HashMap::new(),
            specs: BTreeSet::new(),
        };
        for (name, list) in &lists {
            catalog.add_list(name, list);
        }
        for list in lists.values() {
            catalog.add_files(list);
        }
        catalog.add_files(&config.string("postroom_tables_by_file")?);
        Ok(catalog)
    }

    fn add_list(&mut self, name: &str, list: &str) {
        self.specs.extend(split_specs(list));
        let (parameter, search) = parameters::find(name).unwrap_or((LIST_PREFIX, Search::Exact));
        let served = Arc::new(Served {
            name: name.to_owned(),
            parameter,
            list: self.tables.open_list_lenient(list),
            search,
            room: Semaphore::new(self.lookups_at_once),
        });
        self.entries.insert(name.to_owned(), Entry::Served(served));
    }

    /// The database tables of a list under the names of their files.
    fn add_files(&mut self, list: &str) {
        for spec in split_specs(list) {
            let Some((_, file)) = parameters::sql(&spec) else {
                continue;
            };
            let full = Arc::new(Served {
                name: file.to_owned(),
                parameter: LIST_PREFIX,
                list: self.tables.open_list_lenient(&spec),
                search: Search::Exact,
                room: Semaphore::new(self.lookups_at_once),
            });
            let file = file.to_owned();
            self.specs.insert(spec);
            for name in file_names(&file) {
                self.add_file(name, &full);
            }
        }
    }

    fn add_file(&mut self, name: &str, served: &Arc<Served>) {
        match self.entries.entry(name.to_owned()) {
            Slot::Vacant(slot) => {
                slot.insert(Entry::Served(Arc::clone(served)));
            }
            Slot::Occupied(mut slot) => match slot.get() {
                // A parameter's name goes before a file's.
                Entry::Served(known) if known.parameter == LIST_PREFIX => {
                    let spec = |served: &Served| {
                        let first = served.list.tables().first();
                        first.map(|table| table.spec().to_owned())
                    };
                    if known.name != *name && spec(known) != spec(served) {
                        slot.insert(Entry::Ambiguous);
                    }
                }
                _ => {}
            },
        }
    }

    /// What is served under this name.
    pub fn find(&self, name: &[u8]) -> Result<&Arc<Served>, Unknown> {
        let name = std::str::from_utf8(name).map_err(|_| Unknown::Name)?;
        match self.entries.get(name) {
            Some(Entry::Served(served)) => Ok(served),
            Some(Entry::Ambiguous) => Err(Unknown::Ambiguous),
            None => Err(Unknown::Name),
        }
    }

    /// One lookup, with the search for parts of the key that Postfix leaves to us.
    pub async fn lookup(&self, served: &Served, key: &str) -> Result<Option<String>, Failure> {
        // It is never closed, so there is always a permit in the end.
        let _permit = served.room.acquire().await.ok();
        Box::pin(self.search(served, key)).await
    }

    async fn search(&self, served: &Served, key: &str) -> Result<Option<String>, Failure> {
        let mut walk = Walk::new(Instant::now());
        let Served {
            parameter,
            list,
            search,
            ..
        } = served;
        self.router
            .whole_key(&mut walk, parameter, list, *search, key)
            .await
    }

    /// Tables that cannot be opened.
    pub fn broken(&self) -> Vec<Problem> {
        let open = |spec: &String| self.tables.open(spec).err().map(Problem::from);
        self.specs.iter().filter_map(open).collect()
    }

    /// Nothing is served.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn statistics(&self) -> Statistics {
        self.tables.statistics()
    }

    /// Every file that this was read from.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.config.dir().join("main.cf")];
        files.extend(self.tables.files());
        files
    }
}

/// `/etc/postfix/x.cf`, `x.cf` and `x`; a table whose parameters stand in main.cf has one name.
fn file_names(file: &str) -> Vec<&str> {
    let mut names = vec![file];
    let short = Path::new(file).file_name().and_then(|name| name.to_str());
    if let Some(short) = short.filter(|short| *short != file) {
        names.push(short);
    }
    let stem = short.and_then(|short| short.strip_suffix(".cf"));
    names.extend(stem.filter(|stem| !stem.is_empty()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(main_cf: &str) -> Catalog {
        let config = Config::from_text(main_cf, "").expect("a configuration");
        match Catalog::build(&config, &Environment::fixed("mail.example.com")) {
            Ok(catalog) => catalog,
            Err(problems) => panic!("{problems:?}"),
        }
    }

    async fn ask(catalog: &Catalog, name: &str, key: &str) -> Option<String> {
        let served = catalog.find(name.as_bytes()).expect(name);
        catalog.lookup(served, key).await.expect("no table fails")
    }

    const PLUGGED: &str = "
mydestination = host.example
recipient_delimiter = +
virtual_alias_maps = socketmap:unix:private/postroom:virtual_alias_maps
postroom_tables_virtual_alias_maps = inline:{
  {team@example.org=john@example.org, jane@example.org}, {@catch.example=carol@example.org},
  {root=john@example.org}, {@old.example=@new.example} }, inline:{{carol@catch.example=carol@catch.example}}
virtual_mailbox_domains = example.org, socketmap:unix:private/postroom:virtual_mailbox_domains
postroom_tables_virtual_mailbox_domains = inline:{catch.example=1}
transport_maps = inline:{x.example=smtp:x, .x.example=smtp:y, john@example.org=discard:}
postroom_tables_clients = inline:{192.0.2.1=REJECT}
";

    #[tokio::test]
    async fn parts_of_the_key_are_searched_for_as_postfix_would() {
        let catalog = catalog(PLUGGED);
        for (name, key, value) in [
            (
                "virtual_alias_maps",
                "team@example.org",
                Some("john@example.org, jane@example.org"),
            ),
            (
                "virtual_alias_maps",
                "team+x@example.org",
                Some("john+x@example.org, jane+x@example.org"),
            ),
            (
                "virtual_alias_maps",
                "any+x@catch.example",
                Some("carol@example.org"),
            ),
            (
                "virtual_alias_maps",
                "carol+x@catch.example",
                Some("carol+x@catch.example"),
            ),
            (
                "virtual_alias_maps",
                "any@old.example",
                Some("@new.example"),
            ),
            (
                "virtual_alias_maps",
                "root@host.example",
                Some("john@example.org"),
            ),
            ("virtual_alias_maps", "root@example.org", None),
            ("virtual_alias_maps", "catch.example", None),
            ("virtual_mailbox_domains", "catch.example", Some("1")),
            ("virtual_mailbox_domains", "sub.catch.example", None),
            ("transport_maps", "john+x@example.org", Some("discard:")),
            ("transport_maps", "x.example", Some("smtp:x")),
            ("transport_maps", "a.b.x.example", Some("smtp:y")),
            ("transport_maps", "*", None),
            ("clients", "192.0.2.1", Some("REJECT")),
            ("clients", "192.0.2", None),
        ] {
            assert_eq!(
                ask(&catalog, name, key).await.as_deref(),
                value,
                "{name} {key}"
            );
        }
    }

    #[test]
    fn nothing_is_served_but_what_main_cf_names() {
        let main_cf = "
virtual_mailbox_maps = proxy:mysql:/etc/postfix/users.cf
postroom_tables_virtual_alias_maps = mysql:/etc/postfix/a/same.cf, pgsql:/etc/postfix/b/same.cf, mysql:ispmail
postroom_tables_by_file = sqlite:/srv/x.cf
smtp_sasl_password_maps = mysql:/etc/postfix/passwords.cf
alias_maps = socketmap:inet:127.0.0.1:1:x
";
        let catalog = catalog(main_cf);
        for name in [
            "virtual_mailbox_maps",
            "users.cf",
            "users",
            "/etc/postfix/users.cf",
            "virtual_alias_maps",
            "/etc/postfix/a/same.cf",
            "/etc/postfix/b/same.cf",
            "x.cf",
            "ispmail",
        ] {
            assert!(catalog.find(name.as_bytes()).is_ok(), "{name}");
        }
        let unserved = "/etc/passwd ../passwords.cf myhostname alias_maps smtp_sasl_password_maps passwords.cf \
            /etc/postfix/passwords.cf /etc/postfix/main.cf mysql:/etc/postfix/users.cf virtual_uid_maps \
            postroom_tables_virtual_alias_maps";
        for name in unserved.split_whitespace().chain([""]) {
            assert_eq!(
                catalog.find(name.as_bytes()).err(),
                Some(Unknown::Name),
                "{name}"
            );
        }
        assert_eq!(catalog.find(b"same").err(), Some(Unknown::Ambiguous));
        assert_eq!(catalog.find(b"\xff").err(), Some(Unknown::Name));
    }
}
