//! Lookup tables: `type:name` → `lookup(key)`, which answers found, not found, or failed.
//!
//! The three answers stay apart from the driver up to the caller ([`Answer`]), so that a database
//! that is down never turns into "no such user".
//!
//! | module | holds |
//! |---|---|
//! | `open` | [`Tables`], [`Table`], [`TableList`]: from `type:name` to a table |
//! | `sql` | what `mysql:`, `pgsql:` and `sqlite:` share: templates, filters, limits, pool, failover; below it the three drivers |
//! | `sql::inspect` | [`Source`]: a database table as `postroom check` sees it, with read-only sessions |
//! | `text` | `hash:`, `btree:`, `texthash:`, read from their source text |
//! | `pattern`, `cidr` | `regexp:`, `pcre:`, `cidr:` |
//! | `simple` | `inline:`, `static:`, `environ:`, `fail:` |
//! | `accounts` | `unix:`, the accounts of the machine |
//! | `lists` | [`MatchList`] (domains) and [`CidrList`] (networks) |
//! | `parameters` | a table's settings, from its file or from main.cf |

mod accounts;
mod cidr;
mod error;
mod lines;
mod lists;
mod open;
mod option_file;
mod parameters;
mod pattern;
mod simple;
mod spec;
mod sql;
mod text;

pub use cidr::Network;
pub use error::{ErrorKind, TableError};
pub use lists::{Check, CidrList, MatchList};
pub use open::{Open, Table, TableList, Tables};
pub use spec::{TYPES, split_specs};
pub use sql::inspect::{Dialect, Row, Session, Source};
pub use text::{SourceProblem, TextTable};

/// Found (`Some`, possibly empty), not found (`None`), or failed.
pub type Answer = Result<Option<String>, TableError>;
