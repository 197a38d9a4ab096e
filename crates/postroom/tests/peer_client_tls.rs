//! TLS and SASL towards other servers: one configuration under real Postfix and under Postroom, and a third, real
//! Postfix as the server they deliver to. What became of each message, and what the log says of TLS, is the same.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use support::{BINARY, PATIENCE, PROMPT_AUTH};
use testkit::{
    Certificates, Dovecot, DovecotOptions, MailServer, Postfix, Site, free_port, send_mail,
    wait_for,
};

/// The services of the server at the other end.
const SERVERS: &[(&str, &[&str])] = &[
    (
        "selfsigned",
        &[
            "smtpd_tls_security_level=may",
            "smtpd_tls_cert_file=@CERTS@/self.pem",
            "smtpd_tls_key_file=@CERTS@/self.key",
        ],
    ),
    ("plain", &["smtpd_tls_security_level=none"]),
    (
        "signed",
        &[
            "smtpd_tls_security_level=may",
            "smtpd_tls_cert_file=@CERTS@/signed.pem",
            "smtpd_tls_key_file=@CERTS@/signed.key",
        ],
    ),
    ("keyless", &["smtpd_tls_security_level=may"]),
    (
        "wrapped",
        &[
            "smtpd_tls_wrappermode=yes",
            "smtpd_tls_cert_file=@CERTS@/self.pem",
            "smtpd_tls_key_file=@CERTS@/self.key",
        ],
    ),
    (
        "must",
        &[
            "smtpd_tls_security_level=encrypt",
            "smtpd_tls_cert_file=@CERTS@/signed.pem",
            "smtpd_tls_key_file=@CERTS@/signed.key",
        ],
    ),
    (
        "newest",
        &[
            "smtpd_tls_security_level=may",
            "smtpd_tls_protocols=TLSv1.3",
            "smtpd_tls_cert_file=@CERTS@/signed.pem",
            "smtpd_tls_key_file=@CERTS@/signed.key",
        ],
    ),
    (
        "login",
        &[
            "smtpd_sasl_auth_enable=yes",
            "smtpd_relay_restrictions=permit_sasl_authenticated,reject",
        ],
    ),
    (
        "tlslogin",
        &[
            "smtpd_sasl_auth_enable=yes",
            "smtpd_relay_restrictions=permit_sasl_authenticated,reject",
            "smtpd_tls_security_level=may",
            "smtpd_tls_auth_only=yes",
            "smtpd_tls_cert_file=@CERTS@/signed.pem",
            "smtpd_tls_key_file=@CERTS@/signed.key",
        ],
    ),
];

const LOGIN: &str = "smtp_sasl_auth_enable=yes";
const ANY: &str = "smtp_sasl_security_options=noanonymous";

/// The transports: a name, the server, how it is named, the settings. `@NEXT@` stands for `[host]:port`.
const TRANSPORTS: &[(&str, &str, &str, &[&str])] = &[
    ("none", "selfsigned", "127.0.0.1", &[]),
    (
        "may",
        "selfsigned",
        "127.0.0.1",
        &["smtp_tls_security_level=may"],
    ),
    (
        "may-signed",
        "signed",
        "127.0.0.1",
        &["smtp_tls_security_level=may"],
    ),
    (
        "may-plain",
        "plain",
        "127.0.0.1",
        &["smtp_tls_security_level=may"],
    ),
    (
        "may-keyless",
        "keyless",
        "127.0.0.1",
        &["smtp_tls_security_level=may"],
    ),
    ("use", "signed", "127.0.0.1", &["smtp_use_tls=yes"]),
    ("enforce", "signed", "localhost", &["smtp_enforce_tls=yes"]),
    (
        "enforce-any",
        "selfsigned",
        "localhost",
        &["smtp_enforce_tls=yes", "smtp_tls_enforce_peername=no"],
    ),
    (
        "encrypt",
        "selfsigned",
        "127.0.0.1",
        &["smtp_tls_security_level=encrypt"],
    ),
    (
        "encrypt-plain",
        "plain",
        "127.0.0.1",
        &["smtp_tls_security_level=encrypt"],
    ),
    (
        "encrypt-keyless",
        "keyless",
        "127.0.0.1",
        &["smtp_tls_security_level=encrypt"],
    ),
    (
        "verify-self",
        "selfsigned",
        "127.0.0.1",
        &["smtp_tls_security_level=verify"],
    ),
    (
        "verify-address",
        "signed",
        "127.0.0.1",
        &["smtp_tls_security_level=verify"],
    ),
    (
        "verify",
        "signed",
        "localhost",
        &["smtp_tls_security_level=verify"],
    ),
    (
        "verify-nexthop",
        "signed",
        "localhost",
        &[
            "smtp_tls_security_level=verify",
            "smtp_tls_verify_cert_match=nexthop",
        ],
    ),
    (
        "secure",
        "signed",
        "localhost",
        &["smtp_tls_security_level=secure"],
    ),
    (
        "secure-other",
        "signed",
        "localhost",
        &[
            "smtp_tls_security_level=secure",
            "smtp_tls_secure_cert_match=other.example",
        ],
    ),
    (
        "secure-name",
        "signed",
        "localhost",
        &[
            "smtp_tls_security_level=secure",
            "smtp_tls_secure_cert_match=mail.host.example",
        ],
    ),
    (
        "secure-below",
        "signed",
        "localhost",
        &[
            "smtp_tls_security_level=secure",
            "smtp_tls_secure_cert_match=.host.example",
        ],
    ),
    (
        "no-authority",
        "signed",
        "localhost",
        &["smtp_tls_security_level=verify", "smtp_tls_CAfile="],
    ),
    // The server's own certificate is the authority.
    (
        "own-authority",
        "selfsigned",
        "localhost",
        &[
            "smtp_tls_security_level=verify",
            "smtp_tls_CAfile=@CERTS@/self.pem",
            "smtp_tls_verify_cert_match=mail.host.example",
        ],
    ),
    (
        "fingerprint",
        "selfsigned",
        "127.0.0.1",
        &[
            "smtp_tls_security_level=fingerprint",
            "smtp_tls_fingerprint_digest=sha256",
            "smtp_tls_fingerprint_cert_match=@FINGERPRINT@",
        ],
    ),
    (
        "fingerprint-other",
        "signed",
        "127.0.0.1",
        &[
            "smtp_tls_security_level=fingerprint",
            "smtp_tls_fingerprint_digest=sha256",
            "smtp_tls_fingerprint_cert_match=@FINGERPRINT@",
        ],
    ),
    (
        "wrapped",
        "wrapped",
        "127.0.0.1",
        &[
            "smtp_tls_wrappermode=yes",
            "smtp_tls_security_level=encrypt",
        ],
    ),
    (
        "wrapped-plain",
        "plain",
        "127.0.0.1",
        &[
            "smtp_tls_wrappermode=yes",
            "smtp_tls_security_level=encrypt",
        ],
    ),
    (
        "older",
        "newest",
        "127.0.0.1",
        &["smtp_tls_security_level=may", "smtp_tls_protocols=TLSv1.2"],
    ),
    (
        "older-patient",
        "newest",
        "127.0.0.1",
        &[
            "smtp_tls_security_level=may",
            "smtp_tls_protocols=TLSv1.2",
            "minimal_backoff_time=1s",
        ],
    ),
    (
        "older-must",
        "newest",
        "127.0.0.1",
        &[
            "smtp_tls_security_level=encrypt",
            "smtp_tls_mandatory_protocols=TLSv1.2",
            "minimal_backoff_time=1s",
        ],
    ),
    (
        "note",
        "selfsigned",
        "127.0.0.1",
        &["smtp_tls_note_starttls_offer=yes"],
    ),
    (
        "must",
        "must",
        "127.0.0.1",
        &["smtp_tls_security_level=none"],
    ),
    (
        "policy",
        "signed",
        "localhost",
        &["smtp_tls_policy_maps=inline:{{@NEXT@=secure match=mail.host.example}}"],
    ),
    (
        "policy-none",
        "signed",
        "localhost",
        &[
            "smtp_tls_security_level=encrypt",
            "smtp_tls_policy_maps=inline:{{@NEXT@=none}}",
        ],
    ),
    (
        "policy-bad",
        "signed",
        "localhost",
        &["smtp_tls_policy_maps=inline:{{@NEXT@=sometimes}}"],
    ),
    (
        "login",
        "login",
        "127.0.0.1",
        &[
            LOGIN,
            ANY,
            "smtp_sasl_password_maps=inline:{{@NEXT@=john@example.org:s3cret-word}}",
        ],
    ),
    (
        "login-plain",
        "login",
        "localhost",
        &[
            LOGIN,
            ANY,
            "smtp_sasl_mechanism_filter=plain",
            "smtp_sasl_password_maps=inline:{localhost=john@example.org:s3cret-word}",
        ],
    ),
    (
        "login-login",
        "login",
        "127.0.0.1",
        &[
            LOGIN,
            ANY,
            "smtp_sasl_mechanism_filter=login",
            "smtp_sasl_password_maps=inline:{{@NEXT@=john@example.org:s3cret-word}}",
        ],
    ),
    (
        "login-wrong",
        "login",
        "127.0.0.1",
        &[
            LOGIN,
            ANY,
            "smtp_sasl_mechanism_filter=plain",
            "smtp_sasl_password_maps=inline:{{@NEXT@=john@example.org:an0ther-word}}",
        ],
    ),
    (
        "login-hard",
        "login",
        "127.0.0.1",
        &[
            LOGIN,
            ANY,
            "smtp_sasl_auth_soft_bounce=no",
            "smtp_sasl_mechanism_filter=plain",
            "smtp_sasl_password_maps=inline:{{@NEXT@=john@example.org:an0ther-word}}",
        ],
    ),
    (
        "login-nothing",
        "login",
        "127.0.0.1",
        &[
            LOGIN,
            "smtp_sasl_mechanism_filter=plain",
            "smtp_sasl_password_maps=inline:{{@NEXT@=john@example.org:s3cret-word}}",
        ],
    ),
    (
        "login-stranger",
        "login",
        "127.0.0.1",
        &[LOGIN, ANY, "smtp_sasl_password_maps=inline:{x=y:z}"],
    ),
    (
        "login-unasked",
        "plain",
        "127.0.0.1",
        &[
            LOGIN,
            ANY,
            "smtp_sasl_password_maps=inline:{{@NEXT@=john@example.org:s3cret-word}}",
        ],
    ),
    (
        "login-sender",
        "login",
        "127.0.0.1",
        &[
            LOGIN,
            ANY,
            "smtp_sender_dependent_authentication=yes",
            "smtp_sasl_password_maps=inline:{s@sender.example=john@example.org:s3cret-word}",
        ],
    ),
    (
        "login-tls",
        "tlslogin",
        "127.0.0.1",
        &[
            LOGIN,
            ANY,
            "smtp_tls_security_level=may",
            "smtp_sasl_mechanism_filter=plain",
            "smtp_sasl_password_maps=inline:{{@NEXT@=john@example.org:s3cret-word}}",
        ],
    ),
];

struct Setting {
    certificates: Certificates,
    fingerprint: String,
}

impl Setting {
    fn expand(&self, text: &str) -> String {
        let folder = self.certificates.certificate("self");
        let folder = folder.parent().expect("a file lies in a folder");
        text.replace("@CERTS@", &folder.display().to_string())
            .replace("@FINGERPRINT@", &self.fingerprint)
    }

    /// The server at the other end, and the ports of its services.
    fn server(&self, auth: &Path) -> (MailServer, BTreeMap<&'static str, u16>) {
        let main_cf = format!(
            "mynetworks = 127.0.0.0/8\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n",
            auth.display()
        );
        let mut master = String::from("tlsmgr unix - - n 1000? 1 tlsmgr\n");
        let mut ports = BTreeMap::new();
        for (name, settings) in SERVERS {
            let port = free_port();
            ports.insert(*name, port);
            master +=
                &format!("127.0.0.1:{port} inet n - n - - smtpd\n  -o content_filter=discard:\n");
            for setting in *settings {
                master += &format!("  -o {}\n", self.expand(setting));
            }
        }
        (Postfix::on(Site::new(&main_cf, &master, &[])), ports)
    }

    /// The client that is tried.
    fn client(&self, ports: &BTreeMap<&str, u16>) -> Site {
        let mut transports = String::new();
        let mut master = String::from("tlsmgr unix - - n 1000? 1 tlsmgr\n");
        for (name, server, host, settings) in TRANSPORTS {
            let next = format!("[{host}]:{}", ports[server]);
            transports += &format!("{name}.example {name}:{next}\n");
            master += &format!("{name} unix - - n - - smtp\n");
            for setting in *settings {
                let setting = self.expand(setting).replace("@NEXT@", &next);
                let (parameter, value) = setting.split_once('=').expect("a setting");
                master += &format!("  -o {{ {parameter} = {value} }}\n");
            }
        }
        let main_cf = self.expand(
            "relay_domains = example
transport_maps = texthash:@CONF@/transport
smtp_host_lookup = native
smtp_tls_loglevel = 1
smtp_tls_CAfile = @CERTS@/ca.pem
",
        );
        Site::new(&main_cf, &master, &[("transport", &transports)])
    }
}

/// What became of each message, and the sorted lines about TLS.
fn run(
    server: &MailServer,
    ports: &BTreeMap<&str, u16>,
) -> (BTreeMap<String, String>, Vec<String>) {
    for (name, ..) in TRANSPORTS {
        let to = format!("x@{name}.example");
        send_mail(
            server.port(),
            "s@sender.example",
            &[&to],
            "Subject: x\r\n\r\nx\r\n",
        );
    }
    let shown = |line: &str| {
        let mut line = line.to_owned();
        for (name, port) in ports {
            line = line.replace(&format!("]:{port}"), &format!("]:{name}"));
        }
        match line.split_once("queued as ") {
            Some((head, _)) => format!("{head}queued as ID)"),
            None => line,
        }
    };
    let outcomes = || {
        let log = server.log();
        let mut found = BTreeMap::new();
        for line in log.lines() {
            let Some((_, rest)) = line.split_once(": to=<x@") else {
                continue;
            };
            let (name, rest) = rest.split_once(".example>").expect("an address");
            let relay = rest
                .split("relay=")
                .nth(1)
                .and_then(|rest| rest.split(',').next());
            let dsn = rest.split("dsn=").nth(1).unwrap_or_default();
            let text = shown(&format!("{} {dsn}", relay.unwrap_or_default()));
            found.entry(name.to_owned()).or_insert(text);
        }
        found
    };
    let outcomes = wait_for("an outcome of every message", PATIENCE, || {
        Some(outcomes()).filter(|found| found.len() == TRANSPORTS.len())
    });
    // Only a message that has waited for minimal_backoff_time goes in the clear where TLS fails.
    std::thread::sleep(Duration::from_millis(1100));
    server.run_tool("postqueue", &["-f"]);
    let sent = "to=<x@older-patient.example>";
    wait_for("mail in the clear", PATIENCE, || {
        let log = server.log();
        let mut lines = log.lines().filter(|line| line.contains(sent));
        lines.any(|line| line.contains("status=sent")).then_some(())
    });
    let wanted = [
        "TLS connection established",
        "verification failed",
        "SSL_connect",
        "offered STARTTLS",
    ];
    let log = server.log();
    let lines = log
        .lines()
        .filter(|line| wanted.iter().any(|word| line.contains(word)));
    let mut lines: Vec<String> = lines
        .filter_map(|line| line.split_once("]: "))
        .map(|(_, text)| shown(text))
        .collect();
    lines.sort();
    // The second attempts of those that were deferred may, or may not, be among them.
    lines.dedup();
    (outcomes, lines)
}

#[test]
fn what_becomes_of_mail_is_the_same_as_with_postfix() {
    if !testkit::peers() {
        return;
    }
    let certificates = Certificates::new();
    certificates.self_signed("ca", "rsa:2048", "/O=Tests/CN=Test CA");
    certificates.self_signed("self", "rsa:2048", "/CN=mail.host.example");
    certificates.signed_for(
        "signed",
        "prime256v1",
        "/CN=mail.host.example",
        "ca",
        &["mail.host.example", "localhost"],
    );
    let fingerprint = certificates.fingerprint("self");
    let setting = Setting {
        certificates,
        fingerprint,
    };
    let dovecot = Dovecot::with(DovecotOptions {
        users: vec![("john@example.org".into(), "s3cret-word".into())],
        extra: PROMPT_AUTH.to_owned(),
        ..DovecotOptions::default()
    });
    let (_server, ports) = setting.server(&dovecot.auth_socket);
    let theirs = run(&Postfix::on(setting.client(&ports)), &ports);
    let server = MailServer::postroom(Path::new(BINARY), setting.client(&ports));
    let ours = run(&server, &ports);
    let differences: Vec<String> = theirs
        .0
        .iter()
        .filter(|(name, text)| ours.0.get(*name) != Some(text))
        .map(|(name, text)| format!("{name}\n  {text}\n  {}", ours.0[name]))
        .collect();
    assert!(
        differences.is_empty(),
        "Postfix, then Postroom:\n{}",
        differences.join("\n")
    );
    assert!(theirs.1.len() > 15);
    assert_eq!(theirs.1, ours.1);
    let log = server.log();
    assert!(
        !log.contains("s3cret-word") && !log.contains("an0ther-word"),
        "a password in the log"
    );
}
