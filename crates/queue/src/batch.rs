//! Files that hold several messages: those that were committed together, with one sync.
//!
//! ```text
//! file   = 1*member *done
//! member = record(Member, id) message      ; `message` is the whole of a message file, see `record`
//! done   = record(Done, id)
//! ```
//!
//! A batch is short-lived: it goes when its last message does. A message that has to wait moves to a file of
//! its own, and recovery moves all of them.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::envelope::Envelope;
use crate::id::QueueId;
use crate::record::{self, CONTENT_OFFSET, HEADER, Header, Kind, MAGIC};

/// What a batch's file name ends in; before it stands the id of the first message.
pub(crate) const SUFFIX: &str = ".batch";
/// Bytes of a member or done record.
pub(crate) const MARK: usize = HEADER + QueueId::LEN;

/// A batch whose messages the server still works on.
pub(crate) struct Batch {
    pub path: PathBuf,
    pub file: File,
    /// Messages that are not done.
    pub live: AtomicUsize,
}

/// Where a message is in its batch.
#[derive(Clone)]
pub(crate) struct Place {
    pub batch: Arc<Batch>,
    pub start: u64,
    pub len: u64,
}

/// The record that names a message.
pub(crate) fn mark(kind: Kind, id: QueueId) -> [u8; MARK] {
    let mut bytes = [0; MARK];
    bytes[..HEADER].copy_from_slice(&Header::of(kind, id.as_str().as_bytes()).to_bytes());
    bytes[HEADER..].copy_from_slice(id.as_str().as_bytes());
    bytes
}

/// A batch file taken apart.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Parsed<'a> {
    /// The messages that are not done, each as the bytes of a message file.
    pub live: Vec<(QueueId, &'a [u8])>,
    /// Something could not be read; what follows it was found again by its marks.
    pub damaged: bool,
}

/// Reads a batch file.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut parsed = Parsed::default();
    let mut done = HashSet::new();
    let mut at = 0;
    while at < bytes.len() {
        match entry(&bytes[at..]) {
            Some((Kind::Done, id, len)) => {
                done.insert(id);
                at += len;
            }
            Some((_, id, len)) => {
                parsed.live.push((id, &bytes[at + MARK..at + len]));
                at += len;
            }
            None => {
                parsed.damaged = true;
                at += 1;
                while at < bytes.len() && read_mark(&bytes[at..]).is_none() {
                    at += 1;
                }
            }
        }
    }
    parsed.live.retain(|(id, _)| !done.contains(id));
    parsed
}

/// What begins here, and its length.
fn entry(bytes: &[u8]) -> Option<(Kind, QueueId, usize)> {
    let (kind, id) = read_mark(bytes)?;
    if kind == Kind::Done {
        return Some((kind, id, MARK));
    }
    let len = MARK.checked_add(message_len(&bytes[MARK..])?)?;
    (len <= bytes.len()).then_some((kind, id, len))
}

fn read_mark(bytes: &[u8]) -> Option<(Kind, QueueId)> {
    let header = Header::parse(bytes)?;
    let payload = bytes.get(HEADER..MARK)?;
    if !matches!(header.kind, Kind::Member | Kind::Done) || !header.fits(payload) {
        return None;
    }
    let id = std::str::from_utf8(payload).ok()?.parse().ok()?;
    Some((header.kind, id))
}

/// Bytes of the message that begins here, by its headers.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let content = Header::parse(bytes.strip_prefix(MAGIC)?)?;
    let behind = usize::try_from(CONTENT_OFFSET.checked_add(content.len)?).ok()?;
    let envelope = Header::parse(bytes.get(behind..)?)?;
    let len = usize::try_from(envelope.len).ok()?;
    behind.checked_add(HEADER)?.checked_add(len)
}

/// Verifies the bytes of a message file; answers its envelope and where its content is.
pub(crate) fn message(bytes: &[u8]) -> Result<(Envelope, &[u8]), &'static str> {
    let header = bytes
        .strip_prefix(MAGIC)
        .and_then(Header::parse)
        .filter(|header| header.kind == Kind::Content)
        .ok_or("content header is damaged")?;
    let rest = &bytes[CONTENT_OFFSET as usize..];
    let len = usize::try_from(header.len).map_err(|_| "content is cut off")?;
    let (content, tail) = rest.split_at_checked(len).ok_or("content is cut off")?;
    if !header.fits(content) {
        return Err("content fails its checksum");
    }
    Ok((record::parse_tail(tail)?.envelope, content))
}
