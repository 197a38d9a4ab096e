//! What is in the database and in the configuration, as a whole: the findings of `postroom check`.
//!
//! Lookups ask for one key. This crate reads all rows that the configured queries can give, finds what
//! looks wrong among them, and lets the router that the server uses confirm it, so that a finding
//! about an address is a fact about mail. It changes nothing: its sessions with databases are
//! read-only.
//!
//! | module | holds |
//! |---|---|
//! | `finding` | [`Finding`], [`Report`]: severity, place, consequence, remedy; as text and as JSON |
//! | `check` | [`check`]: everything in turn |
//! | `sources` | the tables that main.cf and master.cf name, and where their parameters stand |
//! | `select` | reads `SELECT … FROM … WHERE column = '%s'`, and turns it into one that lists all keys |
//! | `scan` | its tokens |
//! | `contents` | the rows of a table, and lookups among them without the database |
//! | `settings` | mistakes in main.cf and master.cf; settings without effect |
//! | `files` | modes and owners of files with secrets; sockets outside a chroot |
//! | `database` | sessions, rejected queries, users that may write |
//! | `plan` | lookups that read a whole table (EXPLAIN) |
//! | `rows` | keys that no lookup finds, or that another address finds too; stray spaces |
//! | `domains` | classes of domains, postmaster |
//! | `addresses`, `circles` | mailboxes and aliases: what hides what, what leads nowhere, or round in circles |

mod addresses;
mod check;
mod circles;
mod contents;
mod database;
mod domains;
mod files;
mod finding;
mod plan;
mod rows;
mod scan;
mod select;
mod settings;
mod sources;

pub use check::{Options, check};
pub use finding::{Finding, Fix, Looked, Place, Report, Severity};
pub use settings::mistaken;
