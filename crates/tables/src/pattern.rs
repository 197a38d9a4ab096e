//! `regexp:` and `pcre:` tables (regexp_table(5), pcre_table(5)).

use crate::error::TableError;
use crate::{lines, simple};

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
pub(crate) struct PatternTable {
    rules: Vec<Rule>,
}

struct Rule {
    pattern: Option<Pattern>,
    negated: bool,
    action: Action,
}

enum Action {
    Value(Vec<Piece>),
    /// `if`: where to go on when the pattern does not fit.
    If(usize),
    Endif,
}

enum Piece {
    Text(String),
    Group(usize),
}

enum Pattern {
    Regexp(regex::Regex),
    Pcre(Box<pcre2::bytes::Regex>),
}

impl PatternTable {
    pub fn load(spec: &str, path: &str, flavour: Flavour) -> Result<PatternTable, TableError> {
        let source = match crate::spec::braced(path) {
            Some(inline) => inline_rules(inline).into_bytes(),
            None => simple::read(spec, path)?,
        };
        let (table, problems) = PatternTable::parse(&source, flavour);
        for problem in problems {
            tracing::warn!("{} map {path}, {problem}", flavour.name());
        }
        Ok(table)
    }

    fn parse(source: &[u8], flavour: Flavour) -> (PatternTable, Vec<String>) {
        let mut rules: Vec<Rule> = Vec::new();
        let mut problems = Vec::new();
        let mut open = Vec::new();
        let skipped = match flavour {
            Flavour::Regexp => "skipping this rule",
            Flavour::Pcre => "ignoring this rule",
        };
        for line in lines::logical(source) {
            let text = String::from_utf8_lossy(&line.bytes);
            match parse_rule(text.trim(), flavour, !open.is_empty()) {
                Ok(rule) => {
                    match rule.action {
                        Action::If(_) => open.push(rules.len()),
                        Action::Endif => close(&mut rules, open.pop()),
                        Action::Value(_) => {}
                    }
                    rules.push(rule);
                }
                Err(problem) => problems.push(format!("line {}: {problem}: {skipped}", line.last)),
            }
        }
        for at in open.into_iter().rev() {
            problems.push("line 0: IF has no matching ENDIF".to_string());
            close(&mut rules, Some(at));
        }
        (PatternTable { rules }, problems)
    }

    /// The value of the first rule that fits, with its groups filled in.
    pub fn lookup(&self, key: &str) -> Option<String> {
        let mut at = 0;
        while let Some(rule) = self.rules.get(at) {
            at += 1;
            match &rule.action {
                Action::Endif => {}
                Action::If(end) => {
                    if rule.fits(key).is_none() {
                        at = *end;
                    }
                }
                Action::Value(pieces) => {
                    if let Some(groups) = rule.fits(key) {
                        return Some(fill(pieces, key, &groups));
                    }
                }
            }
        }
        None
    }
}

impl Rule {
    /// The groups when the rule fits; none of them when it is negated.
    fn fits(&self, key: &str) -> Option<Vec<Option<(usize, usize)>>> {
        let groups = self.pattern.as_ref()?.groups(key);
        match self.negated {
            true => groups.is_none().then(Vec::new),
            false => groups,
        }
    }
}

impl Pattern {
    fn groups(&self, key: &str) -> Option<Vec<Option<(usize, usize)>>> {
        match self {
            Pattern::Regexp(regex) => {
                let found = regex.captures(key)?;
                Some(
                    found
                        .iter()
                        .map(|group| group.map(|g| (g.start(), g.end())))
                        .collect(),
                )
            }
            Pattern::Pcre(regex) => {
                // A match that hits PCRE's limits is a miss, as in Postfix (which also warns).
                let found = regex.captures(key.as_bytes()).ok().flatten()?;
                Some(
                    (0..found.len())
                        .map(|n| found.get(n).map(|g| (g.start(), g.end())))
                        .collect(),
                )
            }
        }
    }
}

fn fill(pieces: &[Piece], key: &str, groups: &[Option<(usize, usize)>]) -> String {
    let mut value = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => value.push_str(text),
            Piece::Group(n) => {
                let range = groups.get(*n).copied().flatten();
                value.push_str(range.and_then(|(from, to)| key.get(from..to)).unwrap_or(""));
            }
        }
    }
    value
}

fn close(rules: &mut [Rule], opened: Option<usize>) {
    let next = rules.len();
    if let Some(rule) = opened.and_then(|at| rules.get_mut(at)) {
        rule.action = Action::If(next);
    }
}

/// `pcre:{ {/pattern/ value}, … }` as lines; `cidr:` has the same form.
pub(crate) fn inline_rules(content: &str) -> String {
    crate::spec::split_specs(content)
        .iter()
        .map(|rule| crate::spec::braced(rule).unwrap_or(rule).to_string() + "\n")
        .collect()
}

fn parse_rule(text: &str, flavour: Flavour, inside: bool) -> Result<Rule, String> {
    let lower = text.to_ascii_lowercase();
    let keyword = |word: &str| {
        lower.starts_with(word)
            && !text[word.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    if keyword("endif") {
        return match inside {
            true => Ok(Rule {
                pattern: None,
                negated: false,
                action: Action::Endif,
            }),
            false => Err("ignoring ENDIF without matching IF".to_string()),
        };
    }
    let condition = keyword("if");
    let body = if condition {
        text[2..].trim_start()
    } else {
        text
    };
    let negated = body.starts_with('!');
    let body = body.trim_start_matches('!').trim_start();
    let (source, flags, rest) = split_pattern(body)?;
    let pattern = Some(compile(source, flags, flavour)?);
    if condition {
        return Ok(Rule {
            pattern,
            negated,
            action: Action::If(usize::MAX),
        });
    }
    let pieces = parse_value(rest, negated)?;
    Ok(Rule {
        pattern,
        negated,
        action: Action::Value(pieces),
    })
}

/// `/pattern/flags rest`, with any delimiter that is not alphanumeric.
fn split_pattern(text: &str) -> Result<(&str, &str, &str), String> {
    let delimiter = text.chars().next().ok_or("no regexp")?;
    if delimiter.is_ascii_alphanumeric() || !delimiter.is_ascii() {
        return Err(format!("pattern delimiter '{delimiter}' is not allowed"));
    }
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != delimiter as u8 {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    if at >= bytes.len() {
        return Err(format!("no closing regexp delimiter \"{delimiter}\""));
    }
    let after = &text[at + 1..];
    let flags_end = after
        .find(|c: char| c.is_ascii_whitespace() || c == '!')
        .unwrap_or(after.len());
    Ok((
        &text[1..at],
        &after[..flags_end],
        after[flags_end..].trim_start(),
    ))
}

fn compile(source: &str, flags: &str, flavour: Flavour) -> Result<Pattern, String> {
    // Both kinds ignore case by default; each flag toggles.
    let (
        mut caseless,
        mut multi_line,
        mut dot_all,
        mut extended,
        mut anchored,
        mut ungreedy,
        mut dollar_end,
    ) = (
        true,
        false,
        flavour == Flavour::Pcre,
        false,
        false,
        false,
        false,
    );
    for flag in flags.chars() {
        match (flag, flavour) {
            ('i', _) => caseless = !caseless,
            ('m', _) => multi_line = !multi_line,
            // POSIX: extended syntax or basic. Only the extended one is implemented.
            ('x', Flavour::Regexp) => return Err(
                "basic regular expressions (flag \"x\") are not supported, use the extended syntax"
                    .to_string(),
            ),
            ('x', Flavour::Pcre) => extended = !extended,
            ('s', Flavour::Pcre) => dot_all = !dot_all,
            ('A', Flavour::Pcre) => anchored = !anchored,
            ('E', Flavour::Pcre) => dollar_end = !dollar_end,
            ('U', Flavour::Pcre) => ungreedy = !ungreedy,
            ('X', Flavour::Pcre) => {}
            _ => return Err(format!("unknown regexp option \"{flag}\"")),
        }
    }
    match flavour {
        Flavour::Regexp => regex::RegexBuilder::new(&posix_to_rust(source))
            .case_insensitive(caseless)
            .multi_line(multi_line)
            .dot_matches_new_line(!multi_line)
            .build()
            .map(Pattern::Regexp)
            .map_err(|error| last_line(&error.to_string())),
        Flavour::Pcre => {
            let mut text = String::new();
            if ungreedy {
                text.push_str("(?U)");
            }
            if anchored {
                text.push_str("\\A(?:");
            }
            // Without PCRE's DOLLAR_ENDONLY, `$` also fits before a final newline; with it, only at the very end.
            text.push_str(&if dollar_end {
                source.replace('$', "\\z")
            } else {
                source.to_string()
            });
            if anchored {
                text.push(')');
            }
            pcre2::bytes::RegexBuilder::new()
                .caseless(caseless)
                .multi_line(multi_line)
                .dotall(dot_all)
                .extended(extended)
                .utf(true)
                .jit_if_available(true)
                .build(&text)
                .map(|regex| Pattern::Pcre(Box::new(regex)))
                .map_err(|error| {
                    format!(
                        "error in regex at offset {}: {error}",
                        error.offset().unwrap_or(0)
                    )
                })
        }
    }
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or(text).to_string()
}

/// POSIX extended syntax in the regex crate's: inside brackets a backslash and `[` are plain characters.
fn posix_to_rust(source: &str) -> String {
    let mut text = String::with_capacity(source.len() + 8);
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                // An escaped ordinary character is that character, `\/` among them.
                Some(next) if next.is_ascii_alphanumeric() || next == '<' || next == '>' => {
                    text.push('\\');
                    text.push(next);
                }
                Some(next) => text.push_str(&regex::escape(&next.to_string())),
                None => text.push_str("\\\\"),
            },
            '[' => copy_bracket(&mut chars, &mut text),
            _ => text.push(c),
        }
    }
    text
}

fn copy_bracket(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, text: &mut String) {
    text.push('[');
    if chars.next_if_eq(&'^').is_some() {
        text.push('^');
    }
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            ']' if !first => {
                text.push(']');
                return;
            }
            '[' if chars.peek() == Some(&':') => {
                text.push('[');
                for inner in chars.by_ref() {
                    text.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            '\\' | '[' | ']' | '&' | '~' => {
                text.push('\\');
                text.push(c);
            }
            _ => text.push(c),
        }
        first = false;
    }
}

/// `$1`, `${1}`, `$(1)`, `$$`.
fn parse_value(text: &str, negated: bool) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            plain.push('$');
            rest = after;
            continue;
        }
        let (digits, after) = match rest.chars().next() {
            Some('{') => rest[1..]
                .split_once('}')
                .ok_or("missing \"}\" in replacement text")?,
            Some('(') => rest[1..]
                .split_once(')')
                .ok_or("missing \")\" in replacement text")?,
            _ => rest.split_at(
                rest.find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(rest.len()),
            ),
        };
        let group: usize = digits
            .parse()
            .map_err(|_| "non-numeric replacement index".to_string())?;
        if negated {
            return Err("$number found in negative match replacement text".to_string());
        }
        pieces.push(Piece::Text(std::mem::take(&mut plain)));
        pieces.push(Piece::Group(group));
        rest = after;
    }
    plain.push_str(rest);
    pieces.push(Piece::Text(plain));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flavour: Flavour, source: &str, cases: &[(&str, Option<&str>)], problems: usize) {
        let (table, found) = PatternTable::parse(source.as_bytes(), flavour);
        assert_eq!(found.len(), problems, "{found:?}");
        for (key, value) in cases {
            assert_eq!(table.lookup(key).as_deref(), *value, "{key} in {source}");
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
}
