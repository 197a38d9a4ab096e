//! Answers of one table, remembered for a while. Off unless the configuration asks for it.
//! The time is an argument.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::Config;
use hashlink::LruCache;
use tokio::time::Instant;

use crate::error::TableError;
use crate::parameters::Parameters;

/// What an entry takes beside the bytes of key and value: the links, the hash table, the allocator.
const ENTRY_BYTES: usize = 160;

/// How long answers count, and how much of them is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// For a value; zero: the cache is off.
    pub ttl: Duration,
    /// For "not found"; never longer than `ttl`.
    pub negative_ttl: Duration,
    /// While the database is down, for both; zero: never.
    pub stale_ttl: Duration,
    /// In bytes.
    pub size: usize,
}

impl Settings {
    /// As main.cf has it; what the table's own settings say under the same names wins.
    pub fn read(
        table: &str,
        config: &Config,
        parameters: Option<&Parameters>,
    ) -> Result<Settings, TableError> {
        let wrong = |error: config::ConfigError| TableError::operator(table, error.postfix_text());
        let time = |name: &str| {
            let own = parameters.map(|own| own.time(name)).transpose()?.flatten();
            own.map_or_else(|| config.time(name).map_err(wrong), Ok)
        };
        let bytes = |name: &str| {
            let own = parameters.map(|own| own.whole(name)).transpose()?.flatten();
            let bytes = own.map_or_else(|| config.int(name).map_err(wrong), Ok)?;
            Ok(usize::try_from(bytes).unwrap_or(0))
        };
        let ttl = time("postroom_table_cache_ttl")?;
        Ok(Settings {
            ttl,
            negative_ttl: time("postroom_table_cache_negative_ttl")?.min(ttl),
            stale_ttl: time("postroom_table_stale_ttl")?,
            size: bytes("postroom_table_cache_size")?,
        })
    }

    /// Whether answers are used while the database is up.
    pub fn is_on(&self) -> bool {
        !self.ttl.is_zero() && self.size > 0
    }

    /// Whether answers are kept at all, be it for an outage only.
    pub fn keeps_answers(&self) -> bool {
        self.is_on() || !self.stale_ttl.is_zero() && self.size > 0
    }
}

/// The answers. When they take more than `size` bytes, those go that were not asked for the longest.
pub(super) struct Cache {
    settings: Settings,
    entries: Mutex<Entries>,
}

struct Entries {
    by_key: LruCache<Box<str>, Entry>,
    bytes: usize,
}

struct Entry {
    value: Option<Box<str>>,
    learned: Instant,
}

impl Cache {
    pub fn new(settings: Settings) -> Cache {
        let entries = Entries {
            by_key: LruCache::new_unbounded(),
            bytes: 0,
        };
        Cache {
            settings,
            entries: Mutex::new(entries),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is known of the key, if that is still young enough.
    pub fn fresh(&self, key: &str, now: Instant) -> Option<Option<String>> {
        self.get(key, now, |value| match value {
            Some(_) => self.settings.ttl,
            None => self.settings.negative_ttl,
        })
    }

    /// What is known of the key, if it may be used while the database is down.
    pub fn stale(&self, key: &str, now: Instant) -> Option<Option<String>> {
        self.get(key, now, |_| self.settings.stale_ttl)
    }

    fn get(
        &self,
        key: &str,
        now: Instant,
        limit: impl Fn(Option<&str>) -> Duration,
    ) -> Option<Option<String>> {
        let mut entries = self.lock();
        let entry = entries.by_key.get(key)?;
        let value = entry.value.as_deref();
        let age = now.saturating_duration_since(entry.learned);
        (age < limit(value)).then(|| value.map(str::to_string))
    }

    /// Remembers an answer that was true at `learned`.
    pub fn put(&self, key: &str, value: Option<&str>, learned: Instant) {
        let bytes = bytes(key, value);
        let mut entries = self.lock();
        if let Some(old) = entries.by_key.remove(key) {
            entries.bytes -= self::bytes(key, old.value.as_deref());
        }
        if bytes > self.settings.size {
            return;
        }
        while entries.bytes + bytes > self.settings.size {
            let Some((key, old)) = entries.by_key.remove_lru() else {
                break;
            };
            entries.bytes -= self::bytes(&key, old.value.as_deref());
        }
        entries.bytes += bytes;
        let value = value.map(Into::into);
        entries.by_key.insert(key.into(), Entry { value, learned });
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes(key: &str, value: Option<&str>) -> usize {
    key.len() + value.map_or(0, str::len) + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache(size: usize) -> Cache {
        Cache::new(Settings {
            ttl: 60 * SECOND,
            negative_ttl: 10 * SECOND,
            stale_ttl: 600 * SECOND,
            size,
        })
    }

    #[test]
    fn answers_count_for_their_time() {
        let cache = cache(10_000);
        let start = Instant::now();
        cache.put("here", Some("value"), start);
        cache.put("gone", None, start);
        for (seconds, here, gone) in [
            (0, Some(Some("value")), Some(None)),
            (9, Some(Some("value")), Some(None)),
            (10, Some(Some("value")), None),
            (59, Some(Some("value")), None),
            (60, None, None),
        ] {
            let now = start + seconds * SECOND;
            let owned = |answer: Option<Option<&str>>| answer.map(|v| v.map(str::to_string));
            assert_eq!(cache.fresh("here", now), owned(here), "{seconds} s");
            assert_eq!(cache.fresh("gone", now), owned(gone), "{seconds} s");
        }
        let late = start + 599 * SECOND;
        assert_eq!(cache.stale("here", late), Some(Some("value".to_string())));
        assert_eq!(cache.stale("gone", late), Some(None));
        assert_eq!(cache.stale("here", start + 600 * SECOND), None);
        assert_eq!(cache.stale("unknown", start), None);
    }

    #[test]
    fn a_newer_answer_replaces_the_older() {
        let cache = cache(10_000);
        let start = Instant::now();
        cache.put("key", Some("a long value that takes some bytes"), start);
        cache.put("key", None, start + SECOND);
        assert_eq!(cache.fresh("key", start + SECOND), Some(None));
        assert_eq!(cache.lock().bytes, bytes("key", None));
    }

    #[test]
    fn the_answer_not_asked_for_the_longest_makes_room() {
        let room_for_three = 3 * bytes("1", Some("v"));
        let cache = cache(room_for_three);
        let now = Instant::now();
        for key in ["1", "2", "3"] {
            cache.put(key, Some("v"), now);
        }
        assert!(cache.fresh("1", now).is_some());
        cache.put("4", Some("v"), now);
        for (key, kept) in [("1", true), ("2", false), ("3", true), ("4", true)] {
            assert_eq!(cache.fresh(key, now).is_some(), kept, "{key}");
        }
        assert_eq!(cache.lock().bytes, room_for_three);
    }

    #[test]
    fn the_bound_holds_whatever_comes() {
        let cache = cache(5_000);
        let now = Instant::now();
        for number in 0..2_000 {
            let value = "x".repeat(number % 700);
            cache.put(&format!("key{}", number % 90), Some(&value), now);
            let entries = cache.lock();
            assert!(entries.bytes <= 5_000);
            let sum: usize = entries
                .by_key
                .iter()
                .map(|(key, entry)| bytes(key, entry.value.as_deref()))
                .sum();
            assert_eq!(sum, entries.bytes);
        }
        cache.put("big", Some(&"x".repeat(5_000)), now);
        assert_eq!(cache.fresh("big", now), None);
        assert!(!cache.lock().by_key.is_empty(), "it drove nothing out");
    }
}
