//! The content of a queued message: in memory when small, in its file when large.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

/// Header and body as stored: lines end in `\n`. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Content {
    Memory(Bytes),
    /// `len` bytes from `offset` in the message file.
    File {
        path: PathBuf,
        offset: u64,
        len: u64,
    },
    /// The same, opened: whoever may not open the file reads it.
    Open {
        file: Arc<File>,
        offset: u64,
        len: u64,
    },
}

impl Content {
    /// Bytes in the content.
    pub fn len(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File { len, .. } | Content::Open { len, .. } => *len,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The content, when it is in memory.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Content::Memory(bytes) => Some(bytes),
            Content::File { .. } | Content::Open { .. } => None,
        }
    }

    /// The content with its file open, for readers with fewer rights than the caller has. Blocks.
    pub fn opened(&self) -> io::Result<Content> {
        Ok(match self {
            Content::File { path, offset, len } => Content::Open {
                file: Arc::new(File::open(path)?),
                offset: *offset,
                len: *len,
            },
            other => other.clone(),
        })
    }

    /// A blocking reader from the first byte on. Fails when the message left the queue meanwhile.
    pub fn reader(&self) -> io::Result<ContentReader> {
        match self {
            Content::Memory(bytes) => Ok(ContentReader::Memory(bytes.clone())),
            Content::File { path, offset, len } => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(*offset))?;
                Ok(ContentReader::File { file, left: *len })
            }
            Content::Open { file, offset, len } => Ok(ContentReader::Open {
                file: Arc::clone(file),
                at: *offset,
                left: *len,
            }),
        }
    }

    /// The same in pieces for asynchronous callers; file reads run on tokio's blocking threads.
    pub fn chunks(&self) -> Chunks {
        Chunks {
            content: Some(self.clone()),
            reader: None,
        }
    }
}

/// Reads a content front to back.
#[derive(Debug)]
pub enum ContentReader {
    Memory(Bytes),
    File { file: File, left: u64 },
    Open { file: Arc<File>, at: u64, left: u64 },
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            ContentReader::Memory(bytes) => {
                let count = buffer.len().min(bytes.len());
                buffer[..count].copy_from_slice(&bytes.split_to(count));
                Ok(count)
            }
            ContentReader::File { file, left } => {
                let most = buffer
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                if most == 0 {
                    return Ok(0);
                }
                let count = file.read(&mut buffer[..most])?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= count as u64;
                Ok(count)
            }
            ContentReader::Open { file, at, left } => {
                let most = buffer
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                if most == 0 {
                    return Ok(0);
                }
                let count = file.read_at(&mut buffer[..most], *at)?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *at += count as u64;
                *left -= count as u64;
                Ok(count)
            }
        }
    }
}

/// A content piece by piece.
#[derive(Debug)]
pub struct Chunks {
    content: Option<Content>,
    reader: Option<ContentReader>,
}

impl Chunks {
    const SIZE: usize = 64 * 1024;

    /// The next piece, never empty; `None` at the end.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let content = self.content.take();
        if let Some(Content::Memory(bytes)) = content {
            return (!bytes.is_empty()).then_some(Ok(bytes));
        }
        let reader = self.reader.take();
        if content.is_none() && reader.is_none() {
            return None;
        }
        let read = move || -> io::Result<(Bytes, ContentReader)> {
            let mut reader = match (reader, content) {
                (Some(reader), _) => reader,
                (None, Some(content)) => content.reader()?,
                (None, None) => ContentReader::Memory(Bytes::new()),
            };
            let mut piece = vec![0; Chunks::SIZE];
            let count = reader.read(&mut piece)?;
            piece.truncate(count);
            Ok((Bytes::from(piece), reader))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok((piece, _))) if piece.is_empty() => None,
            Ok(Ok((piece, reader))) => {
                self.reader = Some(reader);
                Some(Ok(piece))
            }
            Ok(Err(error)) => Some(Err(error)),
            Err(stopped) => Some(Err(io::Error::other(stopped))),
        }
    }
}
