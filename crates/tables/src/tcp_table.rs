//! The protocol of tcp_table(5), both sides, without sockets: `get KEY` → `200 VALUE`, `500 why not
//! found`, `400 why it failed`, one line each; `%`, blanks and what does not print travel as `%XX`.

/// A line with its newline may have so many bytes, in either direction.
pub const LINE_LIMIT: usize = 4096;

/// A line was longer than [`LINE_LIMIT`]. Nothing after it can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line longer than {LINE_LIMIT} bytes")]
pub struct TooLong;

/// Cuts lines out of a stream of bytes as it comes in. After an error it gives that error for ever.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    broken: bool,
}

impl Lines {
    /// Takes bytes from the front of `input` until a line is complete, and gives it without its
    /// newline; `None` when all of `input` was taken and more is needed.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        let newline = input.iter().position(|&byte| byte == b'\n');
        let taken = newline.unwrap_or(input.len());
        self.broken |= self.line.len() + taken >= LINE_LIMIT;
        if self.broken {
            self.line = Vec::new();
            return Err(TooLong);
        }
        self.line.extend_from_slice(&input[..taken]);
        *input = &input[taken + usize::from(newline.is_some())..];
        Ok(newline.map(|_| std::mem::take(&mut self.line)))
    }

    /// Whether the stream stands between two lines, where it may end.
    pub fn is_between(&self) -> bool {
        self.line.is_empty()
    }
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Look this key up.
    Get(Vec<u8>),
    /// `put key value`: in the protocol, in no client of Postfix.
    Put,
    /// Anything else, or a key that is not encoded as it must be.
    Malformed,
}

impl Request {
    /// The request in a line without its newline. A carriage return at the end is not part of it.
    pub fn parse(line: &[u8]) -> Request {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (verb, key) = word(line);
        if verb.eq_ignore_ascii_case(b"put") {
            return Request::Put;
        }
        match unquote(key) {
            Some(key) if verb.eq_ignore_ascii_case(b"get") && !key.is_empty() => Request::Get(key),
            _ => Request::Malformed,
        }
    }

    /// The line that asks for a key, newline included.
    pub fn get(key: &[u8]) -> Vec<u8> {
        let mut line = b"get ".to_vec();
        quote(key, &mut line);
        line.push(b'\n');
        line
    }
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// 200
    Found(Vec<u8>),
    /// 500, with a text that says so.
    NotFound(Vec<u8>),
    /// 400: try later.
    Failed(Vec<u8>),
}

impl Reply {
    /// The reply in a line without its newline; `None` when it begins with none of the three codes and white space,
    /// or is not encoded as it must be. All that follows is the text, as Postfix reads it.
    pub fn parse(line: &[u8]) -> Option<Reply> {
        let (code, rest) = line.split_at_checked(3)?;
        let (blank, text) = rest.split_first()?;
        let text = unquote(text).filter(|_| blank.is_ascii_whitespace())?;
        match code {
            b"200" => Some(Reply::Found(text)),
            b"500" => Some(Reply::NotFound(text)),
            b"400" => Some(Reply::Failed(text)),
            _ => None,
        }
    }

    /// The line, newline included. A value that does not fit becomes a failure that says so.
    pub fn encode(&self) -> Vec<u8> {
        let (code, text) = match self {
            Reply::Found(value) => ("200 ", value),
            Reply::NotFound(text) => ("500 ", text),
            Reply::Failed(text) => ("400 ", text),
        };
        let mut line = code.as_bytes().to_vec();
        quote(text, &mut line);
        line.push(b'\n');
        match self {
            _ if line.len() <= LINE_LIMIT => line,
            Reply::Found(_) => Reply::Failed(b"value too long for tcp_table(5)".to_vec()).encode(),
            // The text is for people: half of it will do.
            Reply::NotFound(text) => Reply::NotFound(text[..text.len() / 2].to_vec()).encode(),
            Reply::Failed(text) => Reply::Failed(text[..text.len() / 2].to_vec()).encode(),
        }
    }
}

/// The first word, and what follows the white space behind it.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(line.len());
    (&line[..end], line[end..].trim_ascii())
}

fn quote(text: &[u8], line: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if byte.is_ascii_graphic() && byte != b'%' {
            line.push(byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            line.extend_from_slice(&[b'%', HEX[high], HEX[low]]);
        }
    }
}

/// `None` when a `%` is not followed by two hexadecimal digits.
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let code = digit(rest.first()?)? * 16 + digit(rest.get(1)?)?;
        plain.push(u8::try_from(code).ok()?);
        rest = &rest[2..];
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests() {
        let get = |key: &str| Request::Get(key.as_bytes().to_vec());
        for (line, expected) in [
            ("get a@b", get("a@b")),
            ("GET  a%20b%25\r", get("a b%")),
            ("get a%2fb", get("a/b")),
            ("get", Request::Malformed),
            ("get ", Request::Malformed),
            ("get a%2", Request::Malformed),
            ("get a%zz", Request::Malformed),
            ("get a%", Request::Malformed),
            ("getaway x", Request::Malformed),
            ("", Request::Malformed),
            ("put a b", Request::Put),
        ] {
            assert_eq!(Request::parse(line.as_bytes()), expected, "{line:?}");
        }
        assert_eq!(Request::get(b"a b%\xff"), b"get a%20b%25%FF\n");
    }

    #[test]
    fn replies() {
        for (line, expected) in [
            ("200 a%20b", Some(Reply::Found(b"a b".to_vec()))),
            ("200 a b", Some(Reply::Found(b"a b".to_vec()))),
            ("500 no", Some(Reply::NotFound(b"no".to_vec()))),
            ("500 ", Some(Reply::NotFound(Vec::new()))),
            ("200  a \r", Some(Reply::Found(b" a \r".to_vec()))),
            ("500", None),
            ("2000 x", None),
            ("400 later", Some(Reply::Failed(b"later".to_vec()))),
            ("300 x", None),
            ("200 %x", None),
            ("", None),
        ] {
            assert_eq!(Reply::parse(line.as_bytes()), expected, "{line:?}");
        }
        let reply = Reply::Failed(b"database down".to_vec());
        assert_eq!(reply.encode(), b"400 database%20down\n");
    }

    #[test]
    fn nothing_longer_than_the_limit_is_written() {
        let fits = Reply::Found(vec![b'a'; LINE_LIMIT - 5]);
        assert_eq!(fits.encode().len(), LINE_LIMIT);
        let too_long = Reply::Found(vec![b'a'; LINE_LIMIT - 4]).encode();
        assert!(too_long.starts_with(b"400 value"), "{too_long:?}");
        let reason = Reply::Failed(vec![0xff; 20_000]).encode();
        assert!(reason.starts_with(b"400 %FF") && reason.len() <= LINE_LIMIT);
    }

    #[test]
    fn lines_are_bounded() {
        let mut lines = Lines::default();
        let mut input = &b"get a\nget b\nget"[..];
        assert_eq!(lines.next(&mut input), Ok(Some(b"get a".to_vec())));
        assert_eq!(lines.next(&mut input), Ok(Some(b"get b".to_vec())));
        assert_eq!(lines.next(&mut input), Ok(None));
        assert!(!lines.is_between());
        let long = vec![b'x'; LINE_LIMIT];
        assert_eq!(lines.next(&mut &long[..]), Err(TooLong));
        assert_eq!(lines.next(&mut &b"\n"[..]), Err(TooLong));
        let mut exactly = vec![b'x'; LINE_LIMIT - 1];
        exactly.push(b'\n');
        let line = Lines::default()
            .next(&mut &exactly[..])
            .map(|line| line.map(|l| l.len()));
        assert_eq!(line, Ok(Some(LINE_LIMIT - 1)));
    }

    proptest! {
        #[test]
        fn keys_and_values_survive(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            let line = Request::get(&bytes);
            prop_assert_eq!(Request::parse(&line[..line.len() - 1]), Request::Get(bytes.clone()));
            let line = Reply::Found(bytes.clone()).encode();
            prop_assert_eq!(Reply::parse(&line[..line.len() - 1]), Some(Reply::Found(bytes)));
        }

        #[test]
        fn any_line_is_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            Request::parse(&bytes);
            Reply::parse(&bytes);
        }
    }
}
