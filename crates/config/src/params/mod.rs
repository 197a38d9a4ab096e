//! Every parameter: name, type, default, whether Postroom acts on it, and one line that says what it does.
//!
//! Names, types and defaults are those of Postfix 3.7, with the additions of later releases that
//! Postroom follows (`smtpd_forbid_bare_newline = normalize`) and our own `postroom_…`.
//! Defaults are unexpanded text; a number without a unit in a time counts in the unit of the default.

mod effect;
mod general;
mod later;
mod lmtp;
mod postroom;
mod postscreen;
mod queue;
mod smtp;
mod smtpd;
mod verify;

pub use effect::{Effect, effect, service_effect};
pub use later::ADDED;

use std::sync::LazyLock;

/// What a parameter's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    Int,
    /// A number with a unit `s m h d w`.
    Time,
    /// Any text; lists too.
    Text,
    /// Text whose `$name` the user of the parameter expands when it is used; [`crate::Config::string`] gives it as written.
    Raw,
}

/// One parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    pub name: &'static str,
    pub kind: Kind,
    /// Unexpanded. Empty for those that depend on the machine: see [`crate::Config::default_text`].
    pub default: &'static str,
    /// Postroom acts on it. The others are accepted and have no effect yet.
    pub honoured: bool,
    /// One line; may be empty for parameters that are not honoured.
    pub doc: &'static str,
}

/// `honoured|accepted KIND "name" = "default", "what it does";` a row.
macro_rules! rows {
    (@honoured honoured) => { true };
    (@honoured accepted) => { false };
    ($($status:ident $kind:ident $name:literal = $default:literal, $doc:literal;)*) => {
        pub(super) static ROWS: &[super::Param] = &[$(super::Param {
            name: $name,
            kind: super::Kind::$kind,
            default: $default,
            honoured: rows!(@honoured $status),
            doc: $doc,
        }),*];
    };
}
use rows;

/// All parameters, sorted by name.
pub static PARAMS: LazyLock<Vec<Param>> = LazyLock::new(|| {
    let mut all: Vec<Param> = [
        general::ROWS,
        later::ROWS,
        lmtp::ROWS,
        postroom::ROWS,
        postscreen::ROWS,
        queue::ROWS,
        smtp::ROWS,
        smtpd::ROWS,
        verify::ROWS,
    ]
    .concat();
    all.sort_by_key(|param| param.name);
    all
});

/// The row of that name.
pub fn find(name: &str) -> Option<&'static Param> {
    let at = PARAMS
        .binary_search_by_key(&name, |param| param.name)
        .ok()?;
    PARAMS.get(at)
}

/// Suffixes of parameters whose first part is the name of a service in master.cf, with what they default to.
pub static SERVICE_SUFFIXES: &[(&str, &str)] = &[
    ("_delivery_slot_cost", "$default_delivery_slot_cost"),
    ("_delivery_slot_discount", "$default_delivery_slot_discount"),
    ("_delivery_slot_loan", "$default_delivery_slot_loan"),
    (
        "_destination_concurrency_failed_cohort_limit",
        "$default_destination_concurrency_failed_cohort_limit",
    ),
    (
        "_destination_concurrency_limit",
        "$default_destination_concurrency_limit",
    ),
    (
        "_destination_concurrency_negative_feedback",
        "$default_destination_concurrency_negative_feedback",
    ),
    (
        "_destination_concurrency_positive_feedback",
        "$default_destination_concurrency_positive_feedback",
    ),
    ("_destination_rate_delay", "$default_destination_rate_delay"),
    (
        "_destination_recipient_limit",
        "$default_destination_recipient_limit",
    ),
    ("_extra_recipient_limit", "$default_extra_recipient_limit"),
    (
        "_initial_destination_concurrency",
        "$initial_destination_concurrency",
    ),
    ("_minimum_delivery_slots", "$default_minimum_delivery_slots"),
    ("_recipient_limit", "$default_recipient_limit"),
    ("_recipient_refill_delay", "$default_recipient_refill_delay"),
    ("_recipient_refill_limit", "$default_recipient_refill_limit"),
    ("_transport_rate_delay", "$default_transport_rate_delay"),
    ("_time_limit", "$command_time_limit"),
];

/// The default of a service-specific name such as `dovecot_destination_recipient_limit`.
pub fn service_fallback(name: &str) -> Option<String> {
    SERVICE_SUFFIXES
        .iter()
        .filter(|(suffix, _)| name.len() > suffix.len() && name.ends_with(suffix))
        .max_by_key(|(suffix, _)| suffix.len())
        .map(|(_, default)| (*default).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_honoured_ones_are_explained() {
        for pair in PARAMS.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} twice", pair[1].name);
        }
        for param in PARAMS.iter().filter(|param| param.honoured) {
            assert!(
                !param.doc.is_empty(),
                "{} has no line of documentation",
                param.name
            );
        }
    }

    #[test]
    fn the_longest_suffix_decides() {
        for (name, expected) in [
            (
                "dovecot_destination_recipient_limit",
                Some("$default_destination_recipient_limit"),
            ),
            ("x_recipient_limit", Some("$default_recipient_limit")),
            ("_recipient_limit", None),
            ("nonsense", None),
        ] {
            assert_eq!(service_fallback(name).as_deref(), expected, "{name}");
        }
    }
}
