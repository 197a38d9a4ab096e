//! Lookups that come while a few others are with the server wait for those, and go there together: one packet to the
//! server and one back cost it, and us, far less than one for each. Who leads asks for those that wait; the next leader is
//! one of those that came meanwhile, so nothing runs but lookups.
//!
//! It is worth it while statements are quick. A slow one would hold up its company, so with a slow server, and after an
//! exchange that broke, each goes alone for a while.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::rows::Rows;
use super::template::Query;

/// Exchanges at the same time. Whoever comes then waits.
const LEADERS: usize = 2;
/// Lookups in one exchange.
const MOST: usize = 32;
/// How long a lookup waits to be taken along, and then for its answer, before it goes alone.
const TO_BE_TAKEN: Duration = Duration::from_millis(5);
const FOR_THE_ANSWER: Duration = Duration::from_millis(100);
/// A statement that takes longer is slow, and how long that is remembered.
const SLOW: Duration = Duration::from_millis(2);
const SLOW_FOR: Duration = Duration::from_secs(1);
/// A server, or a proxy before it, that broke off may not take several statements at once.
const BROKEN_FOR: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Gathering {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leaders: usize,
    waiting: VecDeque<Waiting>,
    next: u64,
    alone_until: Option<Instant>,
}

/// A lookup that waits to be taken along.
pub(super) struct Waiting {
    number: u64,
    pub query: Arc<Query>,
    pub key: Box<str>,
    pub require_result_set: bool,
    turn: oneshot::Sender<Turn>,
}

impl Waiting {
    /// The lookup may have given up meanwhile.
    pub fn answer(self, rows: Rows) {
        let _ = self.turn.send(Turn::Answered(rows));
    }
}

enum Turn {
    Answered(Rows),
    Lead(Lead),
}

/// What a lookup is to do.
pub(super) enum Part {
    /// Ask, for those that wait as well.
    Lead(Lead),
    /// Somebody else has asked.
    Answered(Rows),
    /// Ask for itself.
    Alone,
}

/// The right to lead, passed on when it is dropped.
pub(super) struct Lead {
    gathering: Arc<Gathering>,
    /// Somebody else has it now.
    passed_on: bool,
}

impl Gathering {
    /// Which part the lookup has. Waits, but not for long.
    pub async fn join(
        self: &Arc<Self>,
        query: &Arc<Query>,
        key: &str,
        require_result_set: bool,
    ) -> Part {
        let (number, mut turn) = {
            let mut state = self.lock();
            if state
                .alone_until
                .is_some_and(|until| Instant::now() < until)
            {
                return Part::Alone;
            }
            if state.leaders < LEADERS {
                state.leaders += 1;
                return Part::Lead(Lead::of(self));
            }
            let (sender, turn) = oneshot::channel();
            let number = state.next;
            state.next += 1;
            state.waiting.push_back(Waiting {
                number,
                query: Arc::clone(query),
                key: key.into(),
                require_result_set,
                turn: sender,
            });
            (number, turn)
        };
        let mut turned = timeout(TO_BE_TAKEN, &mut turn).await;
        if turned.is_err() && !self.leave(number) {
            turned = timeout(FOR_THE_ANSWER, &mut turn).await;
        }
        match turned {
            Ok(Ok(Turn::Answered(rows))) => Part::Answered(rows),
            Ok(Ok(Turn::Lead(lead))) => Part::Lead(lead),
            Ok(Err(_)) | Err(_) => Part::Alone,
        }
    }

    /// Takes the lookup out of the line; `false`: it is not there any more.
    fn leave(&self, number: u64) -> bool {
        let mut state = self.lock();
        let before = state.waiting.len();
        state.waiting.retain(|waiting| waiting.number != number);
        state.waiting.len() < before
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    fn of(gathering: &Arc<Gathering>) -> Lead {
        Lead {
            gathering: Arc::clone(gathering),
            passed_on: false,
        }
    }

    /// Those that the leader asks for.
    pub fn company(&self) -> Vec<Waiting> {
        let mut state = self.gathering.lock();
        let count = state.waiting.len().min(MOST - 1);
        let taken = state.waiting.drain(..count);
        taken.filter(|waiting| !waiting.turn.is_closed()).collect()
    }

    /// The exchange for so many lookups took this long.
    pub fn took(&self, time: Duration, lookups: usize) {
        if time > SLOW * u32::try_from(lookups).unwrap_or(u32::MAX) {
            self.alone_for(SLOW_FOR);
        }
    }

    /// The exchange came to nothing.
    pub fn broke(&self, lookups: usize) {
        if lookups > 1 {
            self.alone_for(BROKEN_FOR);
        }
    }

    fn alone_for(&self, time: Duration) {
        self.gathering.lock().alone_until = Some(Instant::now() + time);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        while !self.passed_on {
            let next = {
                let mut state = self.gathering.lock();
                let next = state.waiting.pop_front();
                if next.is_none() {
                    state.leaders -= 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.turn.send(Turn::Lead(Lead::of(&self.gathering))) {
                Ok(()) => self.passed_on = true,
                // It has given up meanwhile; the right is still ours to pass on.
                Err(Turn::Lead(mut lead)) => lead.passed_on = true,
                Err(Turn::Answered(_)) => {}
            }
        }
    }
}
