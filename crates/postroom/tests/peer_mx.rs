//! Mail to other domains by their MX records (RFC 5321 section 5.1), as a real DNS server answers. Postroom
//! gets a mount namespace of its own, in which `/etc/resolv.conf` names that server.

#[path = "support/dns_server.rs"]
mod dns_server;
mod support;

use std::fmt::Write as _;

use dns_server::DnsServer;
use support::*;
use testkit::{MailServer, Site, wait_for};

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
    let dns = DnsServer::start(RECORDS);
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
fn sender(dns: &DnsServer, port: u16) -> MailServer {
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
    dns.postroom(Site::new(main_cf, "", &[("transports", &transports)]))
}
