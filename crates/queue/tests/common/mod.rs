//! What the spool's tests share: a spool in a temporary folder, messages, crashes, and files that fail.
#![allow(dead_code)] // each test file uses its part

use std::fs::{self, File};
use std::io::{self, IoSlice, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postroom_queue::files::{Files, OsFiles};
use postroom_queue::*;
use tempfile::TempDir;

pub fn options() -> Options {
    Options {
        threads: 4,
        memory_limit: 4096,
        ..Options::default()
    }
}

pub fn open(dir: &Path) -> (Spool, Recovery) {
    Spool::open(dir, options()).unwrap()
}

/// The folder as a kill of the process at this moment would leave it.
pub fn crash(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    copy_folder(&dir.join("postroom"), &copy.path().join("postroom"));
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

pub fn arrival() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

pub fn envelope(recipients: &[&str]) -> Envelope {
    let recipients = recipients.iter().map(|to| Recipient::new(to, to)).collect();
    Envelope::new("sender@example.com", recipients, arrival())
}

pub async fn send(
    spool: &Spool,
    content: &[u8],
    envelope: Envelope,
) -> Result<Message, QueueError> {
    let mut incoming = spool.incoming()?;
    for piece in content.chunks(1000) {
        incoming.append(piece).await?;
    }
    spool.commit(incoming, envelope).await
}

pub fn content_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message
        .content
        .reader()
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

pub fn ids(recovery: &Recovery) -> Vec<QueueId> {
    recovery.messages.iter().map(|message| message.id).collect()
}

pub fn files_in(dir: &Path, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("postroom").join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Operations of [`Failing`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    Create,
    Write,
    Sync,
    SyncFolder,
    Rename,
}

/// The operating system's files, of which one operation can be told to fail.
#[derive(Default)]
pub struct Failing {
    fails: Mutex<Option<(Operation, io::ErrorKind)>>,
    pub free: Mutex<Option<u64>>,
}

impl Failing {
    pub fn set(&self, fails: Option<(Operation, io::ErrorKind)>) {
        *self.fails.lock().unwrap() = fails;
    }

    fn check(&self, operation: Operation) -> io::Result<()> {
        match *self.fails.lock().unwrap() {
            Some((which, kind)) if which == operation => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

impl Files for Failing {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.check(Operation::Create)?;
        OsFiles.create(path)
    }

    fn open_append(&self, path: &Path) -> io::Result<File> {
        OsFiles.open_append(path)
    }

    fn write(&self, file: &File, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        if let Err(error) = self.check(Operation::Write) {
            // A full disk takes the first part of it.
            let half = pieces[0].len() / 2;
            OsFiles.write(file, &mut [IoSlice::new(&pieces[0][..half])])?;
            return Err(error);
        }
        OsFiles.write(file, pieces)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check(Operation::Write)?;
        OsFiles.write_at(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.check(Operation::Sync)?;
        OsFiles.sync(file)
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        self.check(Operation::SyncFolder)?;
        OsFiles.sync_folder(folder)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Operation::Rename)?;
        OsFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFiles.remove(path)
    }

    fn free_space(&self, folder: &Path) -> io::Result<u64> {
        match *self.free.lock().unwrap() {
            Some(free) => Ok(free),
            None => OsFiles.free_space(folder),
        }
    }
}

pub fn open_failing(dir: &Path, options: Options) -> (Spool, Arc<Failing>) {
    let files = Arc::new(Failing::default());
    let (spool, _) = Spool::open_with(dir, options, files.clone()).unwrap();
    (spool, files)
}
