//! What is measured, and DESIGN's targets for it.

/// Where messages end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Maildir by the mail server's own `virtual` agent.
    Maildir,
    /// Dovecot over LMTP.
    Lmtp,
    /// Refused at RCPT.
    Nowhere,
}

/// Whom messages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    Users,
    /// Aliases with five destinations each.
    Aliases,
    Unknown,
}

/// How clients come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Clear,
    /// STARTTLS, a full handshake each time.
    Tls,
    /// STARTTLS, and AUTH PLAIN that Dovecot checks.
    Submission,
}

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub delivery: Delivery,
    pub recipients: Recipients,
    pub sessions: usize,
    /// Many messages on one connection.
    pub kept: bool,
    pub access: Access,
}

impl Scenario {
    /// Copies that one message makes.
    pub fn copies(&self) -> u64 {
        match self.recipients {
            Recipients::Users => 1,
            Recipients::Aliases => 5,
            Recipients::Unknown => 0,
        }
    }
}

const fn row(
    name: &'static str,
    delivery: Delivery,
    recipients: Recipients,
    sessions: usize,
    kept: bool,
) -> Scenario {
    Scenario {
        name,
        delivery,
        recipients,
        sessions,
        kept,
        access: Access::Clear,
    }
}

/// Messages to users' Maildirs over encrypted connections.
const fn encrypted(name: &'static str, access: Access, sessions: usize, kept: bool) -> Scenario {
    Scenario {
        access,
        ..row(name, Delivery::Maildir, Recipients::Users, sessions, kept)
    }
}

/// The name of the run with idle sessions.
pub const IDLE: &str = "1000 idle sessions";

pub const SCENARIOS: &[Scenario] = &[
    row(
        "maildir, 1 session",
        Delivery::Maildir,
        Recipients::Users,
        1,
        false,
    ),
    row(
        "maildir, 10 sessions",
        Delivery::Maildir,
        Recipients::Users,
        10,
        false,
    ),
    row(
        "maildir, 50 sessions",
        Delivery::Maildir,
        Recipients::Users,
        50,
        false,
    ),
    row(
        "maildir, 50 sessions, kept",
        Delivery::Maildir,
        Recipients::Users,
        50,
        true,
    ),
    row(
        "lmtp, 10 sessions",
        Delivery::Lmtp,
        Recipients::Users,
        10,
        false,
    ),
    row(
        "lmtp, 50 sessions",
        Delivery::Lmtp,
        Recipients::Users,
        50,
        false,
    ),
    row(
        "maildir, alias of 5",
        Delivery::Maildir,
        Recipients::Aliases,
        10,
        false,
    ),
    row(
        "lmtp, alias of 5",
        Delivery::Lmtp,
        Recipients::Aliases,
        10,
        false,
    ),
    row(
        "refused, new connections",
        Delivery::Nowhere,
        Recipients::Unknown,
        10,
        false,
    ),
    row(
        "refused, kept connections",
        Delivery::Nowhere,
        Recipients::Unknown,
        10,
        true,
    ),
    encrypted("STARTTLS, 1 session", Access::Tls, 1, false),
    encrypted("STARTTLS, 10 sessions", Access::Tls, 10, false),
    encrypted("STARTTLS, 50 sessions", Access::Tls, 50, false),
    encrypted("submission, 1 session", Access::Submission, 1, false),
    encrypted("submission, 10 sessions", Access::Submission, 10, false),
    encrypted("submission, 50 sessions", Access::Submission, 50, false),
    encrypted("submission, 10, kept", Access::Submission, 10, true),
];

/// Which figure of which scenario is to be how many times Postfix's (a tenth: 0.1), or stay under a bound.
pub const TARGETS: &[(&str, &str, &str)] = &[
    ("maildir, 10 sessions", "delivered/s", "8 x"),
    ("maildir, 50 sessions", "delivered/s", "8 x"),
    ("maildir, 50 sessions", "accepted/s", "10 x"),
    ("maildir, 50 sessions", "server CPU ms", "0.1 x"),
    ("maildir, 50 sessions", "SQL a message", "4"),
    ("maildir, 50 sessions", "SQL connections", "10 or fewer"),
    ("lmtp, 10 sessions", "delivered/s", "2.5 x"),
    ("lmtp, 50 sessions", "delivered/s", "2.5 x"),
    ("refused, new connections", "refused/s", "10 x"),
    ("refused, kept connections", "refused/s", "10 x"),
    ("postmap, 1 process", "keys/s", "2.5 x"),
    (IDLE, "memory MB", "under 100"),
];
