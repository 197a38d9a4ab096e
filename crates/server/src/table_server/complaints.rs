//! Warnings that a client or a database can cause at any rate: one a second is written, the others
//! are counted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// The last warning's time, and how many were left out since.
#[derive(Default)]
pub(crate) struct Complaints {
    state: Mutex<(Option<Instant>, u64)>,
}

impl Complaints {
    pub fn warn(&self, text: String) {
        let left_out = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.0.is_some_and(|last| last.elapsed() < INTERVAL) {
                state.1 += 1;
                return;
            }
            state.0 = Some(Instant::now());
            std::mem::take(&mut state.1)
        };
        match left_out {
            0 => tracing::warn!(prog = "tables", "{text}"),
            some => tracing::warn!(
                prog = "tables",
                "{text} ({some} more warnings were left out)"
            ),
        }
    }
}
