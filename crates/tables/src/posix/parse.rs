//! From the text of a pattern to a tree: the grammar of glibc, its leniencies and its error texts.

use super::Flags;

/// Bytes that fit at one place.
pub(super) type Set = [bool; 256];

/// A pattern, or a part of one.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Empty,
    Set(Box<Set>),
    Assert(Assert),
    Back(usize),
    Group(usize, Box<Node>),
    Cat(Vec<Node>),
    Alt(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: usize,
        max: Option<usize>,
    },
}

/// Conditions on the place between two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Assert {
    LineStart,
    LineEnd,
    BufferStart,
    BufferEnd,
    WordStart,
    WordEnd,
    WordEdge,
    NoWordEdge,
}

/// A parsed pattern.
pub(super) struct Tree {
    pub node: Node,
    pub groups: usize,
    pub has_back_references: bool,
}

const BAD_REPEAT: &str = "Invalid preceding regular expression";
const BAD_PATTERN: &str = "Invalid regular expression";
const BAD_BRACKET: &str = "Unmatched [, [^, [:, [., or [=";
const BAD_BRACE: &str = "Invalid content of \\{\\}";
const OPEN_GROUP: &str = "Unmatched ( or \\(";
const OPEN_BRACE: &str = "Unmatched \\{";
const BAD_RANGE: &str = "Invalid range end";
pub(super) const TOO_BIG: &str = "Regular expression too big";
/// RE_DUP_MAX of glibc.
const MOST_REPEATS: usize = 0x7fff;
/// Groups within groups, and repetitions of repetitions; glibc takes more, but nobody writes them, and ours is a recursive parser.
const DEEPEST: usize = 250;

/// A token: what a byte, or a backslash and a byte, means where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    End,
    Byte(u8),
    Any,
    Word(bool),
    Space(bool),
    Back(usize),
    Assert(Assert),
    Bracket,
    Open,
    Close,
    Alt,
    Star,
    Plus,
    Question,
    OpenBrace,
    CloseBrace,
    /// A backslash at the end.
    Backslash,
}

/// Parses a whole pattern.
pub(super) fn parse(pattern: &[u8], flags: Flags) -> Result<Tree, &'static str> {
    let mut parser = Parser {
        pattern,
        flags,
        at: 0,
        token: Token::End,
        groups: 0,
        complete: [false; 10],
        has_back_references: false,
        depth: 0,
    };
    parser.next(true);
    let node = parser.alternatives(0)?;
    Ok(Tree {
        node,
        groups: parser.groups,
        has_back_references: parser.has_back_references,
    })
}

struct Parser<'a> {
    pattern: &'a [u8],
    flags: Flags,
    /// Behind the current token.
    at: usize,
    token: Token,
    groups: usize,
    /// The groups that are closed, which a back reference may name.
    complete: [bool; 10],
    has_back_references: bool,
    depth: usize,
}

impl Parser<'_> {
    /// A byte of the pattern as regcomp sees it: in upper case where case does not matter.
    fn byte(&self, at: usize) -> Option<u8> {
        let byte = *self.pattern.get(at)?;
        Some(match self.flags.ignore_case {
            true => byte.to_ascii_uppercase(),
            false => byte,
        })
    }

    /// Moves to the next token. `caret` says that a `^` of the basic syntax is an anchor here.
    fn next(&mut self, caret: bool) {
        let (token, length) = self.read(self.at, caret);
        self.token = token;
        self.at += length;
    }

    fn read(&self, at: usize, caret: bool) -> (Token, usize) {
        let extended = self.flags.extended;
        let Some(byte) = self.byte(at) else {
            return (Token::End, 0);
        };
        if byte == b'\\' {
            // The byte behind a backslash keeps its case, and so never fits where case does not matter.
            let Some(&next) = self.pattern.get(at + 1) else {
                return (Token::Backslash, 1);
            };
            let token = match next {
                b'|' if !extended => Token::Alt,
                b'(' if !extended => Token::Open,
                b')' if !extended => Token::Close,
                b'{' if !extended => Token::OpenBrace,
                b'}' if !extended => Token::CloseBrace,
                b'+' if !extended => Token::Plus,
                b'?' if !extended => Token::Question,
                b'1'..=b'9' => Token::Back(usize::from(next - b'0')),
                b'<' => Token::Assert(Assert::WordStart),
                b'>' => Token::Assert(Assert::WordEnd),
                b'b' => Token::Assert(Assert::WordEdge),
                b'B' => Token::Assert(Assert::NoWordEdge),
                b'`' => Token::Assert(Assert::BufferStart),
                b'\'' => Token::Assert(Assert::BufferEnd),
                b'w' | b'W' => Token::Word(next == b'w'),
                b's' | b'S' => Token::Space(next == b's'),
                _ => Token::Byte(next),
            };
            return (token, 2);
        }
        let token = match byte {
            b'*' => Token::Star,
            b'.' => Token::Any,
            b'[' => Token::Bracket,
            b'|' if extended => Token::Alt,
            b'(' if extended => Token::Open,
            b')' if extended => Token::Close,
            b'{' if extended => Token::OpenBrace,
            b'}' if extended => Token::CloseBrace,
            b'+' if extended => Token::Plus,
            b'?' if extended => Token::Question,
            b'^' if extended || caret || at == 0 => Token::Assert(Assert::LineStart),
            b'$' if extended || self.dollar_ends(at + 1) => Token::Assert(Assert::LineEnd),
            _ => Token::Byte(byte),
        };
        (token, 1)
    }

    /// Basic syntax: a `$` is an anchor at the end of a pattern, group or alternative.
    fn dollar_ends(&self, at: usize) -> bool {
        matches!(
            self.read(at, false).0,
            Token::End | Token::Alt | Token::Close
        )
    }

    fn alternatives(&mut self, nest: usize) -> Result<Node, &'static str> {
        let mut nodes = vec![self.branch(nest)?];
        while self.token == Token::Alt {
            self.next(true);
            nodes.push(match self.token {
                Token::Alt | Token::End => Node::Empty,
                Token::Close if nest > 0 => Node::Empty,
                _ => self.branch(nest)?,
            });
        }
        Ok(match nodes.len() {
            1 => nodes.remove(0),
            _ => Node::Alt(nodes),
        })
    }

    fn branch(&mut self, nest: usize) -> Result<Node, &'static str> {
        let mut nodes = vec![self.expression(nest)?];
        loop {
            match self.token {
                Token::Alt | Token::End => break,
                Token::Close if nest > 0 => break,
                _ => nodes.push(self.expression(nest)?),
            }
        }
        Ok(match nodes.len() {
            1 => nodes.remove(0),
            _ => Node::Cat(nodes),
        })
    }

    fn expression(&mut self, nest: usize) -> Result<Node, &'static str> {
        let extended = self.flags.extended;
        let node = match self.token {
            Token::Byte(byte) => self.set(|other| other == byte),
            Token::Any => {
                let lines = self.flags.lines;
                self.set(|byte| byte != 0 && !(lines && byte == b'\n'))
            }
            Token::Word(positive) => {
                self.set(|byte| (byte.is_ascii_alphanumeric() || byte == b'_') == positive)
            }
            Token::Space(positive) => self.set(|byte| is_space(byte) == positive),
            Token::Open => self.group(nest)?,
            Token::Bracket => self.bracket()?,
            Token::Back(number) => {
                if !self.complete[number] {
                    return Err("Invalid back reference");
                }
                self.has_back_references = true;
                Node::Back(number)
            }
            Token::OpenBrace if !extended => return Err(BAD_REPEAT),
            Token::Star | Token::Plus | Token::Question | Token::OpenBrace if extended => {
                return Err(BAD_REPEAT);
            }
            // regcomp(3) does not tell a closing one from an opening one.
            Token::Close if !extended => return Err(OPEN_GROUP),
            // What has no meaning here is an ordinary byte.
            Token::Star | Token::Plus | Token::Question | Token::OpenBrace => {
                let byte = self.pattern[self.at - 1];
                self.set(|other| other == byte)
            }
            Token::Close => self.set(|other| other == b')'),
            Token::CloseBrace => self.set(|other| other == b'}'),
            Token::Assert(assert) => {
                // An anchor takes no repetition; `^*` is an error, or a plain star in the basic syntax.
                let caret = assert == Assert::LineStart && !extended;
                self.next(caret);
                return Ok(Node::Assert(assert));
            }
            Token::Alt | Token::End => return Ok(Node::Empty),
            Token::Backslash => return Err("Trailing backslash"),
        };
        self.next(false);
        self.repetitions(node)
    }

    fn repetitions(&mut self, mut node: Node) -> Result<Node, &'static str> {
        for _ in 0..DEEPEST {
            let (min, max) = match self.token {
                Token::Star => (0, None),
                Token::Plus => (1, None),
                Token::Question => (0, Some(1)),
                Token::OpenBrace => self.interval()?,
                _ => return Ok(node),
            };
            self.next(false);
            node = match max {
                Some(0) => Node::Empty,
                _ => Node::Repeat {
                    node: Box::new(node),
                    min,
                    max,
                },
            };
            if !self.flags.extended && matches!(self.token, Token::Star | Token::OpenBrace) {
                return Err(BAD_REPEAT);
            }
        }
        Err(TOO_BIG)
    }

    /// Behind an opening brace; leaves its closing one as the current token.
    fn interval(&mut self) -> Result<(usize, Option<usize>), &'static str> {
        let number = |found: Number| match found {
            Number::None => Ok(None),
            Number::Some(value) => Ok(Some(value)),
            Number::Bad => Err(()),
        };
        let first = self.number();
        let comma = self.token == Token::Byte(b',');
        let min = match first {
            Number::None if comma => Ok(Some(0)),
            Number::None => return Err(BAD_BRACE),
            other => number(other),
        };
        let max = match (self.token, min) {
            (_, Err(())) => Err(()),
            (Token::CloseBrace, min) => min,
            (Token::Byte(b','), _) => number(self.number()),
            _ => Err(()),
        };
        let (Ok(Some(min)), Ok(max)) = (min, max) else {
            return Err(match self.token {
                Token::End => OPEN_BRACE,
                _ => BAD_BRACE,
            });
        };
        if max.is_some_and(|max| min > max) || self.token != Token::CloseBrace {
            return Err(BAD_BRACE);
        }
        if max.unwrap_or(min) > MOST_REPEATS {
            return Err(TOO_BIG);
        }
        Ok((min, max))
    }

    /// Digits up to a comma or the closing brace, which is the current token then.
    fn number(&mut self) -> Number {
        let mut found = Number::None;
        loop {
            self.next(false);
            found = match (self.token, found) {
                (Token::End, _) => return Number::Bad,
                (Token::CloseBrace | Token::Byte(b','), found) => return found,
                (Token::Byte(digit @ b'0'..=b'9'), Number::None) => {
                    Number::Some(usize::from(digit - b'0'))
                }
                (Token::Byte(digit @ b'0'..=b'9'), Number::Some(value)) => {
                    Number::Some((value * 10 + usize::from(digit - b'0')).min(MOST_REPEATS + 1))
                }
                _ => Number::Bad,
            };
        }
    }

    fn group(&mut self, nest: usize) -> Result<Node, &'static str> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(TOO_BIG);
        }
        self.groups += 1;
        let number = self.groups;
        self.next(true);
        let node = match self.token {
            Token::Close => Node::Empty,
            _ => self.alternatives(nest + 1)?,
        };
        if self.token != Token::Close {
            return Err(OPEN_GROUP);
        }
        if let Some(complete) = self.complete.get_mut(number) {
            *complete = true;
        }
        self.depth -= 1;
        Ok(Node::Group(number, Box::new(node)))
    }

    /// The bytes for which `fits` holds; where case does not matter, it is asked about their upper case.
    fn set(&self, fits: impl Fn(u8) -> bool) -> Node {
        let mut set = [false; 256];
        for byte in 0..=u8::MAX {
            let asked = match self.flags.ignore_case {
                true => byte.to_ascii_uppercase(),
                false => byte,
            };
            set[usize::from(byte)] = fits(asked);
        }
        Node::Set(Box::new(set))
    }

    /// A bracket expression, from behind its `[`; leaves `at` behind its `]`.
    fn bracket(&mut self) -> Result<Node, &'static str> {
        let mut members = [false; 256];
        let negated = self.byte(self.at) == Some(b'^');
        if negated {
            self.at += 1;
        }
        if self.byte(self.at).is_none() {
            return Err(BAD_PATTERN);
        }
        let mut first = true;
        loop {
            match self.byte(self.at) {
                None => return Err(if first { BAD_PATTERN } else { BAD_BRACKET }),
                Some(b']') if !first => break,
                Some(_) => self.bracket_element(first, &mut members)?,
            }
            first = false;
        }
        self.at += 1;
        let lines = self.flags.lines;
        Ok(self.set(|byte| match negated {
            true if lines && byte == b'\n' => false,
            negated => members[usize::from(byte)] != negated,
        }))
    }

    fn bracket_element(&mut self, first: bool, members: &mut Set) -> Result<(), &'static str> {
        let start = self.bracket_symbol(first)?;
        let range = match (self.byte(self.at), self.byte(self.at + 1)) {
            (None, _) => return Err(BAD_BRACKET),
            (Some(b'-'), None) => return Err(BAD_BRACKET),
            // A hyphen before the closing bracket is one.
            (Some(b'-'), Some(b']')) => false,
            (Some(b'-'), Some(_)) => true,
            _ => false,
        };
        if !range {
            match start {
                Symbol::Byte(byte) => members[usize::from(byte)] = true,
                Symbol::Class(class) => {
                    for byte in 0..=u8::MAX {
                        members[usize::from(byte)] |= class(byte);
                    }
                }
            }
            return Ok(());
        }
        if matches!(start, Symbol::Class(_)) {
            return Err(BAD_RANGE);
        }
        self.at += 1;
        let end = self.bracket_symbol(true)?;
        let (Symbol::Byte(start), Symbol::Byte(end)) = (start, end) else {
            return Err(BAD_RANGE);
        };
        if start > end {
            return Err(BAD_RANGE);
        }
        for byte in start..=end {
            members[usize::from(byte)] = true;
        }
        Ok(())
    }

    /// One byte, `[.x.]`, `[=x=]` or `[:class:]`.
    fn bracket_symbol(&mut self, hyphen_is_plain: bool) -> Result<Symbol, &'static str> {
        let byte = self.byte(self.at).ok_or(BAD_BRACKET)?;
        let next = self.pattern.get(self.at + 1).copied();
        if let (b'[', Some(mark @ (b'.' | b'=' | b':'))) = (byte, next) {
            return self.named(mark);
        }
        if byte == b'-' && !hyphen_is_plain && next != Some(b']') {
            return Err(BAD_RANGE);
        }
        self.at += 1;
        Ok(Symbol::Byte(byte))
    }

    fn named(&mut self, mark: u8) -> Result<Symbol, &'static str> {
        let rest = &self.pattern[self.at + 2..];
        let length = rest.windows(2).position(|pair| pair == [mark, b']']);
        // glibc has room for 31 bytes.
        let length = length.filter(|&length| length < 32).ok_or(BAD_BRACKET)?;
        let name = &rest[..length];
        let begin = self.at + 2;
        self.at = begin + length + 2;
        if mark != b':' {
            return match name {
                [_] => Ok(Symbol::Byte(self.byte(begin).ok_or(BAD_BRACKET)?)),
                _ => Err("Invalid collation character"),
            };
        }
        let class: fn(u8) -> bool = match name {
            b"upper" | b"lower" if self.flags.ignore_case => |byte| byte.is_ascii_alphabetic(),
            b"upper" => |byte| byte.is_ascii_uppercase(),
            b"lower" => |byte| byte.is_ascii_lowercase(),
            b"alpha" => |byte| byte.is_ascii_alphabetic(),
            b"alnum" => |byte| byte.is_ascii_alphanumeric(),
            b"digit" => |byte| byte.is_ascii_digit(),
            b"xdigit" => |byte| byte.is_ascii_hexdigit(),
            b"punct" => |byte| byte.is_ascii_punctuation(),
            b"graph" => |byte| byte.is_ascii_graphic(),
            b"print" => |byte| byte.is_ascii_graphic() || byte == b' ',
            b"cntrl" => |byte| byte.is_ascii_control(),
            b"space" => is_space,
            b"blank" => |byte| byte == b' ' || byte == b'\t',
            _ => return Err("Invalid character class name"),
        };
        Ok(Symbol::Class(class))
    }
}

/// isspace(3) in the C locale.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// What [`Parser::number`] found.
#[derive(Debug, Clone, Copy)]
enum Number {
    None,
    Some(usize),
    Bad,
}

/// An element of a bracket expression.
enum Symbol {
    Byte(u8),
    Class(fn(u8) -> bool),
}
