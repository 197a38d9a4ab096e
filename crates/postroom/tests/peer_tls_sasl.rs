//! TLS and SASL dialogues with one configuration under real Postfix and under Postroom: the replies, the stored
//! `Received:` headers and the log lines are the same. The client is Python's `ssl`, the passwords are Dovecot's.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use support::{BINARY, PATIENCE};
use testkit::tls::{Dialogue, talk};
use testkit::{
    Certificates, Dovecot, DovecotOptions, MailServer, Postfix, Site, free_port, wait_for,
};

const MAIN: &str = "\
mynetworks = 10.0.0.0/8
virtual_mailbox_domains = example.org
virtual_mailbox_maps = inline:{john@example.org=example.org/john/,jane@example.org=example.org/jane/}
default_transport = discard:
smtpd_tls_security_level = may
smtpd_tls_cert_file = @CERTS@/rsa.pem
smtpd_tls_key_file = @CERTS@/rsa.key
smtpd_tls_loglevel = 1
smtpd_tls_received_header = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = @AUTH@
smtpd_sasl_auth_enable = yes
smtpd_sasl_authenticated_header = yes
smtpd_sender_login_maps = inline:{{john@example.org=john@example.org},{jane@example.org=boss@example.org JOHN@example.org},{@boss.example=boss@example.org}}
relay_clientcerts = inline:{@FINGERPRINT@=x}
";

/// What each service adds to main.cf.
const SERVICES: &[(&str, &[&str])] = &[
    ("plain", &[]),
    (
        "bare",
        &["smtpd_sasl_auth_enable=no", "smtpd_tls_security_level=none"],
    ),
    (
        "submission",
        &[
            "smtpd_tls_security_level=encrypt",
            "smtpd_tls_auth_only=yes",
        ],
    ),
    ("wrapped", &["smtpd_tls_wrappermode=yes"]),
    ("keyless", &["smtpd_tls_cert_file=", "smtpd_tls_key_file="]),
    (
        "asking",
        &["smtpd_tls_ask_ccert=yes", "smtpd_tls_CAfile=@CERTS@/ca.pem"],
    ),
    (
        "strict",
        &[
            "smtpd_tls_req_ccert=yes",
            "smtpd_tls_security_level=encrypt",
            "smtpd_tls_CAfile=@CERTS@/ca.pem",
        ],
    ),
    (
        "relay",
        &[
            "smtpd_tls_ask_ccert=yes",
            "smtpd_tls_CAfile=@CERTS@/ca.pem",
            "smtpd_relay_restrictions=permit_tls_clientcerts,reject",
        ],
    ),
    (
        "trusted",
        &[
            "smtpd_tls_ask_ccert=yes",
            "smtpd_tls_CAfile=@CERTS@/ca.pem",
            "smtpd_relay_restrictions=permit_tls_all_clientcerts,reject",
        ],
    ),
    (
        "ccert",
        &[
            "smtpd_tls_ask_ccert=yes",
            "smtpd_client_restrictions=check_ccert_access,inline:{@FINGERPRINT@=REJECT}",
        ],
    ),
    (
        "two",
        &[
            "smtpd_tls_eccert_file=@CERTS@/ec.pem",
            "smtpd_tls_eckey_file=@CERTS@/ec.key",
        ],
    ),
    (
        "chains",
        &[
            "smtpd_tls_chain_files=@CERTS@/ed.key,@CERTS@/ed.pem",
            "smtpd_tls_cert_file=",
        ],
    ),
    (
        "noplain",
        &[
            "smtpd_sasl_security_options=noanonymous,noplaintext",
            "smtpd_sasl_tls_security_options=noanonymous",
        ],
    ),
    (
        "broken",
        &[
            "broken_sasl_auth_clients=yes",
            "smtpd_sasl_exceptions_networks=",
        ],
    ),
    ("exempt", &["smtpd_sasl_exceptions_networks=127.0.0.0/8"]),
    ("filtered", &["smtpd_sasl_mechanism_filter=plain"]),
    (
        "owners",
        &["smtpd_sender_restrictions=reject_sender_login_mismatch"],
    ),
    (
        "known",
        &["smtpd_sender_restrictions=reject_known_sender_login_mismatch"],
    ),
    (
        "authed",
        &["smtpd_sender_restrictions=reject_authenticated_sender_login_mismatch"],
    ),
    (
        "unauthed",
        &["smtpd_sender_restrictions=reject_unauthenticated_sender_login_mismatch"],
    ),
    (
        "inactive",
        &[
            "smtpd_sender_restrictions=reject_sender_login_mismatch",
            "smtpd_tls_auth_only=yes",
        ],
    ),
    (
        "secret",
        &["smtpd_client_restrictions=reject_plaintext_session"],
    ),
    (
        "banned",
        &["smtpd_sender_restrictions=check_sasl_access,inline:{john@example.org=REJECT}"],
    ),
    ("hidden", &["smtpd_discard_ehlo_keywords=starttls,auth"]),
    ("old", &["smtpd_tls_security_level=", "smtpd_use_tls=yes"]),
    (
        "older",
        &["smtpd_tls_security_level=", "smtpd_enforce_tls=yes"],
    ),
];

/// `service`, what the client has (`rsa`, `ed`, … the name of a certificate; `tls1.2`), the lines. `TLS` stands for STARTTLS,
/// the handshake and EHLO; `JOHN` for the right password, `WRONG` for a wrong one, `MESSAGE` for a message to jane.
const DIALOGUES: &[(&str, &str, &[&str])] = &[
    ("plain", "", &["EHLO c", "QUIT"]),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "AUTH",
            "AUTH PLAIN x x",
            "AUTH FOO",
            "AUTH FOO x",
            "AUTH PLAIN !!!",
            "AUTH PLAIN =",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "AUTH PLAIN WRONG",
            "AUTH PLAIN JOHN",
            "AUTH PLAIN JOHN",
            "AUTH",
            "EHLO c",
            "AUTH LOGIN",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "AUTH LOGIN",
            "*",
            "AUTH LOGIN",
            "am9obkBleGFtcGxlLm9yZw==",
            "*",
            "NOOP",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "AUTH LOGIN",
            "am9obkBleGFtcGxlLm9yZw==",
            "d3Jvbmc=",
            "AUTH LOGIN am9obkBleGFtcGxlLm9yZw==",
            "c2VjcmV0",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "AUTH PLAIN",
            "!!!",
            "AUTH PLAIN",
            "",
            "AUTH PLAIN",
            "JOHN",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "AUTH ANONYMOUS eA==",
            "AUTH EXTERNAL",
            "auth plain JOHN",
            "MESSAGE",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &["AUTH PLAIN JOHN", "HELO c", "MESSAGE", "QUIT"],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "MAIL FROM:<a@b.example>",
            "AUTH PLAIN JOHN",
            "AUTH",
            "RSET",
            "AUTH PLAIN JOHN",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "MAIL FROM:<a@b.example> AUTH=<>",
            "RSET",
            "MAIL FROM:<a@b.example> AUTH=b+40c",
            "RCPT TO:<x@else.example>",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<a@b.example> AUTH=b+40c",
            "RCPT TO:<x@else.example>",
            "RSET",
            "MAIL FROM:<a@b.example> AUTH=<>",
            "RCPT TO:<x@else.example>",
            "RSET",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<a@b.example>",
            "STARTTLS",
            "@TLS",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "EHLO c",
            "AUTH PLAIN JOHN",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "STARTTLS x",
            "STARTTLS",
            "@TLS",
            "STARTTLS",
            "EHLO c",
            "MESSAGE",
            "QUIT",
        ],
    ),
    (
        "plain",
        "",
        &[
            "EHLO c",
            "STARTTLS\r\nNOOP\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:<jane@example.org>",
            "@TLS",
            "RCPT TO:<jane@example.org>",
            "NOOP",
            "QUIT",
        ],
    ),
    ("plain", "tls1.2", &["TLS", "MESSAGE", "QUIT"]),
    (
        "plain",
        "",
        &[
            "STARTTLS",
            "@TLS",
            "HELO c",
            "AUTH PLAIN JOHN",
            "MESSAGE",
            "QUIT",
        ],
    ),
    ("plain", "", &["STARTTLS", "@TLS", "MESSAGE", "QUIT"]),
    (
        "plain",
        "",
        &[
            "TLS",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<john@example.org> SMTPUTF8",
            "RCPT TO:<jane@example.org>",
            "DATA",
            "CONTENT",
            "QUIT",
        ],
    ),
    (
        "bare",
        "",
        &[
            "EHLO c",
            "STARTTLS",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<a@b.example> AUTH=<>",
            "QUIT",
        ],
    ),
    (
        "submission",
        "",
        &[
            "EHLO c",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<a@b>",
            "DATA",
            "RSET",
            "VRFY x",
            "ETRN x",
            "HELP",
            "FOO",
            "NOOP",
            "HELO c",
            "AUTH",
            "QUIT",
        ],
    ),
    (
        "submission",
        "",
        &[
            "TLS",
            "MAIL FROM:<john@example.org>",
            "RCPT TO:<x@else.example>",
            "RSET",
            "AUTH PLAIN WRONG",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<john@example.org>",
            "RCPT TO:<x@else.example>",
            "RSET",
            "MESSAGE",
            "QUIT",
        ],
    ),
    (
        "wrapped",
        "",
        &["EHLO c", "STARTTLS", "AUTH PLAIN JOHN", "MESSAGE", "QUIT"],
    ),
    ("wrapped", "tls1.2", &["EHLO c", "QUIT"]),
    ("keyless", "", &["EHLO c", "STARTTLS", "NOOP", "QUIT"]),
    ("asking", "", &["TLS", "MESSAGE", "QUIT"]),
    ("asking", "client", &["TLS", "MESSAGE", "QUIT"]),
    ("asking", "stranger", &["TLS", "MESSAGE", "QUIT"]),
    ("asking", "client tls1.2", &["TLS", "MESSAGE", "QUIT"]),
    ("asking", "ed", &["TLS", "MESSAGE", "QUIT"]),
    ("strict", "", &["EHLO c", "STARTTLS", "@TLS", "EHLO c"]),
    (
        "strict",
        "stranger",
        &["EHLO c", "STARTTLS", "@TLS", "EHLO c"],
    ),
    ("strict", "client", &["TLS", "MESSAGE", "QUIT"]),
    (
        "relay",
        "client",
        &[
            "TLS",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<x@else.example>",
            "QUIT",
        ],
    ),
    (
        "relay",
        "stranger",
        &[
            "TLS",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<x@else.example>",
            "QUIT",
        ],
    ),
    (
        "relay",
        "",
        &[
            "TLS",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<x@else.example>",
            "QUIT",
        ],
    ),
    (
        "trusted",
        "client",
        &[
            "TLS",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<x@else.example>",
            "QUIT",
        ],
    ),
    (
        "trusted",
        "stranger",
        &[
            "TLS",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<x@else.example>",
            "QUIT",
        ],
    ),
    (
        "ccert",
        "client",
        &[
            "TLS",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    (
        "ccert",
        "stranger",
        &[
            "TLS",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    ("two", "", &["TLS", "MESSAGE", "QUIT"]),
    ("two", "tls1.2", &["TLS", "MESSAGE", "QUIT"]),
    ("chains", "", &["TLS", "MESSAGE", "QUIT"]),
    (
        "noplain",
        "",
        &[
            "EHLO c",
            "AUTH PLAIN JOHN",
            "TLS",
            "AUTH PLAIN JOHN",
            "QUIT",
        ],
    ),
    ("broken", "", &["EHLO c", "QUIT"]),
    ("exempt", "", &["EHLO c", "AUTH PLAIN JOHN", "QUIT"]),
    (
        "filtered",
        "",
        &["EHLO c", "AUTH LOGIN", "AUTH PLAIN JOHN", "QUIT"],
    ),
    (
        "owners",
        "",
        &[
            "EHLO c",
            "MAIL FROM:<john@example.org>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "MAIL FROM:<>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "MAIL FROM:<x@boss.example>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    (
        "owners",
        "",
        &[
            "EHLO c",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<john@example.org>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "MAIL FROM:<JANE@example.org>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "MAIL FROM:<jane+x@example.org>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "MAIL FROM:<x@boss.example>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "MAIL FROM:<>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    (
        "known",
        "",
        &[
            "EHLO c",
            "MAIL FROM:<john@example.org>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "MAIL FROM:<x@boss.example>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    (
        "authed",
        "",
        &[
            "EHLO c",
            "MAIL FROM:<john@example.org>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<x@boss.example>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    (
        "unauthed",
        "",
        &[
            "EHLO c",
            "MAIL FROM:<john@example.org>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<x@boss.example>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    (
        "inactive",
        "",
        &[
            "EHLO c",
            "MAIL FROM:<john@example.org>",
            "RCPT TO:<jane@example.org>",
            "RSET",
            "TLS",
            "MAIL FROM:<john@example.org>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    (
        "secret",
        "",
        &[
            "EHLO c",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<jane@example.org>",
            "TLS",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    (
        "banned",
        "",
        &[
            "EHLO c",
            "AUTH PLAIN JOHN",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<jane@example.org>",
            "QUIT",
        ],
    ),
    (
        "hidden",
        "",
        &["EHLO c", "STARTTLS", "AUTH PLAIN JOHN", "QUIT"],
    ),
    ("old", "", &["EHLO c", "MAIL FROM:<a@b.example>", "QUIT"]),
    ("older", "", &["EHLO c", "MAIL FROM:<a@b.example>", "QUIT"]),
];

/// base64 of NUL, john's address, NUL, a password.
const JOHN: &str = "AGpvaG5AZXhhbXBsZS5vcmcAc2VjcmV0";
const WRONG: &str = "AGpvaG5AZXhhbXBsZS5vcmcAd3Jvbmc=";

struct Setting {
    certificates: Certificates,
    auth: PathBuf,
}

impl Setting {
    fn expand(&self, text: &str) -> String {
        let folder = self.certificates.certificate("rsa");
        let folder = folder.parent().expect("a file lies in a folder");
        text.replace("@CERTS@", &folder.display().to_string())
            .replace("@AUTH@", &self.auth.display().to_string())
            .replace("@FINGERPRINT@", &self.certificates.fingerprint("client"))
    }

    /// A site with all services, and the port of each.
    fn site(&self) -> (Site, BTreeMap<&'static str, u16>) {
        let mut master = String::from("tlsmgr unix - - n 1000? 1 tlsmgr\n");
        let mut ports = BTreeMap::new();
        for (name, settings) in SERVICES {
            let port = free_port();
            ports.insert(*name, port);
            master += &format!("127.0.0.1:{port} inet n - n - - smtpd\n");
            for setting in *settings {
                // A blank would end the value.
                master += &format!("  -o {}\n", self.expand(setting));
            }
        }
        (Site::new(&self.expand(MAIN), &master, &[]), ports)
    }

    fn dialogue(&self, at: usize, ports: &BTreeMap<&str, u16>) -> Dialogue {
        let (service, client, lines) = DIALOGUES[at];
        let certificate = client
            .split(' ')
            .find(|word| !word.is_empty() && *word != "tls1.2");
        let mut spoken: Vec<String> = Vec::new();
        for line in lines {
            match *line {
                "TLS" => spoken.extend(["STARTTLS", "@TLS", "EHLO c"].map(str::to_owned)),
                "MESSAGE" => {
                    let envelope = [
                        "MAIL FROM:<john@example.org>",
                        "RCPT TO:<jane@example.org>",
                        "DATA",
                    ];
                    spoken.extend(envelope.map(str::to_owned));
                    spoken.push(content(at));
                }
                "CONTENT" => spoken.push(content(at)),
                line => spoken.push(line.replace("JOHN", JOHN).replace("WRONG", WRONG)),
            }
        }
        Dialogue {
            port: ports[service],
            wrapped: service == "wrapped",
            certificate: certificate.map(|name| self.certificates.pair(name)),
            tls12: client.contains("tls1.2"),
            server_name: None,
            lines: spoken,
        }
    }
}

fn content(at: usize) -> String {
    format!("Subject: dialogue-{at}\r\n\r\ntext\r\n.")
}

/// What a server has said, stored and logged.
struct Outcome {
    replies: Vec<Vec<String>>,
    received: BTreeMap<String, String>,
    log: Vec<String>,
}

fn run(server: &MailServer, setting: &Setting, ports: &BTreeMap<&str, u16>) -> Outcome {
    let dialogues: Vec<Dialogue> = (0..DIALOGUES.len())
        .map(|at| setting.dialogue(at, ports))
        .collect();
    let replies = talk(&dialogues);
    let accepted = replies.iter().flatten();
    let accepted = accepted.filter(|reply| reply.contains("queued as")).count();
    let mailbox = wait_for("the messages in jane's mailbox", PATIENCE, || {
        let mail = server.site.maildir("example.org/jane");
        (mail.len() == accepted).then_some(mail)
    });
    server.wait_log("removed");
    let received = mailbox.iter().map(|mail| received(mail)).collect();
    Outcome {
        replies: replies
            .into_iter()
            .map(|all| all.iter().map(|reply| mask(reply)).collect())
            .collect(),
        received,
        log: log_lines(&server.log()),
    }
}

/// The subject, and the first header without what differs in every message.
fn received(mail: &str) -> (String, String) {
    let subject = mail.lines().find(|line| line.starts_with("Subject: "));
    let mut lines = mail
        .lines()
        .skip_while(|line| !line.starts_with("Received: "));
    let mut header = lines.next().unwrap_or_default().to_owned();
    for line in lines.take_while(|line| line.starts_with(['\t', ' '])) {
        let line = line.split(" id ").next().unwrap_or(line);
        header += &format!("\n{}", line.split("; ").next().unwrap_or(line));
    }
    (subject.unwrap_or_default().to_owned(), header)
}

/// Keywords that Postroom does not have, queue ids and challenges.
fn mask(reply: &str) -> String {
    let reply = match reply.split_once("queued as ") {
        Some((head, _)) => format!("{head}queued as ID"),
        None => reply.to_owned(),
    };
    reply
        .replace("\n250 CHUNKING", "")
        .replace("250-SMTPUTF8", "250 SMTPUTF8")
}

/// smtpd's lines about TLS and SASL, without time and ids, sorted: two sessions may overlap.
fn log_lines(log: &str) -> Vec<String> {
    let wanted = [
        "TLS connection established",
        "sasl_method=",
        "SASL ",
        "abort: TLS",
        "reject: RCPT",
        "starttls=",
    ];
    let lines = log
        .lines()
        .filter(|line| wanted.iter().any(|word| line.contains(word)));
    let mut lines: Vec<String> = lines
        .filter_map(|line| {
            let (_, text) = line.split_once("]: ")?;
            let id = text.split_once(": client=");
            let text = id.map_or(text.to_owned(), |(_, rest)| format!("ID: client={rest}"));
            let forgets = "authentication failed: Invalid";
            // Postfix names whoever tried before in the same session.
            let text = match text.split_once(", sasl_username=") {
                Some((head, _)) if head.contains(forgets) => head.to_owned(),
                _ => text,
            };
            // That no SASL is active is no affair of ours.
            (!text.contains("ignored: no SASL support")).then_some(text)
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn replies_headers_and_log_lines_are_postfixs() {
    if !testkit::peers() {
        return;
    }
    let certificates = Certificates::new();
    certificates.self_signed("ca", "rsa:2048", "/O=Tests/CN=Test CA");
    certificates.self_signed("rsa", "rsa:2048", "/CN=mail.host.example");
    certificates.self_signed("ec", "prime256v1", "/CN=mail.host.example");
    certificates.self_signed("ed", "ed25519", "/CN=ed");
    certificates.signed("client", "secp384r1", "/O=Tests/CN=client one", "ca");
    certificates.self_signed("stranger", "rsa:2048", "/CN=stranger");
    let dovecot = Dovecot::with(DovecotOptions {
        users: vec![("john@example.org".into(), "secret".into())],
        extra: support::PROMPT_AUTH.to_owned(),
        ..DovecotOptions::default()
    });
    let setting = Setting {
        certificates,
        auth: dovecot.auth_socket.clone(),
    };
    let (site, ports) = setting.site();
    let theirs = run(&Postfix::on(site), &setting, &ports);
    let (site, ports) = setting.site();
    let ours = run(
        &MailServer::postroom(Path::new(BINARY), site),
        &setting,
        &ports,
    );

    let mut differences = Vec::new();
    for (at, (service, client, lines)) in DIALOGUES.iter().enumerate() {
        if theirs.replies[at] != ours.replies[at] {
            let (theirs, ours) = (&theirs.replies[at], &ours.replies[at]);
            differences.push(format!(
                "{service} {client} {lines:?}\n  {theirs:#?}\n  {ours:#?}"
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "Postfix, then Postroom:\n{}",
        differences.join("\n")
    );
    assert!(theirs.received.len() > 10);
    assert_eq!(theirs.received, ours.received);
    let missing = |from: &[String], of: &[String]| -> Vec<String> {
        let lacks = from.iter().filter(|line| !of.contains(line));
        lacks.cloned().collect()
    };
    let (lacking, extra) = (
        missing(&theirs.log, &ours.log),
        missing(&ours.log, &theirs.log),
    );
    assert!(
        lacking.is_empty() && extra.is_empty(),
        "lines of Postfix alone: {lacking:#?}\nof Postroom alone: {extra:#?}"
    );
    assert_eq!(theirs.log.len(), ours.log.len());
    let password = ["secret", "c2VjcmV0", JOHN, WRONG];
    assert!(
        !ours
            .log
            .iter()
            .any(|line| password.iter().any(|word| line.contains(word)))
    );
}
