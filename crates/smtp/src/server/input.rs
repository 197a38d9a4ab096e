//! Bytes from the client: cut into command lines, or taken over whole as message content.

use memchr::memchr;

/// What has been received and not yet understood.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
}

/// One command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Without its end, cut at `line_length_limit` and at the first NUL.
    pub bytes: Vec<u8>,
    /// It was longer than the limit.
    pub cut: bool,
    /// It ended in LF without CR.
    pub bare_newline: bool,
}

impl Input {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// What is waiting.
    pub fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The first `count` waiting bytes have been understood.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
    }

    /// Forgets all that is waiting.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// A whole line is waiting.
    pub fn has_line(&self) -> bool {
        memchr(b'\n', self.waiting()).is_some()
    }

    /// The next whole line. Of a line without an end no more than `limit` bytes are kept: more bytes
    /// from the client cannot make us hold more.
    pub fn line(&mut self, limit: usize) -> Option<Line> {
        let waiting = &self.bytes[self.start..];
        let Some(end) = memchr(b'\n', waiting) else {
            // The last byte is kept too: it tells CR LF from a bare LF.
            if waiting.len() > limit + 2 {
                let last = waiting[waiting.len() - 1];
                self.bytes.truncate(self.start + limit + 1);
                self.bytes.push(last);
            }
            return None;
        };
        let raw = &waiting[..end];
        let cut = raw.strip_suffix(b"\r").unwrap_or(raw).len() > limit;
        let bare_newline = raw.last() != Some(&b'\r');
        let mut kept = &raw[..raw.len().min(limit)];
        while let Some(shorter) = kept.strip_suffix(b"\r") {
            kept = shorter;
        }
        if let Some(nul) = memchr(0, kept) {
            kept = &kept[..nul];
        }
        let bytes = kept.to_vec();
        self.consume(end + 1);
        Some(Line {
            bytes,
            cut,
            bare_newline,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_how_they_arrive() {
        let long = [b"NOOP ".as_slice(), &[b'x'; 40], b"\r\n"].concat();
        for (bytes, text, cut, bare) in [
            (b"NOOP\r\n".as_slice(), "NOOP", false, false),
            (b"NOOP\n", "NOOP", false, true),
            (b"NOOP\r\r\n", "NOOP", false, false),
            (b"QUIT\0x\r\n", "QUIT", false, false),
            (b"\r\n", "", false, false),
            (b"0123456789abcdef\r\n", "0123456789abcdef", false, false),
            (b"0123456789abcdef\n", "0123456789abcdef", false, true),
            (b"0123456789abcdefg\r\n", "0123456789abcdef", true, false),
            (b"0123456789abcdefgh\n", "0123456789abcdef", true, true),
            (&long, "NOOP xxxxxxxxxxx", true, false),
        ] {
            let expected = Line {
                bytes: text.as_bytes().to_vec(),
                cut,
                bare_newline: bare,
            };
            let mut whole = Input::default();
            whole.push(bytes);
            assert_eq!(whole.line(16).as_ref(), Some(&expected), "{text}");
            assert!(whole.is_empty());
            let mut slow = Input::default();
            let lines: Vec<Line> = bytes
                .iter()
                .filter_map(|b| {
                    slow.push(&[*b]);
                    slow.line(16)
                })
                .collect();
            assert_eq!(lines, [expected], "{text}");
            assert!(slow.bytes.len() < 64);
        }
    }
}
