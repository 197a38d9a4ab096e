//! `check_policy_service`: beside a real Postfix with good and bad servers, and with the services that people run: Dovecot's
//! quota-status and postgrey.

#[path = "support/policy_server.rs"]
mod policy_server;
#[path = "support/side_by_side.rs"]
mod side_by_side;
mod support;

use std::process::Command;

use nix::sys::signal::Signal;
use policy_server::PolicyServer;
use side_by_side::{Peers, Suite};
use support::*;
use testkit::process::Process;
use testkit::{
    Certificates, Dovecot, DovecotOptions, MailServer, Postfix, Site, TempDir, free_port, require,
    tls,
};

#[test]
fn actions_and_bad_servers_lead_to_what_they_lead_to_in_postfix() {
    if !testkit::peers() {
        return;
    }
    let dialogues = Suite::read("policy").compare_with(|| {
        let server = PolicyServer::start();
        Peers {
            placeholders: vec![("@POLICY@".into(), server.address.clone())],
            guard: Some(Box::new(server)),
        }
    });
    assert!(dialogues >= 20, "{dialogues}");
}

fn line(reply: &testkit::smtp::Reply) -> String {
    format!("{} {}", reply.code, reply.text)
}

/// A service at every stage.
const EVERYWHERE: &str = "\
virtual_mailbox_domains = example.org
virtual_mailbox_maps = static:x
virtual_transport = discard:
smtpd_delay_reject = no
smtpd_client_restrictions = check_policy_service inet:@POLICY@
smtpd_helo_restrictions = check_policy_service { inet:@POLICY@, { policy_context = at helo } }
smtpd_sender_restrictions = check_policy_service inet:@POLICY@
smtpd_recipient_restrictions = check_policy_service inet:@POLICY@, reject_unauth_destination
smtpd_data_restrictions = check_policy_service inet:@POLICY@
smtpd_end_of_data_restrictions = check_policy_service inet:@POLICY@
";

#[test]
fn a_service_is_told_what_postfix_tells_it() {
    if !testkit::peers() {
        return;
    }
    let theirs = requests(Postfix::on);
    let ours = requests(start);
    assert_eq!(theirs.len(), 13, "{theirs:#?}");
    assert_eq!(theirs, ours);
}

/// What a service hears of two messages, each attribute by itself.
fn requests(start: impl FnOnce(Site) -> MailServer) -> Vec<Vec<String>> {
    let policy = PolicyServer::start();
    let site = Site::new(&EVERYWHERE.replace("@POLICY@", &policy.address), "", &[]);
    let server = start(site);
    let mut client = server.smtp();
    let body = "Subject: x\n\nline\n..\nline\n";
    client.command(
        "MAIL FROM:<S+x@Sender.EXAMPLE> SIZE=4321 BODY=8BITMIME",
        250,
    );
    for recipient in ["a@example.org", "B+ext@EXAMPLE.org"] {
        client.command(&format!("RCPT TO:<{recipient}>"), 250);
    }
    client.command("DATA", 354);
    client.send(body.replace('\n', "\r\n") + ".\r\n");
    client.expect(250);
    let (_, end) = client.message("", &["\"quo ted\"@example.org"], body);
    assert_eq!(end.map(|reply| reply.code), Some(250));
    client.command("VRFY someone@example.org", 252);
    client.command("QUIT", 221);
    let requests = policy.requests();
    let mut requests: Vec<Vec<String>> = requests
        .iter()
        .map(|request| request.lines().map(comparable).collect())
        .collect();
    // One of the two that connect has but looked whether the server is up, and may come late.
    requests.sort_by_key(|request| !request.contains(&"protocol_state=CONNECT".to_owned()));
    requests
}

/// Ports, queue ids and instances are each server's own; whether there is one is not.
fn comparable(line: &str) -> String {
    let (name, value) = line.split_once('=').expect("an attribute");
    let own = ["client_port", "server_port", "queue_id", "instance"].contains(&name);
    match own && !value.is_empty() {
        true => format!("{name}=…"),
        false => line.to_owned(),
    }
}

/// TLS with and without the client's certificate, and who has logged in.
const SECRETIVE: &str = "\
virtual_mailbox_domains = example.org
virtual_mailbox_maps = static:x
virtual_transport = discard:
smtpd_tls_security_level = may
smtpd_tls_cert_file = @CERTS@/rsa.pem
smtpd_tls_key_file = @CERTS@/rsa.key
smtpd_tls_CAfile = @CERTS@/ca.pem
smtpd_tls_ask_ccert = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = @AUTH@
smtpd_sasl_auth_enable = yes
smtpd_discard_ehlo_keywords = chunking
smtpd_recipient_restrictions = check_policy_service inet:@POLICY@, reject_unauth_destination
";

#[test]
fn a_service_is_told_of_encryption_certificate_and_login() {
    if !testkit::peers() {
        return;
    }
    let certificates = Certificates::new();
    certificates.self_signed("ca", "rsa:2048", "/O=Tests/CN=Test CA");
    certificates.self_signed("rsa", "rsa:2048", "/CN=mail.host.example");
    certificates.signed("client", "prime256v1", "/O=Tests/CN=client=one two", "ca");
    certificates.self_signed("stranger", "rsa:2048", "/CN=stranger");
    let dovecot = Dovecot::with(DovecotOptions {
        users: vec![("john@example.org".into(), "secret".into())],
        extra: PROMPT_AUTH.to_owned(),
        ..DovecotOptions::default()
    });
    let folder = certificates.certificate("ca");
    let folder = folder.parent().expect("a file lies in a folder");
    let main_cf = SECRETIVE
        .replace("@CERTS@", &folder.display().to_string())
        .replace("@AUTH@", &dovecot.auth_socket.display().to_string());
    let heard = |start: fn(Site) -> MailServer| {
        let policy = PolicyServer::start();
        let server = start(Site::new(
            &main_cf.replace("@POLICY@", &policy.address),
            "tlsmgr unix - - n 1000? 1 tlsmgr\n",
            &[],
        ));
        let mut dialogues = Vec::new();
        for (certificate, tls12) in [
            (None, false),
            (Some("client"), false),
            (Some("stranger"), true),
        ] {
            dialogues.push(tls::Dialogue {
                port: server.port(),
                certificate: certificate.map(|name| certificates.pair(name)),
                tls12,
                lines: SECRET_LINES.iter().map(|line| line.to_string()).collect(),
                ..tls::Dialogue::default()
            });
        }
        let replies = tls::talk(&dialogues);
        let requests = policy.requests();
        let lines = |request: &String| -> Vec<String> { request.lines().map(comparable).collect() };
        (replies, requests.iter().map(lines).collect::<Vec<_>>())
    };
    let (theirs, ours) = (heard(Postfix::on), heard(start));
    assert_eq!(theirs.1.len(), 3, "{theirs:#?}");
    assert_eq!(theirs.0, ours.0);
    for (theirs, ours) in theirs.1.iter().zip(&ours.1) {
        assert_eq!(theirs, ours);
    }
    assert_eq!(theirs.1.len(), ours.1.len());
}

const SECRET_LINES: &[&str] = &[
    "EHLO client.example",
    "STARTTLS",
    "@TLS",
    "EHLO client.example",
    "AUTH PLAIN AGpvaG5AZXhhbXBsZS5vcmcAc2VjcmV0",
    "MAIL FROM:<john@example.org> AUTH=j+40example.org",
    "RCPT TO:<jane@example.org>",
    "QUIT",
];

#[test]
fn an_answer_without_end_is_given_up() {
    let policy = PolicyServer::start();
    let server = plain(&format!(
        "smtpd_policy_service_timeout = 30s\n\
         smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service inet:{}\n\
         virtual_alias_maps = inline:{{endless@example.org=john@example.org,lines@example.org=john@example.org}}\n",
        policy.address
    ));
    for word in ["endless", "lines"] {
        let mut client = server.smtp();
        client.command("MAIL FROM:<a@b.example>", 250);
        let reply = client.ask(&format!("RCPT TO:<{word}@example.org>"));
        assert_eq!(reply.code, 451, "{reply:?}");
        assert!(
            reply.text.contains("Server configuration problem"),
            "{reply:?}"
        );
    }
    assert!(
        server
            .log()
            .contains("answer of more than 65536 bytes in input from"),
        "{}",
        server.log()
    );
}

#[test]
fn connections_are_kept_and_a_lost_one_is_replaced_at_once() {
    let policy = PolicyServer::start();
    let server = plain(&format!(
        "smtpd_policy_service_retry_delay = 1h\n\
         smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service inet:{}\n\
         virtual_alias_maps = inline:{{x@example.org=john@example.org}}\n",
        policy.address
    ));
    let mut client = server.smtp();
    client.command("MAIL FROM:<a@b.example>", 250);
    for _ in 0..3 {
        client.command("RCPT TO:<x@example.org>", 250);
    }
    assert_eq!(policy.connections(), 1);
    policy.hang_up();
    client.command("RCPT TO:<x@example.org>", 250);
    assert_eq!(policy.connections(), 2);
}

#[test]
fn what_nobody_asked_for_is_no_answer_to_the_next_request() {
    let policy = PolicyServer::start();
    let server = plain(&format!(
        "smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service inet:{}\n\
         virtual_alias_maps = inline:{{chatter@example.org=john@example.org}}\n",
        policy.address
    ));
    let mut client = server.smtp();
    client.command("MAIL FROM:<a@b.example>", 250);
    for round in 1..=3 {
        client.command("RCPT TO:<chatter@example.org>", 250);
        testkit::wait_for("the rest of the answer", PATIENCE, || {
            (policy.answered() == round * 2 - 1).then_some(())
        });
        client.command("RCPT TO:<john@example.org>", 250);
        testkit::wait_for("the answer", PATIENCE, || {
            (policy.answered() == round * 2).then_some(())
        });
    }
}

#[test]
fn the_leaves_of_an_alias_are_asked_about() {
    let policy = PolicyServer::start();
    let main_cf = format!(
        "smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service inet:{0}\n\
         postroom_policy_at_leaf = inet:{0}\n\
         virtual_mailbox_maps = static:x\n\
         virtual_alias_maps = inline:{{{{one@example.org = full@example.org}},\
         {{both@example.org = full@example.org, bye@example.org}},\
         {{some@example.org = full@example.org, jane@example.org}},\
         {{self@example.org = self@example.org, full@example.org}},\
         {{twice@example.org = jane@example.org, jane@example.org}}}}\n",
        policy.address
    );
    let server = plain(&main_cf);
    let mut client = server.smtp();
    client.command("MAIL FROM:<a@b.example>", 250);
    for (recipient, reply, asked) in [
        (
            "one",
            "552 5.2.2 <one@example.org>: Recipient address rejected: Mailbox is full",
            "one full",
        ),
        (
            "both",
            "450 4.7.1 <both@example.org>: Recipient address rejected: come back",
            "both full bye",
        ),
        ("some", "250 2.1.5 Ok", "some full jane"),
        ("self", "250 2.1.5 Ok", "self full"),
        ("twice", "250 2.1.5 Ok", "twice jane"),
    ] {
        let before = policy.requests().len();
        let answer = client.ask(&format!("RCPT TO:<{recipient}@example.org>"));
        assert_eq!(line(&answer), reply);
        let new = &policy.requests()[before..];
        let of = |request: &String| {
            let line = request
                .lines()
                .find_map(|line| line.strip_prefix("recipient="));
            line.and_then(|address| address.split('@').next())
                .map(str::to_owned)
        };
        let recipients: Vec<String> = new.iter().filter_map(of).collect();
        assert_eq!(recipients.join(" "), asked);
    }
    server.wait_log("some@example.org leads to what");
    // explain shows the service and leaves it alone, unless told otherwise.
    let conf = server.site.conf().display().to_string();
    let before = policy.requests().len();
    let shown = text(&postroom(&["explain", "-c", &conf, "one@example.org"]).stdout);
    assert!(shown.contains("one@example.org: accepted"), "{shown}");
    assert!(shown.contains("full@example.org  not asked"), "{shown}");
    assert_eq!(policy.requests().len(), before);
    let shown =
        text(&postroom(&["explain", "-c", &conf, "--ask-services", "one@example.org"]).stdout);
    assert!(shown.contains("one@example.org: refused"), "{shown}");
    assert!(
        shown.contains("full@example.org  552 5.2.2 Mailbox is full"),
        "{shown}"
    );
}

#[test]
fn mail_for_a_full_mailbox_is_refused_by_dovecot_quota_status() {
    if !testkit::peers() {
        return;
    }
    let site = Site::new(
        "virtual_mailbox_domains = example.org\n\
         virtual_mailbox_maps = inline:{john@example.org=x,jane@example.org=x}\n\
         virtual_alias_maps = inline:{sales@example.org=john@example.org}\n\
         virtual_transport = lmtp:unix:private/dovecot-lmtp\n\
         smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service unix:private/quota-status\n\
         postroom_policy_at_leaf = unix:private/quota-status\n",
        "",
        &[],
    );
    let private = site.spool().join("private");
    let postfix = testkit::account("postfix");
    let dovecot = Dovecot::with(DovecotOptions {
        users: vec![
            ("john@example.org".into(), "j".into()),
            ("jane@example.org".into(), "k".into()),
        ],
        lmtp_socket: Some(private.join("dovecot-lmtp")),
        extra: format!(
            "mail_plugins = quota\n\
             service quota-status {{\n executable = quota-status -p postfix\n \
             unix_listener {}/quota-status {{\n mode = 0660\n user = {}\n }}\n client_limit = 1\n}}\n\
             plugin {{\n quota = maildir:User quota\n quota_rule = *:storage=20K\n quota_grace = 0\n \
             quota_status_success = DUNNO\n quota_status_nouser = DUNNO\n \
             quota_status_overquota = 552 5.2.2 Mailbox is full and cannot receive any more emails\n}}\n",
            private.display(),
            postfix.name
        ),
        ..DovecotOptions::default()
    });
    let server = start(site);
    let mut client = server.smtp();
    let body =
        message("first") + &"This line fills the mailbox up, slowly but surely.\n".repeat(350);
    let (_, end) = client.message(SENDER, &["john@example.org"], &body);
    assert_eq!(end.map(|reply| reply.code), Some(250));
    server.wait_log("status=sent");
    client.command(&format!("MAIL FROM:<{SENDER}> SIZE=5000"), 250);
    let reply = line(&client.ask("RCPT TO:<john@example.org>"));
    let refused = "552 5.2.2 <john@example.org>: Recipient address rejected: Mailbox is full and cannot receive any more emails";
    assert_eq!(reply, refused, "{}", dovecot.log());
    let reply = line(&client.ask("RCPT TO:<sales@example.org>"));
    assert_eq!(reply, refused.replace("john@", "sales@"));
    client.command("RCPT TO:<jane@example.org>", 250);
}

#[test]
fn postgrey_greylists() {
    if !testkit::peers() {
        return;
    }
    let folder = TempDir::new();
    testkit::tempdir::set_mode(folder.path(), 0o777);
    let port = free_port();
    let mut command = Command::new(require("postgrey"));
    command.arg(format!("--inet=127.0.0.1:{port}"));
    command.arg(format!("--dbdir={}", folder.str()));
    command.args(["--delay=2", "--user=nobody", "--group=nogroup"]);
    let mut postgrey = Process::spawn(command, &folder.join("log"), folder.path(), Signal::SIGTERM);
    postgrey.wait_ready("postgrey", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let server = plain(&format!(
        "smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service inet:127.0.0.1:{port}\n"
    ));
    let mut client = server.smtp();
    client.command("MAIL FROM:<a@b.example>", 250);
    let reply = line(&client.ask("RCPT TO:<john@example.org>"));
    assert!(
        reply.starts_with("450 4.2.0 <john@example.org>: Recipient address rejected: Greylisted"),
        "{reply}\n{}",
        postgrey.log()
    );
    testkit::wait_for("the end of greylisting", PATIENCE, || {
        let code = client.ask("RCPT TO:<john@example.org>").code;
        (code == 250).then_some(())
    });
}
