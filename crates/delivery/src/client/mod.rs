//! The smtp(8) agent in both its forms, SMTP and LMTP: finds the hosts of a nexthop, connects, and lets
//! `smtp::client` speak.

use std::sync::Arc;
use std::time::{Duration, Instant};

use config::{Config, ConfigError};
use mail::status::EnhancedCode;
use smtp::Protocol;
use smtp::client::{Command, RcptResult, Settings, Timeouts, Transaction};

use crate::dsn::decode_xtext;
use crate::request::{Message, Outcome, Rcpt, Remote, Request};

mod cache;
mod connection;
pub mod destination;
mod login;
mod resolve;
mod route;
mod tls;

use cache::Cache;
use connection::{Connection, Transfer};
use destination::{Destination, Hop};
use login::Logins;
use resolve::{Resolver, Trouble};
use route::Way;
use tables::Tables;
use tls::Tls;

/// The agent behind an `smtp` or `lmtp` service.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    protocol: Protocol,
    prog: &'static str,
    hostname: String,
    queue_directory: String,
    default_port: u16,
    settings: Arc<Settings>,
    connect_timeout: Duration,
    transfer_timeout: Duration,
    /// `smtp_line_length_limit`; 0: none.
    longest_line: usize,
    /// `smtp_mx_session_limit`; 0: none.
    session_limit: usize,
    resolver: Resolver,
    tls: Option<Arc<Tls>>,
    logins: Option<Logins>,
    /// `minimal_backoff_time`: a message that waits this long may go in the clear where TLS fails.
    patience: Duration,
    cache: Arc<Cache>,
}

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Relative paths start at `queue_directory`.
    Unix { path: String },
    Tcp {
        host: String,
        address: std::net::SocketAddr,
    },
}

impl Client {
    /// Reads the `smtp_*` or `lmtp_*` parameters.
    pub fn new(
        protocol: Protocol,
        config: &Config,
        tables: &Tables,
    ) -> Result<Client, ConfigError> {
        let (prog, prefix, helo, greeting) = match protocol {
            Protocol::Smtp => ("smtp", "smtp_", "helo_name", "helo_timeout"),
            Protocol::Lmtp => ("lmtp", "lmtp_", "lhlo_name", "lhlo_timeout"),
        };
        // In full: `line_length_limit` alone is smtpd's.
        let longest_line = match protocol {
            Protocol::Smtp => "smtp_line_length_limit",
            Protocol::Lmtp => "lmtp_line_length_limit",
        };
        let time = |name: &str| config.time(&format!("{prefix}{name}"));
        let count = |name: &str| -> Result<usize, ConfigError> {
            Ok(usize::try_from(config.int(&format!("{prefix}{name}"))?).unwrap_or(0))
        };
        let settings = Settings {
            protocol,
            helo_name: config.string(&format!("{prefix}{helo}"))?,
            discard_ehlo_keywords: match protocol {
                Protocol::Smtp => config.list("smtp_discard_ehlo_keywords")?,
                Protocol::Lmtp => config.list("lmtp_discard_lhlo_keywords")?,
            },
            timeouts: Timeouts {
                helo: time(greeting)?,
                mail: time("mail_timeout")?,
                rcpt: time("rcpt_timeout")?,
                data_init: time("data_init_timeout")?,
                data_done: time("data_done_timeout")?,
                rset: time("rset_timeout")?,
                quit: time("quit_timeout")?,
            },
            ..Settings::default()
        };
        let cache = Cache::new(cache::Limits {
            idle: time("connection_cache_time_limit")?,
            age: time("connection_reuse_time_limit")?,
            uses: count("connection_reuse_count_limit")?,
            enabled: config.bool(&format!("{prefix}connection_cache_on_demand"))?
                || !config
                    .list(&format!("{prefix}connection_cache_destinations"))?
                    .is_empty(),
        });
        Ok(Client {
            inner: Arc::new(Inner {
                protocol,
                prog,
                hostname: config.string("myhostname")?,
                queue_directory: config.string("queue_directory")?,
                default_port: match protocol {
                    Protocol::Smtp => 25,
                    Protocol::Lmtp => u16::try_from(config.int("lmtp_tcp_port")?).unwrap_or(24),
                },
                settings: Arc::new(settings),
                connect_timeout: time("connect_timeout")?,
                transfer_timeout: time("data_xfer_timeout")?,
                longest_line: usize::try_from(config.int(longest_line)?).unwrap_or(0),
                session_limit: count("mx_session_limit")?,
                resolver: Resolver::new(config, prefix, protocol)?,
                tls: Tls::of(config, tables, prog)?.map(Arc::new),
                logins: Logins::of(config, tables, prefix)?,
                patience: config.time("minimal_backoff_time")?,
                cache: Arc::new(cache),
            }),
        })
    }

    /// Says QUIT on all kept connections.
    pub async fn close(&self) {
        self.inner.cache.clear().await;
    }

    /// Delivers to all recipients in one transaction; those that one host cannot take now go to the next.
    pub async fn deliver(&self, request: &Request) -> Vec<Outcome> {
        let started = Instant::now();
        let mut delivery = Delivery::new(&self.inner, request);
        for Hop { name, destination } in Destination::parse_list(
            &request.nexthop,
            self.inner.protocol,
            self.inner.default_port,
        ) {
            let destination = match destination {
                Ok(destination) => destination,
                Err(text) => {
                    delivery.trouble(&Trouble::new(EnhancedCode::new(4, 3, 5), text));
                    continue;
                }
            };
            match self.inner.resolver.peers(&destination).await {
                Ok(peers) => delivery.try_peers(&peers, &name).await,
                Err(trouble) => delivery.trouble(&trouble),
            }
            if delivery.is_finished() {
                break;
            }
        }
        delivery.outcomes(started.elapsed())
    }
}

/// One request on its way through the hosts of its nexthop.
struct Delivery<'a> {
    client: &'a Inner,
    request: &'a Request,
    outcomes: Vec<Option<Outcome>>,
    /// Recipients that another host may still take.
    open: Vec<usize>,
    sessions: usize,
}

impl<'a> Delivery<'a> {
    fn new(client: &'a Inner, request: &'a Request) -> Delivery<'a> {
        let count = request.recipients.len();
        Delivery {
            client,
            request,
            outcomes: vec![None; count],
            open: (0..count).collect(),
            sessions: 0,
        }
    }

    fn is_finished(&self) -> bool {
        self.open.is_empty()
    }

    /// No host: the open recipients have this outcome unless another one follows.
    fn trouble(&mut self, trouble: &Trouble) {
        for &index in &self.open {
            let outcome = Outcome::failed(self.client.prog, trouble.code, trouble.text.clone());
            // A host that was reached says more than one that was not.
            let slot = &mut self.outcomes[index];
            if slot.as_ref().is_none_or(|known| known.relay == "none") {
                *slot = Some(outcome);
            }
        }
    }

    async fn try_peers(&mut self, peers: &[Peer], nexthop: &str) {
        for peer in peers {
            if self.is_finished()
                || (self.client.session_limit > 0 && self.sessions >= self.client.session_limit)
            {
                return;
            }
            self.try_peer(peer, nexthop).await;
        }
    }

    async fn try_peer(&mut self, peer: &Peer, nexthop: &str) {
        let way = Way::to(self.client, peer, nexthop, &self.request.message.sender);
        let way = match way.await {
            Ok(way) => way,
            Err(trouble) => return self.trouble(&trouble),
        };
        if way.is_plain()
            && let Some(kept) = self.client.cache.take(peer)
        {
            let transfer = self.transfer(kept, peer).await;
            if !transfer.is_stale {
                return;
            }
        }
        // Boxed: with a handshake it is large, and most mail is delivered on this machine.
        let first = Box::pin(self.on_new_connection(peer, way.clone())).await;
        let may_do_without = first.is_some_and(|transfer| transfer.handshake_failed)
            && self.request.message.arrival.elapsed().unwrap_or_default() >= self.client.patience;
        if let Some(plain) = way.in_the_clear().filter(|_| may_do_without) {
            Box::pin(self.on_new_connection(peer, plain)).await;
        }
    }

    async fn on_new_connection(&mut self, peer: &Peer, way: Way) -> Option<Transfer> {
        match Connection::open(self.client, peer, way).await {
            Ok(connection) => {
                self.sessions += 1;
                Some(self.transfer(connection, peer).await)
            }
            Err(error) => {
                let why = crate::mailbox::failure::reason(&error);
                let text = format!("connect to {}: {why}", self.client.address(peer));
                if let Peer::Tcp { .. } = peer {
                    tracing::info!(prog = self.client.prog, "{text}");
                }
                self.trouble(&Trouble::new(EnhancedCode::new(4, 4, 1), text));
                None
            }
        }
    }

    /// One transaction; keeps the connection afterwards if it can be kept.
    async fn transfer(&mut self, mut connection: Connection, peer: &Peer) -> Transfer {
        let chosen: Vec<&Rcpt> = self
            .open
            .iter()
            .map(|&index| &self.request.recipients[index])
            .collect();
        let transaction = transaction(&self.request.message, &chosen);
        let transfer = connection
            .send(
                transaction,
                &self.request.message.content,
                self.client.transfer_timeout,
            )
            .await;
        if transfer.is_stale {
            return transfer;
        }
        let mut open = Vec::new();
        for (&index, result) in self.open.iter().zip(&transfer.results) {
            if may_try_next(result, transfer.body_started) {
                open.push(index);
            }
            let mut outcome = self.client.outcome(result, peer);
            outcome.connection = transfer.connection;
            outcome.connection_use = connection.uses();
            self.outcomes[index] = Some(outcome);
        }
        self.open = open;
        self.client.cache.put(peer.clone(), connection);
        transfer
    }

    fn outcomes(self, elapsed: Duration) -> Vec<Outcome> {
        let prog = self.client.prog;
        let missing =
            || Outcome::deferred(prog, EnhancedCode::new(4, 4, 1), "no host to deliver to");
        let finish = |outcome: Option<Outcome>| {
            let mut outcome = outcome.unwrap_or_else(missing);
            outcome.transmission = elapsed.saturating_sub(outcome.connection);
            outcome.is_final = self.client.protocol == Protocol::Lmtp;
            outcome
        };
        self.outcomes.into_iter().map(finish).collect()
    }
}

/// Temporary trouble is another host's chance, unless this one may have taken the message.
fn may_try_next(result: &RcptResult, body_started: bool) -> bool {
    match result {
        RcptResult::Accepted { .. } => false,
        RcptResult::Refused {
            command: Command::EndOfData,
            ..
        } => false,
        RcptResult::Refused { reply, .. } => reply.is_transient(),
        RcptResult::Failed { dsn, .. } => dsn.class == 4 && !body_started,
    }
}

impl Inner {
    /// `host[address]:port` or `myhostname[path]`, as in `relay=`.
    fn address(&self, peer: &Peer) -> String {
        match peer {
            Peer::Unix { path } => format!("{}[{path}]", self.hostname),
            Peer::Tcp { host, address } => format!("{host}[{}]:{}", address.ip(), address.port()),
        }
    }

    /// `host[address]`, as in `host … said:`.
    fn name(&self, peer: &Peer) -> String {
        match peer {
            Peer::Unix { path } => format!("{}[{path}]", self.hostname),
            Peer::Tcp { host, address } => format!("{host}[{}]", address.ip()),
        }
    }

    fn outcome(&self, result: &RcptResult, peer: &Peer) -> Outcome {
        let (dsn, text) = (result.dsn(), result.text());
        let outcome = match result {
            RcptResult::Accepted { .. } => Outcome::sent(self.prog, dsn, text),
            RcptResult::Refused { .. } => {
                let host = match peer {
                    Peer::Unix { .. } => &self.hostname,
                    Peer::Tcp { host, .. } => host,
                };
                let remote = Remote {
                    mta: Some(host.clone()),
                    kind: "smtp",
                    diagnostic: said(&text).to_owned(),
                };
                let outcome = match result.is_permanent() {
                    true => Outcome::bounced(self.prog, dsn, text),
                    false => Outcome::deferred(self.prog, dsn, text),
                };
                outcome.said_by(remote)
            }
            RcptResult::Failed { .. } => Outcome::failed(self.prog, dsn, text),
        };
        outcome.via(self.address(peer))
    }
}

/// The server's words within `host X said: … (in reply to … command)`.
fn said(text: &str) -> &str {
    let words = text.split_once(" said: ").map_or(text, |(_, words)| words);
    words
        .rsplit_once(" (in reply to ")
        .map_or(words, |(words, _)| words)
}

fn transaction(message: &Message, recipients: &[&Rcpt]) -> Transaction {
    let recipient = |rcpt: &&Rcpt| smtp::client::Recipient {
        address: rcpt.address.clone(),
        notify: (!rcpt.notify.is_default()).then_some(rcpt.notify),
        orcpt: match &rcpt.orcpt {
            Some(orcpt) => orcpt
                .split_once(';')
                .map(|(kind, address)| format!("{kind};{}", decode_xtext(address))),
            None if rcpt.original.is_empty() || !rcpt.original.is_ascii() => None,
            None => Some(format!(
                "rfc822;{}",
                mail::address::quote_local(&rcpt.original)
            )),
        },
    };
    let is_ascii =
        message.sender.is_ascii() && recipients.iter().all(|rcpt| rcpt.address.is_ascii());
    Transaction {
        sender: message.sender.clone(),
        recipients: recipients.iter().map(recipient).collect(),
        size: Some(message.size_as_sent()),
        eight_bit: message.eight_bit,
        // A client that asked for SMTPUTF8 need not have used it (as Postfix decides too).
        smtputf8: message.smtputf8 && !(is_ascii && has_ascii_header(message)),
        ret: message.ret,
        envid: message.envid.as_deref().map(decode_xtext),
    }
}

/// Only what is in memory is looked at; a large message counts as non-ASCII.
fn has_ascii_header(message: &Message) -> bool {
    let Some(content) = message.content.as_bytes() else {
        return false;
    };
    let end = content
        .windows(2)
        .position(|pair| pair == b"\n\n")
        .unwrap_or(content.len());
    content[..end].is_ascii()
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn diagnostic_is_the_reply_alone() {
        let text = "host h[1.2.3.4] said: 550 5.1.1 <x> said: no (in reply to RCPT TO command)";
        assert_eq!(said(text), "550 5.1.1 <x> said: no");
    }
}
