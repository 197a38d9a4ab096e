//! Questions to the DNS servers of `/etc/resolv.conf`, in limited time: for the MX records that mail follows, and for
//! the restrictions that ask what DNS says of a client, a name or a domain.
//!
//! What counts is the difference between "there is no such thing" and "nobody could say": [`Trouble`].

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::config::ResolveHosts;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::proto::{ProtoError, ProtoErrorKind};
use hickory_resolver::{ResolveError, TokioResolver};
use tokio::time::timeout;

/// No question takes longer, however many servers and tries resolv.conf wants.
const PATIENCE: Duration = Duration::from_secs(20);

/// The kinds of records that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    A,
    Aaaa,
    Mx,
    Ns,
    Txt,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::A => "A",
            Kind::Aaaa => "AAAA",
            Kind::Mx => "MX",
            Kind::Ns => "NS",
            Kind::Txt => "TXT",
        })
    }
}

/// One record. Names are without their final dot: the root is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Address(IpAddr),
    Mx { preference: u16, host: String },
    Ns(String),
    Txt(String),
}

/// Why there is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no such name.
    NoName,
    /// The name has no records of this kind.
    NoData,
    /// Nobody could say: timeout, SERVFAIL, REFUSED.
    Later,
    /// The text is no name.
    Malformed,
}

impl Trouble {
    /// It is certain that there is none.
    pub fn is_absence(self) -> bool {
        self != Trouble::Later
    }

    /// As log lines have said it for decades.
    pub fn describe(self, name: &str, kind: Kind) -> String {
        let why = match self {
            Trouble::NoName => "Host not found",
            Trouble::NoData => "Host found but no data record of requested type",
            Trouble::Later => "Host not found, try again",
            Trouble::Malformed => "Malformed or unexpected name server reply",
        };
        format!(
            "Host or domain name not found. Name service error for name={name} type={kind}: {why}"
        )
    }
}

/// A resolver with its cache; clones share it.
#[derive(Clone)]
pub struct Dns(Option<TokioResolver>);

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dns")
    }
}

impl Dns {
    /// The servers of `/etc/resolv.conf`. When it cannot be read, the log tells, and every question fails for the moment.
    pub fn system() -> Dns {
        match TokioResolver::builder_tokio() {
            Ok(mut builder) => {
                builder.options_mut().use_hosts_file = ResolveHosts::Never;
                Dns(Some(builder.build()))
            }
            Err(error) => {
                tracing::warn!(
                    prog = "smtpd",
                    "cannot read the system's resolver configuration: {error}; DNS is not asked"
                );
                Dns(None)
            }
        }
    }

    /// There is a configuration to ask by.
    pub fn is_usable(&self) -> bool {
        self.0.is_some()
    }

    /// The records of a name; never an empty list.
    pub async fn lookup(&self, name: &str, kind: Kind) -> Result<Vec<Record>, Trouble> {
        let Some(resolver) = &self.0 else {
            return Err(Trouble::Later);
        };
        // With its final dot, so that the search list of resolv.conf stays out.
        let name = format!("{}.", name.trim_end_matches('.'));
        let record_type = match kind {
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Mx => RecordType::MX,
            Kind::Ns => RecordType::NS,
            Kind::Txt => RecordType::TXT,
        };
        let asked = timeout(PATIENCE, resolver.lookup(name.as_str(), record_type)).await;
        let found = match asked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(trouble(&error)),
            Err(_) => return Err(Trouble::Later),
        };
        let records: Vec<Record> = found
            .iter()
            .filter(|data| data.record_type() == record_type)
            .filter_map(record)
            .collect();
        match records.is_empty() {
            true => Err(Trouble::NoData),
            false => Ok(records),
        }
    }

    /// The addresses of a name, of the kinds that are asked for. One kind that is certain outweighs another that fails.
    pub async fn addresses(&self, name: &str, kinds: &[Kind]) -> Result<Vec<IpAddr>, Trouble> {
        let mut addresses = Vec::new();
        let mut trouble = None;
        for kind in kinds {
            match self.lookup(name, *kind).await {
                Ok(records) => addresses.extend(records.iter().filter_map(|record| match record {
                    Record::Address(address) => Some(*address),
                    _ => None,
                })),
                // What may change by itself wins over what does not.
                Err(new) if trouble.is_none_or(Trouble::is_absence) => trouble = Some(new),
                Err(_) => {}
            }
        }
        match trouble {
            Some(trouble) if addresses.is_empty() => Err(trouble),
            _ => Ok(addresses),
        }
    }
}

fn record(data: &RData) -> Option<Record> {
    let host = |name: &hickory_resolver::Name| name.to_utf8().trim_end_matches('.').to_owned();
    Some(match data {
        RData::A(address) => Record::Address(IpAddr::V4(address.0)),
        RData::AAAA(address) => Record::Address(IpAddr::V6(address.0)),
        RData::MX(mx) => Record::Mx {
            preference: mx.preference(),
            host: host(mx.exchange()),
        },
        RData::NS(name) => Record::Ns(host(name)),
        RData::TXT(text) => {
            let parts = text.txt_data().iter();
            let bytes: Vec<u8> = parts.flat_map(|part| part.iter().copied()).collect();
            Record::Txt(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => return None,
    })
}

/// hickory calls every answer without records "no records found", SERVFAIL too; only two codes mean that.
fn trouble(error: &ResolveError) -> Trouble {
    let Some(proto) = error.proto() else {
        return Trouble::Later;
    };
    match response_code(proto) {
        Some(ResponseCode::NXDomain) => Trouble::NoName,
        Some(ResponseCode::NoError) => Trouble::NoData,
        Some(_) => Trouble::Later,
        None if is_bad_name(proto) => Trouble::Malformed,
        None => Trouble::Later,
    }
}

fn response_code(error: &ProtoError) -> Option<ResponseCode> {
    match error.kind() {
        ProtoErrorKind::NoRecordsFound { response_code, .. } => Some(*response_code),
        _ => None,
    }
}

fn is_bad_name(error: &ProtoError) -> bool {
    matches!(
        error.kind(),
        ProtoErrorKind::LabelBytesTooLong(_)
            | ProtoErrorKind::DomainNameTooLong(_)
            | ProtoErrorKind::Msg(_)
    )
}
