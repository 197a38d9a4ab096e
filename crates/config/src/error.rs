//! Mistakes in configuration files, with everything a reader needs to correct them.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting was written. `line` counts from 1; 0 where a line has no meaning (`-o` on a command line).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub file: PathBuf,
    pub line: usize,
}

impl Origin {
    pub fn new(file: &Path, line: usize) -> Origin {
        Origin {
            file: file.to_owned(),
            line,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{}", self.file.display(), line),
        }
    }
}

/// One mistake. `Display` gives `file:line: parameter = value: problem; remedy`, leaving out what is not known.
///
/// Values of table files are never part of it, since one of them is a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(Box<Mistake>);

/// The parts of a [`ConfigError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// File and line; `None` when the value is a built-in default.
    pub origin: Option<Origin>,
    pub parameter: Option<String>,
    pub value: Option<String>,
    pub problem: String,
    pub remedy: String,
    /// The text that Postfix's own tools print for this mistake, without `fatal: `.
    postfix: Option<String>,
}

impl std::ops::Deref for ConfigError {
    type Target = Mistake;

    fn deref(&self) -> &Mistake {
        &self.0
    }
}

impl ConfigError {
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> ConfigError {
        ConfigError(Box::new(Mistake {
            origin: None,
            parameter: None,
            value: None,
            problem: problem.into(),
            remedy: remedy.into(),
            postfix: None,
        }))
    }

    pub fn at(mut self, origin: Option<Origin>) -> ConfigError {
        self.0.origin = origin;
        self
    }

    pub fn parameter(mut self, name: &str) -> ConfigError {
        self.0.parameter = Some(name.to_owned());
        self
    }

    pub fn value(mut self, value: &str) -> ConfigError {
        self.0.value = Some(value.to_owned());
        self
    }

    pub(crate) fn remedy(mut self, remedy: String) -> ConfigError {
        self.0.remedy = remedy;
        self
    }

    /// Sets the text that Postfix's tools print for this mistake.
    pub fn like_postfix(mut self, text: impl Into<String>) -> ConfigError {
        self.0.postfix = Some(text.into());
        self
    }

    /// What `postconf`, `postmap` and the like print after `fatal: `; our own text where Postfix has none.
    pub fn postfix_text(&self) -> String {
        self.postfix.clone().unwrap_or_else(|| self.to_string())
    }

    /// The file could not be opened or read.
    pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
        let reason = os_text(error);
        ConfigError::new(
            format!("cannot be read: {reason}"),
            "check that the file exists and that its mode lets this user read it",
        )
        .at(Some(Origin::new(path, 0)))
        .like_postfix(format!("open {}: {reason}", path.display()))
    }
}

/// The text of an operating system error as C's `strerror` has it: without "(os error 2)".
pub(crate) fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        match (&self.parameter, &self.value) {
            (Some(name), Some(value)) => write!(f, "{name} = {value}: ")?,
            (Some(name), None) => write!(f, "{name}: ")?,
            _ => {}
        }
        write!(f, "{}", self.problem)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
