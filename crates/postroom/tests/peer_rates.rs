//! How often a client may come: the limits of `smtpd_client_…_limit`, with one configuration under real Postfix and
//! under Postroom. Replies and warnings are the same.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use support::{BINARY, PATIENCE, PROMPT_AUTH};
use testkit::smtp::Reply;
use testkit::tls::{Dialogue, talk};
use testkit::{
    Certificates, Dovecot, DovecotOptions, MailServer, Postfix, Site, Smtp, free_port, wait_for,
};

/// Each service with its settings. Every dialogue has a service of its own unless it is to go on with the counts of the one
/// before.
const SERVICES: &[(&str, &[&str])] = &[
    ("connections", &["smtpd_client_connection_rate_limit=2"]),
    (
        "messages",
        &[
            "smtpd_client_message_rate_limit=2",
            "smtpd_helo_required=yes",
        ],
    ),
    (
        "refused",
        &[
            "smtpd_client_message_rate_limit=2",
            "smtpd_delay_reject=no",
            "smtpd_sender_restrictions=check_sender_access,inline:{bad@b.example=REJECT}",
        ],
    ),
    ("recipients", &["smtpd_client_recipient_rate_limit=2"]),
    ("auths", &["smtpd_client_auth_rate_limit=2"]),
    ("sessions", &["smtpd_client_new_tls_session_rate_limit=1"]),
    (
        "wrapped",
        &[
            "smtpd_client_new_tls_session_rate_limit=1",
            "smtpd_tls_wrappermode=yes",
        ],
    ),
    (
        "exempt",
        &[
            "smtpd_client_message_rate_limit=1",
            "smtpd_client_connection_rate_limit=1",
            "smtpd_client_event_limit_exceptions=127.0.0.0/8",
        ],
    ),
];

const ENVELOPE: &[&str] = &[
    "MAIL FROM:<a@b.example>",
    "RCPT TO:<jane@example.org>",
    "RSET",
];

fn dialogues() -> Vec<(&'static str, Vec<&'static str>)> {
    let envelopes = |times: usize| -> Vec<&str> {
        let mut lines = vec!["EHLO c"];
        (0..times).for_each(|_| lines.extend(ENVELOPE));
        lines.push("QUIT");
        lines
    };
    vec![
        ("connections", vec!["EHLO c", "QUIT"]),
        ("connections", vec!["EHLO c", "QUIT"]),
        ("connections", vec![]),
        (
            "messages",
            vec![
                "MAIL FROM:<a@b.example>",
                "EHLO c",
                "MAIL FOO",
                "MAIL FROM:<a@b.example>",
                "MAIL FROM:<a@b.example>",
                "RSET",
                "MAIL FROM:x y",
                "MAIL FROM:<a@b.example>",
                "RCPT TO:<jane@example.org>",
                "QUIT",
            ],
        ),
        ("messages", envelopes(1)),
        (
            "refused",
            vec![
                "EHLO c",
                "MAIL FROM:<bad@b.example>",
                "MAIL FROM:<a@b.example> FOO=1",
                "MAIL FROM:<a@b.example>",
                "MAIL FROM:<a@b.example> SIZE=9999999999",
                "QUIT",
            ],
        ),
        (
            "recipients",
            vec![
                "EHLO c",
                "RCPT TO:<jane@example.org>",
                "MAIL FROM:<a@b.example>",
                "RCPT FOO",
                "RCPT TO:<a@else.example>",
                "RCPT TO:x y",
                "RCPT TO:<jane@example.org>",
                "RCPT FOO",
                "DATA",
                "QUIT",
            ],
        ),
        ("recipients", envelopes(1)),
        (
            "auths",
            vec![
                "EHLO c",
                "AUTH",
                "AUTH PLAIN AGEAYg==",
                "AUTH PLAIN AGEAYg==",
                "MAIL FROM:<a@b.example>",
                "AUTH A B C",
                "RCPT TO:<jane@example.org>",
                "QUIT",
            ],
        ),
        (
            "sessions",
            vec!["EHLO c", "STARTTLS", "@TLS", "EHLO c", "QUIT"],
        ),
        ("sessions", vec!["EHLO c", "STARTTLS", "@TLS"]),
        ("sessions", vec!["EHLO c", "STARTTLS", "EHLO c", "QUIT"]),
        ("wrapped", vec!["EHLO c", "QUIT"]),
        ("wrapped", vec![]),
        ("exempt", envelopes(3)),
        ("exempt", envelopes(1)),
    ]
}

fn site(certificates: &Certificates, auth: &Path) -> (Site, BTreeMap<&'static str, u16>) {
    let (certificate, key) = certificates.pair("rsa");
    let main_cf = format!(
        "mynetworks = 10.0.0.0/8
virtual_mailbox_domains = example.org
virtual_mailbox_maps = inline:{{jane@example.org=example.org/jane/}}
smtpd_tls_security_level = may
smtpd_tls_cert_file = {}
smtpd_tls_key_file = {}
smtpd_sasl_type = dovecot
smtpd_sasl_path = {}
smtpd_sasl_auth_enable = yes
smtpd_error_sleep_time = 0
anvil_rate_time_unit = 1h
",
        certificate.display(),
        key.display(),
        auth.display()
    );
    let mut master = String::from("tlsmgr unix - - n 1000? 1 tlsmgr\n");
    let mut ports = BTreeMap::new();
    for (name, settings) in SERVICES {
        let port = free_port();
        ports.insert(*name, port);
        master += &format!("127.0.0.1:{port} inet n - n - - smtpd\n");
        settings
            .iter()
            .for_each(|setting| master += &format!("  -o {setting}\n"));
    }
    (Site::new(&main_cf, &master, &[]), ports)
}

/// Replies, and warnings in their order; the service by its name.
fn run(server: &MailServer, ports: &BTreeMap<&str, u16>) -> (Vec<Vec<String>>, Vec<String>) {
    let spoken: Vec<Dialogue> = dialogues()
        .into_iter()
        .map(|(service, lines)| Dialogue {
            port: ports[service],
            wrapped: service == "wrapped",
            certificate: None,
            tls12: false,
            server_name: None,
            lines: lines.into_iter().map(str::to_owned).collect(),
        })
        .collect();
    let replies = talk(&spoken);
    let ended = |log: &str| log.matches(" disconnect from ").count() >= spoken.len();
    let log = wait_for("the end of all sessions", PATIENCE, || {
        Some(server.log()).filter(|log| ended(log))
    });
    let warnings = log
        .lines()
        .filter(|line| line.contains("for service ") || line.contains("reject:"))
        .filter_map(|line| {
            let (_, text) = line.split_once("]: ")?;
            let mut text = text.to_owned();
            for (name, port) in ports {
                text = text.replace(&format!("127.0.0.1:{port}"), name);
            }
            Some(text)
        });
    let warnings = warnings.collect();
    let replies = replies
        .into_iter()
        .map(|all| {
            all.iter()
                .map(|reply| {
                    reply
                        .replace("\n250 CHUNKING", "")
                        .replace("250-SMTPUTF8", "250 SMTPUTF8")
                })
                .collect()
        })
        .collect();
    (replies, warnings)
}

#[test]
fn limits_are_postfixs() {
    if !testkit::peers() {
        return;
    }
    let certificates = Certificates::new();
    certificates.self_signed("rsa", "rsa:2048", "/CN=mail.host.example");
    let dovecot = Dovecot::with(DovecotOptions {
        users: vec![("john@example.org".into(), "secret".into())],
        extra: PROMPT_AUTH.to_owned(),
        ..DovecotOptions::default()
    });
    let (site_of_theirs, ports) = site(&certificates, &dovecot.auth_socket);
    let theirs = run(&Postfix::on(site_of_theirs), &ports);
    let (site_of_ours, ports) = site(&certificates, &dovecot.auth_socket);
    let ours = run(
        &MailServer::postroom(Path::new(BINARY), site_of_ours),
        &ports,
    );
    for ((service, lines), (theirs, ours)) in dialogues().iter().zip(theirs.0.iter().zip(&ours.0)) {
        assert_eq!(theirs, ours, "{service} {lines:?}: Postfix, then Postroom");
    }
    assert!(theirs.1.len() > 8, "{:?}", theirs.1);
    assert_eq!(theirs.1, ours.1);
}

#[test]
fn a_client_may_have_only_so_many_connections_at_once() {
    if !testkit::peers() {
        return;
    }
    let seen = |start: fn(Site) -> MailServer| {
        // Not the service that is asked whether the server is up.
        let port = free_port();
        let service = format!(
            "127.0.0.1:{port} inet n - n - - smtpd\n  -o smtpd_client_connection_count_limit=2\n"
        );
        let server = start(Site::new("mynetworks = 10.0.0.0/8\n", &service, &[]));
        // A connection to see whether it is there would count: the kernel knows, too.
        let listening = format!(":{port:04X} 00000000:0000 0A");
        wait_for("the service", PATIENCE, || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").ok()?;
            sockets.contains(&listening).then_some(())
        });
        let greet = || {
            let mut client = Smtp::connect(port);
            let greeting = client.reply();
            (client, greeting)
        };
        let mut held: Vec<(Smtp, Reply)> = (0..3).map(|_| greet()).collect();
        let warned =
            format!("limit exceeded: 3 from unknown[127.0.0.1] for service 127.0.0.1:{port}");
        server.wait_log(&warned);
        // The one that was refused has left its place, too.
        let good_bye = held[0].0.ask("QUIT");
        server.wait_log("quit=1");
        let again = greet().1;
        let greetings: Vec<Reply> = held.into_iter().map(|(_, greeting)| greeting).collect();
        (greetings, good_bye, again)
    };
    let theirs = seen(Postfix::on);
    let ours = seen(|site| MailServer::postroom(Path::new(BINARY), site));
    assert_eq!(theirs, ours);
}
