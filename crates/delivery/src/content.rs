//! What agents put in front of a message, and what they change in its lines on the way out.

use std::time::SystemTime;

use chrono::{DateTime, Local};
use mail::address::quote_local;
use queue::Content;

/// Bytes of the header that are searched for `Delivered-To:`.
const HEADER_LIMIT: usize = 256 * 1024;

/// The header lines that virtual(8) and pipe(8) prepend, in Postfix's order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prepended<'a> {
    /// `From sender  time` for mbox files and UUCP; the null sender shows as MAILER-DAEMON.
    pub from_line: Option<(&'a str, SystemTime)>,
    /// The sender in internal form, empty for `<>`.
    pub return_path: Option<&'a str>,
    /// The recipient as given at RCPT. Left out when empty.
    pub original_to: Option<&'a str>,
    pub delivered_to: Option<&'a str>,
}

impl Prepended<'_> {
    /// The lines, each ended by `eol`.
    pub fn to_bytes(self, eol: &str) -> Vec<u8> {
        let mut text = String::with_capacity(192);
        if let Some((sender, time)) = self.from_line {
            let sender = if sender.is_empty() {
                "MAILER-DAEMON".to_owned()
            } else {
                quote(sender)
            };
            let local: DateTime<Local> = time.into();
            let stamp = local.format("%a %b %e %H:%M:%S %Y");
            text.push_str(&format!("From {sender}  {stamp}{eol}"));
        }
        let addresses = [
            ("Return-Path: <", self.return_path, ">"),
            (
                "X-Original-To: ",
                self.original_to.filter(|text| !text.is_empty()),
                "",
            ),
            ("Delivered-To: ", self.delivered_to, ""),
        ];
        for (name, address, end) in addresses {
            if let Some(address) = address {
                text.push_str(name);
                text.push_str(&quote(address));
                text.push_str(end);
                text.push_str(eol);
            }
        }
        text.into_bytes()
    }
}

/// The external form on one line: a control character would end the header.
fn quote(address: &str) -> String {
    if address.is_empty() {
        return String::new();
    }
    let mut quoted = quote_local(address);
    if quoted.contains(char::is_control) {
        quoted = quoted
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
    }
    quoted
}

/// Whether the header has a `Delivered-To:` with this address (in internal form), whatever its case.
pub fn has_delivered_to(content: &[u8], address: &str) -> bool {
    let wanted = quote(address);
    for line in content.split(|&byte| byte == b'\n') {
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_at_checked("delivered-to:".len()) else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"delivered-to:") {
            let value = String::from_utf8_lossy(value);
            if mail::fold::same(value.trim(), &wanted) {
                return true;
            }
        }
    }
    false
}

/// [`has_delivered_to`] for a message's header.
pub async fn loops_to(content: &Content, address: &str) -> std::io::Result<bool> {
    Ok(has_delivered_to(&header(content).await?, address))
}

/// The message's beginning: its header at least, unless that is very long.
pub async fn header(content: &Content) -> std::io::Result<Vec<u8>> {
    let mut header = Vec::new();
    let mut chunks = content.chunks();
    while header.len() < HEADER_LIMIT {
        let Some(piece) = chunks.next().await else {
            break;
        };
        header.extend_from_slice(&piece?);
        if header.windows(2).any(|pair| pair == b"\n\n") {
            break;
        }
    }
    Ok(header)
}

/// Changes lines as a message passes through in pieces of any size.
#[derive(Clone, Debug)]
pub struct LineFilter {
    /// `>` in front of lines that begin with `From `.
    pub quote_from: bool,
    /// A second dot in front of lines that begin with one.
    pub double_dots: bool,
    /// What ends a line.
    pub eol: String,
    line: LinePlace,
}

#[derive(Clone, Debug)]
enum LinePlace {
    /// At the start of a line, of which these bytes are known: a beginning of `From `.
    Start(Vec<u8>),
    Inside,
}

impl LineFilter {
    const FROM: &'static [u8] = b"From ";

    /// A filter at the start of a message.
    pub fn new(quote_from: bool, double_dots: bool, eol: &str) -> LineFilter {
        LineFilter {
            quote_from,
            double_dots,
            eol: eol.to_owned(),
            line: LinePlace::Start(Vec::new()),
        }
    }

    /// Appends the changed piece to `out`; a few bytes may be held back until the next one.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        out.reserve(piece.len() + piece.len() / 64 + 8);
        while !piece.is_empty() {
            if let LinePlace::Start(known) = &mut self.line {
                known.push(piece[0]);
                piece = &piece[1..];
                self.decide(out);
                continue;
            }
            match piece.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    out.extend_from_slice(&piece[..end]);
                    out.extend_from_slice(self.eol.as_bytes());
                    piece = &piece[end + 1..];
                    self.line = LinePlace::Start(Vec::new());
                }
                None => {
                    out.extend_from_slice(piece);
                    return;
                }
            }
        }
    }

    /// Leaves the start of the line as soon as nothing more can come of it.
    fn decide(&mut self, out: &mut Vec<u8>) {
        let LinePlace::Start(known) = &mut self.line else {
            return;
        };
        if self.quote_from && Self::FROM.starts_with(known) && known.len() < Self::FROM.len() {
            return;
        }
        if self.quote_from && known.as_slice() == Self::FROM {
            out.push(b'>');
        }
        if self.double_dots && known[0] == b'.' {
            out.push(b'.');
        }
        let (text, ended) = match known.split_last() {
            Some((b'\n', text)) => (text, true),
            _ => (known.as_slice(), false),
        };
        out.extend_from_slice(text);
        if ended {
            out.extend_from_slice(self.eol.as_bytes());
            known.clear();
        } else {
            self.line = LinePlace::Inside;
        }
    }

    /// Appends what was held back; a last line without an end gets one.
    pub fn finish(self, out: &mut Vec<u8>) {
        match self.line {
            LinePlace::Start(known) if known.is_empty() => {}
            LinePlace::Start(known) => {
                out.extend_from_slice(&known);
                out.extend_from_slice(self.eol.as_bytes());
            }
            LinePlace::Inside => out.extend_from_slice(self.eol.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(filter: &LineFilter, text: &str, size: usize) -> String {
        let mut filter = filter.clone();
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            filter.push(piece, &mut out);
        }
        filter.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_change_the_same_way_in_pieces_of_any_size() {
        let text = "From a\nFrom\n>From b\n.\n..x\nFromage\n\n.From c\nF";
        for (filter, expected) in [
            (LineFilter::new(false, false, "\n"), format!("{text}\n")),
            (
                LineFilter::new(false, false, "\r\n"),
                format!("{text}\n").replace('\n', "\r\n"),
            ),
            (
                LineFilter::new(true, false, "\n"),
                ">From a\nFrom\n>From b\n.\n..x\nFromage\n\n.From c\nF\n".into(),
            ),
            (
                LineFilter::new(true, true, "\n"),
                ">From a\nFrom\n>From b\n..\n...x\nFromage\n\n..From c\nF\n".into(),
            ),
        ] {
            for size in [1, 2, 3, 5, 7, 100] {
                assert_eq!(filtered(&filter, text, size), expected, "{filter:?} {size}");
            }
        }
    }

    #[test]
    fn prepends_what_postfix_prepends() {
        let all = Prepended {
            from_line: Some(("", SystemTime::UNIX_EPOCH)),
            return_path: Some("s p@x"),
            original_to: Some("Jack@y"),
            delivered_to: Some("john@y"),
        };
        let text = String::from_utf8(all.to_bytes("\n")).unwrap();
        let (from, rest) = text.split_once('\n').unwrap();
        assert!(
            from.starts_with("From MAILER-DAEMON  ") && from.ends_with(" 1970"),
            "{from}"
        );
        assert_eq!(
            rest,
            "Return-Path: <\"s p\"@x>\nX-Original-To: Jack@y\nDelivered-To: john@y\n"
        );
        let null = Prepended {
            return_path: Some(""),
            original_to: Some(""),
            ..Prepended::default()
        };
        assert_eq!(null.to_bytes("\r\n"), b"Return-Path: <>\r\n");
    }

    #[test]
    fn finds_its_own_trace() {
        let content = b"Received: x\nDELIVERED-TO:  John@Y \nSubject: t\n\nDelivered-To: body@y\n";
        for (address, expected) in [("john@y", true), ("body@y", false), ("ohn@y", false)] {
            assert_eq!(has_delivered_to(content, address), expected, "{address}");
        }
    }
}
