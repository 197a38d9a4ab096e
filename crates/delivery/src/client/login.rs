//! Who to be on other people's servers: `smtp_sasl_…`.

use config::{Config, ConfigError};
use smtp::client::{Login, Mechanism};
use smtp::server::Secret;
use tables::{MatchList, TableError, TableList, Tables};

/// The settings of a client service that logs in.
pub struct Logins {
    passwords: TableList,
    /// `smtp_sender_dependent_authentication`: the sender's own, before the server's.
    by_sender: bool,
    in_the_clear: Vec<Mechanism>,
    under_tls: Vec<Mechanism>,
    filter: MatchList,
    soft_bounce: bool,
}

impl Logins {
    /// `prefix` is `smtp_` or `lmtp_`. `None`: `smtp_sasl_auth_enable` is off.
    pub fn of(
        config: &Config,
        tables: &Tables,
        prefix: &str,
    ) -> Result<Option<Logins>, ConfigError> {
        let name = |what: &str| format!("{prefix}{what}");
        if !config.bool(&name("sasl_auth_enable"))? {
            return Ok(None);
        }
        let maps = name("sasl_password_maps");
        let passwords = config.string(&maps)?;
        if passwords.trim().is_empty() {
            let remedy = format!("set {maps} to a table of user:password by server");
            return Err(ConfigError::new("there is no table of passwords", remedy)
                .at(config.origin(&name("sasl_auth_enable")))
                .parameter(&name("sasl_auth_enable")));
        }
        Ok(Some(Logins {
            passwords: tables.open_list_lenient(&passwords),
            by_sender: config.bool(&name("sender_dependent_authentication"))?,
            in_the_clear: allowed(config, &name("sasl_security_options"))?,
            under_tls: allowed(config, &name("sasl_tls_security_options"))?,
            filter: tables.match_list(&config.string(&name("sasl_mechanism_filter"))?, false),
            soft_bounce: config.bool(&name("sasl_auth_soft_bounce"))?,
        }))
    }

    /// The login for a server, if there is one: by sender, by the host's name, by the nexthop.
    pub async fn find(
        &self,
        sender: &str,
        host: &str,
        nexthop: &str,
    ) -> Result<Option<Login>, TableError> {
        let keys = [(self.by_sender, sender), (true, host), (true, nexthop)];
        for (_, key) in keys
            .iter()
            .filter(|(counts, key)| *counts && !key.is_empty())
        {
            let Some(value) = self.passwords.lookup(&mail::fold::fold(key)).await? else {
                continue;
            };
            let (user, password) = value.split_once(':').unwrap_or((&value, ""));
            return Ok(Some(Login {
                user: user.to_owned(),
                password: Secret::new(password),
                in_the_clear: self.filtered(&self.in_the_clear).await?,
                under_tls: self.filtered(&self.under_tls).await?,
                soft_bounce: self.soft_bounce,
            }));
        }
        Ok(None)
    }

    async fn filtered(&self, mechanisms: &[Mechanism]) -> Result<Vec<Mechanism>, TableError> {
        let mut kept = Vec::new();
        for mechanism in mechanisms {
            if self.filter.is_empty() || self.filter.matches(mechanism.name()).await? {
                kept.push(*mechanism);
            }
        }
        Ok(kept)
    }
}

/// The mechanisms that the security options leave.
fn allowed(config: &Config, name: &str) -> Result<Vec<Mechanism>, ConfigError> {
    let options = config.list(name)?;
    let mut mechanisms = Mechanism::ALL.to_vec();
    for option in &options {
        match option.to_ascii_lowercase().as_str() {
            "noanonymous" => {}
            "noplaintext" => mechanisms.retain(|mechanism| !mechanism.is_plaintext()),
            // None of ours withstands these.
            "noactive" | "nodictionary" | "forward_secrecy" | "mutual_auth" => mechanisms.clear(),
            _ => {
                let remedy = "use noplaintext, noanonymous, noactive, nodictionary, forward_secrecy, mutual_auth";
                return Err(ConfigError::new("unknown security option", remedy)
                    .at(config.origin(name))
                    .parameter(name)
                    .value(option));
            }
        }
    }
    Ok(mechanisms)
}
