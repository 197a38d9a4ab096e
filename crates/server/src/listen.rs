//! Listening sockets, as the `inet … smtpd` services of master.cf ask for them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::master::{Service, ServiceKind};
use config::{Config, ConfigError, Origin};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::generation::{Generation, Smtpd};
use crate::log;
use crate::session::{self, Shared};
use crate::spawn::Spawners;

/// A socket that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "master.cf, line {line}: cannot listen on {address}: {source}; stop the program that uses \
         the port, or change the service's address"
    )]
    Bind {
        address: SocketAddr,
        line: usize,
        source: io::Error,
    },
    #[error("master.cf, line {line}: {problem}; write port, host:port or [address]:port")]
    Address { line: usize, problem: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "master.cf has no \"inet … smtpd\" service: nothing to listen on; add a line such as \"smtp inet n - n - - smtpd\""
    )]
    Nothing,
}

/// Connections waiting to be accepted; enough for a burst of clients.
const BACKLOG: i32 = 1024;

/// The open listeners. Those whose address stays are kept over a reload.
pub(crate) struct Listeners {
    shared: Arc<Shared>,
    open: HashMap<SocketAddr, Open>,
    sessions: Arc<tokio::sync::Mutex<JoinSet<()>>>,
    spawners: Spawners,
}

struct Open {
    accepting: JoinHandle<()>,
    service: watch::Sender<Arc<Smtpd>>,
    local: SocketAddr,
}

impl Listeners {
    pub fn new(shared: Arc<Shared>) -> Listeners {
        Listeners {
            shared,
            open: HashMap::new(),
            sessions: Arc::default(),
            spawners: Spawners::default(),
        }
    }

    /// Opens what the generation wants and is not open, closes what it does not want, and hands
    /// the others their new settings. Returns the addresses that are listened on.
    pub fn bind(&mut self, generation: &Generation) -> Result<Vec<SocketAddr>, ListenError> {
        let mut wanted: HashMap<SocketAddr, Arc<Smtpd>> = HashMap::new();
        for smtpd in &generation.smtpd {
            for address in addresses(&generation.config, &smtpd.service.name, smtpd.service.line)? {
                wanted.insert(address, Arc::clone(smtpd));
            }
        }
        if wanted.is_empty() {
            return Err(ListenError::Nothing);
        }
        let mut fresh = Vec::new();
        for (address, smtpd) in &wanted {
            if !self.open.contains_key(address) {
                fresh.push((*address, Arc::clone(smtpd), self.listen(*address, smtpd)?));
            }
        }
        for (address, open) in &self.open {
            if let Some(smtpd) = wanted.get(address) {
                open.service.send_replace(Arc::clone(smtpd));
            }
        }
        for (address, smtpd, listener) in fresh {
            let open = self.accept(listener, smtpd);
            self.open.insert(address, open);
        }
        self.open.retain(|address, open| {
            let keep = wanted.contains_key(address);
            if !keep {
                open.accepting.abort();
            }
            keep
        });
        self.spawners.bind(&generation.spawn);
        Ok(self.open.values().map(|open| open.local).collect())
    }

    fn listen(&self, address: SocketAddr, smtpd: &Smtpd) -> Result<TcpListener, ListenError> {
        let line = smtpd.service.line;
        bind_tcp(address).map_err(|source| ListenError::Bind {
            address,
            line,
            source,
        })
    }

    fn accept(&self, listener: TcpListener, smtpd: Arc<Smtpd>) -> Open {
        let local = listener
            .local_addr()
            .unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let (service, settings) = watch::channel(smtpd);
        let shared = Arc::clone(&self.shared);
        let sessions = Arc::clone(&self.sessions);
        let accepting = tokio::spawn(accept_loop(listener, settings, shared, sessions));
        Open {
            accepting,
            service,
            local,
        }
    }

    /// Stops accepting and waits for the sessions to end.
    pub async fn finish(self) {
        for open in self.open.values() {
            open.accepting.abort();
        }
        let mut sessions = self.sessions.lock().await;
        while sessions.join_next().await.is_some() {}
    }
}

/// How often it is said that a service is full.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(100);

async fn accept_loop(
    listener: TcpListener,
    settings: watch::Receiver<Arc<Smtpd>>,
    shared: Arc<Shared>,
    sessions: Arc<tokio::sync::Mutex<JoinSet<()>>>,
) {
    let mut complained: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // One that came while all places are taken waits here, those behind it in the kernel's queue.
                let smtpd = Arc::clone(&settings.borrow());
                complain_when_full(&smtpd, &mut complained);
                let free = Arc::clone(&smtpd.room.free);
                let Ok(permit) = free.acquire_owned().await else {
                    return;
                };
                let shared = Arc::clone(&shared);
                let mut sessions = sessions.lock().await;
                while sessions.try_join_next().is_some() {}
                let name = smtpd.log_name.clone();
                sessions.spawn(log::named(name, async move {
                    session::serve(stream, peer, smtpd, shared).await;
                    drop(permit);
                }));
            }
            Err(error) => {
                // Out of file descriptors, or the client went away: neither ends the service.
                tracing::warn!(prog = "master", "accept connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// In Postfix's words.
fn complain_when_full(smtpd: &Smtpd, last: &mut Option<Instant>) {
    let often = last.is_some_and(|then| then.elapsed() < COMPLAINT_INTERVAL);
    if often || smtpd.room.free.available_permits() > 0 {
        return;
    }
    *last = Some(Instant::now());
    let (name, limit) = (&smtpd.service.name, smtpd.room.limit);
    tracing::warn!(
        prog = "master",
        "service \"{name}\" has reached its process limit \"{limit}\": new clients may experience noticeable delays"
    );
}

/// SMTP services of master.cf whose name is no address.
pub(crate) fn misaddressed(config: &Config) -> Vec<ConfigError> {
    let smtpd =
        |service: &&Service| service.kind == ServiceKind::Inet && service.command == "smtpd";
    let wrong = |service: &Service| match addresses(config, &service.name, service.line) {
        Err(ListenError::Address { line, problem }) => {
            let remedy = "write port, host:port or [address]:port, and a name of /etc/services or a number for the port";
            let file = config.dir().join("master.cf");
            Some(ConfigError::new(problem, remedy).at(Some(Origin::new(&file, line))))
        }
        _ => None,
    };
    config
        .services()
        .iter()
        .filter(smtpd)
        .filter_map(wrong)
        .collect()
}

/// The addresses of a service's name: `port`, `host:port`, `[address]:port`; a bare port means the
/// addresses of `inet_interfaces`.
pub(crate) fn addresses(
    config: &Config,
    name: &str,
    line: usize,
) -> Result<Vec<SocketAddr>, ListenError> {
    let complain = |problem: String| ListenError::Address { line, problem };
    let (host, port) = match name.rsplit_once(':') {
        Some((host, port)) => (Some(host), port),
        None => (None, name),
    };
    let port = port_number(port).ok_or_else(|| complain(format!("unknown service {port:?}")))?;
    let with_port = |hosts: Vec<IpAddr>| {
        hosts
            .into_iter()
            .map(|ip| SocketAddr::new(ip, port))
            .collect()
    };
    match host {
        Some(host) if !host.is_empty() => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let found = host_addresses(bare);
            match found.is_empty() {
                true => Err(complain(format!("unknown host {host:?}"))),
                false => Ok(with_port(found)),
            }
        }
        _ => Ok(with_port(interfaces(config)?)),
    }
}

fn interfaces(config: &Config) -> Result<Vec<IpAddr>, ListenError> {
    let protocols = config.list("inet_protocols")?;
    let all = protocols
        .iter()
        .any(|name| name.eq_ignore_ascii_case("all"));
    let enabled = |name: &str| all || protocols.iter().any(|p| p.eq_ignore_ascii_case(name));
    let mut addresses = Vec::new();
    for item in config.list("inet_interfaces")? {
        match item.to_ascii_lowercase().as_str() {
            "all" => {
                addresses.push(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                addresses.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            }
            "loopback-only" => {
                addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
                addresses.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
            }
            other => {
                let bare = other.trim_start_matches('[').trim_end_matches(']');
                addresses.extend(host_addresses(bare));
            }
        }
    }
    let ipv6 = enabled("ipv6") && has_ipv6();
    addresses.retain(|ip| if ip.is_ipv4() { enabled("ipv4") } else { ipv6 });
    addresses.dedup();
    Ok(addresses)
}

/// Whether the kernel has IPv6 at all.
fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

pub(crate) fn host_addresses(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    use std::net::ToSocketAddrs;
    match (host, 0).to_socket_addrs() {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(_) => Vec::new(),
    }
}

/// A socket that listens, also right after another one there was closed.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A number, or a mail service's name in /etc/services.
fn port_number(text: &str) -> Option<u16> {
    match text {
        "smtp" => Some(25),
        "submission" => Some(587),
        "smtps" | "submissions" | "urd" | "ssmtp" => Some(465),
        "lmtp" => Some(24),
        number => number.parse().ok().or_else(|| known_port(number)),
    }
}

/// The port of a service that /etc/services has for TCP.
fn known_port(name: &str) -> Option<u16> {
    let known = std::fs::read_to_string("/etc/services").ok()?;
    known.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (first, port) = (words.next()?, words.next()?);
        let port = port.strip_suffix("/tcp")?;
        let is_it = first == name || words.any(|alias| alias == name);
        is_it.then(|| port.parse().ok())?
    })
}
