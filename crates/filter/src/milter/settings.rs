//! The milter parameters of main.cf: which milters, how long they may take, what happens when one fails.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::{Config, ConfigError, parse_time, split_list};
use tables::{TableList, Tables};

use super::macros::{STAGES, Stage};
use crate::checks::{CheckLists, Lists};

/// Where a milter listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Inet { host: String, port: u16 },
    Unix(PathBuf),
}

/// `milter_default_action`: what happens to mail while a milter fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    Accept,
    Reject,
    TempFail,
    Quarantine,
    Shutdown,
}

impl DefaultAction {
    fn of(word: &str) -> Option<DefaultAction> {
        Some(match word {
            "accept" => DefaultAction::Accept,
            "reject" => DefaultAction::Reject,
            "tempfail" => DefaultAction::TempFail,
            "quarantine" => DefaultAction::Quarantine,
            "shutdown" => DefaultAction::Shutdown,
            _ => return None,
        })
    }
}

/// One milter of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `inet:127.0.0.1:11332`, as the log names it.
    pub name: String,
    pub endpoint: Endpoint,
    pub connect_timeout: Duration,
    pub command_timeout: Duration,
    pub content_timeout: Duration,
    pub default_action: DefaultAction,
    /// 2, 3, 4 or 6.
    pub protocol: u32,
}

/// What holds for every milter that does not say otherwise.
#[derive(Clone, Debug)]
struct Defaults {
    connect_timeout: Duration,
    command_timeout: Duration,
    content_timeout: Duration,
    default_action: DefaultAction,
    protocol: u32,
    queue_directory: PathBuf,
}

/// The milters of a service.
pub struct Settings {
    milters: Vec<Arc<Spec>>,
    /// `smtpd_milter_maps`.
    maps: TableList,
    defaults: Defaults,
    pub(super) macros: BTreeMap<Stage, Vec<String>>,
    pub(super) macro_defaults: BTreeMap<String, String>,
    /// `milter_macro_daemon_name`.
    pub daemon_name: String,
    /// `milter_macro_v`.
    pub version: String,
    /// `milter_header_checks`.
    pub(super) header_checks: Option<Arc<CheckLists>>,
    /// Of a replaced body (`message_size_limit`).
    pub(super) size_limit: u64,
}

impl Settings {
    /// The milters for what comes by SMTP; `None` where there are none.
    pub fn of(config: &Config, tables: &Tables) -> Result<Option<Settings>, ConfigError> {
        let overrides = config.list("receive_override_options")?;
        let milters = config.string("smtpd_milters")?;
        let maps = config.string("smtpd_milter_maps")?;
        let none = milters.trim().is_empty() && maps.trim().is_empty();
        if none || overrides.iter().any(|option| option == "no_milters") {
            return Ok(None);
        }
        let defaults = defaults(config)?;
        let milters = parse_list(&milters, &defaults).map_err(|(problem, remedy)| {
            ConfigError::new(problem, remedy)
                .at(config.origin("smtpd_milters"))
                .parameter("smtpd_milters")
                .value(&milters)
        })?;
        let mut macros = BTreeMap::new();
        for stage in STAGES {
            macros.insert(stage, config.list(stage.parameter())?);
        }
        let size_limit = config.int("message_size_limit")?;
        Ok(Some(Settings {
            milters,
            maps: tables.open_list_lenient(&maps),
            defaults,
            macros,
            macro_defaults: macro_defaults(&config.string("milter_macro_defaults")?),
            daemon_name: config.string("milter_macro_daemon_name")?,
            version: config.string("milter_macro_v")?,
            header_checks: CheckLists::of(config, tables, Lists::Milter)?.map(Arc::new),
            size_limit: u64::try_from(size_limit).unwrap_or(0),
        }))
    }

    /// The milters that mail from this client goes through.
    pub async fn for_client(&self, client: IpAddr) -> Vec<Arc<Spec>> {
        if self.maps.is_empty() {
            return self.milters.clone();
        }
        match self.maps.lookup(&client.to_string()).await {
            Ok(None) => self.milters.clone(),
            Ok(Some(value)) if value.eq_ignore_ascii_case("DISABLE") => Vec::new(),
            Ok(Some(value)) => parse_list(&value, &self.defaults).unwrap_or_else(|(problem, _)| {
                tracing::warn!(prog = "smtpd", "smtpd_milter_maps: {client}: {problem}");
                self.milters.clone()
            }),
            Err(error) => {
                tracing::warn!(prog = "smtpd", "smtpd_milter_maps: {error}");
                self.milters.clone()
            }
        }
    }
}

fn defaults(config: &Config) -> Result<Defaults, ConfigError> {
    let word = config.string("milter_default_action")?;
    let action = DefaultAction::of(&word);
    let wrong = |name: &str, problem: &str, remedy: &str| {
        ConfigError::new(problem, remedy)
            .at(config.origin(name))
            .parameter(name)
    };
    let protocol = config.string("milter_protocol")?;
    Ok(Defaults {
        connect_timeout: config.time("milter_connect_timeout")?,
        command_timeout: config.time("milter_command_timeout")?,
        content_timeout: config.time("milter_content_timeout")?,
        default_action: action.ok_or_else(|| {
            wrong("milter_default_action", "no such action", ACTIONS).value(&word)
        })?,
        protocol: version(&protocol).ok_or_else(|| {
            let problem = "no such version of the milter protocol";
            wrong("milter_protocol", problem, VERSIONS).value(&protocol)
        })?,
        queue_directory: PathBuf::from(config.string("queue_directory")?),
    })
}

const ACTIONS: &str = "use one of: accept, reject, tempfail, quarantine, shutdown";
const VERSIONS: &str = "use one of: 2, 3, 4, 6";

/// `6`, or with further words that old versions of Postfix wanted.
fn version(text: &str) -> Option<u32> {
    let mut words = text.split([' ', ',', '\t']).filter(|word| !word.is_empty());
    words.find_map(|word| match word {
        "2" => Some(2),
        "3" => Some(3),
        "4" => Some(4),
        "6" => Some(6),
        _ => None,
    })
}

/// A problem, and what to do about it.
type Mistake = (String, String);

/// `inet:host:port, unix:path, { inet:host:port, name=value, … }`.
fn parse_list(text: &str, defaults: &Defaults) -> Result<Vec<Arc<Spec>>, Mistake> {
    let items = split_list(text);
    let specs = items.iter().map(|item| parse_spec(item, defaults));
    specs.map(|spec| spec.map(Arc::new)).collect()
}

fn parse_spec(item: &str, defaults: &Defaults) -> Result<Spec, Mistake> {
    let inside = item
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'));
    let words = match inside {
        Some(inside) => split_list(inside),
        None => vec![item.to_owned()],
    };
    let (name, attributes) = words
        .split_first()
        .ok_or_else(|| mistake("a milter without its endpoint", ENDPOINTS))?;
    let mut spec = Spec {
        name: name.clone(),
        endpoint: endpoint(name, defaults)?,
        connect_timeout: defaults.connect_timeout,
        command_timeout: defaults.command_timeout,
        content_timeout: defaults.content_timeout,
        default_action: defaults.default_action,
        protocol: defaults.protocol,
    };
    for attribute in attributes {
        let attribute = attribute
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(attribute);
        apply(&mut spec, attribute)?;
    }
    Ok(spec)
}

fn mistake(problem: &str, remedy: &str) -> Mistake {
    (problem.to_owned(), remedy.to_owned())
}

const ENDPOINTS: &str = "write inet:host:port or unix:pathname";

fn endpoint(text: &str, defaults: &Defaults) -> Result<Endpoint, Mistake> {
    let wrong = || mistake(&format!("\"{text}\" is no milter endpoint"), ENDPOINTS);
    let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
    match kind {
        "unix" | "local" if !rest.is_empty() => {
            Ok(Endpoint::Unix(defaults.queue_directory.join(rest)))
        }
        "inet" | "inet6" => {
            // `inet:port@host` is libmilter's own form; Postfix takes host:port.
            let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Ok(Endpoint::Inet {
                host: match host {
                    "" => "127.0.0.1".to_owned(),
                    host => host.to_owned(),
                },
                port: port.parse().map_err(|_| wrong())?,
            })
        }
        _ => Err(wrong()),
    }
}

fn apply(spec: &mut Spec, attribute: &str) -> Result<(), Mistake> {
    let (name, value) = attribute
        .split_once('=')
        .map(|(name, value)| (name.trim(), value.trim()))
        .ok_or_else(|| {
            mistake(
                &format!("\"{attribute}\" of a milter is not name=value"),
                ATTRIBUTES,
            )
        })?;
    let time = || {
        parse_time(value, 's').ok_or_else(|| {
            mistake(
                &format!("{name}={value} is no time"),
                "write for example 10s",
            )
        })
    };
    match name {
        "connect_timeout" => spec.connect_timeout = time()?,
        "command_timeout" => spec.command_timeout = time()?,
        "content_timeout" => spec.content_timeout = time()?,
        "default_action" => {
            spec.default_action = DefaultAction::of(value)
                .ok_or_else(|| mistake(&format!("{name}={value}: no such action"), ACTIONS))?;
        }
        "protocol" => {
            spec.protocol = version(value)
                .ok_or_else(|| mistake(&format!("{name}={value}: no such version"), VERSIONS))?;
        }
        _ => {
            let problem = format!("a milter has no attribute \"{name}\"");
            return Err(mistake(&problem, ATTRIBUTES));
        }
    }
    Ok(())
}

const ATTRIBUTES: &str =
    "use connect_timeout, command_timeout, content_timeout, default_action or protocol";

/// `name=value, { name = value }`.
fn macro_defaults(text: &str) -> BTreeMap<String, String> {
    let items = split_list(text).into_iter();
    let pairs = items.filter_map(|item| {
        let inside = item
            .strip_prefix('{')
            .filter(|rest| !rest.contains("}=") || rest.contains(" "))
            .and_then(|rest| rest.strip_suffix('}'));
        let (name, value) = inside.unwrap_or(&item).split_once('=')?;
        Some((bare(name.trim()).to_owned(), value.trim().to_owned()))
    });
    pairs.collect()
}

/// The name of a macro without braces.
pub(super) fn bare(name: &str) -> &str {
    name.strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Defaults {
        Defaults {
            connect_timeout: Duration::from_secs(30),
            command_timeout: Duration::from_secs(30),
            content_timeout: Duration::from_secs(300),
            default_action: DefaultAction::TempFail,
            protocol: 6,
            queue_directory: "/var/spool/postfix".into(),
        }
    }

    #[test]
    fn lists_are_read_as_postfix_reads_them() {
        let text = "inet:localhost:11332, unix:opendkim/sock,\n { inet:[::1]:8891, connect_timeout=5s, default_action = accept }";
        let list = parse_list(text, &settings());
        // Blanks around `=` are for lists in braces alone.
        assert!(list.is_err());
        let text = text.replace(" = ", "=");
        let list = parse_list(&text, &settings()).expect("it is well formed");
        assert_eq!(list[0].name, "inet:localhost:11332");
        assert_eq!(
            list[1].endpoint,
            Endpoint::Unix("/var/spool/postfix/opendkim/sock".into())
        );
        assert_eq!(
            list[2].endpoint,
            Endpoint::Inet {
                host: "::1".into(),
                port: 8891
            }
        );
        assert_eq!(list[2].connect_timeout, Duration::from_secs(5));
        assert_eq!(list[2].default_action, DefaultAction::Accept);
        for wrong in [
            "11332",
            "inet:x",
            "inet:x:port",
            "unix:",
            "{ }",
            "{ inet:x:1, y=1 }",
        ] {
            assert!(parse_list(wrong, &settings()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn macro_defaults_have_braces_or_none() {
        let found = macro_defaults("j=host, {daemon_name}=name, { v = a b }");
        let expected = [("daemon_name", "name"), ("j", "host"), ("v", "a b")];
        let found: Vec<(&str, &str)> = found.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        assert_eq!(found, expected);
    }
}
