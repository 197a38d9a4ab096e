//! Mail to other domains by their MX records (RFC 5321 section 5.1), as a real DNS server answers. Postroom
//! gets a mount namespace of its own, in which `/etc/resolv.conf` names that server.

mod support;

use std::fmt::Write as _;
use std::process::Command;

use nix::sys::signal::Signal;
use support::*;
use testkit::process::Process;
use testkit::{MailServer, Site, TempDir, require, wait_for};

/// The zone; every mail server in it is on 127.0.0.1, on the port that the transport table gives.
const RECORDS: &[&str] = &[
    "good.test. MX 10 nohost.test.",
    "good.test. MX 20 dead.test.",
    "good.test. MX 30 live.test.",
    "plain.test. A 127.0.0.1",
    "null.test. MX 0 .",
    "self.test. MX 10 sender.host.test.",
    "self.test. MX 20 live.test.",
    "broken.test. MX 10 nohost.test.",
    "dead.test. A 127.0.0.77",
    "live.test. A 127.0.0.1",
    "sender.host.test. A 127.0.0.1",
];

#[test]
fn mail_follows_the_mx_records() {
    if !testkit::peers() {
        return;
    }
    let root = nix::unistd::geteuid().is_root();
    assert!(
        root,
        "a DNS server on port 53 and a mount namespace want root; run the tests as root"
    );
    let dns = Dns::start();
    let next = start(Site::new(
        "relay_domains = test\nrelay_transport = discard:arrived\n",
        "",
        &[],
    ));
    let server = sender(&dns, next.port());
    for (domain, dsn, outcome) in [
        ("good.test", "2.0.0", "relay=live.test[127.0.0.1]"),
        ("plain.test", "2.0.0", "relay=plain.test[127.0.0.1]"),
        (
            "null.test",
            "5.1.0",
            "Domain null.test does not accept mail (nullMX)",
        ),
        (
            "self.test",
            "5.4.6",
            "mail for self.test loops back to myself",
        ),
        (
            "broken.test",
            "5.4.4",
            "name=nohost.test type=A: Host not found",
        ),
        (
            "gone.test",
            "5.4.4",
            "name=gone.test type=A: Host not found",
        ),
        // The server refuses to say: that is no reason to give mail up.
        (
            "refused.example",
            "4.4.3",
            "name=refused.example type=MX: Host not found, try again",
        ),
    ] {
        submit(&server, &[&format!("x@{domain}")], domain);
        let line = wait_for("an outcome", PATIENCE, || {
            let log = server.log();
            let line = log
                .lines()
                .find(|line| line.contains(&format!("to=<x@{domain}>")));
            line.map(str::to_owned)
        });
        assert!(
            line.contains(&format!("dsn={dsn},")) && line.contains(outcome),
            "{line}"
        );
    }
    let arrived = next.log().matches("status=sent (arrived)").count();
    assert_eq!(arrived, 2, "{}", next.log());
}

/// A Postroom that asks this DNS server and finds the mail servers of the zone on `port`.
fn sender(dns: &Dns, port: u16) -> MailServer {
    let mut transports = String::new();
    for domain in ["good", "plain", "null", "broken", "gone"] {
        // Writing to a String cannot fail.
        let _ = writeln!(transports, "{domain}.test smtp:{domain}.test:{port}");
    }
    let main_cf = "\
disable_dns_lookups = no
myhostname = sender.host.test
transport_maps = texthash:@CONF@/transports
";
    let site = Site::new(main_cf, "", &[("transports", &transports)]);
    let resolv = dns.folder.join("resolv.conf").display().to_string();
    let conf = site.conf().display().to_string();
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$1\" serve -c \"$2\"";
    let arguments = ["-m", "sh", "-c", script, &resolv, BINARY, &conf];
    let tools = Some(std::path::Path::new(BINARY));
    MailServer::start(site, &require("unshare"), &arguments, tools)
}

/// A private unbound with [`RECORDS`], which knows nothing else and asks nobody.
struct Dns {
    _process: Process,
    folder: TempDir,
}

impl Dns {
    fn start() -> Dns {
        let folder = TempDir::new();
        // resolv.conf has no ports: an address of our own instead.
        let id = std::process::id();
        let address = format!("127.53.{}.{}", id / 250 % 250 + 1, id % 250 + 1);
        let mut text = format!(
            "server:\n interface: {address}@53\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n \
             directory: \"{0}\"\n pidfile: \"{0}/pid\"\n use-syslog: no\n module-config: \"iterator\"\n \
             access-control: 127.0.0.0/8 allow\n local-zone: \"test.\" static\n local-zone: \".\" refuse\n",
            folder.str()
        );
        for record in RECORDS {
            let _ = writeln!(text, " local-data: \"{record}\"");
        }
        let config = folder.write("unbound.conf", text.as_bytes());
        folder.write("resolv.conf", format!("nameserver {address}\n").as_bytes());
        let mut command = Command::new(require("unbound"));
        command.arg("-c").arg(config);
        let log = folder.join("log");
        let mut process = Process::spawn(command, &log, folder.path(), Signal::SIGTERM);
        process.wait_ready("unbound", PATIENCE, || {
            std::net::TcpStream::connect((address.as_str(), 53)).is_ok()
        });
        Dns {
            _process: process,
            folder,
        }
    }
}
