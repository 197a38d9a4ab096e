//! How many connections a client has, and how often it did what `smtpd_client_…_rate_limit` is about: what anvil(8) counts
//! for Postfix. Counts are kept by service and client; those of a time unit begin anew with the first event after it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use config::{Config, ConfigError};
use smtp::Reply;
use smtp::server::{Counted, Peer};
use tables::{CidrList, Tables};

/// The limits of one service.
pub(crate) struct Limits {
    /// `smtpd_client_connection_count_limit`.
    at_once: usize,
    connections: usize,
    messages: usize,
    recipients: usize,
    auths: usize,
    tls_sessions: usize,
    /// `anvil_rate_time_unit`.
    unit: Duration,
    /// `smtpd_client_event_limit_exceptions`.
    exceptions: CidrList,
}

impl Limits {
    pub fn of(config: &Config, tables: &Tables) -> Result<Limits, ConfigError> {
        let limit = |name: &str| super::generation::positive(config, name);
        let exceptions = config.string("smtpd_client_event_limit_exceptions")?;
        Ok(Limits {
            at_once: limit("smtpd_client_connection_count_limit")?,
            connections: limit("smtpd_client_connection_rate_limit")?,
            messages: limit("smtpd_client_message_rate_limit")?,
            recipients: limit("smtpd_client_recipient_rate_limit")?,
            auths: limit("smtpd_client_auth_rate_limit")?,
            tls_sessions: limit("smtpd_client_new_tls_session_rate_limit")?,
            unit: config.time("anvil_rate_time_unit")?,
            exceptions: tables.network_list(&exceptions),
        })
    }

    /// Whether commands must be counted at all.
    pub fn on_commands(&self) -> bool {
        let limits = [
            self.messages,
            self.recipients,
            self.auths,
            self.tls_sessions,
        ];
        limits.iter().any(|&limit| limit != usize::MAX)
    }

    async fn exempt(&self, client: IpAddr) -> bool {
        // A list that cannot be read makes no exceptions.
        self.exceptions.matches(client).await.unwrap_or(false)
    }
}

/// What is counted.
#[derive(Clone, Copy)]
enum Event {
    Connection,
    Message,
    Recipient,
    Auth,
    TlsSession,
}

/// One client at one service.
struct Counts {
    open: usize,
    since: Instant,
    /// By [`Event`].
    events: [usize; 5],
}

/// All clients of all services.
#[derive(Default)]
pub(crate) struct Rates(Mutex<Table>);

#[derive(Default)]
struct Table {
    clients: HashMap<Key, Counts>,
    /// At so many the idle ones are thrown out.
    sweep_at: usize,
}

type Key = (Arc<str>, IpAddr);

/// An idle client is forgotten after so many time units, and only where there are many of them.
const FEW: usize = 1_000;

impl Rates {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(|bad| bad.into_inner())
    }

    fn count(&self, key: &Key, event: Event, unit: Duration) -> usize {
        let mut table = self.lock();
        let counts = table.entry(key, unit);
        counts.events[event as usize] += 1;
        counts.events[event as usize]
    }

    fn so_far(&self, key: &Key, event: Event, unit: Duration) -> usize {
        self.lock().entry(key, unit).events[event as usize]
    }
}

impl Table {
    /// The counts of the running time unit.
    fn entry(&mut self, key: &Key, unit: Duration) -> &mut Counts {
        let now = Instant::now();
        if self.clients.len() >= self.sweep_at.max(FEW) {
            self.clients
                .retain(|_, counts| counts.open > 0 || counts.since + unit > now);
            self.sweep_at = 2 * self.clients.len();
        }
        let counts = self.clients.entry(key.clone()).or_insert(Counts {
            open: 0,
            since: now,
            events: [0; 5],
        });
        if counts.since + unit <= now {
            counts.since = now;
            counts.events = [0; 5];
        }
        counts
    }
}

/// A connection that counts until it is dropped.
pub(crate) struct Visit {
    rates: Arc<Rates>,
    key: Key,
    /// Connections of this client, with this one, when it came.
    open: usize,
    /// The same of this time unit.
    recent: usize,
}

impl Visit {
    pub fn begin(rates: &Arc<Rates>, service: &str, client: IpAddr, limits: &Limits) -> Visit {
        let key = (Arc::from(service), client);
        let mut table = rates.lock();
        let counts = table.entry(&key, limits.unit);
        counts.open += 1;
        counts.events[Event::Connection as usize] += 1;
        let (open, recent) = (counts.open, counts.events[Event::Connection as usize]);
        drop(table);
        Visit {
            rates: Arc::clone(rates),
            key,
            open,
            recent,
        }
    }

    /// Connections of this client when it came; 0 where they are not counted.
    pub async fn connections(&self, limits: &Limits, peer: &Peer) -> usize {
        match limits.exempt(peer.address).await {
            true => 0,
            false => self.open,
        }
    }

    /// Why the connection is one too many.
    pub async fn refused(&self, limits: &Limits, peer: &Peer, hostname: &str) -> Option<Reply> {
        let (what, count) = if self.open > limits.at_once {
            ("Connection concurrency", self.open)
        } else if self.recent > limits.connections {
            ("Connection rate", self.recent)
        } else {
            return None;
        };
        if limits.exempt(peer.address).await {
            return None;
        }
        self.warn(what, count, peer);
        let address = peer.address.to_string();
        Some(policy::reply::too_many_connections(hostname, &address))
    }

    /// Counts the command; the refusal where it is one too many.
    pub async fn command(&self, command: Counted, limits: &Limits, peer: &Peer) -> Option<Reply> {
        let (event, limit, name, what) = match command {
            Counted::Mail => (
                Event::Message,
                limits.messages,
                "Message delivery request rate",
                "much mail",
            ),
            Counted::Rcpt => (
                Event::Recipient,
                limits.recipients,
                "Recipient address rate",
                "many recipients",
            ),
            Counted::Auth => (
                Event::Auth,
                limits.auths,
                "AUTH command rate",
                "many AUTH commands",
            ),
            Counted::StartTls => return self.may_start_tls(limits, peer).await,
        };
        if limit == usize::MAX || limits.exempt(peer.address).await {
            return None;
        }
        let count = self.rates.count(&self.key, event, limits.unit);
        if count <= limit {
            return None;
        }
        self.warn(name, count, peer);
        Some(policy::reply::too_often(what, &peer.address.to_string()))
    }

    async fn may_start_tls(&self, limits: &Limits, peer: &Peer) -> Option<Reply> {
        let limit = limits.tls_sessions;
        if limit == usize::MAX || limits.exempt(peer.address).await {
            return None;
        }
        let so_far = self.rates.so_far(&self.key, Event::TlsSession, limits.unit);
        if so_far <= limit {
            return None;
        }
        let client = peer.name_and_address();
        tracing::warn!(
            prog = "smtpd",
            "Refusing STARTTLS request from {client} for service {}",
            self.key.0
        );
        Some(policy::reply::no_more_tls(&client))
    }

    /// A TLS session has begun; the good-bye where it is one too many.
    pub async fn tls_session(&self, limits: &Limits, peer: &Peer, hostname: &str) -> Option<Reply> {
        let limit = limits.tls_sessions;
        if limit == usize::MAX || limits.exempt(peer.address).await {
            return None;
        }
        let count = self.rates.count(&self.key, Event::TlsSession, limits.unit);
        if count <= limit {
            return None;
        }
        self.warn("New TLS session rate", count, peer);
        let client = peer.name_and_address();
        Some(policy::reply::too_many_tls_sessions(hostname, &client))
    }

    fn warn(&self, what: &str, count: usize, peer: &Peer) {
        tracing::warn!(
            prog = "smtpd",
            "{what} limit exceeded: {count} from {} for service {}",
            peer.name_and_address(),
            self.key.0
        );
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut table = self.rates.lock();
        if let Some(counts) = table.clients.get_mut(&self.key) {
            counts.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_begin_anew_with_the_time_unit_and_idle_clients_are_forgotten() {
        let rates = Rates::default();
        let service: Arc<str> = Arc::from("smtp");
        let client = |last: u16| -> Key {
            let [high, low] = last.to_be_bytes();
            (service.clone(), IpAddr::from([192, 0, high, low]))
        };
        let long = Duration::from_secs(3600);
        for expected in 1..4 {
            assert_eq!(
                rates.count(&client(1), Event::Message, long),
                expected,
                "within one unit"
            );
        }
        assert_eq!(rates.so_far(&client(1), Event::Recipient, long), 0);
        assert_eq!(rates.count(&client(1), Event::Message, Duration::ZERO), 1);
        for last in 0..5_000 {
            rates.count(&client(last), Event::Auth, Duration::ZERO);
        }
        assert!(rates.lock().clients.len() <= 2 * FEW);
    }
}
