//! `reject_unknown_client_hostname` and its kin: what DNS does not know is not taken mail from.

use ::dns::{Kind, Record, Trouble};
use smtp::server::NameStatus;

use super::domain_of;
use crate::evaluate::{Outcome, Question};
use crate::restriction::Subject;
use crate::{Policy, reply};

impl Policy {
    pub(super) fn unknown_client(&self, question: &Question<'_>) -> Outcome {
        let facts = question.facts;
        let code = match facts.names.status {
            NameStatus::Known => return Outcome::Dunno,
            NameStatus::NotNow => 450,
            NameStatus::None | NameStatus::Forged => self.by_dns.unknown_client,
        };
        Outcome::Refuse(reply::unknown_client(
            code,
            facts.client_address,
            "hostname",
        ))
    }

    pub(super) fn unknown_reverse(&self, question: &Question<'_>) -> Outcome {
        let facts = question.facts;
        let code = match facts.names.reverse_status {
            NameStatus::Known | NameStatus::Forged => return Outcome::Dunno,
            NameStatus::NotNow => 450,
            NameStatus::None => self.by_dns.unknown_client,
        };
        let what = "reverse hostname";
        Outcome::Refuse(reply::unknown_client(code, facts.client_address, what))
    }

    pub(super) async fn unknown_helo(&self, question: &mut Question<'_>) -> Outcome {
        let helo = question.facts.helo;
        if helo.is_empty() {
            return Outcome::Dunno;
        }
        if helo.starts_with('[') {
            return self
                .bad_literal(helo)
                .map_or(Outcome::Dunno, Outcome::Refuse);
        }
        let mut worst = match self.addresses(question, helo).await {
            Ok(_) => return Outcome::Dunno,
            Err(trouble) => trouble,
        };
        match self.dns(question, helo, Kind::Mx).await {
            Ok(_) => return Outcome::Dunno,
            Err(trouble) if worst.is_absence() => worst = trouble,
            Err(_) => {}
        }
        match worst.is_absence() {
            true => Outcome::Refuse(reply::unknown_helo(self.by_dns.unknown_hostname, helo)),
            false => {
                let later = reply::unknown_helo(450, helo);
                self.not_now(question, self.by_dns.helo_defers, later)
            }
        }
    }

    /// The domain of an address that is not ours must have a mail server, or an address.
    pub(super) async fn unknown_domain(
        &self,
        question: &mut Question<'_>,
        subject: Subject,
    ) -> Outcome {
        let facts = question.facts;
        let (given, what) = match subject {
            Subject::Sender => (facts.sender, reply::SENDER),
            _ => (facts.recipient, reply::RECIPIENT),
        };
        let Some(given) = given.filter(|address| !address.is_empty()) else {
            return Outcome::Dunno;
        };
        let address = self.router.rewrite(given);
        let resolved = match self.router.resolve(question.walk, &address).await {
            Ok(resolved) => resolved,
            Err(failure) => {
                question.effects.notes.push(failure.to_string());
                return Outcome::Refuse(reply::lookup_failure(given));
            }
        };
        use route::Class;
        let is_final = matches!(
            resolved.class,
            Class::Local | Class::VirtualAlias | Class::VirtualMailbox
        );
        let Some(domain) = domain_of(&address).filter(|_| !is_final && address.contains('@'))
        else {
            return Outcome::Dunno;
        };
        self.without_mail_server(question, domain, given, what)
            .await
    }

    async fn without_mail_server(
        &self,
        question: &mut Question<'_>,
        domain: &str,
        address: &str,
        what: &'static str,
    ) -> Outcome {
        let mut worst = match self.dns(question, domain, Kind::Mx).await {
            // RFC 7505: the null MX.
            Ok(records) if is_null_mx(&records) => {
                return Outcome::Refuse(reply::null_mx(address, what, domain));
            }
            Ok(_) => return Outcome::Dunno,
            Err(trouble) => trouble,
        };
        if worst.is_absence() {
            match self.addresses(question, domain).await {
                Ok(_) => return Outcome::Dunno,
                Err(trouble) => worst = trouble,
            }
        }
        let reply = |code| reply::unknown_domain(code, address, what, worst == Trouble::Malformed);
        match worst.is_absence() {
            true => Outcome::Refuse(reply(self.by_dns.unknown_address)),
            false => {
                let later = reply(450);
                self.not_now(question, self.by_dns.address_defers, later)
            }
        }
    }
}

fn is_null_mx(records: &[Record]) -> bool {
    matches!(records, [Record::Mx { host, .. }] if host.is_empty())
}
