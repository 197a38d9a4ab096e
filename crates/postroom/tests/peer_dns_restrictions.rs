//! The restrictions that ask DNS, beside a real Postfix, with a private DNS server. Both servers get a mount namespace of
//! their own, in which `/etc/resolv.conf` names it.

#[path = "support/dns_server.rs"]
mod dns_server;
#[path = "support/side_by_side.rs"]
mod side_by_side;
mod support;

use dns_server::DnsServer;
use side_by_side::{Peers, Suite};
use support::PATIENCE;
use testkit::{MailServer, Site};

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

/// Addresses of this machine with names in DNS: one that leads back, one that leads elsewhere, one that leads nowhere, and none.
const NAMED: &[&str] = &[
    "21.53.9.127.in-addr.arpa. PTR good.test.",
    "good.test. A 127.9.53.21",
    "22.53.9.127.in-addr.arpa. PTR forged.test.",
    "forged.test. A 127.9.53.99",
    "23.53.9.127.in-addr.arpa. PTR nowhere.test.",
];

#[test]
fn a_clients_name_is_what_dns_says() {
    if !testkit::peers() {
        return;
    }
    let mut records = NAMED.to_vec();
    // Everything about this network is here; nobody else is asked.
    records.push("9.127.in-addr.arpa. TXT here");
    let dns = DnsServer::start(&records);
    let seen = |start: &dyn Fn(Site) -> MailServer| {
        let server = start(Site::new(
            "smtpd_peername_lookup = yes\nvirtual_mailbox_domains = example.org\nvirtual_mailbox_maps = static:x\n\
             virtual_transport = discard:\nsmtpd_helo_required = no\nunknown_client_reject_code = 550\n\
             smtpd_recipient_restrictions = reject_unknown_reverse_client_hostname, reject_unknown_client_hostname\n",
            "",
            &[],
        ));
        let clients = [21, 22, 23, 24];
        let told: Vec<String> = clients
            .iter()
            .map(|last| told_to(&format!("127.9.53.{last}"), server.port()))
            .collect();
        let log = testkit::wait_for("the clients' ends", PATIENCE, || {
            let log = server.log();
            let ends = log
                .lines()
                .filter(|line| line.contains(": disconnect from "));
            let ends = ends.filter(|line| line.contains("[127.9.53.")).count();
            (ends == clients.len()).then_some(log)
        });
        // One client's end may be logged behind the next one's beginning.
        let lines_of = |last: i32| -> Vec<String> {
            let address = format!("127.9.53.{last}");
            let lines = log.lines().filter(|line| line.contains(&address));
            let texts = lines.filter_map(|line| Some(line.split_once("]: ")?.1));
            texts.map(without_id).collect()
        };
        (told, clients.map(lines_of))
    };
    let theirs = seen(&|site| dns.postfix(site));
    let ours = seen(&|site| dns.postroom(site));
    assert!(theirs.0[0].starts_with("250 "), "{theirs:#?}");
    assert_eq!(theirs, ours);
}

/// The queue id is each server's own.
fn without_id(text: &str) -> String {
    match text.split_once(": client=") {
        Some((_, client)) => format!("ID: client={client}"),
        None => text.to_owned(),
    }
}

/// What a client with this address is told about a recipient.
fn told_to(address: &str, port: u16) -> String {
    use std::io::{BufRead, BufReader, Write};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let stream = runtime.expect("a runtime").block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(
            format!("{address}:0")
                .parse()
                .expect("an address and a port"),
        )?;
        let to = format!("127.0.0.1:{port}")
            .parse()
            .expect("an address and a port");
        socket.connect(to).await?.into_std()
    });
    let mut stream = stream.expect("a connection");
    stream.set_nonblocking(false).expect("a socket");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut reply = String::new();
    for line in [
        "",
        "HELO c\r\n",
        "MAIL FROM:<>\r\n",
        "RCPT TO:<x@example.org>\r\n",
    ] {
        stream
            .write_all(line.as_bytes())
            .expect("the server listens");
        reply.clear();
        reader.read_line(&mut reply).expect("a reply");
    }
    stream.write_all(b"QUIT\r\n").expect("the server listens");
    reader.read_line(&mut String::new()).expect("a reply");
    reply.trim_end().to_owned()
}

#[test]
fn explain_asks_no_dns_server_unless_told() {
    let site = support::plain_site(
        "smtpd_sender_restrictions = reject_unknown_sender_domain\n\
         smtpd_client_restrictions = reject_unknown_client_hostname, reject_rbl_client bl.test\n\
         smtpd_helo_restrictions = reject_unknown_helo_hostname\n",
    );
    let conf = site.conf().display().to_string();
    let output = support::postroom(&["explain", "-c", &conf, "john@example.org"]);
    let shown = support::text(&output.stdout);
    assert!(shown.starts_with("john@example.org: accepted\n"), "{shown}");
    for name in [
        "reject_unknown_sender_domain",
        "bl.test",
        "reject_unknown_helo_hostname",
    ] {
        assert!(
            shown.contains(&format!("DNS: {name}  john@example.org  not asked")),
            "{shown}"
        );
    }
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
