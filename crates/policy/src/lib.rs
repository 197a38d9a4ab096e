//! May this client do what it asks: the restrictions of main.cf, access(5) and the recipient
//! tables, as smtpd(8) applies them.
//!
//! [`Policy::recipient`] is the one decision about a recipient: the SMTP server answers RCPT with
//! it, and `explain` shows it.

mod access;
mod actions;
mod delegate;
mod evaluate;
pub mod explain;
mod identity;
mod rcpt;
pub mod reply;
mod restriction;
mod settings;

pub use delegate::{Asked, Connection, LeafServices};
pub use rcpt::{Admission, Refusal, Stage, Verdict};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use config::{Config, ConfigError};
use route::{Router, UnknownIn};
use smtp::Reply;
use tables::{CidrList, MatchList, TableError, TableList, Tables};

use restriction::Restriction;

/// Who asks, and what is known of the transaction so far.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Verified host name, or `unknown`.
    pub client_name: &'a str,
    pub client_address: IpAddr,
    /// The address of the connection: XCLIENT does not change it.
    pub socket_address: IpAddr,
    /// As given with HELO or EHLO; empty before.
    pub helo: &'a str,
    /// In internal form; `None` before MAIL, empty for `<>`.
    pub sender: Option<&'a str>,
    /// In internal form; `None` outside RCPT.
    pub recipient: Option<&'a str>,
    /// How many recipients have been accepted.
    pub recipients_so_far: usize,
    /// Addresses may be in UTF-8.
    pub smtputf8: bool,
    /// Who has authenticated himself with AUTH.
    pub login: Option<&'a str>,
    /// `smtpd_sasl_auth_enable`.
    pub has_logins: bool,
    /// The connection is encrypted.
    pub encrypted: bool,
    /// The client's certificate.
    pub certificate: Option<&'a Certificate>,
    /// What policy services are told beside this; `None`: there is no connection, and they are not asked.
    pub connection: Option<Connection<'a>>,
    /// The client has sent commands ahead where that is not allowed.
    pub pipelined: bool,
}

impl Facts<'_> {
    /// `name[address]`; the address is `unknown` where XCLIENT says so.
    pub fn client(&self) -> String {
        match self.client_address.is_unspecified() {
            true => format!("{}[unknown]", self.client_name),
            false => format!("{}[{}]", self.client_name, self.client_address),
        }
    }
}

/// A client's certificate, as far as restrictions ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject.
    pub subject: String,
    /// Signed by one of `smtpd_tls_CAfile`.
    pub trusted: bool,
    /// Of the certificate, by `smtpd_tls_fingerprint_digest`: `AB:CD:…`.
    pub fingerprint: String,
    /// The same of its public key.
    pub public_key: String,
}

/// What the restrictions decided beside yes and no; it grows over a transaction.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// HOLD, with the reason.
    pub hold: Option<String>,
    /// DISCARD, with the reason: accept and throw away.
    pub discard: Option<String>,
    /// FILTER: all recipients go to this `transport:nexthop`.
    pub filter: Option<String>,
    /// REDIRECT: all recipients become this one.
    pub redirect: Option<String>,
    /// BCC: further recipients.
    pub bcc: Vec<String>,
    /// PREPEND: header lines.
    pub prepend: Vec<String>,
    /// `defer_if_permit` of an earlier command; it counts for every recipient that is not refused for good.
    pub defer_if_permit: Option<Reply>,
    /// Failures that the reply does not tell of.
    pub notes: Vec<String>,
    /// The policy services that were to be asked about the last recipient.
    pub asked: Vec<Asked>,
    /// Those of them that are to be asked about its leaves, too.
    pub leaf_services: LeafServices,
    /// For the log, in order, before the refusal if there is one.
    pub events: Vec<Event>,
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `NOQUEUE: hold: RCPT from …: TEXT; from=<…> …`: what an access table or `warn_if_reject` did.
    Action { name: &'static str, text: String },
    /// `warning: TEXT`.
    Warning(String),
    /// The text alone.
    Info(String),
}

/// The restrictions of one listening service.
pub struct Policy {
    router: Arc<Router>,
    stages: settings::Stages,
    codes: settings::Codes,
    mynetworks: CidrList,
    own_addresses: Vec<IpAddr>,
    delay_reject: bool,
    relay_first: bool,
    reject_unlisted_recipient: bool,
    reject_unlisted_sender: bool,
    allow_untrusted_routing: bool,
    resolve_at_rcpt: bool,
    access_parents: bool,
    /// `smtpd_null_access_lookup_key`.
    null_sender_key: String,
    /// `smtpd_log_access_permit_actions`.
    logged_permits: MatchList,
    /// `soft_bounce`.
    soft_bounce: bool,
    /// Not so under `receive_override_options = no_unknown_recipient_checks`.
    checks_recipients: bool,
    /// `smtpd_sender_login_maps`.
    sender_logins: TableList,
    /// `relay_clientcerts`.
    relay_certificates: TableList,
    /// `smtpd_restriction_classes`.
    classes: BTreeMap<String, Restriction>,
    unsupported: BTreeSet<String>,
}

impl Policy {
    /// Reads the restrictions. Mistakes in their syntax are errors; restrictions that Postroom does
    /// not have are listed by [`Policy::unsupported`] and pass.
    pub fn new(
        config: &Config,
        tables: &Tables,
        router: Arc<Router>,
        own_addresses: Vec<IpAddr>,
    ) -> Result<Policy, ConfigError> {
        settings::policy(config, tables, router, own_addresses)
    }

    /// The router that the decisions are based on.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Restrictions in main.cf that Postroom does not apply.
    pub fn unsupported(&self) -> impl Iterator<Item = &str> {
        self.unsupported.iter().map(String::as_str)
    }

    /// Whether the client is in `mynetworks`.
    pub async fn is_trusted(&self, address: IpAddr) -> Result<bool, TableError> {
        // An address that XCLIENT says is not known.
        if address.is_unspecified() {
            return Ok(false);
        }
        self.mynetworks.matches(address).await
    }

    /// Whether the client is this machine itself.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own_addresses.contains(&address)
    }

    /// The reply for an address that the table of its class does not have.
    pub(crate) fn unknown_user(&self, address: &str, what: &str, table: UnknownIn) -> Reply {
        let code = self.codes.unknown(table);
        let in_table = self.codes.in_table(table);
        reply::unknown_user(code, address, what, &in_table)
    }
}
