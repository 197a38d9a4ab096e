//! The `sqlite:` driver. Statements are prepared once and the key is bound where the template
//! allows it (`docs/decisions/0002-sql-driver.md` says why SQLite is called in the lookup's own thread).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fallible_iterator_3::FallibleIterator;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, OpenFlags, Statement};

use super::quotes::Quote;
use super::template::{Literal, Query, fill_literal};
use super::{Failure, Rows};
use crate::error::{ErrorKind, TableError};
use crate::parameters::Parameters;

/// How long a lookup waits while a writer holds the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections kept for later; more are closed.
const KEPT: usize = 8;

/// Takes a key and what runs the statement for it; whether to go on.
pub(super) type Each<'a> = dyn FnMut(&str, &mut dyn FnMut() -> Result<Rows, Failure>) -> bool + 'a;

/// A database file, and the connections to it that are not in use.
pub(crate) struct Database {
    spec: String,
    name: String,
    path: String,
    bound: Option<(String, Vec<Literal>)>,
    idle: Mutex<Vec<Connection>>,
}

impl Database {
    pub fn new(parameters: &Parameters, query: &Query) -> Result<Database, TableError> {
        Ok(Database {
            spec: parameters.spec().to_string(),
            name: parameters.name().to_string(),
            path: parameters.text("dbpath", "", 1)?,
            bound: query.bindable(),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// The first column of every row.
    pub fn run(&self, query: &Query, key: &str) -> Result<Rows, Failure> {
        let connection = self.take()?;
        let rows = self.run_on(&connection, query, key);
        self.keep(connection, rows.is_ok());
        rows
    }

    fn keep(&self, connection: Connection, all_well: bool) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection whose statement failed may be one whose file was replaced: start afresh.
        if all_well && idle.len() < KEPT {
            idle.push(connection);
        }
    }

    /// The same for many keys: each goes to `each` with what runs the statement for it, until that
    /// says no.
    pub fn run_all(&self, query: &Query, keys: &[&str], each: &mut Each<'_>) {
        match self.take() {
            Ok(connection) => {
                let all_well = self.run_all_on(&connection, query, keys, each);
                self.keep(connection, all_well);
            }
            Err(failure) => {
                let mut failure = Some(failure);
                let none = || Failure::Logged(ErrorKind::Environment);
                let mut run = || Err(failure.take().unwrap_or_else(none));
                keys.iter().all(|key| each(key, &mut run));
            }
        }
    }

    /// One statement where it can be bound, and one lock on the file for all keys.
    fn run_all_on(
        &self,
        connection: &Connection,
        query: &Query,
        keys: &[&str],
        each: &mut Each<'_>,
    ) -> bool {
        let bound = self.bound.as_ref().and_then(|(sql, literals)| {
            let statement = connection.prepare_cached(sql).ok()?;
            Some((statement, literals))
        });
        let Some((mut statement, literals)) = bound else {
            let mut keys = keys.iter();
            return keys.all(|key| each(key, &mut || self.run_on(connection, query, key)));
        };
        // Without it every statement would lock the file and let go of it again.
        let locked = run_plain(connection, "BEGIN");
        let all_well = keys.iter().all(|key| {
            let mut run = || self.run_bound(connection, &mut statement, literals, key);
            each(key, &mut run)
        });
        if locked {
            run_plain(connection, "COMMIT");
        }
        all_well
    }

    fn take(&self) -> Result<Connection, Failure> {
        let kept = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(connection) = kept {
            return Ok(connection);
        }
        let open = || -> rusqlite::Result<Connection> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            Ok(connection)
        };
        open().map_err(|error| {
            let reason = std::fs::File::open(&self.path)
                .err()
                .map(|e| crate::error::os_text(&e))
                .unwrap_or_default();
            let text = format!(
                "{}: open database {}: {}: {reason}",
                self.spec,
                self.path,
                text_of(&error)
            );
            Failure::Untold(ErrorKind::Environment, text)
        })
    }

    fn run_on(&self, connection: &Connection, query: &Query, key: &str) -> Result<Rows, Failure> {
        if let Some((sql, literals)) = &self.bound
            && let Ok(mut statement) = connection.prepare_cached(sql)
        {
            return self.run_bound(connection, &mut statement, literals, key);
        }
        let mut sql = Vec::new();
        query.fill(key, &mut sql, quote);
        let sql = String::from_utf8_lossy(&sql);
        // Only the first statement runs, as with sqlite3_prepare in Postfix.
        match Batch::new(connection, &sql).next() {
            Ok(Some(mut statement)) => self.rows(connection, &mut statement),
            Ok(None) => {
                tracing::warn!(
                    "dict_sqlite_lookup: {}: SQL step failed: the query is empty",
                    self.name
                );
                Err(Failure::Logged(ErrorKind::Rejected))
            }
            Err(error) => {
                let text = format!(
                    "dict_sqlite_lookup: {}: SQL prepare failed: {}",
                    self.name,
                    text_of(&error)
                );
                Err(Failure::Untold(ErrorKind::Rejected, text))
            }
        }
    }

    fn run_bound(
        &self,
        connection: &Connection,
        statement: &mut Statement<'_>,
        literals: &[Literal],
        key: &str,
    ) -> Result<Rows, Failure> {
        for (index, literal) in literals.iter().enumerate() {
            let bound = statement.raw_bind_parameter(index + 1, fill_literal(literal, key));
            bound.map_err(|error| self.failed(&error))?;
        }
        self.rows(connection, statement)
    }

    fn rows(
        &self,
        connection: &Connection,
        statement: &mut Statement<'_>,
    ) -> Result<Rows, Failure> {
        let mut rows = Rows::default();
        let has_columns = statement.column_count() > 0;
        let mut cursor = statement.raw_query();
        loop {
            match cursor.next() {
                Ok(None) => return Ok(rows),
                Ok(Some(_)) if !has_columns => {}
                Ok(Some(row)) => match row.get_ref(0) {
                    Ok(value) => push(&mut rows, value, connection),
                    Err(error) => return Err(self.failed(&error)),
                },
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    fn failed(&self, error: &rusqlite::Error) -> Failure {
        tracing::warn!(
            "dict_sqlite_lookup: {}: SQL step failed for query: {}",
            self.name,
            text_of(error)
        );
        let text = format!(
            "dict_sqlite_lookup: {}: SQL finalize failed for query: {}",
            self.name,
            text_of(error)
        );
        Failure::Untold(ErrorKind::Rejected, text)
    }
}

/// Runs a statement without rows; whether it worked.
fn run_plain(connection: &Connection, sql: &str) -> bool {
    let statement = connection.prepare_cached(sql);
    statement.is_ok_and(|mut statement| statement.execute([]).is_ok())
}

/// A value as sqlite3_column_text gives it.
fn push(rows: &mut Rows, value: ValueRef<'_>, connection: &Connection) {
    match value {
        ValueRef::Null => rows.push(None),
        ValueRef::Integer(number) => rows.push(Some(number.to_string().as_bytes())),
        ValueRef::Real(number) => {
            // SQLite's own formatting, which has 15 digits and its own idea of exponents.
            let text: rusqlite::Result<String> = connection
                .prepare_cached("SELECT CAST(? AS TEXT)")
                .and_then(|mut s| s.query_row([number], |row| row.get(0)));
            rows.push(Some(text.unwrap_or_else(|_| number.to_string()).as_bytes()));
        }
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            // C strings end at the first NUL.
            let end = bytes
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(bytes.len());
            rows.push(Some(&bytes[..end]));
        }
    }
}

/// SQLite knows no backslash; quotes are doubled, also in quoted identifiers.
pub(super) fn quote(part: &str, context: Quote, out: &mut Vec<u8>) {
    for byte in part.bytes() {
        match (byte, context) {
            (b'\'', Quote::Single | Quote::Escape | Quote::None)
            | (b'"', Quote::Double)
            | (b'`', Quote::Backtick) => {
                out.extend_from_slice(&[byte, byte]);
            }
            // The text of a statement ends at a NUL.
            (0, _) => {}
            _ => out.push(byte),
        }
    }
}

pub(super) fn text_of(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}
