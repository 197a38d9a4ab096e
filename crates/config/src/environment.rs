//! Facts of the machine that defaults depend on. Passed in, so that a test's configuration does not depend on the machine.

use std::net::IpAddr;

/// A network interface's address with the length of its network prefix, as `192.0.2.7/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    pub address: IpAddr,
    pub prefix: u8,
}

/// What `myhostname`, `mydomain`, `mynetworks` and `process_id` default to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// As `gethostname(2)` gives it, with or without a domain.
    pub hostname: String,
    /// Active interfaces, for `mynetworks` when `mynetworks_style` is `subnet` or `host`.
    pub interfaces: Vec<Interface>,
    pub process_id: u32,
    /// Default of `process_name`.
    pub process_name: String,
}

impl Environment {
    /// An environment without network interfaces but the loopback ones; for tests and demonstrations.
    pub fn fixed(hostname: &str) -> Environment {
        Environment {
            hostname: hostname.to_owned(),
            interfaces: vec![
                Interface {
                    address: IpAddr::from([127, 0, 0, 1]),
                    prefix: 8,
                },
                Interface {
                    address: IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
                    prefix: 128,
                },
            ],
            process_id: 1,
            process_name: "postroom".to_owned(),
        }
    }

    /// Asks the operating system. What cannot be found out is left at its harmless value.
    pub fn of_this_machine() -> Environment {
        let hostname = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "localhost".to_owned());
        Environment {
            hostname,
            interfaces: interfaces(),
            process_id: std::process::id(),
            process_name: "postroom".to_owned(),
        }
    }
}

fn interfaces() -> Vec<Interface> {
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    addresses
        .filter(|entry| entry.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP))
        .filter_map(|entry| {
            let address = ip_of(entry.address.as_ref()?)?;
            let prefix = match ip_of(entry.netmask.as_ref()?)? {
                IpAddr::V4(mask) => mask.to_bits().leading_ones(),
                IpAddr::V6(mask) => mask.to_bits().leading_ones(),
            };
            let prefix = u8::try_from(prefix).ok()?;
            Some(Interface { address, prefix })
        })
        .collect()
}

fn ip_of(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}
