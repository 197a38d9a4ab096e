//! The socketmap protocol of socketmap_table(5), both sides, without sockets: a request is
//! `name SP key`, a reply `status SP text`, each in one netstring.
//!
//! [`frame`] cuts a stream of bytes into netstrings, [`message`] says what is in them. Names, keys
//! and values are bytes: nothing here asks for UTF-8.

pub mod frame;
pub mod message;

pub use frame::{FrameError, Frames, frame};
pub use message::{Reply, Request, Status};

/// What a request may have in its netstring. Postfix' client sets itself no limit.
pub const REQUEST_LIMIT: usize = 10_000;

/// What a reply may have in its netstring: Postfix' client gives up on a longer one.
pub const REPLY_LIMIT: usize = 100_000;
