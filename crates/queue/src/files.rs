//! The file operations of the spool, behind a trait so that a test can make each of them fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What the spool asks of the file system when it changes something.
pub trait Files: Send + Sync + 'static {
    /// Creates a file that must not exist yet, mode 0600, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Opens a file to append to.
    fn open_append(&self, path: &Path) -> io::Result<File>;
    /// Writes all the pieces, in one system call when the system takes them.
    fn write(&self, file: &File, pieces: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Writes over what stands at `offset`.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Content and length of the file are on the disk when this returns.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// The names in the folder are on the disk when this returns.
    fn sync_folder(&self, folder: &File) -> io::Result<()>;
    /// Gives the file another name, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Bytes that an unprivileged process may still write to the file system of `folder`.
    fn free_space(&self, folder: &Path) -> io::Result<u64>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

impl Files for OsFiles {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
    }

    fn open_append(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).append(true).open(path)
    }

    fn write(&self, mut file: &File, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            match file.write_vectored(pieces) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut pieces, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        folder.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn free_space(&self, folder: &Path) -> io::Result<u64> {
        let facts = nix::sys::statvfs::statvfs(folder)?;
        Ok(facts.blocks_available() as u64 * facts.fragment_size() as u64)
    }
}
