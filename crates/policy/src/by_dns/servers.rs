//! The hosts behind a name: `check_…_a_access`, `check_…_mx_access`, `check_…_ns_access`, and `permit_mx_backup`.

use std::net::IpAddr;

use ::dns::{Kind, Record, Trouble};
use route::Class;

use super::{Servers, domain_of};
use crate::access::{self, Key};
use crate::actions::Place;
use crate::evaluate::{Outcome, Question};
use crate::restriction::Subject;
use crate::{Policy, reply};

impl Policy {
    /// Looks up each host, then its addresses; what permits is a mistake: whoever has a domain can name any host as its server.
    pub(super) async fn check_servers(
        &self,
        question: &mut Question<'_>,
        servers: &Servers,
    ) -> Outcome {
        let facts = question.facts;
        let (text, what) = match servers.subject {
            Subject::Client => (facts.client_name, reply::CLIENT),
            Subject::ReverseName => (facts.names.reverse, reply::REVERSE),
            Subject::Helo => (facts.helo, reply::HELO),
            Subject::Sender => (facts.sender.unwrap_or_default(), reply::SENDER),
            _ => (facts.recipient.unwrap_or_default(), reply::RECIPIENT),
        };
        let by_address = matches!(servers.subject, Subject::Client | Subject::ReverseName);
        let value = match servers.subject {
            Subject::Client => facts.client(),
            _ => text.to_owned(),
        };
        if text.is_empty() || by_address && text == "unknown" {
            return Outcome::Dunno;
        }
        let about = Place {
            what,
            value: &value,
        };
        let domain = text.rsplit_once('@').map_or(text, |(_, domain)| domain);
        if domain.starts_with('[') {
            return match mail::host::literal_address(domain) {
                Some(address) if servers.record != Kind::Ns => {
                    self.check_server(question, servers, domain, &[address], about)
                        .await
                }
                _ => Outcome::Dunno,
            };
        }
        let hosts = match self.hosts(question, domain, servers.record).await {
            Ok(hosts) => hosts,
            Err(trouble) => {
                let text = trouble.why();
                let record = servers.record;
                question.warn(format!(
                    "Unable to look up {record} host for {domain}: {text}"
                ));
                return Outcome::Dunno;
            }
        };
        for host in hosts {
            let addresses = match self.addresses(question, &host).await {
                Ok(addresses) => addresses,
                // Whoever has no address of his own may have servers.
                Err(_) if servers.record == Kind::A => Vec::new(),
                Err(trouble) => {
                    let record = servers.record;
                    let text = trouble.why_no_address();
                    question.warn(format!(
                        "Unable to look up {record} host {host} for {what} {value}: {text}"
                    ));
                    Vec::new()
                }
            };
            let outcome = self
                .check_server(question, servers, &host, &addresses, about)
                .await;
            if outcome != Outcome::Dunno {
                return outcome;
            }
        }
        Outcome::Dunno
    }

    /// The names of the hosts.
    async fn hosts(
        &self,
        question: &mut Question<'_>,
        domain: &str,
        record: Kind,
    ) -> Result<Vec<String>, Trouble> {
        if record == Kind::Ns {
            return self.name_servers(question, domain).await;
        }
        if record != Kind::Mx {
            return Ok(vec![domain.to_owned()]);
        }
        match self.dns(question, domain, Kind::Mx).await {
            Ok(records) => {
                let mut hosts = exchangers(records);
                hosts.sort_by_key(|(preference, _)| *preference);
                Ok(hosts.into_iter().map(|(_, host)| host).collect())
            }
            Err(trouble) if trouble.is_absence() => Ok(vec![domain.to_owned()]),
            Err(trouble) => Err(trouble),
        }
    }

    /// Those of the domain, or of the next domain above it that has some.
    async fn name_servers(
        &self,
        question: &mut Question<'_>,
        domain: &str,
    ) -> Result<Vec<String>, Trouble> {
        let mut name = domain;
        loop {
            match self.dns(question, name, Kind::Ns).await {
                Ok(records) => {
                    let hosts = records.into_iter().filter_map(|record| match record {
                        Record::Ns(host) => Some(host),
                        _ => None,
                    });
                    return Ok(hosts.collect());
                }
                Err(trouble) if trouble.is_absence() => match name.split_once('.') {
                    Some((_, parent)) if parent.contains('.') => name = parent,
                    _ => return Err(trouble),
                },
                Err(trouble) => return Err(trouble),
            }
        }
    }

    async fn check_server(
        &self,
        question: &mut Question<'_>,
        servers: &Servers,
        host: &str,
        addresses: &[IpAddr],
        about: Place<'_>,
    ) -> Outcome {
        let mut keys = match servers.record == Kind::A || host.starts_with('[') {
            true => Vec::new(),
            false => vec![access::domain_keys(host, self.access_parents)],
        };
        keys.extend(
            addresses
                .iter()
                .map(|address| access::network_keys(*address)),
        );
        for texts in keys {
            let keys: Vec<Key> = Key::all(texts).collect();
            let found = match access::find(&servers.table, &keys).await {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                Err(error) => {
                    question.effects.notes.push(error.to_string());
                    return Outcome::Refuse(reply::access_table_failure(about.value, about.what));
                }
            };
            match self.act(question, found, about).await {
                Outcome::Ok => {
                    let (name, value) = (&servers.name, about.value);
                    for line in [
                        format!("restriction {name} returns OK for {value}"),
                        "this is not allowed for security reasons".to_owned(),
                        "use DUNNO instead of OK if you want to make an exception".to_owned(),
                    ] {
                        question.warn(line);
                    }
                    return Outcome::Refuse(reply::configuration_error());
                }
                Outcome::Dunno => {}
                refusal => return refusal,
            }
        }
        Outcome::Dunno
    }

    /// Mail for domains that name this host as one of their mail servers, and, by `permit_mx_backup_networks`, a host of ours as the best.
    pub(super) async fn mx_backup(&self, question: &mut Question<'_>) -> Outcome {
        let Some(recipient) = question.facts.recipient else {
            return Outcome::Dunno;
        };
        let resolved = match self.resolve_recipient(question).await {
            Ok(Some(resolved)) => resolved,
            Ok(None) => return Outcome::Dunno,
            Err(refusal) => return Outcome::Refuse(refusal),
        };
        if resolved.class == Class::Local {
            return Outcome::Ok;
        }
        if resolved.routed && !self.allow_untrusted_routing {
            return Outcome::Dunno;
        }
        let address = self.router.rewrite(recipient);
        let Some(domain) = domain_of(&address).filter(|_| address.contains('@')) else {
            return Outcome::Dunno;
        };
        let mut exchangers = match self.dns(question, domain, Kind::Mx).await {
            Ok(records) => exchangers(records),
            Err(trouble) if trouble.is_absence() => return Outcome::Dunno,
            Err(trouble) => {
                let later = reply::no_exchanger_information(recipient, trouble.why());
                question.defer_if_reject.get_or_insert(later);
                return Outcome::Dunno;
            }
        };
        exchangers.sort_by_key(|(preference, _)| *preference);
        match self.is_backup(question, &exchangers).await {
            Ok(true) => Outcome::Ok,
            Ok(false) => Outcome::Dunno,
            Err(Some(error)) => {
                question.effects.notes.push(error);
                Outcome::Refuse(reply::lookup_failure(recipient))
            }
            Err(None) => {
                let why = Trouble::Later.why();
                let later = reply::no_exchanger_information(recipient, why);
                question.defer_if_reject.get_or_insert(later);
                Outcome::Dunno
            }
        }
    }

    /// An error is a table's; None: DNS could not say.
    async fn is_backup(
        &self,
        question: &mut Question<'_>,
        exchangers: &[(u16, String)],
    ) -> Result<bool, Option<String>> {
        let mut ours = false;
        for (_, host) in exchangers {
            match self.addresses(question, host).await {
                Ok(addresses) => ours |= addresses.iter().any(|address| self.is_own(*address)),
                Err(trouble) if trouble.is_absence() => {}
                Err(_) => return Err(None),
            }
        }
        let (Some(networks), true) = (&self.by_dns.backup_networks, ours) else {
            return Ok(ours);
        };
        let best = exchangers.first().map(|(preference, _)| *preference);
        for (_, host) in exchangers
            .iter()
            .filter(|(preference, _)| Some(*preference) == best)
        {
            let addresses = self.addresses(question, host).await;
            for address in addresses.map_err(|trouble| trouble.is_absence().then(String::new))? {
                let inside = networks.matches(address).await;
                if !inside.map_err(|error| Some(error.to_string()))? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn exchangers(records: Vec<Record>) -> Vec<(u16, String)> {
    let of = |record| match record {
        Record::Mx { preference, host } if !host.is_empty() => Some((preference, host)),
        _ => None,
    };
    records.into_iter().filter_map(of).collect()
}
