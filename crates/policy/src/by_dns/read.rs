//! The names of these restrictions, their arguments, and the parameters that they share.

use std::fmt;

use ::dns::{Dns, Kind};
use config::{Config, ConfigError};
use tables::{CidrList, TableList, Tables};

use super::filter::Filter;
use super::{Check, List, Listed, Servers};
use crate::restriction::Subject;
use crate::settings::code;

/// The parameters.
pub(crate) struct Settings {
    pub dns: Dns,
    /// By `inet_protocols`.
    pub address_kinds: &'static [Kind],
    pub unknown_client: u16,
    pub unknown_address: u16,
    pub unknown_hostname: u16,
    pub list_code: u16,
    /// `unknown_address_tempfail_action = defer`.
    pub address_defers: bool,
    /// `unknown_helo_hostname_tempfail_action = defer`.
    pub helo_defers: bool,
    /// `default_rbl_reply`, not expanded.
    pub list_reply: String,
    /// `rbl_reply_maps`.
    pub list_replies: TableList,
    /// `permit_mx_backup_networks`; None: everywhere.
    pub backup_networks: Option<CidrList>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settings")
    }
}

impl Settings {
    pub fn read(config: &Config, tables: &Tables) -> Result<Settings, ConfigError> {
        let protocols = config.list("inet_protocols")?;
        let has = |name: &str| protocols.iter().any(|word| word == name || word == "all");
        let networks = config.string("permit_mx_backup_networks")?;
        Ok(Settings {
            dns: Dns::system(),
            address_kinds: match (has("ipv4"), has("ipv6")) {
                (true, true) => &[Kind::A, Kind::Aaaa],
                (false, true) => &[Kind::Aaaa],
                _ => &[Kind::A],
            },
            unknown_client: code(config, "unknown_client_reject_code")?,
            unknown_address: code(config, "unknown_address_reject_code")?,
            unknown_hostname: code(config, "unknown_hostname_reject_code")?,
            list_code: code(config, "maps_rbl_reject_code")?,
            address_defers: defers(config, "unknown_address_tempfail_action")?,
            helo_defers: defers(config, "unknown_helo_hostname_tempfail_action")?,
            list_reply: config.unexpanded("default_rbl_reply")?,
            list_replies: tables.open_list_lenient(&config.string("rbl_reply_maps")?),
            backup_networks: (!networks.trim().is_empty()).then(|| tables.network_list(&networks)),
        })
    }
}

/// Whether a temporary failure defers at once: `defer`, not `defer_if_permit`.
fn defers(config: &Config, parameter: &str) -> Result<bool, ConfigError> {
    let common = "reject_tempfail_action";
    match config.string(parameter)?.trim() {
        "defer" => Ok(true),
        "defer_if_permit" => Ok(false),
        // Postfix stops here; the common default is what is meant.
        "" if parameter != common => defers(config, common),
        other => Err(
            ConfigError::new("no such action", "write defer_if_permit or defer")
                .at(config.origin(parameter))
                .parameter(parameter)
                .value(other),
        ),
    }
}

impl Check {
    /// One without argument, by its name in lower case.
    pub fn plain(name: &str) -> Option<Check> {
        Some(match name {
            "reject_unknown_client_hostname" | "reject_unknown_client" => Check::UnknownClient,
            "reject_unknown_reverse_client_hostname" => Check::UnknownReverse,
            "reject_unknown_helo_hostname" | "reject_unknown_hostname" => Check::UnknownHelo,
            "reject_unknown_sender_domain" | "reject_unknown_address" => {
                Check::UnknownDomain(Subject::Sender)
            }
            "reject_unknown_recipient_domain" => Check::UnknownDomain(Subject::Recipient),
            "permit_mx_backup" => Check::MxBackup,
            _ => return None,
        })
    }

    /// One with an argument; None when the name is none of these, and the mistake in its argument.
    pub fn with_argument(
        name: &str,
        argument: &str,
        tables: &Tables,
    ) -> Option<Result<Check, String>> {
        if let Some((permits, of)) = list_kind(name) {
            return Some(list(permits, of, argument));
        }
        let (subject, record) = server_kind(name)?;
        Some(Ok(Check::Servers(Servers {
            name: name.to_owned(),
            subject,
            record,
            table: tables.open_list_lenient(argument),
        })))
    }

    /// `reject_maps_rbl`: the lists of `maps_rbl_domains`.
    pub fn old_lists(config: &Config) -> Result<Vec<Check>, ConfigError> {
        let parameter = "maps_rbl_domains";
        let zones = config.list(parameter)?;
        let checks = zones.iter().map(|zone| {
            list(false, Listed::ClientAddress, zone).map_err(|problem| {
                ConfigError::new(problem, "write the zone of a DNS list")
                    .at(config.origin(parameter))
                    .parameter(parameter)
                    .value(zone)
            })
        });
        checks.collect()
    }

    /// Whether the name wants an argument.
    pub fn takes_argument(name: &str) -> bool {
        list_kind(name).is_some() || server_kind(name).is_some()
    }
}

fn list_kind(name: &str) -> Option<(bool, Listed)> {
    Some(match name {
        "reject_rbl_client" | "reject_rbl" => (false, Listed::ClientAddress),
        "permit_dnswl_client" => (true, Listed::ClientAddress),
        "reject_rhsbl_client" => (false, Listed::Name(Subject::Client)),
        "permit_rhswl_client" => (true, Listed::Name(Subject::Client)),
        "reject_rhsbl_reverse_client" => (false, Listed::Name(Subject::ReverseName)),
        "reject_rhsbl_helo" => (false, Listed::Name(Subject::Helo)),
        "reject_rhsbl_sender" => (false, Listed::Name(Subject::Sender)),
        "reject_rhsbl_recipient" => (false, Listed::Name(Subject::Recipient)),
        _ => return None,
    })
}

fn list(permits: bool, of: Listed, argument: &str) -> Result<Check, String> {
    let (zone, filter) = match argument.split_once('=') {
        Some((zone, filter)) => (zone, Some(Filter::parse(filter)?)),
        None => (argument, None),
    };
    Ok(Check::List(List {
        permits,
        of,
        argument: argument.to_owned(),
        zone: zone.trim_matches('.').to_owned(),
        filter,
    }))
}

/// `check_SUBJECT_RECORD_access`.
fn server_kind(name: &str) -> Option<(Subject, Kind)> {
    let middle = name.strip_prefix("check_")?.strip_suffix("_access")?;
    let (subject, record) = middle.rsplit_once('_')?;
    let subject = match subject {
        "client" => Subject::Client,
        "reverse_client_hostname" => Subject::ReverseName,
        "helo" => Subject::Helo,
        "sender" => Subject::Sender,
        "recipient" => Subject::Recipient,
        _ => return None,
    };
    let record = match record {
        "a" => Kind::A,
        "mx" => Kind::Mx,
        "ns" => Kind::Ns,
        _ => return None,
    };
    Some((subject, record))
}
