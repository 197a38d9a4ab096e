//! The spool: takes messages in, keeps them, records what became of their recipients, lets them go.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use nix::fcntl::{Flock, FlockArg};

use crate::batch::{self, Batch, Place};
use crate::committer::{self, Committer};
use crate::content::Content;
use crate::envelope::{Envelope, Update};
use crate::error::QueueError;
use crate::files::{Files, OsFiles};
use crate::folder_sync::FolderSync;
use crate::id::{IdSource, QueueId};
use crate::reader::{self, Listed, Reader};
use crate::record::{self, CONTENT_OFFSET, Header, Kind};
use crate::recovery::{self, Recovery};
use crate::workers::Workers;

/// How a spool is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads for file work. More of them commit more messages at once, each waiting for the disk.
    pub threads: usize,
    /// Content up to this many bytes stays in memory; more goes to a file as it arrives.
    pub memory_limit: usize,
    /// `queue_minfree`: refuse messages when the file system has fewer bytes free. 0: no check.
    pub min_free: u64,
    /// User and group that shall own the spool's folders, when the process starts as root.
    pub owner: Option<(u32, u32)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            threads: 8,
            memory_limit: 256 * 1024,
            min_free: 0,
            owner: None,
        }
    }
}

/// A message in the queue.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: QueueId,
    pub envelope: Envelope,
    pub content: Content,
}

/// The spool of one server. Clones share it; the last one dropped gives up the lock.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) reader: Reader,
    options: Options,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) committer: Committer,
    /// Messages that are in batches.
    pub(crate) places: Mutex<HashMap<QueueId, Place>>,
    ids: IdSource,
    names: FolderSync,
    /// One change of a message at a time; a message's lock is found by its id.
    changes: [Mutex<()>; 16],
    room: Mutex<Option<(Instant, u64)>>,
    accepted: AtomicU64,
    _lock: Flock<File>,
}

impl Spool {
    /// Opens `<queue_directory>/postroom`, makes what is missing, and recovers what a crash left.
    /// Reads every message: takes a while with a full spool.
    pub fn open(queue_directory: &Path, options: Options) -> Result<(Spool, Recovery), QueueError> {
        Spool::open_with(queue_directory, options, Arc::new(OsFiles))
    }

    /// The same with other file operations: for tests that make them fail.
    pub fn open_with(
        queue_directory: &Path,
        options: Options,
        files: Arc<dyn Files>,
    ) -> Result<(Spool, Recovery), QueueError> {
        let reader = Reader::new(queue_directory);
        make_folders(&reader, options.owner)?;
        let lock = take_lock(&reader.lock_path())?;
        let recovery = recovery::recover(&reader, &*files)?;
        let folder = reader.queue_folder();
        let names = File::open(&folder).map_err(|e| QueueError::io("open", &folder, e))?;
        let shared = Shared {
            workers: Workers::new(options.threads),
            reader,
            files,
            committer: Committer::default(),
            places: Mutex::default(),
            ids: IdSource::new(),
            names: FolderSync::new(names),
            changes: Default::default(),
            room: Mutex::new(None),
            accepted: AtomicU64::new(0),
            options,
            _lock: lock,
        };
        let spool = Spool {
            shared: Arc::new(shared),
        };
        Ok((spool, recovery))
    }

    /// Begins a message: gives it an id, no file yet. [`QueueError::Full`] below `min_free`.
    pub fn incoming(&self) -> Result<Incoming, QueueError> {
        self.check_room(0)?;
        Ok(Incoming {
            id: self.shared.ids.next(SystemTime::now()),
            shared: Arc::clone(&self.shared),
            buffer: BytesMut::new(),
            spilled: None,
            lines: 0,
            names: Arc::default(),
        })
    }

    /// Whether a message of `size` bytes may be taken in, by `min_free` (for `MAIL FROM … SIZE=`).
    /// Asks the file system at most once a second.
    pub fn check_room(&self, size: u64) -> Result<(), QueueError> {
        self.shared.check_room(size)
    }

    /// Puts the message on the disk: when this returns `Ok`, it survives a power loss; when it returns
    /// `Err`, nothing of it is left. Sets `envelope.size` and `lines`. The message is then [`active`](crate), or on
    /// hold when the envelope says so.
    ///
    /// A caller that stops waiting does not stop the commit.
    pub async fn commit(
        &self,
        mut incoming: Incoming,
        mut envelope: Envelope,
    ) -> Result<Message, QueueError> {
        envelope.size = incoming.size();
        envelope.lines = incoming.lines;
        if !envelope.hold && incoming.has_no_file() {
            let Incoming { id, .. } = incoming;
            let content = incoming.buffer.split().freeze();
            return committer::commit(&self.shared, id, content, envelope)
                .await
                .unwrap_or_else(stopped);
        }
        let shared = Arc::clone(&self.shared);
        let job = move || shared.commit(incoming, envelope);
        self.shared.workers.run(job).await.unwrap_or_else(stopped)
    }

    /// Reads a message back and verifies it. A damaged one is set aside in `corrupt/`.
    pub async fn load(&self, id: QueueId) -> Result<Message, QueueError> {
        let shared = Arc::clone(&self.shared);
        let job = move || shared.load(id);
        self.shared.workers.run(job).await.unwrap_or_else(stopped)
    }

    /// The messages in the queue, oldest first. Reads every envelope. Damaged ones are left out.
    pub async fn list(&self) -> Result<Vec<Listed>, QueueError> {
        let shared = Arc::clone(&self.shared);
        let job = move || shared.reader.list();
        self.shared.workers.run(job).await.unwrap_or_else(stopped)
    }

    /// Records a change behind the message. When this returns, a kill of the process cannot undo it
    /// (a power loss can: see the crate's text).
    pub async fn update(&self, id: QueueId, update: Update) -> Result<(), QueueError> {
        self.change(id, update, Durability::Process).await
    }

    /// The message is done with: removes it.
    pub async fn remove(&self, id: QueueId) -> Result<(), QueueError> {
        let shared = Arc::clone(&self.shared);
        let job = move || shared.remove(id, Durability::Process);
        self.shared.workers.run(job).await.unwrap_or_else(stopped)
    }

    /// Like [`Spool::remove`], for callers that need not wait; a failure is logged.
    pub fn remove_soon(&self, id: QueueId) {
        let shared = Arc::clone(&self.shared);
        self.shared.workers.start(move || {
            if let Err(error) = shared.remove(id, Durability::Process) {
                tracing::warn!(prog = "qmgr", "{id}: {error}");
            }
        });
    }

    /// The operator removes the message; durable when this returns.
    pub async fn delete(&self, id: QueueId) -> Result<(), QueueError> {
        let shared = Arc::clone(&self.shared);
        let job = move || shared.remove(id, Durability::Disk);
        self.shared.workers.run(job).await.unwrap_or_else(stopped)
    }

    /// No delivery until [`Spool::release`].
    pub async fn hold(&self, id: QueueId) -> Result<(), QueueError> {
        self.set_hold(id, true).await
    }

    /// Ends a hold.
    pub async fn release(&self, id: QueueId) -> Result<(), QueueError> {
        self.set_hold(id, false).await
    }

    /// Forgets hints, deferrals and hold: the next attempt resolves the recipients anew, at once.
    pub async fn requeue(&self, id: QueueId) -> Result<(), QueueError> {
        let update = Update {
            requeue: true,
            ..Update::default()
        };
        self.change(id, update, Durability::Disk).await
    }

    /// Read access to the folders, as the tools have it.
    pub fn reader(&self) -> &Reader {
        &self.shared.reader
    }

    /// Messages committed since the spool was opened.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    async fn set_hold(&self, id: QueueId, hold: bool) -> Result<(), QueueError> {
        let update = Update {
            hold: Some(hold),
            ..Update::default()
        };
        self.change(id, update, Durability::Disk).await
    }

    async fn change(
        &self,
        id: QueueId,
        update: Update,
        durability: Durability,
    ) -> Result<(), QueueError> {
        let shared = Arc::clone(&self.shared);
        let job = move || shared.append_update(id, &update, durability);
        self.shared.workers.run(job).await.unwrap_or_else(stopped)
    }
}

/// What a change must survive.
#[derive(Clone, Copy, PartialEq)]
enum Durability {
    /// A kill of the process.
    Process,
    /// A power loss.
    Disk,
}

/// A message that is being received. Dropped without commit, it leaves nothing.
pub struct Incoming {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: QueueId,
    pub(crate) buffer: BytesMut,
    pub(crate) spilled: Option<Spilled>,
    pub(crate) lines: u64,
    /// How many files in `incoming/` this message and those whose place it takes have had.
    pub(crate) names: Arc<AtomicU32>,
}

/// The part of a large message that is in `incoming/` already.
pub(crate) struct Spilled {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) len: u64,
    crc: u32,
}

impl Incoming {
    /// The message's id.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Bytes of content so far.
    pub fn size(&self) -> u64 {
        self.buffer.len() as u64 + self.spilled.as_ref().map_or(0, |spilled| spilled.len)
    }

    /// Adds content: lines end in `\n`, nothing is dot-stuffed. Waits only when the message is large
    /// and its file is written to. After an error the message can only be dropped.
    pub async fn append(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        self.buffer.extend_from_slice(bytes);
        self.lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        if self.buffer.len() <= self.shared.options.memory_limit {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        self.shared.check_room(piece.len() as u64)?;
        let shared = Arc::clone(&self.shared);
        let before = self.spilled.take();
        let path = match &before {
            Some(spilled) => spilled.path.clone(),
            None => self.new_path(),
        };
        let job = move || shared.spill(path, before, piece);
        let spilled = self.shared.workers.run(job).await.unwrap_or_else(stopped)?;
        self.spilled = Some(spilled);
        Ok(())
    }

    /// Neither it nor one whose place it takes has, or had, a file in `incoming/`.
    fn has_no_file(&self) -> bool {
        self.names.load(Ordering::Relaxed) == 0
    }

    /// A name in `incoming/` that no predecessor has, whose removal may still be on its way.
    fn new_path(&self) -> PathBuf {
        let path = self.shared.reader.incoming_path(self.id);
        match self.names.fetch_add(1, Ordering::Relaxed) {
            0 => path,
            number => path.with_extension(number.to_string()),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(spilled) = self.spilled.take() {
            let shared = Arc::clone(&self.shared);
            self.shared
                .workers
                .start(move || shared.discard(&spilled.path));
        }
    }
}

impl Shared {
    fn check_room(&self, size: u64) -> Result<(), QueueError> {
        let min_free = self.options.min_free;
        if min_free == 0 {
            return Ok(());
        }
        let folder = self.reader.queue_folder();
        let mut room = lock(&self.room);
        let free = match *room {
            Some((asked, free)) if asked.elapsed() < Duration::from_secs(1) => free,
            _ => {
                let free = self
                    .files
                    .free_space(&folder)
                    .map_err(|e| QueueError::io("ask for free space of", &folder, e))?;
                *room = Some((Instant::now(), free));
                free
            }
        };
        match free < min_free.saturating_add(size) {
            true => Err(QueueError::Full {
                path: folder,
                detail: format!("{free} bytes free, queue_minfree is {min_free}"),
            }),
            false => Ok(()),
        }
    }

    /// Writes a piece of a large message to its file, which the first piece creates.
    fn spill(
        &self,
        path: PathBuf,
        before: Option<Spilled>,
        piece: Bytes,
    ) -> Result<Spilled, QueueError> {
        let write = || -> Result<Spilled, QueueError> {
            let mut spilled = match before {
                Some(spilled) => spilled,
                None => self.create_spilled(&path)?,
            };
            self.files
                .write(&spilled.file, &mut [IoSlice::new(&piece)])
                .map_err(|e| QueueError::io("write", &path, e))?;
            spilled.len += piece.len() as u64;
            spilled.crc = crc32c::crc32c_append(spilled.crc, &piece);
            Ok(spilled)
        };
        write().inspect_err(|_| self.discard(&path))
    }

    /// The file starts with room for the head, which is only known at the end.
    fn create_spilled(&self, path: &Path) -> Result<Spilled, QueueError> {
        let file = self
            .files
            .create(path)
            .map_err(|e| QueueError::io("create", path, e))?;
        self.files
            .write(&file, &mut [IoSlice::new(&[0; CONTENT_OFFSET as usize])])
            .map_err(|e| QueueError::io("write", path, e))?;
        Ok(Spilled {
            path: path.to_owned(),
            file: Arc::new(file),
            len: 0,
            crc: 0,
        })
    }

    /// Removes what an unfinished message left in `incoming/`.
    fn discard(&self, path: &Path) {
        match self.files.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(prog = "cleanup", "remove {}: {error}", path.display());
            }
            _ => {}
        }
    }

    /// A message that does not go through the committer: large, or on hold from the start.
    fn commit(&self, mut incoming: Incoming, envelope: Envelope) -> Result<Message, QueueError> {
        let id = incoming.id;
        let rest = incoming.buffer.split().freeze();
        let tail = record::envelope(&envelope);
        let (path, written, content) = match incoming.spilled.take() {
            None => {
                let path = incoming.new_path();
                let written = self.write_small(&path, &rest, &tail);
                (path, written, Content::Memory(rest))
            }
            Some(spilled) => {
                let path = spilled.path.clone();
                let written = self.write_large(&path, spilled, &rest, &tail);
                let content = Content::File {
                    path: self.reader.message_path(id),
                    offset: CONTENT_OFFSET,
                    len: envelope.size,
                };
                (path, written, content)
            }
        };
        let target = self.reader.message_path(id);
        let named = written.and_then(|()| self.give_name(&path, &target));
        named.inspect_err(|_| self.discard(&path))?;
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(Message {
            id,
            envelope,
            content,
        })
    }

    /// Writes and names a small message that came alone.
    pub(crate) fn commit_alone(
        &self,
        id: QueueId,
        content: &[u8],
        tail: &[u8],
    ) -> Result<(), QueueError> {
        let path = self.reader.incoming_path(id);
        let target = self.reader.message_path(id);
        self.write_small(&path, content, tail)
            .and_then(|()| self.give_name(&path, &target))
            .inspect_err(|_| self.discard(&path))?;
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes and names a batch. `pieces` are its bytes, `members` says where the messages are in them.
    pub(crate) fn commit_batch(
        &self,
        pieces: &mut [IoSlice<'_>],
        members: &[(QueueId, u64, u64)],
    ) -> Result<(), QueueError> {
        let first = members[0].0;
        let path = self.reader.incoming_path(first);
        let target = self.reader.batch_path(first);
        let mut write = || -> Result<File, QueueError> {
            let failed = |e| QueueError::io("write", &path, e);
            let file = self.files.create(&path).map_err(failed)?;
            self.files.write(&file, pieces).map_err(failed)?;
            self.files.sync(&file).map_err(failed)?;
            self.give_name(&path, &target)?;
            Ok(file)
        };
        let file = write().inspect_err(|_| self.discard(&path))?;
        let batch = Arc::new(Batch {
            path: target,
            file,
            live: members.len().into(),
        });
        let mut places = lock(&self.places);
        for &(id, start, len) in members {
            let batch = Arc::clone(&batch);
            places.insert(id, Place { batch, start, len });
        }
        self.accepted
            .fetch_add(members.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Gives a whole and synced file its name in the queue, durably or not at all.
    fn give_name(&self, path: &Path, target: &Path) -> Result<(), QueueError> {
        self.files
            .rename(path, target)
            .map_err(|e| QueueError::io("rename", path, e))?;
        self.sync_names().inspect_err(|_| {
            // The message is not accepted, so it must not be delivered either.
            let _ = self.files.remove(target);
        })
    }

    /// The whole file in one write.
    fn write_small(&self, path: &Path, content: &[u8], tail: &[u8]) -> Result<(), QueueError> {
        let head = record::head(Header::of(Kind::Content, content));
        let file = self
            .files
            .create(path)
            .map_err(|e| QueueError::io("create", path, e))?;
        let mut pieces = [&head[..], content, tail].map(IoSlice::new);
        self.files
            .write(&file, &mut pieces)
            .map_err(|e| QueueError::io("write", path, e))?;
        self.files
            .sync(&file)
            .map_err(|e| QueueError::io("sync", path, e))
    }

    /// The rest of a file that was begun by `spill`.
    fn write_large(
        &self,
        path: &Path,
        spilled: Spilled,
        rest: &[u8],
        tail: &[u8],
    ) -> Result<(), QueueError> {
        let head = record::head(Header {
            kind: Kind::Content,
            len: spilled.len + rest.len() as u64,
            crc: crc32c::crc32c_append(spilled.crc, rest),
        });
        let write = || -> io::Result<()> {
            let mut pieces = [rest, tail].map(IoSlice::new);
            self.files.write(&spilled.file, &mut pieces)?;
            self.files.write_at(&spilled.file, &head, 0)?;
            self.files.sync(&spilled.file)
        };
        write().map_err(|e| QueueError::io("write", path, e))
    }

    fn sync_names(&self) -> Result<(), QueueError> {
        self.names
            .sync(|folder| self.files.sync_folder(folder))
            .map_err(|e| QueueError::io("sync", &self.reader.queue_folder(), e))
    }

    fn load(&self, id: QueueId) -> Result<Message, QueueError> {
        let place = lock(&self.places).get(&id).cloned();
        if let Some(place) = place {
            let bytes = self.read_place(&place)?;
            return reader::message_of(id, &bytes).map_err(|detail| QueueError::Corrupt {
                path: place.batch.path.clone(),
                detail: detail.to_owned(),
            });
        }
        let loaded = self.reader.load(id, self.options.memory_limit as u64);
        if let Err(QueueError::Corrupt { detail, .. }) = &loaded {
            recovery::set_aside(&self.reader, &*self.files, &id.to_string(), detail);
        }
        loaded
    }

    fn read_place(&self, place: &Place) -> Result<Vec<u8>, QueueError> {
        let mut bytes = vec![0; place.len as usize];
        place
            .batch
            .file
            .read_exact_at(&mut bytes, place.start)
            .map_err(|e| QueueError::io("read", &place.batch.path, e))?;
        Ok(bytes)
    }

    fn remove(&self, id: QueueId, durability: Durability) -> Result<(), QueueError> {
        let path = self.reader.message_path(id);
        let _change = self.change_of(id);
        let place = lock(&self.places).remove(&id);
        if let Some(place) = place {
            return self.leave_batch(id, &place.batch, durability);
        }
        self.files.remove(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => QueueError::NotFound(id),
            _ => QueueError::io("remove", &path, e),
        })?;
        match durability {
            Durability::Process => Ok(()),
            Durability::Disk => self.sync_names(),
        }
    }

    /// The batch goes with its last message; before that, a record says which are done.
    fn leave_batch(
        &self,
        id: QueueId,
        batch: &Batch,
        durability: Durability,
    ) -> Result<(), QueueError> {
        let failed = |e| QueueError::io("write", &batch.path, e);
        if batch.live.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.files.remove(&batch.path).map_err(failed)?;
            return match durability {
                Durability::Process => Ok(()),
                Durability::Disk => self.sync_names(),
            };
        }
        let mark = batch::mark(Kind::Done, id);
        self.files
            .write(&batch.file, &mut [IoSlice::new(&mark)])
            .map_err(failed)?;
        match durability {
            Durability::Process => Ok(()),
            Durability::Disk => self.files.sync(&batch.file).map_err(failed),
        }
    }

    /// Moves a message from its batch to a file of its own, so that records can be appended.
    /// The caller holds the message's lock.
    fn move_out(&self, id: QueueId) -> Result<(), QueueError> {
        let place = lock(&self.places).get(&id).cloned();
        let Some(place) = place else { return Ok(()) };
        let bytes = self.read_place(&place)?;
        recovery::write_own(&self.reader, &*self.files, id, &bytes)?;
        self.sync_names()?;
        lock(&self.places).remove(&id);
        self.leave_batch(id, &place.batch, Durability::Process)
    }

    fn append_update(
        &self,
        id: QueueId,
        update: &Update,
        durability: Durability,
    ) -> Result<(), QueueError> {
        let path = self.reader.message_path(id);
        let failed = |action| {
            let path = &path;
            move |e: io::Error| match e.kind() {
                io::ErrorKind::NotFound => QueueError::NotFound(id),
                _ => QueueError::io(action, path, e),
            }
        };
        let record = record::update(update);
        let _change = self.change_of(id);
        self.move_out(id)?;
        let file = self.files.open_append(&path).map_err(failed("open"))?;
        let before = file.metadata().map_err(failed("open"))?.len();
        let written = self
            .files
            .write(&file, &mut [IoSlice::new(&record)])
            .map_err(failed("write"));
        if written.is_err() {
            // A torn record would hide those behind it.
            file.set_len(before).map_err(failed("truncate"))?;
        }
        written?;
        if durability == Durability::Disk {
            self.files.sync(&file).map_err(failed("sync"))?;
        }
        Ok(())
    }

    fn change_of(&self, id: QueueId) -> MutexGuard<'_, ()> {
        lock(&self.changes[id.number() as usize % self.changes.len()])
    }
}

fn make_folders(reader: &Reader, owner: Option<(u32, u32)>) -> Result<(), QueueError> {
    use std::os::unix::fs::{DirBuilderExt, chown};
    for folder in reader.folders() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|e| QueueError::io("create", &folder, e))?;
        if let Some((user, group)) = owner {
            chown(&folder, Some(user), Some(group))
                .map_err(|e| QueueError::io("change the owner of", &folder, e))?;
        }
    }
    Ok(())
}

fn take_lock(path: &PathBuf) -> Result<Flock<File>, QueueError> {
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| QueueError::io("open", path, e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => QueueError::Locked { path: path.clone() },
        errno => QueueError::io("lock", path, errno.into()),
    })
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer for a job that panicked.
fn stopped<T>() -> Result<T, QueueError> {
    Err(QueueError::Io {
        action: "work on",
        path: PathBuf::from("the spool"),
        source: io::Error::other("a worker stopped"),
    })
}
