//! `$name` expressions of postconf(5).
//!
//! `$name`, `${name}`, `$(name)`, `${name?text}`, `${name?{a}:{b}}`, `${name:text}`,
//! `${{a} == {b} ? {x} : {y}}` with `==`, `!=`, `<`, `<=`, `>=`, `>` and, for compatibility levels such
//! as 3.6, the same operators followed by `level`. `$$` is a dollar sign.

use std::cmp::Ordering;

/// What is wrong with an expression, in Postfix's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);

/// What an expression wants of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The finished value.
    Value,
    /// Whether there is one, as written: `${a?x}` is `x` also where `a = $empty`, as in Postfix.
    Text,
}

/// The caller's source of values; `None` where there is none (it becomes empty).
pub type Lookup<'a, E> = dyn FnMut(&str, Wanted) -> Result<Option<String>, E> + 'a;

/// Replaces every expression of `text`. Values that `lookup` gives are inserted as they are.
pub fn expand<E: From<SyntaxError>>(text: &str, lookup: &mut Lookup<'_, E>) -> Result<String, E> {
    Walk {
        lookup,
        every_branch: false,
    }
    .text(text)
}

/// Every name that an expansion of `text` could ask for, in any branch, up to the first mistake; and that mistake.
pub fn names(text: &str) -> (Vec<String>, Result<(), SyntaxError>) {
    let mut names = Vec::new();
    let mut lookup = |name: &str, _: Wanted| {
        names.push(name.to_owned());
        Ok::<_, SyntaxError>(None)
    };
    let walk = Walk {
        lookup: &mut lookup,
        every_branch: true,
    };
    let result = walk.text(text).map(|_| ());
    (names, result)
}

/// One pass over a text.
struct Walk<'l, 'a, E> {
    lookup: &'l mut Lookup<'a, E>,
    /// Both branches of a condition are visited, and no comparison is made.
    every_branch: bool,
}

impl<E: From<SyntaxError>> Walk<'_, '_, E> {
    fn text(mut self, text: &str) -> Result<String, E> {
        self.expand(text)
    }

    fn expand(&mut self, text: &str) -> Result<String, E> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(tail) = after.strip_prefix('$') {
                out.push('$');
                rest = tail;
            } else if after.starts_with(['{', '(']) {
                let Some((inner, tail)) = balanced(after) else {
                    let shown = format!("truncated macro reference: \"{text}\"");
                    return Err(SyntaxError(shown).into());
                };
                out.push_str(&self.expression(inner, text)?);
                rest = tail;
            } else {
                let (name, tail) = split_name(after);
                if name.is_empty() {
                    return Err(SyntaxError(format!("empty macro name: \"{text}\"")).into());
                }
                out.push_str(&(self.lookup)(name, Wanted::Value)?.unwrap_or_default());
                rest = tail;
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The value of what stands inside `${…}`.
    fn expression(&mut self, inner: &str, whole: &str) -> Result<String, E> {
        let text = inner.trim_start();
        if text.is_empty() {
            return Err(SyntaxError(format!("empty macro name: \"{whole}\"")).into());
        }
        if text.starts_with('{') {
            let (holds, rest) = self.comparison(text, inner)?;
            // Postfix's value of a comparison that no `?` follows: not empty means true.
            let truth = if holds { "true" } else { "" };
            let branches = Branches::parse(rest, inner)?;
            return self.chosen(holds, truth, &branches);
        }
        let (name, rest) = split_name(text);
        let branches = Branches::parse(rest.trim_start(), inner)?;
        let wanted = match branches {
            Branches::None => Wanted::Value,
            Branches::Of { .. } => Wanted::Text,
        };
        let value = if name.is_empty() {
            None
        } else {
            (self.lookup)(name, wanted)?
        };
        let value = value.unwrap_or_default();
        self.chosen(!value.is_empty(), &value, &branches)
    }

    /// The value of an expression whose condition is known.
    fn chosen(&mut self, holds: bool, value: &str, branches: &Branches) -> Result<String, E> {
        let Branches::Of { then, otherwise } = branches else {
            return Ok(value.to_owned());
        };
        if self.every_branch {
            self.expand(then)?;
            return self.expand(otherwise);
        }
        self.expand(if holds { then } else { otherwise })
    }

    /// `{a} op {b}`: whether it holds, and the text after it.
    fn comparison<'t>(&mut self, text: &'t str, inner: &str) -> Result<(bool, &'t str), E> {
        type Holds = fn(Ordering) -> bool;
        const OPERATORS: [(&str, Holds); 6] = [
            ("==", Ordering::is_eq),
            ("!=", Ordering::is_ne),
            ("<=", Ordering::is_le),
            (">=", Ordering::is_ge),
            ("<", Ordering::is_lt),
            (">", Ordering::is_gt),
        ];
        let unbalanced = || {
            SyntaxError(format!(
                "unbalanced {{}} in attribute expression: \"{inner}\""
            ))
        };
        let (left, rest) = balanced(text).ok_or_else(unbalanced)?;
        let rest = rest.trim_start();
        let Some((operator, holds)) = OPERATORS.iter().find(|(op, _)| rest.starts_with(op)) else {
            let found = format!(
                "\"==\" or \"!=\"\" or \"<\"\" or \"<=\"\" or \">=\"\" or \">\" expected at: \"...{left}}}>>>{rest}\""
            );
            return Err(SyntaxError(found).into());
        };
        let rest = &rest[operator.len()..];
        let (by_level, rest) = match rest.strip_prefix("level") {
            Some(rest) => (true, rest.trim_start()),
            None => (false, rest.trim_start()),
        };
        let Some((right, rest)) = balanced(rest).filter(|_| rest.starts_with('{')) else {
            return Err(SyntaxError(format!(
                "\"{{expression}}\" expected at: \"...{operator}>>>{rest}\""
            ))
            .into());
        };
        let left = self.expand(left)?;
        let right = self.expand(right)?;
        if self.every_branch {
            return Ok((false, rest.trim_start()));
        }
        let order = if by_level {
            level(&left)?.cmp(&level(&right)?)
        } else {
            compare(&left, &right)
        };
        Ok((holds(order), rest.trim_start()))
    }
}

/// Splits `{inner}tail` or `(inner)tail`; only brackets of the opening kind nest.
fn balanced(text: &str) -> Option<(&str, &str)> {
    let (open, close) = match text.as_bytes().first()? {
        b'{' => (b'{', b'}'),
        b'(' => (b'(', b')'),
        _ => return None,
    };
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate() {
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

fn split_name(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Numbers compare as numbers when both sides are all digits, otherwise the texts compare.
fn compare(left: &str, right: &str) -> Ordering {
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse::<u64>().ok())
    };
    match (number(left).flatten(), number(right).flatten()) {
        (Some(left), Some(right)) => left.cmp(&right),
        _ => left.cmp(right),
    }
}

/// A compatibility level: `major[.minor[.patch]]`.
fn level(text: &str) -> Result<[u32; 3], SyntaxError> {
    let mut parts = [0u32; 3];
    let words: Vec<&str> = text.trim().split('.').collect();
    let bad = || SyntaxError(format!("malformed compatibility level syntax: \"{text}\""));
    if words.len() > parts.len() {
        return Err(bad());
    }
    for (part, word) in parts.iter_mut().zip(words) {
        *part = word.parse().map_err(|_| bad())?;
    }
    Ok(parts)
}

/// What follows the name or comparison: nothing, `?text`, `?{a}:{b}`, `:text`.
enum Branches<'t> {
    None,
    Of { then: &'t str, otherwise: &'t str },
}

impl<'t> Branches<'t> {
    fn parse(rest: &'t str, inner: &str) -> Result<Branches<'t>, SyntaxError> {
        if rest.is_empty() {
            return Ok(Branches::None);
        }
        if let Some(then) = rest.strip_prefix('?') {
            let (then, otherwise) = then_and_else(then)?;
            return Ok(Branches::Of { then, otherwise });
        }
        if let Some(otherwise) = rest.strip_prefix(':') {
            return match payload(otherwise) {
                // A value that is not empty is not inserted: `${name:text}` gives `text` or nothing.
                (otherwise, "") => Ok(Branches::Of {
                    then: "",
                    otherwise,
                }),
                (text, tail) => Err(unexpected("unexpected input", text, tail)),
            };
        }
        let before = inner.strip_suffix(rest).unwrap_or_default().trim_end();
        let problem = format!("attribute name syntax error at: \"...{before}>>>{rest}\"");
        Err(SyntaxError(problem))
    }
}

/// Something behind the closing brace of `{text}`.
fn unexpected(problem: &str, text: &str, tail: &str) -> SyntaxError {
    let shown: String = tail.chars().take(20).collect();
    SyntaxError(format!("{problem} at: \"...{text}}}>>>{shown}\""))
}

/// `text`, `{a}` or `{a}:{b}` after a question mark.
fn then_and_else(text: &str) -> Result<(&str, &str), SyntaxError> {
    let (then, tail) = payload(text);
    if tail.is_empty() {
        return Ok((then, ""));
    }
    let otherwise = tail
        .strip_prefix(':')
        .ok_or_else(|| unexpected("\":\" expected", then, tail))?;
    match payload(otherwise) {
        (otherwise, "") => Ok((then, otherwise)),
        (text, tail) => Err(unexpected("unexpected input", text, tail)),
    }
}

/// The contents of leading braces and what follows them, or the whole text.
fn payload(text: &str) -> (&str, &str) {
    let trimmed = text.trim_start();
    match balanced(trimmed) {
        Some((inner, tail)) if trimmed.starts_with('{') => (inner, tail.trim_start()),
        _ => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        let mut lookup = |name: &str, _: Wanted| -> Result<Option<String>, SyntaxError> {
            Ok(match name {
                "a" => Some("A".to_owned()),
                "empty" => Some(String::new()),
                "level" => Some("3.6".to_owned()),
                _ => None,
            })
        };
        expand(text, &mut lookup).unwrap_or_else(|e| format!("! {e}"))
    }

    #[test]
    fn expressions() {
        for (text, expected) in [
            ("x$a.y", "xA.y"),
            ("${a}$(a)$$a", "AA$a"),
            ("${a?yes $a}", "yes A"),
            ("${a?{yes}:{no}}${nosuch?{yes}:{no}}", "yesno"),
            ("${a ? {yes} : {no}}", "yes"),
            ("${a?{yes}:no}${empty?{yes}:no}", "yesno"),
            ("${nosuch:else}${a:else}${nosuch:{$a}}", "elseA"),
            ("${{$a} == {A} ? {y} : {n}}", "y"),
            ("${{9}<{10}?{y}:{n}}${{9}<{10a}?{y}:{n}}", "yn"),
            ("${{$level} <level {3.10} ? {old} : {new}}", "old"),
            ("${{$level} >=level {3.6}?{new}}", "new"),
            ("${a", "! truncated macro reference: \"${a\""),
            ("${}", "! empty macro name: \"${}\""),
            ("$-", "! empty macro name: \"$-\""),
        ] {
            assert_eq!(check(text), expected, "{text}");
        }
    }

    #[test]
    fn names_of_every_branch() {
        assert_eq!(
            names("$a ${b?{$c}:{${d}}} $$e ${{$f}=={x}?$g}").0,
            ["a", "b", "c", "d", "f", "g"]
        );
    }
}
