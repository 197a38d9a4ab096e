//! Lookups of one key that are under way at the same time share one query.
//!
//! The first to come asks. When it is cancelled before it has the answer, the next in the queue
//! asks in its place, so that nobody waits for an answer that will not come.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Semaphore;

use crate::Answer;

/// The queries that are under way, by key.
#[derive(Default)]
pub(super) struct Flights {
    running: Mutex<Running>,
}

type Running = HashMap<Box<str>, Arc<Flight>>;

/// One query.
struct Flight {
    /// One permit: whoever holds it asks. Closed once there is an answer.
    turn: Semaphore,
    answer: OnceLock<Answer>,
    /// Lookups that ask or wait; changed under the lock of the list.
    seats: AtomicUsize,
}

/// A lookup's part in a flight.
struct Seat<'a> {
    flights: &'a Flights,
    key: &'a str,
    flight: Arc<Flight>,
}

impl Flights {
    /// The answer, and whether it is that of another lookup. `query` runs only if it is not.
    pub async fn share(&self, key: &str, query: impl Future<Output = Answer>) -> (Answer, bool) {
        let seat = self.board(key);
        let turn = seat.flight.turn.acquire().await;
        if let Some(answer) = seat.flight.answer.get() {
            return (answer.clone(), true);
        }
        let answer = query.await;
        seat.land(&answer);
        drop(turn);
        (answer, false)
    }

    fn board<'a>(&'a self, key: &'a str) -> Seat<'a> {
        let mut running = self.lock();
        let flight = match running.get(key) {
            Some(flight) => Arc::clone(flight),
            None => {
                let flight = Arc::new(Flight {
                    turn: Semaphore::new(1),
                    answer: OnceLock::new(),
                    seats: AtomicUsize::new(0),
                });
                running.insert(key.into(), Arc::clone(&flight));
                flight
            }
        };
        flight.seats.fetch_add(1, Ordering::Relaxed);
        Seat {
            flights: self,
            key,
            flight,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat<'_> {
    /// Nobody comes aboard any more: a later lookup asks anew. Those who wait have their answer.
    fn land(&self, answer: &Answer) {
        self.take_off_list(&mut self.flights.lock());
        if self.flight.seats.load(Ordering::Relaxed) > 1 {
            // Set once: only who holds the turn lands, and nobody gets it any more.
            let _ = self.flight.answer.set(answer.clone());
        }
        self.flight.turn.close();
    }

    /// The list may have a later flight for the key by now.
    fn take_off_list(&self, running: &mut Running) {
        let ours = |flight: &Arc<Flight>| Arc::ptr_eq(flight, &self.flight);
        if running.get(self.key).is_some_and(ours) {
            running.remove(self.key);
        }
    }
}

impl Drop for Seat<'_> {
    /// The last to leave takes the flight off the list: nobody is left who would ask.
    fn drop(&mut self) {
        let mut running = self.flights.lock();
        if self.flight.seats.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.take_off_list(&mut running);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, TableError};
    use std::sync::atomic::AtomicU64;
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    /// A query that counts its runs and answers when told to.
    #[derive(Default)]
    struct Query {
        flights: Flights,
        runs: AtomicU64,
        go: Notify,
    }

    fn start(query: &Arc<Query>, answer: Answer) -> JoinHandle<(Answer, bool)> {
        let query = Arc::clone(query);
        tokio::spawn(async move {
            let asking = async {
                query.runs.fetch_add(1, Ordering::Relaxed);
                query.go.notified().await;
                answer
            };
            query.flights.share("key", asking).await
        })
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    fn runs(query: &Query) -> u64 {
        query.runs.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn those_who_come_meanwhile_share_the_query_and_later_ones_ask_anew() {
        let query = Arc::new(Query::default());
        let first = start(&query, Ok(Some("one".to_string())));
        settle().await;
        let others: Vec<_> = (0..5).map(|_| start(&query, Ok(None))).collect();
        settle().await;
        query.go.notify_one();
        let one = Ok(Some("one".to_string()));
        assert_eq!(first.await.expect("no panic"), (one.clone(), false));
        for other in others {
            assert_eq!(other.await.expect("no panic"), (one.clone(), true));
        }
        assert_eq!(runs(&query), 1);
        query.go.notify_one();
        let later = start(&query, Ok(None)).await.expect("no panic");
        assert_eq!((later, runs(&query)), ((Ok(None), false), 2));
        assert!(query.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_lookup_leaves_nobody_waiting() {
        let query = Arc::new(Query::default());
        let first = start(&query, Ok(Some("never".to_string())));
        settle().await;
        let second = start(&query, Ok(Some("second".to_string())));
        settle().await;
        let third = start(&query, Ok(None));
        settle().await;
        first.abort();
        settle().await;
        assert_eq!(runs(&query), 2, "the second asks in the place of the first");
        query.go.notify_one();
        let answer = Ok(Some("second".to_string()));
        assert_eq!(second.await.expect("no panic"), (answer.clone(), false));
        assert_eq!(third.await.expect("no panic"), (answer, true));
        assert_eq!(runs(&query), 2);
        assert!(query.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn nothing_stays_behind_when_all_are_cancelled() {
        let query = Arc::new(Query::default());
        let all: Vec<_> = (0..3).map(|_| start(&query, Ok(None))).collect();
        settle().await;
        assert_eq!(query.flights.lock().len(), 1);
        for one in &all {
            one.abort();
        }
        settle().await;
        assert!(query.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_shared_but_not_kept() {
        let query = Arc::new(Query::default());
        let failure = Err(TableError::new(ErrorKind::Environment, "t:x", "down"));
        let first = start(&query, failure.clone());
        settle().await;
        let second = start(&query, Ok(None));
        settle().await;
        query.go.notify_one();
        assert_eq!(first.await.expect("no panic"), (failure.clone(), false));
        assert_eq!(second.await.expect("no panic"), (failure, true));
        query.go.notify_one();
        let later = start(&query, Ok(None)).await.expect("no panic");
        assert_eq!(later, (Ok(None), false));
    }
}
