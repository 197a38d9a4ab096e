//! The parameters whose tables are served, and where their lists stand: `postroom_tables_NAME`, or
//! NAME itself as long as it is not plugged in.

use std::collections::BTreeMap;

use config::{Config, ConfigError, params};
use route::{Propagated, Search};
use tables::{TYPES, split_specs};

/// `postroom_tables_NAME` is the list served under NAME.
pub(crate) const LIST_PREFIX: &str = "postroom_tables_";

/// Parameters that say where mail goes and who exists. Others, passwords among them, are served when
/// `postroom_tables_NAME` names them.
static PARAMETERS: &[(&str, Search)] = &[
    ("canonical_maps", Search::Map(Propagated::Canonical)),
    ("local_recipient_maps", Search::Address),
    ("mydestination", Search::Exact),
    ("recipient_bcc_maps", Search::Address),
    (
        "recipient_canonical_maps",
        Search::Map(Propagated::Canonical),
    ),
    ("relay_domains", Search::Domain),
    ("relay_recipient_maps", Search::Address),
    ("relocated_maps", Search::Address),
    ("sender_bcc_maps", Search::Address),
    ("sender_canonical_maps", Search::Map(Propagated::Canonical)),
    ("sender_dependent_default_transport_maps", Search::Address),
    ("sender_dependent_relayhost_maps", Search::Address),
    ("smtpd_sender_login_maps", Search::Address),
    ("transport_maps", Search::Transport),
    ("virtual_alias_domains", Search::Exact),
    ("virtual_alias_maps", Search::Map(Propagated::Virtual)),
    ("virtual_gid_maps", Search::Address),
    ("virtual_mailbox_domains", Search::Exact),
    ("virtual_mailbox_maps", Search::Address),
    ("virtual_uid_maps", Search::Address),
];

/// A parameter of the table above.
pub(crate) fn find(name: &str) -> Option<(&'static str, Search)> {
    PARAMETERS.iter().copied().find(|(known, _)| *known == name)
}

/// The names in the table above.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PARAMETERS.iter().map(|(name, _)| *name)
}

/// A list that may hold names as well as tables, of which a table is a part like the others.
pub(crate) fn is_list_of_names(name: &str) -> bool {
    matches!(find(name), Some((_, Search::Exact | Search::Domain)))
}

/// Engine and name of a database table.
pub(crate) fn sql(spec: &str) -> Option<(&str, &str)> {
    let spec = spec.strip_prefix("proxy:").unwrap_or(spec);
    let (kind, name) = spec.split_once(':')?;
    (matches!(kind, "mysql" | "pgsql" | "sqlite") && !name.is_empty()).then_some((kind, name))
}

/// A table of a type that we have, as against the name of a domain or an address.
pub(crate) fn is_table(element: &str) -> bool {
    element
        .split_once(':')
        .is_some_and(|(kind, _)| TYPES.contains(&kind))
}

/// A table behind a server like this one.
pub(crate) fn is_remote(element: &str) -> bool {
    element.starts_with("socketmap:") || element.starts_with("tcp:")
}

/// What is served: the lists of tables by name, expanded.
pub(crate) fn served(config: &Config) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut lists = BTreeMap::new();
    for full in config.names() {
        let own = params::find(full).is_some();
        if let Some(name) = full.strip_prefix(LIST_PREFIX)
            && !own
            && !name.is_empty()
        {
            lists.insert(name.to_owned(), config.string(full)?);
        }
    }
    for name in names() {
        if lists.contains_key(name) || config.raw(name).is_none() {
            continue;
        }
        let elements = split_specs(&config.string(name)?);
        let tables: Vec<&str> = elements
            .iter()
            .map(String::as_str)
            .filter(|element| is_table(element))
            .collect();
        if !tables.is_empty() && !elements.iter().any(|element| is_remote(element)) {
            lists.insert(name.to_owned(), tables.join(", "));
        }
    }
    Ok(lists)
}

/// The configuration with the lists of tables where they were before they were plugged in, and no
/// other tables: the search for `user` alone needs to know which domains are local.
pub(crate) fn for_the_search(config: &Config, lists: &BTreeMap<String, String>) -> Config {
    let overrides: Vec<(String, String)> = names()
        .filter(|name| *name != "mydestination")
        .map(|name| (name.to_owned(), String::new()))
        .collect();
    let mut config = config.with_overrides(&overrides);
    if let (Some(raw), Some(list)) = (config.raw("mydestination"), lists.get("mydestination")) {
        let unplugged: Vec<String> = split_specs(raw)
            .into_iter()
            .map(|element| match is_remote(&element) {
                true => list.clone(),
                false => element,
            })
            .collect();
        let name = "mydestination".to_owned();
        config = config.with_overrides(&[(name, unplugged.join(", "))]);
    }
    config
}
