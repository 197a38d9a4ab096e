//! A database table as `postroom check` looks at it: where its database is, what its statement says,
//! and a session in which any statement can be run that changes nothing.
//!
//! Lookups go through the pool, which logs what fails and tries the next host. A session here is with
//! one host, is read-only by the database's own means, and hands every error back.

use std::path::{Path, PathBuf};

use super::connect::{self, Connection};
use super::exchange::{self, Broken, Pace};
use super::pool::{Job, Login, Patience, Place, Target};
use super::rows::Rows;
use super::settings::{self, Settings};
use super::template::{Format, Query};
use super::{Engine, filtered_domain, sqlite};
use crate::error::TableError;
use crate::lists::MatchList;
use crate::open::Tables;
use crate::parameters::Parameters;
use crate::spec;
use rusqlite::types::ValueRef;
use rusqlite::{Connection as Sqlite, OpenFlags};

/// The language of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    MySql,
    PgSql,
    Sqlite,
}

/// The values of a row; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// What a table of type `mysql:`, `pgsql:` or `sqlite:` is made of.
pub struct Source {
    spec: String,
    name: String,
    settings: Settings,
    format: Format,
    domain: Option<MatchList>,
    place: Database,
}

enum Database {
    Server(Box<Target>),
    File(PathBuf),
}

impl Tables {
    /// The database behind `type:name`, also with `proxy:` in front; `None` for a table that is in no
    /// database. An error is the one that opening the table gives.
    pub fn source(&self, full: &str) -> Result<Option<Source>, TableError> {
        let bare = full.strip_prefix("proxy:").unwrap_or(full);
        let (kind, name) = spec::split(bare)?;
        let engine = match kind {
            "mysql" => Engine::MySql,
            "pgsql" => Engine::PgSql,
            "sqlite" => Engine::Sqlite,
            _ => return Ok(None),
        };
        // Template mistakes are told as opening the table tells them.
        self.open(bare)?;
        let parameters = Parameters::open(bare, name, self.config())?;
        let settings = Settings::read(&parameters, engine)?;
        let format = Format::parse(&settings.result_format)
            .ok_or_else(|| parameters.error("result_format: not a template".to_string()))?;
        let domain = match settings.domain.is_empty() {
            true => None,
            false => Some(MatchList::strings_strict(self, name, &settings.domain)?),
        };
        let place = match engine {
            Engine::Sqlite => Database::File(parameters.text("dbpath", "", 1)?.into()),
            _ => Database::Server(Box::new(settings::target(&parameters, engine, self)?)),
        };
        Ok(Some(Source {
            spec: full.to_string(),
            name: name.to_string(),
            settings,
            format,
            domain,
            place,
        }))
    }
}

impl Source {
    /// The table as it was named, `type:name`.
    pub fn spec(&self) -> &str {
        &self.spec
    }

    /// What follows the type: the table file's path, or the prefix of the parameters in main.cf.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dialect(&self) -> Dialect {
        match &self.place {
            Database::File(_) => Dialect::Sqlite,
            Database::Server(target) if target.engine == Engine::PgSql => Dialect::PgSql,
            Database::Server(_) => Dialect::MySql,
        }
    }

    /// The statement of a lookup, `%s` and its like not filled in.
    pub fn query(&self) -> &str {
        &self.settings.query
    }

    /// The servers in `hosts`, as messages name them. One without a name for a file.
    pub fn hosts(&self) -> Vec<&str> {
        match &self.place {
            Database::Server(target) => target.hosts.iter().map(|host| &*host.shown).collect(),
            Database::File(_) => vec![""],
        }
    }

    /// The unix socket of a host, where it is reached by one.
    pub fn socket(&self, host: usize) -> Option<&Path> {
        match &self.place {
            Database::Server(target) => match &target.hosts.get(host)?.place {
                Place::Unix(path) => Some(path),
                Place::Tcp(..) => None,
            },
            Database::File(_) => None,
        }
    }

    /// The database file of SQLite.
    pub fn file(&self) -> Option<&Path> {
        match &self.place {
            Database::Server(_) => None,
            Database::File(path) => Some(path),
        }
    }

    /// Who asks, and in which database; empty for SQLite.
    pub fn user_and_database(&self, host: usize) -> (&str, &str) {
        match &self.place {
            Database::Server(target) => {
                let own = target.hosts.get(host).and_then(|host| host.login.as_ref());
                let login: &Login = own.unwrap_or(&target.login);
                (&login.user, &login.dbname)
            }
            Database::File(_) => ("", ""),
        }
    }

    /// Whether both ask the same servers as the same user, in the same database.
    pub fn shares_database_with(&self, other: &Source) -> bool {
        match (&self.place, &other.place) {
            (Database::Server(a), Database::Server(b)) => {
                a.engine == b.engine && a.hosts == b.hosts && a.login == b.login
            }
            (Database::File(a), Database::File(b)) => a == b,
            _ => false,
        }
    }

    /// Whether the table looks up this key at all (`domain`).
    pub async fn wants(&self, key: &str) -> Result<bool, TableError> {
        let Some(domains) = &self.domain else {
            return Ok(true);
        };
        match filtered_domain(key) {
            Some(domain) => domains.matches(domain).await,
            None => Ok(false),
        }
    }

    /// Whether `domain` leaves some keys out.
    pub fn is_limited(&self) -> bool {
        self.domain.is_some()
    }

    /// A value that the statement gave, as `result_format` makes it. `None` where it gives none.
    pub fn formatted(&self, key: &str, value: &str) -> Option<String> {
        let mut out = String::new();
        let fits = !value.is_empty()
            && self.format.applies_to(key)
            && self.format.append(key, value, &mut out);
        fits.then_some(out)
    }

    /// A read-only session with one of the hosts. The error is the database's text, without secrets.
    pub async fn connect(&self, host: usize) -> Result<Session, String> {
        let target = match &self.place {
            Database::File(path) => return open_file(path).map(|file| Session(Link::Sqlite(file))),
            Database::Server(target) => target,
        };
        let server = target.hosts.get(host).ok_or("there is no such host")?;
        let login = server.login.as_ref().unwrap_or(&target.login);
        let connection = Box::new(connect::open(target.engine, server, login).await?);
        let (link, read_only) = match target.engine {
            Engine::PgSql => (
                Link::PgSql(connection),
                "SET default_transaction_read_only = on",
            ),
            _ => (Link::MySql(connection), "SET SESSION TRANSACTION READ ONLY"),
        };
        let mut session = Session(link);
        session.run(read_only, 1).await?;
        Ok(session)
    }
}

/// A session that cannot change anything.
pub struct Session(Link);

enum Link {
    MySql(Box<Connection>),
    PgSql(Box<Connection>),
    Sqlite(Sqlite),
}

impl Session {
    /// Runs a statement as it is and returns its rows, cut after every `columns` values.
    pub async fn run(&mut self, statement: &str, columns: usize) -> Result<Vec<Row>, String> {
        self.ask(&statement.replace('%', "%%"), "", columns).await
    }

    /// Runs a template as a lookup does: `%s`, `%u`, `%d` are the key's parts, quoted for where they
    /// stand. The key must have those parts.
    pub async fn ask(
        &mut self,
        template: &str,
        key: &str,
        columns: usize,
    ) -> Result<Vec<Row>, String> {
        let mysql = matches!(self.0, Link::MySql(_));
        let query = Query::parse(template, mysql).ok_or("not a template: a lone %")?;
        match &mut self.0 {
            Link::Sqlite(connection) => ask_file(connection, &query, key),
            Link::MySql(connection) | Link::PgSql(connection) => {
                let job = Job {
                    spec: "",
                    query: &query,
                    keys: &[key],
                    require_result_set: false,
                };
                let limit = Patience::default().query;
                let replies = exchange::ask(connection, &job, Pace::OneByOne, limit).await;
                let reply = match replies {
                    Ok(replies) => replies
                        .into_iter()
                        .next()
                        .unwrap_or_else(|| Ok(Rows::default())),
                    Err(Broken::Lost(text)) => Err(text),
                    Err(Broken::Silent) => Err(format!("no answer in {} s", limit.as_secs())),
                };
                let rows = reply.map_err(|text| {
                    text.strip_prefix("fatal error: ")
                        .unwrap_or(&text)
                        .to_string()
                })?;
                let values: Vec<Option<String>> = rows
                    .cells()
                    .map(|cell| cell.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
                    .collect();
                Ok(values
                    .chunks(columns.max(1))
                    .map(<[Option<String>]>::to_vec)
                    .collect())
            }
        }
    }
}

fn open_file(path: &Path) -> Result<Sqlite, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Sqlite::open_with_flags(path, flags).map_err(|error| match std::fs::File::open(path).err() {
        Some(reason) => crate::error::os_text(&reason),
        None => sqlite::text_of(&error),
    })
}

/// Every column, whereas a lookup takes the first.
fn ask_file(connection: &Sqlite, query: &Query, key: &str) -> Result<Vec<Row>, String> {
    let mut sql = Vec::new();
    query.fill(key, &mut sql, sqlite::quote);
    let sql = String::from_utf8_lossy(&sql);
    let text_of = |error: rusqlite::Error| sqlite::text_of(&error);
    let mut statement = connection.prepare(&sql).map_err(text_of)?;
    let columns = statement.column_count();
    let mut cursor = statement.raw_query();
    let mut rows = Vec::new();
    while let Some(row) = cursor.next().map_err(text_of)? {
        let mut values = Row::with_capacity(columns);
        for column in 0..columns {
            values.push(match row.get_ref(column).map_err(text_of)? {
                ValueRef::Null => None,
                ValueRef::Integer(number) => Some(number.to_string()),
                ValueRef::Real(number) => Some(number.to_string()),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                    Some(String::from_utf8_lossy(bytes).into_owned())
                }
            });
        }
        rows.push(values);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_reads_and_cannot_write() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("db");
        let database = Sqlite::open(&file).expect("a new file");
        database
            .execute_batch(
                "CREATE TABLE t (k TEXT, v INT); INSERT INTO t VALUES ('o''b', 1), ('c', NULL)",
            )
            .expect("valid SQL");
        let text = format!(
            "t_dbpath = {}\nt_query = SELECT v FROM t WHERE k='%s'\nt_result_format = <%s>\n",
            file.display()
        );
        let config = config::Config::from_text(&text, "").expect("a configuration");
        let tables = Tables::new(&config);
        let source = tables.source("sqlite:t").expect("opens").expect("SQL");
        assert!(tables.source("static:x").expect("opens").is_none());
        assert_eq!(source.formatted("k", "v").as_deref(), Some("<v>"));
        let mut session = source.connect(0).await.expect("opens");
        let rows = session.run("SELECT k, v FROM t ORDER BY v", 2).await;
        assert_eq!(
            rows.expect("runs"),
            [
                vec![Some("c".into()), None],
                vec![Some("o'b".into()), Some("1".into())]
            ]
        );
        let one = session.ask(source.query(), "o'b", 1).await.expect("runs");
        assert_eq!(one, [[Some("1".to_string())]]);
        let error = session
            .run("DELETE FROM t", 1)
            .await
            .expect_err("read-only");
        assert!(error.contains("readonly"), "{error}");
    }
}
