//! The table server's listeners and the connections they accept. Those that a reload does not change
//! stay open.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use config::{Config, ConfigError};
use tables::split_specs;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::endpoint::{Endpoint, Place, Protocol};
use super::metrics::add;
use super::socket::Socket;
use super::{Options, Shared, connection, endpoints, scrape};
use crate::Shutdown;

/// A listener that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "{parameter}: cannot listen on {place}: {source}; stop the program that has it, or choose another place"
    )]
    Bind {
        parameter: &'static str,
        place: Place,
        source: io::Error,
    },
    #[error("postroom_metrics_listen: {0:?} is no place to listen; write HOST:PORT")]
    Metrics(String),
    #[error(
        "postroom_tables_listen is empty: nothing to listen on; set it to unix:private/postroom"
    )]
    Nothing,
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Connections at once; beyond it they wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 20_000;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Listener {
    Tables(Endpoint),
    Metrics(Place),
}

/// The open listeners.
pub(crate) struct Listeners {
    shared: Arc<Shared>,
    shutdown: Shutdown,
    open: HashMap<Listener, Vec<JoinHandle<()>>>,
    room: Arc<Semaphore>,
}

impl Listeners {
    pub fn new(shared: Arc<Shared>, shutdown: Shutdown) -> Listeners {
        Listeners {
            shared,
            shutdown,
            open: HashMap::new(),
            room: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        }
    }

    /// Opens what is wanted and not open, closes what is not wanted. Returns the places that were
    /// opened, for people.
    pub fn bind(&mut self, config: &Config, options: &Options) -> Result<Vec<String>, ListenError> {
        let wanted = wanted(config, options)?;
        let owner = config.string("mail_owner")?;
        let mut fresh = Vec::new();
        for listener in &wanted {
            if !self.open.contains_key(listener) {
                fresh.push((listener.clone(), open(listener, &owner)?));
            }
        }
        // Aborted tasks close their sockets.
        self.open.retain(|listener, tasks| {
            let keep = wanted.contains(listener);
            if !keep {
                tasks.iter().for_each(JoinHandle::abort);
            }
            keep
        });
        let mut places = Vec::new();
        for (listener, sockets) in fresh {
            let what = match &listener {
                Listener::Tables(endpoint) => match &endpoint.protocol {
                    Protocol::Socketmap => "socketmap".to_owned(),
                    Protocol::TcpTable(name) => format!("{name} by tcp_table"),
                },
                Listener::Metrics(_) => "metrics".to_owned(),
            };
            places.extend(
                sockets
                    .iter()
                    .map(|socket| format!("{what} on {}", socket.shown())),
            );
            let start = |socket| self.start(&listener, socket);
            let tasks = sockets.into_iter().map(start).collect();
            self.open.insert(listener, tasks);
        }
        Ok(places)
    }

    fn start(&self, listener: &Listener, socket: Socket) -> JoinHandle<()> {
        let shared = Arc::clone(&self.shared);
        match (listener, socket) {
            (Listener::Metrics(_), Socket::Tcp(socket)) => {
                tokio::spawn(scrape::accept_loop(socket, shared))
            }
            (Listener::Tables(endpoint), socket) => {
                let accepting = Accepting {
                    protocol: Arc::new(endpoint.protocol.clone()),
                    room: Arc::clone(&self.room),
                    shutdown: self.shutdown.clone(),
                    shared,
                };
                tokio::spawn(accepting.run(socket))
            }
            // `wanted` makes no such listener.
            (Listener::Metrics(_), Socket::Unix(..)) => tokio::spawn(async {}),
        }
    }

    /// Stops accepting, and waits for the lookups that are under way.
    pub async fn finish(self, grace: Duration) {
        self.open.values().flatten().for_each(JoinHandle::abort);
        let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
        let ended = tokio::time::timeout(grace, self.room.acquire_many(all)).await;
        if ended.is_err() {
            tracing::warn!(
                prog = "tables",
                "gave up waiting for lookups after {} s (postroom_shutdown_timeout)",
                grace.as_secs()
            );
        }
    }
}

fn wanted(config: &Config, options: &Options) -> Result<Vec<Listener>, ListenError> {
    let tables = endpoints(config, options.listen.as_deref())?;
    if tables.is_empty() {
        return Err(ListenError::Nothing);
    }
    let mut wanted: Vec<Listener> = tables.into_iter().map(Listener::Tables).collect();
    let metrics = match &options.metrics {
        Some(text) => text.clone(),
        None => config.string("postroom_metrics_listen")?,
    };
    for item in split_specs(&metrics) {
        let address = item.strip_prefix("inet:").unwrap_or(&item);
        let place = Place::inet(address).ok_or_else(|| ListenError::Metrics(item.clone()))?;
        wanted.push(Listener::Metrics(place));
    }
    Ok(wanted)
}

fn open(listener: &Listener, owner: &str) -> Result<Vec<Socket>, ListenError> {
    let (parameter, place) = match listener {
        Listener::Tables(endpoint) => ("postroom_tables_listen", &endpoint.place),
        Listener::Metrics(place) => ("postroom_metrics_listen", place),
    };
    Socket::open(place, owner).map_err(|source| ListenError::Bind {
        parameter,
        place: place.clone(),
        source,
    })
}

/// One listening socket at work.
struct Accepting {
    protocol: Arc<Protocol>,
    room: Arc<Semaphore>,
    shutdown: Shutdown,
    shared: Arc<Shared>,
}

impl Accepting {
    async fn run(self, socket: Socket) {
        loop {
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
                return;
            };
            let accepted = match &socket {
                Socket::Tcp(listener) => listener.accept().await.map(|(stream, peer)| {
                    // Small answers, one at a time: waiting to fill a packet gains nothing.
                    let _ = stream.set_nodelay(true);
                    self.spawn(stream, peer.to_string(), permit);
                }),
                Socket::Unix(listener, _) => listener.accept().await.map(|(stream, _)| {
                    self.spawn(stream, "a unix socket".to_owned(), permit);
                }),
            };
            if let Err(error) = accepted {
                // Out of file descriptors, or the client went away: neither ends the service.
                self.shared
                    .complaints
                    .warn(format!("accept connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn spawn<S>(&self, stream: S, peer: String, permit: tokio::sync::OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (protocol, shared) = (Arc::clone(&self.protocol), Arc::clone(&self.shared));
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let _counted = Counted::new(Arc::clone(&shared));
            connection::serve(stream, peer, protocol, shared, shutdown).await;
            drop(permit);
        });
    }
}

/// Keeps the count of open connections right, however one ends.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: Arc<Shared>) -> Counted {
        add(&shared.metrics.accepted);
        shared.metrics.open.fetch_add(1, Ordering::Relaxed);
        Counted(shared)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.open.fetch_sub(1, Ordering::Relaxed);
    }
}
