//! Macros: facts that a milter is told by name, at each stage those of its list.

use std::collections::BTreeMap;

use super::settings::{Settings, bare};

/// The facts, by name without braces: `j`, `daemon_name`, `rcpt_addr`, …
pub trait Macros: Send + Sync {
    /// `None`: there is no such fact (yet).
    fn value(&self, name: &str) -> Option<String>;
}

/// When macros are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Connect,
    Helo,
    Mail,
    Rcpt,
    Data,
    EndOfHeader,
    EndOfData,
    Unknown,
}

pub const STAGES: [Stage; 8] = [
    Stage::Connect,
    Stage::Helo,
    Stage::Mail,
    Stage::Rcpt,
    Stage::Data,
    Stage::EndOfHeader,
    Stage::EndOfData,
    Stage::Unknown,
];

impl Stage {
    /// The parameter that has the stage's list.
    pub fn parameter(self) -> &'static str {
        match self {
            Stage::Connect => "milter_connect_macros",
            Stage::Helo => "milter_helo_macros",
            Stage::Mail => "milter_mail_macros",
            Stage::Rcpt => "milter_rcpt_macros",
            Stage::Data => "milter_data_macros",
            Stage::EndOfHeader => "milter_end_of_header_macros",
            Stage::EndOfData => "milter_end_of_data_macros",
            Stage::Unknown => "milter_unknown_command_macros",
        }
    }

    /// The stage's number in the negotiation (SMFIM_CONNECT, …).
    pub fn of_number(number: u32) -> Option<Stage> {
        [
            Stage::Connect,
            Stage::Helo,
            Stage::Mail,
            Stage::Rcpt,
            Stage::Data,
            Stage::EndOfData,
            Stage::EndOfHeader,
        ]
        .get(usize::try_from(number).ok()?)
        .copied()
    }
}

/// The pairs for one packet: names as in the list, and values. Facts that are not known are left out.
pub(super) fn pairs(
    settings: &Settings,
    own: &BTreeMap<Stage, Vec<String>>,
    stage: Stage,
    facts: &dyn Macros,
) -> Vec<(String, String)> {
    let names = own.get(&stage).or_else(|| settings.macros.get(&stage));
    let names = names.into_iter().flatten();
    let pairs = names.filter_map(|name| {
        let key = bare(name);
        let value = facts
            .value(key)
            .or_else(|| settings.macro_defaults.get(key).cloned())?;
        Some((name.clone(), value))
    });
    pairs.collect()
}
