//! Going through the lists of restrictions.

use std::future::Future;
use std::pin::Pin;

use route::{Listing, Resolved, Walk};
use smtp::Reply;
use tables::TableList;

use crate::access::{self, Action, Refused};
use crate::restriction::{self, Restriction, Subject};
use crate::{Effects, Facts, Policy, reply};

/// What a restriction, or a list of them, decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Permit: the rest of the list is not looked at.
    Ok,
    Dunno,
    Refuse(Reply),
}

/// The command that is being decided on.
pub(crate) struct Question<'a> {
    pub facts: Facts<'a>,
    pub walk: &'a mut Walk,
    pub effects: &'a mut Effects,
    /// The first `defer_if_permit`; it counts when nothing refuses for good.
    pub defer_if_permit: Option<Reply>,
}

type Deciding<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

impl Policy {
    /// Goes through one list. `what` and `value` name the thing in the replies of plain `reject`.
    pub(crate) fn run<'a>(
        &'a self,
        question: &'a mut Question<'_>,
        list: &'a [Restriction],
        what: &'static str,
        value: &'a str,
    ) -> Deciding<'a> {
        Box::pin(async move {
            let mut warn_only = false;
            for restriction in list {
                if matches!(restriction, Restriction::WarnIfReject) {
                    warn_only = true;
                    continue;
                }
                let outcome = self.apply(question, restriction, what, value).await;
                match outcome {
                    Outcome::Refuse(refusal) if warn_only => {
                        question
                            .effects
                            .notes
                            .push(format!("reject_warning: {refusal}"));
                    }
                    Outcome::Dunno => {}
                    decided => return decided,
                }
                warn_only = false;
            }
            Outcome::Dunno
        })
    }

    async fn apply(
        &self,
        question: &mut Question<'_>,
        restriction: &Restriction,
        what: &'static str,
        value: &str,
    ) -> Outcome {
        let facts = question.facts;
        match restriction {
            Restriction::Permit => Outcome::Ok,
            Restriction::Reject => Outcome::Refuse(reply::access_denied(
                self.codes.reject,
                None,
                value,
                what,
                "",
            )),
            Restriction::Defer => Outcome::Refuse(reply::deferred(self.codes.defer, value, what)),
            Restriction::DeferIfPermit => {
                let later = reply::defer_if_permit(value, what);
                question.defer_if_permit.get_or_insert(later);
                Outcome::Dunno
            }
            Restriction::PermitMynetworks => match self.is_trusted(facts.client_address).await {
                Ok(trusted) => permit_if(trusted),
                Err(error) => {
                    question.effects.notes.push(error.to_string());
                    Outcome::Refuse(reply::lookup_failure(value))
                }
            },
            Restriction::PermitInetInterfaces => {
                permit_if(self.own_addresses.contains(&facts.client_address))
            }
            Restriction::PermitAuthDestination => match self.is_ours(question).await {
                Ok(ours) => permit_if(ours),
                Err(refusal) => Outcome::Refuse(refusal),
            },
            Restriction::RejectUnauthDestination => {
                self.relay_control(question, self.codes.relay).await
            }
            Restriction::DeferUnauthDestination => self.relay_control(question, 454).await,
            Restriction::RejectUnlisted(Subject::Sender) => self.unlisted_sender(question).await,
            Restriction::RejectUnlisted(_) => self.unlisted_recipient(question).await,
            Restriction::RejectNonFqdn(subject) => self.non_fqdn(facts, *subject),
            Restriction::RejectInvalidHelo => {
                let name = facts.helo;
                if name.is_empty() || mail::host::is_valid_domain(name) {
                    return Outcome::Dunno;
                }
                Outcome::Refuse(reply::invalid_helo(self.codes.invalid_helo, name))
            }
            Restriction::RejectMultiRecipientBounce => {
                let several = facts.recipients_so_far + usize::from(facts.recipient.is_some()) > 1;
                if facts.sender != Some("") || !several {
                    return Outcome::Dunno;
                }
                let code = self.codes.multi_recipient_bounce;
                Outcome::Refuse(reply::multi_recipient_bounce(code, value, what))
            }
            Restriction::PermitSaslAuthenticated => permit_if(facts.login.is_some()),
            Restriction::PermitTrustedCertificate => {
                permit_if(facts.certificate.is_some_and(|shown| shown.trusted))
            }
            Restriction::PermitKnownCertificate => self.known_certificate(question, value).await,
            Restriction::RejectPlaintextSession if facts.encrypted => Outcome::Dunno,
            Restriction::RejectPlaintextSession => {
                Outcome::Refuse(reply::plaintext_session(self.codes.plaintext))
            }
            Restriction::RejectLoginMismatch(which) => self.login_mismatch(question, *which).await,
            Restriction::CheckAccess(subject, list) => {
                self.check_access(question, *subject, list, what, value)
                    .await
            }
            Restriction::AskService(service) => {
                Box::pin(self.ask_service(question, service, (what, value))).await
            }
            Restriction::Class(inner) => self.run(question, inner, what, value).await,
            Restriction::WarnIfReject | Restriction::NeverMatches | Restriction::Unsupported(_) => {
                Outcome::Dunno
            }
        }
    }

    /// Resolves the recipient, or refuses with "Temporary lookup failure".
    pub(crate) async fn resolve_recipient(
        &self,
        question: &mut Question<'_>,
    ) -> Result<Option<Resolved>, Reply> {
        let Some(recipient) = question.facts.recipient else {
            return Ok(None);
        };
        let address = self.router.rewrite(recipient);
        match self.router.resolve(question.walk, &address).await {
            Ok(resolved) => Ok(Some(resolved)),
            Err(failure) => {
                question.effects.notes.push(failure.to_string());
                Err(reply::lookup_failure(recipient))
            }
        }
    }

    /// Whether the recipient's domain is ours, without doubt about where the mail would end.
    async fn is_ours(&self, question: &mut Question<'_>) -> Result<bool, Reply> {
        let Some(resolved) = self.resolve_recipient(question).await? else {
            return Ok(false);
        };
        Ok(resolved.class.is_ours() && (self.allow_untrusted_routing || !resolved.routed))
    }

    async fn relay_control(&self, question: &mut Question<'_>, code: u16) -> Outcome {
        let Some(recipient) = question.facts.recipient else {
            return Outcome::Dunno;
        };
        match self.is_ours(question).await {
            Ok(true) => Outcome::Dunno,
            Ok(false) => Outcome::Refuse(reply::relay_denied(code, recipient)),
            Err(refusal) => Outcome::Refuse(refusal),
        }
    }

    /// `reject_unlisted_recipient`.
    pub(crate) async fn unlisted_recipient(&self, question: &mut Question<'_>) -> Outcome {
        let Some(recipient) = question.facts.recipient else {
            return Outcome::Dunno;
        };
        let resolved = match self.resolve_recipient(question).await {
            Ok(Some(resolved)) => resolved,
            Ok(None) => return Outcome::Dunno,
            Err(refusal) => return Outcome::Refuse(refusal),
        };
        self.unlisted(question, &resolved, recipient, reply::RECIPIENT)
            .await
    }

    /// `reject_unlisted_sender`.
    pub(crate) async fn unlisted_sender(&self, question: &mut Question<'_>) -> Outcome {
        let Some(sender) = question.facts.sender.filter(|sender| !sender.is_empty()) else {
            return Outcome::Dunno;
        };
        let address = self.router.rewrite(sender);
        let resolved = match self.router.resolve(question.walk, &address).await {
            Ok(resolved) => resolved,
            Err(failure) => {
                question.effects.notes.push(failure.to_string());
                return Outcome::Refuse(reply::lookup_failure(sender));
            }
        };
        self.unlisted(question, &resolved, sender, reply::SENDER)
            .await
    }

    async fn unlisted(
        &self,
        question: &mut Question<'_>,
        resolved: &Resolved,
        address: &str,
        what: &str,
    ) -> Outcome {
        let is_sender = what == reply::SENDER;
        match self
            .router
            .listing(question.walk, resolved, is_sender)
            .await
        {
            Ok(Listing::Unknown(table)) => Outcome::Refuse(self.unknown_user(address, what, table)),
            Ok(_) => Outcome::Dunno,
            Err(failure) => {
                question.effects.notes.push(failure.to_string());
                Outcome::Refuse(reply::lookup_failure(address))
            }
        }
    }

    fn non_fqdn(&self, facts: Facts<'_>, subject: Subject) -> Outcome {
        let (value, what) = match subject {
            Subject::Helo | Subject::Client => (facts.helo, reply::HELO),
            Subject::Sender => (facts.sender.unwrap_or_default(), reply::SENDER),
            _ => (facts.recipient.unwrap_or_default(), reply::RECIPIENT),
        };
        let domain = match subject {
            Subject::Helo | Subject::Client => value,
            _ => value.rsplit_once('@').map_or("", |(_, domain)| domain),
        };
        if value.is_empty() || domain.starts_with('[') {
            return Outcome::Dunno;
        }
        let qualified = domain.contains('.') && mail::host::is_valid_name(domain);
        // The one address without domain that RFC 5321 section 4.5.1 wants accepted.
        let postmaster = subject == Subject::Recipient && value.eq_ignore_ascii_case("postmaster");
        if qualified || postmaster {
            return Outcome::Dunno;
        }
        Outcome::Refuse(reply::not_fully_qualified(self.codes.non_fqdn, value, what))
    }

    async fn check_access(
        &self,
        question: &mut Question<'_>,
        subject: Subject,
        list: &TableList,
        stage_what: &'static str,
        stage_value: &str,
    ) -> Outcome {
        let facts = question.facts;
        let (keys, value, what) = match subject {
            Subject::Client => {
                let mut keys = Vec::new();
                if facts.client_name != "unknown" {
                    keys.extend(access::domain_keys(facts.client_name, self.access_parents));
                }
                keys.extend(access::network_keys(facts.client_address));
                let value = format!("{}[{}]", facts.client_name, facts.client_address);
                (keys, value, reply::CLIENT)
            }
            Subject::Helo => {
                let keys = access::domain_keys(facts.helo, self.access_parents);
                (keys, facts.helo.to_owned(), reply::HELO)
            }
            Subject::Sender => match facts.sender {
                Some("") => (vec!["<>".to_owned()], String::new(), reply::SENDER),
                Some(sender) => (self.address_keys(sender), sender.to_owned(), reply::SENDER),
                None => return Outcome::Dunno,
            },
            Subject::Recipient => match facts.recipient {
                Some(rcpt) => (self.address_keys(rcpt), rcpt.to_owned(), reply::RECIPIENT),
                None => return Outcome::Dunno,
            },
            Subject::Login => match facts.login {
                Some(login) => (vec![login.to_owned()], login.to_owned(), reply::LOGIN),
                None => return Outcome::Dunno,
            },
            Subject::Certificate => match facts.certificate {
                Some(shown) => {
                    let keys = vec![shown.fingerprint.clone(), shown.public_key.clone()];
                    (keys, shown.subject.clone(), reply::CERTIFICATE)
                }
                None => return Outcome::Dunno,
            },
        };
        match access::find(list, &keys).await {
            Ok(None) => Outcome::Dunno,
            Ok(Some(action)) => {
                self.act(
                    question,
                    Action::parse(&action),
                    (what, &value),
                    (stage_what, stage_value),
                )
                .await
            }
            Err(error) => {
                question.effects.notes.push(error.to_string());
                Outcome::Refuse(reply::access_table_failure(&value, what))
            }
        }
    }

    fn address_keys(&self, address: &str) -> Vec<String> {
        let canonical = self.router.rewrite(address);
        access::address_keys(&canonical, self.router.extensions(), self.access_parents)
    }

    pub(crate) async fn act(
        &self,
        question: &mut Question<'_>,
        action: Action,
        (what, value): (&'static str, &str),
        stage: (&'static str, &str),
    ) -> Outcome {
        let effects = &mut *question.effects;
        let refuse = |refused: Refused, code: u16| {
            let Refused {
                code: given,
                enhanced,
                text,
            } = refused;
            let code = given.unwrap_or(code);
            Outcome::Refuse(reply::access_denied(code, enhanced, value, what, &text))
        };
        match action {
            Action::Ok => return Outcome::Ok,
            Action::Dunno => {}
            Action::Reject(refused) => return refuse(refused, self.codes.access),
            Action::Defer(refused) => return refuse(refused, self.codes.access_defer),
            Action::DeferIfPermit(text) => {
                let code = self.codes.access_defer;
                let later = reply::access_deferred(code, value, what, &text);
                question.defer_if_permit.get_or_insert(later);
            }
            Action::Hold(text) => effects.hold = Some(text),
            Action::Discard(text) => effects.discard = Some(text),
            Action::Redirect(address) => effects.redirect = Some(address),
            Action::Bcc(address) => effects.bcc.push(address),
            Action::Prepend(header) => effects.prepend.push(header),
            Action::Warn(text) => effects.notes.push(format!("warn: {text}")),
            Action::Info(text) => effects.notes.push(format!("info: {text}")),
            Action::Other(text) => return self.restrictions_of_value(question, &text, stage).await,
        }
        Outcome::Dunno
    }

    /// A table's value may be a list of restrictions that need no table of their own.
    async fn restrictions_of_value(
        &self,
        question: &mut Question<'_>,
        text: &str,
        (what, value): (&'static str, &str),
    ) -> Outcome {
        let mut list = Vec::new();
        for word in config::split_list(text) {
            match self
                .classes
                .get(&word)
                .cloned()
                .or_else(|| restriction::plain(&word))
            {
                Some(restriction) => list.push(restriction),
                None => {
                    tracing::warn!(prog = "smtpd", "unknown smtpd restriction: \"{word}\"");
                    return Outcome::Refuse(reply::configuration_error());
                }
            }
        }
        self.run(question, &list, what, value).await
    }
}

fn permit_if(condition: bool) -> Outcome {
    if condition {
        Outcome::Ok
    } else {
        Outcome::Dunno
    }
}
