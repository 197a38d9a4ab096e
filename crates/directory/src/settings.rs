//! Mistakes in main.cf and master.cf, and settings that have no effect.

use config::audit::{self, Audit};
use config::effects::{self, Told};
use config::master::ServiceKind;
use config::params::Effect;
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

/// Parameters that are set, known, and not honoured.
fn without_effect(config: &Config, report: &mut Report) {
    let mut found = Vec::new();
    for told in effects::settings(config) {
        let (severity, follows) = match told.effect {
            Effect::Honoured => continue,
            Effect::Harmless(why) => (Severity::Note, format!("harmless: {why}")),
            Effect::Missing(follows) => (Severity::Warning, follows.to_owned()),
        };
        let name = told.name.rsplit(' ').next().unwrap_or_default().to_owned();
        let text = format!("{name} has no effect in this version of Postroom");
        let place = told_place(&told).parameter(&told.name);
        let finding = Finding::new(severity, "setting-without-effect", place, text);
        let remedy = match severity {
            Severity::Note => "none needed; Postfix reads it from the same file",
            _ => "see docs/configuration.md for what there is in its place",
        };
        found.push(finding.so(follows).remedy(remedy));
    }
    // Those with one consequence are told together.
    found.sort_by(|a, b| a.consequence.cmp(&b.consequence));
    found.into_iter().for_each(|finding| report.add(finding));
}

/// Services of master.cf that nothing takes the place of. Those of type inet are told by `serve`.
fn services(config: &Config, report: &mut Report) {
    for (told, service) in effects::services(config).iter().zip(config.services()) {
        let Effect::Missing(follows) = told.effect else {
            continue;
        };
        if service.kind == ServiceKind::Inet {
            continue;
        }
        let text = format!("Postroom has no {}", service.command);
        let place = told_place(told).parameter(&service.id());
        // Every master.cf has it, and most machines have little use for it.
        let severity = match service.command.as_str() {
            "pickup" => Severity::Note,
            _ => Severity::Warning,
        };
        let finding = Finding::new(severity, "service-not-served", place, text);
        report.add(
            finding
                .so(follows)
                .remedy("see docs/configuration.md, master.cf"),
        );
    }
}

fn told_place(told: &Told) -> Place {
    Place::origin(Some(told.origin.clone()), &told.origin.file)
}
