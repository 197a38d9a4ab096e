//! What can go wrong with the spool, by who must act.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::QueueId;

/// An operation on the spool that did not happen. Nothing is half-done behind it.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The file system has no room (or less than `Options::min_free`). The server answers `452 4.3.1`.
    #[error("{path}: {detail}: free some space on that file system", path = .path.display())]
    Full { path: PathBuf, detail: String },
    /// The operating system refused something else. The server answers `451 4.3.0`.
    #[error("{action} {path}: {source}", path = .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A message's records fail their checksums; recovery sets such a file aside in `corrupt/`.
    #[error("{path}: {detail}", path = .path.display())]
    Corrupt { path: PathBuf, detail: String },
    /// No such message (any more).
    #[error("{0}: no such message in the queue")]
    NotFound(QueueId),
    /// Another process owns this spool.
    #[error("{path}: the spool is in use by another server: stop it first", path = .path.display())]
    Locked { path: PathBuf },
    /// The text is not a queue id.
    #[error("invalid mail queue id: {0:?}")]
    BadId(String),
    /// The running server could not be asked, or refused (`control`).
    #[error("{0}")]
    Control(String),
}

impl QueueError {
    /// The error for a failed file operation: no space and exceeded quotas are [`QueueError::Full`].
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> QueueError {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => QueueError::Full {
                path,
                detail: format!("{action}: {source}"),
            },
            _ => QueueError::Io {
                action,
                path,
                source,
            },
        }
    }

    /// Whether the remedy is room on the disk.
    pub fn is_full(&self) -> bool {
        matches!(self, QueueError::Full { .. })
    }
}
