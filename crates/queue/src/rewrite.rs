//! Reading a message that is being received, and writing another text in its place: for those who look into messages and
//! change them before they are committed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::record::CONTENT_OFFSET;
use crate::spool::Incoming;

/// Bytes of one [`Pieces::next`] at most.
const PIECE: u64 = 64 * 1024;

impl Incoming {
    /// An empty message with the same id, to be committed in this one's place.
    pub fn successor(&self) -> Incoming {
        Incoming {
            shared: Arc::clone(&self.shared),
            id: self.id,
            buffer: BytesMut::new(),
            spilled: None,
            lines: 0,
            names: Arc::clone(&self.names),
        }
    }

    /// The content so far, from this byte on.
    pub fn pieces(&self, from: u64) -> Pieces {
        let in_file = self.spilled.as_ref().map_or(0, |spilled| spilled.len);
        let skipped = usize::try_from(from.saturating_sub(in_file)).unwrap_or(usize::MAX);
        let rest = self.buffer.get(skipped..).unwrap_or_default();
        Pieces {
            file: self
                .spilled
                .as_ref()
                .map(|spilled| Arc::clone(&spilled.file)),
            at: from.min(in_file),
            in_file,
            rest: Bytes::copy_from_slice(rest),
        }
    }
}

/// The content of a message that is being received, piece by piece.
#[derive(Debug)]
pub struct Pieces {
    file: Option<Arc<File>>,
    at: u64,
    in_file: u64,
    rest: Bytes,
}

impl Pieces {
    /// The next piece, of 64 KiB at most and never empty; `None` at the end.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let left = self.in_file - self.at;
        match &self.file {
            Some(file) if left > 0 => {
                let file = Arc::clone(file);
                let (at, size) = (self.at, left.min(PIECE));
                let read = move || -> io::Result<Bytes> {
                    let mut piece = vec![0; size as usize];
                    file.read_exact_at(&mut piece, CONTENT_OFFSET + at)?;
                    Ok(Bytes::from(piece))
                };
                self.at += size;
                let piece = tokio::task::spawn_blocking(read).await;
                Some(piece.unwrap_or_else(|stopped| Err(io::Error::other(stopped))))
            }
            _ if self.rest.is_empty() => None,
            _ => {
                let size = self.rest.len().min(PIECE as usize);
                Some(Ok(self.rest.split_to(size)))
            }
        }
    }
}
