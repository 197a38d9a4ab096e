//! What can go wrong with a table, and who must act.

use std::fmt;

/// Who must act on a [`TableError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The administrator: a wrong specification, file, parameter, template or pattern.
    Operator,
    /// The machine or the network: a server that cannot be reached, a timeout. Temporary.
    Environment,
    /// The database rejected this query. Other keys may well succeed.
    Rejected,
    /// The table says so itself (`fail:`, a stored procedure's SIGNAL).
    Table,
}

/// A table could not be opened, or a lookup failed. Never carries a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableError {
    kind: ErrorKind,
    table: String,
    message: String,
    logged: bool,
}

impl TableError {
    /// An error whose text is `message`, in Postfix's words, about the table `table` (`type:name`).
    pub fn new(
        kind: ErrorKind,
        table: impl Into<String>,
        message: impl Into<String>,
    ) -> TableError {
        TableError {
            kind,
            table: table.into(),
            message: message.into(),
            logged: false,
        }
    }

    /// A mistake in the configuration.
    pub fn operator(table: impl Into<String>, message: impl Into<String>) -> TableError {
        TableError::new(ErrorKind::Operator, table, message)
    }

    /// A failed lookup whose cause has gone to the log already.
    pub(crate) fn lookup(kind: ErrorKind, table: &str) -> TableError {
        TableError {
            kind,
            table: table.to_string(),
            message: format!("table {table}: query error"),
            logged: true,
        }
    }

    /// The same failure, told about the table that asked this one.
    pub(crate) fn passed_on(self, table: &str) -> TableError {
        let inner = format!("table {}: query error", self.table);
        let message = match self.message.strip_prefix(&inner) {
            Some(rest) => format!("table {table}: query error{rest}"),
            None => format!("table {table}: query error: {}", self.message),
        };
        TableError {
            table: table.to_string(),
            message,
            ..self
        }
    }

    /// Who must act.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The table, as `type:name`.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Whether the cause stands in the log already as a warning, so that saying it again is noise.
    pub fn is_logged(&self) -> bool {
        self.logged
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TableError {}

/// The text of an I/O error as C's strerror gives it, without Rust's ` (os error N)`.
pub(crate) fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}
