//! The bench itself: one MariaDB, one Dovecot, and a mail server that is started for each run.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testkit::{
    Certificates, Dovecot, IspMail, MailServer, MariaDb, MariaDbOptions, Postfix, Site, TempDir,
};

use super::Sample;
use super::scenario::{Access, Delivery, Recipients, Scenario};
use crate::load::{self, Load};
use crate::options::Server;
use crate::process_group;
use crate::wire;

const USERS: usize = 100;
const ALIASES: usize = 20;
const DB: &str = "mailserver";
const PASSWORD: &str = "bench-secret";
const CERTIFICATE: &str = "mail";

/// AUTH PLAIN of user0@example.org, whose password is `secret`: base64.
const LOGIN: &str = "AHVzZXIwQGV4YW1wbGUub3JnAHNlY3JldA==";

/// Postfix's source of random numbers and session keys; nothing else needs it.
const TLSMGR: &str = "tlsmgr unix - - n 1000? 1 tlsmgr\n";

/// How long after the last message the last delivery may come.
const DRAIN: Duration = Duration::from_secs(120);

pub struct Rig {
    mariadb: MariaDb,
    dovecot: Dovecot,
    certificates: Certificates,
    binary: PathBuf,
    /// A further main.cf line.
    config: String,
    /// The servers of the runs so far, stopped, with their folders.
    used: Mutex<Vec<MailServer>>,
    /// What was in Dovecot's mailboxes.
    old_mail: TempDir,
}

impl Rig {
    pub fn start(binary: PathBuf, config: &str) -> Rig {
        let mail = database();
        // Enough connections for Postfix, whose every process has its own; the default of 151 would make it fail.
        let mariadb = MariaDb::with(MariaDbOptions {
            max_connections: 2000,
            durable: true,
            extra: vec!["--innodb-buffer-pool-size=256M".into()],
            ..Default::default()
        });
        mariadb.create_db(DB);
        mariadb.run_sql(DB, &mail.sql());
        mariadb.create_user("mailuser", PASSWORD, DB);
        let users: Vec<(&str, &str)> = mail
            .users
            .iter()
            .map(|(user, word)| (user.as_str(), word.as_str()))
            .collect();
        let certificates = Certificates::new();
        certificates.self_signed(CERTIFICATE, "prime256v1", "/CN=mail.host.example");
        Rig {
            certificates,
            mariadb,
            dovecot: Dovecot::start(&users),
            binary,
            config: config.to_owned(),
            used: Mutex::default(),
            old_mail: TempDir::new(),
        }
    }

    /// Starts the server, warms it up, runs the scenario, waits for the last delivery, stops the server.
    pub fn measure(&self, server: Server, scenario: &Scenario, duration: Duration) -> Sample {
        let mut mail_server = self.server(server, scenario.delivery, &self.access(scenario.access));
        let boxes = match scenario.delivery {
            Delivery::Lmtp => self.dovecot.vmail_dir.clone(),
            _ => mail_server.site.mail(),
        };
        if scenario.delivery == Delivery::Lmtp {
            self.prime_dovecot();
        }
        let load = self.load(&mail_server, scenario, duration);
        let primed = messages(&boxes);
        let second = Duration::from_secs(1);
        let warm_up = load::run(&Load {
            duration: second,
            ..load.clone()
        });
        wait_delivered(&boxes, primed + warm_up.accepted * scenario.copies());
        let sample = self.run(&mail_server, scenario, &load, &boxes);
        mail_server.stop();
        self.keep(mail_server);
        sample
    }

    /// Puts the mailboxes aside.
    fn empty(&self, boxes: &Path) {
        for (number, entry) in std::fs::read_dir(boxes).into_iter().flatten().enumerate() {
            let Ok(entry) = entry else { continue };
            let kept = self.old_mail.path().read_dir().map_or(0, Iterator::count);
            let aside = self.old_mail.join(&format!("{kept}-{number}"));
            let _ = std::fs::rename(entry.path(), aside);
        }
    }

    /// Its queue and its mail are removed with the rig. ext4 does not give the inode of a file that was removed within the last
    /// minutes to a new one, and looks at each of them before it finds another: thousands of files removed between two runs cost
    /// the next one more than half of its CPU.
    fn keep(&self, stopped: MailServer) {
        self.used
            .lock()
            .unwrap_or_else(|bad| bad.into_inner())
            .push(stopped);
    }

    /// Empties Dovecot's mailboxes and delivers one message to each user: making mailboxes is not measured.
    fn prime_dovecot(&self) {
        self.empty(&self.dovecot.vmail_dir);
        let mut lmtp = testkit::Smtp::connect_unix(&self.dovecot.lmtp_socket);
        lmtp.expect(220);
        lmtp.command("LHLO bench.example", 250);
        lmtp.command("MAIL FROM:<bench@sender.example>", 250);
        for user in 0..USERS {
            lmtp.command(&format!("RCPT TO:<user{user}@example.org>"), 250);
        }
        lmtp.command("DATA", 354);
        lmtp.send(load::message("prime"));
        for _ in 0..USERS {
            lmtp.expect(250);
        }
        lmtp.command("QUIT", 221);
    }

    fn run(&self, server: &MailServer, scenario: &Scenario, load: &Load, boxes: &Path) -> Sample {
        self.mariadb.run_sql("", "FLUSH STATUS");
        let already = messages(boxes);
        let group = server.pid().expect("it was started");
        let before = self.meters(group);
        let begin = Instant::now();
        let half = load.duration / 2;
        let sampler = std::thread::spawn(move || {
            std::thread::sleep(half);
            process_group::memory(group)
        });
        let tally = load::run(load);
        let wanted = tally.accepted * scenario.copies();
        let delivered = wait_delivered(boxes, already + wanted) - already;
        let seconds = begin.elapsed().as_secs_f64();
        let after = self.meters(group);
        let memory = sampler.join().expect("it does not panic");
        let (messages, wrong) = match load.refused {
            true => (tally.refused, tally.accepted),
            false => (tally.accepted, tally.refused),
        };
        let each = |index: usize| (after[index] - before[index]) / messages.max(1) as f64;
        Sample {
            accepted: messages as f64 / tally.seconds,
            delivered: delivered as f64 / seconds,
            server_cpu: each(0) * 1000.0,
            mariadb_cpu: each(1) * 1000.0,
            dovecot_cpu: each(2) * 1000.0,
            client_cpu: each(3) * 1000.0,
            queries: each(4),
            connections: self.mariadb.status("Max_used_connections") as f64,
            processes: memory.processes as f64,
            memory: megabytes(memory.pss),
            wrong: (wrong + tally.deferred + tally.broken) as f64,
            missing: wanted.saturating_sub(delivered) as f64,
        }
    }

    /// CPU seconds of server, MariaDB, Dovecot and ourselves; SQL statements so far.
    fn meters(&self, group: u32) -> [f64; 5] {
        let group_of = |pid: Option<u32>| pid.map_or(0.0, process_group::cpu_seconds);
        [
            process_group::cpu_seconds(group),
            group_of(self.mariadb.pid()),
            group_of(self.dovecot.pid()),
            process_group::own_cpu_seconds(),
            self.mariadb.status("Questions") as f64,
        ]
    }

    /// Memory with this many sessions that have said EHLO and then nothing.
    pub fn idle_sessions(&self, server: Server, sessions: usize) -> Sample {
        let limit = format!("default_process_limit = {}\n", sessions + 100);
        let mail_server = self.server(server, Delivery::Maildir, &limit);
        more_files();
        let mut clients: Vec<load::Client> = Vec::new();
        let mut wrong = 0;
        for _ in 0..sessions {
            match load::Client::hello(mail_server.port()) {
                Ok(client) => clients.push(client),
                Err(_) => wrong += 1,
            }
        }
        let memory = process_group::memory(mail_server.pid().expect("it was started"));
        Sample {
            memory: megabytes(memory.pss),
            processes: memory.processes as f64,
            wrong: f64::from(wrong),
            ..Default::default()
        }
    }

    /// A folder with a table file of the users, and `mysql:FILE`.
    pub fn table_folder(&self) -> (TempDir, String) {
        let folder = TempDir::new();
        let [_, (name, text), ..] =
            IspMail::table_files(&self.mariadb.host(), "mailuser", PASSWORD, DB);
        let file = folder.write(name, text);
        (folder, format!("mysql:{}", file.display()))
    }

    /// One of Postfix' tools, Postfix' own or Postroom's.
    pub fn tool(&self, server: Server, name: &str) -> Command {
        match server {
            Server::Postfix => Command::new(testkit::require(name)),
            Server::Postroom => {
                let mut command = Command::new(&self.binary);
                command.arg(name);
                command
            }
        }
    }

    /// main.cf lines for clients that encrypt, or log in.
    fn access(&self, access: Access) -> String {
        if access == Access::Clear {
            return String::new();
        }
        let (certificate, key) = self.certificates.pair(CERTIFICATE);
        let (level, login) = match access {
            Access::Submission => ("encrypt", true),
            _ => ("may", false),
        };
        let mut lines = format!(
            "smtpd_tls_security_level = {level}\nsmtpd_tls_auth_only = yes\nsmtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n",
            certificate.display(),
            key.display()
        );
        if login {
            lines += &format!(
                "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n\
                 smtpd_relay_restrictions = permit_sasl_authenticated, reject\n",
                self.dovecot.auth_socket.display()
            );
        }
        lines
    }

    fn server(&self, server: Server, delivery: Delivery, more: &str) -> MailServer {
        let host = self.mariadb.host();
        let mut files = IspMail::table_files(&host, "mailuser", PASSWORD, DB).to_vec();
        // The `virtual` agent wants a path; LMTP ignores it.
        files[1].1 = files[1].1.replace("SELECT 1 FROM", "SELECT email FROM")
            + "result_format = %d/%u/Maildir/\n";
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let transport = match delivery {
            Delivery::Lmtp => format!(
                "virtual_transport = lmtp:unix:{}\n",
                self.dovecot.lmtp_socket.display()
            ),
            _ => "virtual_transport = virtual\n".to_owned(),
        };
        let tables = IspMail::main_cf("mysql", "@CONF@");
        let main_cf = format!("{tables}{transport}{LIMITS}{more}{}\n", self.config);
        let site = Site::new(&main_cf, TLSMGR, &files);
        let mail_server = match server {
            Server::Postfix => Postfix::on(site),
            Server::Postroom => MailServer::postroom(&self.binary, site),
        };
        drop(TcpStream::connect(("127.0.0.1", mail_server.port())));
        mail_server
    }

    fn load(&self, server: &MailServer, scenario: &Scenario, duration: Duration) -> Load {
        let (count, prefix) = match scenario.recipients {
            Recipients::Users => (USERS, "user"),
            Recipients::Aliases => (ALIASES, "list"),
            Recipients::Unknown => (1000, "nobody"),
        };
        Load {
            port: server.port(),
            sessions: scenario.sessions,
            duration,
            kept: scenario.kept,
            recipients: Arc::new(
                (0..count)
                    .map(|n| format!("{prefix}{n}@example.org"))
                    .collect(),
            ),
            refused: scenario.recipients == Recipients::Unknown,
            tls: (scenario.access != Access::Clear).then(wire::settings),
            login: (scenario.access == Access::Submission).then_some(LOGIN),
        }
    }
}

/// A client may be refused as often as it likes, at full speed: that is what is measured.
const LIMITS: &str = "smtpd_error_sleep_time = 0\nsmtpd_soft_error_limit = 10000000\n\
                      smtpd_hard_error_limit = 10000000\n";

fn database() -> IspMail {
    let user = |n: usize| format!("user{}@example.org", n % USERS);
    let mut mail = IspMail {
        domains: vec!["example.org".into()],
        ..Default::default()
    };
    mail.users = (0..USERS).map(|n| (user(n), "secret".to_owned())).collect();
    for alias in 0..ALIASES {
        let rows = (0..5).map(|n| (format!("list{alias}@example.org"), user(alias * 5 + n)));
        mail.aliases.extend(rows);
    }
    mail
}

/// Waits until `wanted` messages lie below `boxes`; returns how many do when that, or the patience, is reached.
fn wait_delivered(boxes: &Path, wanted: u64) -> u64 {
    let end = Instant::now() + DRAIN;
    loop {
        let count = messages(boxes);
        if count >= wanted || Instant::now() > end {
            return count;
        }
        // Far from the end counting would only take CPU from the server.
        let far = wanted - count > 500;
        std::thread::sleep(Duration::from_millis(if far { 100 } else { 15 }));
    }
}

/// Messages in `BOXES/DOMAIN/USER/Maildir/{new,cur}`.
fn messages(boxes: &Path) -> u64 {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut count = 0;
    for user in entries(&boxes.join("example.org")) {
        for folder in ["Maildir/new", "Maildir/cur"] {
            count += entries(&user.path().join(folder)).count() as u64;
        }
    }
    count
}

/// Raises our limit of open files as far as it goes; done after the server was started, which must do so itself.
fn more_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
