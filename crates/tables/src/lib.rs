//! Lookup tables: `type:name` → `lookup(key)`, which answers found, not found, or failed.
//!
//! The three answers stay apart from the driver up to the caller ([`Answer`]), so that a database
//! that is down never turns into "no such user".
//!
//! | module | holds |
//! |---|---|
//! | `open` | [`Tables`], [`Table`], [`TableList`]: from `type:name` to a table |
//! | `sql` | what `mysql:`, `pgsql:` and `sqlite:` share: templates, filters, limits, pool, failover; below it the three drivers |
//! | `text`, `source` | `hash:`, `btree:`, `texthash:`, read from their source text |
//! | `lmdb` | `lmdb:`, read and written |
//! | `pattern`, `cidr` | `regexp:`, `pcre:`, `cidr:` |
//! | `simple` | `inline:`, `static:`, `environ:`, `fail:` |
//! | `accounts` | `unix:`, the accounts of the machine |
//! | `lists` | [`MatchList`] (domains) and [`CidrList`] (networks) |
//! | `parameters` | a table's settings, from its file or from main.cf |

mod accounts;
mod base64;
mod cidr;
mod error;
mod lines;
mod lists;
mod lmdb;
mod open;
mod option_file;
mod parameters;
mod pattern;
mod simple;
mod source;
mod spec;
mod sql;
mod text;

pub use base64::{base64, base64_decoded};
pub use cidr::Network;
pub use error::{ErrorKind, TableError};
pub use lists::{Check, CidrList, MatchList};
pub use lmdb::{BAD_KEY_SIZE, BadKeySize, Keep, LmdbEditor, Nulls, lmdb_path};
pub use open::{Open, Table, TableList, Tables};
pub use source::{NoEntry, SourceLine, alias_entry, file_content, map_entry, shown, source_lines};
pub use spec::{TYPES, split_specs};
pub use text::{Format, Reading, SourceProblem, TextTable};

/// Found (`Some`, possibly empty), not found (`None`), or failed.
pub type Answer = Result<Option<String>, TableError>;

/// Key and value as they are stored, for listings.
pub type Entry = (Vec<u8>, Vec<u8>);
