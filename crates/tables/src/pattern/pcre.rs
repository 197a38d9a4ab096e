//! Compiles and runs the patterns of `pcre:` tables.

use pcre2::bytes::{Regex, RegexBuilder};

use crate::posix::Groups;

/// Compiles a pattern with the flags of pcre_table(5). The error has Postfix's words.
pub(super) fn compile(source: &[u8], flags: &str) -> Result<Box<Regex>, String> {
    let toggled = |flag: char| flags.matches(flag).count() % 2 == 1;
    let (lines, extended) = (toggled('m'), toggled('x'));
    let mut text = String::new();
    if toggled('U') {
        text.push_str("(?U)");
    }
    if toggled('A') {
        text.push_str("\\A(?:");
    }
    let before = text.len();
    let plain = as_text(source);
    text.push_str(&match toggled('E') && !lines {
        true => dollar_is_the_end(&plain),
        false => plain,
    });
    if toggled('A') {
        // The newline ends a comment of the extended syntax.
        text.push_str(if extended { "\n)" } else { ")" });
    }
    RegexBuilder::new()
        .caseless(!toggled('i'))
        .multi_line(lines)
        .dotall(!toggled('s'))
        .extended(extended)
        .jit_if_available(true)
        .build(&text)
        .map(Box::new)
        .map_err(|error| {
            let offset = error.offset().unwrap_or(0).saturating_sub(before);
            format!("error in regex at offset {offset}: {}", reason(&error))
        })
}

/// The whole match and the groups.
pub(super) fn captures(pattern: &Regex, key: &[u8]) -> Result<Option<Groups>, String> {
    let Some(found) = pattern.captures(key).map_err(|error| reason(&error))? else {
        return Ok(None);
    };
    let groups = (0..found.len()).map(|n| found.get(n).map(|g| (g.start(), g.end())));
    Ok(Some(groups.collect()))
}

/// PCRE's own text for what is wrong with a pattern, or why a match was given up: the crate puts something before it.
pub(super) fn reason(error: &pcre2::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(": ") {
        Some((before, reason)) if before.starts_with("PCRE2: ") => reason.to_string(),
        _ => text,
    }
}

/// Bytes that are not UTF-8 as escapes: the crate takes text.
fn as_text(source: &[u8]) -> String {
    let mut text = String::new();
    for chunk in source.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// PCRE2_DOLLAR_ENDONLY, which the crate does not offer: `$` fits at the very end, not before a final newline.
fn dollar_is_the_end(source: &str) -> String {
    let mut text = String::new();
    let mut rest = source;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\\' if rest.starts_with("\\Q") => rest.find("\\E").map_or(rest.len(), |end| end + 2),
            '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => c.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        let opens = c == '[' && !in_class;
        text.push_str(if c == '$' && !in_class { "\\z" } else { piece });
        rest = after;
        if opens {
            in_class = true;
            // A closing bracket that stands first is a member of the class.
            for member in ["^", "]"] {
                if let Some(after) = rest.strip_prefix(member) {
                    text.push_str(member);
                    rest = after;
                }
            }
        } else if c == ']' {
            in_class = false;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dollar_is_replaced_where_it_is_an_anchor() {
        for (source, expected) in [
            ("a$", "a\\z"),
            ("a\\$", "a\\$"),
            ("[$]$", "[$]\\z"),
            ("[]$]$", "[]$]\\z"),
            ("[^]$]|$", "[^]$]|\\z"),
            ("\\Q$\\E$", "\\Q$\\E\\z"),
        ] {
            assert_eq!(dollar_is_the_end(source), expected);
        }
    }
}
