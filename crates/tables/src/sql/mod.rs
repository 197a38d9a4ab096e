//! What `mysql:`, `pgsql:` and `sqlite:` have in common: the parameters, the domain filter, the
//! statement, and how rows become a value. The drivers connect, quote and run.

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
mod wire;

use std::sync::Arc;

pub(crate) use pool::{Pool, Target};
pub(crate) use rows::Rows;
pub(crate) use settings::Settings;

use crate::Answer;
use crate::error::{ErrorKind, TableError};
use crate::lists::MatchList;
use crate::open::Tables;
use crate::parameters::Parameters;
use template::{Format, Query};

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
                pool: tables.pool(settings::target(parameters, engine)?),
                require_result_set: engine == Engine::MySql
                    && parameters.boolean("require_result_set", true)?,
            },
        };
        Ok(SqlTable {
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
        if key.is_empty() {
            tracing::warn!("table \"{}\": empty query string -- ignored", self.spec);
            return Ok(None);
        }
        if !self.query.applies_to(key) || !self.format.applies_to(key) {
            return Ok(None);
        }
        let rows = match &self.driver {
            Driver::Sqlite(database) => database.run(&self.query, key),
            Driver::Server {
                pool,
                require_result_set,
            } => {
                let job = pool::Job {
                    spec: &self.spec,
                    query: &self.query,
                    key,
                    require_result_set: *require_result_set,
                };
                pool.run(&job).await
            }
        };
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
        let Some((user, domain)) = key.rsplit_once('@') else {
            return Ok(false);
        };
        if user.is_empty() || domain.is_empty() {
            return Ok(false);
        }
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
