//! Read access to a spool: for the server, and for tools beside it or without one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::batch;
use crate::content::Content;
use crate::envelope::Envelope;
use crate::error::QueueError;
use crate::id::QueueId;
use crate::record::{self, CONTENT_OFFSET, Header, Kind, MAGIC, Tail};
use crate::spool::Message;

/// The folders of a spool. Needs no lock and changes nothing.
#[derive(Clone, Debug)]
pub struct Reader {
    root: PathBuf,
}

/// A message in the queue, without its content.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    pub id: QueueId,
    pub envelope: Envelope,
}

impl Reader {
    /// The spool below this `queue_directory`; it need not exist.
    pub fn new(queue_directory: &Path) -> Reader {
        Reader {
            root: queue_directory.join("postroom"),
        }
    }

    pub(crate) fn queue_folder(&self) -> PathBuf {
        self.root.join("queue")
    }

    pub(crate) fn incoming_folder(&self) -> PathBuf {
        self.root.join("incoming")
    }

    pub(crate) fn corrupt_folder(&self) -> PathBuf {
        self.root.join("corrupt")
    }

    pub(crate) fn folders(&self) -> [PathBuf; 4] {
        [
            self.root.clone(),
            self.queue_folder(),
            self.incoming_folder(),
            self.corrupt_folder(),
        ]
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn incoming_path(&self, id: QueueId) -> PathBuf {
        self.incoming_folder().join(id.as_str())
    }

    /// The file of a committed message.
    pub fn message_path(&self, id: QueueId) -> PathBuf {
        self.queue_folder().join(id.as_str())
    }

    /// Ids of the committed messages, oldest first. No spool: none.
    pub fn ids(&self) -> Result<Vec<QueueId>, QueueError> {
        Ok(self.list()?.iter().map(|listed| listed.id).collect())
    }

    /// Paths of the batch files.
    pub(crate) fn batches(&self) -> Result<Vec<PathBuf>, QueueError> {
        let folder = self.queue_folder();
        Ok(names(&folder)?
            .iter()
            .filter(|name| name.ends_with(batch::SUFFIX))
            .map(|name| folder.join(name))
            .collect())
    }

    pub(crate) fn batch_path(&self, first: QueueId) -> PathBuf {
        self.queue_folder()
            .join(format!("{first}{}", batch::SUFFIX))
    }

    /// Looks for a message in the batches and hands its bytes to `read`.
    fn in_batches<T>(
        &self,
        id: QueueId,
        read: impl Fn(&[u8]) -> Result<T, &'static str>,
    ) -> Result<T, QueueError> {
        for path in self.batches()? {
            // It may be gone meanwhile.
            let Ok(bytes) = fs::read(&path) else { continue };
            let parsed = batch::parse(&bytes);
            if let Some((_, message)) = parsed.live.iter().find(|(member, _)| *member == id) {
                return read(message).map_err(|detail| QueueError::Corrupt {
                    path,
                    detail: detail.to_owned(),
                });
            }
        }
        Err(QueueError::NotFound(id))
    }

    /// File names in `corrupt/`: messages that were set aside.
    pub fn set_aside(&self) -> Result<Vec<String>, QueueError> {
        names(&self.corrupt_folder())
    }

    /// The committed messages, oldest first. Those that leave meanwhile or are damaged are left out.
    pub fn list(&self) -> Result<Vec<Listed>, QueueError> {
        // Batches first: a message that moves from its batch to a file of its own is then seen at least once.
        let mut found = BTreeMap::new();
        for path in self.batches()? {
            let Ok(bytes) = fs::read(&path) else { continue };
            for (id, message) in batch::parse(&bytes).live {
                if let Ok((envelope, _)) = batch::message(message) {
                    found.insert(id, envelope);
                }
            }
        }
        for name in names(&self.queue_folder())? {
            let Ok(id) = name.parse() else { continue };
            match self.own_envelope(id) {
                Ok(envelope) => drop(found.insert(id, envelope)),
                Err(QueueError::NotFound(_) | QueueError::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found
            .into_iter()
            .map(|(id, envelope)| Listed { id, envelope })
            .collect())
    }

    /// The envelope with all updates. Does not read the content.
    pub fn envelope(&self, id: QueueId) -> Result<Envelope, QueueError> {
        let in_batch = || self.in_batches(id, |bytes| Ok(batch::message(bytes)?.0));
        self.either(|| self.own_envelope(id), in_batch)
    }

    /// From the message's own file, or else from a batch; it may move to its own file meanwhile.
    fn either<T>(
        &self,
        own: impl Fn() -> Result<T, QueueError>,
        in_batch: impl Fn() -> Result<T, QueueError>,
    ) -> Result<T, QueueError> {
        let mut found = own();
        for look in [&in_batch as &dyn Fn() -> Result<T, QueueError>, &own] {
            if matches!(found, Err(QueueError::NotFound(_))) {
                found = look();
            }
        }
        found
    }

    fn own_envelope(&self, id: QueueId) -> Result<Envelope, QueueError> {
        let file = self.open(id)?;
        Ok(self.tail(id, &file)?.1.envelope)
    }

    /// The whole message, verified. Content up to `memory_limit` bytes is read into memory.
    /// A message that is in a batch is always read into memory.
    pub fn load(&self, id: QueueId, memory_limit: u64) -> Result<Message, QueueError> {
        let in_batch = || self.in_batches(id, |bytes| message_of(id, bytes));
        self.either(|| self.load_own(id, memory_limit), in_batch)
    }

    fn load_own(&self, id: QueueId, memory_limit: u64) -> Result<Message, QueueError> {
        let file = self.open(id)?;
        let (header, tail) = self.tail(id, &file)?;
        let content = match header.len <= memory_limit {
            true => {
                // `tail` found the file longer than this.
                let mut bytes = vec![0; header.len as usize];
                file.read_exact_at(&mut bytes, CONTENT_OFFSET)
                    .map_err(|e| self.failed(id, e))?;
                if !header.fits(&bytes) {
                    return Err(self.corrupt(id, "content fails its checksum"));
                }
                Content::Memory(Bytes::from(bytes))
            }
            false => {
                self.verify_content(id, &file, header)?;
                Content::File {
                    path: self.message_path(id),
                    offset: CONTENT_OFFSET,
                    len: header.len,
                }
            }
        };
        Ok(Message {
            id,
            envelope: tail.envelope,
            content,
        })
    }

    /// Reads all of a message without keeping it; answers what stands behind its content and where.
    pub(crate) fn verify(&self, id: QueueId) -> Result<(u64, Tail), QueueError> {
        let file = self.open(id)?;
        let (header, tail) = self.tail(id, &file)?;
        self.verify_content(id, &file, header)?;
        Ok((CONTENT_OFFSET + header.len, tail))
    }

    fn verify_content(&self, id: QueueId, file: &File, header: Header) -> Result<(), QueueError> {
        let mut piece = vec![0; 64 * 1024];
        let (mut at, mut left, mut crc) = (CONTENT_OFFSET, header.len, 0);
        while left > 0 {
            let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = &mut piece[..most];
            file.read_exact_at(piece, at)
                .map_err(|e| self.failed(id, e))?;
            crc = crc32c::crc32c_append(crc, piece);
            at += most as u64;
            left -= most as u64;
        }
        match crc == header.crc {
            true => Ok(()),
            false => Err(self.corrupt(id, "content fails its checksum")),
        }
    }

    /// The content's header and the records behind the content.
    fn tail(&self, id: QueueId, file: &File) -> Result<(Header, Tail), QueueError> {
        let mut head = [0; CONTENT_OFFSET as usize];
        file.read_exact_at(&mut head, 0)
            .map_err(|e| self.failed(id, e))?;
        if head[..MAGIC.len()] != *MAGIC {
            return Err(self.corrupt(id, "does not begin as a message file"));
        }
        let header = Header::parse(&head[MAGIC.len()..])
            .filter(|header| header.kind == Kind::Content)
            .ok_or_else(|| self.corrupt(id, "content header is damaged"))?;
        let length = file.metadata().map_err(|e| self.failed(id, e))?.len();
        let start = CONTENT_OFFSET.saturating_add(header.len);
        if start > length {
            return Err(self.corrupt(id, "content is cut off"));
        }
        let mut tail = Vec::new();
        let mut from = file;
        io::Seek::seek(&mut from, io::SeekFrom::Start(start))
            .and_then(|_| from.read_to_end(&mut tail))
            .map_err(|e| self.failed(id, e))?;
        let tail = record::parse_tail(&tail).map_err(|detail| self.corrupt(id, detail))?;
        if tail.envelope.size != header.len {
            return Err(self.corrupt(id, "envelope belongs to another content"));
        }
        Ok((header, tail))
    }

    fn open(&self, id: QueueId) -> Result<File, QueueError> {
        File::open(self.message_path(id)).map_err(|e| self.failed(id, e))
    }

    fn failed(&self, id: QueueId, error: io::Error) -> QueueError {
        match error.kind() {
            io::ErrorKind::NotFound => QueueError::NotFound(id),
            io::ErrorKind::UnexpectedEof => self.corrupt(id, "file is cut off"),
            _ => QueueError::io("read", &self.message_path(id), error),
        }
    }

    fn corrupt(&self, id: QueueId, detail: &str) -> QueueError {
        QueueError::Corrupt {
            path: self.message_path(id),
            detail: detail.to_owned(),
        }
    }
}

/// A message from the bytes of its file.
pub(crate) fn message_of(id: QueueId, bytes: &[u8]) -> Result<Message, &'static str> {
    let (envelope, content) = batch::message(bytes)?;
    Ok(Message {
        id,
        envelope,
        content: Content::Memory(Bytes::copy_from_slice(content)),
    })
}

/// File names in a folder, sorted; none when the folder is missing.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, QueueError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(QueueError::io("read", folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| QueueError::io("read", folder, e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}
