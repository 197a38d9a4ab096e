//! May this client do what it asks: the restrictions of main.cf, access(5) and the recipient
//! tables, as smtpd(8) applies them.
//!
//! [`Policy::recipient`] is the one decision about a recipient: the SMTP server answers RCPT with
//! it, and `explain` shows it.

mod access;
mod evaluate;
pub mod explain;
mod identity;
mod rcpt;
pub mod reply;
mod restriction;
mod settings;

pub use rcpt::{Admission, Refusal, Stage, Verdict};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use config::{Config, ConfigError};
use route::{Router, UnknownIn};
use smtp::Reply;
use tables::{CidrList, TableError, TableList, Tables};

use restriction::Restriction;

/// Who asks, and what is known of the transaction so far.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Verified host name, or `unknown`.
    pub client_name: &'a str,
    pub client_address: IpAddr,
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
    /// FILTER: `transport:nexthop` for all recipients.
    pub filter: Option<String>,
    /// REDIRECT: all recipients become this one.
    pub redirect: Option<String>,
    /// BCC: further recipients.
    pub bcc: Vec<String>,
    /// PREPEND: header lines.
    pub prepend: Vec<String>,
    /// INFO and WARN texts and refusals under `warn_if_reject`, for the log.
    pub notes: Vec<String>,
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
