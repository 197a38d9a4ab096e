//! Table files (`mysql_table(5)`, `pgsql_table(5)`, `sqlite_table(5)`): main.cf's syntax, except that `$` is an ordinary character.
//!
//! They hold passwords, so no message repeats a line or a value of theirs unless the parameter is known to be harmless.

use crate::error::{ConfigError, Origin};
use crate::lines::Quote;
use crate::main_cf::{MainCf, parse_quoting};
use crate::values;
use std::path::{Path, PathBuf};

/// A table file's settings.
#[derive(Clone)]
pub struct TableFile {
    path: PathBuf,
    parsed: MainCf,
}

impl std::fmt::Debug for TableFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl TableFile {
    /// Reads the file. Errors name file and line.
    pub fn load(path: &Path) -> Result<TableFile, ConfigError> {
        let bytes = std::fs::read(path).map_err(|e| ConfigError::unreadable(path, &e))?;
        TableFile::from_text(&String::from_utf8_lossy(&bytes), path)
    }

    /// Parses `text`; `path` serves for messages.
    pub fn from_text(text: &str, path: &Path) -> Result<TableFile, ConfigError> {
        Ok(TableFile {
            path: path.to_owned(),
            parsed: parse_quoting(text, path, Quote::Nothing)?,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value as written, white space around it dropped; may be empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parsed
            .settings
            .get(name)
            .map(|setting| setting.value.as_str())
    }

    /// Where the parameter is set.
    pub fn origin(&self, name: &str) -> Option<Origin> {
        self.parsed
            .settings
            .get(name)
            .map(|setting| setting.origin.clone())
    }

    /// The names of all parameters set, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parsed.settings.keys().map(String::as_str)
    }

    /// "overriding earlier entry" and the like, as Postfix words them but without values.
    pub fn warnings(&self) -> &[String] {
        &self.parsed.warnings
    }

    /// A parameter that must be there.
    pub fn required(&self, name: &str) -> Result<&str, ConfigError> {
        self.get(name).ok_or_else(|| {
            ConfigError::new("not set", format!("add a line `{name} = …`"))
                .at(Some(Origin::new(&self.path, 0)))
                .parameter(name)
        })
    }

    /// `yes` or `no`, in any case.
    pub fn bool(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        values::parse_bool(value).ok_or_else(|| {
            self.bad(name, value, "not a boolean", "write yes or no")
                .like_postfix(format!(
                    "{}: bad boolean configuration: {name} = {value}",
                    self.path.display()
                ))
        })
    }

    /// A decimal number.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, ConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        values::parse_int(value).ok_or_else(|| {
            self.bad(
                name,
                value,
                "not a number",
                "write a decimal number, without a unit",
            )
            .like_postfix(format!(
                "{}: bad numerical configuration: {name} = {value}",
                self.path.display()
            ))
        })
    }

    /// Commas or white space between the items; `{ … }` keeps its contents together. Unset: empty.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.get(name).map(values::split_list).unwrap_or_default()
    }

    fn bad(&self, name: &str, value: &str, problem: &str, remedy: &str) -> ConfigError {
        ConfigError::new(problem, remedy)
            .at(self.origin(name))
            .parameter(name)
            .value(value)
    }
}
