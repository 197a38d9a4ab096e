//! What becomes of each setting and service of a configuration: honoured, without effect and harmless, or
//! missing here, and what follows. The start of the server and `postroom check` tell it.

use crate::audit::audit;
use crate::config::Config;
use crate::error::Origin;
use crate::master::ServiceKind;
use crate::params::{self, Effect};
use std::path::Path;

/// A setting of main.cf, a `-o` of master.cf, or a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// `biff`, `submission/inet -o biff`, `pickup/unix (pickup)`.
    pub name: String,
    pub origin: Origin,
    pub effect: Effect,
}

/// Every known parameter that is set, main.cf first, in the order of names. Names of the user's own are not among them.
pub fn settings(config: &Config) -> Vec<Told> {
    let main_cf = config.dir().join("main.cf");
    let mut all: Vec<Told> = config
        .names()
        .filter_map(|name| {
            let value = config.raw(name)?;
            let effect = effect(config, name, value)?;
            let origin = config.origin(name);
            let origin = origin.unwrap_or_else(|| Origin::new(&main_cf, 0));
            let name = name.to_owned();
            Some(Told {
                name,
                origin,
                effect,
            })
        })
        .collect();
    for service in config.services() {
        for (name, value) in &service.overrides {
            if let Some(effect) = effect(config, name, value) {
                all.push(Told {
                    name: format!("{} -o {name}", service.id()),
                    origin: master_cf(config.dir(), service.line),
                    effect,
                });
            }
        }
    }
    all
}

/// Every service.
pub fn services(config: &Config) -> Vec<Told> {
    let told = config.services().iter().map(|service| Told {
        name: format!("{} ({})", service.id(), service.command),
        origin: master_cf(config.dir(), service.line),
        effect: params::service_effect(service),
    });
    told.collect()
}

fn master_cf(dir: &Path, line: usize) -> Origin {
    Origin::new(&dir.join("master.cf"), line)
}

fn effect(config: &Config, name: &str, value: &str) -> Option<Effect> {
    let param = params::find(name)?;
    let of_postscreen = ["postscreen_", "tlsproxy_", "dnsblog_"];
    Some(match params::effect(param) {
        Effect::Missing(_) if value == param.default => Effect::Harmless("set to its default"),
        Effect::Missing(_)
            if of_postscreen.iter().any(|part| name.starts_with(part))
                && !has_postscreen(config) =>
        {
            Effect::Harmless("no line of master.cf starts postscreen")
        }
        effect => effect,
    })
}

fn has_postscreen(config: &Config) -> bool {
    let mut services = config.services().iter();
    services.any(|service| service.command == "postscreen")
}

/// What is missing, one line for each thing that follows, with the names it is about; then one line with all that is harmless.
pub fn lines(config: &Config) -> (Vec<String>, Option<String>) {
    let mut missing: Vec<(&'static str, Vec<String>)> = Vec::new();
    let mut harmless = Vec::new();
    for told in settings(config) {
        match told.effect {
            Effect::Honoured => {}
            Effect::Harmless(_) if harmless.contains(&told.name) => {}
            Effect::Harmless(_) => harmless.push(told.name),
            Effect::Missing(follows) => {
                let name = format!("{} ({})", told.name, short(&told.origin));
                match missing.iter_mut().find(|(known, _)| *known == follows) {
                    Some((_, names)) => names.push(name),
                    None => missing.push((follows, vec![name])),
                }
            }
        }
    }
    let unknown = unknown(config);
    let nothing = (!unknown.is_empty()).then(|| {
        let names: Vec<String> = unknown
            .iter()
            .map(|told| format!("{} ({})", told.name, short(&told.origin)))
            .collect();
        let names = names.join(", ");
        format!(
            "no such parameter: {names}: nothing reads it; correct the spelling, or delete the line"
        )
    });
    let missing = missing
        .into_iter()
        .map(|(follows, names)| format!("not supported: {}: {follows}", names.join(", ")));
    let harmless = (!harmless.is_empty()).then(|| {
        let names = harmless.join(", ");
        format!("without effect here, and harmless (`postroom check --settings` says why): {names}")
    });
    (missing.chain(nothing).collect(), harmless)
}

/// Settings of main.cf that are no parameter, and that nothing refers to.
pub fn unknown(config: &Config) -> Vec<Told> {
    let Ok(found) = audit(config) else {
        return Vec::new();
    };
    let unknown = config
        .names()
        .filter(|name| !found.known.contains_key(*name));
    let told = unknown.filter_map(|name| {
        Some(Told {
            name: name.to_owned(),
            origin: config.origin(name)?,
            effect: Effect::Missing("nothing reads it"),
        })
    });
    told.collect()
}

/// The same of services; those of type inet are told by who listens.
pub fn service_lines(config: &Config) -> Vec<String> {
    let inet = |service: &&crate::master::Service| service.kind == ServiceKind::Inet;
    let at_start: Vec<usize> = config
        .services()
        .iter()
        .filter(inet)
        .map(|s| s.line)
        .collect();
    services(config)
        .into_iter()
        .filter(|told| !at_start.contains(&told.origin.line))
        .filter_map(|told| match told.effect {
            Effect::Missing(follows) => Some(format!(
                "service {} ({}): not supported: {follows}",
                told.name,
                short(&told.origin)
            )),
            _ => None,
        })
        .collect()
}

/// `main.cf:12`: the folder is known.
fn short(origin: &Origin) -> String {
    let file = origin.file.file_name().unwrap_or_default();
    format!("{}:{}", file.display(), origin.line)
}
