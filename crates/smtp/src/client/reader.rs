//! Replies of a server, out of bytes (RFC 5321 section 4.2).

use std::borrow::Cow;

use memchr::memchr;

use crate::Reply;
use crate::reply::{split_code, split_enhanced};

/// A reply and the way it reads in a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub reply: Reply,
    /// All lines with their codes, joined by blanks: `550-5.1.1 one 550 5.1.1 two`.
    pub raw: String,
    /// The server gave no enhanced status code of its own.
    pub plain: bool,
}

/// What the server said is no reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub text: String,
}

/// Collects lines until a reply is complete.
#[derive(Debug)]
pub(super) struct Reader {
    bytes: Vec<u8>,
    lines: Vec<String>,
    line_limit: usize,
    lines_limit: usize,
    skipping: bool,
}

impl Reader {
    pub fn new(line_limit: usize, lines_limit: usize) -> Reader {
        Reader {
            bytes: Vec::new(),
            lines: Vec::new(),
            line_limit,
            lines_limit,
            skipping: false,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what was read.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
        self.skipping = false;
    }

    /// The next complete reply.
    pub fn reply(&mut self) -> Option<Result<Heard, Malformed>> {
        while let Some(line) = self.line() {
            let text = line.clone();
            self.lines.push(line);
            if split_code(&text).is_none() {
                self.lines.clear();
                return Some(Err(Malformed { text }));
            }
            if text.as_bytes().get(3) != Some(&b'-') {
                return Some(Ok(assemble(std::mem::take(&mut self.lines))));
            }
            if self.lines.len() >= self.lines_limit {
                self.lines.clear();
                return Some(Err(Malformed {
                    text: "too many reply lines".to_owned(),
                }));
            }
        }
        None
    }

    /// The next whole line, cut at the limit; control characters become `?`.
    fn line(&mut self) -> Option<String> {
        loop {
            match memchr(b'\n', &self.bytes) {
                None if self.bytes.len() > self.line_limit + 2 => {
                    if self.skipping {
                        self.bytes.clear();
                        return None;
                    }
                    // The line is long enough to be told; what follows of it is thrown away.
                    self.skipping = true;
                    let line = clean(&self.bytes[..self.line_limit]);
                    self.bytes.clear();
                    return Some(line);
                }
                None => return None,
                Some(end) => {
                    let raw: Vec<u8> = self.bytes.drain(..=end).collect();
                    if std::mem::take(&mut self.skipping) {
                        continue;
                    }
                    let mut text = &raw[..end];
                    while let Some(shorter) = text.strip_suffix(b"\r") {
                        text = shorter;
                    }
                    return Some(clean(&text[..text.len().min(self.line_limit)]));
                }
            }
        }
    }
}

fn clean(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The code and the enhanced code are those of the last line.
fn assemble(lines: Vec<String>) -> Heard {
    let raw = lines.join(" ");
    let mut reply = Reply::plain(0, "");
    let mut texts = Vec::with_capacity(lines.len());
    for line in &lines {
        if let Some((code, rest)) = split_code(line) {
            let (enhanced, text) = split_enhanced(code, rest);
            reply.code = code;
            reply.enhanced = enhanced;
            texts.push(text);
        }
    }
    reply.text = Cow::Owned(texts.join("\n"));
    let plain = reply.enhanced.is_none();
    Heard { reply, raw, plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Result<String, String>> {
        let mut reader = Reader::new(40, 4);
        let mut found = Vec::new();
        for byte in bytes {
            reader.push(&[*byte]);
            while let Some(result) = reader.reply() {
                found.push(result.map(|h| h.raw).map_err(|m| m.text));
            }
        }
        assert!(reader.bytes.len() < 64);
        found
    }

    #[test]
    fn replies_and_what_is_none() {
        let ok = |text: &str| Ok(text.to_owned());
        let bad = |text: &str| Err(text.to_owned());
        for (bytes, expected) in [
            ("250 ok\r\n", vec![ok("250 ok")]),
            ("250\r\n", vec![ok("250")]),
            (
                "250-a\r\n250 b\n354 c\r\n",
                vec![ok("250-a 250 b"), ok("354 c")],
            ),
            ("hello\r\n", vec![bad("hello")]),
            ("999 x\r\n", vec![bad("999 x")]),
            ("250ok\r\n", vec![bad("250ok")]),
            (
                "250-a\r\n250-a\r\n250-a\r\n250-a\r\n",
                vec![bad("too many reply lines")],
            ),
            (
                "550 012345678901234567890123456789012345678901234567890\r\n250 ok\r\n",
                vec![ok("550 012345678901234567890123456789012345"), ok("250 ok")],
            ),
            ("250 a\tb\r\n", vec![ok("250 a?b")]),
        ] {
            assert_eq!(read(bytes.as_bytes()), expected, "{bytes:?}");
        }
        let mut reader = Reader::new(100, 4);
        reader.push(b"550-5.1.1 one\r\n550 5.1.1 two\r\n");
        let heard = reader.reply().unwrap().unwrap();
        assert_eq!(heard.reply.to_string(), "550 5.1.1 one two");
        assert_eq!(heard.raw, "550-5.1.1 one 550 5.1.1 two");
    }
}
