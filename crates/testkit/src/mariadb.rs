//! A private MariaDB server.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::{Process, run, run_with_input};
use crate::{TempDir, account, free_port, require, tempdir};

/// What the server is started with; `Default` is a plain utf8mb4 server.
#[derive(Clone, Debug)]
pub struct MariaDbOptions {
    /// The global `sql_mode`; None: the server's default.
    pub sql_mode: Option<String>,
    pub character_set: String,
    /// None: the character set's default collation.
    pub collation: Option<String>,
    pub max_connections: u32,
    /// Commits reach the disk (`innodb_flush_log_at_trx_commit = 1`); off for quick tests.
    pub durable: bool,
    /// Further arguments of mariadbd, for example `--innodb-buffer-pool-size=256M`.
    pub extra: Vec<String>,
}

impl Default for MariaDbOptions {
    fn default() -> Self {
        MariaDbOptions {
            sql_mode: None,
            character_set: "utf8mb4".into(),
            collation: Some("utf8mb4_general_ci".into()),
            max_connections: 151,
            durable: false,
            extra: Vec::new(),
        }
    }
}

/// A running (or stopped, see [`MariaDb::stop`]) server on 127.0.0.1:`port` and on a unix socket.
/// The administrator is `root` on the socket, without a password.
#[derive(Debug)]
pub struct MariaDb {
    pub port: u16,
    pub socket: PathBuf,
    options: MariaDbOptions,
    process: Option<Process>,
    dir: TempDir,
}

impl MariaDb {
    pub fn start() -> MariaDb {
        MariaDb::with(MariaDbOptions::default())
    }

    pub fn with(options: MariaDbOptions) -> MariaDb {
        require("mariadb");
        let dir = TempDir::new();
        let owner = account("mysql");
        tempdir::copy_tree(&template(), &dir.join("data"));
        dir.folder("run", 0o755, &owner);
        dir.folder("tmp", 0o700, &owner);
        let mut server = MariaDb {
            port: free_port(),
            socket: dir.join("run/mysql.sock"),
            options,
            process: None,
            dir,
        };
        server.start_again();
        server
    }

    /// One server for all tests of this process; give every test its own database. It ends with the process.
    pub fn shared() -> &'static MariaDb {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(MariaDb::start)
    }

    /// Starts the stopped server: same port, same socket, same data.
    pub fn start_again(&mut self) {
        if self.process.is_some() {
            return;
        }
        let options = &self.options;
        let mut command = Command::new(require("mariadbd"));
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.dir.join("data").display()));
        command.arg(format!("--socket={}", self.socket.display()));
        command.arg(format!("--tmpdir={}", self.dir.join("tmp").display()));
        command.arg(format!("--pid-file={}", self.dir.join("run/pid").display()));
        command.arg(format!("--port={}", self.port));
        command.arg(format!("--character-set-server={}", options.character_set));
        command.arg(format!("--max-connections={}", options.max_connections));
        command.args(SERVER_ARGUMENTS);
        if let Some(collation) = &options.collation {
            command.arg(format!("--collation-server={collation}"));
        }
        if let Some(mode) = &options.sql_mode {
            command.arg(format!("--sql-mode={mode}"));
        }
        let flush = if options.durable { 1 } else { 0 };
        command.arg(format!("--innodb-flush-log-at-trx-commit={flush}"));
        command.args(&options.extra);
        account("mysql").apply(&mut command);
        command.current_dir("/");
        let log = self.dir.join("mariadbd.log");
        let mut process = Process::spawn(command, &log, self.dir.path(), Signal::SIGTERM);
        process.wait_ready("mariadbd", Duration::from_secs(60), || {
            std::os::unix::net::UnixStream::connect(&self.socket).is_ok()
        });
        self.process = Some(process);
        self.run_sql("", "SELECT 1");
    }

    /// Orderly shutdown; connections to the port are refused until [`MariaDb::start_again`].
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Stops the server where it stands (SIGSTOP): connections are accepted by the kernel, nothing is answered.
    pub fn freeze(&self) {
        self.process
            .iter()
            .for_each(|process| process.signal(Signal::SIGSTOP));
    }

    /// Ends [`MariaDb::freeze`].
    pub fn thaw(&self) {
        self.process
            .iter()
            .for_each(|process| process.signal(Signal::SIGCONT));
    }

    /// The server's process id, None while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// `127.0.0.1:PORT`, as the `hosts` line of a table file wants it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs one or more statements as root in `db` ("" = none). Rows come back as lines, columns separated by
    /// tabs, no header, no escaping, NULL as `NULL`. Panics on a SQL error.
    pub fn run_sql(&self, db: &str, sql: &str) -> String {
        self.try_sql(db, sql)
            .unwrap_or_else(|error| panic!("{error}\nin: {sql}"))
    }

    /// Like [`MariaDb::run_sql`]; a failure is the client's message.
    pub fn try_sql(&self, db: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new(require("mariadb"));
        command.args([
            "--no-defaults",
            "-uroot",
            "-N",
            "-B",
            "--raw",
            "--default-character-set=utf8mb4",
            "-S",
        ]);
        command.arg(&self.socket);
        if !db.is_empty() {
            command.arg(db);
        }
        let output = run_with_input(&mut command, sql.as_bytes());
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned())
        }
    }

    /// A new, empty database with the server's character set; an old one of this name is dropped.
    pub fn create_db(&self, name: &str) {
        self.run_sql(
            "",
            &format!("DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}`"),
        );
    }

    /// A user who may read, write and execute in `db`, from every host and over the socket. A user who exists
    /// keeps his other databases and gets this password.
    pub fn create_user(&self, user: &str, password: &str, db: &str) {
        let password = password.replace('\\', "\\\\").replace('\'', "\\'");
        let grants: Vec<String> = ["%", "localhost"]
            .iter()
            .map(|host| {
                format!(
                    "CREATE USER IF NOT EXISTS '{user}'@'{host}'; ALTER USER '{user}'@'{host}' IDENTIFIED BY '{password}';
                     GRANT SELECT, INSERT, UPDATE, DELETE, EXECUTE ON `{db}`.* TO '{user}'@'{host}';"
                )
            })
            .collect();
        self.run_sql("", &format!("SET sql_mode=''; {}", grants.concat()));
    }

    /// Switches the general log (to a table) on or off and empties it.
    pub fn general_log(&self, on: bool) {
        let on = if on { "ON" } else { "OFF" };
        self.run_sql(
            "",
            &format!("SET GLOBAL log_output='TABLE'; SET GLOBAL general_log={on}; TRUNCATE mysql.general_log"),
        );
    }

    /// The statements that reached the server from `user` since the log was switched on or last taken, oldest
    /// first, line ends replaced by spaces; both plain and prepared ones (as executed). Empties the log.
    pub fn take_statements(&self, user: &str) -> Vec<String> {
        let sql = format!(
            "SELECT REPLACE(REPLACE(CONVERT(argument USING utf8mb4),'\\n',' '),'\\r',' ') FROM mysql.general_log \
             WHERE command_type IN ('Query','Execute') AND user_host LIKE '{user}[%'; TRUNCATE mysql.general_log"
        );
        self.run_sql("", &sql).lines().map(str::to_owned).collect()
    }

    /// The same statements byte for byte; but the log has `?` for a character of four bytes.
    pub fn take_statement_bytes(&self, user: &str) -> Vec<Vec<u8>> {
        let sql = format!(
            "SELECT HEX(argument) FROM mysql.general_log \
             WHERE command_type IN ('Query','Execute') AND user_host LIKE '{user}[%'; TRUNCATE mysql.general_log"
        );
        let bytes = |hex: &str| -> Vec<u8> {
            let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16);
            let all = (0..hex.len() / 2).map(|at| digits(2 * at).expect("HEX gives digits"));
            all.collect()
        };
        self.run_sql("", &sql).lines().map(bytes).collect()
    }

    /// A counter of `SHOW GLOBAL STATUS`: `Questions`, `Com_select`, `Connections`, `Threads_connected`, …
    /// Asking costs one question and one connection itself.
    pub fn status(&self, counter: &str) -> u64 {
        let row = self.run_sql("", &format!("SHOW GLOBAL STATUS LIKE '{counter}'"));
        let value = row
            .split_whitespace()
            .nth(1)
            .and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("MariaDB has no status counter {counter}: {row:?}"))
    }

    /// What the server wrote to its error log.
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.dir.join("mariadbd.log"))
    }
}

const SERVER_ARGUMENTS: &[&str] = &[
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--max-connect-errors=1000000",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=8M",
    "--performance-schema=OFF",
    "--lower-case-table-names=0",
];

/// An initialised data folder, made once per machine and version.
fn template() -> PathBuf {
    let output = run(Command::new(require("mariadbd")).args(["--no-defaults", "--version"]));
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let version: String = version
        .split_whitespace()
        .skip_while(|word| *word != "Ver")
        .nth(1)
        .unwrap_or("unknown")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || ".-".contains(*c))
        .collect();
    tempdir::cached(&format!("mariadb-{version}"), |folder| {
        let owner = account("mysql");
        tempdir::own(folder, &owner);
        let mut command = Command::new(require("mariadb-install-db"));
        command.args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]);
        command.args(["--innodb-log-file-size=8M", "--skip-name-resolve"]);
        command.arg(format!("--datadir={}", folder.display()));
        owner.apply(&mut command);
        run(command.current_dir("/"));
    })
}
