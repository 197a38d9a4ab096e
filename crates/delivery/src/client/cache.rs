//! Connections kept for the next message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Peer;
use super::connection::Connection;

/// How long and how often a connection is used again (`smtp_connection_*`).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Between two messages.
    pub idle: Duration,
    /// In all.
    pub age: Duration,
    /// Messages; 0: no limit.
    pub uses: usize,
    pub enabled: bool,
}

/// Keeps connections, and closes them in time.
pub struct Cache {
    limits: Limits,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// By peer, the last used one at the end.
    connections: HashMap<Peer, Vec<(Instant, Connection)>>,
    /// A task is there that closes them.
    has_keeper: bool,
}

impl Cache {
    pub fn new(limits: Limits) -> Cache {
        Cache {
            limits,
            idle: Mutex::default(),
        }
    }

    /// A connection that may still work.
    pub fn take(&self, peer: &Peer) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.connections.get_mut(peer)?;
        let (since, connection) = kept.pop()?;
        if kept.is_empty() {
            idle.connections.remove(peer);
        }
        (since.elapsed() < self.limits.idle).then_some(connection)
    }

    /// Keeps the connection, or closes it when it cannot be used again.
    pub fn put(self: &Arc<Self>, peer: Peer, connection: Connection) {
        if !connection.is_open() {
            return;
        }
        if !connection.is_plain() {
            tokio::spawn(connection.quit());
            return;
        }
        let Limits {
            idle,
            age,
            uses,
            enabled,
        } = self.limits;
        let worn = connection.age() >= age || (uses > 0 && connection.uses() as usize >= uses);
        if !enabled || worn || idle.is_zero() {
            tokio::spawn(connection.quit());
            return;
        }
        let now = Instant::now();
        let mut kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let has_keeper = std::mem::replace(&mut kept.has_keeper, true);
        kept.connections
            .entry(peer)
            .or_default()
            .push((now, connection));
        drop(kept);
        if !has_keeper {
            let cache = Arc::clone(self);
            tokio::spawn(async move { while cache.expire().await {} });
        }
    }

    /// Closes all.
    pub async fn clear(&self) {
        let all = std::mem::take(
            &mut self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .connections,
        );
        for (_, connection) in all.into_values().flatten() {
            connection.quit().await;
        }
    }

    /// Waits, closes what has been idle for too long, and tells whether anything is left.
    async fn expire(&self) -> bool {
        tokio::time::sleep(self.limits.idle).await;
        let (old, is_left) = self.remove_old();
        for connection in old {
            connection.quit().await;
        }
        is_left
    }

    fn remove_old(&self) -> (Vec<Connection>, bool) {
        let limit = self.limits.idle;
        let mut old = Vec::new();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.connections.retain(|_, kept| {
            let gone = kept.extract_if(.., |(since, _)| since.elapsed() >= limit);
            old.extend(gone.map(|(_, connection)| connection));
            !kept.is_empty()
        });
        idle.has_keeper = !idle.connections.is_empty();
        (old, idle.has_keeper)
    }
}
