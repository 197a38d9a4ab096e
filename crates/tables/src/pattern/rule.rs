//! One line of a table of patterns: `/pattern/flags value`, `if /pattern/`, `endif`, the patterns also with `!`.

use super::replacement::{self, Piece};
use super::{Flavour, Pattern, pcre};
use crate::lines::shown;
use crate::posix::{Flags, Posix};

/// Begins a message that does not name the table and the line.
pub(super) const PLAIN: &str = "\0";

/// A line that was understood.
pub(super) enum Parsed {
    Endif,
    Rule {
        pattern: Pattern,
        negated: bool,
        /// `/pattern/!/but not this/`, an old form that `regexp:` still takes.
        but_not: Option<Pattern>,
        /// None for an `if`.
        value: Option<Vec<Piece>>,
    },
}

/// Parses a logical line without blanks at its ends. `inside` says that an `if` is open. What is wrong goes to
/// `problem`, in Postfix's words; a rule that makes no sense is left out.
pub(super) fn parse(
    line: &[u8],
    flavour: Flavour,
    inside: bool,
    problem: &mut dyn FnMut(String),
) -> Option<Parsed> {
    if !line.first()?.is_ascii_alphanumeric() {
        return value_rule(line, flavour, problem);
    }
    if let Some(rest) = keyword(line, b"if") {
        let (pattern, negated, rest) = pattern(rest, flavour, problem)?;
        if !rest.is_empty() {
            let rest = shown(rest);
            problem(format!(
                "ignoring extra text after IF statement: \"{rest}\""
            ));
            problem("do not prepend whitespace to statements between IF and ENDIF".to_string());
        }
        return Some(Parsed::Rule {
            pattern,
            negated,
            but_not: None,
            value: None,
        });
    }
    if let Some(rest) = keyword(line, b"endif") {
        if !inside {
            problem("ignoring ENDIF without matching IF".to_string());
            return None;
        }
        if !rest.trim_ascii().is_empty() {
            problem("ignoring extra text after ENDIF".to_string());
        }
        return Some(Parsed::Endif);
    }
    problem("ignoring unrecognized request".to_string());
    None
}

fn value_rule(line: &[u8], flavour: Flavour, problem: &mut dyn FnMut(String)) -> Option<Parsed> {
    let (source, negated, flags, mut rest) = split(line, flavour, problem)?;
    let mut but_not = None;
    if flavour == Flavour::Regexp && rest.starts_with(b"!") {
        let (source, _, flags, after) = split(rest, flavour, problem)?;
        but_not = Some(compile(source, &flags, flavour, problem)?);
        rest = after;
    }
    if rest.is_empty() {
        problem("no replacement text: using empty string".to_string());
    }
    let pieces = replacement::parse(rest, flavour, problem)?;
    if negated && pieces.iter().any(|piece| matches!(piece, Piece::Group(_))) {
        problem("$number found in negative match replacement text: skipping this rule".to_string());
        return None;
    }
    let pattern = compile(source, &flags, flavour, problem)?;
    let groups = match &pattern {
        Pattern::Regexp(pattern) => pattern.groups(),
        Pattern::Pcre(pattern) => pattern.captures_len() - 1,
    };
    let highest = pieces.iter().filter_map(|piece| match piece {
        Piece::Group(number) => Some(*number),
        Piece::Text(_) => None,
    });
    if let Some(highest) = highest.max().filter(|&highest| highest > groups) {
        problem(format!(
            "out of range replacement index \"{highest}\": skipping this rule"
        ));
        return None;
    }
    Some(Parsed::Rule {
        pattern,
        negated,
        but_not,
        value: Some(pieces),
    })
}

fn pattern<'a>(
    text: &'a [u8],
    flavour: Flavour,
    problem: &mut dyn FnMut(String),
) -> Option<(Pattern, bool, &'a [u8])> {
    let (source, negated, flags, rest) = split(text.trim_ascii_start(), flavour, problem)?;
    let pattern = compile(source, &flags, flavour, problem)?;
    Some((pattern, negated, rest))
}

fn compile(
    source: &[u8],
    flags: &SetFlags,
    flavour: Flavour,
    problem: &mut dyn FnMut(String),
) -> Option<Pattern> {
    let compiled = match flavour {
        Flavour::Pcre => pcre::compile(source, &flags.letters).map(Pattern::Pcre),
        Flavour::Regexp => Posix::new(
            source,
            Flags {
                extended: !flags.toggled('x'),
                ignore_case: !flags.toggled('i'),
                lines: flags.toggled('m'),
            },
        )
        .map(|pattern| Pattern::Regexp(Box::new(pattern)))
        .map_err(str::to_string),
    };
    compiled.map_err(problem).ok()
}

/// The letters behind a pattern.
struct SetFlags {
    letters: String,
}

impl SetFlags {
    /// Each letter turns its flag over.
    fn toggled(&self, flag: char) -> bool {
        self.letters.matches(flag).count() % 2 == 1
    }
}

/// The parts of a rule: the pattern between its delimiters, whether `!` stands before it, its flags, the rest.
type Parts<'a> = (&'a [u8], bool, SetFlags, &'a [u8]);

fn split<'a>(
    line: &'a [u8],
    flavour: Flavour,
    problem: &mut dyn FnMut(String),
) -> Option<Parts<'a>> {
    let mut text = line;
    let mut negated = false;
    while let Some(rest) = text.strip_prefix(b"!") {
        negated = !negated;
        text = rest.trim_ascii_start();
    }
    let Some(&delimiter) = text.first() else {
        problem("no regexp: skipping this rule".to_string());
        return None;
    };
    let mut end = 1;
    while end < text.len() && text[end] != delimiter {
        end += if text[end] == b'\\' { 2 } else { 1 };
    }
    if end >= text.len() {
        let skipped = match flavour {
            Flavour::Regexp => "skipping this rule",
            Flavour::Pcre => "ignoring this rule",
        };
        let delimiter = shown(&[delimiter]);
        problem(format!(
            "no closing regexp delimiter \"{delimiter}\": {skipped}"
        ));
        return None;
    }
    let (source, after) = (&text[1..end], &text[end + 1..]);
    let length = after
        .iter()
        .position(|byte| byte.is_ascii_whitespace() || *byte == b'!' && flavour == Flavour::Regexp)
        .unwrap_or(after.len());
    let letters = flags(&after[..length], flavour, problem)?;
    Some((source, negated, letters, after[length..].trim_ascii_start()))
}

fn flags(letters: &[u8], flavour: Flavour, problem: &mut dyn FnMut(String)) -> Option<SetFlags> {
    let known: &[u8] = match flavour {
        Flavour::Regexp => b"imx",
        Flavour::Pcre => b"imsxAEUX",
    };
    for letter in letters {
        if !known.contains(letter) {
            let letter = shown(&[*letter]);
            problem(format!(
                "unknown regexp option \"{letter}\": skipping this rule"
            ));
            return None;
        }
        if *letter == b'X' {
            problem("ignoring obsolete regexp option \"X\"".to_string());
        }
    }
    Some(SetFlags {
        letters: letters.iter().map(|&letter| char::from(letter)).collect(),
    })
}

/// What follows `word`, when the line begins with it in any case and no letter or digit follows.
fn keyword<'a>(line: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = line.split_at_checked(word.len())?;
    let whole = !rest.first().is_some_and(u8::is_ascii_alphanumeric);
    (head.eq_ignore_ascii_case(word) && whole).then_some(rest)
}
