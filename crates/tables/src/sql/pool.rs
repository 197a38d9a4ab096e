//! Connections to the servers of one `hosts` list: made on demand, bounded, shared by all tables
//! that name the same servers, user and database; hosts that are down are passed over.
//!
//! Unlike Postfix, a statement that the server rejects takes no host out of use, and when all hosts
//! are down the next lookup still tries, at most once a second.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::rows::Rows;
use super::template::Query;
use super::wire::Wire;
use super::{Engine, Failure, mysql, pgsql};
use crate::error::ErrorKind;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a lookup waits for a connection that others hold.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between attempts when no host is up.
const ALL_DOWN_PAUSE: Duration = Duration::from_secs(1);

/// Whom to be, and in which database. Never shown: it holds the password.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Login {
    pub user: String,
    pub password: String,
    pub dbname: String,
    /// The session's character set; empty for the driver's own.
    pub charset: String,
}

/// A server.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    /// As the messages name it.
    pub shown: String,
    pub place: Place,
    /// Where the host's own text says more than the table's parameters (PostgreSQL URIs).
    pub login: Option<Login>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// What makes two tables share a pool.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub engine: Engine,
    pub hosts: Vec<Host>,
    pub login: Login,
    pub retry_interval: Duration,
    pub idle_interval: Duration,
}

/// Why a statement gave no rows.
#[derive(Debug)]
pub(crate) enum QueryError {
    /// The server said no to this statement; the connection is good.
    Rejected(String),
    /// The connection is gone.
    Lost(String),
}

/// A statement to run, and how its warnings name the table.
pub(crate) struct Job<'a> {
    pub spec: &'a str,
    pub query: &'a Query,
    pub key: &'a str,
    pub require_result_set: bool,
}

pub(super) enum Connection {
    MySql(Box<mysql::Connection>),
    PgSql(Box<pgsql::Connection>),
}

struct Idle {
    host: usize,
    since: Instant,
    connection: Connection,
}

pub(crate) struct Pool {
    target: Target,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
    /// When the last attempt failed, host by host.
    failed: Mutex<Vec<Option<Instant>>>,
}

impl Pool {
    pub fn new(target: Target, connections: usize) -> Pool {
        Pool {
            permits: Semaphore::new(connections),
            idle: Mutex::default(),
            failed: Mutex::new(vec![None; target.hosts.len()]),
            target,
        }
    }

    /// Runs the statement on a connection of the pool. Waits in turn when all are in use.
    pub async fn run(&self, job: &Job<'_>) -> Result<Rows, Failure> {
        let waiting = timeout(QUEUE_TIMEOUT, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = waiting else {
            tracing::warn!(
                "{}: no database connection became free in {} s",
                job.spec,
                QUEUE_TIMEOUT.as_secs()
            );
            return Err(Failure::Logged(ErrorKind::Environment));
        };
        if let Some(mut idle) = self.take_idle() {
            match query(&mut idle.connection, job).await {
                // The server may have closed it long ago: once more, on a fresh connection.
                Err(QueryError::Lost(_)) => self.forget(idle.host),
                outcome => return self.finish(idle.host, idle.connection, outcome, job),
            }
        }
        for host in self.candidates() {
            let Some(mut connection) = self.connect(host).await else {
                continue;
            };
            match query(&mut connection, job).await {
                Err(QueryError::Lost(text)) => {
                    self.warn_failed(job, host, &text);
                    self.set_failed(host, Some(Instant::now()));
                }
                outcome => return self.finish(host, connection, outcome, job),
            }
        }
        Err(Failure::Logged(ErrorKind::Environment))
    }

    fn finish(
        &self,
        host: usize,
        connection: Connection,
        outcome: Result<Rows, QueryError>,
        job: &Job<'_>,
    ) -> Result<Rows, Failure> {
        let idle = Idle {
            host,
            since: Instant::now(),
            connection,
        };
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(idle);
        outcome.map_err(|error| {
            let (QueryError::Rejected(text) | QueryError::Lost(text)) = error;
            self.warn_failed(job, host, &text);
            Failure::Logged(ErrorKind::Rejected)
        })
    }

    fn warn_failed(&self, job: &Job<'_>, host: usize, text: &str) {
        match self.target.engine {
            Engine::PgSql => {
                let host = &self.target.hosts[host].shown;
                match text.strip_prefix("fatal error: ") {
                    Some(text) => {
                        tracing::warn!("pgsql query failed: fatal error from host {host}: {text}")
                    }
                    None => tracing::warn!("pgsql query failed: {text} from host {host}"),
                }
            }
            _ => match text.strip_prefix("(mysql_next_result): ") {
                Some(text) => {
                    tracing::warn!("{}: query failed (mysql_next_result): {text}", job.spec)
                }
                None => tracing::warn!("{}: query failed: {text}", job.spec),
            },
        }
    }

    /// The connection used last, unless it has rested too long; those that have are closed.
    fn take_idle(&self) -> Option<Idle> {
        let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.target.idle_interval;
        // The oldest stand first.
        if all.first().is_some_and(|idle| idle.since.elapsed() > limit) {
            all.retain(|idle| idle.since.elapsed() <= limit);
        }
        all.pop()
    }

    fn forget(&self, host: usize) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|idle| idle.host != host);
    }

    fn set_failed(&self, host: usize, when: Option<Instant>) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)[host] = when;
    }

    /// The hosts to try: unix sockets first, each kind in random order, without those that failed
    /// within `retry_interval`. When that leaves none, all that have not failed within the last second.
    fn candidates(&self) -> Vec<usize> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let rested = |pause: Duration| -> Vec<usize> {
            let mut hosts: Vec<usize> = (0..self.target.hosts.len()).collect();
            hosts.retain(|&host| failed[host].is_none_or(|when| when.elapsed() >= pause));
            fastrand::shuffle(&mut hosts);
            hosts.sort_by_key(|&host| matches!(self.target.hosts[host].place, Place::Tcp(..)));
            hosts
        };
        let good = rested(self.target.retry_interval);
        if good.is_empty() {
            rested(ALL_DOWN_PAUSE.min(self.target.retry_interval))
        } else {
            good
        }
    }

    async fn connect(&self, host: usize) -> Option<Connection> {
        let server = &self.target.hosts[host];
        let login = server.login.as_ref().unwrap_or(&self.target.login);
        let attempt = timeout(
            CONNECT_TIMEOUT,
            open(self.target.engine, &server.place, login),
        )
        .await;
        let outcome = attempt
            .unwrap_or_else(|_| Err(format!("timeout after {} s", CONNECT_TIMEOUT.as_secs())));
        match outcome {
            Ok(connection) => {
                self.set_failed(host, None);
                Some(connection)
            }
            Err(text) => {
                let engine = self.target.engine.name();
                tracing::warn!("connect to {engine} server {}: {text}", server.shown);
                self.set_failed(host, Some(Instant::now()));
                None
            }
        }
    }
}

pub(super) async fn query(connection: &mut Connection, job: &Job<'_>) -> Result<Rows, QueryError> {
    let running = async {
        match connection {
            Connection::MySql(session) => {
                session
                    .query(job.query, job.key, job.require_result_set)
                    .await
            }
            Connection::PgSql(session) => session.query(job.query, job.key).await,
        }
    };
    match timeout(QUERY_TIMEOUT, running).await {
        Ok(outcome) => outcome,
        Err(_) => Err(QueryError::Lost(format!(
            "no answer in {} s",
            QUERY_TIMEOUT.as_secs()
        ))),
    }
}

pub(super) async fn open(
    engine: Engine,
    place: &Place,
    login: &Login,
) -> Result<Connection, String> {
    let wire = match place {
        Place::Tcp(host, port) => Wire::tcp(host, *port).await,
        Place::Unix(path) => Wire::unix(path).await,
    };
    match engine {
        Engine::PgSql => {
            let where_to = pgsql_place(place);
            let wire =
                wire.map_err(|error| format!("{where_to}: {}", crate::error::os_text(&error)))?;
            let session = pgsql::Connection::login(wire, login)
                .await
                .map_err(|text| format!("{where_to}: {text}"))?;
            Ok(Connection::PgSql(Box::new(session)))
        }
        _ => {
            let wire = wire.map_err(|error| mysql_connect_text(place, &error))?;
            Ok(Connection::MySql(Box::new(
                mysql::Connection::login(wire, login).await?,
            )))
        }
    }
}

fn pgsql_place(place: &Place) -> String {
    match place {
        Place::Tcp(host, port) => format!("connection to server at \"{host}\", port {port} failed"),
        Place::Unix(path) => format!(
            "connection to server on socket \"{}\" failed",
            path.display()
        ),
    }
}

fn mysql_connect_text(place: &Place, error: &std::io::Error) -> String {
    let number = error.raw_os_error().unwrap_or(-2);
    let socket = |path: &Path| {
        format!(
            "Can't connect to local server through socket '{}' ({number})",
            path.display()
        )
    };
    match place {
        Place::Unix(path) => socket(path),
        Place::Tcp(host, _) if error.raw_os_error().is_none() => {
            format!("Unknown server host '{host}' ({number})")
        }
        Place::Tcp(host, _) => format!("Can't connect to server on '{host}' ({number})"),
    }
}
