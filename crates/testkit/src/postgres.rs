//! A private PostgreSQL server.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::{Process, run, run_with_input};
use crate::{Certificate, TempDir, account, free_port, require, tempdir};

/// The superuser's name; his password is [`ADMIN_PASSWORD`].
pub const ADMIN: &str = "postgres";
pub const ADMIN_PASSWORD: &str = "pgroot";

/// A running (or stopped) server, UTF8 and C locale, on 127.0.0.1:`port` and in `socket_dir`.
/// Passwords are asked for everywhere (scram-sha-256).
#[derive(Debug)]
pub struct Postgres {
    pub port: u16,
    /// Holds `.s.PGSQL.PORT`.
    pub socket_dir: PathBuf,
    options: PostgresOptions,
    process: Option<Process>,
    dir: TempDir,
}

/// What the server is started with; `Default` is a plain server without TLS.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// The server's certificate, and the CA for those of clients.
    pub tls: Option<(Certificate, PathBuf)>,
    /// The lines of pg_hba.conf that come first.
    pub hba: String,
}

impl Postgres {
    pub fn start() -> Postgres {
        Postgres::with(PostgresOptions::default())
    }

    pub fn with(options: PostgresOptions) -> Postgres {
        require("psql");
        let dir = TempDir::new();
        tempdir::copy_tree(&template(), &dir.join("data"));
        let socket_dir = dir.folder("run", 0o755, &account("postgres"));
        let port = free_port();
        let standard = dir
            .folder("run5432", 0o755, &account("postgres"))
            .join(".s.PGSQL.5432");
        std::os::unix::fs::symlink(socket_dir.join(format!(".s.PGSQL.{port}")), standard)
            .expect("the folder is new");
        if let Some((certificate, ca)) = &options.tls {
            for (from, name) in [
                (&certificate.cert, "server.crt"),
                (&certificate.key, "server.key"),
                (ca, "ca.crt"),
            ] {
                let to = dir.join("data").join(name);
                std::fs::copy(from, &to).unwrap_or_else(|error| panic!("{name}: {error}"));
                tempdir::own(&to, &account("postgres"));
                tempdir::set_mode(&to, 0o600);
            }
        }
        let hba = dir.join("data/pg_hba.conf");
        let usual = std::fs::read_to_string(&hba).expect("initdb made it");
        std::fs::write(&hba, format!("{}\n{usual}", options.hba)).expect("the folder is ours");
        let mut server = Postgres {
            port,
            socket_dir,
            options,
            process: None,
            dir,
        };
        server.start_again();
        server
    }

    /// One server for all tests of this process; give every test its own database. It ends with the process.
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Postgres::start)
    }

    /// Starts the stopped server: same port, same socket, same data.
    pub fn start_again(&mut self) {
        if self.process.is_some() {
            return;
        }
        let mut command = Command::new(require("postgres"));
        command.arg("-D").arg(self.dir.join("data"));
        let sockets = format!("unix_socket_directories={}", self.socket_dir.display());
        for setting in [
            format!("port={}", self.port).as_str(),
            "listen_addresses=127.0.0.1",
            &sockets,
            "fsync=off",
            "lc_messages=C",
            "shared_buffers=32MB",
        ] {
            command.args(["-c", setting]);
        }
        if self.options.tls.is_some() {
            command.args(["-c", "ssl=on", "-c", "ssl_ca_file=ca.crt"]);
        }
        account("postgres").apply(&mut command);
        command.current_dir("/");
        let log = self.dir.join("postgres.log");
        let mut process = Process::spawn(command, &log, self.dir.path(), Signal::SIGINT);
        process.wait_ready("postgres", Duration::from_secs(60), || {
            self.try_sql("postgres", "SELECT 1").is_ok()
        });
        self.process = Some(process);
    }

    /// Fast shutdown: open connections are closed by the server.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
    }

    /// SIGKILL to all its processes.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        let _ = std::fs::remove_file(self.dir.join("data/postmaster.pid"));
        let _ = std::fs::remove_file(self.socket_dir.join(format!(".s.PGSQL.{}", self.port)));
    }

    /// `127.0.0.1:PORT`, as the `hosts` line of a table file wants it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A folder whose `.s.PGSQL.5432` leads to the server: `unix:` hosts of a table file carry no port.
    pub fn socket_dir_5432(&self) -> PathBuf {
        self.dir.join("run5432")
    }

    /// Runs statements as the superuser in `db`. Rows come back as lines, columns separated by tabs, NULL as "".
    /// Panics on a SQL error.
    pub fn run_sql(&self, db: &str, sql: &str) -> String {
        self.try_sql(db, sql)
            .unwrap_or_else(|error| panic!("{error}\nin: {sql}"))
    }

    /// Like [`Postgres::run_sql`]; a failure is psql's message.
    pub fn try_sql(&self, db: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new(require("psql"));
        command.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-F",
            "\t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            ADMIN,
        ]);
        command.args(["-p", &self.port.to_string(), "-d", db, "-f", "-"]);
        command
            .env("PGPASSWORD", ADMIN_PASSWORD)
            .env("PGOPTIONS", "-c client_min_messages=warning");
        command.env("PGCLIENTENCODING", "UTF8");
        let output = run_with_input(&mut command, sql.as_bytes());
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned())
        }
    }

    /// A new, empty database (UTF8, C locale); an old one of this name is dropped.
    pub fn create_db(&self, name: &str) {
        self.run_sql(
            "postgres",
            &format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE);"),
        );
        self.run_sql(
            "postgres",
            &format!("CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';"),
        );
    }

    /// A role that may read and write the tables which `db` has now and gets later.
    pub fn create_user(&self, user: &str, password: &str, db: &str) {
        let password = password.replace('\'', "''");
        let sql = format!(
            "DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname='{user}') THEN CREATE ROLE \"{user}\" LOGIN; END IF; END $$;
             SET standard_conforming_strings = on; ALTER ROLE \"{user}\" PASSWORD '{password}';
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO \"{user}\";
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO \"{user}\";"
        );
        self.run_sql(db, &sql);
    }

    /// Writes every statement to the server's log ([`Postgres::log`]), or stops doing so.
    pub fn log_statements(&self, on: bool) {
        let value = if on { "all" } else { "none" };
        self.run_sql(
            "postgres",
            &format!("ALTER SYSTEM SET log_statement = '{value}';"),
        );
        self.run_sql("postgres", "SELECT pg_reload_conf();");
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.dir.join("postgres.log"))
    }
}

/// An initialised data folder, made once per machine and version.
fn template() -> PathBuf {
    let output = run(Command::new(require("initdb")).arg("--version"));
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = version
        .split_whitespace()
        .nth(2)
        .unwrap_or("unknown")
        .to_owned();
    tempdir::cached(&format!("postgres-{version}"), |folder| {
        let owner = account("postgres");
        tempdir::own(folder, &owner);
        tempdir::set_mode(folder, 0o700);
        let password = TempDir::new();
        let password = (
            password.write("password", format!("{ADMIN_PASSWORD}\n")),
            password,
        );
        let mut command = Command::new(require("initdb"));
        command.args([
            "-E",
            "UTF8",
            "--locale=C",
            "-A",
            "scram-sha-256",
            "-N",
            "-U",
            ADMIN,
            "-D",
        ]);
        command.arg(folder).arg("--pwfile").arg(&password.0);
        owner.apply(&mut command);
        run(command.current_dir("/"));
    })
}
