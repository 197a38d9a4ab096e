//! SASL for the SMTP server: which mechanisms are offered, and the exchange behind AUTH. Passwords are
//! checked by Dovecot (`dovecot`), and pass through here without being looked at.

mod dovecot;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use config::{Config, ConfigError};
use smtp::Reply;
use smtp::server::{Auth, Secret};
use tables::{CidrList, MatchList, Tables};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use dovecot::{Connection, Fault, Mechanism, Verdict};
pub(crate) use dovecot::{Endpoint, Situation};

/// `smtpd_sasl_…` of one service.
pub(crate) struct Sasl {
    endpoint: Endpoint,
    /// `smtpd_sasl_service`.
    service: String,
    in_the_clear: Rules,
    under_tls: Rules,
    /// `smtpd_sasl_mechanism_filter`: what EHLO names; others are possible, as in Postfix.
    filter: MatchList,
    /// `smtpd_sasl_exceptions_networks`.
    exceptions: CidrList,
    /// `smtpd_sasl_authenticated_header`.
    pub show_in_header: bool,
    known: Mutex<Known>,
    /// Authentications at once: clients that begin many and end none must not use up the server that IMAP needs, too.
    room: Arc<Semaphore>,
}

/// `smtpd_sasl_security_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    no_plaintext: bool,
    no_anonymous: bool,
    no_active: bool,
    no_dictionary: bool,
    forward_secrecy: bool,
    mutual: bool,
}

/// What the server said last.
#[derive(Default)]
struct Known {
    mechanisms: Option<Vec<Mechanism>>,
    asked: Option<Instant>,
}

/// Somebody who has authenticated himself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    /// As the client wrote it.
    pub mechanism: String,
    pub user: String,
}

/// What has become of an AUTH command.
pub(crate) enum Progress {
    Challenge(Exchange, String),
    Done(Login),
    Failed(Failure),
}

/// An authentication that did not succeed.
pub(crate) struct Failure {
    pub mechanism: String,
    pub reason: String,
    /// Whose it was, as far as the server tells.
    pub user: Option<String>,
    /// Nobody is wrong; it may be tried again.
    pub temporary: bool,
}

impl Failure {
    pub fn reply(&self) -> Reply {
        match self.temporary {
            true => smtp::reply::auth_unavailable(&self.reason),
            false => smtp::reply::auth_failed(&self.reason),
        }
    }

    /// The line that log readers such as fail2ban know.
    pub fn log(&self, client: &str) -> String {
        let clean = |text: &str| text.replace(|c: char| c.is_control() || !c.is_ascii(), "?");
        format!(
            "{client}: SASL {} authentication failed: {}, sasl_username={}",
            clean(&self.mechanism),
            clean(&self.reason),
            self.user.as_deref().map_or("(unavailable)".into(), clean)
        )
    }
}

/// An authentication in the middle: a challenge was sent.
pub(crate) struct Exchange {
    connection: Connection,
    mechanism: String,
    /// Given back when this ends.
    #[expect(dead_code, reason = "it is held, not read")]
    place: OwnedSemaphorePermit,
}

/// How long a list of mechanisms, or the lack of one, is believed.
const FRESH: Duration = Duration::from_secs(10);

/// How long a client waits for room.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);

/// Reads the settings, `at_once` being the process limit of the service; `None` when AUTH is not enabled, or not with a server that we can ask.
pub(crate) fn service(
    config: &Config,
    tables: &Tables,
    at_once: usize,
    warnings: &mut Vec<String>,
) -> Result<Option<Sasl>, ConfigError> {
    if !config.bool("smtpd_sasl_auth_enable")? {
        return Ok(None);
    }
    let kind = config.string("smtpd_sasl_type")?;
    if kind != "dovecot" {
        warnings.push(format!(
            "smtpd_sasl_type = {kind} is not supported, and so AUTH is not offered; set smtpd_sasl_type = dovecot \
             and smtpd_sasl_path = private/auth"
        ));
        return Ok(None);
    }
    let queue = config.string("queue_directory")?;
    let path = config.string("smtpd_sasl_path")?;
    let endpoint = Endpoint::of(&path, queue.as_ref()).ok_or_else(|| {
        ConfigError::new(
            "not the address of a SASL server",
            "write a path, unix:path or inet:host:port",
        )
        .at(config.origin("smtpd_sasl_path"))
        .parameter("smtpd_sasl_path")
        .value(&path)
    })?;
    Ok(Some(Sasl {
        endpoint,
        service: config.string("smtpd_sasl_service")?,
        in_the_clear: rules(config, "smtpd_sasl_security_options")?,
        under_tls: rules(config, "smtpd_sasl_tls_security_options")?,
        filter: tables.string_list(&config.string("smtpd_sasl_mechanism_filter")?),
        exceptions: tables.network_list(&config.string("smtpd_sasl_exceptions_networks")?),
        show_in_header: config.bool("smtpd_sasl_authenticated_header")?,
        known: Mutex::default(),
        room: Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS))),
    }))
}

fn rules(config: &Config, name: &'static str) -> Result<Rules, ConfigError> {
    let mut rules = Rules::default();
    for word in config.list(name)? {
        match word.to_ascii_lowercase().as_str() {
            "noplaintext" => rules.no_plaintext = true,
            "noanonymous" => rules.no_anonymous = true,
            "noactive" => rules.no_active = true,
            "nodictionary" => rules.no_dictionary = true,
            "forward_secrecy" => rules.forward_secrecy = true,
            "mutual_auth" => rules.mutual = true,
            _ => {
                return Err(ConfigError::new(
                    "unknown SASL security option",
                    "use some of: noanonymous, noplaintext, noactive, nodictionary, forward_secrecy, mutual_auth",
                )
                .at(config.origin(name))
                .parameter(name)
                .value(&word));
            }
        }
    }
    Ok(rules)
}

impl Rules {
    fn allow(self, mechanism: &Mechanism) -> bool {
        let is = |property: &str| mechanism.has(property);
        !(is("private")
            || self.no_plaintext && is("plaintext")
            || self.no_anonymous && is("anonymous")
            || self.no_active && is("active")
            || self.no_dictionary && is("dictionary")
            || self.forward_secrecy && !is("forward-secrecy")
            || self.mutual && !is("mutual-auth"))
    }
}

impl Sasl {
    /// The mechanisms to offer to this client.
    pub async fn mechanisms(&self, situation: &Situation) -> Vec<String> {
        let exempt = self.exceptions.matches(situation.client).await;
        if exempt.unwrap_or(false) {
            return Vec::new();
        }
        if self.is_stale() {
            match Connection::open(&self.endpoint).await {
                Ok(connection) => self.remember(connection.mechanisms()),
                Err(fault) => tracing::warn!(prog = "smtpd", "SASL: {fault}"),
            }
        }
        let known = self.lock().mechanisms.clone();
        // While nobody can be asked, clients are to hear 454 and come back, not to take us for a server without AUTH.
        let known = known.unwrap_or_else(Mechanism::common);
        let mut offered = Vec::new();
        for mechanism in known {
            let named = self.filter.matches(&mechanism.name).await.unwrap_or(false);
            if named && self.allows(&mechanism, situation) {
                offered.push(mechanism.name);
            }
        }
        offered
    }

    /// Whether the server's list should be asked for; only one session does at a time.
    fn is_stale(&self) -> bool {
        let mut known = self.lock();
        let stale = known.asked.is_none_or(|asked| asked.elapsed() > FRESH);
        if stale {
            known.asked = Some(Instant::now());
        }
        stale
    }

    fn remember(&self, mechanisms: &[Mechanism]) {
        let mut known = self.lock();
        known.asked = Some(Instant::now());
        known.mechanisms = Some(mechanisms.to_vec());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allows(&self, mechanism: &Mechanism, situation: &Situation) -> bool {
        let rules = match situation.encrypted {
            true => self.under_tls,
            false => self.in_the_clear,
        };
        rules.allow(mechanism)
    }

    /// AUTH.
    pub async fn begin(&self, auth: &Auth, situation: &Situation) -> Progress {
        let mechanism = auth.mechanism.clone();
        let place = Arc::clone(&self.room).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(ROOM_PATIENCE, place).await else {
            tracing::warn!(
                prog = "smtpd",
                "SASL: too many authentications at once; the process limit of the service in master.cf is theirs, too"
            );
            return Progress::Failed(no_server(mechanism));
        };
        let mut connection = match Connection::open(&self.endpoint).await {
            Ok(connection) => connection,
            Err(fault) => return Progress::Failed(unavailable(mechanism, &fault)),
        };
        self.remember(connection.mechanisms());
        let known = connection.mechanism(&mechanism).cloned();
        let Some(known) = known.filter(|known| self.allows(known, situation)) else {
            return Progress::Failed(refused(mechanism, "Invalid authentication mechanism"));
        };
        let initial = auth.initial.as_ref().map(Secret::expose);
        // `=` is an empty initial response (RFC 4954 section 4); Dovecot knows that, too.
        if !initial.is_none_or(|initial| initial == "=" || is_base64(initial)) {
            let reason = "Invalid base64 data in initial response";
            return Progress::Failed(refused(mechanism, reason));
        }
        let asked = connection
            .authenticate(&known.name, &self.service, situation, initial)
            .await;
        let exchange = Exchange {
            connection,
            mechanism,
            place,
        };
        exchange.follow(asked)
    }
}

impl Exchange {
    /// The client's response to the challenge.
    pub async fn respond(mut self, response: &Secret) -> Progress {
        if !is_base64(response.expose()) {
            let reason = "Invalid base64 data in continued response";
            return Progress::Failed(refused(self.mechanism, reason));
        }
        let asked = self.connection.respond(response.expose()).await;
        self.follow(asked)
    }

    fn follow(self, asked: Result<Verdict, Fault>) -> Progress {
        let mechanism = self.mechanism.clone();
        match asked {
            Ok(Verdict::Accepted { user }) => Progress::Done(Login { mechanism, user }),
            Ok(Verdict::Continue(challenge)) => Progress::Challenge(self, challenge),
            Ok(Verdict::Refused {
                user,
                reason,
                temporary,
            }) => Progress::Failed(Failure {
                mechanism,
                reason: match (temporary, reason) {
                    (false, reason) => reason.unwrap_or_else(|| "(reason unavailable)".into()),
                    (true, None) => NO_SERVER.into(),
                    (true, Some(reason)) => format!("{NO_SERVER}: {reason}"),
                },
                user,
                temporary,
            }),
            Err(fault) => Progress::Failed(unavailable(mechanism, &fault)),
        }
    }

    pub fn mechanism(&self) -> &str {
        &self.mechanism
    }
}

fn refused(mechanism: String, reason: &str) -> Failure {
    Failure {
        mechanism,
        reason: reason.to_owned(),
        user: None,
        temporary: false,
    }
}

/// What clients hear, and fail2ban's filter takes for nobody's fault: no client is to be locked out because the SASL
/// server is down.
const NO_SERVER: &str = "Connection lost to authentication server";

/// The client hears less than the log.
fn unavailable(mechanism: String, fault: &Fault) -> Failure {
    tracing::warn!(prog = "smtpd", "SASL: {fault}");
    no_server(mechanism)
}

fn no_server(mechanism: String) -> Failure {
    Failure {
        mechanism,
        reason: NO_SERVER.to_owned(),
        user: None,
        temporary: true,
    }
}

/// The characters, the padding and the length of base64: nothing else goes to the server, so that a client
/// cannot write its protocol.
fn is_base64(text: &str) -> bool {
    let bare = text.trim_end_matches('=');
    let padding = text.len() - bare.len();
    text.len().is_multiple_of(4)
        && padding <= 2
        && bare
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64() {
        for (text, good) in [
            ("", true),
            ("AA==", true),
            ("ab+/", true),
            ("AAA", false),
            ("A===", false),
            ("AAAA=AAA", false),
            ("AAA\t", false),
            ("!!!!", false),
        ] {
            assert_eq!(is_base64(text), good, "{text:?}");
        }
    }

    #[test]
    fn security_options_choose_mechanisms() {
        let mechanism = |properties: &str| Mechanism::of("X", properties);
        let plain = mechanism("plaintext");
        let anonymous = mechanism("anonymous");
        let scram = mechanism("mutual-auth");
        let none = Rules::default();
        let rules = Rules {
            no_plaintext: true,
            no_anonymous: true,
            ..none
        };
        let mutual = Rules {
            mutual: true,
            ..none
        };
        for (rules, mechanism, allowed) in [
            (none, &plain, true),
            (none, &anonymous, true),
            (none, &mechanism("private"), false),
            (rules, &plain, false),
            (rules, &anonymous, false),
            (rules, &scram, true),
            (mutual, &plain, false),
            (mutual, &scram, true),
        ] {
            assert_eq!(rules.allow(mechanism), allowed, "{rules:?} {mechanism:?}");
        }
    }
}
