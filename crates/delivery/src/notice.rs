//! Agents that deliver nowhere: error(8) and its twin retry, discard(8), and local(8) as far as there
//! are no local mailboxes yet.

use mail::status::EnhancedCode;
use nix::unistd::User;

use crate::request::{Outcome, Rcpt};

/// error(8): returns the mail with the nexthop as reason.
pub fn error(nexthop: &str) -> Outcome {
    let (code, text) = split(nexthop, EnhancedCode::new(5, 0, 0));
    Outcome::bounced("error", code, text)
}

/// The error(8) program under the name `retry`: defers instead.
pub fn retry(nexthop: &str) -> Outcome {
    let (code, text) = split(nexthop, EnhancedCode::new(4, 0, 0));
    Outcome::deferred("error", code, text)
}

/// discard(8): throws the mail away and calls it sent.
pub fn discard(nexthop: &str) -> Outcome {
    let (code, text) = split(nexthop, EnhancedCode::new(2, 0, 0));
    let text = if nexthop.is_empty() {
        "No reason specified".to_owned()
    } else {
        text
    };
    Outcome::sent("discard", code, text)
}

/// An optional enhanced status code, then the reason.
fn split(nexthop: &str, default: EnhancedCode) -> (EnhancedCode, String) {
    let (code, text) = EnhancedCode::split_prefix(nexthop).unwrap_or((default, nexthop));
    let text = if text.is_empty() {
        "Address is undeliverable"
    } else {
        text
    };
    (code, text.to_owned())
}

/// local(8): tells unknown users from known ones. Mail for a known one waits. Blocks while the user
/// database is asked.
pub fn local(recipient: &Rcpt) -> Outcome {
    let user = recipient
        .address
        .rsplit_once('@')
        .map_or(recipient.address.as_str(), |(user, _)| user);
    let user = mail::fold(user);
    let deferred =
        |text: String| Outcome::deferred("local", EnhancedCode::new(4, 3, 5), text).via("local");
    match User::from_name(&user) {
        Ok(None) => {
            let text = format!("unknown user: \"{user}\"");
            Outcome::bounced("local", EnhancedCode::new(5, 1, 1), text).via("local")
        }
        Ok(Some(_)) => deferred(format!(
            "there is no delivery to local mailboxes; set local_transport to a transport for \"{user}\" (such as lmtp:unix:private/dovecot-lmtp) or alias the address"
        )),
        Err(error) => deferred(format!(
            "user lookup error for \"{user}\": {}",
            error.desc()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes() {
        for (outcome, expected) in [
            (error("5.7.9 go away"), "bounced 5.7.9 go away"),
            (error("plain text"), "bounced 5.0.0 plain text"),
            (error("4.2.1 odd"), "bounced 5.0.0 odd"),
            (error(""), "bounced 5.0.0 Address is undeliverable"),
            (retry("4.4.9 later"), "deferred 4.4.9 later"),
            (retry("text"), "deferred 4.0.0 text"),
            (discard("external"), "sent 2.0.0 external"),
            (discard("2.1.9 foo"), "sent 2.1.9 foo"),
        ] {
            let Outcome {
                status,
                dsn,
                text,
                relay,
                ..
            } = outcome;
            assert_eq!(format!("{} {dsn} {text}", status.name()), expected);
            assert_eq!(relay, "none");
        }
    }

    #[test]
    fn unknown_local_users() {
        let rcpt = Rcpt {
            address: "NoSuchLocal@host.example".into(),
            ..Rcpt::default()
        };
        let outcome = local(&rcpt);
        assert_eq!(
            (outcome.text.as_str(), outcome.relay.as_str()),
            ("unknown user: \"nosuchlocal\"", "local")
        );
        let root = Rcpt {
            address: "root@host.example".into(),
            ..Rcpt::default()
        };
        assert!(local(&root).text.contains("set local_transport"));
    }
}
