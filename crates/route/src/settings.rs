//! The router's settings, read from main.cf.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use config::{Config, ConfigError};
use mail::address::ExtensionRules;
use tables::{TableList, Tables};

use crate::Router;
use crate::domains::DomainList;
use crate::rewrite::Rewriter;
use crate::transport::Defaults;

/// `propagate_unmatched_extensions`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Propagate {
    pub canonical: bool,
    pub virtual_alias: bool,
}

pub(crate) fn router(
    config: &Config,
    tables: &Tables,
    own_addresses: Vec<IpAddr>,
) -> Result<Router, ConfigError> {
    let parents = config.list("parent_domain_matches_subdomains")?;
    let parents_match = |list: &str| parents.iter().any(|name| name == list);
    let domains = |parameter: &'static str| -> Result<DomainList, ConfigError> {
        let list = tables.string_list(&config.string(parameter)?);
        Ok(DomainList { parameter, list })
    };
    let relay_parents = parents_match("relay_domains");
    let relay_domains = DomainList {
        parameter: "relay_domains",
        list: tables.match_list(&config.string("relay_domains")?, relay_parents),
    };
    let maps = |name: &str| -> Result<TableList, ConfigError> {
        Ok(tables.open_list_lenient(&config.string(name)?))
    };
    let propagate = config.list("propagate_unmatched_extensions")?;
    let propagates = |name: &str| propagate.iter().any(|item| item.eq_ignore_ascii_case(name));
    let myorigin = myorigin(config)?;
    Ok(Router {
        rewriter: rewriter(config, &myorigin)?,
        extensions: ExtensionRules {
            delimiters: config.string("recipient_delimiter")?,
            owner_request_special: config.bool("owner_request_special")?,
            double_bounce: config.string("double_bounce_sender")?,
        },
        propagate: Propagate {
            canonical: propagates("canonical"),
            virtual_alias: propagates("virtual"),
        },
        myhostname: config.string("myhostname")?,
        myorigin,
        own_addresses,
        allow_leading_dash: config.bool("allow_min_user")?,
        show_table_in_unknown: config.bool("show_user_unknown_table_name")?,
        mydestination: domains("mydestination")?,
        virtual_alias_domains: domains("virtual_alias_domains")?,
        virtual_mailbox_domains: domains("virtual_mailbox_domains")?,
        relay_domains,
        virtual_alias_maps: maps("virtual_alias_maps")?,
        virtual_mailbox_maps: maps("virtual_mailbox_maps")?,
        local_recipient_maps: maps("local_recipient_maps")?,
        relay_recipient_maps: maps("relay_recipient_maps")?,
        canonical_maps: maps("canonical_maps")?,
        recipient_canonical_maps: maps("recipient_canonical_maps")?,
        sender_canonical_maps: maps("sender_canonical_maps")?,
        transport_maps: maps("transport_maps")?,
        relocated_maps: maps("relocated_maps")?,
        recipient_bcc_maps: maps("recipient_bcc_maps")?,
        sender_bcc_maps: maps("sender_bcc_maps")?,
        always_bcc: config.string("always_bcc")?,
        transports: Defaults {
            local: config.string("local_transport")?,
            virtual_mailbox: config.string("virtual_transport")?,
            relay: config.string("relay_transport")?,
            default: config.string("default_transport")?,
            relayhost: config.string("relayhost")?,
        },
        transport_parents: parents_match("transport_maps"),
        relay_parents,
        recursion_limit: count(config, "virtual_alias_recursion_limit")?,
        expansion_limit: count(config, "virtual_alias_expansion_limit")?,
        address_length_limit: count(config, "virtual_alias_address_length_limit")?,
        double_bounce: config.string("double_bounce_sender")?,
        classes: Mutex::new(HashMap::new()),
        class_ttl: config.time("postroom_domain_class_ttl")?,
    })
}

/// A limit; zero and less mean none.
fn count(config: &Config, name: &str) -> Result<usize, ConfigError> {
    let value = config.int(name)?;
    Ok(usize::try_from(value)
        .ok()
        .filter(|&limit| limit > 0)
        .unwrap_or(usize::MAX))
}

/// `myorigin`, which may name a file whose first line is meant (Debian's `/etc/mailname`).
fn myorigin(config: &Config) -> Result<String, ConfigError> {
    let value = config.string("myorigin")?;
    if !value.starts_with('/') {
        return Ok(value);
    }
    let text = std::fs::read_to_string(&value).map_err(|error| {
        ConfigError::new(
            format!("cannot read {value}: {error}"),
            "create the file with the domain in its first line, or set myorigin to the domain",
        )
        .at(config.origin("myorigin"))
        .parameter("myorigin")
    })?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn rewriter(config: &Config, myorigin: &str) -> Result<Rewriter, ConfigError> {
    let mydomain = config.string("mydomain")?;
    let append_origin = config.bool("append_at_myorigin")?;
    let append_domain = config.bool("append_dot_mydomain")?;
    Ok(Rewriter {
        swap_bangpath: config.bool("swap_bangpath")?,
        percent_hack: config.bool("allow_percent_hack")?,
        origin: (append_origin && !myorigin.is_empty()).then(|| myorigin.to_owned()),
        domain: (append_domain && !mydomain.is_empty()).then_some(mydomain),
        resolve_dequoted: config.bool("resolve_dequoted_address")?,
        resolve_null_domain: config.bool("resolve_null_domain")?,
    })
}
