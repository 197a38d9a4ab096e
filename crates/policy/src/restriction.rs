//! One restriction of a list, read.

use std::sync::Arc;

use config::ConfigError;
use tables::{TableList, Tables};

use crate::delegate::{Service, Services};

/// What a restriction is about, and with it the word in its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Client,
    Helo,
    Sender,
    Recipient,
    /// The domain of ETRN.
    Etrn,
    /// The name that AUTH was done with.
    Login,
    /// The client's certificate.
    Certificate,
}

/// Whom `reject_…_sender_login_mismatch` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoginMismatch {
    /// Clients that are logged in, and use a sender that is not theirs.
    pub authenticated: bool,
    /// Clients that are not, and use a sender that is somebody's.
    pub unauthenticated: bool,
    /// Logged-in clients may use senders that are nobody's.
    pub only_known_senders: bool,
}

/// A restriction of postconf(5).
#[derive(Clone)]
pub(crate) enum Restriction {
    Permit,
    Reject,
    Defer,
    DeferIfPermit,
    WarnIfReject,
    PermitMynetworks,
    PermitInetInterfaces,
    PermitAuthDestination,
    RejectUnauthDestination,
    DeferUnauthDestination,
    RejectUnlisted(Subject),
    RejectNonFqdn(Subject),
    RejectInvalidHelo,
    RejectMultiRecipientBounce,
    PermitSaslAuthenticated,
    /// `permit_tls_clientcerts`: those of `relay_clientcerts`.
    PermitKnownCertificate,
    /// `permit_tls_all_clientcerts`: those of a known CA.
    PermitTrustedCertificate,
    RejectPlaintextSession,
    RejectLoginMismatch(LoginMismatch),
    CheckAccess(Subject, TableList),
    /// `check_policy_service`.
    AskService(Arc<Service>),
    /// A table without `check_…_access` where it cannot be told what to look up.
    Misplaced(String),
    /// A name from `smtpd_restriction_classes`, with its list.
    Class(Vec<Restriction>),
    DeferIfReject,
    RejectUnauthPipelining,
    /// `sleep`, in seconds.
    Sleep(u64),
    /// Known to Postfix, not to us.
    Unsupported(String),
}

impl Restriction {
    /// Its name, where it may permit: for `smtpd_log_access_permit_actions`.
    pub fn permit_name(&self) -> &'static str {
        match self {
            Restriction::PermitMynetworks => "permit_mynetworks",
            Restriction::PermitInetInterfaces => "permit_inet_interfaces",
            Restriction::PermitAuthDestination => "permit_auth_destination",
            Restriction::PermitSaslAuthenticated => "permit_sasl_authenticated",
            Restriction::PermitKnownCertificate => "permit_tls_clientcerts",
            Restriction::PermitTrustedCertificate => "permit_tls_all_clientcerts",
            _ => "permit",
        }
    }
}

/// What reading restrictions needs.
pub(crate) struct Reader<'a> {
    pub config: &'a config::Config,
    pub tables: &'a Tables,
    pub classes: Vec<String>,
    pub services: Services<'a>,
}

impl Reader<'_> {
    /// The list that the parameter holds.
    pub fn list(&self, parameter: &str) -> Result<Vec<Restriction>, ConfigError> {
        self.words(parameter, &self.config.list(parameter)?, 0)
    }

    /// A list given as text, as an access table's value may be.
    pub fn words(
        &self,
        parameter: &str,
        words: &[String],
        depth: usize,
    ) -> Result<Vec<Restriction>, ConfigError> {
        let mut restrictions = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let name = word.to_ascii_lowercase();
            let mut argument = |what: &str| {
                words.next().ok_or_else(|| {
                    self.mistake(parameter, word, format!("{word} needs {what} behind it"))
                })
            };
            let restriction = if let Some(subject) = access_subject(&name) {
                let table = argument("a table, as in \"check_client_access hash:/etc/postfix/x\"")?;
                Restriction::CheckAccess(subject, self.tables.open_list_lenient(table))
            } else if name == "check_policy_service" {
                let place =
                    argument("a place, as in \"check_policy_service unix:private/policy\"")?;
                let service = self.services.get(place);
                Restriction::AskService(service.map_err(|error| {
                    error.at(self.config.origin(parameter)).parameter(parameter)
                })?)
            } else if name == "sleep" {
                let seconds = argument("a number of seconds")?;
                let Ok(seconds) = seconds.parse() else {
                    let problem = format!("bad sleep time: {seconds}");
                    return Err(self.mistake(parameter, word, problem));
                };
                Restriction::Sleep(seconds)
            } else if TAKES_ARGUMENT.contains(&name.as_str()) {
                argument("an argument")?;
                Restriction::Unsupported(name)
            } else if self.classes.iter().any(|class| class == word) {
                if depth > 10 {
                    let problem = format!("restriction class {word} contains itself");
                    return Err(self.mistake(parameter, word, problem));
                }
                let inner = self.config.list(word)?;
                Restriction::Class(self.words(word, &inner, depth + 1)?)
            } else if word.contains(':') {
                // A bare table stands for check_<stage>_access of its list.
                match stage_subject(parameter) {
                    Some(subject) => {
                        Restriction::CheckAccess(subject, self.tables.open_list_lenient(word))
                    }
                    None => Restriction::Misplaced(word.clone()),
                }
            } else {
                match plain(&name) {
                    Some(restriction) => restriction,
                    None if UNSUPPORTED.contains(&name.as_str()) => Restriction::Unsupported(name),
                    None => {
                        let problem = format!("unknown smtpd restriction: \"{word}\"");
                        return Err(self.mistake(parameter, word, problem));
                    }
                }
            };
            let warns = matches!(restrictions.last(), Some(Restriction::WarnIfReject));
            let ends = match restriction {
                Restriction::Permit => true,
                Restriction::Reject | Restriction::Defer => !warns,
                _ => false,
            };
            if let (true, Some(next)) = (ends, words.as_slice().first()) {
                tracing::warn!(
                    prog = "smtpd",
                    "{parameter}: restriction `{next}' after `{word}' is ignored"
                );
            }
            restrictions.push(restriction);
        }
        Ok(restrictions)
    }

    fn mistake(&self, parameter: &str, word: &str, problem: String) -> ConfigError {
        ConfigError::new(
            problem,
            "correct the list; postconf(5) has the names of all restrictions",
        )
        .at(self.config.origin(parameter))
        .parameter(parameter)
        .value(word)
    }
}

/// The restrictions without argument that Postroom applies, by their names in lower case.
pub(crate) fn plain(name: &str) -> Option<Restriction> {
    Some(match name {
        "permit" => Restriction::Permit,
        "reject" => Restriction::Reject,
        "defer" => Restriction::Defer,
        "defer_if_permit" => Restriction::DeferIfPermit,
        "warn_if_reject" => Restriction::WarnIfReject,
        "permit_mynetworks" => Restriction::PermitMynetworks,
        "permit_inet_interfaces" => Restriction::PermitInetInterfaces,
        "permit_auth_destination" => Restriction::PermitAuthDestination,
        "reject_unauth_destination" => Restriction::RejectUnauthDestination,
        "defer_unauth_destination" => Restriction::DeferUnauthDestination,
        "reject_unlisted_recipient" | "check_recipient_maps" => {
            Restriction::RejectUnlisted(Subject::Recipient)
        }
        "reject_unlisted_sender" => Restriction::RejectUnlisted(Subject::Sender),
        "reject_non_fqdn_recipient" => Restriction::RejectNonFqdn(Subject::Recipient),
        "reject_non_fqdn_sender" => Restriction::RejectNonFqdn(Subject::Sender),
        "reject_non_fqdn_helo_hostname" | "reject_non_fqdn_hostname" => {
            Restriction::RejectNonFqdn(Subject::Helo)
        }
        "reject_invalid_helo_hostname" | "reject_invalid_hostname" => {
            Restriction::RejectInvalidHelo
        }
        "reject_multi_recipient_bounce" => Restriction::RejectMultiRecipientBounce,
        "permit_sasl_authenticated" => Restriction::PermitSaslAuthenticated,
        "permit_tls_clientcerts" => Restriction::PermitKnownCertificate,
        "permit_tls_all_clientcerts" => Restriction::PermitTrustedCertificate,
        "reject_plaintext_session" => Restriction::RejectPlaintextSession,
        "defer_if_reject" => Restriction::DeferIfReject,
        "reject_unauth_pipelining" => Restriction::RejectUnauthPipelining,
        name => return login_mismatch(name).map(Restriction::RejectLoginMismatch),
    })
}

fn login_mismatch(name: &str) -> Option<LoginMismatch> {
    let (authenticated, unauthenticated, only_known_senders) = match name {
        "reject_sender_login_mismatch" => (true, true, false),
        "reject_authenticated_sender_login_mismatch" => (true, false, false),
        "reject_unauthenticated_sender_login_mismatch" => (false, true, false),
        "reject_known_sender_login_mismatch" => (true, true, true),
        _ => return None,
    };
    Some(LoginMismatch {
        authenticated,
        unauthenticated,
        only_known_senders,
    })
}

fn access_subject(name: &str) -> Option<Subject> {
    Some(match name {
        "check_client_access" => Subject::Client,
        "check_helo_access" => Subject::Helo,
        "check_sender_access" => Subject::Sender,
        "check_recipient_access" => Subject::Recipient,
        "check_etrn_access" => Subject::Etrn,
        "check_sasl_access" => Subject::Login,
        "check_ccert_access" => Subject::Certificate,
        _ => return None,
    })
}

fn stage_subject(parameter: &str) -> Option<Subject> {
    Some(match parameter {
        "smtpd_client_restrictions" => Subject::Client,
        "smtpd_helo_restrictions" => Subject::Helo,
        "smtpd_sender_restrictions" => Subject::Sender,
        "smtpd_etrn_restrictions" => Subject::Etrn,
        "smtpd_data_restrictions" | "smtpd_end_of_data_restrictions" => return None,
        _ => Subject::Recipient,
    })
}

/// Restrictions with an argument that Postroom does not apply yet.
const TAKES_ARGUMENT: &[&str] = &[
    "check_reverse_client_hostname_access",
    "check_client_a_access",
    "check_client_mx_access",
    "check_client_ns_access",
    "check_reverse_client_hostname_a_access",
    "check_reverse_client_hostname_mx_access",
    "check_reverse_client_hostname_ns_access",
    "check_helo_a_access",
    "check_helo_mx_access",
    "check_helo_ns_access",
    "check_sender_a_access",
    "check_sender_mx_access",
    "check_sender_ns_access",
    "check_recipient_a_access",
    "check_recipient_mx_access",
    "check_recipient_ns_access",
    "reject_rbl_client",
    "permit_dnswl_client",
    "reject_rhsbl_client",
    "permit_rhswl_client",
    "reject_rhsbl_reverse_client",
    "reject_rhsbl_helo",
    "reject_rhsbl_sender",
    "reject_rhsbl_recipient",
];

/// Restrictions without argument that Postroom does not apply yet.
const UNSUPPORTED: &[&str] = &[
    "reject_unknown_client_hostname",
    "reject_unknown_client",
    "reject_unknown_reverse_client_hostname",
    "reject_unknown_forward_client_hostname",
    "reject_unknown_helo_hostname",
    "reject_unknown_hostname",
    "reject_unknown_sender_domain",
    "reject_unknown_recipient_domain",
    "reject_unknown_address",
    "reject_unverified_sender",
    "reject_unverified_recipient",
    "permit_mx_backup",
    "permit_naked_ip_address",
];
