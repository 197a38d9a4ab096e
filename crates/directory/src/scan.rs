//! The tokens of a statement, with the parts of the key that a template asks for.

use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Word,
    /// A literal text.
    Text,
    /// A quoted name.
    Name,
    Open,
    Close,
    Comma,
    Equals,
    /// `%s` and its like outside quotes.
    Part,
    Other,
}

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub kind: Kind,
    pub range: Range<usize>,
    /// How many parentheses are open.
    pub depth: usize,
}

/// Whether a part of the key stands anywhere in the tokens.
pub(crate) fn uses_key(text: &str, tokens: &[Token]) -> bool {
    tokens
        .iter()
        .any(|token| has_part(&text[token.range.clone()]))
}

/// Whether a text asks for a part of the key.
pub(crate) fn has_part(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        match rest[at + 1..].chars().next() {
            Some('s' | 'u' | 'd' | 'S' | 'U' | 'D' | '1'..='9') => return true,
            Some(next) => rest = &rest[at + 1 + next.len_utf8()..],
            None => return false,
        }
    }
    false
}

/// The tokens; `None` for comments and quotes that do not close.
pub(crate) fn scan(text: &str, mysql: bool) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let width = c.len_utf8();
        let (kind, length) = match c {
            c if c.is_whitespace() => {
                at += width;
                continue;
            }
            '-' if rest.starts_with("--") => return None,
            '/' if rest.starts_with("/*") => return None,
            '#' if mysql => return None,
            '\'' => (Kind::Text, quoted(rest, '\'', mysql)?),
            '"' if mysql => (Kind::Text, quoted(rest, '"', true)?),
            '"' | '`' => (Kind::Name, name_length(rest, c)?),
            '(' => (Kind::Open, 1),
            ')' => (Kind::Close, 1),
            ',' => (Kind::Comma, 1),
            '=' => (Kind::Equals, 1),
            '%' if has_part(rest.get(..2).unwrap_or_default()) => (Kind::Part, 2),
            '%' if rest.starts_with("%%") => (Kind::Other, 2),
            '<' | '>' | '!' | ':' | '|' => {
                let operator = rest.trim_start_matches(['<', '>', '!', ':', '|', '=']);
                (Kind::Other, rest.len() - operator.len())
            }
            c if is_of_word(c) => (Kind::Word, word_length(rest)),
            _ => (Kind::Other, width),
        };
        if kind == Kind::Close {
            depth = depth.checked_sub(1)?;
        }
        tokens.push(Token {
            kind,
            range: at..at + length,
            depth,
        });
        if kind == Kind::Open {
            depth += 1;
        }
        at += length;
    }
    (depth == 0).then_some(tokens)
}

/// A quoted name with what dots join to it: `` `db`.users.email ``.
fn name_length(rest: &str, quote: char) -> Option<usize> {
    let length = quoted(rest, quote, false)?;
    let joined = rest[length..].starts_with('.');
    Some(
        length
            + if joined {
                word_length(&rest[length..])
            } else {
                0
            },
    )
}

/// A word with its dots, and the quoted names that the dots join to it.
fn word_length(rest: &str) -> usize {
    let mut end = 0;
    for (at, c) in rest.char_indices() {
        let joins = (c == '`' || c == '"') && rest[..at].ends_with('.');
        if joins {
            return quoted(&rest[at..], c, false).map_or(at, |length| at + length);
        }
        if !is_of_word(c) {
            break;
        }
        end = at + c.len_utf8();
    }
    end
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '.' | '@')
}

/// The length of what stands between quotes, with them.
fn quoted(rest: &str, quote: char, backslash: bool) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && backslash {
            chars.next();
        } else if c == quote {
            match chars.peek() {
                Some((_, next)) if *next == quote => {
                    chars.next();
                }
                _ => return Some(at + 1),
            }
        }
    }
    None
}
