//! What policy services are told of a connection and its transaction.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::transaction::Client;

/// The part of a transaction in it; `Default` outside one.
#[derive(Default)]
pub(crate) struct Told {
    pub queue_id: String,
    pub instance: String,
    pub size: u64,
    pub sasl_sender: String,
}

impl Told {
    /// All of it, for the decision about `command`.
    pub fn connection<'a>(
        &'a self,
        client: &Client<'a>,
        command: &'a str,
    ) -> Option<policy::Connection<'a>> {
        let encryption = client.encryption;
        let certificate = encryption.and_then(|encryption| encryption.certificate.as_ref());
        Some(policy::Connection {
            command,
            protocol: client.protocol,
            client_port: client.peer.port,
            reverse_client_name: &client.peer.reverse_name,
            server: client.server.map(canonical),
            queue_id: &self.queue_id,
            instance: &self.instance,
            size: self.size,
            etrn_domain: "",
            sasl_method: client.login.map_or("", |login| login.mechanism.as_str()),
            sasl_sender: &self.sasl_sender,
            certificate_issuer: certificate.map_or("", |found| found.names.issuer.as_str()),
            encryption_protocol: encryption.map_or("", |encryption| encryption.protocol),
            encryption_cipher: encryption.map_or("", |encryption| encryption.suite.as_str()),
            encryption_keysize: encryption.map_or(0, |encryption| u32::from(encryption.bits)),
        })
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A name for a transaction that no other has: process, time, and a number.
pub(crate) fn new_instance() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{:x}.{:x}.{:x}.{:x}",
        std::process::id(),
        now.as_secs(),
        now.subsec_micros(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    )
}
