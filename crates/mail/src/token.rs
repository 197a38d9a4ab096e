//! The tokens of RFC 5322 addresses, and lists of addresses made of them.
//!
//! Forgiving where mail is: a missing comma, stray brackets and unquoted oddities give what
//! Postfix makes of them. Two routing operators of old, `%` and `!`, are tokens of their own, since
//! address rewriting looks for them, and so is `|`.

use std::fmt::Write;

/// One token. The texts are without their quotes and backslashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    Atom(String),
    /// `"…"`.
    Quoted(String),
    /// `[…]`, kept without the brackets.
    Literal(String),
    /// `(…)` as it was written, its parentheses included; the last one is missing where the text ended first.
    Comment(String),
    /// One of `@ . , : ; < > % ! | ) ]`.
    Op(char),
}

const OPERATORS: &str = "()<>[]:;@,.\"%!|";

impl Token {
    pub fn is_op(&self, op: char) -> bool {
        *self == Token::Op(op)
    }

    fn is_word(&self) -> bool {
        matches!(self, Token::Atom(_) | Token::Quoted(_) | Token::Literal(_))
    }
}

/// Cuts `text` into tokens. Every text has tokens; unclosed quotes and comments end with the text.
pub fn scan(text: &str) -> Vec<Token> {
    let mut chars = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(&next) = chars.peek() {
        match next {
            ' ' | '\t' | '\r' | '\n' => {
                chars.next();
            }
            '(' => {
                chars.next();
                tokens.push(Token::Comment(comment(&mut chars)));
            }
            '"' => {
                chars.next();
                let text = collect(&mut chars, |c| c != '"');
                chars.next();
                tokens.push(Token::Quoted(text));
            }
            '[' => {
                chars.next();
                let text = collect(&mut chars, |c| c != ']');
                chars.next();
                tokens.push(Token::Literal(text));
            }
            op if OPERATORS.contains(op) => {
                chars.next();
                tokens.push(Token::Op(op));
            }
            _ => tokens.push(Token::Atom(collect(&mut chars, |c| {
                !matches!(c, ' ' | '\t' | '\r' | '\n') && !OPERATORS.contains(c)
            }))),
        }
    }
    tokens
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// The characters up to the first that does not belong; a backslash takes its successor's meaning.
fn collect(chars: &mut Chars, belongs: impl Fn(char) -> bool) -> String {
    let mut text = String::new();
    while let Some(&next) = chars.peek() {
        if next == '\\' {
            chars.next();
            match chars.next() {
                Some(quoted) => text.push(blank(quoted)),
                None => break,
            }
        } else if belongs(next) {
            text.push(blank(next));
            chars.next();
        } else {
            break;
        }
    }
    text
}

fn blank(c: char) -> char {
    if matches!(c, '\t' | '\r' | '\n') {
        ' '
    } else {
        c
    }
}

/// The whole of a comment whose `(` is consumed; comments nest.
fn comment(chars: &mut Chars) -> String {
    let mut text = String::from("(");
    let mut depth = 1;
    while depth > 0
        && let Some(next) = chars.next()
    {
        text.push(next);
        match next {
            '\\' => text.extend(chars.next()),
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
    }
    text
}

/// The tokens as text in internal form: no quotes, no backslashes, comments as they were.
pub fn internal(tokens: &[Token]) -> String {
    write_tokens(tokens, false)
}

/// The tokens as text in external form, with quotes where the tokens had them or need them.
pub fn external(tokens: &[Token]) -> String {
    write_tokens(tokens, true)
}

fn write_tokens(tokens: &[Token], quote: bool) -> String {
    let mut text = String::new();
    let mut after_word = false;
    for token in tokens {
        let word = !matches!(token, Token::Op(_));
        if word && after_word {
            text.push(' ');
        }
        after_word = word;
        match token {
            // What is special got into an atom behind a backslash.
            Token::Atom(atom) if quote && atom.contains(is_special) => {
                wrap(&mut text, '"', atom, "\\\"\r\n", '"');
            }
            Token::Atom(atom) => text.push_str(atom),
            Token::Quoted(inner) if quote => wrap(&mut text, '"', inner, "\\\"\r\n", '"'),
            Token::Quoted(inner) => text.push_str(inner),
            Token::Literal(inner) if quote => wrap(&mut text, '[', inner, "\\\r\n", ']'),
            Token::Literal(inner) => {
                // Writing to a String cannot fail.
                let _ = write!(text, "[{inner}]");
            }
            Token::Comment(whole) => text.push_str(whole),
            Token::Op(',') => text.push_str(", "),
            Token::Op('<') if !text.is_empty() && !text.ends_with(' ') => text.push_str(" <"),
            Token::Op(op) => text.push(*op),
        }
    }
    text
}

fn is_special(c: char) -> bool {
    c == ' ' || c == '\\' || c.is_ascii_control() || OPERATORS.contains(c)
}

fn wrap(text: &mut String, open: char, inner: &str, escape: &str, close: char) {
    text.push(open);
    for c in inner.chars() {
        if escape.contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text.push(close);
}

/// The addresses in a list such as an alias's destinations or a header's value: display names,
/// comments and the names of groups are left out, and words that stand side by side without an
/// operator are addresses of their own.
pub fn addresses(text: &str) -> Vec<Vec<Token>> {
    let mut list = AddressList::default();
    let tokens = scan(text);
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            Token::Comment(_) => {}
            Token::Op(',' | ';') => list.separate(),
            Token::Op(':') if starts_group(&tokens[at + 1..]) => list.forget_phrase(),
            Token::Op('<') => match tokens[at..].iter().position(|token| token.is_op('>')) {
                Some(length) => {
                    list.forget_phrase();
                    list.route_address(&tokens[at + 1..at + length]);
                    at += length;
                }
                None => list.current.push(tokens[at].clone()),
            },
            Token::Op('>') => list.finish(),
            Token::Op(op) => list.current.push(Token::Op(*op)),
            word => {
                if list.current.last().is_some_and(Token::is_word) {
                    list.finish();
                }
                list.current.push(word.clone());
            }
        }
        at += 1;
    }
    list.finish();
    list.done
}

/// Whether the `:` before these tokens is the one that a later `;` closes.
fn starts_group(following: &[Token]) -> bool {
    let mut inside_brackets = false;
    for token in following {
        match token {
            Token::Op('<') => inside_brackets = true,
            Token::Op('>') => inside_brackets = false,
            Token::Op(';') => return true,
            Token::Op(':') if !inside_brackets => return false,
            _ => {}
        }
    }
    false
}

#[derive(Default)]
struct AddressList {
    done: Vec<Vec<Token>>,
    current: Vec<Token>,
    /// How many addresses were done when the last `,` or `;` came.
    separated_at: usize,
}

impl AddressList {
    fn finish(&mut self) {
        if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn separate(&mut self) {
        self.finish();
        self.separated_at = self.done.len();
    }

    /// What stood here since the last separator was the name of a person or a group.
    fn forget_phrase(&mut self) {
        self.current.clear();
        self.done.truncate(self.separated_at);
    }

    fn route_address(&mut self, tokens: &[Token]) {
        let comments_left_out = tokens
            .iter()
            .filter(|token| !matches!(token, Token::Comment(_)))
            .cloned();
        self.done.push(comments_left_out.collect());
        self.separated_at = self.done.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found: Vec<String> = addresses(text).iter().map(|a| internal(a)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn finds_the_addresses_of_a_list() {
        check("a@x, b@y", &["a@x", "b@y"]);
        check("a@x b@y", &["a@x", "b@y"]);
        check("a@x\nb@y", &["a@x", "b@y"]);
        check("john doe@x", &["john", "doe@x"]);
        check("a@x (the boss), b@y", &["a@x", "b@y"]);
        check("John Doe <a@x>", &["a@x"]);
        check("\"Doe, John\" <a@x>, b@y", &["a@x", "b@y"]);
        check("friends: a@x, b@y;", &["a@x", "b@y"]);
        check("undisclosed-recipients:;", &[]);
        check("a@x; b@y", &["a@x", "b@y"]);
        check(", ,a@x,", &["a@x"]);
        check("<@relay:a@x>", &["@relay:a@x"]);
        check(":include:/etc/list", &[":include:/etc/list"]);
        check("\"|/bin/cat arg\"", &["|/bin/cat arg"]);
        check("\\john@x", &["john@x"]);
        check("<>", &[""]);
        check(" ", &[]);
    }

    #[test]
    fn external_form_keeps_quotes() {
        for text in [
            "\"a b\"@x",
            "a@[192.0.2.1]",
            "\"a\\\"b\"@x",
            "John Doe <a@x>",
            "a (a \\) (b)  c)",
            "a (open",
        ] {
            assert_eq!(external(&scan(text)), text);
        }
        assert_eq!(external(&scan("a\\@b\\c@x")), "\"a@bc\"@x");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_stumble(text in ".{0,60}") {
            for address in addresses(&text) {
                let _ = (internal(&address), external(&address));
            }
        }
    }
}
