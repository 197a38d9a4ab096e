//! When which message is tried.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use queue::control::{self, Request, Response};
use queue::{Message, QueueError, QueueId, Recovery, Schedule, Spool};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::Shutdown;
use crate::attempt::{Attempt, Next};
use crate::generation::Current;

/// Starts attempts: at once for a message that has just come, later for one that was deferred.
#[derive(Clone)]
pub(crate) struct Scheduler(Arc<Inner>);

struct Inner {
    spool: Spool,
    current: Arc<Current>,
    waiting: Mutex<Schedule>,
    /// Being tried now.
    trying: Mutex<HashSet<QueueId>>,
    /// Found in the queue at start: an attempt may have been cut off.
    recovered: Mutex<HashSet<QueueId>>,
    /// `qmgr_message_active_limit`.
    room: Arc<Semaphore>,
    wake: Notify,
    stopping: AtomicBool,
    running: AtomicUsize,
    idle: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Scheduler {
    pub fn start(spool: Spool, current: Arc<Current>, shutdown: Shutdown) -> Scheduler {
        let room = current.get().active_limit.min(Semaphore::MAX_PERMITS);
        let scheduler = Scheduler(Arc::new(Inner {
            spool,
            current,
            waiting: Mutex::new(Schedule::new()),
            trying: Mutex::default(),
            recovered: Mutex::default(),
            room: Arc::new(Semaphore::new(room)),
            wake: Notify::new(),
            stopping: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            idle: Notify::new(),
        }));
        tokio::spawn(scheduler.clone().run(shutdown));
        scheduler
    }

    /// Takes up what was in the queue at start.
    pub fn recover(&self, recovery: Recovery) {
        let now = SystemTime::now();
        for message in recovery.messages.iter().filter(|message| !message.hold) {
            lock(&self.0.recovered).insert(message.id);
            lock(&self.0.waiting).insert(message.id, message.next_attempt.unwrap_or(now));
        }
        if !recovery.set_aside.is_empty() {
            tracing::warn!(
                prog = "qmgr",
                "{} damaged queue files were set aside, see above",
                recovery.set_aside.len()
            );
        }
        self.0.wake.notify_one();
    }

    /// A message that has just been committed: tried at once where there is room.
    pub fn accept(&self, message: Message) {
        if message.envelope.hold {
            return;
        }
        match Arc::clone(&self.0.room).try_acquire_owned() {
            Ok(permit) => self.try_now(message, true, permit),
            Err(_) => self.wait_until(message.id, SystemTime::now()),
        }
    }

    /// What a tool has changed in the queue.
    pub fn changed(&self, request: &Request, changed: &[QueueId]) {
        let now = SystemTime::now();
        for &id in changed {
            match request {
                Request::Hold { .. } | Request::Delete { .. } => {
                    lock(&self.0.waiting).remove(id);
                }
                _ if lock(&self.0.trying).contains(&id) => {}
                _ => lock(&self.0.waiting).insert(id, now),
            }
        }
        self.0.wake.notify_one();
    }

    /// Makes the messages due that have recipients at the domain (ETRN).
    pub async fn flush_site(&self, domain: &str) {
        let request = Request::FlushSite {
            site: domain.to_owned(),
        };
        if let Response::Done { changed } = control::apply(&self.0.spool, &request).await {
            self.changed(&request, &changed);
        }
    }

    /// Waits for the running attempts; none begins any more.
    pub async fn finish(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        loop {
            let idle = self.0.idle.notified();
            if self.0.running.load(Ordering::SeqCst) == 0 {
                break;
            }
            idle.await;
        }
        let agents = self.0.current.get().agents.clone();
        agents.close().await;
    }

    fn wait_until(&self, id: QueueId, at: SystemTime) {
        lock(&self.0.waiting).insert(id, at);
        self.0.wake.notify_one();
    }

    /// Starts what is due, until the shutdown.
    async fn run(self, mut shutdown: Shutdown) {
        loop {
            self.start_due().await;
            let next = lock(&self.0.waiting).next_wakeup();
            let pause = next.map_or(Duration::from_secs(3600), |at| {
                at.duration_since(SystemTime::now())
                    .unwrap_or(Duration::ZERO)
            });
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => {
                    self.0.stopping.store(true, Ordering::SeqCst);
                    return;
                }
                () = tokio::time::sleep(pause) => {}
                () = self.0.wake.notified() => {}
            }
        }
    }

    async fn start_due(&self) {
        while !self.0.stopping.load(Ordering::SeqCst) {
            if lock(&self.0.waiting)
                .next_wakeup()
                .is_none_or(|at| at > SystemTime::now())
            {
                return;
            }
            let Ok(permit) = Arc::clone(&self.0.room).acquire_owned().await else {
                return;
            };
            let Some(id) = lock(&self.0.waiting).due(SystemTime::now(), 1).pop() else {
                return;
            };
            match self.0.spool.load(id).await {
                Ok(message) if message.envelope.hold => {}
                Ok(message) => self.try_now(message, false, permit),
                // Deleted meanwhile.
                Err(QueueError::NotFound(_)) => {}
                Err(error @ QueueError::Corrupt { .. }) => {
                    tracing::error!(prog = "qmgr", "{error}");
                }
                Err(error) => {
                    tracing::warn!(prog = "qmgr", "{id}: {error}");
                    let pause = self.0.current.get().schedule.minimal_backoff;
                    lock(&self.0.waiting).insert(id, SystemTime::now() + pause);
                }
            }
        }
    }

    fn try_now(&self, message: Message, fresh: bool, permit: OwnedSemaphorePermit) {
        let id = message.id;
        if self.0.stopping.load(Ordering::SeqCst) || !lock(&self.0.trying).insert(id) {
            return;
        }
        let recovered = !fresh && lock(&self.0.recovered).remove(&id);
        let scheduler = self.clone();
        self.0.running.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let running = Running(scheduler.clone(), id);
            let attempt = Attempt {
                spool: &scheduler.0.spool,
                generation: scheduler.0.current.get(),
                scheduler: &scheduler,
                fresh,
                recovered,
            };
            let next = attempt.run(message).await;
            drop(running);
            if let Next::At(time) = next {
                scheduler.wait_until(id, time);
            }
            drop(permit);
        });
    }
}

/// Counts an attempt out, however it ends.
struct Running(Scheduler, QueueId);

impl Drop for Running {
    fn drop(&mut self) {
        let Running(Scheduler(inner), id) = self;
        lock(&inner.trying).remove(id);
        if inner.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            inner.idle.notify_waiters();
        }
    }
}
