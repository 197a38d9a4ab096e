//! What cleanup(8) does to the header of a message on its way in: some headers are left out, and
//! the ones that the log and the loop detection want are noted.

use std::collections::HashSet;
use std::time::SystemTime;

use bytes::Bytes;

/// Goes through a message's header as its pieces arrive; the body passes untouched.
pub(crate) struct HeaderPass {
    drop_headers: Vec<String>,
    /// The header that is not complete yet.
    pending: Vec<u8>,
    /// The beginning of a line whose end is in a piece to come.
    partial: Vec<u8>,
    /// The rest of an overlong line is left out.
    skipping: bool,
    /// The first line has been seen.
    begun: bool,
    done: bool,
    /// `header_size_limit`.
    limit: usize,
    /// `Message-ID`, with its brackets.
    pub message_id: Option<String>,
    /// How many `Received` headers there are.
    pub hops: usize,
    seen: HashSet<Vec<u8>>,
    /// Headers to add at the end when the message lacks them.
    missing: Option<Missing>,
}

/// What a message of a local client is completed with.
pub(crate) struct Missing {
    pub from: String,
    pub message_id: String,
    pub date: SystemTime,
}

/// The default of `header_size_limit`: of a header that grows beyond it, the rest is left out.
const LONGEST: usize = 102_400;

impl HeaderPass {
    pub fn new(drop_headers: &[String], missing: Option<Missing>) -> HeaderPass {
        HeaderPass {
            drop_headers: drop_headers.to_vec(),
            pending: Vec::new(),
            partial: Vec::new(),
            skipping: false,
            begun: false,
            done: false,
            limit: LONGEST,
            message_id: None,
            hops: 0,
            seen: HashSet::new(),
            missing,
        }
    }

    /// Of a header that grows beyond `limit`, the rest is left out.
    pub fn with_limit(self, limit: usize) -> HeaderPass {
        HeaderPass { limit, ..self }
    }

    /// Everything that it can know is known.
    pub fn is_complete(&self) -> bool {
        self.done
    }

    /// Takes the next piece, returns what goes into the queue. Pieces end anywhere, within lines too.
    pub fn feed(&mut self, piece: Bytes) -> Bytes {
        if self.done {
            return piece;
        }
        let mut text = std::mem::take(&mut self.partial);
        text.extend_from_slice(&piece);
        let mut out = Vec::with_capacity(text.len() + self.pending.len() + 256);
        let mut rest = &text[..];
        while !rest.is_empty() {
            let end = rest.iter().position(|&byte| byte == b'\n');
            if self.skipping {
                self.skipping = end.is_none();
                rest = &rest[end.map_or(rest.len(), |at| at + 1)..];
                continue;
            }
            let (line, after) = match end {
                Some(at) => rest.split_at(at + 1),
                None if rest.len() < self.limit => {
                    self.partial = rest.to_vec();
                    break;
                }
                None => (rest, &[][..]),
            };
            if !self.line(line, &mut out) {
                out.extend_from_slice(rest);
                break;
            }
            if end.is_none() {
                if self.pending.last() != Some(&b'\n') {
                    self.pending.push(b'\n');
                }
                self.skipping = true;
            }
            rest = after;
        }
        Bytes::from(out)
    }

    /// The message is complete.
    pub fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        let last = std::mem::take(&mut self.partial);
        if !last.is_empty() && !self.line(&last, &mut out) {
            out.extend_from_slice(&last);
        }
        if !self.done {
            self.end_of_header(&mut out);
        }
        Bytes::from(out)
    }

    /// One line; `false` when the header ended before it, and the line is not consumed.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        if !self.begun {
            if is_mbox_separator(line) {
                out.extend_from_slice(b"X-Mailbox-Line: ");
                out.extend_from_slice(line);
                return true;
            }
            self.begun = true;
        }
        if matches!(line.first(), Some(b' ' | b'\t')) && !self.pending.is_empty() {
            if self.pending.len() < self.limit {
                self.pending.extend_from_slice(line);
            }
            return true;
        }
        self.flush(out);
        if header_name(line).is_some() {
            self.pending
                .extend_from_slice(&line[..line.len().min(self.limit)]);
            if line.len() > self.limit {
                self.pending.push(b'\n');
            }
            return true;
        }
        self.end_of_header(out);
        if line != b"\n" {
            out.push(b'\n');
        }
        false
    }

    fn end_of_header(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
        self.done = true;
        let Some(missing) = self.missing.take() else {
            return;
        };
        // RFC 5322 section 3.6.6: a message that was sent on gets the headers of the one who did that.
        let resent = self.seen.iter().any(|name| name.starts_with(b"resent-"));
        let prefix = if resent { "Resent-" } else { "" };
        let lacks = |name: &str| {
            let name = format!("{prefix}{name}").to_ascii_lowercase();
            !self.seen.contains(name.as_bytes())
        };
        let mut add = |name: &str, value: &str| {
            if lacks(name) {
                out.extend_from_slice(format!("{prefix}{name}: {value}\n").as_bytes());
            }
        };
        add("Message-Id", &missing.message_id);
        add("Date", &mail::date::rfc5322(missing.date));
        add("From", &missing.from);
        if self.message_id.is_none() && !resent {
            self.message_id = Some(missing.message_id);
        }
    }

    /// Passes the complete header on, or leaves it out.
    fn flush(&mut self, out: &mut Vec<u8>) {
        let header = std::mem::take(&mut self.pending);
        let Some(name) = header_name(&header) else {
            out.extend_from_slice(&header);
            return;
        };
        let lower = name.to_ascii_lowercase();
        match lower.as_slice() {
            b"received" => self.hops += 1,
            b"message-id" if self.message_id.is_none() => {
                let value = String::from_utf8_lossy(&header[name.len()..]).into_owned();
                let value = value
                    .trim_start_matches([':', ' ', '\t'])
                    .trim()
                    .replace('\n', "");
                self.message_id = Some(value);
            }
            _ => {}
        }
        if completes(&lower) {
            self.seen.insert(lower.clone());
        }
        if !self
            .drop_headers
            .iter()
            .any(|dropped| dropped.as_bytes() == lower)
        {
            out.extend_from_slice(&header);
        }
    }
}

/// Headers whose absence or presence decides what is added.
fn completes(name: &[u8]) -> bool {
    matches!(name, b"from" | b"date" | b"message-id") || name.starts_with(b"resent-")
}

/// The line that begins a message in an mbox file, quoted or not.
fn is_mbox_separator(line: &[u8]) -> bool {
    let quotes = line.iter().take_while(|&&byte| byte == b'>').count();
    line[quotes..]
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"From "))
}

/// The name of the header that the line begins (RFC 5322 section 2.2).
fn header_name(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = line[..colon].trim_ascii_end();
    let printable = name.iter().all(|byte| byte.is_ascii_graphic());
    (!name.is_empty() && printable).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(text: &str, size: usize) -> (String, HeaderPass) {
        let drop_headers = ["bcc".to_owned(), "return-path".to_owned()];
        let mut pass = HeaderPass::new(&drop_headers, None);
        let mut out = Vec::new();
        let mut lines = text.split_inclusive('\n').collect::<Vec<_>>();
        while !lines.is_empty() {
            let piece: String = lines.drain(..size.min(lines.len())).collect();
            out.extend_from_slice(&pass.feed(Bytes::from(piece)));
        }
        out.extend_from_slice(&pass.finish());
        (String::from_utf8(out).expect("text in, text out"), pass)
    }

    #[test]
    fn pieces_may_end_anywhere() {
        let text = "From here to there\nA: 1\nReceived: x\n folded\nBcc: y\n z\nSubject: s: t\n\nbody: 1\n b\n";
        let (whole, _) = pass(text, 100);
        assert!(whole.starts_with("X-Mailbox-Line: From here"), "{whole}");
        for first in 0..text.len() {
            for second in first..text.len() {
                let drop_headers = ["bcc".to_owned()];
                let mut pass = HeaderPass::new(&drop_headers, None);
                let mut out = Vec::new();
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    out.extend_from_slice(&pass.feed(Bytes::copy_from_slice(piece.as_bytes())));
                }
                out.extend_from_slice(&pass.finish());
                assert_eq!(String::from_utf8_lossy(&out), whole, "{first}, {second}");
                assert_eq!(pass.hops, 1);
            }
        }
    }

    #[test]
    fn the_end_of_an_overlong_header_is_left_out() {
        let lines = " 0123456789\n".repeat(20_000);
        let one = "x".repeat(300_000);
        for long in [format!("Long: a\n{lines}"), format!("Long: {one}\n")] {
            let text = format!("{long}Next: 1\n\nbody\n");
            for size in [1_000, 70_000, 1_000_000] {
                let mut pass = HeaderPass::new(&[], None);
                let mut out = Vec::new();
                for piece in text.as_bytes().chunks(size) {
                    out.extend_from_slice(&pass.feed(Bytes::copy_from_slice(piece)));
                }
                out.extend_from_slice(&pass.finish());
                assert!(out.ends_with(b"\nNext: 1\n\nbody\n"));
                assert!(!out.ends_with(b"\n\nNext: 1\n\nbody\n"));
                assert!(
                    out.len() >= LONGEST && out.len() < LONGEST + 71_000,
                    "{}",
                    out.len()
                );
            }
        }
    }

    #[test]
    fn leaves_headers_out_and_notes_others() {
        let text = "Received: a\n\tb\nReceived: c\nBcc: x@y,\n z@y\nReturn-Path: <>\n\
                    Message-ID:\n <1@x>\nSubject: s\n\nBcc: body\n\tbody\n";
        let expected =
            "Received: a\n\tb\nReceived: c\nMessage-ID:\n <1@x>\nSubject: s\n\nBcc: body\n\tbody\n";
        for size in [1, 2, 3, 100] {
            let (out, pass) = pass(text, size);
            assert_eq!(out, expected, "{size} lines at a time");
            assert_eq!(pass.hops, 2);
            assert_eq!(pass.message_id.as_deref(), Some("<1@x>"));
        }
    }

    #[test]
    fn a_header_without_end_gets_one() {
        assert_eq!(
            pass("Subject: s\nno header\nmore\n", 9).0,
            "Subject: s\n\nno header\nmore\n"
        );
        assert_eq!(pass("Subject: s\n", 9).0, "Subject: s\n");
        assert_eq!(pass("just text\n", 9).0, "\njust text\n");
    }

    #[test]
    fn completes_a_local_message() {
        let missing = Missing {
            from: "a@x".into(),
            message_id: "<id@x>".into(),
            date: SystemTime::UNIX_EPOCH,
        };
        let mut pass = HeaderPass::new(&[], Some(missing));
        let out = pass.feed(Bytes::from_static(b"Date: today\n\nbody\n"));
        assert_eq!(
            &out[..],
            b"Date: today\nMessage-Id: <id@x>\nFrom: a@x\n\nbody\n"
        );
    }
}
