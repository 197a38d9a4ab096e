//! The restrictions that ask DNS.
//!
//! | module | |
//! |---|---|
//! | `read` | their names and arguments |
//! | `names` | `reject_unknown_…`: what DNS does not know |
//! | `lists` | `reject_rbl_client` and its kin: lists of clients and domains that DNS serves |
//! | `filter` | `zone=127.0.0.[2..11;14]` |
//! | `servers` | `check_…_mx_access` and its kin, `permit_mx_backup`: the hosts behind a domain |
//! | `answers` | what one transaction has been told, and how long it may wait |

mod answers;
mod filter;
mod lists;
mod names;
mod read;
mod servers;

pub use answers::Answers;
pub(crate) use read::Settings;

use std::net::IpAddr;

use ::dns::{Kind, Record, Trouble};
use tables::TableList;

use crate::evaluate::{Outcome, Question};
use crate::restriction::Subject;
use crate::{Asked, Policy};
use filter::Filter;

/// One of them.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    /// `reject_unknown_client_hostname`: no verified name.
    UnknownClient,
    /// `reject_unknown_reverse_client_hostname`: no name at all.
    UnknownReverse,
    UnknownHelo,
    /// `reject_unknown_sender_domain`, `reject_unknown_recipient_domain`.
    UnknownDomain(Subject),
    MxBackup,
    List(List),
    Servers(Servers),
}

/// A list that DNS serves.
#[derive(Clone, Debug)]
pub(crate) struct List {
    pub permits: bool,
    pub of: Listed,
    /// As in main.cf: the key in `rbl_reply_maps`.
    pub argument: String,
    pub zone: String,
    /// Which answers count; None: all.
    pub filter: Option<Filter>,
}

/// What is looked up in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    ClientAddress,
    Name(Subject),
}

/// `check_SUBJECT_RECORD_access`.
#[derive(Clone)]
pub(crate) struct Servers {
    /// In lower case.
    pub name: String,
    pub subject: Subject,
    pub record: Kind,
    pub table: TableList,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Check {
    /// As main.cf has it, for `explain`.
    fn label(&self) -> String {
        match self {
            Check::UnknownClient => "reject_unknown_client_hostname".into(),
            Check::UnknownReverse => "reject_unknown_reverse_client_hostname".into(),
            Check::UnknownHelo => "reject_unknown_helo_hostname".into(),
            Check::UnknownDomain(Subject::Sender) => "reject_unknown_sender_domain".into(),
            Check::UnknownDomain(_) => "reject_unknown_recipient_domain".into(),
            Check::MxBackup => "permit_mx_backup".into(),
            Check::List(list) => list.argument.clone(),
            Check::Servers(servers) => servers.name.clone(),
        }
    }

    /// Its name, where it may permit.
    pub fn permit_name(&self) -> Option<&'static str> {
        match self {
            Check::MxBackup => Some("permit_mx_backup"),
            Check::List(list) if list.permits => Some(match list.of {
                Listed::ClientAddress => "permit_dnswl_client",
                Listed::Name(_) => "permit_rhswl_client",
            }),
            _ => None,
        }
    }
}

impl Policy {
    pub(crate) async fn check_dns(&self, question: &mut Question<'_>, check: &Check) -> Outcome {
        // Nobody has connected: `explain` asks about a client that is made up.
        if question.facts.connection.is_none() {
            question.effects.asked.push(Asked {
                service: format!("DNS: {}", check.label()),
                recipient: question.facts.recipient.unwrap_or_default().to_owned(),
                action: None,
            });
            return Outcome::Dunno;
        }
        match check {
            Check::UnknownClient => self.unknown_client(question),
            Check::UnknownReverse => self.unknown_reverse(question),
            Check::UnknownHelo => self.unknown_helo(question).await,
            Check::UnknownDomain(subject) => self.unknown_domain(question, *subject).await,
            Check::MxBackup => self.mx_backup(question).await,
            Check::List(list) => self.listed(question, list).await,
            Check::Servers(servers) => self.check_servers(question, servers).await,
        }
    }

    /// Asks DNS, or remembers what it has said in this transaction.
    async fn dns(
        &self,
        question: &mut Question<'_>,
        name: &str,
        kind: Kind,
    ) -> Result<Vec<Record>, Trouble> {
        question.effects.dns.ask(&self.by_dns.dns, name, kind).await
    }

    /// The addresses of a name, of the kinds in `inet_protocols`.
    async fn addresses(
        &self,
        question: &mut Question<'_>,
        name: &str,
    ) -> Result<Vec<IpAddr>, Trouble> {
        let mut addresses = Vec::new();
        let mut trouble = Trouble::NoName;
        for kind in self.by_dns.address_kinds {
            match self.dns(question, name, *kind).await {
                Ok(records) => addresses.extend(records.iter().filter_map(address)),
                Err(new) if trouble.is_absence() => trouble = new,
                Err(_) => {}
            }
        }
        match addresses.is_empty() {
            true => Err(trouble),
            false => Ok(addresses),
        }
    }

    /// `unknown_…_tempfail_action`.
    fn not_now(&self, question: &mut Question<'_>, defers: bool, later: smtp::Reply) -> Outcome {
        match defers {
            true => Outcome::Refuse(later),
            false => self.defer_if_permit(question, later),
        }
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match record {
        Record::Address(address) => Some(*address),
        _ => None,
    }
}

/// The domain of an address, or the name itself; None for literals and for nothing.
fn domain_of(text: &str) -> Option<&str> {
    let domain = text.rsplit_once('@').map_or(text, |(_, domain)| domain);
    (!domain.is_empty() && !domain.starts_with('[')).then_some(domain)
}
