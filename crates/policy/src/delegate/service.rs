//! One policy service: read from `check_policy_service`, asked with a limited number of tries in limited time.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::{Config, ConfigError};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use super::answer::{self, Answer, Failure};
use super::pool::{Endpoint, Limits, Pool};

/// A program that gives actions.
pub(crate) struct Service {
    /// As in main.cf, its options left out.
    name: String,
    /// As warnings name it: without its type.
    place: String,
    timeout: Duration,
    default_action: String,
    retry_delay: Duration,
    tries: u64,
    context: String,
    /// What main.cf says of the load.
    stress: String,
    at_leaf: bool,
    pool: Arc<Pool>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What is told to this service alone.
#[derive(Clone, Copy)]
pub(crate) struct Own<'a> {
    pub stress: &'a str,
    pub context: &'a str,
}

/// What a service says, or what counts in its place.
pub(crate) enum Said {
    Action(String),
    /// It could not be asked: the default action.
    Default(String),
}

impl Said {
    pub fn action(&self) -> &str {
        match self {
            Said::Action(text) | Said::Default(text) => text,
        }
    }
}

impl Service {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The attributes that are this service's own.
    pub fn own(&self) -> Own<'_> {
        Own {
            stress: &self.stress,
            context: &self.context,
        }
    }

    /// `postroom_policy_at_leaf` names it.
    pub fn at_leaf(&self) -> bool {
        self.at_leaf
    }

    /// Asks; a service that does not answer in time, or with sense, leads to the default action.
    pub async fn ask(&self, request: &str) -> Said {
        let place = &self.place;
        for attempt in 1..=self.tries {
            match self.attempt(request).await {
                Ok(answer) => return self.read(&answer),
                Err(failure) => {
                    if let Some(text) = failure.details(place) {
                        tracing::warn!(prog = "smtpd", "{text}");
                    }
                    if attempt > 1 || !failure.is_common() {
                        let why = failure.summary();
                        tracing::warn!(prog = "smtpd", "problem talking to server {place}: {why}");
                    }
                }
            }
            if attempt < self.tries {
                tokio::time::sleep(self.retry_delay).await;
            }
        }
        Said::Default(self.default_action.clone())
    }

    /// One try. That a connection from an earlier request is gone by now is no failure: a new one is made.
    async fn attempt(&self, request: &str) -> Result<Vec<u8>, Failure> {
        let deadline = answer::deadline(self.timeout);
        match self.exchange(request, false, deadline).await {
            Err((failure, true)) if failure.is_silence() => {
                let again = self.exchange(request, true, deadline).await;
                again.map_err(|(failure, _)| failure)
            }
            result => result.map_err(|(failure, _)| failure),
        }
    }

    /// The action; a failure comes with whether the connection was an old one.
    async fn exchange(
        &self,
        request: &str,
        fresh: bool,
        deadline: Instant,
    ) -> Result<Vec<u8>, (Failure, bool)> {
        let mut lease = match timeout_at(deadline, self.pool.get(fresh)).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(error)) => return Err((Failure::Connect(error), false)),
            Err(_) => {
                let error = std::io::ErrorKind::TimedOut.into();
                return Err((Failure::Connect(error), false));
            }
        };
        let old = lease.is_used;
        match timeout_at(deadline, lease.stream.write_all(request.as_bytes())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err((Failure::Io(error), old)),
            Err(_) => return Err((Failure::Timeout(Vec::new()), old)),
        }
        let read = answer::read(&mut *lease.stream, deadline).await;
        let Answer { action, reusable } = read.map_err(|failure| (failure, old))?;
        if reusable {
            self.pool.put(lease);
        }
        Ok(action)
    }

    fn read(&self, action: &[u8]) -> Said {
        let name = &self.name;
        let Ok(text) = std::str::from_utf8(action) else {
            let shown = printable(&String::from_utf8_lossy(action));
            tracing::warn!(
                prog = "smtpd",
                "malformed UTF-8 in policy server {name} response: \"{shown}\""
            );
            return Said::Default(self.default_action.clone());
        };
        if text.trim().is_empty() {
            tracing::warn!(prog = "smtpd", "access table {name} entry  has empty value");
            return Said::Action("DUNNO".into());
        }
        Said::Action(printable(text))
    }
}

fn printable(text: &str) -> String {
    text.replace(
        |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER,
        "?",
    )
}

/// Reads services from the restrictions; the same text is the same service, with the same connections.
pub(crate) struct Services<'a> {
    config: &'a Config,
    known: Mutex<BTreeMap<String, Arc<Service>>>,
}

impl<'a> Services<'a> {
    pub fn new(config: &'a Config) -> Services<'a> {
        Services {
            config,
            known: Mutex::default(),
        }
    }

    /// `inet:host:port`, `unix:path`, or one of them with options: `{ inet:host:port, timeout=10s }`.
    pub fn get(&self, text: &str) -> Result<Arc<Service>, ConfigError> {
        let mut known = self.known.lock().unwrap_or_else(|bad| bad.into_inner());
        if let Some(service) = known.get(text) {
            return Ok(Arc::clone(service));
        }
        let service = Arc::new(self.read(text)?);
        known.insert(text.to_owned(), Arc::clone(&service));
        Ok(service)
    }

    fn read(&self, text: &str) -> Result<Service, ConfigError> {
        let inner = text
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        let mut words = match inner {
            Some(inner) => config::split_list(inner),
            None => vec![text.to_owned()],
        }
        .into_iter();
        let name = words.next().unwrap_or_default();
        let (endpoint, place) = self.endpoint(&name)?;
        let mut options = Options {
            config: self.config,
            given: BTreeMap::new(),
        };
        for word in words {
            options.add(&word)?;
        }
        let at_leaf = self.config.list("postroom_policy_at_leaf")?;
        let limits = Limits {
            idle: options.time("smtpd_policy_service_max_idle")?,
            age: options.time("smtpd_policy_service_max_ttl")?,
            requests: options.number("smtpd_policy_service_request_limit", 0)?,
            connections: usize::try_from(self.config.int("default_process_limit")?).unwrap_or(100),
        };
        Ok(Service {
            timeout: options.time("smtpd_policy_service_timeout")?,
            default_action: options.text("smtpd_policy_service_default_action")?,
            retry_delay: options.time("smtpd_policy_service_retry_delay")?,
            tries: options.number("smtpd_policy_service_try_limit", 1)?,
            context: options.text("smtpd_policy_service_policy_context")?,
            stress: self.config.string("stress")?,
            at_leaf: at_leaf.contains(&name),
            pool: Arc::new(Pool::new(endpoint, limits)),
            name,
            place,
        })
    }

    fn endpoint(&self, name: &str) -> Result<(Endpoint, String), ConfigError> {
        if let Some(path) = name.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            let queue_directory = PathBuf::from(self.config.string("queue_directory")?);
            return Ok((Endpoint::Unix(queue_directory.join(path)), path.to_owned()));
        }
        let inet = name.strip_prefix("inet:").unwrap_or_default();
        let (host, port) = inet.rsplit_once(':').unwrap_or(("", inet));
        if port.parse::<u16>().is_ok_and(|port| port > 0) {
            let host = if host.is_empty() { "localhost" } else { host };
            return Ok((Endpoint::Inet(format!("{host}:{port}")), inet.to_owned()));
        }
        Err(ConfigError::new(
            format!("check_policy_service {name}: no such kind of place"),
            "write unix:PATH (below queue_directory), or inet:HOST:PORT with a number as port",
        ))
    }
}

/// The options of one service, over the defaults of main.cf.
struct Options<'a> {
    config: &'a Config,
    given: BTreeMap<String, String>,
}

const PREFIX: &str = "smtpd_policy_service_";

/// What may be set for one service.
const NAMES: &str = "default_action, max_idle, max_ttl, policy_context, request_limit, retry_delay, timeout, try_limit";

impl Options<'_> {
    /// `name=value` or `{ name = value with spaces }`.
    fn add(&mut self, word: &str) -> Result<(), ConfigError> {
        let bare = word
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        let pair = bare.unwrap_or(word).split_once('=');
        let Some((name, value)) =
            pair.filter(|(name, _)| NAMES.split(", ").any(|known| known == name.trim()))
        else {
            return Err(ConfigError::new(
                format!("check_policy_service has no option \"{word}\""),
                format!(
                    "write name=value, or {{ name = value }} around a value with spaces; there are {}",
                    NAMES
                ),
            ));
        };
        self.given
            .insert(name.trim().to_owned(), value.trim().to_owned());
        Ok(())
    }

    /// What this service has instead of the parameter.
    fn given(&self, parameter: &str) -> Option<&String> {
        self.given.get(parameter.strip_prefix(PREFIX)?)
    }

    fn text(&self, name: &str) -> Result<String, ConfigError> {
        match self.given(name) {
            Some(value) => Ok(value.clone()),
            None => self.config.string(name),
        }
    }

    fn time(&self, name: &str) -> Result<Duration, ConfigError> {
        let time = match self.given(name) {
            Some(value) => config::parse_time(value, 's')
                .ok_or_else(|| mistake(name, value, "a time such as 30s"))?,
            None => self.config.time(name)?,
        };
        match time.is_zero() {
            true => Err(mistake(name, "0", "at least one second")),
            false => Ok(time),
        }
    }

    fn number(&self, name: &str, least: u64) -> Result<u64, ConfigError> {
        let text = match self.given(name) {
            Some(value) => value.clone(),
            None => self.config.int(name)?.to_string(),
        };
        let number = text.parse().ok().filter(|number| *number >= least);
        number.ok_or_else(|| mistake(name, &text, &format!("a number, at least {least}")))
    }
}

fn mistake(name: &str, value: &str, wanted: &str) -> ConfigError {
    let option = name.strip_prefix(PREFIX).unwrap_or(name);
    ConfigError::new(
        format!("check_policy_service: {option} = {value} makes no sense"),
        format!("give {wanted}, here or in {name}"),
    )
}
