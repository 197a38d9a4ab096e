//! Delivery agents, and the reports of what they could not deliver.
//!
//! [`Agents`] holds one agent for each delivery service of master.cf. The scheduler groups the
//! recipients of a message by transport and nexthop, hands each group over as a [`Request`], and gets
//! an [`Outcome`] for each recipient, in the same order.
//!
//! | command in master.cf | module | as |
//! |---|---|---|
//! | `virtual` | [`mailbox`] | virtual(8): Maildir and mbox |
//! | `lmtp`, `smtp`, `relay` | [`client`] | smtp(8) |
//! | `pipe` | [`pipe`] | pipe(8) |
//! | `local` | [`local`] | local(8): aliases, `.forward`, mailboxes of the machine's users |
//! | `error`, `retry`, `discard` | [`notice`] | error(8), discard(8) |
//!
//! [`dsn`] composes delivery status notifications (RFC 3464).

pub mod agents;
pub mod client;
pub mod command;
pub mod content;
pub mod dsn;
pub mod local;
pub mod mailbox;
pub mod notice;
pub mod pipe;
pub mod request;

pub use agents::{Agents, Locate};
pub use local::{Addresses, Asked, Place};
pub use request::{Expanded, Forward, Line, Message, Outcome, Rcpt, Remote, Request, Sasl, Status};
