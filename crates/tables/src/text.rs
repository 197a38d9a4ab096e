//! `hash:`, `btree:` and `texthash:`: read from the source text, in the syntax of postmap(1).

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use crate::error::{TableError, os_text};
use crate::lines;

/// A source text in memory.
#[derive(Debug, Default)]
pub struct TextTable {
    entries: HashMap<Box<str>, Box<str>>,
    order: Vec<Box<str>>,
    problems: Vec<SourceProblem>,
}

/// Something about a line of the source that postmap(1) warns about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceProblem {
    pub line: usize,
    pub text: String,
}

impl fmt::Display for SourceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

impl TextTable {
    /// Reads the source at `path`; keys are folded when `fold` says so.
    pub fn load(spec: &str, path: &Path, fold: bool) -> Result<TextTable, TableError> {
        let source = std::fs::read(path).map_err(|error| {
            let what = match error.kind() {
                std::io::ErrorKind::IsADirectory => "read",
                _ => "open database",
            };
            TableError::operator(
                spec,
                format!("{what} {}: {}", path.display(), os_text(&error)),
            )
        })?;
        let mut indented = Vec::new();
        let table = TextTable::read(&source, &path.display().to_string(), fold, &mut indented);
        for problem in indented {
            tracing::warn!("{problem}");
        }
        Ok(table)
    }

    /// Parses a source. Lines that make no sense are left out and reported by [`TextTable::problems`].
    pub fn parse(source: &[u8], fold: bool) -> TextTable {
        TextTable::read(source, "", fold, &mut Vec::new())
    }

    fn read(source: &[u8], path: &str, fold: bool, indented: &mut Vec<String>) -> TextTable {
        let mut table = TextTable::default();
        for line in lines::logical(source, path, indented) {
            if let Err(text) = table.add(&line.bytes, fold, line.number) {
                table.problem(line.number, text);
            }
        }
        table
    }

    /// The value of a key, which must be folded as the table is.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(|value| &**value)
    }

    /// Keys and values, in the order of the source.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.order.iter().map(|key| (&**key, &*self.entries[key]))
    }

    /// What is wrong with the source.
    pub fn problems(&self) -> &[SourceProblem] {
        &self.problems
    }

    fn problem(&mut self, line: usize, text: String) {
        self.problems.push(SourceProblem { line, text });
    }

    fn add(&mut self, bytes: &[u8], fold: bool, line: usize) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|_| {
            format!(
                "non-UTF-8 input \"{}\" -- ignoring this line",
                lines::shown(bytes)
            )
        })?;
        let end = key_end(text)
            .ok_or_else(|| format!("unbalanced '\"' in '{text}' -- ignoring this line"))?;
        let (key, value) = (&text[..end], text[end..].trim_ascii());
        if key.is_empty() || value.is_empty() {
            return Err("expected format: key whitespace value -- ignoring this line".to_string());
        }
        if key.ends_with(':') {
            self.problem(
                line,
                "record is in \"key: value\" format; is this an alias file?".to_string(),
            );
        }
        let key: Box<str> = if fold {
            mail::fold(key).into()
        } else {
            key.into()
        };
        if self.entries.contains_key(&key) {
            return Err(format!("duplicate entry: \"{key}\""));
        }
        self.order.push(key.clone());
        self.entries.insert(key, value.into());
        Ok(())
    }
}

/// Where the key ends: at the first white space outside double quotes. The key keeps its quotes.
fn key_end(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' => quoted = !quoted,
            _ if byte.is_ascii_whitespace() && !quoted => return Some(at),
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_read_as_postmap_reads_them() {
        let source = b"# comment\nKey1  value one  \nkey2\tfirst,\n  second\n\nlonely\n\"quoted key\" v\nkey1 again\nalias: x\n\xff bad\n\"open v\n";
        let table = TextTable::parse(source, true);
        for (key, value) in [
            ("key1", Some("value one")),
            ("key2", Some("first,  second")),
            ("\"quoted key\"", Some("v")),
            ("quoted key", None),
            ("alias:", Some("x")),
            ("lonely", None),
        ] {
            assert_eq!(table.get(key), value, "{key}");
        }
        let problems: Vec<String> = table.problems().iter().map(|p| p.to_string()).collect();
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems[0].starts_with("line 6: expected format"));
        assert_eq!(problems[1], "line 8: duplicate entry: \"key1\"");
        assert!(problems[2].starts_with("line 9: record is in"));
    }

    #[test]
    fn keys_stay_as_written_without_folding() {
        let table = TextTable::parse(b"Key1 v\n", false);
        assert_eq!((table.get("Key1"), table.get("key1")), (Some("v"), None));
    }
}
