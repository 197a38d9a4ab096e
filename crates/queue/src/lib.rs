//! The spool and its schedule. 250 after DATA means: on disk. Only this crate writes there.
//!
//! # States of a message
//!
//! | state | where | becomes | by |
//! |---|---|---|---|
//! | incoming | memory, or `incoming/ID` when large | active or hold | [`Spool::commit`]: whole, synced, then named `queue/ID`, or with others `queue/ID.batch` |
//! | | | gone | drop of [`Incoming`]; a crash ([`Spool::open`] empties `incoming/`) |
//! | active | `queue/ID`, or in `queue/ID.batch` | deferred | [`Spool::update`] with `next_attempt` and the recipients' states |
//! | | | gone | [`Spool::remove`] when all recipients are finished |
//! | deferred | `queue/ID` with update records | active | [`Schedule`] finds it due |
//! | | | gone | [`Spool::remove`] |
//! | active, forwarded from a message that has not recorded it | | gone | a crash ([`Spool::open`]: [`Recovery::withdrawn`]) |
//! | active, deferred | | hold | [`Spool::hold`] |
//! | hold | `queue/ID`, `hold` in its envelope | active | [`Spool::release`], [`Spool::requeue`] |
//! | any committed | | gone | [`Spool::delete`] |
//! | any committed | `corrupt/ID` | | a checksum fails: [`Spool::open`], [`Spool::load`] |
//!
//! `tests/transitions.rs` has one crash test a row.
//!
//! A kill of the process loses nothing that was answered 250 and redelivers to nobody whose delivery was
//! recorded by [`Spool::update`]. A power loss loses nothing either, but updates that were not yet on the
//! disk are forgotten: their recipients get the message twice.
//!
//! # Files
//!
//! Everything lives in `<queue_directory>/postroom/`: `queue/`, `incoming/`, `corrupt/`, `lock`. A
//! Postfix's own queue beside it is not touched. [`record`] has the format of a message file.
//!
//! Small messages that arrive together share a file, `queue/ID.batch`, named after the first of them, and
//! thereby one sync. A message that is not delivered at the first attempt moves to a file of its own, so a batch lives for
//! seconds. docs/decisions/0001-spool-store.md has the figures behind this.

mod batch;
mod committer;
pub mod content;
pub mod control;
pub mod envelope;
pub mod error;
pub mod files;
mod folder_sync;
pub mod id;
mod reader;
pub mod record;
mod recovery;
mod rewrite;
pub mod schedule;
pub mod spool;
mod workers;

pub use content::{Content, ContentReader};
pub use envelope::{ClientInfo, Envelope, Recipient, RecipientState, RouteHint, Update};
pub use error::QueueError;
pub use id::QueueId;
pub use mail::dsn::{Notify, Ret};
pub use reader::{Listed, Reader};
pub use recovery::{Recovered, Recovery, SetAside};
pub use rewrite::Pieces;
pub use schedule::{Schedule, ScheduleSettings};
pub use spool::{Incoming, Message, Options, Spool};
