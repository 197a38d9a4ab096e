//! What `mysql:`, `pgsql:` and `sqlite:` have in common: the parameters, the domain filter, the
//! statement, and how rows become a value. The drivers connect, quote and run.

mod connect;
mod conninfo;
mod exchange;
mod health;
mod hosts;
pub mod inspect;
mod mysql;
mod pgsql;
mod pool;
mod quotes;
mod rows;
mod settings;
mod sqlite;
mod template;
mod tls;
mod wire;

use std::sync::Arc;

pub(crate) use pool::{Patience, Pool, Target};
pub(crate) use rows::Rows;
pub(crate) use settings::Settings;
pub(crate) use template::Query;

use crate::Answer;
use crate::error::{ErrorKind, TableError};
use crate::front::{Front, Sharing};
use crate::lists::MatchList;
use crate::open::Tables;
use crate::parameters::Parameters;
use template::Format;

/// The database engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Engine {
    MySql,
    PgSql,
    Sqlite,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Engine::MySql => "mysql",
            Engine::PgSql => "pgsql",
            Engine::Sqlite => "sqlite",
        }
    }
}

/// What the `domain` parameter is asked about: only a key with a user and a domain passes it.
fn filtered_domain(key: &str) -> Option<&str> {
    let (user, domain) = key.rsplit_once('@')?;
    (!user.is_empty() && !domain.is_empty()).then_some(domain)
}

/// A lookup that failed below: whether the log has the reason already, and the reason.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Logged as a warning where it happened.
    Logged(ErrorKind),
    /// To be told by the caller, in Postfix's words.
    Untold(ErrorKind, String),
}

/// A table in a database.
pub(crate) struct SqlTable {
    /// `type:name`.
    spec: String,
    /// The name alone: Postfix's messages use both.
    name: String,
    engine: Engine,
    query: Query,
    format: Format,
    domain: Option<MatchList>,
    expansion_limit: i64,
    driver: Driver,
    front: Option<Front>,
}

enum Driver {
    Server {
        pool: Arc<pool::Pool>,
        require_result_set: bool,
    },
    Sqlite(sqlite::Database),
}

impl SqlTable {
    /// Reads the parameters. Connections are made when a lookup needs one.
    pub fn open(
        parameters: &Parameters,
        engine: Engine,
        tables: &Tables,
    ) -> Result<SqlTable, TableError> {
        let settings = Settings::read(parameters, engine)?;
        let invalid = |what: &str, text: &str| {
            let problem = format!(
                "db_common_parse: {}: Invalid {what} template: {text}",
                parameters.name()
            );
            TableError::operator(parameters.spec(), problem)
        };
        let query = Query::parse(&settings.query, engine == Engine::MySql)
            .ok_or_else(|| invalid("query", &settings.query))?;
        let format = Format::parse(&settings.result_format)
            .ok_or_else(|| invalid("result", &settings.result_format))?;
        let domain = match settings.domain.is_empty() {
            true => None,
            false => Some(MatchList::strings_strict(
                tables,
                parameters.name(),
                &settings.domain,
            )?),
        };
        let driver = match engine {
            Engine::Sqlite => Driver::Sqlite(sqlite::Database::new(parameters, &query)?),
            Engine::MySql | Engine::PgSql => Driver::Server {
                pool: tables.pool(settings::target(parameters, engine, tables)?),
                require_result_set: engine == Engine::MySql
                    && parameters.boolean("require_result_set", true)?,
            },
        };
        let sharing = match engine {
            Engine::Sqlite => Sharing::No,
            Engine::MySql | Engine::PgSql => Sharing::Yes,
        };
        Ok(SqlTable {
            front: tables.front(parameters.spec(), Some(parameters), sharing)?,
            spec: parameters.spec().to_string(),
            name: parameters.name().to_string(),
            engine,
            query,
            format,
            domain,
            expansion_limit: settings.expansion_limit,
            driver,
        })
    }

    /// Looks up a key, folded as the table is.
    pub async fn lookup(&self, key: &str) -> Answer {
        if !self.wants(key).await? {
            return Ok(None);
        }
        if !self.goes_to_database(key) {
            return Ok(None);
        }
        match &self.front {
            // Boxed: it is moved about until it is known who asks.
            Some(front) => front.answer(key, Box::pin(self.ask(key))).await,
            None => self.ask(key).await,
        }
    }

    /// The answers for many folded keys in their order, up to the first failure. `None` where
    /// something else than the database has its say about each key.
    pub async fn lookup_together(&self, keys: &[&str]) -> Option<Vec<Answer>> {
        if self.domain.is_some() || self.front.is_some() {
            return None;
        }
        let mut answers = Vec::with_capacity(keys.len());
        match &self.driver {
            Driver::Sqlite(database) => database.run_all(&self.query, keys, &mut |key, run| {
                answers.push(match self.goes_to_database(key) {
                    true => self.answer(key, run()),
                    false => Ok(None),
                });
                answers.last().is_some_and(Result::is_ok)
            }),
            Driver::Server {
                pool,
                require_result_set,
            } => {
                let asked: Vec<&str> = keys
                    .iter()
                    .copied()
                    .filter(|key| !key.is_empty() && self.has_all_parts(key))
                    .collect();
                let replies = match asked.is_empty() {
                    true => Ok(pool::Replies::default()),
                    false => pool.run(&self.job(&asked, *require_result_set)).await,
                };
                // Another host may take what one rejects: key by key then.
                if pool.has_others() && replies.as_ref().is_ok_and(pool::Replies::has_rejected) {
                    return None;
                }
                self.tell_all(pool, keys, replies, &mut answers);
            }
        }
        Some(answers)
    }

    /// Makes answers of replies, key by key, so that what is logged keeps their order.
    fn tell_all(
        &self,
        pool: &pool::Pool,
        keys: &[&str],
        replies: Result<pool::Replies, Failure>,
        answers: &mut Vec<Answer>,
    ) {
        let (host, mut each, mut failure) = match replies {
            Ok(replies) => (replies.host, replies.each.into_iter(), None),
            Err(failure) => (0, Vec::new().into_iter(), Some(failure)),
        };
        for key in keys {
            let answer = match self.goes_to_database(key) {
                false => Ok(None),
                true => {
                    let rows = match (each.next(), failure.take()) {
                        (Some(reply), _) => {
                            reply.map_err(|text| pool.rejected(&self.spec, host, &text))
                        }
                        (None, Some(failure)) => Err(failure),
                        (None, None) => Err(pool.rejected(&self.spec, host, "no reply")),
                    };
                    self.answer(key, rows)
                }
            };
            let is_last = answer.is_err();
            answers.push(answer);
            if is_last {
                return;
            }
        }
    }

    /// Whether the database is asked about the key.
    fn goes_to_database(&self, key: &str) -> bool {
        if key.is_empty() {
            tracing::warn!("table \"{}\": empty query string -- ignored", self.spec);
            return false;
        }
        self.has_all_parts(key)
    }

    fn has_all_parts(&self, key: &str) -> bool {
        self.query.applies_to(key) && self.format.applies_to(key)
    }

    /// The answer of the database itself.
    async fn ask(&self, key: &str) -> Answer {
        let rows = match &self.driver {
            Driver::Sqlite(database) => database.run(&self.query, key),
            Driver::Server {
                pool,
                require_result_set,
            } => {
                let job = self.job(std::slice::from_ref(&key), *require_result_set);
                pool.run_one(&job).await
            }
        };
        self.answer(key, rows)
    }

    fn job<'a>(&'a self, keys: &'a [&'a str], require_result_set: bool) -> pool::Job<'a> {
        pool::Job {
            spec: &self.spec,
            query: &self.query,
            keys,
            require_result_set,
        }
    }

    fn answer(&self, key: &str, rows: Result<Rows, Failure>) -> Answer {
        match rows {
            Ok(rows) => self.value(key, &rows),
            Err(Failure::Logged(kind)) => Err(TableError::lookup(kind, &self.spec)),
            Err(Failure::Untold(kind, text)) => Err(TableError::new(kind, &self.spec, text)),
        }
    }

    /// The `domain` parameter: which keys are looked up at all.
    async fn wants(&self, key: &str) -> Result<bool, TableError> {
        let Some(domains) = &self.domain else {
            return Ok(true);
        };
        let Some(domain) = filtered_domain(key) else {
            return Ok(false);
        };
        domains.matches(domain).await.map_err(|error| {
            if !error.is_logged() {
                tracing::warn!("{}: {}: table lookup problem", self.name, error.table());
            }
            if self.engine == Engine::MySql {
                tracing::warn!("{} 'domain' pattern match failed for '{key}'", self.spec);
            }
            TableError::lookup(error.kind(), &self.spec)
        })
    }

    /// Joins all values by commas, each formatted.
    fn value(&self, key: &str, rows: &Rows) -> Answer {
        let mut value = String::new();
        let mut count = 0;
        for cell in rows.cells() {
            let bytes = match cell {
                Some(bytes) => bytes,
                // libpq gives an empty string for NULL, and Postfix does not ask further.
                None if self.engine == Engine::PgSql => b"",
                None => continue,
            };
            if bytes.is_empty() {
                tracing::warn!(
                    "table \"{}\": empty lookup result for: \"{key}\" -- ignored",
                    self.spec
                );
                continue;
            }
            let Ok(text) = std::str::from_utf8(bytes) else {
                return Err(self.not_utf8(key, bytes));
            };
            if !self.format.append(key, text, &mut value) {
                continue;
            }
            count += 1;
            if self.expansion_limit > 0 && count > self.expansion_limit {
                let colon = if self.engine == Engine::Sqlite {
                    ""
                } else {
                    ":"
                };
                let function = self.engine.name();
                tracing::warn!(
                    "dict_{function}_lookup: {}: Expansion limit exceeded for key{colon} '{key}'",
                    self.name
                );
                return Err(TableError::lookup(ErrorKind::Table, &self.spec));
            }
        }
        Ok((!value.is_empty()).then_some(value))
    }

    fn not_utf8(&self, key: &str, bytes: &[u8]) -> TableError {
        let shown = String::from_utf8_lossy(bytes).replace('\u{fffd}', "?");
        tracing::warn!(
            "{}: key \"{key}\": non-UTF-8 value \"{shown}\": malformed UTF-8 or invalid codepoint",
            self.spec
        );
        TableError::lookup(ErrorKind::Table, &self.spec)
    }
}
