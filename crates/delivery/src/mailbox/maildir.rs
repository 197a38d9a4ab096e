//! Maildir delivery: written to `tmp/`, synced, renamed into `new/`.
//!
//! The file name follows from the message and the recipient alone. When the server was killed between a
//! delivery and its record in the queue, the second attempt finds the file in `new/` or `cur/` and counts
//! it as delivered.
//!
//! `new/` itself is not synced: the queue removes the message after the rename, and on a journaling file
//! system changes of folders reach the disk in order. Postfix does the same.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use nix::fcntl::OFlag;
use queue::Content;

use super::failure::{Failure, reason};
use crate::request::Message;

/// The name of the file for recipient `index`: `SECONDS.MmicrosecondsQqueueidRindex.host`.
pub fn file_name(message: &Message, index: usize, hostname: &str) -> String {
    let since = message
        .arrival
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut host = hostname.replace('/', "\\057");
    if host.contains(':') {
        host = host.replace(':', "\\072");
    }
    format!(
        "{}.M{}Q{}R{index}.{host}",
        since.as_secs(),
        since.subsec_micros(),
        message.id
    )
}

/// Writes `head` and the content as file `name` of the Maildir at `folder`, which is created as needed.
/// With `recovered`, a file that is there already counts.
pub fn deliver(
    folder: &Path,
    name: &str,
    head: &[u8],
    content: &Content,
    recovered: bool,
) -> Result<(), Failure> {
    if recovered && is_there(folder, name) {
        return Ok(());
    }
    write(folder, name, head, content).map_err(|failure| failure.within("maildir delivery failed"))
}

fn write(folder: &Path, name: &str, head: &[u8], content: &Content) -> Result<(), Failure> {
    let tmp = folder.join("tmp").join(name);
    let create = |path: &Path, error: &io::Error| {
        Failure::of_io(format!("create maildir file {}", path.display()), error)
    };
    let file = match open(&tmp) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folders(folder).map_err(|error| create(&tmp, &error))?;
            open(&tmp)
        }
        other => other,
    };
    let file = file.map_err(|error| create(&tmp, &error))?;
    let written = fill(file, head, content)
        .map_err(|error| Failure::of_io("error writing message", &error))
        .and_then(|()| {
            let new = folder.join("new").join(name);
            into_new(folder, &tmp, &new).map_err(|error| create(&new, &error))
        });
    if written.is_err()
        && let Err(error) = fs::remove_file(&tmp)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(
            prog = "virtual",
            "remove {}: {}",
            tmp.display(),
            reason(&error)
        );
    }
    written
}

/// A file of the same name can only be a remainder of an earlier attempt: it is overwritten.
fn open(tmp: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(tmp)
}

fn fill(mut file: File, head: &[u8], content: &Content) -> io::Result<()> {
    match content.as_bytes() {
        Some(bytes) => write_both(&mut file, head, bytes)?,
        None => {
            file.write_all(head)?;
            let mut reader = content.reader()?;
            let mut piece = vec![0; 128 * 1024];
            loop {
                let count = reader.read(&mut piece)?;
                if count == 0 {
                    break;
                }
                file.write_all(&piece[..count])?;
            }
        }
    }
    file.sync_all()
}

/// Both in one system call where possible.
fn write_both(file: &mut File, head: &[u8], body: &[u8]) -> io::Result<()> {
    let written = file.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
    match written.checked_sub(head.len()) {
        Some(of_body) => file.write_all(&body[of_body..]),
        None => {
            file.write_all(&head[written..])?;
            file.write_all(body)
        }
    }
}

fn into_new(folder: &Path, tmp: &Path, new: &Path) -> io::Result<()> {
    match fs::rename(tmp, new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folders(folder)?;
            fs::rename(tmp, new)
        }
        other => other,
    }
}

fn make_folders(folder: &Path) -> io::Result<()> {
    for name in ["tmp", "new", "cur"] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder.join(name))?;
    }
    Ok(())
}

/// Whether a mail reader or nobody has touched the file of an earlier attempt: the part in front of the
/// flags stays the same.
fn is_there(folder: &Path, name: &str) -> bool {
    if folder.join("new").join(name).exists() {
        return true;
    }
    let seen = |path: PathBuf| -> bool {
        let Ok(entries) = fs::read_dir(path) else {
            return false;
        };
        entries.flatten().any(|entry| {
            let file = entry.file_name();
            let rest = file.to_str().and_then(|file| file.strip_prefix(name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', ',']))
        })
    };
    seen(folder.join("cur")) || seen(folder.join("new"))
}
