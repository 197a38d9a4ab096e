//! Dot-stuffing in bulk: internal `\n` lines become CR LF lines, a leading dot is doubled (RFC 5321 section 4.5.2).

use memchr::memchr;

/// Converts a message, given in pieces of any size.
#[derive(Clone, Debug)]
pub struct DotStuffer {
    at_line_start: bool,
    /// Bytes of a line on the wire, without its end.
    longest: usize,
    /// How many of them the present line may still have.
    room: usize,
}

impl Default for DotStuffer {
    fn default() -> DotStuffer {
        DotStuffer::new()
    }
}

impl DotStuffer {
    /// At the start of a message, whose lines go out as long as they are.
    pub fn new() -> DotStuffer {
        DotStuffer::folding(0)
    }

    /// The same, but longer lines are folded: broken after `longest` bytes, a blank before the rest
    /// (`smtp_line_length_limit`; RFC 5321 section 4.5.3.1.6 allows 998). 0: no limit.
    pub fn folding(longest: usize) -> DotStuffer {
        let longest = match longest {
            0 => usize::MAX,
            // The blank and one byte behind it.
            some => some.max(2),
        };
        DotStuffer {
            at_line_start: true,
            longest,
            room: longest,
        }
    }

    /// Appends the converted piece to `out`.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        out.reserve(piece.len() + piece.len() / 32 + 8);
        while !piece.is_empty() {
            if self.at_line_start && piece[0] == b'.' {
                out.push(b'.');
            }
            match memchr(b'\n', piece) {
                Some(end) => {
                    self.line(&piece[..end], out);
                    out.extend_from_slice(b"\r\n");
                    piece = &piece[end + 1..];
                    self.at_line_start = true;
                    self.room = self.longest;
                }
                None => {
                    self.line(piece, out);
                    piece = &[];
                    self.at_line_start = false;
                }
            }
        }
    }

    /// A line or a part of one, without its end.
    fn line(&mut self, mut text: &[u8], out: &mut Vec<u8>) {
        while text.len() > self.room {
            let (fits, rest) = text.split_at(self.room);
            out.extend_from_slice(fits);
            out.extend_from_slice(b"\r\n ");
            self.room = self.longest - 1;
            text = rest;
        }
        out.extend_from_slice(text);
        self.room -= text.len();
    }

    /// Appends the end: an unfinished line is finished, then the lone dot.
    pub fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.at_line_start {
            b".\r\n"
        } else {
            b"\r\n.\r\n"
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded() {
        for (message, expected) in [
            ("12345\n", "12345\r\n.\r\n"),
            (
                "123456\n.2345678\n",
                "12345\r\n 6\r\n..2345\r\n 678\r\n.\r\n",
            ),
            ("1234567890123\n\n", "12345\r\n 6789\r\n 0123\r\n\r\n.\r\n"),
        ] {
            for cut in 0..=message.len() {
                let (mut stuffer, mut out) = (DotStuffer::folding(5), Vec::new());
                stuffer.push(&message.as_bytes()[..cut], &mut out);
                stuffer.push(&message.as_bytes()[cut..], &mut out);
                stuffer.finish(&mut out);
                assert_eq!(String::from_utf8_lossy(&out), expected, "cut at {cut}");
            }
        }
    }

    #[test]
    fn every_split_gives_the_same() {
        for (message, expected) in [
            ("", ".\r\n"),
            ("a\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\n..a\n.", "..\r\n...a\r\n..\r\n.\r\n"),
            ("a.\n\n.b\n", "a.\r\n\r\n..b\r\n.\r\n"),
        ] {
            for cut in 0..=message.len() {
                let (mut stuffer, mut out) = (DotStuffer::new(), Vec::new());
                stuffer.push(&message.as_bytes()[..cut], &mut out);
                stuffer.push(&message.as_bytes()[cut..], &mut out);
                stuffer.finish(&mut out);
                assert_eq!(
                    String::from_utf8_lossy(&out),
                    expected,
                    "{message:?} cut at {cut}"
                );
            }
        }
    }
}
