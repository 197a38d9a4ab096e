//! When which message is due. In memory; time is an argument.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use crate::id::QueueId;

/// The times of qmgr(8), with its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// `minimal_backoff_time`
    pub minimal_backoff: Duration,
    /// `maximal_backoff_time`
    pub maximal_backoff: Duration,
    /// `maximal_queue_lifetime`
    pub queue_lifetime: Duration,
    /// `bounce_queue_lifetime`: for messages from `<>`
    pub bounce_lifetime: Duration,
    /// `delay_warning_time`; `None`: the sender is not told of delays.
    pub delay_warning: Option<Duration>,
}

impl Default for ScheduleSettings {
    fn default() -> ScheduleSettings {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        ScheduleSettings {
            minimal_backoff: Duration::from_secs(300),
            maximal_backoff: Duration::from_secs(4000),
            queue_lifetime: days(5),
            bounce_lifetime: days(5),
            delay_warning: None,
        }
    }
}

impl ScheduleSettings {
    /// When a message that was deferred at `now` is tried next: after as long as it is old, within the
    /// two back-off times.
    pub fn next_attempt(&self, arrival: SystemTime, now: SystemTime) -> SystemTime {
        let age = now.duration_since(arrival).unwrap_or_default();
        now + age.min(self.maximal_backoff).max(self.minimal_backoff)
    }

    /// Whether the message has waited so long that its deferred recipients bounce.
    pub fn is_expired(&self, arrival: SystemTime, null_sender: bool, now: SystemTime) -> bool {
        let lifetime = match null_sender {
            true => self.bounce_lifetime,
            false => self.queue_lifetime,
        };
        now.duration_since(arrival).unwrap_or_default() >= lifetime
    }

    /// Whether the sender should be told of the delay, unless that was done.
    pub fn warns_of_delay(&self, arrival: SystemTime, now: SystemTime) -> bool {
        let age = now.duration_since(arrival).unwrap_or_default();
        self.delay_warning.is_some_and(|after| age >= after)
    }
}

/// Waiting messages by the time they are due. A message taken out by [`Schedule::due`] is not in the schedule until
/// it is put in again.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    by_time: BTreeSet<(SystemTime, QueueId)>,
    by_id: HashMap<QueueId, SystemTime>,
}

impl Schedule {
    /// An empty schedule.
    pub fn new() -> Schedule {
        Schedule::default()
    }

    /// The message is due at `at`, and at no other time.
    pub fn insert(&mut self, id: QueueId, at: SystemTime) {
        self.remove(id);
        self.by_id.insert(id, at);
        self.by_time.insert((at, id));
    }

    /// The message is not waited for any more. Whether it was.
    pub fn remove(&mut self, id: QueueId) -> bool {
        match self.by_id.remove(&id) {
            Some(at) => self.by_time.remove(&(at, id)),
            None => false,
        }
    }

    /// Takes out up to `most` messages that are due at `now`, those due longest first.
    pub fn due(&mut self, now: SystemTime, most: usize) -> Vec<QueueId> {
        let ids: Vec<QueueId> = self
            .by_time
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(most)
            .map(|(_, id)| *id)
            .collect();
        for id in &ids {
            self.remove(*id);
        }
        ids
    }

    /// When the next message is due.
    pub fn next_wakeup(&self) -> Option<SystemTime> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Makes all waiting messages due at `now`; answers how many there are.
    pub fn flush(&mut self, now: SystemTime) -> usize {
        let waiting: Vec<QueueId> = self.by_id.keys().copied().collect();
        for id in &waiting {
            self.flush_one(*id, now);
        }
        waiting.len()
    }

    /// Makes one message due at `now`. Whether it was waiting.
    pub fn flush_one(&mut self, id: QueueId, now: SystemTime) -> bool {
        match self.by_id.get(&id) {
            Some(at) if *at > now => {
                self.insert(id, now);
                true
            }
            at => at.is_some(),
        }
    }

    /// Whether the message is waiting.
    pub fn contains(&self, id: QueueId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
