//! How much happens at once: sessions of a service, deliveries of a transport and to one destination.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use config::master::{Service, ServiceKind};
use config::{Config, ConfigError};
use tokio::sync::Semaphore;

use crate::generation::positive;

/// The process limit of a service, as a limit of sessions.
pub(crate) struct Room {
    pub limit: usize,
    pub free: Arc<Semaphore>,
}

impl Room {
    /// Beyond this many, connections wait in the kernel's queue, whatever the limit is.
    const MOST: usize = 20_000;

    /// The number in master.cf; without one `default_process_limit`, where main.cf sets it: Postfix's own 100
    /// is about processes. 0 is no limit.
    pub fn of(config: &Config, service: &Service) -> Result<Room, ConfigError> {
        let limit = match (service.max_processes, config.raw("default_process_limit")) {
            (Some(0), _) | (None, None) => Room::MOST,
            (Some(limit), _) => (limit as usize).min(Room::MOST),
            (None, Some(_)) => positive(config, "default_process_limit")?.min(Room::MOST),
        };
        Ok(Room {
            limit,
            free: Arc::new(Semaphore::new(limit)),
        })
    }
}

/// How many deliveries of a transport, and to one destination of it, run at once.
pub(crate) struct TransportLimits {
    config: Config,
    of_transport: Mutex<HashMap<String, Arc<Semaphore>>>,
    of_destination: Mutex<HashMap<(String, String), Arc<Semaphore>>>,
}

impl TransportLimits {
    pub fn new(config: &Config) -> TransportLimits {
        TransportLimits {
            config: config.clone(),
            of_transport: Mutex::default(),
            of_destination: Mutex::default(),
        }
    }

    /// The process limit of the transport's service in master.cf.
    pub fn transport(&self, transport: &str) -> Arc<Semaphore> {
        let mut known = self
            .of_transport
            .lock()
            .unwrap_or_else(|bad| bad.into_inner());
        if let Some(limit) = known.get(transport) {
            return Arc::clone(limit);
        }
        let service = self
            .config
            .services()
            .iter()
            .find(|service| service.kind == ServiceKind::Unix && service.name == transport);
        let limit = match service.and_then(|service| service.max_processes) {
            Some(0) => Semaphore::MAX_PERMITS,
            Some(limit) => limit as usize,
            None => self
                .config
                .int("default_process_limit")
                .ok()
                .and_then(|limit| usize::try_from(limit).ok())
                .unwrap_or(100),
        };
        let limit = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        known.insert(transport.to_owned(), Arc::clone(&limit));
        limit
    }

    /// `TRANSPORT_destination_concurrency_limit`.
    pub fn destination(&self, transport: &str, nexthop: &str) -> Arc<Semaphore> {
        let mut known = self
            .of_destination
            .lock()
            .unwrap_or_else(|bad| bad.into_inner());
        let key = (transport.to_owned(), nexthop.to_owned());
        if let Some(limit) = known.get(&key) {
            return Arc::clone(limit);
        }
        // Destinations come and go; those that nobody waits for need no memory.
        if known.len() > 10_000 {
            known.retain(|_, limit| Arc::strong_count(limit) > 1);
        }
        let suffix = "destination_concurrency_limit";
        let limit =
            transport_parameter(&self.config, transport, suffix).unwrap_or(Semaphore::MAX_PERMITS);
        let limit = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        known.insert(key, Arc::clone(&limit));
        limit
    }
}

/// `TRANSPORT_suffix`, or `default_suffix`; `None` for no limit.
pub(crate) fn transport_parameter(config: &Config, transport: &str, suffix: &str) -> Option<usize> {
    let own = config.int(&format!("{transport}_{suffix}"));
    let value = own
        .or_else(|_| config.int(&format!("default_{suffix}")))
        .ok()?;
    usize::try_from(value).ok().filter(|&limit| limit > 0)
}
