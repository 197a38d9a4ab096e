//! A table's settings: from its own file (`mysql:/etc/postfix/x.cf`), or from main.cf
//! (`mysql:name`, where the parameters are `name_hosts`, `name_query`, …).

use std::path::Path;
use std::time::Duration;

use config::Config;
use config::table_file::TableFile;

use crate::error::TableError;

/// Where the settings of one table stand.
pub(crate) struct Parameters {
    spec: String,
    /// The name as given: what Postfix puts into its messages.
    name: String,
    source: Source,
}

enum Source {
    File(TableFile),
    MainCf(Config),
}

impl Parameters {
    /// Reads the table file, or takes the parameters of main.cf when the name has no slash.
    pub fn open(spec: &str, name: &str, config: &Config) -> Result<Parameters, TableError> {
        let source = if name.starts_with('/') || name.starts_with('.') {
            if Path::new(name).is_dir() {
                return Err(TableError::operator(
                    spec,
                    format!("read {name}: Is a directory"),
                ));
            }
            let file = TableFile::load(Path::new(name))
                .map_err(|error| TableError::operator(spec, error.postfix_text()))?;
            for warning in file.warnings() {
                tracing::warn!("{warning}");
            }
            Source::File(file)
        } else {
            Source::MainCf(config.clone())
        };
        Ok(Parameters {
            spec: spec.to_string(),
            name: name.to_string(),
            source,
        })
    }

    /// The table as `type:name`.
    pub fn spec(&self) -> &str {
        &self.spec
    }

    /// The name after the type.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The setting, or `None` where it is not set.
    pub fn get(&self, name: &str) -> Result<Option<String>, TableError> {
        match &self.source {
            Source::File(file) => Ok(file.get(name).map(str::to_string)),
            Source::MainCf(config) => {
                let full = format!("{}_{name}", self.name);
                match config.raw(&full) {
                    None => Ok(None),
                    Some(raw) => config
                        .expand(raw)
                        .map(Some)
                        .map_err(|error| TableError::operator(&self.spec, error.postfix_text())),
                }
            }
        }
    }

    /// A text of at least `least` bytes; `default` where it is not set.
    pub fn text(&self, name: &str, default: &str, least: usize) -> Result<String, TableError> {
        let value = self.get(name)?.unwrap_or_else(|| default.to_string());
        if value.len() < least {
            let problem = format!(
                "bad string length {} < {least}: {} = {value}",
                value.len(),
                self.shown(name)
            );
            return Err(self.error(problem));
        }
        Ok(value)
    }

    /// `yes` or `no`, in any case.
    pub fn boolean(&self, name: &str, default: bool) -> Result<bool, TableError> {
        match self.get(name)? {
            None => Ok(default),
            Some(text) if text.eq_ignore_ascii_case("yes") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("no") => Ok(false),
            Some(text) => Err(self.error(format!(
                "bad boolean configuration: {} = {text}",
                self.shown(name)
            ))),
        }
    }

    /// A whole number that is not smaller than `least`.
    pub fn number(&self, name: &str, default: i64, least: Option<i64>) -> Result<i64, TableError> {
        let Some(text) = self.get(name)? else {
            return Ok(default);
        };
        let number: i32 = text.trim().parse().map_err(|_| {
            self.error(format!(
                "bad numerical configuration: {} = {text}",
                self.shown(name)
            ))
        })?;
        match least {
            Some(least) if i64::from(number) < least => {
                Err(self.error(format!("invalid {name} parameter value {number} < {least}")))
            }
            _ => Ok(i64::from(number)),
        }
    }

    /// A time with a unit, in seconds where there is none; `None` where it is not set.
    pub fn time(&self, name: &str) -> Result<Option<Duration>, TableError> {
        self.parsed(name, "time", |text| config::parse_time(text, 's'))
    }

    /// A whole number of any size; `None` where it is not set.
    pub fn whole(&self, name: &str) -> Result<Option<i64>, TableError> {
        self.parsed(name, "numerical", |text| text.parse().ok())
    }

    fn parsed<T>(
        &self,
        name: &str,
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, TableError> {
        let Some(text) = self.get(name)? else {
            return Ok(None);
        };
        parse(text.trim()).map(Some).ok_or_else(|| {
            let shown = self.shown(name);
            self.error(format!("bad {what} configuration: {shown} = {text}"))
        })
    }

    /// An error about these settings, opened with the file's name where there is a file.
    pub fn error(&self, problem: String) -> TableError {
        match self.source {
            Source::File(_) => {
                TableError::operator(&self.spec, format!("{}: {problem}", self.name))
            }
            Source::MainCf(_) => TableError::operator(&self.spec, problem),
        }
    }

    fn shown(&self, name: &str) -> String {
        match self.source {
            Source::File(_) => name.to_string(),
            Source::MainCf(_) => format!("{}_{name}", self.name),
        }
    }
}
