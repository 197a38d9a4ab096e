//! The receiving side of SMTP and LMTP.
//!
//! ```text
//! loop {
//!     match session.step(now) {
//!         Send(bytes)      => write them
//!         Read{timeout}    => read; receive(bytes), eof() or timed_out()
//!         Ask(question)    => find out; answer(…)
//!         Content(bytes)   => append to the message; on failure refuse_content(reply)
//!         Sleep(duration)  => sleep
//!         StartTls         => the handshake; tls_established() or tls_failed()
//!         Close{reason}    => close the connection
//!     }
//! }
//! ```
//!
//! Every [`Step::Ask`] wants one [`Session::answer`] before the next `step`.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::reply::Reply;
use crate::{Notify, Ret};

mod auth;
mod content;
mod data;
mod ehlo;
mod greeting;
mod input;
mod mail;
mod misc;
mod param;
mod rcpt;
mod session;
mod settings;
mod starttls;
mod verb;
mod xclient;
mod xforward;

pub use session::Session;
pub use settings::{BareNewline, Keyword, Settings, TlsLevel};
pub use xforward::Forwarded;

/// The client at the other end, as far as the connection tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The verified host name, or `unknown`.
    pub name: String,
    /// What is known of it.
    pub name_status: NameStatus,
    /// The name that DNS has for the address, verified or not; or `unknown`.
    pub reverse_name: String,
    /// What is known of that.
    pub reverse_status: NameStatus,
    /// The address; printed without brackets or `IPv6:`. The unspecified one where XCLIENT says that it is not known.
    pub address: IpAddr,
    /// The port; 0 where it is not known.
    pub port: u16,
    /// The address that the connection comes from; XCLIENT does not change it.
    pub socket_address: IpAddr,
    /// Whether the port is shown (`smtpd_client_port_logging`).
    pub show_port: bool,
}

/// What is known of a client's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameStatus {
    /// There is one, and it leads back to the address.
    Known,
    /// There is none.
    None,
    /// DNS did not answer.
    NotNow,
    /// There is one, and it leads to other addresses.
    Forged,
}

impl Peer {
    /// Stands for a name, or an address, that is not known.
    pub const UNKNOWN: &str = "unknown";

    /// A client of this verified name, or of `unknown` name.
    pub fn new(name: impl Into<String>, address: IpAddr, port: u16) -> Peer {
        let name = name.into();
        let status = match name.as_str() {
            Peer::UNKNOWN => NameStatus::None,
            _ => NameStatus::Known,
        };
        Peer {
            reverse_name: name.clone(),
            name,
            name_status: status,
            reverse_status: status,
            address,
            port,
            socket_address: address,
            show_port: false,
        }
    }

    /// `name[address]` as logs and reply texts show the client; `name[address]:port` with [`Peer::show_port`].
    pub fn name_and_address(&self) -> String {
        let (name, address) = (&self.name, self.shown_address());
        match (self.show_port, self.port) {
            (false, _) => format!("{name}[{address}]"),
            (true, 0) => format!("{name}[{address}]:{}", Peer::UNKNOWN),
            (true, port) => format!("{name}[{address}]:{port}"),
        }
    }

    /// The address, or `unknown`.
    pub fn shown_address(&self) -> String {
        match self.address.is_unspecified() {
            true => Peer::UNKNOWN.to_owned(),
            false => self.address.to_string(),
        }
    }
}

/// What this client may do that others may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// `smtpd_authorized_xclient_hosts`.
    pub xclient: bool,
    /// `smtpd_authorized_xforward_hosts`.
    pub xforward: bool,
}

/// What the caller is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Write these bytes: the replies to all commands read so far.
    Send(Bytes),
    /// Read from the client, no longer than `timeout`; then call `receive`, `eof` or `timed_out`.
    Read {
        /// How long the client may be silent.
        timeout: Duration,
    },
    /// Find the answer to this and give it to `answer`.
    Ask(Question),
    /// The next piece of the message: dots removed, lines ended by `\n`, whole or in parts.
    /// The last line always has its end.
    Content(Bytes),
    /// Wait, then go on (`smtpd_error_sleep_time`).
    Sleep(Duration),
    /// Begin TLS as the server, then call `tls_established` or `tls_failed`. Bytes that were read
    /// before the handshake are forgotten, here and by the caller (RFC 3207 section 6).
    StartTls,
    /// Close the connection. Every further step is the same.
    Close {
        /// Why it ends.
        reason: CloseReason,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client said QUIT.
    Quit,
    /// The client went away.
    LostConnection,
    /// The client was silent for too long.
    Timeout,
    /// `smtpd_hard_error_limit`.
    TooManyErrors,
    /// A verb of `smtpd_forbidden_commands`.
    ForbiddenCommand,
    /// An [`Answer::Disconnect`].
    Disconnected,
    /// [`Session::shut_down`].
    ShuttingDown,
}

/// What a session asks. Questions about a transaction come in the order of the commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The client has connected; asked once, first. A refusal takes the greeting's place, and every
    /// command but QUIT is refused from then on.
    Connect,
    /// XCLIENT: [`Session::peer`] is another client now. Forget who has logged in, unless he is named here, and answer
    /// as to `Connect`.
    Xclient {
        /// LOGIN: who has logged in elsewhere.
        login: Option<String>,
    },
    /// HELO, EHLO or LHLO.
    Helo(Helo),
    /// Whether the client has given this command too often; asked with `Settings::count_commands`, before its arguments
    /// are looked at. Continue, or a refusal.
    Count(Counted),
    /// MAIL, of good syntax and within `SIZE`. Continue: 250 2.1.0 Ok, and a transaction begins.
    Mail(MailFrom),
    /// RCPT, of good syntax. Continue: 250 2.1.5 Ok, and the recipient counts.
    Rcpt(RcptTo),
    /// DATA, with at least one recipient. Continue: 354, and `Step::Content` follows.
    Data,
    /// The message is complete. Answer with `250 2.0.0 Ok: queued as …` once it is on disk; the
    /// transaction is over whatever the answer. Not asked when the content was refused: then `Abort`.
    EndOfData {
        /// Bytes given out as content.
        size: u64,
    },
    /// A command that is none of ours, when `Settings::ask_unknown` is set: its first word. Continue: 500 5.5.2.
    Unknown(String),
    /// VRFY with an address of good syntax. Continue: 252 2.0.0 and the address.
    Vrfy(String),
    /// ETRN with its argument as given. Continue: 250 2.0.0 Queuing started.
    Etrn(String),
    /// AUTH. Continue: 235; a reply with the code 334: its text is the challenge, and an
    /// `AuthResponse` follows.
    Auth(Auth),
    /// The client's response to a challenge: base64, not decoded. Answered as `Auth` is.
    AuthResponse(Secret),
    /// AUTH was given up by the client, or its response was too long. Answer Continue.
    AuthAborted,
    /// The transaction that began with MAIL is dropped: RSET, HELO, QUIT, a lost connection, refused
    /// content. Throw away what was collected and answer Continue.
    Abort,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on with the session's own positive reply.
    Continue,
    /// Give this reply: 2xx (354 for DATA) goes on with another text, 4xx and 5xx refuse.
    Reply(Reply),
    /// LMTP at the end of the message: one reply an accepted recipient, in order.
    /// In SMTP the first one counts.
    PerRecipient(Vec<Reply>),
    /// To `Connect`: greet with this reply, whatever its code, and go on.
    Greet(Reply),
    /// Give this reply (421 or 521) and close the connection.
    Disconnect(Reply),
}

/// The commands that `smtpd_client_…_rate_limit` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// MAIL in its place.
    Mail,
    /// RCPT within a transaction.
    Rcpt,
    /// AUTH, whatever becomes of it.
    Auth,
    /// STARTTLS. What counts is the TLS session; this asks whether there may be another one.
    StartTls,
}

/// HELO, EHLO or LHLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helo {
    /// The name as the client gave it.
    pub name: String,
    /// EHLO or LHLO, not HELO.
    pub extended: bool,
}

/// AUTH (RFC 4954).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// The mechanism as the client wrote it.
    pub mechanism: String,
    /// The initial response, base64, not decoded; `=` stands for an empty one.
    pub initial: Option<Secret>,
}

/// Text that may hold a password: it has no `Display`, and its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the program that checks it and nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// MAIL FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailFrom {
    /// The sender in internal (unquoted) form; empty for `<>`.
    pub address: String,
    /// What stands between `MAIL` and the end of the line.
    pub raw: String,
    /// `SIZE=`.
    pub size: Option<u64>,
    /// `BODY=8BITMIME`.
    pub eight_bit: bool,
    /// `SMTPUTF8`.
    pub smtputf8: bool,
    /// `ENVID=`, decoded from xtext.
    pub envid: Option<String>,
    /// `RET=`.
    pub ret: Option<Ret>,
    /// `AUTH=`, as given: xtext.
    pub auth: Option<String>,
}

/// RCPT TO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcptTo {
    /// The recipient in internal (unquoted) form, as given: no source route, no comment.
    pub address: String,
    /// What stands between `RCPT` and the end of the line.
    pub raw: String,
    /// `NOTIFY=`.
    pub notify: Option<Notify>,
    /// `ORCPT=`, `type;address`, the address decoded from xtext.
    pub orcpt: Option<String>,
}
