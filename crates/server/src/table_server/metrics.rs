//! What the table server counts, and how Prometheus is told.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tables::{LATENCY_BOUNDS, Statistics};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Found,
    NotFound,
    Failed,
    TimedOut,
}

const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Found, "found"),
    (Outcome::NotFound, "not_found"),
    (Outcome::Failed, "failed"),
    (Outcome::TimedOut, "timeout"),
];

/// The counts of this process. They outlive a reload; those of the tables begin anew with it.
#[derive(Default)]
pub(crate) struct Metrics {
    names: Mutex<BTreeMap<String, Arc<Requests>>>,
    /// For tables that are not there.
    pub unknown: AtomicU64,
    /// Not understood.
    pub malformed: AtomicU64,
    pub accepted: AtomicU64,
    pub open: AtomicI64,
}

/// The requests for one name.
#[derive(Default)]
pub(crate) struct Requests {
    outcomes: [AtomicU64; OUTCOMES.len()],
    buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Requests {
    pub fn count(&self, outcome: Outcome, took: Duration) {
        let at = OUTCOMES.iter().position(|(known, _)| *known == outcome);
        add(&self.outcomes[at.unwrap_or_default()]);
        add(&self.buckets[LATENCY_BOUNDS.partition_point(|bound| *bound < took)]);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metrics {
    /// The counts of a name that is served.
    pub fn requests(&self, name: &str) -> Arc<Requests> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(name) {
            Some(requests) => Arc::clone(requests),
            None => Arc::clone(names.entry(name.to_owned()).or_default()),
        }
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn text(&self, statistics: &Statistics) -> String {
        let mut page = Page::default();
        self.connections(&mut page);
        self.request_counts(&mut page);
        lookups(&mut page, statistics);
        pools(&mut page, statistics);
        page.text
    }

    fn connections(&self, page: &mut Page) {
        page.head(
            "postroom_connections",
            "gauge",
            "Connections of clients that are open.",
        );
        page.line(
            "postroom_connections",
            &[],
            self.open.load(Ordering::Relaxed),
        );
        let name = "postroom_connections_accepted_total";
        page.head(
            name,
            "counter",
            "Connections of clients that were accepted.",
        );
        page.line(name, &[], read(&self.accepted));
    }

    fn request_counts(&self, page: &mut Page) {
        let names = self
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let name = "postroom_requests_total";
        page.head(
            name,
            "counter",
            "Requests by the name that is served and result.",
        );
        for (served, requests) in &names {
            for (index, (_, result)) in OUTCOMES.iter().enumerate() {
                let labels = [("name", served.as_str()), ("result", result)];
                page.line(name, &labels, read(&requests.outcomes[index]));
            }
        }
        let name = "postroom_requests_refused_total";
        page.head(name, "counter", "Requests that got no lookup, by reason.");
        page.line(name, &[("reason", "unknown_table")], read(&self.unknown));
        page.line(name, &[("reason", "malformed")], read(&self.malformed));
        let name = "postroom_request_duration_seconds";
        page.head(
            name,
            "histogram",
            "From the request to the answer, waiting for a connection included.",
        );
        for (served, requests) in &names {
            let buckets = requests.buckets.each_ref().map(read);
            let sum = Duration::from_nanos(read(&requests.nanoseconds));
            page.histogram(name, ("name", served), &buckets, sum);
        }
    }
}

fn lookups(page: &mut Page, statistics: &Statistics) {
    let name = "postroom_lookups_total";
    page.head(name, "counter", "Lookups by table and result.");
    for table in &statistics.tables {
        for (result, count) in [
            ("found", table.found),
            ("not_found", table.not_found),
            ("failed", table.failed),
        ] {
            page.line(name, &[("table", &table.table), ("result", result)], count);
        }
    }
    let name = "postroom_lookup_duration_seconds";
    page.head(name, "histogram", "How long lookups of a table took.");
    for table in &statistics.tables {
        let latency = &table.latency;
        page.histogram(name, ("table", &table.table), &latency.buckets, latency.sum);
    }
    let name = "postroom_cache_total";
    page.head(
        name,
        "counter",
        "What became of lookups in the cache, and those that shared a query.",
    );
    for table in &statistics.tables {
        for (result, count) in [
            ("hit", table.cache_hits),
            ("miss", table.cache_misses),
            ("stale", table.stale),
            ("shared", table.shared),
        ] {
            page.line(name, &[("table", &table.table), ("result", result)], count);
        }
    }
}

fn pools(page: &mut Page, statistics: &Statistics) {
    let name = "postroom_pool_connections";
    page.head(
        name,
        "gauge",
        "Connections to databases: the limit, open, in use; and lookups that wait for one.",
    );
    for pool in &statistics.pools {
        for (state, count) in [
            ("limit", pool.limit),
            ("open", pool.open),
            ("in_use", pool.in_use),
            ("waiting", pool.waiting),
        ] {
            let labels = [
                ("engine", pool.engine),
                ("hosts", &pool.hosts),
                ("user", &pool.user),
                ("dbname", &pool.dbname),
                ("state", state),
            ];
            page.line(name, &labels, count);
        }
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

// Writing to a String does not fail.
impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.text.push_str(name);
        for (index, (label, content)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let content = content.replace('\\', r"\\").replace('"', r#"\""#);
            let content = content.replace('\n', r"\n");
            let _ = write!(self.text, "{before}{label}=\"{content}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// `buckets` are not cumulative; Prometheus' are.
    fn histogram(&mut self, name: &str, label: (&str, &str), buckets: &[u64], sum: Duration) {
        let mut so_far = 0;
        for (index, count) in buckets.iter().enumerate() {
            so_far += count;
            let bound = LATENCY_BOUNDS.get(index);
            let bound = bound.map_or("+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
            self.line(&format!("{name}_bucket"), &[label, ("le", &bound)], so_far);
        }
        self.line(&format!("{name}_sum"), &[label], sum.as_secs_f64());
        self.line(&format!("{name}_count"), &[label], so_far);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text() {
        let metrics = Metrics::default();
        let requests = metrics.requests("a\"b\\");
        requests.count(Outcome::Found, Duration::from_micros(50));
        requests.count(Outcome::TimedOut, Duration::from_secs(31));
        add(&metrics.unknown);
        let nothing = Statistics {
            tables: Vec::new(),
            pools: Vec::new(),
        };
        let text = metrics.text(&nothing);
        for line in [
            r#"postroom_requests_total{name="a\"b\\",result="found"} 1"#,
            r#"postroom_requests_total{name="a\"b\\",result="timeout"} 1"#,
            r#"postroom_requests_total{name="a\"b\\",result="failed"} 0"#,
            r#"postroom_requests_refused_total{reason="unknown_table"} 1"#,
            r#"postroom_request_duration_seconds_bucket{name="a\"b\\",le="0.00005"} 1"#,
            r#"postroom_request_duration_seconds_bucket{name="a\"b\\",le="30"} 1"#,
            r#"postroom_request_duration_seconds_bucket{name="a\"b\\",le="+Inf"} 2"#,
            r#"postroom_request_duration_seconds_count{name="a\"b\\"} 2"#,
            "postroom_connections 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
