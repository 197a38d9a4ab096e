//! A private rspamd: one proxy worker in milter mode that scans by itself, without redis and without DNS. It refuses GTUBE,
//! adds X-Spam headers, and signs mail of given domains with DKIM.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::{Process, run};
use crate::{TempDir, free_port, require};

/// What rspamd refuses whatever else it thinks: "generic test for unsolicited bulk email".
pub const GTUBE: &str = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";

/// The selector of the DKIM keys.
pub const SELECTOR: &str = "mail";

/// How rspamd is set up. `Default`: no DKIM.
#[derive(Clone, Debug, Default)]
pub struct RspamdOptions {
    /// Mail whose `From:` is of one of these domains, and that comes from 127.0.0.1 or from a login, is signed.
    pub dkim_domains: Vec<String>,
    /// Further lines of its configuration.
    pub extra: String,
}

/// A running (or stopped) rspamd. `smtpd_milters = inet:127.0.0.1:PORT`.
#[derive(Debug)]
pub struct Rspamd {
    pub port: u16,
    process: Option<Process>,
    dir: TempDir,
}

impl Rspamd {
    /// Rspamd that signs for these domains.
    pub fn start(dkim_domains: &[&str]) -> Rspamd {
        Rspamd::with(RspamdOptions {
            dkim_domains: dkim_domains.iter().map(|name| name.to_string()).collect(),
            ..RspamdOptions::default()
        })
    }

    pub fn with(options: RspamdOptions) -> Rspamd {
        let mut server = Rspamd {
            port: free_port(),
            process: None,
            dir: TempDir::new(),
        };
        for name in ["db", "run", "keys"] {
            let folder = server.dir.join(name);
            std::fs::create_dir(&folder)
                .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
        for domain in &options.dkim_domains {
            server.make_key(domain);
        }
        // The full list takes seconds to compile.
        server.dir.write("tld.dat", "com\norg\nnet\nexample\n");
        let text = server.configuration(&options);
        server.dir.write("rspamd.conf", text);
        server.start_again();
        server
    }

    /// Starts the stopped server on the same port.
    pub fn start_again(&mut self) {
        if self.process.is_some() {
            return;
        }
        let port = self.port;
        let mut command = Command::new(require("rspamd"));
        let dir = self.dir.str();
        command
            .args(["-f", "-i", "-c", &format!("{dir}/rspamd.conf")])
            .arg(format!("--var=DBDIR={dir}/db"))
            .arg(format!("--var=RUNDIR={dir}/run"))
            .current_dir("/");
        let log = self.dir.join("rspamd.log");
        let mut process = Process::spawn(command, &log, self.dir.path(), Signal::SIGTERM);
        process.wait_ready("rspamd", Duration::from_secs(60), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        self.process = Some(process);
    }

    /// SIGKILL to all its processes.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// `inet:127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("inet:127.0.0.1:{}", self.port)
    }

    /// The private key that signs for this domain, as PEM.
    pub fn dkim_key(&self, domain: &str) -> PathBuf {
        self.dir.join(&format!("keys/{domain}.{SELECTOR}.key"))
    }

    /// What stands in the TXT record `mail._domainkey.DOMAIN`: `v=DKIM1; k=rsa; p=…`.
    pub fn dkim_record(&self, domain: &str) -> String {
        let zone = self.dir.join(&format!("keys/{domain}.txt"));
        // The record is in quotes, in several pieces.
        let text = crate::process::read_lossy(&zone);
        text.split('"').skip(1).step_by(2).collect()
    }

    /// Rspamd's log.
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.dir.join("rspamd.log"))
    }

    fn make_key(&self, domain: &str) {
        let mut command = Command::new(require("rspamadm"));
        command
            .args([
                "dkim_keygen",
                "-b",
                "2048",
                "-s",
                SELECTOR,
                "-d",
                domain,
                "-k",
            ])
            .arg(self.dkim_key(domain));
        let zone = run(&mut command).stdout;
        self.dir.write(&format!("keys/{domain}.txt"), zone);
    }

    fn configuration(&self, options: &RspamdOptions) -> String {
        let (dir, port) = (self.dir.str(), self.port);
        let domains = options.dkim_domains.iter().map(|domain| {
            let key = self.dkim_key(domain);
            format!(
                "{domain} {{ path = \"{}\"; selector = \"{SELECTOR}\"; }}\n",
                key.display()
            )
        });
        let domains: String = domains.collect();
        let extra = &options.extra;
        format!(
            r#"options {{
  pidfile = "{dir}/run/rspamd.pid";
  control_socket = "{dir}/db/rspamd.sock mode=0600";
  filters = "dkim";
  tempdir = "{dir}/db";
  url_tld = "{dir}/tld.dat";
  hs_cache_dir = "{dir}/db";
  disable_hyperscan = true;
  dns {{ nameserver = ["127.0.0.1:1"]; timeout = 0.1s; retransmits = 1; }}
  local_addrs = [127.0.0.0/8];
}}
logging {{ type = "console"; level = "info"; }}
worker "rspamd_proxy" {{
  bind_socket = "127.0.0.1:{port}";
  milter = yes;
  timeout = 20s;
  count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }}
  reject_message = "Spam message rejected";
}}
actions {{ reject = 15; add_header = 6; greylist = 4; }}
modules {{
  path = "$PLUGINSDIR/dkim_signing.lua";
  path = "$PLUGINSDIR/milter_headers.lua";
}}
lua = "$RULESDIR/rspamd.lua";
dkim {{ trusted_only = false; }}
dkim_signing {{
  try_fallback = false;
  allow_username_mismatch = true;
  use_domain = "header";
  sign_local = true;
  sign_authenticated = true;
  domain {{
{domains}  }}
}}
milter_headers {{
  use = ["x-spamd-bar", "x-spam-level", "x-spam-status"];
  skip_local = false;
  skip_authenticated = false;
}}
{extra}
"#
        )
    }
}
