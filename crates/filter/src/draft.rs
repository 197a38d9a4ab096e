//! A complete message before it is committed, for those who change it: its headers in memory, its body in the spool.

use std::io;

use queue::{Incoming, QueueError};

/// The message. Until something is changed, it is what was received, and costs no copy.
pub struct Draft {
    /// Without the newline that ends each; continuation lines are separated by newlines.
    headers: Vec<Vec<u8>>,
    /// Our own `Received:`, which milters do not see.
    hidden: Option<usize>,
    /// An empty line follows the headers.
    separated: bool,
    store: Incoming,
    /// Where in the store the body begins.
    body: u64,
    changed: bool,
    replacement: Option<Replacement>,
}

/// A new body that is coming in.
struct Replacement {
    store: Incoming,
    /// The last piece ended with a CR.
    cr: bool,
    /// The last byte was a newline, or there is none.
    ended: bool,
}

/// Why a message could not be read or changed.
#[derive(Debug)]
pub enum DraftError {
    Read(io::Error),
    Write(QueueError),
    /// A body beyond `message_size_limit`.
    TooLarge,
}

impl std::fmt::Display for DraftError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DraftError::Read(error) => write!(f, "read the message: {error}"),
            DraftError::Write(error) => write!(f, "{error}"),
            DraftError::TooLarge => write!(f, "a milter's new body exceeds message_size_limit"),
        }
    }
}

impl From<QueueError> for DraftError {
    fn from(error: QueueError) -> Self {
        DraftError::Write(error)
    }
}

impl Draft {
    /// Takes over what was received. `hidden` counts the headers in front of our own `Received:`.
    pub async fn read(store: Incoming, hidden: usize) -> Result<Draft, DraftError> {
        let mut pieces = store.pieces(0);
        let mut scan = HeaderScan::default();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(DraftError::Read)?;
            if scan.push(&piece) {
                break;
            }
        }
        scan.finish();
        drop(pieces);
        Ok(Draft {
            hidden: (hidden < scan.headers.len()).then_some(hidden),
            headers: scan.headers,
            separated: scan.separated,
            body: scan.size,
            store,
            changed: false,
            replacement: None,
        })
    }

    /// The headers that milters see.
    pub fn visible(&self) -> impl Iterator<Item = &[u8]> {
        let hidden = self.hidden;
        let headers = self.headers.iter().enumerate();
        headers
            .filter(move |(at, _)| Some(*at) != hidden)
            .map(|(_, header)| &header[..])
    }

    /// The body, piece by piece.
    pub fn body(&self) -> queue::Pieces {
        self.store.pieces(self.body)
    }

    /// Puts a header behind all others.
    pub fn add_header(&mut self, header: Vec<u8>) {
        self.headers.push(header);
        self.changed = true;
    }

    /// Puts a header at this place, counted from 0 with our own `Received:`; beyond the last one, behind all others.
    pub fn insert_header(&mut self, index: usize, header: Vec<u8>) {
        let index = index.min(self.headers.len());
        if let Some(hidden) = &mut self.hidden
            && index <= *hidden
        {
            *hidden += 1;
        }
        self.headers.insert(index, header);
        self.changed = true;
    }

    /// Replaces the n-th header (from 1) of this name; adds it where there are fewer. None deletes.
    pub fn change_header(&mut self, number: usize, name: &str, header: Option<Vec<u8>>) {
        let found = self.find(number, name);
        match (found, header) {
            (Some(at), Some(header)) => self.headers[at] = header,
            (Some(at), None) => self.remove(at),
            (None, Some(header)) => return self.add_header(header),
            (None, None) => return,
        }
        self.changed = true;
    }

    fn remove(&mut self, at: usize) {
        self.headers.remove(at);
        if let Some(hidden) = &mut self.hidden
            && at < *hidden
        {
            *hidden -= 1;
        }
    }

    fn find(&self, number: usize, name: &str) -> Option<usize> {
        let headers = self.headers.iter().enumerate();
        headers
            .filter(|(at, _)| Some(*at) != self.hidden)
            .filter(|(_, header)| name_of(header).eq_ignore_ascii_case(name.as_bytes()))
            .nth(number.saturating_sub(1))
            .map(|(at, _)| at)
    }

    /// A piece of a new body, whose lines end in CR LF; `limit`: bytes that it may have in all.
    pub async fn replace_body(&mut self, piece: &[u8], limit: u64) -> Result<(), DraftError> {
        let replacement = self.replacement.get_or_insert_with(|| Replacement {
            store: self.store.successor(),
            cr: false,
            ended: true,
        });
        let mut text = Vec::with_capacity(piece.len() + 1);
        for &byte in piece {
            if std::mem::take(&mut replacement.cr) && byte != b'\n' {
                text.push(b'\r');
            }
            match byte {
                b'\r' => replacement.cr = true,
                byte => text.push(byte),
            }
        }
        if let Some(&last) = text.last() {
            replacement.ended = last == b'\n';
        }
        if limit > 0 && replacement.store.size() + text.len() as u64 > limit {
            return Err(DraftError::TooLarge);
        }
        replacement.store.append(&text).await?;
        Ok(())
    }

    /// The pieces of a new body, if there are any, take the place of the old one.
    pub async fn settle(&mut self) -> Result<(), DraftError> {
        let Some(mut replacement) = self.replacement.take() else {
            return Ok(());
        };
        if replacement.cr {
            replacement.store.append(b"\r").await?;
        }
        if replacement.cr || !replacement.ended {
            replacement.store.append(b"\n").await?;
        }
        self.store = replacement.store;
        self.body = 0;
        self.separated = true;
        self.changed = true;
        Ok(())
    }

    /// The message, to be committed.
    pub async fn finish(self) -> Result<Incoming, DraftError> {
        if !self.changed {
            return Ok(self.store);
        }
        let mut text = Vec::new();
        for header in &self.headers {
            text.extend_from_slice(header);
            text.push(b'\n');
        }
        if self.separated {
            text.push(b'\n');
        }
        let mut written = self.store.successor();
        written.append(&text).await?;
        let mut pieces = self.store.pieces(self.body);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(DraftError::Read)?;
            written.append(&piece).await?;
        }
        Ok(written)
    }
}

/// The name of a header.
pub(crate) fn name_of(header: &[u8]) -> &[u8] {
    let end = header.iter().position(|&byte| byte == b':');
    header[..end.unwrap_or(header.len())].trim_ascii_end()
}

/// The line that begins a message in an mbox file, quoted or not.
pub(crate) fn is_mbox_separator(line: &[u8]) -> bool {
    let quotes = line.iter().take_while(|&&byte| byte == b'>').count();
    let start = line[quotes..].get(..5);
    start.is_some_and(|start| start.eq_ignore_ascii_case(b"From "))
}

/// Collects the headers of a message.
#[derive(Default)]
struct HeaderScan {
    headers: Vec<Vec<u8>>,
    line: Vec<u8>,
    separated: bool,
    /// Bytes up to the body.
    size: u64,
    done: bool,
}

impl HeaderScan {
    /// True when the header is complete.
    fn push(&mut self, piece: &[u8]) -> bool {
        for line in piece.split_inclusive(|&byte| byte == b'\n') {
            if self.done {
                break;
            }
            self.line.extend_from_slice(line);
            if line.ends_with(b"\n") {
                self.end_line();
            }
        }
        self.done
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        self.size += line.len() as u64;
        if line.ends_with(b"\n") {
            line.pop();
        }
        if line.is_empty() {
            self.separated = true;
            self.done = true;
            return;
        }
        match self.headers.last_mut() {
            Some(last) if matches!(line[0], b' ' | b'\t') => {
                last.push(b'\n');
                last.extend_from_slice(&line);
            }
            _ => self.headers.push(line),
        }
    }

    fn finish(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue::{Options, Spool};

    async fn draft(spool: &Spool, text: &str) -> Draft {
        let mut incoming = spool.incoming().expect("there is room");
        incoming
            .append(text.as_bytes())
            .await
            .expect("it is writable");
        Draft::read(incoming, 0).await.expect("it is readable")
    }

    async fn text(draft: Draft) -> String {
        let store = draft.finish().await.expect("it is writable");
        let mut pieces = store.pieces(0);
        let mut text = Vec::new();
        while let Some(piece) = pieces.next().await {
            text.extend_from_slice(&piece.expect("it is readable"));
        }
        String::from_utf8(text).expect("text in, text out")
    }

    #[tokio::test]
    async fn headers_and_body_are_changed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let options = Options {
            memory_limit: 50,
            ..Options::default()
        };
        let (spool, _) = Spool::open(dir.path(), options).expect("an empty folder");
        let message = "Received: ours\n\tfolded\nA: 1\nReceived: theirs\nB: 2\n c\n\nbody\nmore body that is not in memory any more\n";
        let mut one = draft(&spool, message).await;
        assert_eq!(
            one.visible().collect::<Vec<_>>(),
            [&b"A: 1"[..], b"Received: theirs", b"B: 2\n c"]
        );
        one.change_header(1, "received", Some(b"Received: changed".to_vec()));
        one.change_header(1, "a", None);
        one.change_header(2, "b", Some(b"B: new".to_vec()));
        one.insert_header(0, b"First: x".to_vec());
        one.insert_header(2, b"Third: x".to_vec());
        one.insert_header(100, b"Last: x".to_vec());
        assert_eq!(
            text(one).await,
            "First: x\nReceived: ours\n\tfolded\nThird: x\nReceived: changed\nB: 2\n c\nB: new\nLast: x\n\nbody\nmore body that is not in memory any more\n"
        );
        let mut two = draft(&spool, message).await;
        for piece in ["one\r", "\ntwo\r", "x\r\n\r\nend"] {
            two.replace_body(piece.as_bytes(), 0)
                .await
                .expect("writable");
        }
        two.settle().await.expect("writable");
        assert_eq!(
            text(two).await,
            "Received: ours\n\tfolded\nA: 1\nReceived: theirs\nB: 2\n c\n\none\ntwo\rx\n\nend\n"
        );
        let mut three = draft(&spool, message).await;
        let large = three.replace_body(&[b'x'; 100], 99).await;
        assert!(matches!(large, Err(DraftError::TooLarge)));
        for unchanged in [message, "A: b\n", "A: b\n c\n\n", "\nbody\n"] {
            assert_eq!(text(draft(&spool, unchanged).await).await, unchanged);
        }
    }
}
