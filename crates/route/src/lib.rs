//! Where an address goes, and why.
//!
//! One walk through the tables serves the SMTP server, the queue and `explain`, so they cannot
//! disagree. An address is *rewritten* to canonical form, *resolved* to its class and transport,
//! *expanded* through the aliases to its leaves, and each leaf is checked against the table of its
//! class. A [`Walk`] remembers what it asked, so that one transaction asks the database once, and
//! keeps a record of it when `explain` wants one.
//!
//! Sources: virtual(5), transport(5), trivial-rewrite(8), cleanup(8), ADDRESS_CLASS_README; the
//! behaviour is that of the running Postfix where these are silent.

mod canonical;
mod domains;
mod expand;
mod find;
mod leaf;
mod local;
mod resolve;
mod rewrite;
mod settings;
mod transport;
mod walk;
mod whole;

pub use expand::{ExpandError, Expansion, Limit, Node};
pub use leaf::{Leaf, Listing, UnknownIn, Verdict};
pub use local::own_addresses;
pub use resolve::{Class, Resolved};
pub use rewrite::Rewriter;
pub use transport::Route;
pub use walk::{Failure, Lookup, Walk};
pub use whole::{Propagated, Search};

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use config::{Config, ConfigError};
use tables::{TableList, Tables};

use domains::DomainList;
use mail::address::ExtensionRules;
use settings::Propagate;

/// Everything main.cf says about where mail goes, ready to be asked.
pub struct Router {
    rewriter: Rewriter,
    extensions: ExtensionRules,
    propagate: Propagate,
    myhostname: String,
    myorigin: String,
    own_addresses: Vec<IpAddr>,
    allow_leading_dash: bool,
    show_table_in_unknown: bool,
    mydestination: DomainList,
    virtual_alias_domains: DomainList,
    virtual_mailbox_domains: DomainList,
    relay_domains: DomainList,
    virtual_alias_maps: TableList,
    virtual_mailbox_maps: TableList,
    local_recipient_maps: TableList,
    relay_recipient_maps: TableList,
    canonical_maps: TableList,
    recipient_canonical_maps: TableList,
    sender_canonical_maps: TableList,
    transport_maps: TableList,
    relocated_maps: TableList,
    recipient_bcc_maps: TableList,
    sender_bcc_maps: TableList,
    always_bcc: String,
    transports: transport::Defaults,
    transport_parents: bool,
    relay_parents: bool,
    recursion_limit: usize,
    expansion_limit: usize,
    address_length_limit: usize,
    double_bounce: String,
    /// Classes of domains found lately: Postfix's processes remember theirs for half a minute.
    classes: Mutex<HashMap<String, (Class, Instant)>>,
    class_ttl: Duration,
}

impl Router {
    /// Reads the settings and opens the tables. A table that cannot be opened is logged and fails
    /// each lookup, as in Postfix. `own_addresses`: what [`own_addresses`] found.
    pub fn new(
        config: &Config,
        tables: &Tables,
        own_addresses: Vec<IpAddr>,
    ) -> Result<Router, ConfigError> {
        settings::router(config, tables, own_addresses)
    }

    /// The address in canonical form: origin and domain appended, routes stripped, as `local`
    /// rewriting does for all addresses in an envelope.
    pub fn rewrite(&self, address: &str) -> String {
        self.rewriter.canonical(address)
    }

    /// Whether address extensions separate `john+work` into `john` and `+work`, and how.
    pub fn extensions(&self) -> &ExtensionRules {
        &self.extensions
    }

    /// `$double_bounce_sender@$myhostname`, the sender of reports about reports.
    pub fn double_bounce_address(&self) -> String {
        format!("{}@{}", self.double_bounce, self.myhostname)
    }
}
