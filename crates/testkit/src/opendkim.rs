//! A private opendkim as a milter: signs mail of one domain, or verifies signatures with public keys from a file.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::{Process, run};
use crate::{TempDir, free_port, require};

/// What opendkim is to do.
#[derive(Clone, Debug)]
pub enum OpenDkimRole {
    /// Signs what comes from 127.0.0.1 with a `From:` of this domain, selector `dkim`.
    Sign { domain: String },
    /// Adds `Authentication-Results`; public keys as lines `SELECTOR._domainkey.DOMAIN v=DKIM1; …`.
    Verify { keys: String },
}

/// A running (or stopped) opendkim. `smtpd_milters = inet:127.0.0.1:PORT`.
#[derive(Debug)]
pub struct OpenDkim {
    pub port: u16,
    process: Option<Process>,
    dir: TempDir,
}

impl OpenDkim {
    pub fn start(role: &OpenDkimRole) -> OpenDkim {
        let mut server = OpenDkim {
            port: free_port(),
            process: None,
            dir: TempDir::new(),
        };
        let text = server.configuration(role);
        server.dir.write("opendkim.conf", text);
        server.start_again();
        server
    }

    /// Starts the stopped server on the same port.
    pub fn start_again(&mut self) {
        if self.process.is_some() {
            return;
        }
        let port = self.port;
        let mut command = Command::new(require("opendkim"));
        command
            .args(["-f", "-x"])
            .arg(self.dir.join("opendkim.conf"))
            .current_dir("/");
        let log = self.dir.join("opendkim.log");
        let mut process = Process::spawn(command, &log, self.dir.path(), Signal::SIGTERM);
        process.wait_ready("opendkim", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        self.process = Some(process);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// `inet:127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("inet:127.0.0.1:{}", self.port)
    }

    /// The line of [`OpenDkimRole::Verify`] for the key of [`OpenDkimRole::Sign`].
    pub fn public_key(&self, domain: &str) -> String {
        let text = crate::process::read_lossy(&self.dir.join("dkim.txt"));
        let record: String = text.split('"').skip(1).step_by(2).collect();
        format!("dkim._domainkey.{domain} {record}\n")
    }

    fn configuration(&self, role: &OpenDkimRole) -> String {
        let port = self.port;
        let base = format!("Socket inet:{port}@127.0.0.1\nSyslog no\nRequireSafeKeys no\n");
        match role {
            OpenDkimRole::Sign { domain } => {
                let key = self.make_key(domain);
                format!(
                    "{base}Mode s\nCanonicalization relaxed/simple\nDomain {domain}\nSelector dkim\nKeyFile {}\nInternalHosts 127.0.0.1\n",
                    key.display()
                )
            }
            OpenDkimRole::Verify { keys } => {
                let file = self.dir.write("public", keys);
                // Nobody is internal, so that everything is verified.
                let nobody = self.dir.write("nobody", "192.0.2.1\n");
                format!(
                    "{base}Mode v\nAlwaysAddARHeader yes\nTestPublicKeys {}\nInternalHosts {}\n",
                    file.display(),
                    nobody.display()
                )
            }
        }
    }

    fn make_key(&self, domain: &str) -> PathBuf {
        let folder: &Path = self.dir.path();
        let mut command = Command::new(require("opendkim-genkey"));
        command
            .args(["-b", "2048", "-s", "dkim", "-d", domain, "-D"])
            .arg(folder);
        run(&mut command);
        folder.join("dkim.private")
    }
}
