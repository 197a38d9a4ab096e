//! The restrictions that ask DNS, beside a real Postfix, with a private DNS server. Both servers get a mount namespace of
//! their own, in which `/etc/resolv.conf` names it.

#[path = "support/dns_server.rs"]
mod dns_server;
#[path = "support/side_by_side.rs"]
mod side_by_side;
mod support;

use dns_server::DnsServer;
use side_by_side::{Peers, Suite};
use testkit::Site;

const RECORDS: &[&str] = &[
    "ok.test. A 192.0.2.1",
    "ok.test. MX 10 mx.ok.test.",
    "mx.ok.test. A 192.0.2.10",
    "addr.test. A 192.0.2.2",
    "mxonly.test. MX 10 nohost.test.",
    "null.test. MX 0 .",
    "txtonly.test. TXT here",
    "9.2.0.192.bl.test. A 127.0.0.2",
    "9.2.0.192.bl.test. TXT \"listed, see http://bl.test/192.0.2.9\"",
    "8.2.0.192.bl.test. A 127.0.0.10",
    "11.2.0.192.bl.test. A 127.0.0.2",
    "11.2.0.192.bl.test. TXT \"one, \" \"and the same\"",
    "12.2.0.192.bl.test. A 127.0.0.5",
    "7.2.0.192.wl.test. A 127.0.1.1",
    "good.example.wl.test. A 127.0.1.2",
    "bad.example.rhs.test. A 127.0.0.2",
    "bad.example.rhs.test. TXT \"a bad domain\"",
    "evil.test. MX 10 mx.evil.test.",
    "evil.test. NS ns.evil.test.",
    "mx.evil.test. A 192.0.2.66",
    "ns.evil.test. A 192.0.2.67",
    "sub.evil.test. A 192.0.2.65",
    "addr.evil.test. A 192.0.2.64",
    "byaddress.test. MX 10 mx.byaddress.test.",
    "mx.byaddress.test. A 192.0.2.68",
    "direct.test. A 192.0.2.68",
    "permitted.test. MX 10 mx.permitted.test.",
    "mx.permitted.test. A 192.0.2.69",
    "backup.test. MX 10 primary.test.",
    "backup.test. MX 20 me.test.",
    "primary.test. A 192.0.2.20",
    "backup2.test. MX 10 primary2.test.",
    "backup2.test. MX 20 me.test.",
    "primary2.test. A 192.0.2.200",
    "me.test. A 127.0.0.1",
];

#[test]
fn dns_decides_as_it_does_in_postfix() {
    if !testkit::peers() {
        return;
    }
    let dns = DnsServer::start(RECORDS);
    let theirs = |site: Site| dns.postfix(site);
    let ours = |site: Site| dns.postroom(site);
    let dialogues = Suite::read("dns").compare_started(Peers::default, theirs, ours);
    assert!(dialogues >= 40, "{dialogues}");
}

#[test]
fn a_dead_dns_server_costs_limited_time() {
    if !testkit::peers() {
        return;
    }
    let server = dns_server::postroom_with(
        // A network without machines (RFC 5737) that loses every packet; nothing leaves this host either way.
        "127.53.255.254",
        Site::new(
            "virtual_mailbox_domains = example.org\nvirtual_mailbox_maps = static:x\nvirtual_transport = discard:\n\
             smtpd_sender_restrictions = reject_unknown_sender_domain\n\
             smtpd_client_restrictions = reject_rbl_client one.test, reject_rbl_client two.test\n",
            "",
            &[],
        ),
    );
    let mut client = server.smtp();
    client.command("MAIL FROM:<x@somewhere.test>", 250);
    let reply = client.ask("RCPT TO:<john@example.org>");
    assert_eq!(reply.code, 450, "{reply:?}");
    assert!(reply.text.contains("Domain not found"), "{reply:?}");
    server.wait_log("one.test: RBL lookup error:");
}
