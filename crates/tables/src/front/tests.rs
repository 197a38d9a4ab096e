//! The front as a whole: what the cache spares, what it must not, and what an outage shows.

use std::sync::Mutex;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;
use crate::statistics::TableStatistics;

const SECOND: Duration = Duration::from_secs(1);

fn front(ttl: u32, negative_ttl: u32, stale_ttl: u32) -> Front {
    let settings = Settings {
        ttl: ttl * SECOND,
        negative_ttl: negative_ttl * SECOND,
        stale_ttl: stale_ttl * SECOND,
        size: 100_000,
    };
    Front::new("mysql:x", settings, Sharing::Yes, Arc::default())
}

fn found(value: &str) -> Answer {
    Ok(Some(value.to_string()))
}

fn down() -> Answer {
    Err(TableError::new(ErrorKind::Environment, "mysql:x", "down"))
}

fn rejected() -> Answer {
    Err(TableError::new(ErrorKind::Rejected, "mysql:x", "syntax"))
}

fn counts(front: &Front) -> TableStatistics {
    front.counters.read("mysql:x")
}

#[tokio::test(start_paused = true)]
async fn the_database_is_asked_once_in_a_while() {
    let front = front(60, 10, 0);
    assert_eq!(front.answer("key", async { found("a") }).await, found("a"));
    assert_eq!(front.answer("none", async { Ok(None) }).await, Ok(None));
    tokio::time::advance(9 * SECOND).await;
    assert_eq!(front.answer("key", async { found("b") }).await, found("a"));
    assert_eq!(front.answer("none", async { found("b") }).await, Ok(None));
    tokio::time::advance(SECOND).await;
    assert_eq!(front.answer("none", async { found("b") }).await, found("b"));
    tokio::time::advance(50 * SECOND).await;
    assert_eq!(front.answer("key", async { Ok(None) }).await, Ok(None));
    let counts = counts(&front);
    assert_eq!((counts.cache_hits, counts.cache_misses), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_as_old_as_its_query() {
    let front = front(60, 60, 0);
    let slow = async {
        tokio::time::sleep(30 * SECOND).await;
        found("old")
    };
    assert_eq!(front.answer("key", slow).await, found("old"));
    tokio::time::advance(31 * SECOND).await;
    assert_eq!(
        front.answer("key", async { found("new") }).await,
        found("new")
    );
}

#[tokio::test]
async fn without_a_ttl_nothing_is_remembered() {
    let front = front(0, 60, 0);
    assert!(front.cache.is_none());
    assert_eq!(front.answer("key", async { found("a") }).await, found("a"));
    assert_eq!(front.answer("key", async { found("b") }).await, found("b"));
    let counts = counts(&front);
    assert_eq!((counts.cache_hits, counts.cache_misses), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn failures_are_never_remembered() {
    let front = front(60, 60, 60);
    assert_eq!(front.answer("key", async { down() }).await, down());
    assert_eq!(front.answer("key", async { rejected() }).await, rejected());
    assert_eq!(front.answer("key", async { found("a") }).await, found("a"));
}

#[tokio::test(start_paused = true)]
async fn old_answers_stand_in_while_the_database_is_down_and_no_longer_than_allowed() {
    // Without a ttl the cache serves outages alone.
    for ttl in [0, 10] {
        let front = front(ttl, ttl, 600);
        assert_eq!(front.answer("key", async { found("a") }).await, found("a"));
        assert_eq!(front.answer("none", async { Ok(None) }).await, Ok(None));
        tokio::time::advance(300 * SECOND).await;
        assert_eq!(front.answer("key", async { down() }).await, found("a"));
        assert_eq!(front.answer("none", async { down() }).await, Ok(None));
        assert_eq!(front.answer("other", async { down() }).await, down());
        // The database is up, and says that this statement is wrong.
        assert_eq!(front.answer("key", async { rejected() }).await, rejected());
        tokio::time::advance(300 * SECOND).await;
        assert_eq!(front.answer("key", async { down() }).await, down());
        assert_eq!(counts(&front).stale, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_logged_once() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let front = front(0, 0, 600);
    for outage in 1..=2 {
        let known = ["a", "b", "c"];
        for key in known {
            assert!(front.answer(key, async { found("v") }).await.is_ok());
        }
        for key in known.iter().cycle().take(30) {
            assert_eq!(front.answer(key, async { down() }).await, found("v"));
        }
        let lines = log.lines.lock().expect("no panic").clone();
        let stale = lines.iter().filter(|line| line.contains("stale"));
        assert_eq!(stale.count(), outage, "{lines:?}");
    }
    let lines = log.lines.lock().expect("no panic").clone();
    let back = lines.iter().filter(|line| line.contains("answers again"));
    assert_eq!(back.count(), 1, "{lines:?}");
}

/// Keeps the messages of this thread's events.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Subscriber for Log {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.lines.lock().expect("no panic").push(message.0);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}
