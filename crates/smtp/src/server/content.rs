//! Message content as it comes over the wire, made into lines that end in `\n`.
//!
//! The message ends at CR LF `.` CR LF and at nothing else. A server that also takes `\n.\n`,
//! `\r\n.\n`, `\n.\r\n` or `\r.\r` for the end lets a client smuggle a second message through another
//! server that does not (CVE-2023-51764).

use memchr::memchr2;

/// CRs in a row that are held back until it is known whether LF follows.
const CRS_HELD: usize = 4096;

/// Where the last byte left us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the start of a line; `strict`: the line before ended in CR LF, or there is none.
    LineStart { strict: bool },
    /// Behind the dot that began a line.
    Dot { strict: bool },
    /// Behind that dot and one CR.
    DotCr { strict: bool },
    /// Inside a line.
    Inside,
}

/// Takes dots out and makes all line ends `\n`; remembers where it stands between pieces.
#[derive(Clone, Debug)]
pub(super) struct Unstuffer {
    place: Place,
    crs: usize,
    stray_cr: u8,
    bare_newline: bool,
}

impl Unstuffer {
    /// At the start of a message.
    pub fn new(replace_stray_cr: bool) -> Unstuffer {
        let stray_cr = if replace_stray_cr { b' ' } else { b'\r' };
        Unstuffer {
            place: Place::LineStart { strict: true },
            crs: 0,
            stray_cr,
            bare_newline: false,
        }
    }

    /// A line ended in LF without CR.
    pub fn saw_bare_newline(&self) -> bool {
        self.bare_newline
    }

    /// Appends the content of `piece` to `out`. `Some(n)`: the message ended with its n-th byte.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        out.reserve(piece.len() + self.crs);
        let mut at = 0;
        while at < piece.len() {
            match self.place {
                Place::Inside => at += self.inside(&piece[at..], out),
                Place::LineStart { strict } if piece[at] == b'.' => {
                    self.place = Place::Dot { strict };
                    at += 1;
                }
                Place::LineStart { .. } => self.place = Place::Inside,
                Place::Dot { strict } if piece[at] == b'\r' => {
                    self.place = Place::DotCr { strict };
                    at += 1;
                }
                Place::Dot { .. } => self.place = Place::Inside,
                Place::DotCr { strict: true } if piece[at] == b'\n' => return Some(at + 1),
                Place::DotCr { .. } => {
                    self.crs = 1;
                    self.place = Place::Inside;
                }
            }
        }
        None
    }

    /// Takes bytes of a line up to and with its end; gives their number.
    fn inside(&mut self, piece: &[u8], out: &mut Vec<u8>) -> usize {
        if self.crs > 0 {
            return self.after_cr(piece[0], out);
        }
        let Some(end) = memchr2(b'\r', b'\n', piece) else {
            out.extend_from_slice(piece);
            return piece.len();
        };
        out.extend_from_slice(&piece[..end]);
        if piece[end] == b'\r' {
            self.crs = 1;
        } else {
            out.push(b'\n');
            self.bare_newline = true;
            self.place = Place::LineStart { strict: false };
        }
        end + 1
    }

    /// CRs before LF belong to the line end, however many; others are strays.
    fn after_cr(&mut self, next: u8, out: &mut Vec<u8>) -> usize {
        match next {
            b'\n' => {
                self.crs = 0;
                out.push(b'\n');
                self.place = Place::LineStart { strict: true };
                1
            }
            b'\r' if self.crs < CRS_HELD => {
                self.crs += 1;
                1
            }
            _ => {
                out.resize(out.len() + self.crs, self.stray_cr);
                self.crs = 0;
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content and what is left behind the end; `None`: the end was not seen.
    fn run(pieces: &[&[u8]]) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut unstuffer, mut out) = (Unstuffer::new(true), Vec::new());
        for (i, piece) in pieces.iter().enumerate() {
            if let Some(end) = unstuffer.push(piece, &mut out) {
                let mut rest = piece[end..].to_vec();
                rest.extend(pieces[i + 1..].concat());
                return (out, Some(rest));
            }
        }
        (out, None)
    }

    #[test]
    fn only_cr_lf_dot_cr_lf_ends_a_message() {
        for (bytes, content, ended) in [
            ("a\r\n.\r\n", "a\n", true),
            (".\r\n", "", true),
            ("\r\n.\r\n", "\n", true),
            ("..\r\n.a\r\n...\r\n.\r\n", ".\na\n..\n", true),
            // The four of the smuggling papers, each with a command behind it, then the real end.
            ("a\n.\nMAIL\r\n.\r\n", "a\n\nMAIL\n", true),
            ("a\r\n.\nMAIL\r\n.\r\n", "a\n\nMAIL\n", true),
            ("a\n.\r\nMAIL\r\n.\r\n", "a\n\nMAIL\n", true),
            ("a\r.\rMAIL\r\n.\r\n", "a . MAIL\n", true),
            // Their relatives.
            ("a\r\n.\rMAIL\r\n.\r\n", "a\n MAIL\n", true),
            ("a\r.\r\nMAIL\r\n.\r\n", "a .\nMAIL\n", true),
            ("a\r\n.\r\r\nMAIL\r\n.\r\n", "a\n\nMAIL\n", true),
            ("a\r\n\r.\r\nMAIL\r\n.\r\n", "a\n .\nMAIL\n", true),
            ("a\r\n.\0\r\n.\r\n", "a\n\0\n", true),
            ("a\n\r.\r\n", "a\n .\n", false),
            ("a\r\r\n.\r\n", "a\n", true),
            ("a\r\n.", "a\n", false),
            ("a\r\n.\r", "a\n", false),
        ] {
            for cut in 0..=bytes.len() {
                let (head, tail) = bytes.as_bytes().split_at(cut);
                let (out, rest) = run(&[head, tail]);
                assert_eq!(
                    String::from_utf8_lossy(&out),
                    content,
                    "{bytes:?} cut at {cut}"
                );
                assert_eq!(rest.is_some(), ended, "{bytes:?} cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.as_bytes().chunks(1).collect();
            assert_eq!(run(&single).0, content.as_bytes(), "{bytes:?}");
        }
        assert_eq!(
            run(&[b"a\r\n.\r\nQUIT\r\n"]).1.as_deref(),
            Some(b"QUIT\r\n".as_slice())
        );
    }

    #[test]
    fn a_flood_of_crs_is_not_held() {
        let (mut unstuffer, mut out) = (Unstuffer::new(false), Vec::new());
        for _ in 0..10 {
            unstuffer.push(&[b'\r'; 10_000], &mut out);
            assert!(unstuffer.crs <= CRS_HELD);
        }
        assert!(out.len() >= 100_000 - CRS_HELD);
    }
}
