//! The client's verified host name: its address must lead to a name and the name back to it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Names found lately. Lookups are bounded in number and time, so that a slow DNS server costs
/// names, not sessions.
pub(crate) struct Names {
    known: Mutex<HashMap<IpAddr, (String, Instant)>>,
    running: Arc<Semaphore>,
}

const REMEMBERED: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_KNOWN: usize = 10_000;
const MOST_RUNNING: usize = 32;

impl Default for Names {
    fn default() -> Self {
        Names {
            known: Mutex::default(),
            running: Arc::new(Semaphore::new(MOST_RUNNING)),
        }
    }
}

impl Names {
    /// The name, or `unknown`.
    pub async fn of(&self, address: IpAddr) -> String {
        if let Some(name) = self.remembered(address) {
            return name;
        }
        let running = Arc::clone(&self.running);
        let ask = async move {
            let permit = running.acquire_owned().await.ok()?;
            let lookup = tokio::task::spawn_blocking(move || {
                let name = verified_name(address);
                drop(permit);
                name
            });
            lookup.await.ok().flatten()
        };
        let name = tokio::time::timeout(PATIENCE, ask).await.ok().flatten();
        let name = name.unwrap_or_else(|| "unknown".to_owned());
        let mut known = self.known.lock().unwrap_or_else(|bad| bad.into_inner());
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(address, (name.clone(), Instant::now()));
        name
    }

    fn remembered(&self, address: IpAddr) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(|bad| bad.into_inner());
        let (name, at) = known.get(&address)?;
        (at.elapsed() < REMEMBERED).then(|| name.clone())
    }
}

fn verified_name(address: IpAddr) -> Option<String> {
    let name = dns_lookup::lookup_addr(&address).ok()?;
    if name.parse::<IpAddr>().is_ok() || !mail::host::is_valid_name(&name) {
        return None;
    }
    let mut addresses = dns_lookup::lookup_host(&name).ok()?;
    addresses.any(|found| found == address).then_some(name)
}
