//! STARTTLS (RFC 3207), and what a session forgets when TLS begins.

use super::session::Session;
use super::verb::Verb;
use super::{CloseReason, Counted, Keyword, Step, TlsLevel};
use crate::{Reply, reply};

impl Session {
    pub(super) fn starttls(&mut self, rest: &str) {
        let discarded = self
            .settings
            .discard_ehlo_keywords
            .contains(&Keyword::StartTls);
        if !rest.is_empty() {
            self.refuse(&reply::STARTTLS_SYNTAX)
        } else if self.tls {
            self.refuse(&reply::TLS_ACTIVE)
        } else if self.settings.tls == TlsLevel::None || discarded {
            self.refuse(&reply::NOT_IMPLEMENTED)
        } else if !self.settings.tls_ready {
            self.refuse(&reply::TLS_UNAVAILABLE)
        } else {
            self.count(Counted::StartTls, "");
        }
    }

    /// STARTTLS that the client has not given too often.
    pub(super) fn starttls_counted(&mut self) {
        self.say(&reply::READY_FOR_TLS);
        self.tls_due = true;
    }

    /// Everything that came behind STARTTLS in the clear may be an attacker's: it is thrown away.
    pub(super) fn start_tls(&mut self) -> Step {
        self.input.clear();
        Step::StartTls
    }

    /// The handshake has succeeded. Also called before the first step, where TLS comes before the greeting.
    ///
    /// RFC 3207 section 4.2: the session begins anew.
    pub fn tls_established(&mut self) {
        if self.tls_due {
            self.count_success(Verb::StartTls);
        }
        self.tls_due = false;
        self.tls = true;
        self.input.clear();
        self.helo = None;
        self.authenticated = false;
        self.challenged = false;
        self.mechanisms.clear();
        self.drop_transaction();
    }

    /// The handshake has failed, or took too long; the session ends without another word.
    pub fn tls_failed(&mut self) {
        self.tls_due = false;
        self.input.clear();
        self.end(CloseReason::LostConnection, None);
    }

    /// Ends the session with this reply, for example because the client's certificate is not good enough.
    pub fn hang_up(&mut self, reply: &Reply) {
        self.end(CloseReason::Disconnected, Some(reply));
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.tls
    }

    pub(super) fn must_start_tls(&self) -> bool {
        self.settings.tls == TlsLevel::Encrypt && !self.tls
    }
}
