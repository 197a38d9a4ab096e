//! `hash:`, `btree:` and `texthash:`: read from the source text, in the syntax of postmap(1).

use std::collections::HashMap;
use std::path::Path;

use crate::base64::base64;
use crate::error::{TableError, os_text};
use crate::source::{
    NoEntry, SourceLine, alias_entry, file_content, looks_like_aliases, map_entry, shown,
    source_lines,
};

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
    /// The first physical line; `None` for a line that belongs to nothing.
    pub line: Option<usize>,
    pub text: String,
}

impl SourceProblem {
    /// The problem behind the name of the file.
    pub fn in_file(&self, name: &str) -> String {
        match self.line {
            Some(line) => format!("{name}, line {line}: {}", self.text),
            None => format!("{name}: {}", self.text),
        }
    }
}

/// How a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Whether keys are folded to lower case.
    pub fold: bool,
    /// Whether values are names of files, whose content in base64 is the value (`postmap -F`).
    pub files: bool,
    pub format: Format,
}

/// The syntax of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `key value`, as postmap(1) has it.
    Map,
    /// `name: value`, as postalias(1) has it.
    Aliases,
    /// The first, unless every line has the look of the second: what a `hash:` was built with cannot be known.
    Either,
}

impl TextTable {
    /// Reads the source at `path`.
    pub fn load(spec: &str, path: &Path, how: &Reading) -> Result<TextTable, TableError> {
        let source = std::fs::read(path).map_err(|error| {
            TableError::operator(
                spec,
                format!("open database {}: {}", path.display(), os_text(&error)),
            )
        })?;
        Ok(TextTable::parse(&source, how))
    }

    /// Parses a source. Lines that make no sense are left out and reported by [`TextTable::problems`].
    pub fn parse(source: &[u8], how: &Reading) -> TextTable {
        let mut table = TextTable::default();
        let (lines, stray) = source_lines(source);
        if let Some(text) = stray {
            table.problems.push(SourceProblem { line: None, text });
        }
        let aliases = match how.format {
            Format::Map => false,
            Format::Aliases => true,
            Format::Either => looks_like_aliases(&lines),
        };
        for line in lines {
            let added = match aliases {
                true => table.add_alias(&line, how),
                false => table.add(&line, how),
            };
            if let Err(text) = added {
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
        let line = Some(line);
        self.problems.push(SourceProblem { line, text });
    }

    fn add(&mut self, line: &SourceLine, how: &Reading) -> Result<(), String> {
        let text = utf8(&line.text)?;
        let (key, value) = map_entry(text.as_bytes()).map_err(|wrong| match wrong {
            NoEntry::Quotes => format!("unbalanced '\"' in '{text}' -- ignoring this line"),
            _ => "expected format: key whitespace value -- ignoring this line".to_string(),
        })?;
        let (key, value) = (utf8(key)?, utf8(value)?);
        if key.ends_with(':') {
            self.problem(
                line.number,
                "record is in \"key: value\" format; is this an alias file?".to_string(),
            );
        }
        match how.files {
            false => self.insert(key, value, how),
            true => {
                let content =
                    file_content(value).map_err(|error| format!("{error}: skipping this entry"))?;
                self.insert(key, &base64(&content), how)
            }
        }
    }

    fn add_alias(&mut self, line: &SourceLine, how: &Reading) -> Result<(), String> {
        let text = utf8(&line.text)?;
        let (key, value) = match alias_entry(text.as_bytes()) {
            Ok(entry) => entry,
            Err(NoEntry::Nothing) => return Ok(()),
            Err(NoEntry::Domain) => return Err("name must be local".to_string()),
            Err(_) => return Err("need name:value pair".to_string()),
        };
        self.insert(utf8(&key)?, utf8(&value)?, how)
    }

    fn insert(&mut self, key: &str, value: &str, how: &Reading) -> Result<(), String> {
        let written = key;
        let key: Box<str> = match how.fold {
            true => mail::fold(key).into(),
            false => key.into(),
        };
        if self.entries.contains_key(&key) {
            return Err(format!("duplicate entry: \"{written}\""));
        }
        self.order.push(key.clone());
        self.entries.insert(key, value.into());
        Ok(())
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes)
        .map_err(|_| format!("non-UTF-8 input \"{}\" -- ignoring this line", shown(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Reading = Reading {
        fold: true,
        files: false,
        format: Format::Either,
    };

    #[test]
    fn sources_read_as_postmap_reads_them() {
        let source = b"# comment\nKey1  value one  \nkey2\tfirst,\n  second\n\nlonely\n\"quoted key\" v\nkey1 again\nalias: x\n\xff bad\n\"open v\n";
        let table = TextTable::parse(source, &PLAIN);
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
        let problems: Vec<String> = table.problems().iter().map(|p| p.in_file("f")).collect();
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems[0].starts_with("f, line 6: expected format"));
        assert_eq!(problems[1], "f, line 8: duplicate entry: \"key1\"");
        assert!(problems[2].starts_with("f, line 9: record is in"));
    }

    #[test]
    fn keys_stay_as_written_without_folding() {
        let table = TextTable::parse(
            b"Key1 v\n",
            &Reading {
                fold: false,
                ..PLAIN
            },
        );
        assert_eq!((table.get("Key1"), table.get("key1")), (Some("v"), None));
    }

    #[test]
    fn alias_files_are_read_as_such() {
        let table = TextTable::parse(b"Root: john,jane\nlist: :include:/x\n", &PLAIN);
        assert_eq!(table.get("root"), Some("john, jane"));
        assert_eq!(table.problems(), []);
        let how = Reading {
            format: Format::Map,
            ..PLAIN
        };
        let table = TextTable::parse(b"Root: john\n", &how);
        assert_eq!(table.get("root:"), Some("john"));
    }
}
