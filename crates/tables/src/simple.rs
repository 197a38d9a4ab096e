//! `inline:{a=1, {b = x y}}`, the text of `static:`, and sources that are a file or stand in the table's name.

use std::collections::HashMap;

use crate::error::{TableError, os_text};
use crate::spec::{braced, in_braces, split_specs};

/// `inline:{name=value, {name = text with blanks}}`. A later entry replaces an earlier one.
pub(crate) fn parse_inline(
    spec: &str,
    name: &str,
    fold: bool,
) -> Result<HashMap<String, String>, TableError> {
    let error = |problem: &str| {
        let text = format!("{problem}: \"{spec}\"; need \"inline:{{name=value...}}\"");
        TableError::operator(spec, text)
    };
    let bad = || error("bad syntax");
    let content = braced(name).filter(|_| name != "{}").ok_or_else(bad)?;
    let mut entries = HashMap::new();
    for entry in split_specs(content) {
        let entry = match entry.starts_with('{') {
            true => in_braces(&entry).map_err(|problem| error(&problem))?,
            false => &entry,
        };
        let (key, value) = entry
            .split_once('=')
            .ok_or_else(|| error("missing '=' after attribute name"))?;
        let (key, value) = (key.trim(), value.trim());
        let key = match fold {
            true => mail::fold(key).into_owned(),
            false => key.to_string(),
        };
        entries.insert(key, value.to_string());
    }
    if entries.is_empty() {
        return Err(error("empty table"));
    }
    Ok(entries)
}

/// `static:text` or `static:{ text with blanks }`.
pub(crate) fn parse_static(spec: &str, name: &str) -> Result<String, TableError> {
    if !name.starts_with('{') {
        return Ok(name.to_string());
    }
    let error = |problem| TableError::operator(spec, format!("bad static:name syntax: {problem}"));
    in_braces(name).map(str::to_string).map_err(error)
}

/// The source of a table of patterns: the file, or the rules that stand in its name, `{ {rule}, {rule} }`.
pub(crate) fn source(spec: &str, name: &str, kind: &str) -> Result<Vec<u8>, TableError> {
    if !name.starts_with('{') {
        return read(spec, name);
    }
    let error = |problem| TableError::operator(spec, format!("{kind} map: {problem}"));
    let mut source = Vec::new();
    for rule in split_specs(in_braces(name).map_err(error)?) {
        source.extend_from_slice(in_braces(&rule).map_err(error)?.as_bytes());
        source.push(b'\n');
    }
    Ok(source)
}

/// Reads a whole file; the error is in Postfix's words.
pub(crate) fn read(spec: &str, path: &str) -> Result<Vec<u8>, TableError> {
    std::fs::read(path)
        .map_err(|error| TableError::operator(spec, format!("open {path}: {}", os_text(&error))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_tables() {
        let table =
            parse_inline("inline:{}", "{ A=1, {k1 = v 1}, {k2=v2, more}, e= }", true).unwrap();
        for (key, value) in [("a", "1"), ("k1", "v 1"), ("k2", "v2, more"), ("e", "")] {
            assert_eq!(table.get(key).map(String::as_str), Some(value), "{key}");
        }
        for bad in ["a=1", "{a=1", "{}", "{a}"] {
            assert!(parse_inline("inline:x", bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn static_tables() {
        assert_eq!(parse_static("s", "x").unwrap(), "x");
        assert_eq!(parse_static("s", "{ a b }").unwrap(), "a b");
        assert!(parse_static("s", "{abc").is_err());
    }
}
