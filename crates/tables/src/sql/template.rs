//! `query` and `result_format`: `%s %u %d %1`…`%9 %%` and `%S %U %D` (mysql_table(5)).

use super::quotes::{Quote, contexts};

/// A part of an address that a template asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    User,
    Domain,
    /// `%1` is the last label of the domain.
    Label(usize),
}

impl Part {
    /// The part of `text`; `None` where it is missing and the lookup must be left out.
    pub fn of(self, text: &str) -> Option<&str> {
        let split = text.rsplit_once('@');
        match self {
            Part::Whole => Some(text),
            Part::User => match split {
                None => Some(text),
                Some(("", _)) => None,
                Some((user, _)) => Some(user),
            },
            Part::Domain => split
                .map(|(_, domain)| domain)
                .filter(|domain| !domain.is_empty()),
            Part::Label(n) => {
                let (_, domain) = split?;
                domain
                    .rsplit('.')
                    .filter(|label| !label.is_empty())
                    .nth(n - 1)
            }
        }
    }
}

/// What a `%x` takes its part from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Key,
    Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Part(Side, Part),
}

fn parse(text: &str, lower_case: Side) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            plain.push(c);
            continue;
        }
        let piece = match chars.next()? {
            '%' => {
                plain.push('%');
                continue;
            }
            's' => Piece::Part(lower_case, Part::Whole),
            'u' => Piece::Part(lower_case, Part::User),
            'd' => Piece::Part(lower_case, Part::Domain),
            'S' => Piece::Part(Side::Key, Part::Whole),
            'U' => Piece::Part(Side::Key, Part::User),
            'D' => Piece::Part(Side::Key, Part::Domain),
            digit @ '1'..='9' => Piece::Part(Side::Key, Part::Label(digit as usize - '0' as usize)),
            _ => return None,
        };
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(piece);
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Some(pieces)
}

/// A statement with holes for parts of the key.
#[derive(Debug)]
pub(crate) struct Query {
    pieces: Vec<(Piece, Quote)>,
}

/// A literal of a statement, cut out so that it can be bound: its pieces, unquoted.
pub(crate) type Literal = Vec<Piece>;

impl Query {
    /// `None` when a `%` stands before something that is no part.
    pub fn parse(text: &str, backslash_escapes: bool) -> Option<Query> {
        let pieces = parse(text, Side::Key)?;
        let quotes = contexts(&pieces, backslash_escapes);
        Some(Query {
            pieces: pieces.into_iter().zip(quotes).collect(),
        })
    }

    /// Whether the key has every part that the statement asks for.
    pub fn applies_to(&self, key: &str) -> bool {
        self.pieces.iter().all(|(piece, _)| match piece {
            Piece::Text(_) => true,
            Piece::Part(_, part) => part.of(key).is_some(),
        })
    }

    /// The statement for a key that it applies to. `quote` appends one part, made harmless for the
    /// kind of literal in which it stands.
    pub fn fill(
        &self,
        key: &str,
        out: &mut Vec<u8>,
        mut quote: impl FnMut(&str, Quote, &mut Vec<u8>),
    ) {
        for (piece, context) in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Part(_, part) => quote(part.of(key).unwrap_or(""), *context, out),
            }
        }
    }

    /// The statement with `?` in place of every single-quoted literal that holds a part, and these
    /// literals. `None` when a part stands anywhere else.
    pub fn bindable(&self) -> Option<(String, Vec<Literal>)> {
        let mut sql = String::new();
        let mut literals: Vec<Literal> = Vec::new();
        // The literal being read, from its opening quote: pieces so far, and whether it holds a part.
        let mut open: Option<(String, Literal, bool)> = None;
        for (piece, context) in &self.pieces {
            match piece {
                Piece::Part(..) => {
                    let (_, literal, has_part) =
                        open.as_mut().filter(|_| *context == Quote::Single)?;
                    literal.push(piece.clone());
                    *has_part = true;
                }
                Piece::Text(text) => cut_literals(text, &mut sql, &mut open, &mut literals)?,
            }
        }
        open.is_none().then_some((sql, literals))
    }
}

fn cut_literals(
    text: &str,
    sql: &mut String,
    open: &mut Option<(String, Literal, bool)>,
    literals: &mut Vec<Literal>,
) -> Option<()> {
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some((raw, literal, has_part)) = open.as_mut() else {
            match c {
                '\'' => *open = Some((String::new(), Vec::new(), false)),
                // Comments and other quotes: leave such statements to the plain way.
                '"' | '`' | '[' | '-' | '/' | '?' | ':' | '@' | '$' => return None,
                _ => sql.push(c),
            }
            continue;
        };
        if c != '\'' {
            raw.push(c);
            push_text(literal, c);
        } else if chars.next_if_eq(&'\'').is_some() {
            raw.push_str("''");
            push_text(literal, '\'');
        } else if chars.peek().is_none() && !*has_part && raw.is_empty() {
            // `''` split by a part would be ambiguous: leave it.
            return None;
        } else {
            match has_part {
                true => {
                    sql.push('?');
                    literals.push(std::mem::take(literal));
                }
                false => sql.push_str(&format!("'{raw}'")),
            }
            *open = None;
        }
    }
    Some(())
}

fn push_text(literal: &mut Literal, c: char) {
    match literal.last_mut() {
        Some(Piece::Text(text)) => text.push(c),
        _ => literal.push(Piece::Text(c.to_string())),
    }
}

/// The text of a literal for a key.
pub(crate) fn fill_literal(literal: &[Piece], key: &str) -> String {
    let mut text = String::new();
    for piece in literal {
        match piece {
            Piece::Text(plain) => text.push_str(plain),
            Piece::Part(_, part) => text.push_str(part.of(key).unwrap_or("")),
        }
    }
    text
}

/// `result_format`.
#[derive(Debug)]
pub(crate) struct Format {
    pieces: Vec<Piece>,
    plain: bool,
}

impl Format {
    pub fn parse(text: &str) -> Option<Format> {
        Some(Format {
            pieces: parse(text, Side::Value)?,
            plain: text == "%s",
        })
    }

    /// Whether the key has the parts that `%U`, `%D`, `%1`… ask for.
    pub fn applies_to(&self, key: &str) -> bool {
        self.pieces.iter().all(|piece| match piece {
            Piece::Part(Side::Key, part) => part.of(key).is_some(),
            _ => true,
        })
    }

    /// Appends the formatted value after a comma. False when the value lacks a part that the format asks for.
    pub fn append(&self, key: &str, value: &str, out: &mut String) -> bool {
        let start = out.len();
        if start > 0 {
            out.push(',');
        }
        if self.plain {
            out.push_str(value);
            return true;
        }
        for piece in &self.pieces {
            let text = match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Part(Side::Key, part) => part.of(key),
                Piece::Part(Side::Value, part) => part.of(value),
            };
            match text {
                Some(text) => out.push_str(text),
                None => {
                    out.truncate(start);
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, key: &str) -> Option<String> {
        let query = Query::parse(template, true).expect("template");
        let mut out = Vec::new();
        query.fill(key, &mut out, |part, _, out| {
            out.extend_from_slice(part.as_bytes())
        });
        query
            .applies_to(key)
            .then(|| String::from_utf8(out).expect("text"))
    }

    #[test]
    fn parts_of_keys() {
        for (template, key, expected) in [
            ("<%s|%u|%d>", "a@b.c", Some("<a@b.c|a|b.c>")),
            ("<%u>", "plain", Some("<plain>")),
            ("<%d>", "plain", None),
            ("<%u>", "user@", Some("<user>")),
            ("<%d>", "user@", None),
            ("<%u>", "@b.c", None),
            ("<%d>", "@b.c", Some("<b.c>")),
            ("<%u|%d>", "a@b@c", Some("<a@b|c>")),
            ("<%1.%2>", "x@mail.example.org", Some("<org.example>")),
            ("<%4>", "x@mail.example.org", None),
            ("<%1>", "x@example.org.", Some("<org>")),
            ("<%1>", "plain.org", None),
            ("100%% %S %U %D", "a@b", Some("100% a@b a b")),
        ] {
            assert_eq!(
                filled(template, key).as_deref(),
                expected,
                "{template} {key}"
            );
        }
        for bad in ["%x", "%", "a%0", "% s"] {
            assert!(Query::parse(bad, true).is_none(), "{bad}");
            assert!(Format::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn formats() {
        for (format, key, value, expected) in [
            ("%s", "k", "v", Some("v")),
            ("[%u]@%D", "k@key.org", "u@v.org", Some("[u]@key.org")),
            ("%d", "k", "value", None),
            ("%u", "k", "@v", None),
            ("%1", "k@a.b", "v", Some("b")),
        ] {
            let mut out = String::new();
            let done = Format::parse(format)
                .expect("format")
                .append(key, value, &mut out);
            assert_eq!(done.then_some(out.as_str()), expected, "{format}");
        }
        assert!(!Format::parse("%D").expect("format").applies_to("bare"));
    }

    #[test]
    fn literals_with_parts_can_be_bound() {
        for (template, expected) in [
            (
                "SELECT a FROM t WHERE k='%s'",
                Some(("SELECT a FROM t WHERE k=?", vec!["x@y"])),
            ),
            (
                "SELECT 'it''s' WHERE u='%u' AND d='at @''%d'",
                Some(("SELECT 'it''s' WHERE u=? AND d=?", vec!["x", "at @'y"])),
            ),
            ("SELECT a WHERE k=%s", None),
            ("SELECT a WHERE k=\"%s\"", None),
            ("SELECT a -- '%s'", None),
        ] {
            let query = Query::parse(template, false).expect("template");
            let found = query.bindable().map(|(sql, literals)| {
                (
                    sql,
                    literals
                        .iter()
                        .map(|l| fill_literal(l, "x@y"))
                        .collect::<Vec<_>>(),
                )
            });
            let expected = expected.map(|(sql, texts)| {
                (
                    sql.to_string(),
                    texts.iter().map(|t| t.to_string()).collect(),
                )
            });
            assert_eq!(found, expected, "{template}");
        }
    }
}
