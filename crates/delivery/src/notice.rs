//! Agents that deliver nowhere: error(8) and its twin retry, and discard(8).

use mail::status::EnhancedCode;

use crate::request::Outcome;

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
}
