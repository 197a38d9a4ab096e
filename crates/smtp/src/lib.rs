//! SMTP and LMTP, server and client, as state machines over bytes.
//!
//! No socket, no clock, no table: bytes and the time go in, steps come out. When a session needs a
//! fact (may this client send to that recipient?) it returns a question and is given the answer.
//!
//! - [`server::Session`]: the receiving side (RFC 5321, RFC 2033), with Postfix's reply texts;
//! - [`client::Session`]: the sending side, one machine for SMTP and LMTP;
//! - [`Reply`] and [`reply`]: replies as values, and every fixed text of the server in one place;
//! - [`address`]: the address of `MAIL FROM:` and `RCPT TO:` as Postfix reads it.

pub mod address;
pub mod client;
pub mod reply;
pub mod server;
mod xtext;

pub use mail::dsn::{Notify, Ret};
pub use mail::status::EnhancedCode;
pub use reply::Reply;

/// Which of the two protocols a session speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// RFC 5321: `HELO`/`EHLO`, one reply at the end of the message.
    #[default]
    Smtp,
    /// RFC 2033: `LHLO`, one reply a recipient at the end of the message.
    Lmtp,
}
