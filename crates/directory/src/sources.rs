//! The tables that main.cf and master.cf name, and where their parameters stand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::Config;
use config::table_file::TableFile;
use tables::{Source, Tables};

use crate::finding::{Finding, Place, Report, Severity};
use crate::select::{self, Select};

/// A table in a database, with everything that the configuration says about it.
pub(crate) struct Known {
    pub source: Source,
    /// The parameters that name it, and the service of master.cf where one overrides them.
    pub users: Vec<User>,
    /// The table file; `None` where the parameters stand in main.cf.
    pub file: Option<TableFile>,
    pub select: Result<Select, &'static str>,
    main_cf: PathBuf,
    config: Config,
}

/// A parameter that names a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub parameter: String,
    pub service: Option<String>,
}

/// Parameters whose tables count with their defaults too, as every address asks them.
const ALWAYS: &[&str] = &[
    "mydestination",
    "virtual_alias_domains",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_mailbox_maps",
    "relay_domains",
    "relay_recipient_maps",
    "transport_maps",
    "canonical_maps",
    "recipient_canonical_maps",
    "relocated_maps",
];

/// Types whose name in a list can only mean a table.
const UNMISTAKABLE: &[&str] = &[
    "mysql", "pgsql", "sqlite", "hash", "btree", "texthash", "regexp", "pcre", "cidr", "lmdb",
    "ldap", "cdb", "dbm",
];

impl Known {
    /// Where a parameter of the table stands, or its file.
    pub fn place(&self, parameter: &str) -> Place {
        let (origin, fallback, name) = match &self.file {
            Some(file) => (file.origin(parameter), file.path(), parameter.to_owned()),
            None => {
                let name = format!("{}_{parameter}", self.source.name());
                (self.config.origin(&name), self.main_cf.as_path(), name)
            }
        };
        Place::origin(origin, fallback).parameter(&name)
    }

    /// Where the statement stands: `query`, or the older way of giving it.
    pub fn query_place(&self) -> Place {
        let first_set = ["query", "select_function", "where_field"]
            .into_iter()
            .find(|name| self.is_set(name));
        self.place(first_set.unwrap_or("query"))
    }

    pub fn is_set(&self, parameter: &str) -> bool {
        match &self.file {
            Some(file) => file.get(parameter).is_some(),
            None => {
                let name = format!("{}_{parameter}", self.source.name());
                self.config.raw(&name).is_some()
            }
        }
    }

    /// The name of the file, or what stands for it.
    pub fn shown(&self) -> String {
        match &self.file {
            Some(file) => file.path().display().to_string(),
            None => self.source.spec().to_owned(),
        }
    }

    /// Whether a parameter of that name (main.cf's) names the table.
    pub fn serves(&self, parameter: &str) -> bool {
        self.users.iter().any(|user| user.parameter == parameter)
    }

    /// The parameters in words.
    pub fn parameters(&self) -> String {
        let mut names: Vec<&str> = self.users.iter().map(|user| &*user.parameter).collect();
        names.dedup();
        names.join(", ")
    }

    pub fn is_mysql(&self) -> bool {
        self.source.dialect() == tables::Dialect::MySql
    }
}

/// Every table of the configuration; how many there are of all types; findings for those that
/// cannot be opened.
pub(crate) fn find(config: &Config, tables: &Tables, report: &mut Report) -> Vec<Known> {
    let mut named: BTreeMap<String, Vec<User>> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let mut note = |spec: String, user: User| {
        if !named.contains_key(&spec) {
            order.push(spec.clone());
        }
        let users = named.entry(spec).or_default();
        if !users.contains(&user) {
            users.push(user);
        }
    };
    for parameter in parameters(config) {
        let value = config.string(&parameter).unwrap_or_default();
        for spec in specs(&value, ALWAYS.contains(&parameter.as_str())) {
            let parameter = parameter.clone();
            note(
                spec,
                User {
                    parameter,
                    service: None,
                },
            );
        }
    }
    for service in config.services() {
        let own = config.for_service(service);
        for (parameter, _) in &service.overrides {
            let value = own.string(parameter).unwrap_or_default();
            for spec in specs(&value, ALWAYS.contains(&parameter.as_str())) {
                let user = User {
                    parameter: parameter.clone(),
                    service: Some(service.id()),
                };
                note(spec, user);
            }
        }
    }
    report.looked_at.tables = order.len();
    let mut known = Vec::new();
    for spec in order {
        let users = named.remove(&spec).unwrap_or_default();
        let opened = tables.open(&spec).and_then(|_| tables.source(&spec));
        match opened {
            Ok(Some(source)) => known.push(Known::new(source, users, config)),
            Ok(None) => {}
            Err(error) => report.add(unusable(config, &spec, &users, &error.to_string())),
        }
    }
    known
}

impl Known {
    fn new(source: Source, users: Vec<User>, config: &Config) -> Known {
        let path = Path::new(source.name());
        let is_file = source.name().starts_with(['/', '.']);
        Known {
            file: is_file.then(|| TableFile::load(path).ok()).flatten(),
            select: select::parse(source.query(), source.dialect() == tables::Dialect::MySql),
            main_cf: config.dir().join("main.cf"),
            config: config.clone(),
            source,
            users,
        }
    }
}

/// The explicit settings, those that always count, and local recipients where there are any.
fn parameters(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = ALWAYS.iter().map(|name| (*name).to_owned()).collect();
    let has_local = config
        .list("mydestination")
        .is_ok_and(|domains| !domains.is_empty());
    if has_local {
        names.push("local_recipient_maps".to_owned());
    }
    // Debian's compatibility settings name files that nothing here reads.
    let unread = ["alias_database", "local_recipient_maps"];
    let more = config
        .names()
        .filter(|name| !ALWAYS.contains(name) && !unread.contains(name))
        // Programs that are not here make these when they need them.
        .filter(|name| !name.contains("_cache_") && *name != "address_verify_map")
        .filter(|name| config::params::find(name).is_some() || is_class(config, name));
    names.extend(more.map(str::to_owned));
    names
}

fn is_class(config: &Config, name: &str) -> bool {
    config
        .list("smtpd_restriction_classes")
        .is_ok_and(|classes| classes.iter().any(|class| class == name))
}

/// The tables in a value. Words of other parameters may look like a table and be none
/// (`lmtp:unix:private/x`), so there only types count that cannot be mistaken.
fn specs(value: &str, always: bool) -> Vec<String> {
    let mut found = Vec::new();
    for word in tables::split_specs(value) {
        let word = word.trim_start_matches('!');
        let bare = word.strip_prefix("proxy:").unwrap_or(word);
        let Some((kind, name)) = bare.split_once(':') else {
            continue;
        };
        if matches!(kind, "unionmap" | "pipemap") {
            let inner = name.trim_start_matches('{').trim_end_matches('}');
            found.extend(specs(inner, always));
        }
        let is_table = UNMISTAKABLE.contains(&kind)
            || always && (tables::TYPES.contains(&kind) || word != bare);
        if is_table {
            found.push(word.to_owned());
        }
    }
    found
}

fn unusable(config: &Config, spec: &str, users: &[User], problem: &str) -> Finding {
    let parameter = users.first().map_or("", |user| &*user.parameter);
    let place = Place::origin(config.origin(parameter), &config.dir().join("main.cf"))
        .parameter(parameter)
        .table(spec);
    Finding::new(
        Severity::Error,
        "table-unusable",
        place,
        format!("the table cannot be opened: {problem}"),
    )
    .so("every lookup in it fails: mail that needs it is answered 451 or waits in the queue")
    .remedy(match problem.contains("Permission denied") {
        true => "run `postroom check` as root: Postfix opens its tables as root, too".to_owned(),
        false => format!("correct the table, or take it out of {parameter}"),
    })
}

/// The place of a table that is in no database: its file, where it has one.
pub(crate) fn text_place(spec: &str) -> Place {
    let bare = spec.strip_prefix("proxy:").unwrap_or(spec);
    match bare.split_once(':') {
        Some((_, path)) if path.starts_with('/') => Place::file(path),
        _ => Place::default().table(spec),
    }
}
