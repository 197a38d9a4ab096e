//! Lookup tables: `type:name` → `lookup(key)`, which answers found, not found, or failed.
//!
//! The three answers stay apart from the driver up to the caller ([`Answer`]), so that a database
//! that is down never turns into "no such user".
//!
//! | module | holds |
//! |---|---|
//! | `open` | [`Tables`]: from `type:name` to a table |
//! | `table` | [`Table`], [`TableList`]: the lookups |
//! | `sql` | what `mysql:`, `pgsql:` and `sqlite:` share: templates, filters, limits, pool, failover; below it the three drivers |
//! | `sql::inspect` | [`Source`]: a database table as `postroom check` sees it, with read-only sessions |
//! | `front` | what stands in front of tables on servers: shared queries, the cache |
//! | `text`, `source` | `hash:`, `btree:`, `texthash:`, read from their source text |
//! | `index` | what a `.db` beside a source text says |
//! | `lmdb` | `lmdb:`, read and written |
//! | `pattern`, `cidr` | `regexp:`, `pcre:`, `cidr:` |
//! | `posix` | the regular expressions of `regexp:` |
//! | `remote` | the clients of `socketmap:`, `tcp:`, `memcache:` |
//! | `simple` | `inline:`, `static:`, `environ:`, `fail:` |
//! | `accounts` | `unix:`, the accounts of the machine |
//! | [`socketmap`], [`tcp_table`] | the two protocols that tables are served by |
//! | `lists` | [`MatchList`] (domains) and [`CidrList`] (networks) |
//! | `parameters` | a table's settings, from its file or from main.cf |
//! | `statistics` | what was looked up, counted |

mod accounts;
mod base64;
mod cidr;
mod error;
mod front;
mod index;
mod lines;
mod lists;
mod lmdb;
mod open;
mod option_file;
mod parameters;
mod pattern;
mod posix;
mod remote;
mod simple;
pub mod socketmap;
mod source;
mod spec;
mod sql;
mod statistics;
mod table;
pub mod tcp_table;
mod text;

pub use base64::{base64, base64_decoded};
pub use cidr::Network;
pub use error::{ErrorKind, TableError};
pub use lines::shown;
pub use lists::{Check, CidrList, MatchList};
pub use lmdb::{BAD_KEY_SIZE, BadKeySize, Keep, LmdbEditor, Nulls, lmdb_path};
pub use open::{Open, Tables};
pub use source::{NoEntry, SourceLine, alias_entry, file_content, map_entry, source_lines};
pub use spec::{TYPES, split_specs};
pub use sql::inspect::{Dialect, Row, Session, Source};
pub use statistics::{LATENCY_BOUNDS, Latency, PoolStatistics, Statistics, TableStatistics};
pub use table::{Table, TableList};
pub use text::{Format, Reading, SourceProblem, TextTable};

/// The target of warnings that Postfix does not have. Its tools print none of them, so ours do with `-v` alone.
pub const ADVICE: &str = "postroom_tables::advice";

/// Found (`Some`, possibly empty), not found (`None`), or failed.
pub type Answer = Result<Option<String>, TableError>;

/// Key and value as they are stored, for listings.
pub type Entry = (Vec<u8>, Vec<u8>);
