//! Which domains and address literals are this machine itself.

use std::net::IpAddr;

use config::{Config, ConfigError};

use crate::Router;
use crate::walk::{Failure, Walk};

/// The addresses that count as ours: `inet_interfaces` and `proxy_interfaces`, where `all` and
/// `loopback-only` select from `machine`, the addresses of this machine's interfaces. Names of
/// hosts stand for nothing here.
pub fn own_addresses(config: &Config, machine: &[IpAddr]) -> Result<Vec<IpAddr>, ConfigError> {
    let mut addresses = Vec::new();
    for parameter in ["inet_interfaces", "proxy_interfaces"] {
        for item in config.list(parameter)? {
            match item.to_ascii_lowercase().as_str() {
                "all" => addresses.extend_from_slice(machine),
                "loopback-only" => {
                    addresses.extend(machine.iter().filter(|address| address.is_loopback()));
                }
                "localhost" => addresses.push(IpAddr::from([127, 0, 0, 1])),
                other => {
                    let bare = other.trim_start_matches('[').trim_end_matches(']');
                    addresses.extend(bare.parse::<IpAddr>());
                }
            }
        }
    }
    Ok(addresses)
}

impl Router {
    /// Whether mail for the domain is for this machine: `mydestination`, or an address literal of
    /// ours.
    pub(crate) async fn is_local(&self, walk: &mut Walk, domain: &str) -> Result<bool, Failure> {
        let domain = match domain.strip_suffix('.') {
            Some(bare) if !bare.ends_with('.') => bare,
            _ => domain,
        };
        if domain.is_empty() {
            return Ok(false);
        }
        if self.mydestination.has(walk, domain).await? {
            return Ok(true);
        }
        let literal = mail::host::literal_address(domain);
        Ok(literal.is_some_and(|address| self.own_addresses.contains(&address)))
    }
}
