//! From the name of a nexthop to the addresses to try, in order.

use std::net::{IpAddr, SocketAddr};

use config::{Config, ConfigError};
use dns::{Dns, Kind, Record};
use mail::status::EnhancedCode;
use smtp::Protocol;

use super::Peer;
use super::destination::Destination;

/// Why there is no host to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub code: EnhancedCode,
    pub text: String,
}

impl Trouble {
    pub fn new(code: EnhancedCode, text: impl Into<String>) -> Trouble {
        Trouble {
            code,
            text: text.into(),
        }
    }
}

const NOT_FOUND: EnhancedCode = EnhancedCode::new(5, 4, 4);
const TRY_AGAIN: EnhancedCode = EnhancedCode::new(4, 4, 3);

/// Finds hosts by DNS, or by the system's own means (`smtp_host_lookup = native`, `disable_dns_lookups = yes`).
pub struct Resolver {
    dns: Option<Dns>,
    native: bool,
    ipv4: bool,
    ipv6: bool,
    /// `smtp_mx_address_limit`; 0: none.
    limit: usize,
    hostname: String,
    own_addresses: Vec<IpAddr>,
    port: u16,
}

impl Resolver {
    /// `prefix` is `smtp_` or `lmtp_`.
    pub fn new(config: &Config, prefix: &str, protocol: Protocol) -> Result<Resolver, ConfigError> {
        let words = config.list("inet_protocols")?;
        let has = |name: &str| words.iter().any(|word| word == name || word == "all");
        let lookup = config.list(&format!("{prefix}host_lookup"))?;
        let uses_dns =
            !config.bool("disable_dns_lookups")? && lookup.iter().any(|word| word == "dns");
        let interfaces = config.environment().interfaces.iter();
        Ok(Resolver {
            dns: uses_dns.then(Dns::system).filter(Dns::is_usable),
            native: !uses_dns || lookup.iter().any(|word| word == "native"),
            ipv4: has("ipv4"),
            ipv6: has("ipv6"),
            limit: usize::try_from(config.int(&format!("{prefix}mx_address_limit"))?).unwrap_or(0),
            hostname: config.string("myhostname")?,
            own_addresses: interfaces.map(|interface| interface.address).collect(),
            port: if protocol == Protocol::Smtp { 25 } else { 24 },
        })
    }

    /// The peers of a destination, best first; never empty.
    pub async fn peers(&self, destination: &Destination) -> Result<Vec<Peer>, Trouble> {
        let (name, port, mx) = match destination {
            Destination::Unix(path) => return Ok(vec![Peer::Unix { path: path.clone() }]),
            Destination::Host { name, port, mx } => (name, *port, *mx),
        };
        let peer = |host: &str, address: IpAddr| Peer::Tcp {
            host: host.to_owned(),
            address: SocketAddr::new(address, port),
        };
        if let Ok(address) = name.parse() {
            return Ok(vec![peer(name, address)]);
        }
        let hosts = match (&self.dns, mx) {
            (Some(dns), true) => self.exchangers(dns, name, port).await?,
            _ => vec![name.clone()],
        };
        let mut peers = Vec::new();
        let mut trouble: Option<Trouble> = None;
        for host in &hosts {
            match self.addresses(host).await {
                Ok(addresses) => {
                    peers.extend(addresses.into_iter().map(|address| peer(host, address)))
                }
                // Temporary trouble with one host outweighs the absence of another.
                Err(new) if trouble.as_ref().is_none_or(|old| old.code.class == 5) => {
                    trouble = Some(new)
                }
                Err(_) => {}
            }
        }
        if self.limit > 0 {
            peers.truncate(self.limit);
        }
        match trouble {
            Some(trouble) if peers.is_empty() => Err(trouble),
            _ => Ok(peers),
        }
    }

    /// The mail exchangers of a domain that are better than ourselves; the domain itself without MX records
    /// (RFC 5321 section 5.1).
    async fn exchangers(&self, dns: &Dns, domain: &str, port: u16) -> Result<Vec<String>, Trouble> {
        let found = match dns.lookup(domain, Kind::Mx).await {
            Ok(found) => found,
            Err(trouble) if trouble.is_absence() => return Ok(vec![domain.to_owned()]),
            Err(trouble) => return Err(dns_trouble(domain, Kind::Mx, trouble)),
        };
        let mut records: Vec<(u16, String)> = found
            .into_iter()
            .filter_map(|record| match record {
                Record::Mx { preference, host } => Some((preference, host)),
                _ => None,
            })
            .collect();
        // RFC 7505: the null MX.
        if records.iter().all(|(_, host)| host.is_empty()) {
            let text = format!("Domain {domain} does not accept mail (nullMX)");
            return Err(Trouble::new(EnhancedCode::new(5, 1, 0), text));
        }
        records.retain(|(_, host)| !host.is_empty());
        shuffle(&mut records);
        records.sort_by_key(|(preference, _)| *preference);
        if port == self.port
            && let Some(own) = self.own_place(&records).await
        {
            records.retain(|(preference, _)| *preference < own);
            if records.is_empty() {
                let text = format!("mail for {domain} loops back to myself");
                return Err(Trouble::new(EnhancedCode::new(5, 4, 6), text));
            }
        }
        Ok(records.into_iter().map(|(_, host)| host).collect())
    }

    /// The preference at which this host itself stands among the exchangers.
    async fn own_place(&self, records: &[(u16, String)]) -> Option<u16> {
        for (preference, host) in records {
            if host.eq_ignore_ascii_case(&self.hostname) {
                return Some(*preference);
            }
            let addresses = self.addresses(host).await.unwrap_or_default();
            if addresses
                .iter()
                .any(|address| self.own_addresses.contains(address))
            {
                return Some(*preference);
            }
        }
        None
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Trouble> {
        let mut trouble = None;
        if let Some(dns) = &self.dns {
            match self.by_dns(dns, host).await {
                Ok(addresses) => return Ok(addresses),
                Err(error) => trouble = Some(error),
            }
        }
        match trouble {
            Some(trouble) if !self.native => Err(trouble),
            _ => self.by_system(host).await,
        }
    }

    async fn by_dns(&self, dns: &Dns, host: &str) -> Result<Vec<IpAddr>, Trouble> {
        let kinds: &[Kind] = match (self.ipv6, self.ipv4) {
            (true, true) => &[Kind::Aaaa, Kind::A],
            (true, false) => &[Kind::Aaaa],
            _ => &[Kind::A],
        };
        let kind = *kinds.last().unwrap_or(&Kind::A);
        let found = dns.addresses(host, kinds).await;
        found.map_err(|trouble| dns_trouble(host, kind, trouble))
    }

    /// getaddrinfo(3): `/etc/hosts` and whatever else the system asks.
    async fn by_system(&self, host: &str) -> Result<Vec<IpAddr>, Trouble> {
        let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| {
            let words = error.to_string();
            let why = words
                .rsplit_once(": ")
                .map_or(words.as_str(), |(_, why)| why);
            let code = if why.contains("emporary") {
                TRY_AGAIN
            } else {
                NOT_FOUND
            };
            Trouble::new(code, format!("unable to look up host {host}: {why}"))
        })?;
        let wanted = |address: &IpAddr| {
            if address.is_ipv4() {
                self.ipv4
            } else {
                self.ipv6
            }
        };
        let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).filter(wanted).collect();
        addresses.dedup();
        if addresses.is_empty() {
            let text =
                format!("unable to look up host {host}: no address of the kinds in inet_protocols");
            return Err(Trouble::new(NOT_FOUND, text));
        }
        Ok(addresses)
    }
}

fn dns_trouble(name: &str, kind: Kind, trouble: dns::Trouble) -> Trouble {
    let (code, why) = match trouble.is_absence() {
        true => (NOT_FOUND, "Host not found"),
        false => (TRY_AGAIN, "Host not found, try again"),
    };
    let text = format!(
        "Host or domain name not found. Name service error for name={name} type={kind}: {why}"
    );
    Trouble::new(code, text)
}

/// Spreads the load over exchangers of equal preference. The standard library's hash keys are random
/// enough for that.
fn shuffle<T>(list: &mut [T]) {
    use std::hash::{BuildHasher, RandomState};
    for end in (1..list.len()).rev() {
        let random = RandomState::new().hash_one(end) as usize;
        list.swap(end, random % (end + 1));
    }
}
