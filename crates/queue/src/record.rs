//! The format of a message file: a mark, then records.
//!
//! ```text
//! file   = MAGIC content envelope *update
//! record = kind (1 byte)  length of the payload (8, little endian)
//!          CRC-32C of the payload (4)  CRC-32C of the 13 bytes before (4)  payload
//! ```
//!
//! The content's payload is the message as delivered, the envelope's is [`Envelope`] as JSON, an update's is
//! [`Update`] as JSON. Everything up to the envelope is written before the message is accepted and
//! never changed; updates are appended. A damaged content or envelope makes the message corrupt; a
//! damaged update is skipped, which at worst delivers twice.

use crate::envelope::{Envelope, Update};

/// The first bytes of a message file, version included.
pub const MAGIC: &[u8; 8] = b"PRMSG1\r\n";
/// Bytes of a record before its payload.
pub const HEADER: usize = 17;
/// Where the content starts in a message file.
pub const CONTENT_OFFSET: u64 = (MAGIC.len() + HEADER) as u64;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Content,
    Envelope,
    Update,
    /// Names the message that follows, in a batch.
    Member,
    /// Names a message that is done with, in a batch.
    Done,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Content => b'C',
            Kind::Envelope => b'E',
            Kind::Update => b'U',
            Kind::Member => b'M',
            Kind::Done => b'D',
        }
    }

    fn of(byte: u8) -> Option<Kind> {
        use Kind::{Content, Done, Envelope, Member, Update};
        [Content, Envelope, Update, Member, Done]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// The part of a record before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub len: u64,
    pub crc: u32,
}

impl Header {
    /// The header for a payload in memory.
    pub fn of(kind: Kind, payload: &[u8]) -> Header {
        Header {
            kind,
            len: payload.len() as u64,
            crc: crc32c::crc32c(payload),
        }
    }

    /// The header as stored.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.kind.byte();
        bytes[1..9].copy_from_slice(&self.len.to_le_bytes());
        bytes[9..13].copy_from_slice(&self.crc.to_le_bytes());
        let own = crc32c::crc32c(&bytes[..13]);
        bytes[13..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Reads a header back; `None` when it is torn, damaged or of an unknown kind.
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let own = u32::from_le_bytes(bytes[13..].try_into().ok()?);
        if crc32c::crc32c(&bytes[..13]) != own {
            return None;
        }
        Some(Header {
            kind: Kind::of(bytes[0])?,
            len: u64::from_le_bytes(bytes[1..9].try_into().ok()?),
            crc: u32::from_le_bytes(bytes[9..13].try_into().ok()?),
        })
    }

    /// Whether `payload` is what this header was made for.
    pub fn fits(&self, payload: &[u8]) -> bool {
        payload.len() as u64 == self.len && crc32c::crc32c(payload) == self.crc
    }
}

/// The first bytes of a message file whose content has this length and checksum.
pub fn head(content: Header) -> [u8; CONTENT_OFFSET as usize] {
    let mut bytes = [0; CONTENT_OFFSET as usize];
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()..].copy_from_slice(&content.to_bytes());
    bytes
}

/// An envelope as a record.
pub fn envelope(envelope: &Envelope) -> Vec<u8> {
    json_record(Kind::Envelope, envelope)
}

/// An update as a record.
pub fn update(update: &Update) -> Vec<u8> {
    json_record(Kind::Update, update)
}

fn json_record(kind: Kind, value: &impl serde::Serialize) -> Vec<u8> {
    let mut record = vec![0; HEADER];
    // Writing to a Vec cannot fail, and every map in these types has text keys.
    serde_json::to_writer(&mut record, value).expect("maps have text keys");
    let header = Header::of(kind, &record[HEADER..]);
    record[..HEADER].copy_from_slice(&header.to_bytes());
    record
}

/// What stands behind the content: the envelope with its updates applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    pub envelope: Envelope,
    /// Bytes of `tail` in whole records; what follows is torn.
    pub whole: usize,
    /// Updates that were skipped because their checksum fails.
    pub skipped: usize,
}

/// Reads the bytes behind the content. `Err` says what is wrong with the envelope.
pub fn parse_tail(tail: &[u8]) -> Result<Tail, &'static str> {
    let header = Header::parse(tail).ok_or("envelope record is torn or damaged")?;
    if header.kind != Kind::Envelope {
        return Err("no envelope behind the content");
    }
    let payload = payload(tail, 0, header).ok_or("envelope is cut off")?;
    if !header.fits(payload) {
        return Err("envelope fails its checksum");
    }
    let mut envelope: Envelope =
        serde_json::from_slice(payload).map_err(|_| "envelope is not in a known form")?;
    let mut at = HEADER + payload.len();
    let mut skipped = 0;
    while let Some(header) = tail.get(at..).and_then(Header::parse) {
        let Some(payload) = self::payload(tail, at, header) else {
            break;
        };
        let known = header.kind == Kind::Update && header.fits(payload);
        match serde_json::from_slice::<Update>(payload) {
            Ok(update) if known => envelope.apply(&update),
            _ => skipped += 1,
        }
        at += HEADER + payload.len();
    }
    Ok(Tail {
        envelope,
        whole: at,
        skipped,
    })
}

/// The payload of the record at `at`, when all of it is there.
fn payload(bytes: &[u8], at: usize, header: Header) -> Option<&[u8]> {
    let start = at.checked_add(HEADER)?;
    let end = start.checked_add(usize::try_from(header.len).ok()?)?;
    bytes.get(start..end)
}
