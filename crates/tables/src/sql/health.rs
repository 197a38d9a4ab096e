//! Which hosts of a list are up, as far as is known, and in which order they are tried.
//!
//! A host is down when no connection to it can be made. It is left out for `retry_interval`; then one
//! lookup tries it while the others go on without. When that leaves no host, all are tried again,
//! at most once a second. A statement that fails says nothing about the host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The pause between attempts when no host is up.
const ALL_DOWN_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Health {
    retry_interval: Duration,
    hosts: Mutex<Vec<Host>>,
    /// Some host may be down; while none is, nobody needs the lock to say that one is up.
    troubled: AtomicBool,
}

struct Host {
    /// Local sockets come before addresses.
    is_socket: bool,
    /// When the last attempt failed, or the one that is under way began.
    failed: Option<Instant>,
}

impl Host {
    fn has_rested(&self, pause: Duration, now: Instant) -> bool {
        self.failed
            .is_none_or(|failed| now.saturating_duration_since(failed) >= pause)
    }
}

impl Health {
    /// `sockets`: host by host, whether it is a local socket.
    pub fn new(sockets: impl Iterator<Item = bool>, retry_interval: Duration) -> Health {
        let hosts = sockets.map(|is_socket| Host {
            is_socket,
            failed: None,
        });
        Health {
            retry_interval,
            hosts: Mutex::new(hosts.collect()),
            troubled: AtomicBool::new(false),
        }
    }

    /// The host gave a connection, or an answer over one that there was.
    pub fn good(&self, host: usize) {
        if !self.troubled.load(Ordering::Relaxed) {
            return;
        }
        let mut hosts = self.lock();
        hosts[host].failed = None;
        let troubled = hosts.iter().any(|host| host.failed.is_some());
        self.troubled.store(troubled, Ordering::Relaxed);
    }

    pub fn bad(&self, host: usize, now: Instant) {
        let mut hosts = self.lock();
        hosts[host].failed = Some(now);
        self.troubled.store(true, Ordering::Relaxed);
    }

    /// A host that was down and has rested long enough, when there is another one that is up. It is
    /// the caller's to try: nobody else gets it for the next `retry_interval`.
    pub fn due(&self, now: Instant) -> Option<usize> {
        let mut hosts = self.lock();
        if hosts.iter().all(|host| host.failed.is_some()) {
            return None;
        }
        let due = hosts
            .iter()
            .position(|host| host.failed.is_some() && host.has_rested(self.retry_interval, now))?;
        hosts[due].failed = Some(now);
        Some(due)
    }

    /// The hosts to try, in this order.
    pub fn candidates(&self, now: Instant) -> Vec<usize> {
        let hosts = self.lock();
        let rested = |pause: Duration| -> Vec<usize> {
            let mut found: Vec<usize> = (0..hosts.len()).collect();
            found.retain(|&host| hosts[host].has_rested(pause, now));
            fastrand::shuffle(&mut found);
            found.sort_by_key(|&host| !hosts[host].is_socket);
            found
        };
        match rested(self.retry_interval) {
            none if none.is_empty() => rested(ALL_DOWN_PAUSE.min(self.retry_interval)),
            some => some,
        }
    }

    /// Of these hosts, the one to use: any of them, but a local socket rather than an address.
    pub fn prefer(&self, among: &[usize]) -> Option<usize> {
        let hosts = self.lock();
        let sockets: Vec<usize> = among
            .iter()
            .copied()
            .filter(|&host| hosts[host].is_socket)
            .collect();
        fastrand::choice(if sockets.is_empty() { among } else { &sockets }).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn health(sockets: &[bool]) -> Health {
        Health::new(sockets.iter().copied(), 60 * SECOND)
    }

    #[test]
    fn sockets_come_first_and_each_kind_in_any_order() {
        let health = health(&[false, true, false, true]);
        let now = Instant::now();
        let mut first = [0; 4];
        for _ in 0..200 {
            let mut order = health.candidates(now);
            first[order[0]] += 1;
            order[..2].sort();
            order[2..].sort();
            assert_eq!(order, [1, 3, 0, 2]);
        }
        assert!(first[1] > 0 && first[3] > 0, "{first:?}");
        assert_eq!(health.prefer(&[0, 3]), Some(3));
        assert_eq!(health.prefer(&[2]), Some(2));
    }

    #[test]
    fn a_host_that_is_down_is_left_out_and_then_tried_by_one() {
        let health = health(&[false, false]);
        let start = Instant::now();
        health.bad(0, start);
        let later = start + 59 * SECOND;
        assert_eq!(
            (health.candidates(later), health.due(later)),
            (vec![1], None)
        );
        let rested = start + 60 * SECOND;
        assert_eq!(health.due(rested), Some(0));
        assert_eq!(health.due(rested), None, "one tries it");
        assert_eq!(health.candidates(rested), [1]);
        health.good(0);
        assert_eq!(health.candidates(rested).len(), 2);
    }

    #[test]
    fn when_all_are_down_all_are_tried_once_a_second() {
        let health = health(&[false, false]);
        let start = Instant::now();
        health.bad(0, start);
        health.bad(1, start + SECOND / 2);
        assert!(health.candidates(start + SECOND / 2).is_empty());
        assert_eq!(health.candidates(start + SECOND), [0]);
        assert_eq!(health.candidates(start + 2 * SECOND).len(), 2);
        assert_eq!(health.due(start + 70 * SECOND), None, "there is no other");
    }

    #[test]
    fn an_answer_over_an_old_connection_shows_that_a_host_is_up() {
        let health = health(&[false, false]);
        let start = Instant::now();
        health.bad(0, start);
        health.bad(1, start);
        let rested = start + 60 * SECOND;
        assert_eq!(
            health.due(rested),
            None,
            "nobody else would answer meanwhile"
        );
        health.good(1);
        assert_eq!(health.due(rested), Some(0));
    }
}
