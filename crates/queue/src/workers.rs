//! The threads that do the spool's blocking file work, so that the asynchronous ones never wait for a disk.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A few threads with one line of jobs before them. They end when the last handle is dropped.
pub(crate) struct Workers {
    line: Arc<Line>,
}

struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    closed: bool,
}

impl Workers {
    /// `threads` are started one by one, when jobs arrive and no thread is idle.
    pub(crate) fn new(threads: usize) -> Arc<Workers> {
        let line = Arc::new(Line {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        for number in 0..threads.max(1) {
            let line = Arc::clone(&line);
            // A system that cannot start a thread at all cannot run a server.
            let _ = std::thread::Builder::new()
                .name(format!("spool-{number}"))
                .spawn(move || line.work());
        }
        Arc::new(Workers { line })
    }

    /// Runs `job` on a worker; `None` when it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (send, receive) = oneshot::channel();
        self.start(move || {
            // The asker may have gone away.
            let _ = send.send(job());
        });
        receive.await.ok()
    }

    /// Runs `job` on a worker some time soon.
    pub(crate) fn start(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self
            .line
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.jobs.push_back(Box::new(job));
        let wake = state.idle > 0;
        drop(state);
        if wake {
            self.line.changed.notify_one();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self
            .line
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        drop(state);
        self.line.changed.notify_all();
    }
}

impl Line {
    fn work(&self) {
        while let Some(job) = self.next() {
            // A panic in one job must not take the thread from the others.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
        }
    }

    /// Waits for a job; after the close, those that are left are still done.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}
