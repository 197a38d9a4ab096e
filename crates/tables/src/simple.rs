//! `inline:{a=1, {b = x y}}` and the text of `static:`.

use std::collections::HashMap;

use crate::error::{TableError, os_text};
use crate::spec::{braced, split_specs};

/// `inline:{name=value, {name = text with blanks}}`. A later entry replaces an earlier one.
pub(crate) fn parse_inline(
    spec: &str,
    name: &str,
    fold: bool,
) -> Result<HashMap<String, String>, TableError> {
    let bad = || {
        TableError::operator(
            spec,
            format!("bad syntax: \"{spec}\"; need \"inline:{{name=value...}}\""),
        )
    };
    let content = braced(name).ok_or_else(bad)?;
    let mut entries = HashMap::new();
    for entry in split_specs(content) {
        let entry = match entry.starts_with('{') {
            true => braced(&entry).ok_or_else(bad)?.to_string(),
            false => entry,
        };
        let (key, value) = entry.split_once('=').ok_or_else(|| {
            TableError::operator(
                spec,
                format!("missing '=' after attribute name: \"{entry}\" in \"{spec}\""),
            )
        })?;
        let (key, value) = (key.trim(), value.trim());
        let key = if fold {
            mail::fold(key).into_owned()
        } else {
            key.to_string()
        };
        entries.insert(key, value.to_string());
    }
    if entries.is_empty() {
        return Err(bad());
    }
    Ok(entries)
}

/// `static:text`, `static:{ text }`, or `static:` followed by `<path`, which is not ours to guess: plain text.
pub(crate) fn parse_static(spec: &str, name: &str) -> Result<String, TableError> {
    if !name.starts_with('{') {
        return Ok(name.to_string());
    }
    match braced(name) {
        Some(text) => Ok(text.to_string()),
        None => Err(TableError::operator(
            spec,
            format!("bad static:name syntax: missing '}}' in \"{name}\""),
        )),
    }
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
