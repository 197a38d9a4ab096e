//! Which parameters a configuration knows: built in, service-defined, user-defined, and those of lookup tables
//! configured in main.cf; and what `postconf` warns about because nothing uses it or nothing defines it.

use crate::config::Config;
use crate::error::ConfigError;
use crate::expand;
use crate::main_cf::shown_value;
use crate::master::{Service, without_braces};
use crate::params;
use crate::table_file::TableFile;
use crate::values::split_list;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where a parameter's name comes from (`postconf -C`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    Builtin,
    /// `dovecot_destination_recipient_limit` where master.cf has a service `dovecot`.
    Service,
    /// Referred to as `$name`, a restriction class, or a table's `name_query`.
    User,
}

/// The result of looking through a configuration once.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// Every known name with its class.
    pub known: BTreeMap<String, Class>,
    /// `$name` that nothing defines, and expressions that cannot be read. Postfix's words.
    pub undefined: Vec<String>,
    /// Settings of main.cf and table files that nothing uses. Postfix's words, without passwords.
    pub unused: Vec<String>,
    /// `-o` settings of master.cf that nothing uses.
    pub unused_in_master: Vec<String>,
}

/// Looks through main.cf, master.cf and the table files they name. Fails where a value cannot be expanded.
pub fn audit(config: &Config) -> Result<Audit, ConfigError> {
    let mut found = references_of(config);
    register_tables(config, &mut found)?;
    for name in config
        .names()
        .filter(|name| !found.known.contains_key(*name))
    {
        let value = shown_value(name, config.raw(name).unwrap_or_default());
        let file = config.dir().join("main.cf");
        found.unused.push(format!(
            "{}: unused parameter: {name}={value}",
            file.display()
        ));
    }
    Ok(found)
}

/// What [`Audit::undefined`] lists, also where [`audit`] fails.
pub fn undefined(config: &Config) -> Vec<String> {
    references_of(config).undefined
}

/// The names known without looking into table files.
fn references_of(config: &Config) -> Audit {
    let mut found = Audit::default();
    for param in params::PARAMS.iter() {
        found.known.insert(param.name.to_owned(), Class::Builtin);
    }
    register_services(config, &mut found);
    register_references(config, &mut found);
    found
}

fn register_services(config: &Config, found: &mut Audit) {
    // Whatever its type is, as in Postfix.
    for service in config.written_services() {
        let transport = matches!(
            service.command.as_str(),
            "local" | "pipe" | "virtual" | "smtp" | "lmtp" | "error"
        );
        let timed = matches!(service.command.as_str(), "pipe" | "spawn");
        for (suffix, _) in params::SERVICE_SUFFIXES {
            let applies = if *suffix == "_time_limit" {
                timed
            } else {
                transport
            };
            let name = format!("{}{suffix}", service.name);
            // local(8) has two with defaults of their own.
            let builtin = found.known.contains_key(&name) && service.name != "local";
            if applies && !builtin {
                found.known.insert(name, Class::Service);
            }
        }
    }
}

/// Takes in every `$name` of main.cf's values, and from the `-o` settings of every service.
fn register_references(config: &Config, found: &mut Audit) {
    let main_file = config.dir().join("main.cf");
    let classes = config
        .raw("smtpd_restriction_classes")
        .map(split_list)
        .unwrap_or_default();
    for class in classes {
        found.known.entry(class).or_insert(Class::User);
    }
    // Lists that `postroom tables serve` serves under the rest of the name.
    let served = config
        .names()
        .filter(|name| name.starts_with("postroom_tables_"));
    for name in served.map(str::to_owned) {
        found.known.entry(name).or_insert(Class::User);
    }
    for value in config.names().filter_map(|name| config.raw(name)) {
        for reference in references(value, found) {
            if found.known.contains_key(&reference) {
                continue;
            }
            if config.raw(&reference).is_some() || is_overridden(config, &reference) {
                found.known.insert(reference, Class::User);
            } else {
                let file = main_file.display();
                found
                    .undefined
                    .push(format!("{file}: undefined parameter: {reference}"));
            }
        }
    }
    let master_file = config.dir().join("master.cf");
    for at in 0..config.written_services().len() {
        let settings = settings_of(config, at);
        let mut used = BTreeSet::new();
        for value in settings.values() {
            for reference in references(value, found) {
                let local = settings.contains_key(reference.as_str());
                used.insert(reference.clone());
                if local || found.known.contains_key(&reference) {
                    continue;
                }
                if config.raw(&reference).is_some() {
                    found.known.insert(reference, Class::User);
                } else {
                    found.undefined.push(format!(
                        "{}: undefined parameter: {reference}",
                        master_file.display()
                    ));
                }
            }
        }
        for (name, value) in settings {
            if !used.contains(name) && !found.known.contains_key(name) {
                let value = shown_value(name, value);
                found.unused_in_master.push(format!(
                    "{}: unused parameter: {name}={value}",
                    master_file.display()
                ));
            }
        }
    }
}

/// The `-o` settings of one entry of master.cf, counted from the top, as Postfix's postconf puts them together: those of
/// all entries with its name and type, from the first that has any.
pub fn settings_of(config: &Config, at: usize) -> BTreeMap<&str, &str> {
    let written = config.written_services();
    let Some(service) = written.get(at) else {
        return BTreeMap::new();
    };
    let same = |other: &&Service| other.name == service.name && other.kind == service.kind;
    let begun = written[..=at].iter().filter(same);
    if begun.clone().all(|other| other.overrides.is_empty()) {
        return BTreeMap::new();
    }
    written
        .iter()
        .filter(same)
        .flat_map(|other| &other.overrides)
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// Some service sets it with `-o`.
fn is_overridden(config: &Config, name: &str) -> bool {
    config
        .services()
        .iter()
        .any(|service| service.overrides.iter().any(|(set, _)| set == name))
}

fn references(value: &str, found: &mut Audit) -> Vec<String> {
    let (names, result) = expand::names(value);
    if let Err(error) = result {
        found.undefined.push(error.to_string());
    }
    names
}

/// The parameters of lookup tables whose settings live in files or in main.cf, by table type.
fn table_parameters(kind: &str) -> Option<Vec<&'static str>> {
    // With the additions of releases after 3.7: charset, encoding, idle_interval, retry_interval.
    // Postroom's own begin with postroom_.
    const MYSQL: &str = "\
        additional_conditions charset dbname domain expansion_limit hosts idle_interval \
        option_file option_group password postroom_table_cache_negative_ttl \
        postroom_table_cache_size postroom_table_cache_ttl postroom_table_stale_ttl query \
        require_result_set result_format \
        retry_interval select_field table tls_CAfile tls_CApath tls_cert_file tls_ciphers \
        tls_key_file tls_verify_cert user where_field";
    const PGSQL: &str = "\
        additional_conditions dbname domain encoding expansion_limit hosts idle_interval \
        password postroom_table_cache_negative_ttl postroom_table_cache_size \
        postroom_table_cache_ttl postroom_table_stale_ttl query result_format retry_interval \
        select_field select_function table user \
        where_field";
    const SQLITE: &str = "\
        additional_conditions dbpath domain expansion_limit postroom_table_cache_negative_ttl \
        postroom_table_cache_size postroom_table_cache_ttl postroom_table_stale_ttl query \
        result_format select_field table where_field";
    const LDAP: &str = "\
        bind bind_dn bind_pw cache cache_expiry cache_size chase_referrals debuglevel \
        dereference domain expansion_limit leaf_result_attribute query_filter \
        recursion_limit result_attribute result_filter result_format sasl_authz_id \
        sasl_mechs sasl_minssf sasl_realm scope search_base server_host server_port \
        size_limit special_result_attribute start_tls terminal_result_attribute timeout \
        tls_ca_cert_dir tls_ca_cert_file tls_cert tls_cipher_suite tls_key tls_random_file \
        tls_require_cert version";
    const MEMCACHE: &str = "\
        backup data_size_limit domain flags key_format line_size_limit max_try memcache \
        retry_pause timeout ttl";
    let names = match kind {
        "mysql" => MYSQL,
        "pgsql" => PGSQL,
        "sqlite" => SQLITE,
        "ldap" => LDAP,
        "memcache" => MEMCACHE,
        _ => return None,
    };
    Some(names.split_ascii_whitespace().collect())
}

fn register_tables(config: &Config, found: &mut Audit) -> Result<(), ConfigError> {
    let mut tables = BTreeSet::new();
    // What a setting of the user's own holds counts where a parameter refers to it.
    let own = |name: &&str| {
        let class = found.known.get(*name);
        class.is_some_and(|class| *class != Class::User)
    };
    for name in config.names().filter(own) {
        collect_tables(&config.string(name)?, &mut tables);
    }
    for service in config.services() {
        let config = config.for_service(service);
        for (_, value) in &service.overrides {
            collect_tables(&config.expand(value)?, &mut tables);
        }
    }
    for (kind, name) in tables {
        let Some(parameters) = table_parameters(&kind) else {
            continue;
        };
        if name.starts_with(['/', '.']) {
            check_table_file(&kind, Path::new(&name), &parameters, found)?;
        } else {
            for suffix in parameters {
                let full = format!("{name}_{suffix}");
                if config.raw(&full).is_some() {
                    found.known.entry(full).or_insert(Class::User);
                }
            }
        }
    }
    Ok(())
}

fn collect_tables(value: &str, tables: &mut BTreeSet<(String, String)>) {
    for item in split_list(value) {
        let inner = without_braces(&item);
        if inner.len() < item.len() {
            collect_tables(inner, tables);
            continue;
        }
        let item = item.strip_prefix("proxy:").unwrap_or(&item);
        if let Some((kind, name)) = item.split_once(':') {
            if name.starts_with('{') {
                collect_tables(without_braces(name), tables);
            } else {
                tables.insert((kind.to_owned(), name.to_owned()));
            }
        }
    }
}

fn check_table_file(
    kind: &str,
    path: &Path,
    parameters: &[&str],
    found: &mut Audit,
) -> Result<(), ConfigError> {
    // A file that cannot be read is the business of the table that opens it.
    let Ok(bytes) = std::fs::read(path) else {
        return Ok(());
    };
    let file = TableFile::from_text(&String::from_utf8_lossy(&bytes), path)?;
    found.unused.extend(file.warnings().iter().cloned());
    for name in file.names().filter(|name| !parameters.contains(name)) {
        let value = shown_value(name, file.get(name).unwrap_or_default());
        found.unused.push(format!(
            "{kind}:{}: unused parameter: {name}={value}",
            path.display()
        ));
    }
    Ok(())
}
