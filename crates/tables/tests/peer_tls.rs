//! TLS to real MariaDB and PostgreSQL servers with certificates of a private CA. Postfix's postmap looks up the
//! same key in the same table file, and must come to the same.

mod support;

use std::time::Duration;

use support::{Log, Oracle, open, tables, text};
use testkit::{
    Authority, Certificate, MariaDb, MariaDbOptions, Postgres, PostgresOptions, TempDir,
};

/// A table's settings, what the query gives, and what must stand in the log.
struct Case {
    settings: String,
    /// `None`: the lookup fails.
    value: Option<&'static str>,
    logged: &'static str,
}

fn case(settings: impl Into<String>, value: Option<&'static str>, logged: &'static str) -> Case {
    Case {
        settings: settings.into(),
        value,
        logged,
    }
}

/// Looks up `key` in each of the tables, and has Postfix do the same.
async fn check(engine: &str, base: &str, cases: &[Case]) {
    let dir = TempDir::new();
    let (log, tables) = (Log::start(), tables(""));
    let mut oracles = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let name = format!("{number}.cf");
        let path = dir.write(&name, format!("{base}\n{}\n", case.settings));
        oracles.push(Oracle::ask(
            &dir,
            &format!("{engine}:{}", path.display()),
            "key",
        ));
    }
    for (number, (case, oracle)) in cases.iter().zip(oracles).enumerate() {
        let spec = format!("{engine}:{}", text(&dir.join(&format!("{number}.cf"))));
        let found = match tables.open(&spec) {
            Ok(table) => table.lookup("key").await,
            Err(error) => Err(error),
        };
        let mut logged = log.take();
        let settings = &case.settings;
        match (&found, case.value) {
            (Ok(found), Some(_)) => assert_eq!(found.as_deref(), case.value, "{settings}"),
            (Err(error), None) => logged.push_str(&error.to_string()),
            _ => panic!("{settings}: {found:?}\n{logged}"),
        }
        assert!(logged.contains(case.logged), "{settings}: {logged:?}");
        assert!(!logged.contains("secret"), "{settings}: {logged}");
        if case.logged.is_empty() {
            assert_eq!(logged, "", "{settings}");
        }
        let answer = oracle.answer();
        assert_eq!(
            answer.ok().flatten().as_deref(),
            case.value,
            "Postfix: {settings}"
        );
    }
}

fn mariadb(certificate: Option<(&Certificate, &Authority)>) -> MariaDb {
    let mut extra = Vec::new();
    if let Some((certificate, authority)) = certificate {
        extra.push(format!("--ssl-ca={}", authority.ca().display()));
        extra.push(format!("--ssl-cert={}", certificate.cert.display()));
        extra.push(format!("--ssl-key={}", certificate.key.display()));
    }
    let server = MariaDb::with(MariaDbOptions {
        extra,
        ..MariaDbOptions::default()
    });
    server.create_db("mail");
    server.create_user("reader", "secret", "mail");
    server
}

/// `tls` or `plain`, for a key that is asked for.
const MYSQL_QUERY: &str = "query = SELECT IF(variable_value = '', 'plain', 'tls') FROM \
    information_schema.session_status WHERE variable_name = 'ssl_cipher' AND '%s' = 'key'";

fn mysql_base(server: &MariaDb, user: &str) -> String {
    let host = server.host();
    format!("hosts = {host}\nuser = {user}\npassword = secret\ndbname = mail\n{MYSQL_QUERY}")
}

#[tokio::test]
async fn mysql_tls_settings_mean_what_they_mean_to_postfix() {
    if !testkit::peers() {
        return;
    }
    let (ours, other) = (Authority::new(), Authority::new());
    let server = ours.certificate("server", "DNS:localhost,IP:127.0.0.1");
    let client = ours.certificate("client", "DNS:client");
    let mariadb = mariadb(Some((&server, &ours)));
    mariadb.run_sql(
        "",
        "CREATE USER x509@'%' IDENTIFIED BY 'secret' REQUIRE X509; GRANT ALL ON mail.* TO x509@'%'",
    );
    let (ca, other, folder) = (text(&ours.ca()), text(&other.ca()), text(&ours.ca_folder()));
    let (cert, key) = (text(&client.cert), text(&client.key));
    let empty = TempDir::new();
    let socket = format!("hosts = unix:{}", mariadb.socket.display());
    check(
        "mysql",
        &mysql_base(&mariadb, "reader"),
        &[
            case("", Some("plain"), ""),
            case("tls_CAfile =", Some("plain"), ""),
            case("tls_verify_cert = no", Some("plain"), ""),
            case(format!("tls_CAfile = {ca}"), Some("tls"), ""),
            case(format!("tls_CApath = {folder}"), Some("tls"), ""),
            case(
                format!("tls_CAfile = {ca}\ntls_verify_cert = yes"),
                Some("tls"),
                "",
            ),
            case(
                format!("{socket}\ntls_CAfile = {ca}\ntls_verify_cert = yes"),
                Some("tls"),
                "overriding",
            ),
            case(
                format!("tls_cert_file = {cert}\ntls_key_file = {key}"),
                Some("tls"),
                "",
            ),
            case(
                "tls_ciphers = ECDHE-ECDSA-AES128-GCM-SHA256",
                Some("tls"),
                "",
            ),
            case(
                "tls_ciphers = ECDHE-ECDSA-AES128-GCM-SHA256:AES128-SHA",
                Some("tls"),
                "tls_ciphers: AES128-SHA has no effect",
            ),
            case(
                "tls_verify_cert = yes",
                None,
                "name a file with the CA's certificate (tls_CAfile)",
            ),
            case(
                format!("tls_CAfile = {other}"),
                None,
                "not signed by a CA in /",
            ),
            case(
                "tls_CAfile = /nonexistent",
                None,
                "cannot read /nonexistent: No such file",
            ),
            case(
                format!("tls_CApath = {}", empty.str()),
                None,
                "hashed names: openssl rehash",
            ),
            case(
                format!("tls_cert_file = {cert}"),
                None,
                "no private key in it",
            ),
            case(
                format!(
                    "tls_cert_file = {cert}\ntls_key_file = {}",
                    text(&server.key)
                ),
                None,
                "is not the one of the certificate in",
            ),
        ],
    )
    .await;
    check(
        "mysql",
        &mysql_base(&mariadb, "x509"),
        &[
            case("", None, "Access denied for user 'x509'"),
            case(
                format!("tls_CAfile = {ca}"),
                None,
                "Access denied for user 'x509'",
            ),
            case(
                format!("tls_CAfile = {ca}\ntls_cert_file = {cert}\ntls_key_file = {key}"),
                Some("tls"),
                "",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn mysql_servers_with_other_certificates_and_with_none() {
    if !testkit::peers() {
        return;
    }
    let ours = Authority::new();
    let ca = text(&ours.ca());
    let verified = format!("tls_CAfile = {ca}\ntls_verify_cert = yes");
    let elsewhere = mariadb(Some((
        &ours.certificate("server", "DNS:elsewhere.example"),
        &ours,
    )));
    check(
        "mysql",
        &mysql_base(&elsewhere, "reader"),
        &[
            case(format!("tls_CAfile = {ca}"), Some("tls"), ""),
            case(
                &*verified,
                None,
                "is for elsewhere.example, not for 127.0.0.1; connect to a name that it has",
            ),
        ],
    )
    .await;
    // As the older instructions make them: version 1, and the name in the subject.
    let old = mariadb(Some((&ours.certificate("127.0.0.1", ""), &ours)));
    let strangers = Authority::new();
    let other = text(&strangers.ca());
    check(
        "mysql",
        &mysql_base(&old, "reader"),
        &[
            case(format!("tls_CAfile = {ca}"), Some("tls"), ""),
            case(&*verified, Some("tls"), ""),
            case(
                "tls_ciphers = ECDHE-ECDSA-AES128-GCM-SHA256",
                Some("tls"),
                "",
            ),
            case(
                format!("tls_CAfile = {other}"),
                None,
                "not signed by a CA in",
            ),
        ],
    )
    .await;
    // Signed by nobody else, and named as the CA itself.
    let itself = mariadb(Some((&ours.self_signed(), &ours)));
    check(
        "mysql",
        &mysql_base(&itself, "reader"),
        &[
            case(format!("tls_CAfile = {ca}"), Some("tls"), ""),
            case(&*verified, None, "is for a private CA, not for 127.0.0.1"),
            case(
                format!("tls_CAfile = {other}"),
                None,
                "not signed by a CA in",
            ),
        ],
    )
    .await;
    let dir = TempDir::new();
    let tls12 = dir.write(
        "my.cnf",
        format!("[client]\ntls-version = TLSv1.2\nssl-ca = {ca}\n"),
    );
    check(
        "mysql",
        &mysql_base(&old, "reader"),
        &[case(
            format!("option_file = {}", tls12.display()),
            Some("tls"),
            "",
        )],
    )
    .await;
    let plain = mariadb(None);
    check("mysql", &mysql_base(&plain, "reader"), &[
        case(format!("tls_CAfile = {ca}"), Some("plain"), "offers no TLS: the connection is not encrypted"),
        case(&*verified, None, "SSL is required, but the server does not support it; give the server a certificate"),
    ])
    .await;
}

#[tokio::test]
async fn option_files_have_their_say_as_in_postfix() {
    if !testkit::peers() {
        return;
    }
    let (ours, other) = (Authority::new(), Authority::new());
    let server = mariadb(Some((
        &ours.certificate("server", "DNS:elsewhere.example"),
        &ours,
    )));
    server.run_sql(
        "",
        "CREATE USER nopw@'%', nopw@localhost; GRANT ALL ON mail.* TO nopw@'%', nopw@localhost",
    );
    let (ca, other) = (text(&ours.ca()), text(&other.ca()));
    let (port, socket) = (server.port, server.socket.display().to_string());
    let (host, pw) = (format!("hosts = {}", server.host()), "password = secret\n");
    let query = "dbname = mail\nquery = SELECT CONCAT(IF(variable_value = '', 'plain', 'tls'), ' ', USER(), ' ', \
        @@character_set_client, ' ', @@wait_timeout) FROM information_schema.session_status WHERE \
        variable_name = 'ssl_cipher' AND '%s' = 'key'";
    let dir = TempDir::new();
    let mut number = 0;
    let mut file = |text: &str| {
        number += 1;
        let path = dir.write(&format!("{number}.cnf"), text);
        format!("option_file = {}\n", path.display())
    };
    let tcp = Some("plain nopw@127.0.0.1 utf8mb4 28800");
    let tls = Some("tls nopw@127.0.0.1 utf8mb4 28800");
    let local = Some("plain nopw@localhost utf8mb4 28800");
    let user = "[client]\nuser = nopw\n";
    dir.write("included/my.cnf", user);
    dir.write("one.cnf", user);
    let include = format!("!include {}\n", dir.join("one.cnf").display());
    let folder = format!("!includedir {}\n", dir.join("included").display());
    check(
        "mysql",
        query,
        &[
            case(file(user) + &host, tcp, ""),
            case(
                file("[client]\nuser = reader\npassword = secret\n") + &host,
                None,
                "Access denied for user 'reader'@'127.0.0.1' (using password: NO)",
            ),
            case(
                file("[client]\nuser = reader\n") + pw + &host,
                Some("plain reader@127.0.0.1 utf8mb4 28800"),
                "",
            ),
            case(
                file("[client]\nuser = 'nopw'\n[other]\nuser = reader\n") + &host,
                tcp,
                "",
            ),
            case(
                file("[client]\nuser = reader\n[other]\nuser = nopw\n")
                    + "option_group = other\n"
                    + &host,
                tcp,
                "",
            ),
            case(file(&include) + &host, tcp, ""),
            case(file(&folder) + &host, tcp, ""),
            case(
                file(&format!("{user}port = {port}\n")) + "hosts = 127.0.0.1",
                tcp,
                "",
            ),
            case(
                file(&format!("{user}socket = {socket}\n")) + "hosts = localhost",
                local,
                "",
            ),
            case(file(&format!("{user}socket = {socket}\n")), local, ""),
            case(
                file(&format!("{user}host = 127.0.0.1\nport = {port}\n"))
                    + "hosts = unix:/nonexistent",
                tcp,
                "",
            ),
            case(
                file(&format!("{user}init-command = SET wait_timeout = 77\n")) + &host,
                Some("plain nopw@127.0.0.1 utf8mb4 77"),
                "",
            ),
            case(
                file(&format!("{user}init-command = SET nonsense\n")) + &host,
                None,
                "init-command of the option file: You have an error",
            ),
            case(
                file(&format!("{user}default-character-set = latin1\n")) + &host,
                Some("plain nopw@127.0.0.1 latin1 28800"),
                "",
            ),
            case(file(&format!("{user}ssl-ca = {ca}\n")) + &host, tls, ""),
            case(
                file(&format!("{user}ssl-ca = {ca}\n"))
                    + &host
                    + &format!("\ntls_CAfile = {other}"),
                tls,
                "",
            ),
            case(
                file(&format!("{user}ssl_ca = {other}\n"))
                    + &host
                    + &format!("\ntls_CAfile = {ca}"),
                None,
                "not signed by a CA in",
            ),
            case(
                file(&format!(
                    "{user}ssl-ca = {ca}\nssl-verify-server-cert = 1\n"
                )) + &host,
                None,
                "is for elsewhere.example, not for 127.0.0.1",
            ),
            case(
                file(&format!(
                    "{user}ssl-ca = {ca}\nssl-verify-server-cert = 0\n"
                )) + &host
                    + "\ntls_verify_cert = yes",
                tls,
                "",
            ),
            case(file(&format!("{user}ssl-enforce = 1\n")) + &host, tls, ""),
            case(
                file(&format!("{user}ssl-fp = 00\n")) + &host,
                None,
                "ssl-fp in /",
            ),
        ],
    )
    .await;
}

/// `tls` or `plain`.
const PGSQL_QUERY: &str = "query = SELECT CASE WHEN ssl THEN 'tls' ELSE 'plain' END FROM pg_stat_ssl \
    WHERE pid = pg_backend_pid() AND '%s' = 'key'";

fn postgres(ours: &Authority, names: &str) -> Postgres {
    let server = Postgres::with(PostgresOptions {
        tls: Some((ours.certificate("server", names), ours.ca())),
        hba: "host all older all md5\nhost all cleartext all password\nhost all trusted all trust\nhostssl all certified all cert\nhostssl all encrypted all scram-sha-256\n\
              hostnossl all encrypted all reject\nhostssl all open all reject\nhostnossl all certified all reject"
            .to_string(),
    });
    server.create_db("mail");
    for user in [
        "reader",
        "encrypted",
        "open",
        "certified",
        "cleartext",
        "trusted",
    ] {
        server.create_user(user, "secret", "mail");
    }
    server.run_sql(
        "postgres",
        "SET password_encryption = 'md5'; CREATE ROLE older LOGIN PASSWORD 'secret'",
    );
    server
}

#[tokio::test]
async fn pgsql_uses_tls_as_libpq_does() {
    if !testkit::peers() {
        return;
    }
    let (ours, other) = (Authority::new(), Authority::new());
    let server = postgres(&ours, "DNS:localhost,IP:127.0.0.1");
    let client = ours.certificate("certified", "");
    testkit::tempdir::set_mode(&client.key, 0o600);
    let (ca, other) = (text(&ours.ca()), text(&other.ca()));
    let (host, port, folder) = (server.host(), server.port, server.socket_dir_5432());
    let as_user =
        |user: &str| format!("user = {user}\npassword = secret\ndbname = mail\nhosts = {host}");
    let uri = |rest: &str| {
        format!("dbname = mail\nhosts = postgresql://reader:secret@{host}/mail?{rest}")
    };
    let pair = format!(
        "sslcert={}&sslkey={}",
        text(&client.cert),
        text(&client.key)
    );
    let sockets = server.socket_dir.display().to_string().replace('/', "%2F");
    check("pgsql", PGSQL_QUERY, &[
        case(as_user("reader"), Some("tls"), ""),
        case(as_user("encrypted"), Some("tls"), ""),
        case(as_user("open"), Some("plain"), ""),
        case(format!("user = reader\npassword = secret\ndbname = mail\nhosts = unix:{}", folder.display()), Some("plain"), ""),
        case(uri("sslmode=disable"), Some("plain"), ""),
        case(uri("sslmode=allow"), Some("plain"), ""),
        case(uri("").replace("reader", "encrypted") + "sslmode=allow", Some("tls"), ""),
        case(uri("").replace("reader", "encrypted") + "sslmode=disable", None, "pg_hba.conf rejects connection for host"),
        case(uri("sslmode=prefer"), Some("tls"), ""),
        case(uri(&format!("sslmode=prefer&sslrootcert={other}")), Some("plain"), ""),
        case(uri("sslmode=require"), Some("tls"), ""),
        case(uri("ssl=true"), Some("tls"), ""),
        case(uri(&format!("sslmode=require&sslrootcert={other}")), None, "not signed by a CA in"),
        case(uri(&format!("sslmode=verify-ca&sslrootcert={ca}")), Some("tls"), ""),
        case(uri(&format!("sslmode=verify-full&sslrootcert={ca}")), Some("tls"), ""),
        case(uri(&format!("sslmode=verify-full&sslrootcert={ca}")).replace(&host, &format!("localhost:{port}")) + "&hostaddr=127.0.0.1", Some("tls"), ""),
        case(uri(&format!("sslmode=verify-full&sslrootcert={ca}&hostaddr=127.0.0.1")).replace(&host, &format!("elsewhere.example:{port}")), None, "is for localhost, 127.0.0.1, not for elsewhere.example"),
        case(uri("sslmode=verify-full&sslrootcert=/nonexistent"), None, "root certificate file \"/nonexistent\" does not exist"),
        case(uri("sslmode=bogus"), None, "invalid sslmode value: \"bogus\""),
        case(uri("bogus=1"), None, "invalid URI query parameter: \"bogus\""),
            case(as_user("cleartext"), Some("tls"), ""),
            case(as_user("trusted"), Some("tls"), ""),
            case(uri("channel_binding=require").replace("reader", "trusted"), None, "channel binding is required"),
            case(uri("sslmode=require").replace("reader:secret", "reader"), None, "no password supplied"),
            case(uri("channel_binding=require"), Some("tls"), ""),
            case(uri("channel_binding=require&sslmode=disable"), None, "channel binding is required"),
            case(uri("channel_binding=require").replace("reader", "older"), None, "channel binding is required"),
            case(uri("").replace("reader", "older"), Some("tls"), ""),
        case(uri("ssl_max_protocol_version=TLSv1.2&sslmode=require"), Some("tls"), ""),
        case(format!("dbname = mail\nhosts = postgresql://reader:secret@{sockets}:{port}/mail"), Some("plain"), ""),
        case(format!("dbname = mail\nhosts = postgresql://certified@{host}/mail?sslmode=require"), None, "connection requires a valid client certificate"),
        case(format!("dbname = mail\nhosts = postgresql://certified@{host}/mail?sslmode=require&{pair}"), Some("tls"), ""),
        case(format!("user = reader\npassword = secret\nhosts = {host}\ndbname = dbname=mail sslmode=verify-full sslrootcert={ca}"), Some("tls"), ""),
        case(format!("user = reader\npassword = secret\nhosts = 127.0.0.1\ndbname = postgresql://x:y@nowhere.example:{port}/mail?sslmode=disable"), Some("plain"), ""),
        case(format!("user = reader\npassword = secret\nhosts = {host}\ndbname = mail sslmode=require"), None, "missing \"=\" after \"mail\""),
    ])
    .await;
}

#[tokio::test]
async fn pgsql_without_tls_on_the_server() {
    if !testkit::peers() {
        return;
    }
    let server = Postgres::start();
    server.create_db("mail");
    server.create_user("reader", "secret", "mail");
    let host = server.host();
    let uri = |rest: &str| {
        format!("dbname = mail\nhosts = postgresql://reader:secret@{host}/mail?{rest}")
    };
    check(
        "pgsql",
        PGSQL_QUERY,
        &[
            case(uri("sslmode=prefer"), Some("plain"), ""),
            case(
                uri("sslmode=require"),
                None,
                "server does not support SSL, but SSL was required; give the server a certificate",
            ),
        ],
    )
    .await;
}

/// A server that accepts and then says nothing: each step ends in time and says which one it was.
#[tokio::test]
async fn a_silent_server_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let dir = TempDir::new();
    let (log, tables) = (Log::start(), tables(""));
    let short = dir.write("short.cnf", "[client]\nconnect-timeout = 1\n");
    let mysql = format!(
        "hosts = 127.0.0.1:{port}\noption_file = {}\nuser = u\ndbname = d\nquery = SELECT 1\n",
        short.display()
    );
    let pgsql = |mode: &str| {
        format!(
            "hosts = postgresql://u:p@127.0.0.1:{port}/d?connect_timeout=2&sslmode={mode}\ndbname = d\nquery = SELECT 1\n"
        )
    };
    for (engine, text, step) in [
        ("mysql", mysql, "timeout during the greeting, after 1 s"),
        (
            "pgsql",
            pgsql("require"),
            "timeout during the TLS handshake, after 2 s",
        ),
        ("pgsql", pgsql("disable"), "timeout during login, after 2 s"),
    ] {
        let table = open(&tables, &dir, engine, &format!("{}.cf", step.len()), &text);
        let limit = tokio::time::timeout(Duration::from_secs(9), table.lookup("key")).await;
        limit
            .expect("sooner than the usual 10 s")
            .expect_err("no server");
        let logged = log.take();
        assert!(logged.contains(step), "{logged}");
    }
}

#[test]
fn a_changed_option_file_opens_the_table_anew() {
    let (dir, tables) = (TempDir::new(), tables(""));
    let included = dir.write("one.cnf", "[client]\nuser = u\n");
    let file = dir.write("my.cnf", format!("!include {}\n", included.display()));
    let text = format!(
        "option_file = {}\ndbname = d\nquery = SELECT 1\n",
        file.display()
    );
    open(&tables, &dir, "mysql", "t.cf", &text);
    let watched = tables.files();
    assert!(
        watched.contains(&file) && watched.contains(&included),
        "{watched:?}"
    );
}
