//! The text of main.cf as settings with their origin; nothing is expanded here.

use crate::error::{ConfigError, Origin};
use crate::lines::{Quote, logical_lines, name_and_value};
use std::collections::BTreeMap;
use std::path::Path;

/// The value of one parameter, unexpanded, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    pub origin: Origin,
}

/// All settings of a file. The last of several settings of one name counts.
#[derive(Debug, Clone, Default)]
pub struct MainCf {
    pub settings: BTreeMap<String, Setting>,
    /// Texts as Postfix logs them after `warning: `.
    pub warnings: Vec<String>,
}

/// Parses main.cf. `file` serves for messages only.
pub fn parse(text: &str, file: &Path) -> Result<MainCf, ConfigError> {
    parse_quoting(text, file, Quote::Line)
}

pub(crate) fn parse_quoting(text: &str, file: &Path, quote: Quote) -> Result<MainCf, ConfigError> {
    let (parsed, mistakes) = parse_all(text, file, quote);
    match mistakes.into_iter().next() {
        Some(mistake) => Err(mistake),
        None => Ok(parsed),
    }
}

/// The settings that can be read, and what is wrong with the other lines.
pub(crate) fn parse_all(text: &str, file: &Path, quote: Quote) -> (MainCf, Vec<ConfigError>) {
    let mut parsed = MainCf::default();
    let mut mistakes = Vec::new();
    for line in logical_lines(text) {
        if line.is_indented() {
            let shown = match quote {
                Quote::Line => format!(": \"{}\"", line.text),
                Quote::Nothing => String::new(),
            };
            parsed.warnings.push(format!(
                "{}: logical line must not start with whitespace{shown}",
                file.display()
            ));
            continue;
        }
        let (name, value) = match name_and_value(&line, file, quote) {
            Ok(both) => both,
            Err(mistake) => {
                mistakes.push(mistake);
                continue;
            }
        };
        let setting = Setting {
            value: value.to_owned(),
            origin: Origin::new(file, line.first),
        };
        let earlier = parsed.settings.insert(name.to_owned(), setting);
        // The same again is no reason to complain.
        if let Some(earlier) = earlier.filter(|earlier| earlier.value != value) {
            let shown = format!("{name}={}", shown_value(name, &earlier.value));
            parsed.warnings.push(format!(
                "{}, line {}: overriding earlier entry: {shown}",
                file.display(),
                line.first
            ));
        }
    }
    (parsed, mistakes)
}

/// A value for a message: what looks like a password is left out.
pub(crate) fn shown_value<'a>(name: &str, value: &'a str) -> &'a str {
    let name = name.to_ascii_lowercase();
    if name.contains("pass") || name.ends_with("_pw") {
        "(hidden)"
    } else {
        value
    }
}
