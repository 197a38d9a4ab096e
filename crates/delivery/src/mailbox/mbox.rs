//! mbox delivery: one file for all messages, under locks that other programs honour.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use config::{Config, ConfigError};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use queue::Content;

use super::failure::{Failure, reason};
use super::rights::Owner;
use crate::content::LineFilter;

/// How mailbox files are locked: `virtual_mailbox_lock`, `deliver_lock_attempts`, `deliver_lock_delay`,
/// `stale_lock_time`.
#[derive(Clone, Debug)]
pub struct Locking {
    pub fcntl: bool,
    pub flock: bool,
    pub dotlock: bool,
    /// Where no lock file can be made, the other locks must do.
    pub dotlock_may_fail: bool,
    pub attempts: u32,
    pub delay: Duration,
    pub stale: Duration,
}

/// What a mailbox file must fulfil.
#[derive(Clone, Debug)]
pub struct Rules {
    pub locking: Locking,
    /// `strict_mailbox_ownership`.
    pub strict_ownership: bool,
    /// `virtual_mailbox_limit` or `mailbox_size_limit`, bytes; 0: none.
    pub limit: u64,
}

impl Rules {
    /// What the agents have in common, with the lock and the size limit that each names for itself.
    pub fn read(config: &Config, lock: &str, limit: &str) -> Result<Rules, ConfigError> {
        let kinds = config.list(lock)?;
        let locks = |kind: &str| kinds.iter().any(|word| word == kind);
        Ok(Rules {
            locking: Locking {
                fcntl: locks("fcntl"),
                flock: locks("flock"),
                dotlock: locks("dotlock"),
                dotlock_may_fail: false,
                attempts: u32::try_from(config.int("deliver_lock_attempts")?).unwrap_or(20),
                delay: config.time("deliver_lock_delay")?,
                stale: config.time("stale_lock_time")?,
            },
            strict_ownership: config.bool("strict_mailbox_ownership")?,
            limit: u64::try_from(config.int(limit)?).unwrap_or(0),
        })
    }
}

/// A message for a mailbox.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// With its `From ` line.
    pub head: &'a [u8],
    pub content: &'a Content,
}

/// Appends `head` (with its `From ` line), the content with its `From ` lines quoted, and an empty line.
/// The file gets its old length back when that fails.
pub fn deliver(
    path: &Path,
    owner: Owner,
    head: &[u8],
    content: &Content,
    rules: &Rules,
) -> Result<(), Failure> {
    append(path, Some(owner), None, Entry { head, content }, rules).map_err(|failure| {
        failure.within(&format!("delivery failed to mailbox {}", path.display()))
    })
}

/// [`deliver`] without its words. A new file is given to `new_owner`; `owner`: whose file an existing one must
/// be where ownership is strict.
pub fn append(
    path: &Path,
    owner: Option<Owner>,
    new_owner: Option<Owner>,
    entry: Entry<'_>,
    rules: &Rules,
) -> Result<(), Failure> {
    let Entry { head, content } = entry;
    let _dotlock = match rules.locking.dotlock {
        true => match Dotlock::acquire(path, &rules.locking) {
            Ok(lock) => Some(lock),
            Err(failure) if rules.locking.dotlock_may_fail && !failure.passing => {
                tracing::warn!(prog = "local", "{}", failure.text);
                None
            }
            Err(failure) => return Err(failure),
        },
        false => None,
    };
    if let Some(new_owner) = new_owner {
        create_for(path, new_owner)?;
    }
    let file = open(path, owner.filter(|_| rules.strict_ownership))?;
    lock(&file, &rules.locking)?;
    let failed = |error: io::Error| Failure::of_io("error writing message", &error);
    let length = file.metadata().map_err(failed)?.len();
    let written = write(&file, length, head, content, rules.limit);
    if written.is_err()
        && let Err(error) = file.set_len(length)
    {
        tracing::warn!(
            prog = "virtual",
            "truncate mailbox {}: {}",
            path.display(),
            reason(&error)
        );
    }
    written.map_err(failed)
}

/// Makes the file, as root, for somebody else. One that is there stays as it is.
fn create_for(path: &Path, owner: Owner) -> Result<(), Failure> {
    let created = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path);
    let given = match created {
        Ok(file) => std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    given.map_err(|error| Failure::of_io("cannot create file exclusively", &error))
}

fn open(path: &Path, owner: Option<Owner>) -> Result<File, Failure> {
    // O_NONBLOCK: a FIFO in the mailbox's place must not hold us.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits())
        .open(path);
    let file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => Failure::of_mailbox("file is a symbolic link"),
        Some(Errno::ENOENT) => Failure::of_io("cannot create file exclusively", &error),
        _ => Failure::of_io("cannot open file", &error),
    })?;
    let facts = file
        .metadata()
        .map_err(|error| Failure::of_io("cannot open file", &error))?;
    if !facts.is_file() {
        return Err(Failure::of_mailbox("not a regular file"));
    }
    if facts.nlink() > 1 {
        return Err(Failure::of_mailbox(format!(
            "file has {} hard links",
            facts.nlink()
        )));
    }
    if owner.is_some_and(|owner| facts.uid() != owner.uid) {
        tracing::warn!(
            prog = "virtual",
            "specify \"strict_mailbox_ownership = no\" to ignore mailbox ownership mismatch"
        );
        let text = format!("destination {} is not owned by recipient", path.display());
        return Err(Failure {
            passing: true,
            ..Failure::of_mailbox(text)
        });
    }
    Ok(file)
}

fn write(
    mut file: &File,
    length: u64,
    head: &[u8],
    content: &Content,
    limit: u64,
) -> io::Result<()> {
    let mut filter = LineFilter::new(true, false, "\n");
    let mut reader = content.reader()?;
    let mut piece = vec![0; 64 * 1024];
    let mut out = head.to_vec();
    let mut total = length;
    loop {
        let count = reader.read(&mut piece)?;
        filter.push(&piece[..count], &mut out);
        let ended = count == 0;
        if ended {
            filter.clone().finish(&mut out);
            out.push(b'\n');
        }
        total += out.len() as u64;
        if limit > 0 && total > limit {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        file.write_all(&out)?;
        out.clear();
        if ended {
            return file.sync_all();
        }
    }
}

/// Locks on the open file. The fcntl lock is an "open file description" lock: it excludes other
/// programs' fcntl locks and, unlike those, our own other threads.
fn lock(file: &File, locking: &Locking) -> Result<(), Failure> {
    let try_once = || -> io::Result<()> {
        if locking.flock {
            file.try_lock().map_err(io::Error::from)?;
        }
        if locking.fcntl {
            let whole = libc::flock {
                l_type: libc::F_WRLCK as i16,
                l_whence: libc::SEEK_SET as i16,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            fcntl(file, FcntlArg::F_OFD_SETLK(&whole))?;
        }
        Ok(())
    };
    retry(locking, try_once)
        .map_err(|error| Failure::of_io("unable to lock for exclusive access", &error))
}

/// Tries again while somebody else holds the lock.
fn retry<T>(locking: &Locking, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut left = locking.attempts.max(1);
    loop {
        left -= 1;
        match attempt() {
            Err(error) if left > 0 && is_held(&error) => thread::sleep(locking.delay),
            other => return other,
        }
    }
}

fn is_held(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::AlreadyExists
    )
}

/// `MAILBOX.lock`, removed when dropped.
struct Dotlock {
    path: PathBuf,
}

impl Dotlock {
    fn acquire(mailbox: &Path, locking: &Locking) -> Result<Dotlock, Failure> {
        let mut name = mailbox.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let create = || {
            let created = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            if created.as_ref().is_err_and(is_held) && is_stale(&path, locking.stale) {
                fs::remove_file(&path)?;
            }
            created
        };
        match retry(locking, create) {
            Ok(_) => Ok(Dotlock { path }),
            Err(error) => {
                let text = format!("unable to create lock file {}", path.display());
                Err(Failure::of_io(text, &error))
            }
        }
    }
}

fn is_stale(path: &Path, limit: Duration) -> bool {
    let age = fs::metadata(path)
        .and_then(|facts| facts.modified())
        .map(|time| time.elapsed());
    matches!(age, Ok(Ok(age)) if age > limit)
}

impl Drop for Dotlock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(
                prog = "virtual",
                "remove {}: {}",
                self.path.display(),
                reason(&error)
            );
        }
    }
}
