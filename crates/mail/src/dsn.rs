//! What a sender asks about delivery status notifications (RFC 3461): `NOTIFY=` and `RET=`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `NOTIFY=` of RCPT (RFC 3461 section 4.1). All false: not given, which means failure and delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Notify {
    /// Never; then the others are false.
    #[serde(skip_serializing_if = "is_false")]
    pub never: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub success: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub failure: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub delay: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Notify {
    pub const NEVER: Notify = Notify {
        never: true,
        success: false,
        failure: false,
        delay: false,
    };

    /// Reads `NEVER` or a comma list of `SUCCESS`, `FAILURE`, `DELAY`, in any case.
    /// `None` for anything else, for an empty list and for `NEVER` beside another word.
    pub fn parse(text: &str) -> Option<Notify> {
        if text.eq_ignore_ascii_case("NEVER") {
            return Some(Notify::NEVER);
        }
        let mut notify = Notify::default();
        for word in text.split(',') {
            match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => notify.success = true,
                "FAILURE" => notify.failure = true,
                "DELAY" => notify.delay = true,
                _ => return None,
            }
        }
        Some(notify)
    }

    /// Whether the client gave no NOTIFY.
    pub fn is_default(&self) -> bool {
        *self == Notify::default()
    }

    /// Whether the sender wants a report of a permanent failure.
    pub fn on_failure(&self) -> bool {
        self.failure || self.is_default()
    }

    /// Whether the sender may be told of a delay.
    pub fn on_delay(&self) -> bool {
        self.delay || self.is_default()
    }
}

/// The value as it stands after `NOTIFY=`; empty for the default.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.never, "NEVER"),
            (self.success, "SUCCESS"),
            (self.failure, "FAILURE"),
            (self.delay, "DELAY"),
        ];
        let mut separator = "";
        for (_, word) in words.iter().filter(|(wanted, _)| *wanted) {
            write!(f, "{separator}{word}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// `RET=` of MAIL (RFC 3461 section 4.3): how much of the message a failure report returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ret {
    Full,
    Headers,
}

impl Ret {
    /// Reads `FULL` or `HDRS`, in any case.
    pub fn parse(text: &str) -> Option<Ret> {
        match text.to_ascii_uppercase().as_str() {
            "FULL" => Some(Ret::Full),
            "HDRS" => Some(Ret::Headers),
            _ => None,
        }
    }
}

/// The value as it stands after `RET=`.
impl fmt::Display for Ret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ret::Full => "FULL",
            Ret::Headers => "HDRS",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify() {
        let on = |success, failure, delay| {
            Some(Notify {
                never: false,
                success,
                failure,
                delay,
            })
        };
        for (text, expected, written) in [
            ("never", Some(Notify::NEVER), "NEVER"),
            ("SUCCESS,failure", on(true, true, false), "SUCCESS,FAILURE"),
            ("DELAY", on(false, false, true), "DELAY"),
            ("NEVER,DELAY", None, ""),
            ("", None, ""),
            ("DELAY,", None, ""),
        ] {
            let read = Notify::parse(text);
            assert_eq!(read, expected, "{text}");
            assert_eq!(read.map(|n| n.to_string()).unwrap_or_default(), written);
        }
    }

    #[test]
    fn ret() {
        for (text, expected) in [
            ("full", Some(Ret::Full)),
            ("HDRS", Some(Ret::Headers)),
            ("x", None),
        ] {
            assert_eq!(Ret::parse(text), expected);
        }
        assert_eq!(Ret::Headers.to_string(), "HDRS");
    }
}
