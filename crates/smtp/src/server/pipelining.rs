//! Commands that a client sends before it has read the replies to earlier ones (RFC 2920).

use super::CloseReason;
use super::session::{Session, printable};
use super::verb::Verb;
use crate::reply;

impl Session {
    /// More may wait behind a command only where both sides have agreed on pipelining, and behind some commands never
    /// (RFC 2920 section 3.1). It is logged once.
    pub(super) fn watch_pipelining(&mut self, verb: Verb) {
        let agreed = self.protocol_name() == "ESMTP" && !verb.ends_a_group();
        if !agreed {
            self.note_pipelining();
        }
    }

    pub(super) fn note_pipelining(&mut self) {
        if self.pipelined || self.input.is_empty() {
            return;
        }
        self.pipelined = true;
        let ahead = shown_ahead(self.input.waiting());
        let client = self.peer.name_and_address();
        tracing::info!(
            prog = "smtpd",
            "improper command pipelining after {} from {client}: {ahead}",
            self.place
        );
    }

    /// `smtpd_forbid_unauth_pipelining`: nothing may wait behind EHLO and DATA. Ends the session if so.
    pub(super) fn is_out_of_step(&mut self) -> bool {
        let out = self.settings.forbid_unauth_pipelining && !self.input.is_empty();
        if out {
            self.end(CloseReason::Disconnected, Some(&reply::NOT_SYNCHRONIZED));
        }
        out
    }

    /// Whether the client has sent commands ahead where that is not allowed.
    pub fn has_pipelined(&self) -> bool {
        self.pipelined
    }
}

/// The start of what a client sent ahead, as a log may show it: AUTH and what follows may be a password.
fn shown_ahead(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().take_while(|line| {
        let start = line.trim_start().get(..4);
        !start.is_some_and(|word| word.eq_ignore_ascii_case("AUTH"))
    });
    let shown: String = lines
        .map(|line| printable(line.as_bytes()) + "\\r\\n")
        .collect();
    shown.chars().take(100).collect()
}
