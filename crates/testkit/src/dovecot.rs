//! A private Dovecot (2.3): LMTP, IMAP, auth socket, and its LDA.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::account::is_root;
use crate::process::{Process, run_with_input};
use crate::{Account, Imap, TempDir, account, free_port, require, vmail, wait_for_port};

/// Where users come from, and where sockets go. `Default` has no users.
#[derive(Clone, Debug, Default)]
pub struct DovecotOptions {
    /// Address and plain password of each mailbox (a passwd-file). Ignored when `sql` is given.
    pub users: Vec<(String, String)>,
    /// Users from a database instead.
    pub sql: Option<SqlUsers>,
    /// Where the LMTP socket is put, for example `QUEUE/private/dovecot-lmtp`; its folder must exist.
    /// None: `lmtp` in Dovecot's own folder.
    pub lmtp_socket: Option<PathBuf>,
    /// Owner and group of the LMTP and auth sockets, mode 0660; None: mode 0666.
    pub socket_owner: Option<(String, String)>,
    /// Further lines of dovecot.conf.
    pub extra: String,
}

/// passdb and userdb `sql` of Dovecot.
#[derive(Clone, Debug)]
pub struct SqlUsers {
    /// `mysql`, `pgsql` or `sqlite`.
    pub driver: String,
    /// Dovecot's `connect` setting.
    pub connect: String,
    /// Must return columns `user` and `password`, for example
    /// `SELECT email AS user, password FROM virtual_users WHERE email = '%u'`.
    pub password_query: String,
}

/// A running (or stopped) Dovecot. Mailboxes are Maildirs at `vmail/DOMAIN/USER/Maildir`, owned by [`vmail`].
#[derive(Debug)]
pub struct Dovecot {
    pub imap_port: u16,
    /// LMTP over TCP.
    pub lmtp_port: u16,
    /// LMTP over a unix socket.
    pub lmtp_socket: PathBuf,
    /// The auth client socket (SASL for a mail server).
    pub auth_socket: PathBuf,
    /// The folder that holds `DOMAIN/USER/Maildir`.
    pub vmail_dir: PathBuf,
    pub owner: Account,
    process: Option<Process>,
    dir: TempDir,
}

impl Dovecot {
    /// Dovecot with these users: address, plain password.
    pub fn start(users: &[(&str, &str)]) -> Dovecot {
        let users = users
            .iter()
            .map(|(user, password)| (user.to_string(), password.to_string()));
        Dovecot::with(DovecotOptions {
            users: users.collect(),
            ..Default::default()
        })
    }

    pub fn with(options: DovecotOptions) -> Dovecot {
        require("dovecot");
        let dir = TempDir::new();
        let owner = vmail();
        dir.folder("run", 0o755, &Account::current());
        dir.folder("sock", 0o755, &Account::current());
        let vmail_dir = dir.folder("vmail", 0o770, &owner);
        crate::tempdir::set_mode(&vmail_dir, 0o755);
        let mut server = Dovecot {
            imap_port: free_port(),
            lmtp_port: free_port(),
            lmtp_socket: options
                .lmtp_socket
                .clone()
                .unwrap_or_else(|| dir.join("sock/lmtp")),
            auth_socket: dir.join("sock/auth"),
            vmail_dir,
            owner,
            process: None,
            dir,
        };
        let text = server.configuration(&options);
        server.dir.write("dovecot.conf", text);
        // The LDA runs as the mailbox owner and logs to the same file.
        crate::tempdir::set_mode(&server.dir.write("dovecot.log", ""), 0o666);
        server.start_again();
        server
    }

    /// Starts the stopped server with the same configuration.
    pub fn start_again(&mut self) {
        if self.process.is_some() {
            return;
        }
        let mut command = Command::new(require("dovecot"));
        command
            .arg("-F")
            .arg("-c")
            .arg(self.config_file())
            .current_dir("/");
        let log = self.dir.join("stdout.log");
        let mut process = Process::spawn(command, &log, self.dir.path(), Signal::SIGTERM);
        let socket = self.lmtp_socket.clone();
        process.wait_ready("dovecot", Duration::from_secs(30), || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        self.process = Some(process);
        wait_for_port(self.imap_port);
    }

    /// Orderly shutdown: sockets vanish, ports refuse.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
        let _ = std::fs::remove_file(&self.lmtp_socket);
    }

    /// SIGKILL to all its processes.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        let _ = std::fs::remove_file(&self.lmtp_socket);
    }

    /// The master's process id, None while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// dovecot.conf, for `doveadm -c`, `dovecot-lda -c`.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("dovecot.conf")
    }

    /// The arguments of a `pipe` service that delivers with Dovecot's LDA: `/…/dovecot-lda -c CONF`.
    pub fn lda_command(&self) -> String {
        format!(
            "{} -c {}",
            require("dovecot-lda").display(),
            self.config_file().display()
        )
    }

    /// The Maildir of `user@domain`, existing or not.
    pub fn maildir(&self, address: &str) -> PathBuf {
        let (user, domain) = address.rsplit_once('@').expect("an address with a domain");
        self.vmail_dir.join(domain).join(user).join("Maildir")
    }

    /// An IMAP session, logged in.
    pub fn imap(&self, user: &str, password: &str) -> Imap {
        Imap::login(self.imap_port, user, password)
    }

    /// All messages of the user's INBOX, read over IMAP.
    pub fn inbox(&self, user: &str, password: &str) -> Vec<String> {
        self.imap(user, password).fetch_all("INBOX")
    }

    /// The same through Python's imaplib: what an independent client sees.
    pub fn inbox_by_imaplib(&self, user: &str, password: &str) -> Vec<String> {
        let mut command = Command::new(require("python3"));
        command.args(["-c", IMAPLIB, &self.imap_port.to_string(), user, password]);
        let output = run_with_input(&mut command, b"");
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            panic!("imaplib: {}", String::from_utf8_lossy(&output.stderr));
        }
        text.lines()
            .map(|line| serde_json::from_str(line).expect("the script prints JSON"))
            .collect()
    }

    /// Dovecot's log.
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.dir.join("dovecot.log"))
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn configuration(&self, options: &DovecotOptions) -> String {
        let dir = self.dir.str();
        let me = Account::current();
        let (internal, login) = if is_root() {
            (account("dovecot").name, account("dovenull").name)
        } else {
            (me.name.clone(), me.name.clone())
        };
        let internal_group = if is_root() {
            account("dovecot").group
        } else {
            me.group
        };
        let socket_mode = match &options.socket_owner {
            Some((user, group)) => format!("mode = 0660\n user = {user}\n group = {group}"),
            None => "mode = 0666".to_owned(),
        };
        let (vmail, uid, gid) = (self.vmail_dir.display(), self.owner.uid, self.owner.gid);
        let (imap, lmtp) = (self.imap_port, self.lmtp_port);
        let (lmtp_socket, auth_socket) = (self.lmtp_socket.display(), self.auth_socket.display());
        let passdb = self.passdb(options);
        let extra = &options.extra;
        // A login process with `chroot` needs root; ours has none, so that any user can run the tests.
        format!(
            "base_dir = {dir}/run
state_dir = {dir}/run
instance_name = {dir}
log_path = {dir}/dovecot.log
ssl = no
protocols = imap lmtp
listen = 127.0.0.1
disable_plaintext_auth = no
default_internal_user = {internal}
default_internal_group = {internal_group}
default_login_user = {login}
first_valid_uid = 1
mail_location = maildir:{vmail}/%d/%n/Maildir
hostname = mail.host.example
postmaster_address = postmaster@host.example
recipient_delimiter = +
{passdb}
userdb {{
 driver = static
 args = uid={uid} gid={gid} home={vmail}/%d/%n
}}
service imap-login {{
 chroot =
 inet_listener imap {{
  port = {imap}
 }}
 inet_listener imaps {{
  port = 0
 }}
}}
service anvil {{
 chroot =
}}
service stats {{
 unix_listener stats-writer {{
  mode = 0666
 }}
}}
service lmtp {{
 unix_listener {lmtp_socket} {{
 {socket_mode}
 }}
 inet_listener lmtp {{
  address = 127.0.0.1
  port = {lmtp}
 }}
}}
service auth {{
 unix_listener {auth_socket} {{
 {socket_mode}
 }}
 unix_listener auth-userdb {{
  mode = 0666
 }}
}}
{extra}
"
        )
    }

    fn passdb(&self, options: &DovecotOptions) -> String {
        let Some(sql) = &options.sql else {
            let lines = options.users.iter();
            let lines: String = lines
                .map(|(user, password)| format!("{user}:{{PLAIN}}{password}\n"))
                .collect();
            let file = self.dir.write("users", lines);
            return format!(
                "passdb {{\n driver = passwd-file\n args = username_format=%u {}\n}}",
                file.display()
            );
        };
        let file = self.dir.write(
            "sql.conf",
            format!(
                "driver = {}\nconnect = {}\ndefault_pass_scheme = PLAIN\npassword_query = {}\n",
                sql.driver, sql.connect, sql.password_query
            ),
        );
        format!("passdb {{\n driver = sql\n args = {}\n}}", file.display())
    }
}

/// Prints every message of the INBOX as one JSON string a line.
const IMAPLIB: &str = r#"
import imaplib, json, sys
port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
c = imaplib.IMAP4("127.0.0.1", port)
c.login(user, password)
c.select("INBOX", readonly=True)
for number in c.search(None, "ALL")[1][0].split():
    print(json.dumps(c.fetch(number, "(BODY.PEEK[])")[1][0][1].decode("utf-8", "replace")))
c.logout()
"#;
