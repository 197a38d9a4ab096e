//! What is done with the files that a stopped or killed server left.

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::batch;
use crate::envelope::{Envelope, RecipientState};
use crate::error::QueueError;
use crate::files::Files;
use crate::id::QueueId;
use crate::reader::{Reader, names};

/// What [`Spool::open`](crate::Spool::open) found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovery {
    /// Messages to schedule, oldest first.
    pub messages: Vec<Recovered>,
    /// Damaged files, now in `corrupt/`.
    pub set_aside: Vec<SetAside>,
    /// Messages whose sender was never told 250: removed.
    pub uncommitted: usize,
    /// Messages that an unfinished message was being forwarded as when the server was killed: removed, since the
    /// recipient they stand for is still to be done.
    pub withdrawn: usize,
    /// Messages with all recipients finished, which only wanted removal: removed.
    pub finished: usize,
    /// Messages that lost a damaged update: some recipients may get them twice.
    pub repaired: Vec<QueueId>,
}

/// A message that waits for delivery: what the schedule needs of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    pub id: QueueId,
    pub arrival: SystemTime,
    /// `None`: at once.
    pub next_attempt: Option<SystemTime>,
    pub hold: bool,
    /// The sender is `<>`.
    pub null_sender: bool,
}

/// A file that was set aside.
#[derive(Clone, Debug, PartialEq)]
pub struct SetAside {
    /// Its name in the queue: the id, unless the name was no id.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
    pub reason: String,
}

/// Brings the folders in order. A damaged message never stops it.
pub(crate) fn recover(reader: &Reader, files: &dyn Files) -> Result<Recovery, QueueError> {
    let mut recovery = Recovery::default();
    for name in names(&reader.incoming_folder())? {
        let path = reader.incoming_folder().join(name);
        files
            .remove(&path)
            .map_err(|e| QueueError::io("remove", &path, e))?;
        recovery.uncommitted += 1;
    }
    for path in reader.batches()? {
        unpack(reader, files, &path, &mut recovery)?;
    }
    let mut forwarded = Vec::new();
    for name in names(&reader.queue_folder())? {
        if name.ends_with(batch::SUFFIX) {
            continue;
        }
        let checked = match name.parse::<QueueId>() {
            Ok(id) => check(reader, files, id),
            Err(error) => Err(error),
        };
        match checked {
            Ok(Checked {
                id,
                envelope,
                repaired,
            }) => {
                if repaired {
                    tracing::warn!(
                        prog = "qmgr",
                        "{id}: a damaged update was dropped: recipients may get the message twice"
                    );
                    recovery.repaired.push(id);
                }
                if envelope.forwarded_from.is_some() {
                    forwarded.push((id, envelope));
                } else {
                    place(reader, files, id, &envelope, &mut recovery)?;
                }
            }
            Err(error) => {
                let reason = match error {
                    QueueError::Corrupt { detail, .. } => detail,
                    other => other.to_string(),
                };
                recovery
                    .set_aside
                    .extend(set_aside(reader, files, &name, &reason));
            }
        }
    }
    for (id, envelope) in forwarded {
        if is_half_forwarded(reader, id, &envelope) {
            let path = reader.message_path(id);
            files
                .remove(&path)
                .map_err(|e| QueueError::io("remove", &path, e))?;
            recovery.withdrawn += 1;
        } else {
            place(reader, files, id, &envelope, &mut recovery)?;
        }
    }
    recovery.messages.sort_by_key(|message| message.id);
    Ok(recovery)
}

/// Whether the message it was forwarded from is still there and does not know of it: what is in the queue
/// comes to delivery only after it was recorded.
fn is_half_forwarded(reader: &Reader, id: QueueId, envelope: &Envelope) -> bool {
    let from = envelope.forwarded_from.as_ref();
    let Some(Ok(from)) = from.map(|from| from.parse::<QueueId>()) else {
        return false;
    };
    match reader.verify(from) {
        Ok((_, tail)) => !tail.envelope.has_forwarded(&id.to_string()),
        Err(_) => false,
    }
}

/// Gives each message of a batch a file of its own, then removes the batch, or sets it aside when it is damaged.
fn unpack(
    reader: &Reader,
    files: &dyn Files,
    path: &Path,
    recovery: &mut Recovery,
) -> Result<(), QueueError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let aside = set_aside(reader, files, &name, &error.to_string());
            recovery.set_aside.extend(aside);
            return Ok(());
        }
    };
    let parsed = batch::parse(&bytes);
    let mut damaged = parsed.damaged;
    for (id, message) in parsed.live {
        if batch::message(message).is_err() {
            damaged = true;
        } else if !reader.message_path(id).exists() {
            write_own(reader, files, id, message)?;
        }
    }
    sync_names(reader, files)?;
    if !damaged {
        return files
            .remove(path)
            .map_err(|e| QueueError::io("remove", path, e));
    }
    let reason = "a message in this batch is damaged; the sound ones were taken out";
    recovery
        .set_aside
        .extend(set_aside(reader, files, &name, reason));
    Ok(())
}

/// Writes a message file, durably but for its name.
pub(crate) fn write_own(
    reader: &Reader,
    files: &dyn Files,
    id: QueueId,
    message: &[u8],
) -> Result<(), QueueError> {
    let path = reader.incoming_path(id);
    let write = || -> io::Result<()> {
        let file = files.create(&path)?;
        files.write(&file, &mut [IoSlice::new(message)])?;
        files.sync(&file)?;
        files.rename(&path, &reader.message_path(id))
    };
    write().map_err(|error| {
        // The message is still in its batch.
        let _ = files.remove(&path);
        QueueError::io("write", &path, error)
    })
}

fn sync_names(reader: &Reader, files: &dyn Files) -> Result<(), QueueError> {
    let folder = reader.queue_folder();
    File::open(&folder)
        .and_then(|open| files.sync_folder(&open))
        .map_err(|e| QueueError::io("sync", &folder, e))
}

struct Checked {
    id: QueueId,
    envelope: Envelope,
    repaired: bool,
}

/// Verifies a message and cuts off a torn last update.
fn check(reader: &Reader, files: &dyn Files, id: QueueId) -> Result<Checked, QueueError> {
    let path = reader.message_path(id);
    let (start, tail) = reader.verify(id)?;
    let file = files
        .open_append(&path)
        .map_err(|e| QueueError::io("open", &path, e))?;
    let whole = start + tail.whole as u64;
    let length = file
        .metadata()
        .map_err(|e| QueueError::io("open", &path, e))?
        .len();
    if length > whole {
        file.set_len(whole)
            .map_err(|e| QueueError::io("truncate", &path, e))?;
    }
    Ok(Checked {
        id,
        envelope: tail.envelope,
        repaired: tail.skipped > 0 || length > whole,
    })
}

/// Notes a sound message, or removes it when nothing is left to do for it.
fn place(
    reader: &Reader,
    files: &dyn Files,
    id: QueueId,
    envelope: &Envelope,
    recovery: &mut Recovery,
) -> Result<(), QueueError> {
    let done = |state: &RecipientState| match state {
        RecipientState::Sent => true,
        RecipientState::Bounced { reported, .. } => *reported,
        _ => false,
    };
    if envelope
        .recipients
        .iter()
        .all(|recipient| done(&recipient.state))
    {
        let path = reader.message_path(id);
        files
            .remove(&path)
            .map_err(|e| QueueError::io("remove", &path, e))?;
        recovery.finished += 1;
        return Ok(());
    }
    recovery.messages.push(Recovered {
        id,
        arrival: envelope.arrival,
        next_attempt: envelope.next_attempt,
        hold: envelope.hold,
        null_sender: envelope.sender.is_empty(),
    });
    Ok(())
}

/// Moves a damaged file to `corrupt/` and says so. When even that fails, it stays and is reported again.
pub(crate) fn set_aside(
    reader: &Reader,
    files: &dyn Files,
    name: &str,
    reason: &str,
) -> Option<SetAside> {
    let from = reader.queue_folder().join(name);
    let path = reader.corrupt_folder().join(name);
    if let Err(error) = files.rename(&from, &path) {
        tracing::warn!(
            prog = "qmgr",
            "{name}: damaged ({reason}), and cannot be moved to {}: {error}",
            path.display()
        );
        return None;
    }
    tracing::warn!(
        prog = "qmgr",
        "{name}: damaged ({reason}): saved as {}",
        path.display()
    );
    Some(SetAside {
        name: name.to_owned(),
        path,
        reason: reason.to_owned(),
    })
}
