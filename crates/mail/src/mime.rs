//! What is header and what is body in a message, line by line, down into its MIME parts (RFC 2045, 2046).
//!
//! This is how Postfix divides messages for header_checks(5), body_checks(5) and `postmap -h`, `-b`, `-m`:
//! forgiving, and by the outside of each part alone. Nothing is decoded.

use crate::token::{Token, scan};

/// Deeper boundaries than these are body text.
const MAX_NESTING: usize = 100;
/// No more bytes of a boundary are compared than this.
const MAX_BOUNDARY: usize = 2048;

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A header, its continuation lines joined by newlines, without white space in front of its colon.
    Header(Owner, Vec<u8>),
    /// A body line. The empty line that ends a header is one, and stands there also where the message has none.
    Body(Vec<u8>),
}

/// Whose header it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The message's own.
    Message,
    /// Of a part of a multipart.
    Part,
    /// Of a message that is attached.
    Attached,
}

/// Whether MIME parts are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The header ends with the first line that belongs to no header.
    Message,
    Parts,
}

/// Divides a message into its pieces. Lines end with a newline; the last one may lack it.
pub fn pieces(message: &[u8], depth: Depth) -> Vec<Piece> {
    let mut divider = Divider::new(depth, usize::MAX);
    let text = message.strip_suffix(b"\n").unwrap_or(message);
    if !message.is_empty() {
        for line in text.split(|&byte| byte == b'\n') {
            divider.line(line);
        }
    }
    divider.finish()
}

/// Divides a message that comes line by line.
pub struct Divider {
    depth: Depth,
    /// Of longer headers the rest is left out.
    header_limit: usize,
    state: State,
    /// The header line that may go on.
    header: Vec<u8>,
    /// What the header that is being read announces.
    part: Part,
    /// Whether the parts of the innermost multipart are messages unless they say otherwise.
    digest: bool,
    boundaries: Vec<Boundary>,
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Header(Owner),
    Body,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Leaf,
    Message,
}

struct Boundary {
    text: Vec<u8>,
    digest: bool,
}

impl Divider {
    /// Of a header longer than `header_limit` bytes the rest is left out.
    pub fn new(depth: Depth, header_limit: usize) -> Divider {
        Divider {
            depth,
            header_limit,
            state: State::Header(Owner::Message),
            header: Vec::new(),
            part: Part::Leaf,
            digest: false,
            boundaries: Vec::new(),
            pieces: Vec::new(),
        }
    }

    /// Takes the next line, without its newline. [`Divider::take`] has what is known then.
    pub fn line(&mut self, line: &[u8]) {
        match self.state {
            State::Header(owner) => self.header_line(line, owner),
            State::Body => self.body_line(line),
        }
    }

    /// A body line goes on: no part ends or begins with this.
    pub fn rest_of_line(&mut self, rest: &[u8]) {
        self.pieces.push(Piece::Body(rest.to_vec()));
    }

    /// Whether the next line belongs to a body.
    pub fn is_in_body(&self) -> bool {
        self.state == State::Body
    }

    /// The pieces that are complete.
    pub fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    /// The message is complete: what is left.
    pub fn finish(&mut self) -> Vec<Piece> {
        if let State::Header(owner) = self.state {
            self.end_header_line(owner);
        }
        self.take()
    }

    fn header_line(&mut self, line: &[u8], owner: Owner) {
        if !self.header.is_empty() && matches!(line.first(), Some(b' ' | b'\t')) {
            if self.header.len() + line.len() < self.header_limit {
                self.header.push(b'\n');
                self.header.extend_from_slice(line);
            }
            return;
        }
        self.end_header_line(owner);
        if let Some((name, rest)) = name_and_rest(line) {
            self.header = [name, rest].concat();
            self.header.truncate(self.header_limit);
            return;
        }
        self.state = match self.part {
            Part::Message => State::Header(Owner::Attached),
            Part::Leaf => State::Body,
        };
        self.part = Part::Leaf;
        if line.is_empty() {
            self.pieces.push(Piece::Body(Vec::new()));
            return;
        }
        // Text without an empty line in front: the message's own header gets one, those of parts do not.
        if owner == Owner::Message {
            self.pieces.push(Piece::Body(Vec::new()));
        }
        self.state = State::Body;
        self.body_line(line);
    }

    fn end_header_line(&mut self, owner: Owner) {
        let header = std::mem::take(&mut self.header);
        if header.is_empty() {
            return;
        }
        if self.depth == Depth::Parts {
            self.notice_type(&header);
        }
        self.pieces.push(Piece::Header(owner, header));
    }

    fn notice_type(&mut self, header: &[u8]) {
        let Some(value) = value_of(header, "content-type") else {
            return;
        };
        let kind = ContentType::parse(value);
        self.part = Part::Leaf;
        match kind.main.as_str() {
            "message" if matches!(kind.sub.as_str(), "rfc822" | "global") => {
                self.part = Part::Message;
            }
            "multipart" if self.boundaries.len() < MAX_NESTING => {
                if let Some(mut text) = kind.boundary {
                    text.truncate(MAX_BOUNDARY);
                    let digest = kind.sub == "digest";
                    self.boundaries.push(Boundary { text, digest });
                }
            }
            _ => {}
        }
    }

    fn body_line(&mut self, line: &[u8]) {
        self.pieces.push(Piece::Body(line.to_vec()));
        let Some(after_dashes) = line.strip_prefix(b"--") else {
            return;
        };
        let Some(level) = self
            .boundaries
            .iter()
            .rposition(|boundary| after_dashes.starts_with(&boundary.text))
        else {
            return;
        };
        let boundary = &self.boundaries[level];
        let last = after_dashes[boundary.text.len()..].starts_with(b"--");
        self.digest = boundary.digest;
        self.boundaries
            .truncate(if last { level } else { level + 1 });
        self.part = Part::Leaf;
        if !last {
            self.state = State::Header(Owner::Part);
            if self.digest {
                self.part = Part::Message;
            }
        }
    }
}

/// A header's name, and what begins with its colon. White space before the colon is left out.
fn name_and_rest(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line
        .iter()
        .position(|&byte| !(0x21..=0x7e).contains(&byte) || byte == b':')?;
    let blanks = line[end..]
        .iter()
        .take_while(|&&byte| byte == b' ' || byte == b'\t')
        .count();
    let rest = &line[end + blanks..];
    (end > 0 && rest.starts_with(b":")).then_some((&line[..end], rest))
}

/// The value when the header has this name.
fn value_of<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let colon = header.iter().position(|&byte| byte == b':')?;
    header[..colon]
        .eq_ignore_ascii_case(name.as_bytes())
        .then_some(&header[colon + 1..])
}

#[derive(Debug, Default)]
struct ContentType {
    main: String,
    sub: String,
    boundary: Option<Vec<u8>>,
}

impl ContentType {
    /// `type/subtype; name=value; …`, with quotes and comments. What does not fit is passed over.
    fn parse(value: &[u8]) -> ContentType {
        // One character a byte, so that boundaries stay what they are.
        let text: String = value.iter().map(|&byte| char::from(byte)).collect();
        let tokens: Vec<Token> = scan(&text)
            .into_iter()
            .filter(|token| !matches!(token, Token::Comment(_)))
            .collect();
        let mut found = ContentType::default();
        for (index, parameter) in tokens.split(|token| token.is_op(';')).enumerate() {
            let text = words(parameter);
            if index == 0 {
                let (main, sub) = text.split_once('/').unwrap_or((&text, ""));
                found.main = main.trim().to_ascii_lowercase();
                found.sub = sub.trim().to_ascii_lowercase();
            } else if let Some((name, value)) = text.split_once('=')
                && name.trim().eq_ignore_ascii_case("boundary")
            {
                let value = value.trim();
                // Each character came from one byte.
                let bytes = value.chars().map(|c| c as u8).collect::<Vec<u8>>();
                found.boundary = (!bytes.is_empty()).then_some(bytes);
            }
        }
        found
    }
}

fn words(tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens {
        match token {
            Token::Atom(word) | Token::Quoted(word) => text.push_str(word),
            Token::Literal(word) => text.push_str(&format!("[{word}]")),
            Token::Op(op) => text.push(*op),
            Token::Comment(_) => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `H:` and `B:` in front of the pieces.
    #[track_caller]
    fn check(message: &str, depth: Depth, expected: &[&str]) {
        let found: Vec<String> = pieces(message.as_bytes(), depth)
            .iter()
            .map(|piece| match piece {
                Piece::Header(_, text) => format!("H:{}", String::from_utf8_lossy(text)),
                Piece::Body(text) => format!("B:{}", String::from_utf8_lossy(text)),
            })
            .collect();
        assert_eq!(found, expected, "{message}");
    }

    #[test]
    fn header_and_body() {
        check(
            "A: b\n c\nX : y\n\nbody\n d",
            Depth::Message,
            &["H:A: b\n c", "H:X: y", "B:", "B:body", "B: d"],
        );
        check(
            "no header\nA: b\n",
            Depth::Parts,
            &["B:", "B:no header", "B:A: b"],
        );
        check("", Depth::Parts, &[]);
        check("\n", Depth::Parts, &["B:"]);
    }

    #[test]
    fn parts_have_headers_of_their_own() {
        let message = "Content-Type: multipart/mixed (c); BOUNDARY=\"o t\"\n\n--o t\n\
                       Content-Type: message/rfc822\n\nA: b\n\nx: y\n--o t\nC: d\n--o t--\nE: f\n";
        check(
            message,
            Depth::Parts,
            &[
                "H:Content-Type: multipart/mixed (c); BOUNDARY=\"o t\"",
                "B:",
                "B:--o t",
                "H:Content-Type: message/rfc822",
                "B:",
                "H:A: b",
                "B:",
                "B:x: y",
                "B:--o t",
                "H:C: d",
                "B:--o t--",
                "B:E: f",
            ],
        );
    }

    #[test]
    fn the_parts_of_a_digest_are_messages() {
        check(
            "Content-Type: multipart/digest; boundary=x\n\n--x\n\nA: b\n\n",
            Depth::Parts,
            &[
                "H:Content-Type: multipart/digest; boundary=x",
                "B:",
                "B:--x",
                "B:",
                "H:A: b",
                "B:",
            ],
        );
    }
}
