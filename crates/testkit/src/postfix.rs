//! A mail server on a [`Site`]: a private real Postfix, or any program that takes its place.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::Process;
use crate::{Site, Smtp, require, wait_for};

/// Starting real Postfix. Needs root, as Postfix does.
pub struct Postfix;

impl Postfix {
    /// Postfix on [`Site::new`] with these texts.
    pub fn start(main_cf: &str, master_cf: &str, files: &[(&str, &str)]) -> MailServer {
        Postfix::on(Site::new(main_cf, master_cf, files))
    }

    /// Postfix on a site that is ready.
    pub fn on(site: Site) -> MailServer {
        let root = crate::account::is_root();
        assert!(
            root,
            "Postfix' master must be started by root; run the tests as root, or set POSTROOM_TEST_PEERS=0"
        );
        let master = require("postfix")
            .parent()
            .map(|_| daemon_directory().join("master"));
        let master = master
            .filter(|file| file.exists())
            .unwrap_or_else(|| require("master"));
        let conf = site.conf().display().to_string();
        MailServer::start(site, &master, &["-c", &conf, "-d"], None)
    }
}

/// Where Debian keeps Postfix' daemons.
fn daemon_directory() -> PathBuf {
    PathBuf::from("/usr/lib/postfix/sbin")
}

/// A running (or stopped) mail server and its site.
#[derive(Debug)]
pub struct MailServer {
    process: Option<Process>,
    program: PathBuf,
    arguments: Vec<String>,
    /// The program that has Postfix' tools as subcommands; None: Postfix' own tools.
    tools: Option<PathBuf>,
    pub site: Site,
}

impl MailServer {
    /// Postroom: `BINARY serve -c CONF`, its tools as `BINARY postcat …`.
    pub fn postroom(binary: &Path, site: Site) -> MailServer {
        let conf = site.conf().display().to_string();
        MailServer::start(site, binary, &["serve", "-c", &conf], Some(binary))
    }

    /// Starts `program` and waits until the site's SMTP port answers.
    pub fn start(
        site: Site,
        program: &Path,
        arguments: &[&str],
        tools: Option<&Path>,
    ) -> MailServer {
        let mut server = MailServer {
            process: None,
            program: program.to_owned(),
            arguments: arguments.iter().map(|text| text.to_string()).collect(),
            tools: tools.map(Path::to_owned),
            site,
        };
        server.start_again();
        server
    }

    /// Starts the stopped server on the same site.
    pub fn start_again(&mut self) {
        if self.process.is_some() {
            return;
        }
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir("/")
            .env("LC_ALL", "C")
            .env("MAIL_LOGTAG", "postfix");
        let (log, folder, port) = (
            self.site.dir().join("stdout.log"),
            self.site.dir(),
            self.site.smtp_port,
        );
        let mut process = Process::spawn(command, &log, folder, Signal::SIGTERM);
        let what = format!(
            "{} {}\n{}",
            self.program.display(),
            self.arguments.join(" "),
            self.site.log()
        );
        process.wait_ready(&what, Duration::from_secs(30), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        self.process = Some(process);
    }

    /// Orderly stop (SIGTERM).
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
    }

    /// The process (group) id of the master, None while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    pub fn port(&self) -> u16 {
        self.site.smtp_port
    }

    /// A session that has said EHLO.
    pub fn smtp(&self) -> Smtp {
        Smtp::hello(self.port())
    }

    /// The mail log, and what the server wrote to standard error.
    pub fn log(&self) -> String {
        self.site.log() + &crate::process::read_lossy(&self.site.dir().join("stdout.log"))
    }

    /// Waits up to 30 s until a line of the log contains `text`; returns the line.
    pub fn wait_log(&self, text: &str) -> String {
        wait_for(
            &format!("a log line with {text:?}"),
            Duration::from_secs(30),
            || {
                self.log()
                    .lines()
                    .find(|line| line.contains(text))
                    .map(str::to_owned)
            },
        )
    }

    /// One of Postfix' tools (`postcat`, `postqueue`, `postsuper`, …) with `-c CONF` of this site.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = match &self.tools {
            Some(binary) => {
                let mut command = Command::new(binary);
                command.arg(name);
                command
            }
            None => Command::new(require(name)),
        };
        command.arg("-c").arg(self.site.conf()).env("LC_ALL", "C");
        command
    }

    /// Runs [`MailServer::tool`] with these arguments; its standard output. Panics when it fails.
    pub fn run_tool(&self, name: &str, arguments: &[&str]) -> String {
        let output = crate::process::run(self.tool(name).args(arguments));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The recipients of a queued message as `postcat -e -q ID` shows them.
    pub fn recipients(&self, id: &str) -> Vec<String> {
        let envelope = self.run_tool("postcat", &["-e", "-q", id]);
        envelope
            .lines()
            .filter_map(|line| Some(line.strip_prefix("recipient: ")?.to_owned()))
            .collect()
    }
}

/// The queue id in `2.0.0 Ok: queued as ID`.
pub fn queue_id(reply: &str) -> Option<&str> {
    reply.split("queued as ").nth(1)?.split_whitespace().next()
}
