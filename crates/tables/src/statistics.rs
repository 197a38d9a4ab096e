//! What the tables have done so far, counted: lookups by result, how long they took, what the
//! cache spared, and the connections of each pool. [`crate::Tables::statistics`] reads it all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Answer;

/// The upper ends of the latency buckets; a last bucket takes what is slower.
pub const LATENCY_BOUNDS: [Duration; 15] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

const BUCKETS: usize = LATENCY_BOUNDS.len() + 1;

/// All tables that were opened, and all pools, each sorted by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    pub tables: Vec<TableStatistics>,
    pub pools: Vec<PoolStatistics>,
}

/// Lookups of one table since it was opened, those that a list or another table made too.
/// `proxy:type:name` is counted as `type:name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStatistics {
    /// `type:name`.
    pub table: String,
    pub found: u64,
    pub not_found: u64,
    pub failed: u64,
    pub latency: Latency,
    /// Answered from the cache.
    pub cache_hits: u64,
    /// Not in the cache, or there for too long. 0 where there is no cache.
    pub cache_misses: u64,
    /// Answered from the cache beyond its time, because the database was down.
    pub stale: u64,
    /// Answered by a query that another lookup of the same key had under way.
    pub shared: u64,
}

/// How long lookups took, from call to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// Lookups by time: up to [`LATENCY_BOUNDS`]`[i]` and more than the bound before; the last, more
    /// than all bounds. Not cumulative.
    pub buckets: [u64; BUCKETS],
    /// The times of all lookups added up.
    pub sum: Duration,
}

/// The connections of the tables that share servers, user and database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolStatistics {
    /// `mysql` or `pgsql`.
    pub engine: &'static str,
    /// As in `hosts`, without what may be secret.
    pub hosts: String,
    pub user: String,
    pub dbname: String,
    /// The most connections there may be.
    pub limit: usize,
    /// Connections that are open, busy or resting.
    pub open: usize,
    /// Lookups that hold a connection or are making one.
    pub in_use: usize,
    /// Lookups that wait for a connection.
    pub waiting: usize,
}

/// What one table counts.
#[derive(Default)]
pub(crate) struct Counters {
    found: AtomicU64,
    not_found: AtomicU64,
    failed: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
    pub cache_hits: AtomicU64,
    pub cache_misses: AtomicU64,
    pub stale: AtomicU64,
    pub shared: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// A lookup that has its answer.
    pub fn lookup(&self, answer: &Answer, took: Duration) {
        count(match answer {
            Ok(Some(_)) => &self.found,
            Ok(None) => &self.not_found,
            Err(_) => &self.failed,
        });
        count(&self.buckets[LATENCY_BOUNDS.partition_point(|bound| *bound < took)]);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The counts as they are now.
    pub fn read(&self, table: &str) -> TableStatistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TableStatistics {
            table: table.to_string(),
            found: read(&self.found),
            not_found: read(&self.not_found),
            failed: read(&self.failed),
            latency: Latency {
                buckets: std::array::from_fn(|i| read(&self.buckets[i])),
                sum: Duration::from_nanos(read(&self.nanoseconds)),
            },
            cache_hits: read(&self.cache_hits),
            cache_misses: read(&self.cache_misses),
            stale: read(&self.stale),
            shared: read(&self.shared),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, TableError};

    #[test]
    fn lookups_are_counted_by_result_and_time() {
        let counters = Counters::default();
        let failed = TableError::new(ErrorKind::Environment, "t:x", "down");
        counters.lookup(&Ok(Some("v".to_string())), Duration::from_micros(50));
        counters.lookup(&Ok(None), Duration::from_micros(51));
        counters.lookup(&Ok(None), Duration::from_micros(99));
        counters.lookup(&Err(failed), Duration::from_secs(31));
        let read = counters.read("t:x");
        assert_eq!((read.found, read.not_found, read.failed), (1, 2, 1));
        assert_eq!(read.latency.buckets[..3], [1, 2, 0]);
        assert_eq!(read.latency.buckets[BUCKETS - 1], 1);
        assert_eq!(
            read.latency.sum,
            Duration::from_secs(31) + Duration::from_micros(200)
        );
    }
}
