//! The value of a pattern's rule: text with `$1`, `${1}`, `$(1)` and `$$`.

use super::Flavour;
use super::rule::PLAIN;
use crate::lines::shown;
use crate::posix::Groups;

/// A piece of a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(Vec<u8>),
    Group(usize),
}

/// Parses a value. What is wrong goes to `problem`; there is no value then.
pub(super) fn parse(
    value: &[u8],
    flavour: Flavour,
    problem: &mut dyn FnMut(String),
) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut plain = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.iter().position(|&byte| byte == b'$') {
        plain.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(b"$") {
            plain.push(b'$');
            rest = after;
            continue;
        }
        let Some((name, after)) = name(rest) else {
            problem(format!(
                "{PLAIN}truncated macro reference: \"{}\"",
                shown(value)
            ));
            return bad(problem);
        };
        if name.is_empty() {
            problem(format!("{PLAIN}empty macro name: \"{}\"", shown(value)));
            return bad(problem);
        }
        let number = std::str::from_utf8(name)
            .ok()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(number) = number else {
            problem(format!("non-numeric replacement index \"{}\"", shown(name)));
            return bad(problem);
        };
        // A number too big for us is too big for every pattern.
        let number: usize = number.parse().unwrap_or(usize::MAX);
        if number == 0 {
            problem(match flavour {
                Flavour::Regexp => "out-of-range replacement index \"0\"".to_string(),
                Flavour::Pcre => "out of range replacement index \"0\"".to_string(),
            });
            return bad(problem);
        }
        pieces.push(Piece::Text(std::mem::take(&mut plain)));
        pieces.push(Piece::Group(number));
        rest = after;
    }
    plain.extend_from_slice(rest);
    pieces.push(Piece::Text(plain));
    Some(pieces)
}

fn bad(problem: &mut dyn FnMut(String)) -> Option<Vec<Piece>> {
    problem("bad replacement syntax: skipping this rule".to_string());
    None
}

/// The name behind a `$`, and what follows it; `None` when its bracket is not closed.
fn name(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (open, close) = match text.first() {
        Some(b'{') => (b'{', b'}'),
        Some(b'(') => (b'(', b')'),
        _ => {
            let end = text
                .iter()
                .position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
            return Some(text.split_at(end.unwrap_or(text.len())));
        }
    };
    let mut depth = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte == open {
            depth += 1;
        } else if byte == close {
            depth -= 1;
            if depth == 0 {
                return Some((&text[1..at], &text[at + 1..]));
            }
        }
    }
    None
}

/// The value, with the groups taken from `key`. A group that had no part in the match is empty.
pub(super) fn fill(pieces: &[Piece], key: &[u8], groups: &Groups) -> Vec<u8> {
    let mut value = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => value.extend_from_slice(text),
            Piece::Group(number) => {
                let range = groups.get(*number).copied().flatten();
                let text = range.and_then(|(from, to)| key.get(from..to));
                value.extend_from_slice(text.unwrap_or_default());
            }
        }
    }
    value
}
