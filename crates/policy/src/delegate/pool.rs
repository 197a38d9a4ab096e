//! The connections to one policy service: kept while they are in use, young enough and not worn out; never more than a limit.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Unix(PathBuf),
    /// `host:port`.
    Inet(String),
}

impl Endpoint {
    async fn connect(&self) -> io::Result<Box<dyn Wire>> {
        Ok(match self {
            Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Endpoint::Inet(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                // A request is one write; waiting for more would only hold it back.
                let _ = stream.set_nodelay(true);
                Box::new(stream)
            }
        })
    }
}

/// How long connections live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `smtpd_policy_service_max_idle`.
    pub idle: Duration,
    /// `smtpd_policy_service_max_ttl`.
    pub age: Duration,
    /// `smtpd_policy_service_request_limit`; 0: none.
    pub requests: u64,
    /// Connections at a time: as many as Postfix would have processes.
    pub connections: usize,
}

pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection in use.
pub(super) struct Lease {
    pub stream: Box<dyn Wire>,
    /// It has carried requests before.
    pub is_used: bool,
    born: Instant,
    requests: u64,
    _permit: OwnedSemaphorePermit,
}

struct Idle {
    stream: Box<dyn Wire>,
    born: Instant,
    since: Instant,
    requests: u64,
}

pub(super) struct Pool {
    endpoint: Endpoint,
    limits: Limits,
    room: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    /// A task waits for connections to grow old.
    swept: bool,
}

impl Pool {
    pub fn new(endpoint: Endpoint, limits: Limits) -> Pool {
        Pool {
            endpoint,
            limits,
            room: Arc::new(Semaphore::new(limits.connections.max(1))),
            state: Mutex::default(),
        }
    }

    /// A connection: an idle one unless `fresh`, else a new one. Waits while all are in use.
    pub async fn get(&self, fresh: bool) -> io::Result<Lease> {
        let room = Arc::clone(&self.room);
        // The semaphore is never closed.
        let permit = room.acquire_owned().await.map_err(io::Error::other)?;
        let idle = match fresh {
            // Where one idle connection is gone, the others are from the same time.
            true => {
                self.lock().idle.clear();
                None
            }
            false => self.lock().idle.pop().filter(|idle| !self.is_over(idle)),
        };
        if let Some(idle) = idle {
            return Ok(Lease {
                stream: idle.stream,
                is_used: true,
                born: idle.born,
                requests: idle.requests,
                _permit: permit,
            });
        }
        Ok(Lease {
            stream: self.endpoint.connect().await?,
            is_used: false,
            born: Instant::now(),
            requests: 0,
            _permit: permit,
        })
    }

    /// Takes back a connection whose last answer was complete.
    pub fn put(self: &Arc<Self>, lease: Lease) {
        let idle = Idle {
            stream: lease.stream,
            born: lease.born,
            since: Instant::now(),
            requests: lease.requests + 1,
        };
        if self.is_over(&idle) {
            return;
        }
        let mut state = self.lock();
        state.idle.push(idle);
        if !state.swept {
            state.swept = true;
            tokio::spawn(sweep(Arc::downgrade(self), self.limits.idle));
        }
    }

    fn is_over(&self, idle: &Idle) -> bool {
        let Limits {
            idle: longest,
            age,
            requests,
            ..
        } = self.limits;
        idle.since.elapsed() > longest
            || idle.born.elapsed() > age
            || (requests > 0 && idle.requests >= requests)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|bad| bad.into_inner())
    }
}

/// Closes connections that nobody has used for long, until none is left.
async fn sweep(pool: Weak<Pool>, pause: Duration) {
    loop {
        tokio::time::sleep(pause.max(Duration::from_secs(1))).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.lock();
        state.idle.retain(|idle| !pool.is_over(idle));
        if state.idle.is_empty() {
            state.swept = false;
            return;
        }
    }
}
