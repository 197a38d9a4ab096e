//! The policy's settings, read from main.cf.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use config::{Config, ConfigError};
use route::{Router, UnknownIn};
use tables::Tables;

use crate::Policy;
use crate::delegate::Services;
use crate::restriction::{Reader, Restriction};

/// The restriction lists by stage of the dialogue.
pub(crate) struct Stages {
    pub client: Vec<Restriction>,
    pub helo: Vec<Restriction>,
    pub sender: Vec<Restriction>,
    pub relay: Vec<Restriction>,
    pub recipient: Vec<Restriction>,
    pub data: Vec<Restriction>,
    pub end_of_data: Vec<Restriction>,
    pub etrn: Vec<Restriction>,
}

/// SMTP reply codes of main.cf.
pub(crate) struct Codes {
    pub access: u16,
    pub access_defer: u16,
    pub relay: u16,
    pub reject: u16,
    pub defer: u16,
    pub non_fqdn: u16,
    pub invalid_helo: u16,
    pub multi_recipient_bounce: u16,
    pub plaintext: u16,
    unknown_local: u16,
    unknown_virtual_alias: u16,
    unknown_virtual_mailbox: u16,
    unknown_relay: u16,
    show_table: bool,
}

impl Codes {
    pub fn unknown(&self, table: UnknownIn) -> u16 {
        match table {
            UnknownIn::Local => self.unknown_local,
            UnknownIn::VirtualAlias => self.unknown_virtual_alias,
            UnknownIn::VirtualMailbox => self.unknown_virtual_mailbox,
            UnknownIn::Relay => self.unknown_relay,
        }
    }

    pub fn in_table(&self, table: UnknownIn) -> String {
        // A domain of aliases has no mailboxes: Postfix's reply for it is fixed.
        match self.show_table || table == UnknownIn::VirtualAlias {
            true => format!(" in {}", table.table()),
            false => String::new(),
        }
    }
}

pub(crate) fn policy(
    config: &Config,
    tables: &Tables,
    router: Arc<Router>,
    own_addresses: Vec<IpAddr>,
) -> Result<Policy, ConfigError> {
    let reader = Reader {
        config,
        tables,
        classes: config.list("smtpd_restriction_classes")?,
        services: Services::new(config),
    };
    let stages = Stages {
        client: reader.list("smtpd_client_restrictions")?,
        helo: reader.list("smtpd_helo_restrictions")?,
        sender: reader.list("smtpd_sender_restrictions")?,
        relay: reader.list("smtpd_relay_restrictions")?,
        recipient: reader.list("smtpd_recipient_restrictions")?,
        data: reader.list("smtpd_data_restrictions")?,
        end_of_data: reader.list("smtpd_end_of_data_restrictions")?,
        etrn: reader.list("smtpd_etrn_restrictions")?,
    };
    let mut classes = BTreeMap::new();
    for name in &reader.classes {
        classes.insert(name.clone(), Restriction::Class(reader.list(name)?));
    }
    let overrides = config.list("receive_override_options")?;
    let parents = config.list("parent_domain_matches_subdomains")?;
    Ok(Policy {
        router,
        unsupported: unsupported(&stages),
        stages,
        codes: codes(config)?,
        mynetworks: tables.network_list(&config.string("mynetworks")?),
        own_addresses,
        delay_reject: config.bool("smtpd_delay_reject")?,
        relay_first: config.bool("smtpd_relay_before_recipient_restrictions")?,
        reject_unlisted_recipient: config.bool("smtpd_reject_unlisted_recipient")?,
        reject_unlisted_sender: config.bool("smtpd_reject_unlisted_sender")?,
        allow_untrusted_routing: config.bool("allow_untrusted_routing")?,
        resolve_at_rcpt: config.bool("postroom_resolve_at_rcpt")?,
        sender_logins: tables.open_list_lenient(&config.string("smtpd_sender_login_maps")?),
        relay_certificates: tables.open_list_lenient(&config.string("relay_clientcerts")?),
        access_parents: parents.iter().any(|name| name == "smtpd_access_maps"),
        null_sender_key: config.string("smtpd_null_access_lookup_key")?,
        logged_permits: tables.string_list(&config.string("smtpd_log_access_permit_actions")?),
        soft_bounce: config.bool("soft_bounce")?,
        checks_recipients: !overrides
            .iter()
            .any(|option| option == "no_unknown_recipient_checks"),
        classes,
    })
}

fn codes(config: &Config) -> Result<Codes, ConfigError> {
    Ok(Codes {
        access: code(config, "access_map_reject_code")?,
        access_defer: code(config, "access_map_defer_code")?,
        relay: code(config, "relay_domains_reject_code")?,
        reject: code(config, "reject_code")?,
        defer: code(config, "defer_code")?,
        non_fqdn: code(config, "non_fqdn_reject_code")?,
        invalid_helo: code(config, "invalid_hostname_reject_code")?,
        multi_recipient_bounce: code(config, "multi_recipient_bounce_reject_code")?,
        plaintext: code(config, "plaintext_reject_code")?,
        unknown_local: code(config, UnknownIn::Local.code_parameter())?,
        unknown_virtual_alias: code(config, UnknownIn::VirtualAlias.code_parameter())?,
        unknown_virtual_mailbox: code(config, UnknownIn::VirtualMailbox.code_parameter())?,
        unknown_relay: code(config, UnknownIn::Relay.code_parameter())?,
        show_table: config.bool("show_user_unknown_table_name")?,
    })
}

fn code(config: &Config, name: &str) -> Result<u16, ConfigError> {
    let value = config.int(name)?;
    match u16::try_from(value) {
        Ok(code @ 400..=599) => Ok(code),
        _ => Err(
            ConfigError::new("not a reply code", "give a number from 400 to 599")
                .at(config.origin(name))
                .parameter(name)
                .value(&value.to_string()),
        ),
    }
}

fn unsupported(stages: &Stages) -> BTreeSet<String> {
    fn collect(list: &[Restriction], names: &mut BTreeSet<String>) {
        for restriction in list {
            match restriction {
                Restriction::Unsupported(name) => {
                    names.insert(name.clone());
                }
                Restriction::Class(inner) => collect(inner, names),
                _ => {}
            }
        }
    }
    let mut names = BTreeSet::new();
    for list in [
        &stages.client,
        &stages.helo,
        &stages.sender,
        &stages.relay,
        &stages.recipient,
        &stages.data,
        &stages.end_of_data,
        &stages.etrn,
    ] {
        collect(list, &mut names);
    }
    names
}
