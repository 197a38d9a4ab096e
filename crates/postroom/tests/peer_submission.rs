//! Submission by clients that are not ours (swaks, Python's smtplib), passwords checked by a real Dovecot, and what happens
//! when Dovecot, a certificate or a client is broken.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::*;
use testkit::tls::{Dialogue, talk};
use testkit::{Certificates, Dovecot, DovecotOptions, MailServer, Site, Smtp, free_port, wait_for};

const PASSWORD: &str = "correct-horse";

/// base64 of NUL, john's address, NUL, [`PASSWORD`].
const PLAIN_RESPONSE: &str = "AGpvaG5AZXhhbXBsZS5vcmcAY29ycmVjdC1ob3JzZQ==";

fn dovecot() -> Dovecot {
    Dovecot::with(DovecotOptions {
        users: vec![("john@example.org".into(), PASSWORD.into())],
        extra: PROMPT_AUTH.to_owned(),
        ..DovecotOptions::default()
    })
}

fn certificates() -> Certificates {
    let certificates = Certificates::new();
    certificates.self_signed("mail", "prime256v1", "/CN=mail.host.example");
    certificates
}

/// A server with a certificate, and services beside its port 25: a name and the `-o` settings of each.
struct Submission {
    server: MailServer,
    ports: BTreeMap<String, u16>,
    certificates: Certificates,
}

fn submission(auth: &Path, services: &[(&str, &str)]) -> Submission {
    let certificates = certificates();
    let mut master = String::new();
    let mut ports = BTreeMap::new();
    for (name, settings) in services {
        let port = free_port();
        ports.insert((*name).to_owned(), port);
        master += &format!("127.0.0.1:{port} inet n - y - - smtpd\n");
        for setting in settings.split(' ') {
            master += &format!("  -o {setting}\n");
        }
    }
    let (cert, key) = certificates.pair("mail");
    let main = format!(
        "{PLAIN}mynetworks = 10.0.0.0/8\nsmtpd_tls_security_level = may\nsmtpd_tls_cert_file = {}\n\
         smtpd_tls_key_file = {}\nsmtpd_tls_loglevel = 1\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n\
         smtpd_sasl_auth_enable = yes\nsmtpd_tls_auth_only = yes\n",
        cert.display(),
        key.display(),
        auth.display()
    );
    let files = [("users", USERS), ("aliases", ALIASES)];
    let server = start(Site::new(&main, &master, &files));
    Submission {
        server,
        ports,
        certificates,
    }
}

const SUBMISSION: &str = "smtpd_tls_security_level=encrypt smtpd_sasl_auth_enable=yes \
    smtpd_relay_restrictions=permit_sasl_authenticated,reject";
const SMTPS: &str = "smtpd_tls_wrappermode=yes smtpd_sasl_auth_enable=yes \
    smtpd_relay_restrictions=permit_sasl_authenticated,reject";

fn python(script: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(testkit::require("python3"));
    command.args(["-c", script]).args(arguments);
    command.output().expect("python3 runs")
}

#[test]
fn swaks_submits_with_starttls_and_auth() {
    if !testkit::peers() {
        return;
    }
    let dovecot = dovecot();
    let site = submission(
        &dovecot.auth_socket,
        &[("submission", SUBMISSION), ("smtps", SMTPS)],
    );
    let swaks = |service: &str, more: &[&str], subject: &str| {
        let server = format!("127.0.0.1:{}", site.ports[service]);
        let header = format!("Subject: {subject}");
        let fixed = [
            "--server",
            &server,
            "--from",
            "john@example.org",
            "--to",
            "jane@example.org",
            "--header",
            &header,
        ];
        testkit::swaks(&[&fixed, more].concat())
    };
    let login = [
        "--auth-user",
        "john@example.org",
        "--auth-password",
        PASSWORD,
    ];
    for (subject, service, how) in [
        (
            "plain",
            "submission",
            ["--tls", "--auth", "PLAIN"].as_slice(),
        ),
        ("login", "submission", &["--tls", "--auth", "LOGIN"]),
        ("wrapped", "smtps", &["--tls-on-connect", "--auth", "PLAIN"]),
    ] {
        let output = swaks(service, &[how, &login].concat(), subject);
        assert!(
            output.status.success(),
            "{subject}: {}",
            text(&output.stdout)
        );
        wait_mail(&site.server, "jane", subject);
    }
    let wrong = [
        "--tls",
        "--auth",
        "PLAIN",
        "--auth-user",
        "john@example.org",
        "--auth-password",
        "guess",
    ];
    let output = swaks("submission", &wrong, "wrong");
    assert!(text(&output.stdout).contains("535 5.7.8 Error: authentication failed"));
    let output = swaks("submission", &["--tls"], "nobody");
    assert!(
        text(&output.stdout)
            .contains("554 5.7.1 <jane@example.org>: Recipient address rejected: Access denied")
    );
    let output = swaks("submission", &[], "clear");
    assert!(text(&output.stdout).contains("530 5.7.0 Must issue a STARTTLS command first"));
    assert_eq!(maildir(&site.server, "jane").len(), 3);

    let log = site.server.log();
    let line = "sasl_method=PLAIN, sasl_username=john@example.org";
    assert!(log.contains(line), "{log}");
    for secret in [PASSWORD, PLAIN_RESPONSE, "guess", "Y29ycmVjdC1ob3JzZQ=="] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

const SMTPLIB: &str = r#"
import base64, hashlib, hmac, os, smtplib, ssl, sys
port, wrapped, mechanism, user, password = int(sys.argv[1]), sys.argv[2] == "wrapped", *sys.argv[3:6]
context = ssl.create_default_context(cafile=sys.argv[6])
# The certificate is for mail.host.example, and we are at an address.
context.check_hostname = False
s = smtplib.SMTP_SSL("127.0.0.1", port, context=context) if wrapped else smtplib.SMTP("127.0.0.1", port)
if not wrapped:
    s.starttls(context=context)
s.ehlo()
assert mechanism in s.esmtp_features["auth"].split(), s.esmtp_features
def scram():
    digest = lambda data: hashlib.sha256(data).digest()
    mac = lambda key, data: hmac.new(key, data, "sha256").digest()
    first = "n=%s,r=%s" % (user, base64.b64encode(os.urandom(18)).decode())
    code, challenge = s.docmd("AUTH", "SCRAM-SHA-256 " + base64.b64encode(("n,," + first).encode()).decode())
    assert code == 334, (code, challenge)
    challenge = base64.b64decode(challenge).decode()
    parts = dict(part.split("=", 1) for part in challenge.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(parts["s"]), int(parts["i"]))
    final = "c=biws,r=" + parts["r"]
    signed = ",".join([first, challenge, final]).encode()
    key = mac(salted, b"Client Key")
    proof = bytes(a ^ b for a, b in zip(key, mac(digest(key), signed)))
    code, answer = s.docmd(base64.b64encode((final + ",p=" + base64.b64encode(proof).decode()).encode()).decode())
    # The server proves that it knows the password, too; the client has nothing to add.
    assert code == 334, (code, answer)
    expected = "v=" + base64.b64encode(mac(mac(salted, b"Server Key"), signed)).decode()
    assert base64.b64decode(answer).decode() == expected
    code, answer = s.docmd("")
    assert code == 235, (code, answer)
if mechanism == "SCRAM-SHA-256":
    scram()
else:
    s.user, s.password = user, password
    authobject = getattr(s, "auth_" + mechanism.lower().replace("-", "_"))
    s.auth(mechanism, authobject)
s.sendmail(user, ["jane@example.org"], "Subject: %s-%s\r\n\r\ntext\r\n" % (mechanism, sys.argv[2]))
s.quit()
"#;

/// The client verifies the server's certificate, which names `mail.host.example`.
#[test]
fn smtplib_submits_with_every_mechanism() {
    if !testkit::peers() {
        return;
    }
    let dovecot = dovecot();
    let site = submission(
        &dovecot.auth_socket,
        &[("submission", SUBMISSION), ("smtps", SMTPS)],
    );
    let authority = site.certificates.certificate("mail").display().to_string();
    let send = |how: &str, mechanism: &str, password: &str| {
        let service = if how == "wrapped" {
            "smtps"
        } else {
            "submission"
        };
        let port = site.ports[service].to_string();
        python(
            SMTPLIB,
            &[
                &port,
                how,
                mechanism,
                "john@example.org",
                password,
                &authority,
            ],
        )
    };
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"] {
        for how in ["starttls", "wrapped"] {
            let output = send(how, mechanism, PASSWORD);
            assert!(
                output.status.success(),
                "{mechanism}: {}",
                text(&output.stderr)
            );
            wait_mail(&site.server, "jane", &format!("{mechanism}-{how}"));
        }
        let output = send("starttls", mechanism, "guess");
        assert!(
            !output.status.success(),
            "{mechanism} with a wrong password"
        );
    }
    let mail = wait_mail(&site.server, "jane", "PLAIN-starttls");
    assert!(mail.contains(" with ESMTPSA id "), "{mail}");
    assert!(!site.server.log().contains(PASSWORD));
}

/// A SASL server that does what the function does with each connection.
fn sasl_server(folder: &Path, name: &str, serve: fn(UnixStream)) -> PathBuf {
    let path = folder.join(name);
    let listener = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    path
}

const GREETING: &[u8] =
    b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\tx\nDONE\n";

/// Greets, reads until the request is there, says `answer`, and stays.
fn answer(mut stream: UnixStream, answer: &[u8]) {
    let _ = stream.write_all(GREETING);
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !seen.windows(5).any(|bytes| bytes == b"AUTH\t") {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => seen.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let _ = stream.write_all(answer);
    let _ = stream.read(&mut buffer);
}

type Server = fn(UnixStream);

const BROKEN_SERVERS: &[(&str, Server)] = &[
    ("closes", |_| {}),
    ("nonsense", |mut stream| {
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    }),
    ("version", |mut stream| {
        drop(stream.write_all(b"VERSION\t2\t0\nDONE\n"))
    }),
    ("no-version", |mut stream| drop(stream.write_all(b"DONE\n"))),
    ("endless-line", |mut stream| {
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    }),
    ("endless-lines", |mut stream| {
        while stream.write_all(b"MECH\tPLAIN\tplaintext\n").is_ok() {}
    }),
    ("silent", |mut stream| {
        drop(stream.read_to_end(&mut Vec::new()))
    }),
    ("drops", |stream| answer(stream, b"")),
    ("other-id", |stream| {
        answer(stream, b"OK\t7\tuser=john@example.org\n")
    }),
    ("nobody", |stream| answer(stream, b"OK\t1\n")),
    ("bad-challenge", |stream| {
        answer(stream, b"CONT\t1\t\x01\x02\n")
    }),
    ("half-a-line", |stream| {
        answer(stream, b"OK\t1\tuser=john@exa")
    }),
    ("temporary", |stream| {
        answer(stream, b"FAIL\t1\tuser=x\ttemp\n")
    }),
];

/// Whatever the SASL server does: 454, and the session goes on; nobody is let in.
#[test]
fn a_broken_sasl_server_is_a_temporary_failure() {
    if !testkit::peers() {
        return;
    }
    let folder = testkit::TempDir::new();
    let mut services = vec![(
        "absent",
        "smtpd_sasl_path=/nonexistent/auth smtpd_tls_auth_only=no".to_owned(),
    )];
    for (name, serve) in BROKEN_SERVERS {
        let path = sasl_server(folder.path(), name, *serve);
        services.push((
            name,
            format!("smtpd_sasl_path={} smtpd_tls_auth_only=no", path.display()),
        ));
    }
    let services: Vec<(&str, &str)> = services
        .iter()
        .map(|(name, set)| (*name, set.as_str()))
        .collect();
    let site = submission(Path::new("private/auth"), &services);
    std::thread::scope(|scope| {
        for (name, port) in &site.ports {
            scope.spawn(move || {
                let mut smtp = Smtp::connect(*port);
                smtp.expect(220);
                let offer = smtp.command("EHLO client.example", 250);
                assert!(offer.text.contains("\nAUTH PLAIN"), "{name}: {offer:?}");
                let reply = smtp.ask(&format!("AUTH PLAIN {PLAIN_RESPONSE}"));
                assert_eq!(reply.code, 454, "{name}: {reply:?}");
                assert!(
                    reply
                        .text
                        .starts_with("4.7.0 Temporary authentication failure: "),
                    "{name}: {reply:?}"
                );
                smtp.command("NOOP", 250);
                smtp.command("MAIL FROM:<john@example.org>", 250);
                assert_eq!(smtp.ask("RCPT TO:<x@else.example>").code, 454, "{name}");
                smtp.command("QUIT", 221);
            });
        }
    });
    let log = site.server.log();
    assert!(
        log.contains("SASL PLAIN authentication failed: Connection lost to authentication server"),
        "{log}"
    );
    assert!(!log.contains(PLAIN_RESPONSE));
}

/// Dovecot at all the kinds of address; it goes away and comes back under a running server.
#[test]
fn dovecot_may_restart() {
    if !testkit::peers() {
        return;
    }
    let port = free_port();
    let listener = format!(
        "service auth {{\n inet_listener {{\n  address = 127.0.0.1\n  port = {port}\n }}\n}}\n"
    );
    let mut dovecot = Dovecot::with(DovecotOptions {
        users: vec![("john@example.org".into(), PASSWORD.into())],
        extra: format!("{PROMPT_AUTH}{listener}"),
        ..DovecotOptions::default()
    });
    let inet = format!("smtpd_tls_auth_only=no smtpd_sasl_path=inet:127.0.0.1:{port}");
    let relative = "smtpd_tls_auth_only=no smtpd_sasl_path=private/auth";
    let services = [
        ("clear", "smtpd_tls_auth_only=no"),
        ("relative", relative),
        ("inet", &inet),
    ];
    let site = submission(&dovecot.auth_socket, &services);
    let below_queue = site.server.site.spool().join("private/auth");
    std::os::unix::fs::symlink(&dovecot.auth_socket, below_queue).expect("a link");
    let log_in = |service: &str| {
        let mut smtp = Smtp::hello(site.ports[service]);
        smtp.ask(&format!("AUTH PLAIN {PLAIN_RESPONSE}")).code
    };
    for (service, _) in services {
        assert_eq!(log_in(service), 235, "{service}");
    }
    dovecot.stop();
    for (service, _) in services {
        assert_eq!(log_in(service), 454, "{service}");
    }
    dovecot.start_again();
    for (service, _) in services {
        wait_for("Dovecot's auth", PATIENCE, || {
            (log_in(service) == 235).then_some(())
        });
    }
}

/// Clients that begin AUTH and do not end it leave Dovecot to the others: the process limit of the service is theirs.
#[test]
fn authentications_at_once_are_limited() {
    if !testkit::peers() {
        return;
    }
    let dovecot = dovecot();
    let services = [("one", "smtpd_tls_auth_only=no default_process_limit=1")];
    let site = submission(&dovecot.auth_socket, &services);
    let plain = format!("AUTH PLAIN {PLAIN_RESPONSE}");
    let mut slow = Smtp::hello(site.ports["one"]);
    let mut other = Smtp::hello(site.ports["one"]);
    slow.command("AUTH LOGIN", 334);
    other.command(&plain, 454);
    site.server.wait_log("too many authentications at once");
    slow.command("*", 501);
    other.command(&plain, 235);
    slow.command(&plain, 235);
}

/// The subject of the certificate that a client is shown under this name.
fn shown(port: u16, server_name: &str) -> String {
    let script = "import ssl, sys, socket\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n\
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n\
        stream = context.wrap_socket(socket.create_connection(('127.0.0.1', int(sys.argv[1]))), server_hostname=sys.argv[2])\n\
        sys.stdout.write(ssl.DER_cert_to_PEM_cert(stream.getpeercert(True)))";
    let pem = python(script, &[&port.to_string(), server_name]);
    assert!(pem.status.success(), "{}", text(&pem.stderr));
    let mut openssl = Command::new(testkit::require("openssl"));
    openssl.args(["x509", "-noout", "-subject"]);
    let output = testkit::process::run_with_input(&mut openssl, &pem.stdout);
    text(&output.stdout).trim().to_owned()
}

#[test]
fn renewed_certificates_are_taken_over_and_broken_ones_are_not() {
    if !testkit::peers() {
        return;
    }
    let site = submission(Path::new("private/auth"), &[("smtps", SMTPS)]);
    let port = site.ports["smtps"];
    assert_eq!(shown(port, "x"), "subject=CN = mail.host.example");
    let (certificate, key) = site.certificates.pair("mail");

    // A session that goes on over the change.
    let mut open = site.server.smtp();
    site.certificates
        .self_signed("mail", "rsa:2048", "/CN=renewed");
    wait_for("the renewed certificate", PATIENCE, || {
        (shown(port, "x") == "subject=CN = renewed").then_some(())
    });
    open.command("NOOP", 250);

    // The certificate of another key: the server says so and keeps what it has.
    site.certificates
        .self_signed("other", "rsa:2048", "/CN=other");
    std::fs::copy(site.certificates.certificate("other"), &certificate).expect("a copy");
    let line = site.server.wait_log("does not belong to its certificate");
    assert!(
        line.contains("smtpd_tls_key_file") && line.contains(&key.display().to_string()),
        "{line}"
    );
    assert_eq!(shown(port, "x"), "subject=CN = renewed");
    std::fs::copy(site.certificates.key("other"), &key).expect("a copy");
    wait_for("the other certificate", PATIENCE, || {
        (shown(port, "x") == "subject=CN = other").then_some(())
    });
}

#[test]
fn the_certificate_depends_on_the_name_that_the_client_asks_for() {
    if !testkit::peers() {
        return;
    }
    let certificates = Certificates::new();
    let mut table = String::new();
    for name in ["one.example", "wild"] {
        certificates.self_signed(name, "prime256v1", &format!("/CN={name}"));
        let (certificate, key) = certificates.pair(name);
        let key_name = if name == "wild" { ".two.example" } else { name };
        table += &format!("{key_name} {} {}\n", key.display(), certificate.display());
    }
    let site = submission(Path::new("private/auth"), &[("smtps", SMTPS)]);
    let conf = site.server.site.conf();
    std::fs::write(conf.join("sni"), table).expect("the table");
    let setting = format!("tls_server_sni_maps=texthash:{}/sni", conf.display());
    site.server.run_tool("postconf", &["-e", &setting]);
    site.server.wait_log("reload -- configuration");
    let port = site.ports["smtps"];
    for (name, subject) in [
        ("one.example", "one.example"),
        ("ONE.example", "one.example"),
        ("a.b.two.example", "wild"),
        ("two.example", "mail.host.example"),
        ("else.example", "mail.host.example"),
    ] {
        assert_eq!(
            shown(port, name),
            format!("subject=CN = {subject}"),
            "{name}"
        );
    }
}

#[test]
fn mistakes_are_refused_at_the_start_with_their_parameter() {
    if !testkit::peers() {
        return;
    }
    let certificates = certificates();
    let folder = certificates.certificate("mail");
    let folder = folder
        .parent()
        .expect("a file lies in a folder")
        .display()
        .to_string();
    let good = "smtpd_tls_security_level = may\nsmtpd_tls_cert_file = @C@/mail.pem\nsmtpd_tls_key_file = @C@/mail.key\n";
    for (setting, expected) in [
        (
            "smtpd_tls_cert_file = /nonexistent.pem\n",
            "smtpd_tls_cert_file: cannot read /nonexistent.pem",
        ),
        (
            "smtpd_tls_key_file = @C@/mail.pem\n",
            "smtpd_tls_key_file: @C@/mail.pem has no private key",
        ),
        ("smtpd_tls_protocols = >=TLSv9\n", "smtpd_tls_protocols"),
        (
            "smtpd_tls_protocols = TLSv1\n",
            "neither TLSv1.2 nor TLSv1.3",
        ),
        ("smtpd_tls_ciphers = best\n", "unknown cipher grade"),
        ("smtpd_tls_security_level = maybe\n", "unknown TLS level"),
        ("smtpd_tls_fingerprint_digest = crc32\n", "unknown digest"),
        (
            "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = inet:12345\n",
            "not the address of a SASL server",
        ),
        (
            "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_security_options = noplain\n",
            "unknown SASL security option",
        ),
    ] {
        let (setting, expected) = (
            setting.replace("@C@", &folder),
            expected.replace("@C@", &folder),
        );
        let main = format!(
            "{PLAIN}{}{setting}",
            testkit::site::without(&good.replace("@C@", &folder), &setting)
        );
        let site = Site::new(&main, "", &[("users", USERS), ("aliases", ALIASES)]);
        let output = postroom(&["serve", "-c", &site.conf().display().to_string()]);
        let said = text(&output.stderr) + &site.log();
        assert!(!output.status.success(), "{setting}");
        assert!(
            said.contains(&expected) && said.contains("main.cf"),
            "{setting}: {said}"
        );
    }
}

#[test]
fn clients_that_break_the_handshake_end_alone() {
    if !testkit::peers() {
        return;
    }
    let mut site = submission(
        Path::new("private/auth"),
        &[
            ("smtps", SMTPS),
            (
                "brief",
                "smtpd_tls_wrappermode=yes smtpd_starttls_timeout=1s",
            ),
        ],
    );
    let connect = |service: &str| {
        let stream =
            TcpStream::connect(("127.0.0.1", site.ports[service])).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    };
    // Those that say nothing are let go after `smtpd_starttls_timeout`; meanwhile others are served.
    let silent: Vec<TcpStream> = (0..20).map(|_| connect("brief")).collect();
    // Plain SMTP, half a handshake, noise.
    for bytes in [
        b"EHLO client.example\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00",
        &[0xff; 70_000],
    ] {
        let mut stream = connect("smtps");
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"220"), "a greeting in the clear");
    }
    let starttls = Dialogue {
        port: site.server.port(),
        lines: ["EHLO c", "STARTTLS", "@TLS", "EHLO c", "QUIT"]
            .map(str::to_owned)
            .to_vec(),
        ..Dialogue::default()
    };
    let replies = talk(&[starttls]);
    assert!(replies[0][5].starts_with("221 "), "{replies:?}");
    for mut stream in silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "nothing but the end");
    }
    let mut plain = Smtp::hello(site.server.port());
    plain.command("STARTTLS", 220);
    plain.send("EHLO again\r\n");
    assert!(plain.try_reply().is_err());
    site.server
        .wait_log("lost connection after CONNECT from unknown[127.0.0.1]");
    site.server
        .wait_log("lost connection after STARTTLS from unknown[127.0.0.1]");
    site.server
        .wait_log("SSL_accept error from unknown[127.0.0.1]: Connection timed out");

    // Nor do they hold up the end of the server.
    let mut plain = Smtp::hello(site.server.port());
    plain.command("STARTTLS", 220);
    let _silent = TcpStream::connect(("127.0.0.1", site.ports["smtps"]));
    site.server.stop();
    let log = site.server.log();
    assert!(
        log.contains("terminating") && !log.contains("gave up waiting"),
        "{log}"
    );
}

/// fail2ban's own filter finds every failed login of ours, and no other failure.
#[test]
fn fail2ban_sees_failed_logins() {
    if !testkit::peers() {
        return;
    }
    let mut dovecot = dovecot();
    let site = submission(
        &dovecot.auth_socket,
        &[
            ("submission", SUBMISSION),
            ("clear", "smtpd_tls_auth_only=no"),
        ],
    );
    for line in [
        "AUTH PLAIN AGpvaG5AZXhhbXBsZS5vcmcAZ3Vlc3M=",
        "AUTH PLAIN AAA=",
        "AUTH FOO",
    ] {
        let mut smtp = Smtp::hello(site.ports["clear"]);
        smtp.command(line, 535);
        smtp.command("QUIT", 221);
    }
    dovecot.stop();
    let mut smtp = Smtp::hello(site.ports["clear"]);
    smtp.command(&format!("AUTH PLAIN {PLAIN_RESPONSE}"), 454);
    site.server
        .wait_log("Connection lost to authentication server");
    let log = site.server.site.dir().join("maillog");
    let mut command = Command::new(testkit::require("fail2ban-regex"));
    let output = command.arg(log).arg("postfix[mode=auth]").output();
    let said = text(&output.expect("fail2ban-regex runs").stdout);
    assert!(said.contains("Failregex: 2 total"), "{said}");
}
