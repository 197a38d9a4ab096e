//! `main.cf`, `master.cf` and table files: read, expanded, typed, and edited in place.
//!
//! The crate keeps two promises. A setting means what postconf(5) and master(5) say it means, and
//! every complaint names the file, the line, the parameter and the remedy. It reads and writes the
//! configuration files and nothing else; facts of the machine come in as an [`Environment`].
//!
//! | module | holds |
//! |---|---|
//! | [`Config`] | main.cf + master.cf + `-o` overrides, with typed getters |
//! | [`params`] | one row a parameter: name, type, default, honoured or not |
//! | [`expand`] | `$name`, `${name?text}`, `${{a} == {b} ? {x} : {y}}` |
//! | [`master`] | the services of master.cf |
//! | [`table_file`] | `.cf` files of lookup tables, where `$` is an ordinary character |
//! | [`edit`] | `postconf -e`, `-X`, `-#`: changes that keep every other byte |
//! | [`master_edit`] | `postconf -M`, `-F`, `-P` with `-e`, `-X`, `-#` |
//! | [`audit`] | which names a configuration knows; what nothing uses or defines |
//! | [`effects`] | what is honoured of it, what is harmless, what is missing |
//! | [`show`] | what `postconf` prints |

pub mod audit;
mod config;
pub mod edit;
pub mod effects;
mod environment;
mod error;
pub mod expand;
mod lines;
pub mod main_cf;
pub mod master;
pub mod master_edit;
pub mod params;
pub mod show;
pub mod table_file;
mod values;

pub use config::Config;
pub use environment::{Environment, Interface};
pub use error::{ConfigError, Mistake, Origin};
pub use lines::split_name_value;
pub use values::{parse_time, split_list};
