//! What stands in front of a table whose answers come from a server: lookups of one key share a
//! query, and answers are remembered where the configuration asks for it.
//!
//! A front lives as long as its open table. Tables that are opened anew after a change of the
//! configuration begin with an empty one, so that no answer to an older query comes back.

mod cache;
mod flight;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use config::Config;
use tokio::time::Instant;

use crate::Answer;
use crate::error::{ErrorKind, TableError};
use crate::parameters::Parameters;
use crate::statistics::{Counters, count};
use cache::Cache;
pub(crate) use cache::Settings;
use flight::Flights;

/// Whether identical lookups share one query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    Yes,
    /// For a table that answers in the caller's own thread: nothing else happens meanwhile.
    No,
}

/// The front of one table.
pub(crate) struct Front {
    spec: String,
    counters: Arc<Counters>,
    flights: Option<Flights>,
    cache: Option<Cache>,
    /// Whether the last query found the database down and an old answer stood in.
    outage: AtomicBool,
}

impl Front {
    /// As main.cf and the table's own settings have it; `None` where it would do nothing.
    pub fn open(
        spec: &str,
        config: &Config,
        parameters: Option<&Parameters>,
        sharing: Sharing,
        counters: Arc<Counters>,
    ) -> Result<Option<Front>, TableError> {
        let settings = Settings::read(spec, config, parameters)?;
        let front = Front::new(spec, settings, sharing, counters);
        Ok((front.flights.is_some() || front.cache.is_some()).then_some(front))
    }

    fn new(spec: &str, settings: Settings, sharing: Sharing, counters: Arc<Counters>) -> Front {
        Front {
            spec: spec.to_string(),
            counters,
            flights: (sharing == Sharing::Yes).then(Flights::default),
            cache: settings.keeps_answers().then(|| Cache::new(settings)),
            outage: AtomicBool::new(false),
        }
    }

    /// The answer for a folded key: remembered, shared, or what `query` says.
    pub async fn answer(&self, key: &str, query: impl Future<Output = Answer>) -> Answer {
        let now = Instant::now();
        if let Some(cache) = &self.cache
            && cache.settings().is_on()
        {
            if let Some(value) = cache.fresh(key, now) {
                count(&self.counters.cache_hits);
                return Ok(value);
            }
            count(&self.counters.cache_misses);
        }
        let answer = match &self.flights {
            None => self.learn(key, query).await,
            Some(flights) => {
                let (answer, shared) = flights.share(key, self.learn(key, query)).await;
                if shared {
                    count(&self.counters.shared);
                }
                answer
            }
        };
        match answer {
            Err(error) if error.kind() == ErrorKind::Environment => self.stale(key, error),
            answer => answer,
        }
    }

    /// Asks, and remembers the answer as of the moment the query began: a change of the database
    /// that the query did not see yet is seen when the answer's time is over.
    async fn learn(&self, key: &str, query: impl Future<Output = Answer>) -> Answer {
        let began = Instant::now();
        let answer = query.await;
        if let (Some(cache), Ok(value)) = (&self.cache, &answer) {
            cache.put(key, value.as_deref(), began);
        }
        if answer.is_ok() && self.outage.load(Ordering::Relaxed) {
            self.outage.store(false, Ordering::Relaxed);
            tracing::info!("{}: the database answers again", self.spec);
        }
        answer
    }

    /// The database is down: an answer that is old, but not too old, or else the failure.
    fn stale(&self, key: &str, error: TableError) -> Answer {
        let Some(cache) = &self.cache else {
            return Err(error);
        };
        let Some(value) = cache.stale(key, Instant::now()) else {
            return Err(error);
        };
        count(&self.counters.stale);
        if !self.outage.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{}: the database is down: stale answers, up to {} s old, are used (postroom_table_stale_ttl)",
                self.spec,
                cache.settings().stale_ttl.as_secs()
            );
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
