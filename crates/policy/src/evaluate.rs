//! Going through the lists of restrictions.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use mail::EnhancedCode;
use route::{Listing, Resolved, UnknownIn, Walk};
use smtp::Reply;

use crate::access;
use crate::restriction::{Restriction, Subject};
use crate::{Effects, Event, Facts, Policy, Stage, reply};

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
    /// At which command; restrictions that were delayed have that of their own list.
    pub stage: Stage,
    /// The domain of ETRN.
    pub etrn: Option<&'a str>,
    /// The first `defer_if_permit`; it counts when nothing refuses for good.
    pub defer_if_permit: Option<Reply>,
    /// The first `defer_if_reject` of the list; it counts when something refuses for good.
    pub defer_if_reject: Option<Reply>,
    /// Under how many `warn_if_reject` we are.
    pub warning: usize,
}

impl Question<'_> {
    /// What a refusal comes to: nothing under `warn_if_reject`, "later" after `defer_if_reject`.
    fn refuse(&mut self, refusal: Reply) -> Outcome {
        if self.warning > 0 {
            self.effects.events.push(Event::Action {
                name: "reject_warning",
                text: refusal.to_string(),
            });
            return Outcome::Dunno;
        }
        match self.defer_if_reject.take() {
            Some(later) if refusal.code >= 500 => Outcome::Refuse(later),
            _ => Outcome::Refuse(refusal),
        }
    }

    pub(crate) fn log(&mut self, name: &'static str, text: String) {
        self.effects.events.push(Event::Action { name, text });
    }

    pub(crate) fn warn(&mut self, text: String) {
        self.effects.events.push(Event::Warning(text));
    }
}

type Deciding<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

impl Policy {
    /// Goes through the list of a parameter. `what` and `value` name the thing in the replies of plain `reject`.
    pub(crate) fn run<'a>(
        &'a self,
        question: &'a mut Question<'_>,
        list: &'a [Restriction],
        what: &'static str,
        value: &'a str,
    ) -> Deciding<'a> {
        question.defer_if_reject = None;
        question.warning = 0;
        self.go_through(question, list, what, value)
    }

    /// The same for a list inside of a list.
    pub(crate) fn go_through<'a>(
        &'a self,
        question: &'a mut Question<'_>,
        list: &'a [Restriction],
        what: &'static str,
        value: &'a str,
    ) -> Deciding<'a> {
        Box::pin(async move {
            let mut warn_only = false;
            for restriction in list {
                // Whatever else is decided, the message is thrown away.
                if question.effects.discard.is_some() {
                    break;
                }
                if matches!(restriction, Restriction::WarnIfReject) {
                    warn_only = true;
                    continue;
                }
                question.warning += usize::from(warn_only);
                let outcome = match self.apply(question, restriction, what, value).await {
                    Outcome::Refuse(refusal) => question.refuse(self.softened(refusal)),
                    outcome => outcome,
                };
                question.warning -= usize::from(warn_only);
                warn_only = false;
                if outcome == Outcome::Ok && self.permits_by_itself(restriction) {
                    self.log_permit(question, restriction.permit_name(), what, value, "")
                        .await;
                }
                if outcome != Outcome::Dunno {
                    return outcome;
                }
                // Nothing that follows can change the answer.
                if question.defer_if_permit.is_some() && question.defer_if_reject.is_some() {
                    break;
                }
            }
            Outcome::Dunno
        })
    }

    /// Tables and classes log what they permit themselves.
    fn permits_by_itself(&self, restriction: &Restriction) -> bool {
        !matches!(
            restriction,
            Restriction::CheckAccess(..) | Restriction::AskService(_) | Restriction::Class(_)
        )
    }

    /// `smtpd_log_access_permit_actions`.
    pub(crate) async fn log_permit(
        &self,
        question: &mut Question<'_>,
        action: &str,
        what: &str,
        value: &str,
        origin: &str,
    ) {
        if self.logged_permits.is_empty() {
            return;
        }
        match self.logged_permits.matches(action).await {
            Ok(true) => {
                let text = format!("action={action} for {what}={value} {origin}");
                question.log("permit", text);
            }
            Ok(false) => {}
            Err(error) => question.warn(format!("smtpd_log_access_permit_actions: {error}")),
        }
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
                self.defer_if_permit(question, later)
            }
            Restriction::DeferIfReject => {
                let later = reply::defer_if_reject(value, what);
                question.defer_if_reject.get_or_insert(later);
                Outcome::Dunno
            }
            Restriction::RejectUnauthPipelining if facts.pipelined => {
                Outcome::Refuse(reply::improper_pipelining(value, what))
            }
            Restriction::RejectUnauthPipelining => Outcome::Dunno,
            Restriction::Sleep(seconds) => {
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
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
                permit_if(self.own_addresses.contains(&facts.socket_address))
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
            Restriction::RejectInvalidHelo => self.invalid_helo(facts.helo),
            Restriction::Misplaced(table) => {
                question.warn(reply::misplaced_table(table, what));
                Outcome::Refuse(reply::configuration_error())
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
                self.check_access(question, *subject, list).await
            }
            Restriction::AskService(service) => {
                Box::pin(self.ask_service(question, service, (what, value))).await
            }
            Restriction::Class(inner) => self.go_through(question, inner, what, value).await,
            Restriction::WarnIfReject | Restriction::Unsupported(_) => Outcome::Dunno,
        }
    }

    /// `soft_bounce`.
    pub(crate) fn softened(&self, mut refusal: Reply) -> Reply {
        if self.soft_bounce {
            reply::soften(&mut refusal);
        }
        refusal
    }

    /// Under `warn_if_reject` it is as good as a refusal.
    pub(crate) fn defer_if_permit(&self, question: &mut Question<'_>, later: Reply) -> Outcome {
        if question.warning > 0 {
            return Outcome::Refuse(later);
        }
        question.defer_if_permit.get_or_insert(later);
        Outcome::Dunno
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
        if !is_sender && !self.checks_recipients {
            return Outcome::Dunno;
        }
        match self
            .router
            .listing(question.walk, resolved, is_sender)
            .await
        {
            Ok(Listing::Mapped) => Outcome::Dunno,
            // Its domain is routed to `error` as well, with words that settings change.
            Ok(Listing::Unknown(table @ UnknownIn::VirtualAlias)) if !has_moved(resolved) => {
                Outcome::Refuse(self.unknown_user(address, what, table))
            }
            Ok(listing) => match (undeliverable(question, resolved, address, what), listing) {
                (Some(reply), _) => Outcome::Refuse(reply),
                (None, Listing::Unknown(table)) => {
                    Outcome::Refuse(self.unknown_user(address, what, table))
                }
                _ => Outcome::Dunno,
            },
            Err(failure) => {
                question.effects.notes.push(failure.to_string());
                Outcome::Refuse(reply::lookup_failure(address))
            }
        }
    }

    fn invalid_helo(&self, helo: &str) -> Outcome {
        let name = helo.strip_suffix('.').unwrap_or(helo);
        let valid = mail::host::is_valid_name(name) || name.parse::<IpAddr>().is_ok();
        match self.bad_literal(helo) {
            Some(refusal) => Outcome::Refuse(refusal),
            None if helo.is_empty() || helo.starts_with('[') || valid => Outcome::Dunno,
            None => Outcome::Refuse(reply::invalid_helo(self.codes.invalid_helo, helo)),
        }
    }

    /// The refusal of `[…]` that is no address literal.
    fn bad_literal(&self, helo: &str) -> Option<Reply> {
        let bad = helo.starts_with('[') && mail::host::literal_address(helo).is_none();
        bad.then(|| reply::invalid_helo_address(self.codes.invalid_helo, helo))
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
        if what == reply::HELO
            && let Some(refusal) = self.bad_literal(value)
        {
            return Outcome::Refuse(refusal);
        }
        if value.is_empty() || domain.starts_with('[') {
            return Outcome::Dunno;
        }
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        let qualified = domain.contains('.') && mail::host::is_valid_name(domain);
        // The one address without domain that RFC 5321 section 4.5.1 wants accepted.
        let postmaster = subject == Subject::Recipient && value.eq_ignore_ascii_case("postmaster");
        if qualified || postmaster {
            return Outcome::Dunno;
        }
        Outcome::Refuse(reply::not_fully_qualified(self.codes.non_fqdn, value, what))
    }
}

fn permit_if(condition: bool) -> Outcome {
    if condition {
        Outcome::Ok
    } else {
        Outcome::Dunno
    }
}

/// `relocated_maps` has the address (RFC 3463 section 3.2, X.1.6).
fn has_moved(resolved: &Resolved) -> bool {
    resolved.route.nexthop.starts_with("5.1.6 ")
}

/// The refusal of an address that is routed to `error` or `retry`, as relocated users are: said while the client is
/// there, in place of a bounce.
fn undeliverable(
    question: &mut Question<'_>,
    resolved: &Resolved,
    address: &str,
    what: &str,
) -> Option<Reply> {
    let class = match resolved.route.transport.as_str() {
        "error" => 5,
        "retry" => 4,
        _ => return None,
    };
    let detail = if what == reply::SENDER { 0 } else { 1 };
    let default = EnhancedCode::new(class, 1, detail);
    let text = resolved.route.nexthop.as_str();
    let (given, text) = EnhancedCode::split_prefix(text).unwrap_or((default, text));
    // The transport decides between for good and for now.
    let given = EnhancedCode { class, ..given };
    let fitting = access::fitting(given, what);
    if given != fitting {
        let text = format!("mapping DSN status {given} into {what} status {fitting}");
        question.effects.events.push(Event::Info(text));
    }
    Some(reply::undeliverable(fitting, address, what, text))
}
