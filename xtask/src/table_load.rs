//! `cargo xtask table-load`: ten thousand connections ask the table server at once while MariaDB allows fifty; then, on
//! a few connections, as many lookups as wanted, to see that memory stays what it is.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use testkit::table_server::crowd;
use testkit::{IspMail, MariaDb, MariaDbOptions, Site, Socketmap, TableServer, free_port};

use crate::options::{self, Options};

const HELP: &str = "usage: cargo xtask table-load [--connections 10000] [--rounds 5] [--lookups 0] [--postroom BINARY]
Starts a MariaDB with max_connections = 50 and `postroom tables serve`, connects (half by TCP, half by a unix socket),
and has every connection ask at the same time, in rounds. --lookups: so many more on 50 connections, with the memory
(PSS) printed ten times. Fails when a reply is wrong, or MariaDB had more connections than postroom_table_connections.";

/// What MariaDB allows, and what Postroom is configured to use (the default of `postroom_table_connections`).
const ALLOWED: u32 = 50;
const CONFIGURED: u32 = 10;

/// Runs the chore.
pub fn run(words: &[&str]) -> Result<ExitCode, String> {
    let options = Options::parse(
        words,
        &["connections", "rounds", "lookups", "postroom"],
        HELP,
    )?;
    let connections: usize = options.number("connections", 10_000)?;
    let rounds: usize = options.number("rounds", 5)?;
    let lookups: usize = options.number("lookups", 0)?;
    let binary = options::postroom(&options)?;
    raise_file_limit()?;
    let rig = Rig::start(&binary);
    println!("memory at the start         {:6.1} MB", rig.memory());

    let begin = Instant::now();
    let wrong = rig.ask(connections, rounds);
    let seconds = begin.elapsed().as_secs_f64();
    let count = connections * rounds;
    println!("connections at once         {connections}");
    println!("lookups, wrong or failed    {count}, {}", wrong.len());
    println!("time, connecting included   {seconds:6.1} s");
    println!("memory afterwards           {:6.1} MB", rig.memory());
    for reply in &wrong {
        println!("  {reply}");
    }
    let mut good = wrong.is_empty();
    if lookups > 0 {
        good &= rig.ask_many(lookups);
    }
    let most = rig.most_connections();
    println!(
        "connections of MariaDB      {most} at most, one of them this program's; {ALLOWED} allowed"
    );
    good &= most <= CONFIGURED + 1;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Rig {
    database: MariaDb,
    port: u16,
    site: Site,
    server: TableServer,
}

impl Rig {
    fn start(binary: &Path) -> Rig {
        let database = MariaDb::with(MariaDbOptions {
            max_connections: ALLOWED,
            ..Default::default()
        });
        database.create_db("mail");
        database.create_user("reader", "secret", "mail");
        database.run_sql("mail", &IspMail::sample().sql());
        let files = IspMail::table_files(&database.host(), "reader", "secret", "mail");
        let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
        let site = Site::new(&IspMail::main_cf("mysql", "@CONF@"), "", &files);
        let port = free_port();
        let listen = format!("inet:127.0.0.1:{port}, unix:private/postroom");
        let server = TableServer::start(binary, &site, &["--listen", &listen]);
        Rig {
            database,
            port,
            site,
            server,
        }
    }

    fn ask(&self, connections: usize, rounds: usize) -> Vec<String> {
        let socket = self.site.spool().join("private/postroom");
        let connect = |n: usize| match n % 2 {
            0 => Socketmap::tcp(self.port),
            _ => Socketmap::unix(&socket),
        };
        crowd(connections, rounds, connect, question)
    }

    /// Whether all replies were right.
    fn ask_many(&self, lookups: usize) -> bool {
        const CONNECTIONS: usize = 50;
        let begin = Instant::now();
        let mut good = true;
        for tenth in 1..=10 {
            good &= self.ask(CONNECTIONS, lookups / 10 / CONNECTIONS).is_empty();
            println!(
                "memory after {:9} more {:6.1} MB",
                lookups / 10 * tenth,
                self.memory()
            );
        }
        println!(
            "lookups a second            {:6.0}",
            lookups as f64 / begin.elapsed().as_secs_f64()
        );
        good
    }

    fn memory(&self) -> f64 {
        self.server.memory() as f64 / f64::from(1 << 20)
    }

    fn most_connections(&self) -> u32 {
        let row = self
            .database
            .run_sql("", "SHOW STATUS LIKE 'Max_used_connections'");
        let most = row
            .split_whitespace()
            .nth(1)
            .and_then(|most| most.parse().ok());
        most.expect("MariaDB counts its connections")
    }
}

/// The n-th lookup: name, key, reply. Every table, found and not found; each key differs where it can.
fn question(n: usize) -> (String, String, String) {
    let (name, key, reply) = match n % 6 {
        0 => (
            "virtual_mailbox_domains",
            "example.org".into(),
            "OK 1".into(),
        ),
        1 => (
            "virtual_mailbox_domains",
            format!("d{n}.example"),
            "NOTFOUND ".into(),
        ),
        2 => (
            "virtual_mailbox_maps",
            "john@example.org".into(),
            "OK 1".into(),
        ),
        3 => (
            "virtual_alias_maps",
            format!("u{n}@catch.example"),
            "OK carol@catch.example".into(),
        ),
        4 => (
            "virtual_alias_maps",
            format!("u{n}@example.org"),
            "NOTFOUND ".into(),
        ),
        _ => (
            "aliases.cf",
            "jack@example.org".into(),
            "OK john@example.org".to_owned(),
        ),
    };
    (name.to_owned(), key, reply)
}

fn raise_file_limit() -> Result<(), String> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .map_err(|error| format!("the limit of open files: {error}"))
}
