//! The client's host name: what its address leads to, and whether that leads back to the address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dns_lookup::{LookupError, LookupErrorKind, getnameinfo};
use smtp::server::{NameStatus, Peer};
use tokio::sync::Semaphore;

/// Names found lately. Lookups are bounded in number and time, so that a slow DNS server costs
/// names, not sessions.
pub(crate) struct Names {
    known: Mutex<HashMap<IpAddr, (Name, Instant)>>,
    running: Arc<Semaphore>,
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    verified: Result<String, NameStatus>,
    reverse: Result<String, NameStatus>,
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
    /// The client with its names, or `unknown`.
    pub async fn of(&self, address: IpAddr, port: u16) -> Peer {
        let name = match self.remembered(address) {
            Some(name) => name,
            None => self.find(address).await,
        };
        let mut peer = Peer::new(Peer::UNKNOWN, address, port);
        match name.verified {
            Ok(name) => (peer.name, peer.name_status) = (name, NameStatus::Known),
            Err(status) => peer.name_status = status,
        }
        match name.reverse {
            Ok(name) => (peer.reverse_name, peer.reverse_status) = (name, NameStatus::Known),
            Err(status) => peer.reverse_status = status,
        }
        peer
    }

    async fn find(&self, address: IpAddr) -> Name {
        let running = Arc::clone(&self.running);
        let ask = async move {
            let permit = running.acquire_owned().await.ok()?;
            let lookup = tokio::task::spawn_blocking(move || {
                let name = Name::of(address);
                drop(permit);
                name
            });
            lookup.await.ok()
        };
        let name = tokio::time::timeout(PATIENCE, ask).await.ok().flatten();
        let name = name.unwrap_or(Name {
            verified: Err(NameStatus::NotNow),
            reverse: Err(NameStatus::NotNow),
        });
        let mut known = self.known.lock().unwrap_or_else(|bad| bad.into_inner());
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(address, (name.clone(), Instant::now()));
        name
    }

    fn remembered(&self, address: IpAddr) -> Option<Name> {
        let known = self.known.lock().unwrap_or_else(|bad| bad.into_inner());
        let (name, at) = known.get(&address)?;
        (at.elapsed() < REMEMBERED).then(|| name.clone())
    }
}

impl Name {
    fn of(address: IpAddr) -> Name {
        let reverse = match getnameinfo(&SocketAddr::new(address, 0), 0) {
            Ok((name, _)) if is_name(&name) => Ok(name),
            Ok(_) => Err(NameStatus::None),
            Err(error) => Err(status(&error)),
        };
        let verified = match &reverse {
            Ok(name) => verify(name, address),
            Err(status) => Err(*status),
        };
        Name { verified, reverse }
    }
}

/// getnameinfo(3) gives the address itself where there is no name.
fn is_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_err() && mail::host::is_valid_name(name)
}

/// The name, if it leads back to the address.
fn verify(name: &str, address: IpAddr) -> Result<String, NameStatus> {
    let found = match dns_lookup::getaddrinfo(Some(name), None, None) {
        Ok(found) => found,
        Err(error) => {
            let text = error_text(&error);
            tracing::warn!(
                prog = "smtpd",
                "hostname {name} does not resolve to address {address}: {text}"
            );
            return Err(status(&error));
        }
    };
    let leads_back = found
        .flatten()
        .any(|found| found.sockaddr.ip().to_canonical() == address);
    if leads_back {
        return Ok(name.to_owned());
    }
    tracing::warn!(
        prog = "smtpd",
        "hostname {name} does not resolve to address {address}"
    );
    Err(NameStatus::Forged)
}

/// The words of gai_strerror(3) alone.
fn error_text(error: &LookupError) -> String {
    let text = error.to_string();
    let own = text.rsplit_once(": ").map(|(_, words)| words.to_owned());
    own.unwrap_or(text)
}

fn status(error: &LookupError) -> NameStatus {
    match error.kind() {
        LookupErrorKind::Again => NameStatus::NotNow,
        _ => NameStatus::None,
    }
}
