//! For tests alone: temporary folders and real peers (MariaDB, PostgreSQL, SQLite, Dovecot, Postfix),
//! each private, on free ports of 127.0.0.1, gone when the value is dropped or the test process dies.
//!
//! Everything here panics with a sentence that names the remedy: a test cannot go on without its peer.
//! A test that needs a peer begins with `if !testkit::peers() { return; }`.
//!
//! No crate of ours is used here, so that every one of them can use this one.

pub mod account;
pub mod authority;
pub mod corpus;
pub mod dovecot;
pub mod imap;
pub mod ispmail;
pub mod lookup_server;
pub mod mariadb;
pub mod memcached;
pub mod opendkim;
pub mod port;
pub mod postfix;
pub mod postgres;
pub mod process;
pub mod program;
pub mod python_milter;
pub mod rspamd;
pub mod site;
pub mod smtp;
pub mod sqlite;
pub mod table_server;
pub mod tempdir;
pub mod tls;
pub mod wait;

pub use account::{Account, account, vmail};
pub use authority::{Authority, Certificate};
pub use dovecot::{Dovecot, DovecotOptions};
pub use imap::Imap;
pub use ispmail::IspMail;
pub use lookup_server::{Act, Answerer, LookupServer};
pub use mariadb::{MariaDb, MariaDbOptions};
pub use memcached::Memcached;
pub use opendkim::{OpenDkim, OpenDkimRole};
pub use port::{dead_port, free_port};
pub use postfix::{MailServer, Postfix, queue_id};
pub use postgres::{Postgres, PostgresOptions};
pub use program::{installed, peers, require};
pub use python_milter::PythonMilter;
pub use rspamd::{GTUBE, Rspamd, RspamdOptions};
pub use site::Site;
pub use smtp::{Smtp, send_mail, swaks};
pub use sqlite::sqlite;
pub use table_server::{Socketmap, TableServer};
pub use tempdir::TempDir;
pub use tls::Certificates;
pub use wait::{wait_for, wait_for_port};
