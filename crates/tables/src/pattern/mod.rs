//! `regexp:` and `pcre:` tables (regexp_table(5), pcre_table(5)): their rules, in the order of the file.
//!
//! Both work on bytes, as Postfix's do: `.` is one byte of a letter that UTF-8 writes with two.

mod pcre;
mod replacement;
mod rule;

use crate::error::{ErrorKind, TableError};
use crate::posix::{Groups, Posix};
use crate::{lines, simple};

use replacement::Piece;
use rule::Parsed;

/// Which of the two syntaxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Regexp,
    Pcre,
}

impl Flavour {
    fn name(self) -> &'static str {
        match self {
            Flavour::Regexp => "regexp",
            Flavour::Pcre => "pcre",
        }
    }
}

/// A table of patterns in memory.
#[derive(Debug)]
pub(crate) struct PatternTable {
    /// `regexp map FILE`, for messages.
    name: String,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    line: usize,
    pattern: Pattern,
    negated: bool,
    but_not: Option<Pattern>,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Value(Vec<Piece>),
    /// `if`: the rule to go on with when the pattern does not fit.
    If(usize),
}

#[derive(Debug)]
enum Pattern {
    Regexp(Box<Posix>),
    Pcre(Box<pcre2::bytes::Regex>),
}

impl PatternTable {
    pub fn load(spec: &str, path: &str, flavour: Flavour) -> Result<PatternTable, TableError> {
        let source = simple::source(spec, path, flavour.name())?;
        let (table, problems) = PatternTable::parse(&source, path, flavour);
        for problem in problems {
            tracing::warn!("{problem}");
        }
        Ok(table)
    }

    fn parse(source: &[u8], path: &str, flavour: Flavour) -> (PatternTable, Vec<String>) {
        let name = format!("{} map {path}", flavour.name());
        let mut problems = Vec::new();
        let mut table = PatternTable {
            name,
            rules: Vec::new(),
        };
        let mut open = Vec::new();
        let (lines, stray) = lines::logical(source);
        problems.extend(stray.map(|stray| format!("{path}: {stray}")));
        for line in lines {
            let mut problem = |text: String| {
                problems.push(match text.strip_prefix(rule::PLAIN) {
                    Some(plain) => plain.to_string(),
                    None => format!("{}, line {}: {text}", table.name, line.number),
                });
            };
            match rule::parse(
                line.bytes.trim_ascii(),
                flavour,
                !open.is_empty(),
                &mut problem,
            ) {
                Some(Parsed::Endif) => close(&mut table.rules, open.pop()),
                Some(Parsed::Rule {
                    pattern,
                    negated,
                    but_not,
                    value,
                }) => {
                    let action = match value {
                        Some(pieces) => Action::Value(pieces),
                        None => {
                            open.push(table.rules.len());
                            Action::If(usize::MAX)
                        }
                    };
                    table.rules.push(Rule {
                        line: line.number,
                        pattern,
                        negated,
                        but_not,
                        action,
                    });
                }
                None => {}
            }
        }
        for at in open.into_iter().rev() {
            let line = table.rules[at].line;
            problems.push(format!(
                "{}, line {line}: IF has no matching ENDIF",
                table.name
            ));
            close(&mut table.rules, Some(at));
        }
        (table, problems)
    }

    /// The value of the first rule that fits, with its groups filled in.
    pub fn lookup(&self, spec: &str, key: &[u8]) -> Result<Option<String>, TableError> {
        let mut at = 0;
        while let Some(rule) = self.rules.get(at) {
            at += 1;
            match &rule.action {
                Action::If(end) if !self.fits(rule, key) => at = *end,
                Action::If(_) => {}
                Action::Value(pieces) => {
                    if let Some(value) = self.value(rule, pieces, key) {
                        return text(spec, key, value).map(Some);
                    }
                }
            }
        }
        Ok(None)
    }

    fn fits(&self, rule: &Rule, key: &[u8]) -> bool {
        self.is_match(rule, &rule.pattern, key) != rule.negated && !self.excluded(rule, key)
    }

    fn excluded(&self, rule: &Rule, key: &[u8]) -> bool {
        let pattern = rule.but_not.as_ref();
        pattern.is_some_and(|pattern| self.is_match(rule, pattern, key))
    }

    fn is_match(&self, rule: &Rule, pattern: &Pattern, key: &[u8]) -> bool {
        let found = match pattern {
            Pattern::Regexp(pattern) => pattern.is_match(key).map_err(|_| TOO_LONG.to_string()),
            Pattern::Pcre(pattern) => pattern.is_match(key).map_err(|error| pcre::reason(&error)),
        };
        self.heard(rule, found).unwrap_or(false)
    }

    fn value(&self, rule: &Rule, pieces: &[Piece], key: &[u8]) -> Option<Vec<u8>> {
        let plain = !pieces.iter().any(|piece| matches!(piece, Piece::Group(_)));
        if rule.negated || plain {
            let fits = self.fits(rule, key);
            return fits.then(|| replacement::fill(pieces, key, &Groups::new()));
        }
        let groups = match &rule.pattern {
            Pattern::Regexp(pattern) => pattern.captures(key).map_err(|_| TOO_LONG.to_string()),
            Pattern::Pcre(pattern) => pcre::captures(pattern, key),
        };
        let groups = self.heard(rule, groups).flatten()?;
        (!self.excluded(rule, key)).then(|| replacement::fill(pieces, key, &groups))
    }

    /// What a match came to. One that would take too long is reported and counts as none, as in Postfix.
    fn heard<T>(&self, rule: &Rule, outcome: Result<T, String>) -> Option<T> {
        outcome
            .map_err(|problem| tracing::warn!("{}, line {}: {problem}", self.name, rule.line))
            .ok()
    }
}

/// A `regexp:` pattern with back references that the machine gave up on.
const TOO_LONG: &str = "match limit exceeded";

/// A value that groups have cut out of the middle of a letter is none.
fn text(spec: &str, key: &[u8], value: Vec<u8>) -> Result<String, TableError> {
    String::from_utf8(value).map_err(|error| {
        let value = lines::shown(error.as_bytes());
        let key = lines::shown(key);
        tracing::warn!("{spec}: key \"{key}\": non-UTF-8 value \"{value}\": malformed UTF-8 or invalid codepoint");
        TableError::lookup(ErrorKind::Operator, spec)
    })
}

fn close(rules: &mut [Rule], opened: Option<usize>) {
    let next = rules.len();
    if let Some(rule) = opened.and_then(|at| rules.get_mut(at)) {
        rule.action = Action::If(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(flavour: Flavour, source: &str, cases: &[(&str, Option<&str>)], problems: usize) {
        let (table, found) = PatternTable::parse(source.as_bytes(), "t", flavour);
        assert_eq!(found.len(), problems, "{found:?}");
        for (key, value) in cases {
            let answer = table.lookup("regexp:t", key.as_bytes()).expect("UTF-8");
            assert_eq!(answer.as_deref(), *value, "{key} in {source}");
        }
    }

    #[test]
    fn both_flavours() {
        for flavour in [Flavour::Regexp, Flavour::Pcre] {
            check(
                flavour,
                "/^(.*)@old\\.example$/ ${1}@new.example\n!/@/ bare\nif /^a/\n/b$/ a..b $$\nendif\n/^CASE$/i exact\n/open\n",
                &[
                    ("John@OLD.example", Some("John@new.example")),
                    ("x", Some("bare")),
                    ("a@b", Some("a..b $")),
                    ("c@b", None),
                    ("case", Some("bare")),
                ],
                1,
            );
        }
    }

    #[test]
    fn posix_brackets_take_backslashes_as_they_are() {
        check(
            Flavour::Regexp,
            "/^[\\.a]$/ yes\n/^[[:digit:]]+$/ number\n",
            &[
                ("\\", Some("yes")),
                (".", Some("yes")),
                ("12", Some("number")),
            ],
            0,
        );
    }

    #[test]
    fn pcre_has_look_ahead() {
        check(
            Flavour::Pcre,
            "/^(?!x)(\\w+)$/ <$1>\n",
            &[("abc", Some("<abc>")), ("xbc", None)],
            0,
        );
    }

    #[test]
    fn half_a_letter_is_a_failure() {
        let (table, _) = PatternTable::parse(b"/^(.)/ $1\n", "t", Flavour::Regexp);
        assert!(table.lookup("regexp:t", "ö".as_bytes()).is_err());
        assert_eq!(table.lookup("regexp:t", b"o"), Ok(Some("o".to_string())));
    }

    proptest! {
        #[test]
        fn any_file_is_read(
            rules in prop::collection::vec(
                "(!|if |endif|/|[a-z.*]|\\$[0-9{(]?|[})]| |\n|\\\\|[\u{80}-\u{ff}]){0,30}",
                0..5,
            ),
            key in ".{0,10}",
        ) {
            for flavour in [Flavour::Regexp, Flavour::Pcre] {
                let (table, _) = PatternTable::parse(rules.join("\n").as_bytes(), "t", flavour);
                let _ = table.lookup("t", key.as_bytes());
            }
        }
    }
}
