//! Restrictions about who the client has proved to be: by AUTH, or by a certificate.

use mail::fold::{fold, same};

use crate::evaluate::{Outcome, Question};
use crate::restriction::LoginMismatch;
use crate::{Policy, reply};

impl Policy {
    /// `permit_tls_clientcerts`: the fingerprint of the certificate, or of its key, is in `relay_clientcerts`.
    pub(crate) async fn known_certificate(
        &self,
        question: &mut Question<'_>,
        value: &str,
    ) -> Outcome {
        let Some(shown) = question.facts.certificate else {
            return Outcome::Dunno;
        };
        for key in [&shown.fingerprint, &shown.public_key] {
            match self.relay_certificates.lookup(&fold(key)).await {
                Ok(Some(_)) => return Outcome::Ok,
                Ok(None) => {}
                Err(error) => {
                    let note = format!("relay_clientcerts: {error}");
                    question.effects.notes.push(note);
                    return Outcome::Refuse(reply::lookup_failure(value));
                }
            }
        }
        Outcome::Dunno
    }

    /// `reject_sender_login_mismatch` and its relatives.
    pub(crate) async fn login_mismatch(
        &self,
        question: &mut Question<'_>,
        which: LoginMismatch,
    ) -> Outcome {
        let facts = question.facts;
        let Some(sender) = facts.sender.filter(|sender| !sender.is_empty()) else {
            return Outcome::Dunno;
        };
        let concerned = match facts.login {
            Some(_) => which.authenticated,
            None => which.unauthenticated,
        };
        // As in Postfix: where nobody can log in, nobody is refused for not having done so.
        if !facts.has_logins || !concerned || self.sender_logins.is_empty() {
            return Outcome::Dunno;
        }
        let owners = self
            .router
            .owners_of_sender(question.walk, &self.sender_logins, sender)
            .await;
        let owners = match owners {
            Ok(owners) => owners,
            Err(failure) => {
                question.effects.notes.push(failure.to_string());
                return Outcome::Refuse(reply::lookup_failure(sender));
            }
        };
        match (facts.login, owners) {
            (Some(login), Some(owners)) if is_one_of(login, &owners) => Outcome::Dunno,
            (Some(_), None) if which.only_known_senders => Outcome::Dunno,
            (Some(login), _) => Outcome::Refuse(reply::not_owned(sender, login)),
            (None, Some(_)) => Outcome::Refuse(reply::not_logged_in(sender)),
            (None, None) => Outcome::Dunno,
        }
    }
}

fn is_one_of(login: &str, owners: &str) -> bool {
    owners
        .split(|c: char| c.is_whitespace() || c == ',')
        .any(|owner| !owner.is_empty() && same(owner, login))
}
