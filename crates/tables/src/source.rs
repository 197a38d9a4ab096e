//! The lines of table sources, as postmap(1) and postalias(1) take them apart.
//!
//! Used for building and for the tables that are read from their source; what is wrong is told in Postfix's words.

use std::path::Path;

use mail::token::{Token, external, internal, scan};

use crate::error::os_text;
use crate::lines::{self, is_space};

/// A logical line of a source, up to a NUL.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// The number of its first physical line.
    pub number: usize,
    pub text: Vec<u8>,
}

/// The logical lines of a source, and what is to be said of a first one that starts with white space: it belongs to
/// nothing.
pub fn source_lines(source: &[u8]) -> (Vec<SourceLine>, Option<String>) {
    let mut found = Vec::new();
    let mut stray = None;
    for line in lines::logical(source) {
        let indented = is_space(line.bytes[0]);
        let mut text = line.bytes;
        if let Some(end) = text.iter().position(|&byte| byte == 0) {
            text.truncate(end);
        }
        if found.is_empty() && stray.is_none() && indented {
            stray = Some(text);
            continue;
        }
        found.push(SourceLine {
            number: line.number,
            text,
        });
    }
    (found, stray.map(|text| stray_line(&text)))
}

fn stray_line(text: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (start, dots) = match text.len() > SHOWN {
        true => (&text[..SHOWN], "..."),
        false => (text, ""),
    };
    let start = shown(start);
    format!("logical line must not start with whitespace: \"{start}{dots}\"")
}

/// Key and value of a line `key value`. The key keeps its quotes.
pub fn map_entry(text: &[u8]) -> Result<(&[u8], &[u8]), NoEntry> {
    let end = key_end(text).ok_or(NoEntry::Quotes)?;
    let (key, value) = (&text[..end], trimmed(&text[end..]));
    if key.is_empty() || value.is_empty() {
        return Err(NoEntry::Format);
    }
    Ok((key, value))
}

/// Why a line is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEntry {
    Quotes,
    Format,
    /// Of an alias file: nothing in front of a NUL.
    Nothing,
    /// Of an alias file: no `name: value`.
    Pair,
    /// Of an alias file: the name has a domain.
    Domain,
}

/// Key and value of a line `name: value` (aliases(5)). The key comes without its quotes, the value with them.
pub fn alias_entry(text: &[u8]) -> Result<(Vec<u8>, Vec<u8>), NoEntry> {
    // One character a byte: what is special is ASCII, and the rest stays as it is.
    let text: String = text.iter().map(|&byte| char::from(byte)).collect();
    let tokens = scan(&text);
    if tokens.is_empty() {
        return Err(NoEntry::Nothing);
    }
    let colon = tokens
        .iter()
        .position(|token| token.is_op(':'))
        .ok_or(NoEntry::Pair)?;
    let (name, value) = (&tokens[..colon], &tokens[colon + 1..]);
    if name.is_empty() || value.is_empty() || name.iter().any(|token| token.is_op(',')) {
        return Err(NoEntry::Pair);
    }
    if name
        .iter()
        .any(|token| token.is_op('@') || token.is_op('%'))
    {
        return Err(NoEntry::Domain);
    }
    let bytes = |text: String| text.chars().map(|c| c as u8).collect();
    Ok((bytes(internal(name)), bytes(external(value))))
}

/// Whether a source is an alias file: every line is `name: value`, its name one word without a colon.
/// In a file of `key value` lines no key ends with its only colon.
pub(crate) fn looks_like_aliases(lines: &[SourceLine]) -> bool {
    let alias = |line: &SourceLine| {
        let text: String = line.text.iter().map(|&byte| char::from(byte)).collect();
        let tokens = scan(&text);
        let simple = match tokens.as_slice() {
            [Token::Atom(_) | Token::Quoted(_), colon, _, ..] => colon.is_op(':'),
            _ => false,
        };
        // `2001:db8::1 REJECT` is an entry of an access table.
        let key = text.split_ascii_whitespace().next().unwrap_or_default();
        simple && (text.starts_with('"') || key.ends_with(':') && key.matches(':').count() == 1)
    };
    !lines.is_empty() && lines.iter().all(alias)
}

/// Text that may not be UTF-8 as messages show it.
pub fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace('\u{fffd}', "?")
}

/// The content of the files that a value names, a newline between them (`postmap -F`).
pub fn file_content(value: &str) -> Result<Vec<u8>, String> {
    let paths: Vec<&str> = value
        .split(|c: char| c == ',' || c.is_ascii_whitespace())
        .filter(|path| !path.is_empty())
        .collect();
    if paths.is_empty() {
        return Err(format!("empty pathname list: >>{value}<<'"));
    }
    let mut content = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        if index > 0 {
            content.push(b'\n');
        }
        let bytes = std::fs::read(Path::new(path))
            .map_err(|error| format!("open {path}: {}", os_text(&error)))?;
        content.extend_from_slice(&bytes);
    }
    Ok(content)
}

/// Where the key ends: at the first white space outside double quotes.
fn key_end(text: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' => quoted = !quoted,
            _ if is_space(*byte) && !quoted => return Some(at),
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_space(*last)
    {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_maps() {
        for (text, expected) in [
            ("k v", Ok(("k", "v"))),
            ("\"a b\"\tv w ", Ok(("\"a b\"", "v w"))),
            ("a\\ b v", Ok(("a\\ b", "v"))),
            ("k", Err(NoEntry::Format)),
            ("\"k v", Err(NoEntry::Quotes)),
        ] {
            let expected = expected.map(|(k, v): (&str, &str)| (k.as_bytes(), v.as_bytes()));
            assert_eq!(map_entry(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn entries_of_aliases() {
        for (text, expected) in [
            ("Root: john,jane", Ok(("Root", "john, jane"))),
            ("\"a b\": \"|cat x\"", Ok(("a b", "\"|cat x\""))),
            ("l: :include:/x", Ok(("l", ":include:/x"))),
            ("ü: ü", Ok(("ü", "ü"))),
            ("a b", Err(NoEntry::Pair)),
            ("a,b: c", Err(NoEntry::Pair)),
            ("a:", Err(NoEntry::Pair)),
            ("a@b: c", Err(NoEntry::Domain)),
        ] {
            let expected = expected.map(|(k, v): (&str, &str)| (k.into(), v.into()));
            assert_eq!(alias_entry(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn alias_files_are_told_from_maps() {
        for (text, aliases) in [
            ("# c\nroot: john\npostmaster:root\n \"a b\": c\n", false),
            ("root: john\n\"a b\": c\n", true),
            ("root: john\na b\n", false),
            ("2001:db8:: REJECT\n", false),
            ("fe80: REJECT\n", true),
            ("smtp:x y\n", false),
            ("", false),
        ] {
            let (lines, _) = source_lines(text.as_bytes());
            assert_eq!(looks_like_aliases(&lines), aliases, "{text}");
        }
    }
}
