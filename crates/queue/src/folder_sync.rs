//! One sync of a folder for all who wait for it.

use std::fs::File;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

/// Callers that arrive while a sync runs share the next one.
pub(crate) struct FolderSync {
    folder: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: bool,
    /// Syncs begun so far; the next one has this number.
    begun: u64,
    /// All syncs with smaller numbers have ended.
    ended: u64,
    /// Numbers and errors of the failed ones that somebody may still wait for.
    failed: Vec<(u64, io::ErrorKind)>,
}

impl FolderSync {
    pub(crate) fn new(folder: File) -> FolderSync {
        FolderSync {
            folder,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Returns when a sync that began after this call has ended.
    pub(crate) fn sync(&self, sync: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = state.begun;
        while state.ended <= wanted {
            if state.running {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            let number = state.begun;
            state.begun += 1;
            drop(state);
            let result = sync(&self.folder);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            state.ended = number + 1;
            state.failed.retain(|(failed, _)| failed + 2 > number);
            if let Err(error) = result {
                state.failed.push((number, error.kind()));
            }
            self.changed.notify_all();
        }
        match state.failed.iter().find(|(number, _)| *number == wanted) {
            Some((_, kind)) => Err((*kind).into()),
            None => Ok(()),
        }
    }
}
