//! Mistakes in main.cf and master.cf, and settings that have no effect.

use config::audit::{self, Audit};
use config::master::ServiceKind;
use config::params;
use config::{Config, ConfigError};

use crate::finding::{Finding, Place, Report, Severity};

/// Everything that can be said without asking a table.
pub(crate) fn check(config: &Config, report: &mut Report) {
    for mistake in config.check() {
        report.add(mistaken(config, &mistake));
    }
    for warning in config.warnings() {
        let finding = Finding::new(
            Severity::Warning,
            "setting-overridden",
            main_cf(config),
            warning.clone(),
        );
        report.add(
            finding
                .so("the last setting of a name counts; the earlier one has no effect")
                .remedy("delete the line that is not meant"),
        );
    }
    match audit::audit(config) {
        Ok(found) => unused(config, &found, report),
        // `config.check` has told it.
        Err(_) => report.findings.dedup(),
    }
    without_effect(config, report);
    services(config, report);
}

/// A mistake with file, line, parameter and remedy.
pub fn mistaken(config: &Config, mistake: &ConfigError) -> Finding {
    let place = Place::origin(mistake.origin.clone(), &config.dir().join("main.cf"));
    let place = match &mistake.parameter {
        Some(name) => place.parameter(name),
        None => place,
    };
    let text = match &mistake.value {
        Some(value) => format!("{}: \"{value}\"", mistake.problem),
        None => mistake.problem.clone(),
    };
    Finding::new(Severity::Error, "setting-wrong", place, text)
        .so("`postroom serve` refuses to start, or to take the change over")
        .remedy(mistake.remedy.clone())
}

fn main_cf(config: &Config) -> Place {
    Place::file(config.dir().join("main.cf"))
}

fn unused(config: &Config, found: &Audit, report: &mut Report) {
    let nothing = "nothing reads it: it has no effect";
    let remedy = "correct the spelling, or delete the line";
    for name in config
        .names()
        .filter(|name| !found.known.contains_key(*name))
    {
        let place = Place::origin(config.origin(name), &config.dir().join("main.cf"));
        let finding = Finding::new(
            Severity::Warning,
            "setting-unknown",
            place.parameter(name),
            format!("there is no parameter {name}, and nothing refers to it"),
        );
        report.add(finding.so(nothing).remedy(remedy));
    }
    let own = format!(
        "{}: unused parameter: ",
        config.dir().join("main.cf").display()
    );
    let others = found.unused.iter().filter(|text| !text.starts_with(&own));
    for text in others.chain(&found.unused_in_master) {
        // `mysql:/etc/postfix/x.cf: unused parameter: name=value`
        let (file, problem) = text.split_once(": ").unwrap_or(("", text));
        let file = file.split_once(':').map_or(file, |(_, file)| file);
        let name = problem
            .strip_prefix("unused parameter: ")
            .and_then(|rest| rest.split_once('='))
            .map_or("", |(name, _)| name);
        let place = Place::file(file);
        let place = if name.is_empty() {
            place
        } else {
            place.parameter(name)
        };
        let finding = Finding::new(
            Severity::Warning,
            "setting-unknown",
            place,
            problem.to_owned(),
        );
        report.add(finding.so(nothing).remedy(remedy));
    }
    for text in &found.undefined {
        let (file, problem) = text.split_once(": ").unwrap_or(("", text));
        let finding = Finding::new(
            Severity::Warning,
            "setting-undefined",
            Place::file(file),
            problem.to_owned(),
        );
        report.add(
            finding
                .so("it stands for an empty text")
                .remedy("define it, or correct the spelling"),
        );
    }
}

/// What follows from a setting that is not honoured.
struct Effect {
    severity: Severity,
    consequence: &'static str,
}

/// By a part of the name: the first that fits counts.
const EFFECTS: &[(&[&str], Severity, &str)] = &[
    (
        &["mailbox_size_limit"],
        Severity::Note,
        "harmless: it is about local mailboxes, and there are none",
    ),
    (
        &["_tls_", "tls_", "tlsproxy"],
        Severity::Warning,
        "TLS does not do what this setting says; see docs/configuration.md",
    ),
    (
        &["_sasl_", "sasl_", "sender_login_maps"],
        Severity::Warning,
        "authentication does not do what this setting says; see docs/configuration.md",
    ),
    (
        &["milter"],
        Severity::Warning,
        "what the milter would refuse, sign or mark goes through as it is",
    ),
    (
        &[
            "header_checks",
            "body_checks",
            "content_filter",
            "proxy_filter",
        ],
        Severity::Warning,
        "mail that the filter would refuse or change goes through as it is",
    ),
    (
        &[
            "postscreen_",
            "_rate_limit",
            "rbl",
            "policy_service",
            "etrn_restrictions",
        ],
        Severity::Warning,
        "clients that it would keep out or slow down are let in",
    ),
    (
        &["address_verify", "unverified_"],
        Severity::Note,
        "addresses are not verified by asking other servers",
    ),
    (
        &[
            "alias_maps",
            "mailbox_",
            "home_mailbox",
            "forward_path",
            "luser_relay",
            "fallback_transport",
        ],
        Severity::Warning,
        "there are no local mailboxes here: mail for accounts of this machine is deferred",
    ),
    (
        &["soft_bounce", "defer_transports", "masquerade_"],
        Severity::Warning,
        "Postroom goes on as if it were not set",
    ),
    (
        &[
            "_service_name",
            "_directory",
            "_path",
            "ipc_",
            "max_use",
            "max_idle",
            "fork_",
            "_timeout",
            "qmgr_",
            "hash_queue_",
            "berkeley_db_",
            "lmdb_",
            "_delivery_slot_",
            "biff",
            "alias_database",
            "daemon_",
            "process_",
            "debug",
            "stress",
            "multi_instance",
            "recipient_refill",
            "notice_recipient",
            "_session_cache_",
        ],
        Severity::Note,
        "harmless: it is about processes, folders or programs of Postfix that Postroom does without",
    ),
];

fn effect(name: &str) -> Effect {
    let fits = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let found = EFFECTS.iter().find(|(parts, ..)| fits(parts));
    let (severity, consequence) = match found {
        Some((_, severity, consequence)) => (*severity, *consequence),
        None => (Severity::Note, "Postroom goes on as if it were not set"),
    };
    Effect {
        severity,
        consequence,
    }
}

/// Parameters that are set, known, and not honoured.
fn without_effect(config: &Config, report: &mut Report) {
    let main: Vec<(String, Place)> = config
        .names()
        .map(|name| {
            let place = Place::origin(config.origin(name), &config.dir().join("main.cf"));
            (name.to_owned(), place.parameter(name))
        })
        .collect();
    let overrides = config.services().iter().flat_map(|service| {
        service.overrides.iter().map(|(name, _)| {
            let place = Place {
                line: Some(service.line),
                ..Place::file(config.dir().join("master.cf"))
            };
            let parameter = format!("{} -o {name}", service.id());
            (name.clone(), place.parameter(&parameter))
        })
    });
    let overrides: Vec<(String, Place)> = overrides.collect();
    let mut found = Vec::new();
    for (name, place) in main.into_iter().chain(overrides) {
        let Some(param) = params::find(&name).filter(|param| !param.honoured) else {
            continue;
        };
        let is_default = config
            .raw(&name)
            .is_some_and(|value| value == param.default);
        let Effect {
            severity,
            consequence,
        } = effect(&name);
        let (severity, consequence) = match is_default {
            true => (Severity::Note, "harmless: it is set to its default"),
            false => (severity, consequence),
        };
        let text = format!("{name} has no effect in this version of Postroom");
        let finding = Finding::new(severity, "setting-without-effect", place, text);
        let remedy = match severity {
            Severity::Note => "none needed; Postfix reads it from the same file",
            _ => "see docs/configuration.md for what there is in its place",
        };
        found.push(finding.so(consequence).remedy(remedy));
    }
    // Those with one consequence are told together.
    found.sort_by(|a, b| a.consequence.cmp(&b.consequence));
    found.into_iter().for_each(|finding| report.add(finding));
}

/// Programs of Postfix that Postroom does inside one process, or serves.
const SERVED: &[&str] = &[
    "smtpd",
    "cleanup",
    "qmgr",
    "bounce",
    "pickup",
    "trivial-rewrite",
    "rewrite",
    "defer",
    "trace",
    "flush",
    "proxymap",
    "showq",
    "error",
    "discard",
    "virtual",
    "lmtp",
    "smtp",
    "pipe",
    "anvil",
    "scache",
    "postlogd",
    "tlsmgr",
    "verify",
];

/// Services of master.cf that nothing takes the place of. Those of type inet are told by `serve`.
fn services(config: &Config, report: &mut Report) {
    for service in config.services() {
        if service.kind == ServiceKind::Inet || SERVED.contains(&service.command.as_str()) {
            continue;
        }
        let place = Place {
            line: Some(service.line),
            ..Place::file(config.dir().join("master.cf"))
        };
        let (severity, consequence) = match service.command.as_str() {
            "local" => (
                Severity::Note,
                "there are no local mailboxes here: mail that this transport is to deliver is deferred",
            ),
            _ => (
                Severity::Warning,
                "the program is not started: what waits for this service gets no answer",
            ),
        };
        let text = format!("Postroom has no {}", service.command);
        let finding = Finding::new(
            severity,
            "service-not-served",
            place.parameter(&service.id()),
            text,
        );
        report.add(
            finding
                .so(consequence)
                .remedy("see docs/configuration.md, master.cf"),
        );
    }
}
