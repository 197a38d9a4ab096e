//! The sending side: one machine for SMTP and LMTP.
//!
//! ```text
//! let mut session = Session::new(settings, "mail.example.org[192.0.2.1]:25");
//! session.begin(transaction);
//! loop {
//!     match session.step() {
//!         Send(bytes)   => write them; on failure eof()
//!         Read{timeout} => read; receive(bytes), eof() or timed_out()
//!         Body          => stream the message through a DotStuffer; body_sent(); on failure eof() or body_failed()
//!         StartTls      => the handshake; tls_established() or tls_failed()
//!         Done          => take_results(); is_open()? begin() the next message, or quit()
//!         Closed        => close the connection
//!     }
//! }
//! ```
//!
//! Whatever happens, `Done` comes once for each `begin`, and there is one result a recipient.

use std::time::Duration;

use bytes::Bytes;
use mail::status::EnhancedCode;

use crate::{Notify, Ret};
use crate::{Protocol, Reply};

mod offer;
mod reader;
mod security;
mod session;
mod stuff;

pub use security::{Login, Mechanism, Security, TlsWish};
pub use session::Session;
pub use stuff::DotStuffer;

/// What a client session needs to know; behind each field stands the main.cf parameter.
#[derive(Clone, Debug)]
pub struct Settings {
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// `smtp_helo_name`, `lmtp_lhlo_name`.
    pub helo_name: String,
    /// Say EHLO even when the greeting lacks `ESMTP` (`smtp_always_send_ehlo`).
    pub always_send_ehlo: bool,
    /// Say HELO (`smtp_never_send_ehlo`).
    pub never_send_ehlo: bool,
    /// A 5xx greeting is a temporary failure (`smtp_skip_5xx_greeting`).
    pub skip_5xx_greeting: bool,
    /// Keywords of the server's EHLO reply to overlook (`smtp_discard_ehlo_keywords`).
    pub discard_ehlo_keywords: Vec<String>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// Bytes of a reply line beyond which it is cut (`line_length_limit`).
    pub line_length_limit: usize,
    /// Lines of one reply beyond which it is an error.
    pub reply_lines_limit: usize,
}

/// How long to wait for each reply (RFC 5321 section 4.5.3.2; `smtp_*_timeout`).
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Greeting and EHLO (`smtp_helo_timeout`).
    pub helo: Duration,
    /// MAIL FROM (`smtp_mail_timeout`).
    pub mail: Duration,
    /// RCPT TO (`smtp_rcpt_timeout`).
    pub rcpt: Duration,
    /// DATA (`smtp_data_init_timeout`).
    pub data_init: Duration,
    /// The end of the message (`smtp_data_done_timeout`).
    pub data_done: Duration,
    /// RSET (`smtp_rset_timeout`).
    pub rset: Duration,
    /// QUIT (`smtp_quit_timeout`).
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts {
            helo: seconds(300),
            mail: seconds(300),
            rcpt: seconds(300),
            data_init: seconds(120),
            data_done: seconds(600),
            rset: seconds(20),
            quit: seconds(300),
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            protocol: Protocol::Smtp,
            helo_name: "localhost".to_owned(),
            always_send_ehlo: true,
            never_send_ehlo: false,
            skip_5xx_greeting: true,
            discard_ehlo_keywords: Vec::new(),
            timeouts: Timeouts::default(),
            line_length_limit: 2048,
            reply_lines_limit: 1000,
        }
    }
}

/// One message for one or more recipients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The sender in internal (unquoted) form; empty for `<>`.
    pub sender: String,
    /// The recipients, in the order of the results.
    pub recipients: Vec<Recipient>,
    /// The size of the message in bytes, for `SIZE=`.
    pub size: Option<u64>,
    /// The message has 8-bit content: `BODY=8BITMIME` where offered.
    pub eight_bit: bool,
    /// The message needs SMTPUTF8: fails with 5.6.7 where it is not offered.
    pub smtputf8: bool,
    /// `RET=` where DSN is offered.
    pub ret: Option<Ret>,
    /// `ENVID=` where DSN is offered; plain text, not yet xtext.
    pub envid: Option<String>,
}

/// One recipient of a [`Transaction`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipient {
    /// The address in internal (unquoted) form.
    pub address: String,
    /// `NOTIFY=` where DSN is offered.
    pub notify: Option<Notify>,
    /// `ORCPT=` where DSN is offered: `type;address`, the address not yet xtext.
    pub orcpt: Option<String>,
}

impl Recipient {
    /// A recipient without DSN parameters.
    pub fn new(address: impl Into<String>) -> Recipient {
        Recipient {
            address: address.into(),
            notify: None,
            orcpt: None,
        }
    }
}

/// What the caller is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Write these bytes.
    Send(Bytes),
    /// Read from the server, no longer than `timeout`.
    Read {
        /// How long the server may be silent.
        timeout: Duration,
    },
    /// Stream the message through a [`DotStuffer`] to the server, its `finish` included, then call `body_sent`.
    Body,
    /// Begin TLS as the client, then call `tls_established` or `tls_failed`.
    StartTls,
    /// Every recipient has its result: `take_results`.
    Done,
    /// Close the connection.
    Closed,
}

/// What a reply answered, as log lines name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Command {
    Greeting,
    Helo,
    Ehlo,
    Lhlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Body,
    EndOfData,
    Rset,
    Quit,
}

impl Command {
    /// As in `(in reply to RCPT TO command)`.
    pub fn name(self) -> &'static str {
        match self {
            Command::Greeting => "initial server greeting",
            Command::Helo => "HELO command",
            Command::Ehlo => "EHLO command",
            Command::Lhlo => "LHLO command",
            Command::StartTls => "STARTTLS command",
            Command::Auth => "AUTH command",
            Command::Mail => "MAIL FROM command",
            Command::Rcpt => "RCPT TO command",
            Command::Data => "DATA command",
            Command::Body => "message body",
            Command::EndOfData => "end of DATA command",
            Command::Rset => "RSET command",
            Command::Quit => "QUIT command",
        }
    }

    /// As in `lost connection with host while receiving the initial server greeting`.
    pub fn activity(self) -> &'static str {
        match self {
            Command::Greeting => "receiving the initial server greeting",
            Command::Helo => "performing the HELO handshake",
            Command::Ehlo => "performing the EHLO handshake",
            Command::Lhlo => "performing the LHLO handshake",
            Command::StartTls => "performing the EHLO handshake",
            Command::Auth => "performing the EHLO handshake",
            Command::Mail => "sending MAIL FROM",
            Command::Rcpt => "sending RCPT TO",
            Command::Data => "sending DATA command",
            Command::Body => "sending message body",
            Command::EndOfData => "sending end of data -- message may be sent more than once",
            Command::Rset => "sending final RSET",
            Command::Quit => "sending QUIT",
        }
    }
}

/// How the attempt ended for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RcptResult {
    /// The server has taken the message over.
    Accepted {
        /// Its last word: the text of `status=sent (…)`.
        reply: Reply,
    },
    /// The server refused: 4xx to be tried again, 5xx not.
    Refused {
        /// The reply, its enhanced code filled in when the server gave none.
        reply: Reply,
        /// What it answered.
        command: Command,
        /// The text of the log line: `host X said: 550 … (in reply to RCPT TO command)`.
        text: String,
    },
    /// The connection failed, or what the server said was no SMTP, or it lacks what the message needs.
    Failed {
        /// 4.4.2 for a lost connection; 5.6.7 where SMTPUTF8 is lacking.
        dsn: EnhancedCode,
        /// The text of the log line: `lost connection with X while Y`.
        text: String,
    },
}

impl RcptResult {
    /// The message was delivered.
    pub fn is_accepted(&self) -> bool {
        matches!(self, RcptResult::Accepted { .. })
    }

    /// Another attempt is of no use.
    pub fn is_permanent(&self) -> bool {
        match self {
            RcptResult::Accepted { .. } => false,
            RcptResult::Refused { reply, .. } => reply.is_permanent(),
            RcptResult::Failed { dsn, .. } => dsn.class == 5,
        }
    }

    /// The enhanced status code for `dsn=`.
    pub fn dsn(&self) -> EnhancedCode {
        match self {
            RcptResult::Accepted { reply } | RcptResult::Refused { reply, .. } => reply
                .enhanced
                .unwrap_or(EnhancedCode::new((reply.code / 100) as u8, 0, 0)),
            RcptResult::Failed { dsn, .. } => *dsn,
        }
    }

    /// The text for `status=… (text)`.
    pub fn text(&self) -> String {
        match self {
            RcptResult::Accepted { reply } => reply.to_string(),
            RcptResult::Refused { text, .. } | RcptResult::Failed { text, .. } => text.clone(),
        }
    }
}
