//! Logical lines, the syntax that main.cf, master.cf and table files share (postconf(5), master(5)).
//!
//! Lines whose first visible character is `#`, and lines without any, are skipped and do not end a
//! logical line. A line that starts with white space continues the one before. CR before LF is white space.

use crate::error::{ConfigError, Origin};
use std::path::Path;

/// A logical line: continuation lines joined, their leading white space kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalLine {
    pub text: String,
    /// Number of its first physical line, from 1.
    pub first: usize,
}

impl LogicalLine {
    /// A file's first logical line may start with white space by mistake; Postfix then warns and ignores it.
    pub fn is_indented(&self) -> bool {
        self.text.starts_with([' ', '\t'])
    }
}

/// True for a comment, an empty line or a line of white space.
pub fn is_skipped(line: &str) -> bool {
    let visible = line.trim_start();
    visible.is_empty() || visible.starts_with('#')
}

/// Splits a text into logical lines.
pub fn logical_lines(text: &str) -> Vec<LogicalLine> {
    let mut lines: Vec<LogicalLine> = Vec::new();
    for (index, physical) in text.split('\n').enumerate() {
        if is_skipped(physical) {
            continue;
        }
        let physical = physical.trim_end_matches('\r');
        match lines.last_mut() {
            Some(open) if physical.starts_with([' ', '\t']) => {
                open.text.push_str(physical);
            }
            _ => lines.push(LogicalLine {
                text: physical.to_owned(),
                first: index + 1,
            }),
        }
    }
    lines
}

/// Whether an error message may repeat the text of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quote {
    Line,
    /// Table files hold passwords.
    Nothing,
}

/// Splits `name = value`; white space around both is dropped.
pub fn name_and_value<'a>(
    line: &'a LogicalLine,
    file: &Path,
    quote: Quote,
) -> Result<(&'a str, &'a str), ConfigError> {
    split_name_value(&line.text).map_err(|problem| {
        let shown = match quote {
            Quote::Line => format!(": \"{}\"", line.text.trim()),
            Quote::Nothing => String::new(),
        };
        ConfigError::new(
            format!("{problem}{shown}"),
            "write `name = value`; start a line that continues another with a space, a comment with #",
        )
        .at(Some(Origin::new(file, line.first)))
        .like_postfix(format!(
            "{}, line {}: {problem}{shown}",
            file.display(),
            line.first
        ))
    })
}

/// The bare split, with Postfix's words for what is wrong.
pub fn split_name_value(text: &str) -> Result<(&str, &str), &'static str> {
    let text = text.trim();
    let name_end = text
        .find(|c: char| c.is_ascii_whitespace() || c == '=')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(name_end);
    if name.is_empty() {
        return Err("missing attribute name");
    }
    match rest.trim_start().strip_prefix('=') {
        Some(value) => Ok((name, value.trim())),
        None => Err("missing '=' after attribute name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_do_not_end_a_logical_line() {
        let lines = logical_lines("a = 1,\r\n# c\r\n\r\n  # d\n\t 2\n\nb=3");
        let texts: Vec<_> = lines.iter().map(|l| (l.text.as_str(), l.first)).collect();
        assert_eq!(texts, [("a = 1,\t 2", 1), ("b=3", 7)]);
    }

    #[test]
    fn names_and_values() {
        for (text, expected) in [
            ("a = b", Ok(("a", "b"))),
            ("a=b = c ", Ok(("a", "b = c"))),
            ("a=", Ok(("a", ""))),
            ("a b = c", Err("missing '=' after attribute name")),
            ("= c", Err("missing attribute name")),
            ("a", Err("missing '=' after attribute name")),
        ] {
            assert_eq!(split_name_value(text), expected, "{text}");
        }
    }
}
