//! Connections to the servers of one `hosts` list: made on demand, bounded, shared by all tables
//! that name the same servers, user and database; hosts that are down are passed over.
//!
//! Unlike Postfix, a statement that the server rejects takes no host out of use, and when all hosts
//! are down the next lookup still tries, at most once a second.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::connect::{self, Connection};
use super::exchange::{self, Broken, Pace, Reply};
use super::health::Health;
use super::rows::Rows;
use super::template::Query;
use super::tls::Tls;
use super::{Engine, Failure};
use crate::error::ErrorKind;
use crate::statistics::PoolStatistics;

/// How long a lookup waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For the answer to a statement.
    pub query: Duration,
    /// For its turn, when others hold all connections.
    pub turn: Duration,
    /// For another's connection, when the servers give no new one.
    pub hand_over: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            query: Duration::from_secs(30),
            turn: Duration::from_secs(60),
            hand_over: Duration::from_secs(5),
        }
    }
}

/// Whom to be, and in which database. Never shown: it holds the password.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Login {
    pub user: String,
    pub password: String,
    pub dbname: String,
    /// The session's character set; empty for the driver's own.
    pub charset: String,
    pub tls: Tls,
    /// PostgreSQL: further settings of the session.
    pub session: Vec<(String, String)>,
    /// MySQL: statements to begin the session with.
    pub init_commands: Vec<String>,
    /// Where it is to be shorter than usual.
    pub connect_timeout: Option<Duration>,
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

impl Place {
    pub fn shown(&self) -> String {
        match self {
            Place::Tcp(host, port) => format!("{host}:{port}"),
            Place::Unix(path) => path.display().to_string(),
        }
    }
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

/// A statement to run for each of the keys, and how its warnings name the table.
pub(crate) struct Job<'a> {
    pub spec: &'a str,
    pub query: &'a Query,
    pub keys: &'a [&'a str],
    pub require_result_set: bool,
}

/// The replies to a job, key by key, and whose they are.
#[derive(Default)]
pub(crate) struct Replies {
    pub host: usize,
    pub each: Vec<Reply>,
}

impl Replies {
    pub fn has_rejected(&self) -> bool {
        self.each.iter().any(Result::is_err)
    }
}

/// Counts while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(counter: &Arc<AtomicUsize>) -> Counted {
        counter.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection of the pool.
struct Member {
    host: usize,
    connection: Connection,
    /// When it was used last.
    since: Instant,
    _counted: Counted,
}

pub(crate) struct Pool {
    target: Target,
    limit: usize,
    patience: Patience,
    /// One for each connection; who waits for one gets it in turn.
    permits: Semaphore,
    /// Connections that are open, and lookups that wait for one.
    open: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
    /// The one used last stands last.
    idle: Mutex<Vec<Member>>,
    /// Told when a connection goes back to the idle ones.
    returned: Notify,
    health: Health,
}

impl Pool {
    pub fn new(target: Target, connections: usize, patience: Patience) -> Pool {
        let is_socket = |host: &Host| matches!(host.place, Place::Unix(_));
        Pool {
            limit: connections,
            patience,
            permits: Semaphore::new(connections),
            open: Arc::default(),
            waiting: Arc::default(),
            idle: Mutex::default(),
            returned: Notify::new(),
            health: Health::new(target.hosts.iter().map(is_socket), target.retry_interval),
            target,
        }
    }

    /// Runs the statements on a connection of the pool. Waits in turn when all are in use. A
    /// connection that breaks costs no answer as long as another can be made.
    pub async fn run(&self, job: &Job<'_>) -> Result<Replies, Failure> {
        let _permit = self.permit(job.spec).await?;
        if let Some(host) = self.health.due(Instant::now())
            && let Some(done) = self.run_afresh(host, job).await
        {
            return done;
        }
        if let Some(member) = self.take_idle() {
            let host = member.host;
            match self.run_on(member, job, Pace::Together).await {
                Ok(replies) => return Ok(replies),
                // The server may have closed it long ago, and the host's others with it.
                Err(Broken::Lost(_)) => self.forget(host),
                Err(Broken::Silent) => {
                    if let Some(done) = self.after_silence(host, job).await {
                        return done;
                    }
                }
            }
        }
        for host in self.health.candidates(Instant::now()) {
            if let Some(done) = self.run_afresh(host, job).await {
                return done;
            }
        }
        if let Some(member) = self.handed_over().await
            && let Ok(replies) = self.run_on(member, job, Pace::OneByOne).await
        {
            return Ok(replies);
        }
        Err(Failure::Logged(ErrorKind::Environment))
    }

    /// The rows for the one key of the job. What a server rejects, the others are asked too: a replica may lack what
    /// they have. None goes out of use for that.
    pub async fn run_one(&self, job: &Job<'_>) -> Result<Rows, Failure> {
        let Replies { host, mut each } = self.run(job).await?;
        match each.pop() {
            Some(Ok(rows)) => return Ok(rows),
            Some(Err(text)) => self.warn_failed(job.spec, host, &text),
            None => self.warn_failed(job.spec, host, "no reply"),
        }
        let _permit = self.permit(job.spec).await?;
        for other in self.health.candidates(Instant::now()) {
            if other == host {
                continue;
            }
            let resting = match self.take_idle_of(other) {
                Some(member) => self.run_on(member, job, Pace::Together).await.ok(),
                None => None,
            };
            let replies = match resting {
                Some(replies) => Some(Ok(replies)),
                None => self.run_afresh(other, job).await,
            };
            if let Some(Ok(mut replies)) = replies {
                match replies.each.pop() {
                    Some(Ok(rows)) => return Ok(rows),
                    Some(Err(text)) => self.warn_failed(job.spec, other, &text),
                    None => {}
                }
            }
        }
        Err(Failure::Logged(ErrorKind::Rejected))
    }

    /// Whether there is more than one host.
    pub fn has_others(&self) -> bool {
        self.target.hosts.len() > 1
    }

    /// The failure of a key whose statement the server rejected, after a word to the log.
    pub fn rejected(&self, spec: &str, host: usize, text: &str) -> Failure {
        self.warn_failed(spec, host, text);
        Failure::Logged(ErrorKind::Rejected)
    }

    /// How the connections stand at this moment.
    pub fn statistics(&self) -> PoolStatistics {
        let hosts = self.target.hosts.iter().map(|host| host.shown.as_str());
        let login = &self.target.login;
        PoolStatistics {
            engine: self.target.engine.name(),
            hosts: hosts.collect::<Vec<_>>().join(" "),
            user: login.user.clone(),
            dbname: login.dbname.clone(),
            limit: self.limit,
            open: self.open.load(Ordering::Relaxed),
            in_use: self.limit - self.permits.available_permits(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    async fn permit(&self, spec: &str) -> Result<SemaphorePermit<'_>, Failure> {
        let _waiting = Counted::new(&self.waiting);
        let turn = timeout(self.patience.turn, self.permits.acquire()).await;
        let Ok(Ok(permit)) = turn else {
            tracing::warn!(
                "{spec}: no database connection became free in {} s",
                self.patience.turn.as_secs()
            );
            return Err(Failure::Logged(ErrorKind::Environment));
        };
        Ok(permit)
    }

    async fn run_on(
        &self,
        mut member: Member,
        job: &Job<'_>,
        pace: Pace,
    ) -> Result<Replies, Broken> {
        let limit = self.patience.query;
        let each = exchange::ask(&mut member.connection, job, pace, limit).await?;
        let host = member.host;
        // Without this, a host whose one new connection failed would count as down for as long as its old ones do.
        self.health.good(host);
        self.give_back(member);
        Ok(Replies { host, each })
    }

    /// Runs the statements on a new connection to this host, and on a second one when that breaks.
    /// `None`: another host may do better.
    async fn run_afresh(&self, host: usize, job: &Job<'_>) -> Option<Result<Replies, Failure>> {
        for pace in [Pace::Together, Pace::OneByOne] {
            let member = self.connect(host).await?;
            match self.run_on(member, job, pace).await {
                Ok(replies) => return Some(Ok(replies)),
                Err(Broken::Lost(text)) => self.warn_failed(job.spec, host, &text),
                Err(Broken::Silent) => return self.after_silence(host, job).await,
            }
        }
        None
    }

    /// A statement got no answer in time. If the host still lets us in, the statement is too slow,
    /// and would be elsewhere; if not, the host hangs, and another may do better.
    async fn after_silence(&self, host: usize, job: &Job<'_>) -> Option<Result<Replies, Failure>> {
        let text = format!("no answer in {} s", self.patience.query.as_secs());
        self.warn_failed(job.spec, host, &text);
        // Its other connections would hang as well.
        self.forget(host);
        let member = self.connect(host).await?;
        self.give_back(member);
        Some(Err(Failure::Logged(ErrorKind::Environment)))
    }

    fn warn_failed(&self, spec: &str, host: usize, text: &str) {
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
                    tracing::warn!("{}: query failed (mysql_next_result): {text}", spec)
                }
                None => tracing::warn!("{}: query failed: {text}", spec),
            },
        }
    }

    /// A connection that rests, and not for too long; those that have are closed. The one used last
    /// of a host, so that what is not needed gets old; the hosts take turns.
    fn take_idle(&self) -> Option<Member> {
        let mut all = self.idle();
        let limit = self.target.idle_interval;
        if all.first().is_some_and(|one| one.since.elapsed() > limit) {
            all.retain(|one| one.since.elapsed() <= limit);
        }
        if self.target.hosts.len() == 1 {
            return all.pop();
        }
        let mut hosts: Vec<usize> = all.iter().map(|one| one.host).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let host = self.health.prefer(&hosts)?;
        let last = all.iter().rposition(|one| one.host == host)?;
        Some(all.remove(last))
    }

    fn take_idle_of(&self, host: usize) -> Option<Member> {
        let mut all = self.idle();
        let last = all.iter().rposition(|one| one.host == host)?;
        Some(all.remove(last))
    }

    fn give_back(&self, mut member: Member) {
        member.since = Instant::now();
        self.idle().push(member);
        self.returned.notify_one();
    }

    fn forget(&self, host: usize) {
        self.idle().retain(|one| one.host != host);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Member>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No host gives a new connection, perhaps because it has too many: one that another lookup is
    /// done with will do.
    async fn handed_over(&self) -> Option<Member> {
        let waiting = async {
            loop {
                let returned = self.returned.notified();
                if let Some(member) = self.take_idle() {
                    return Some(member);
                }
                if self.open.load(Ordering::Relaxed) == 0 {
                    return None;
                }
                // Those that break are not returned: look again after a while.
                let _ = timeout(Duration::from_millis(100), returned).await;
            }
        };
        timeout(self.patience.hand_over, waiting)
            .await
            .ok()
            .flatten()
    }

    async fn connect(&self, host: usize) -> Option<Member> {
        self.make_room();
        let server = &self.target.hosts[host];
        let login = server.login.as_ref().unwrap_or(&self.target.login);
        // Boxed: it happens seldom, and is large beside a lookup.
        match Box::pin(connect::open(self.target.engine, server, login)).await {
            Ok(connection) => {
                self.health.good(host);
                Some(Member {
                    host,
                    connection,
                    since: Instant::now(),
                    _counted: Counted::new(&self.open),
                })
            }
            Err(text) => {
                let engine = self.target.engine.name();
                tracing::warn!("connect to {engine} server {}: {text}", server.shown);
                self.health.bad(host, Instant::now());
                None
            }
        }
    }

    /// A new connection may take the place of one that rests: together they stay within the limit.
    fn make_room(&self) {
        let busy = self.limit - self.permits.available_permits();
        let mut all = self.idle();
        let surplus = (all.len() + busy).saturating_sub(self.limit);
        // The oldest stand first.
        let surplus = surplus.min(all.len());
        all.drain(..surplus);
    }
}

#[cfg(test)]
mod peer_tests;
