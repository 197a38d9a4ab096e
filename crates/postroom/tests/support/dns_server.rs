//! A private unbound, and mail servers that ask it: they run in a mount namespace whose `/etc/resolv.conf` names it.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;
use testkit::process::Process;
use testkit::{MailServer, Site, TempDir, require};

use crate::support::{BINARY, PATIENCE};

/// Knows the records it is given below `test.`, and answers no other question.
pub struct DnsServer {
    _process: Process,
    _folder: TempDir,
    address: String,
}

impl DnsServer {
    pub fn start(records: &[&str]) -> DnsServer {
        let root = nix::unistd::geteuid().is_root();
        assert!(
            root,
            "a DNS server on port 53 and a mount namespace want root; run the tests as root"
        );
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let folder = TempDir::new();
        // resolv.conf has no ports: an address of our own instead.
        let id = std::process::id();
        let number = STARTED.fetch_add(1, Ordering::Relaxed) % 100 + 100;
        let address = format!("127.{number}.{}.{}", id / 250 % 250 + 1, id % 250 + 1);
        let mut text = format!(
            "server:\n interface: {address}@53\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n \
             directory: \"{0}\"\n pidfile: \"{0}/pid\"\n use-syslog: no\n module-config: \"iterator\"\n \
             access-control: 127.0.0.0/8 allow\n local-zone: \"test.\" static\n local-zone: \"9.127.in-addr.arpa.\" static\n local-zone: \".\" refuse\n",
            folder.str()
        );
        for record in records {
            // Writing to a String cannot fail.
            let _ = writeln!(text, " local-data: '{record}'");
        }
        let config = folder.write("unbound.conf", text.as_bytes());
        let mut command = Command::new(require("unbound"));
        command.arg("-c").arg(config);
        let log = folder.join("log");
        let mut process = Process::spawn(command, &log, folder.path(), Signal::SIGTERM);
        process.wait_ready("unbound", PATIENCE, || {
            std::net::TcpStream::connect((address.as_str(), 53)).is_ok()
        });
        DnsServer {
            _process: process,
            _folder: folder,
            address,
        }
    }

    pub fn postroom(&self, site: Site) -> MailServer {
        postroom_with(&self.address, site)
    }

    pub fn postfix(&self, site: Site) -> MailServer {
        let conf = site.conf().display().to_string();
        let master = "/usr/lib/postfix/sbin/master";
        with(&self.address, site, &[master, "-c", &conf, "-d"], None)
    }
}

/// Postroom that asks the DNS server at this address, if there is one.
pub fn postroom_with(address: &str, site: Site) -> MailServer {
    let conf = site.conf().display().to_string();
    let tools = Some(Path::new(BINARY));
    with(address, site, &[BINARY, "serve", "-c", &conf], tools)
}

fn with(address: &str, site: Site, program: &[&str], tools: Option<&Path>) -> MailServer {
    let resolv = site.dir().join("resolv.conf");
    let text = format!("nameserver {address}\noptions timeout:1 attempts:1\n");
    std::fs::write(&resolv, text).expect("the site's folder is writable");
    let resolv = resolv.display().to_string();
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let mut arguments = vec!["-m", "sh", "-c", script, &resolv];
    arguments.extend(program);
    MailServer::start(site, &require("unshare"), &arguments, tools)
}
