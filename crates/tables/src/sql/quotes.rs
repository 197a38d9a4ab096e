//! In which kind of literal each part of a statement stands, so that a key can be quoted for it.

use super::template::Piece;

/// What surrounds a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quote {
    /// Outside any literal.
    None,
    /// `'…'`
    Single,
    /// PostgreSQL's `E'…'`, where a backslash escapes whatever the server's settings say.
    Escape,
    /// `"…"`: a string for MySQL, an identifier with ANSI_QUOTES and for the others.
    Double,
    /// `` `…` ``: an identifier.
    Backtick,
}

/// The context of every piece, in order.
pub(crate) fn contexts(pieces: &[Piece], backslash_escapes: bool) -> Vec<Quote> {
    let mut state = Quote::None;
    let mut before = ' ';
    let mut found = Vec::with_capacity(pieces.len());
    for piece in pieces {
        found.push(state);
        let Piece::Text(text) = piece else {
            before = 'x';
            continue;
        };
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            state = match (state, c) {
                (Quote::None, '\'') if matches!(before, 'E' | 'e') => Quote::Escape,
                (Quote::None, '\'') => Quote::Single,
                (Quote::None, '"') => Quote::Double,
                (Quote::None, '`') => Quote::Backtick,
                (Quote::Single | Quote::Escape, '\'') => Quote::None,
                (Quote::Double, '"') => Quote::None,
                (Quote::Backtick, '`') => Quote::None,
                (Quote::Escape, '\\') => {
                    chars.next();
                    state
                }
                (Quote::Single | Quote::Double, '\\') if backslash_escapes => {
                    chars.next();
                    state
                }
                _ => state,
            };
            before = c;
        }
    }
    found
}
