//! `pgsql:` tables against a real PostgreSQL: quoting, faults, recovery.

use config::Config;
use postroom_tables::{Table, Tables};
use testkit::Postgres;

const QUERY: &str = "query = SELECT v FROM t WHERE k = '%s'";

fn fill(server: &Postgres) {
    server.create_db("mail");
    server.create_user("reader", "pw", "mail");
    server.run_sql(
        "mail",
        "CREATE TABLE t (k text, v text); GRANT SELECT ON t TO reader;
         INSERT INTO t VALUES ('plain', 'value'), ('o''brien', 'quoted'), (E'back\\\\slash', 'bs'), ('žluť', 'ž'), ('null', NULL)",
    );
}

fn open(dir: &std::path::Path, hosts: &str, name: &str, password: &str, query: &str) -> Table {
    let path = dir.join(name);
    let text =
        format!("hosts = {hosts}\nuser = reader\npassword = {password}\ndbname = mail\n{query}\n");
    std::fs::write(&path, text).expect("table file");
    let tables = Tables::new(&Config::from_text("", "").expect("main.cf"));
    tables
        .open(&format!("pgsql:{}", path.display()))
        .expect("a table")
}

#[tokio::test]
async fn answers_under_both_string_modes() {
    if !testkit::peers() {
        return;
    }
    let server = Postgres::start();
    fill(&server);
    let dir = tempfile::tempdir().expect("temporary folder");
    for mode in ["on", "off"] {
        server.run_sql(
            "mail",
            &format!("ALTER ROLE reader SET standard_conforming_strings = {mode}"),
        );
        for (number, hosts) in [
            server.host(),
            format!("unix:{}", server.socket_dir_5432().display()),
        ]
        .iter()
        .enumerate()
        {
            let table = open(
                dir.path(),
                hosts,
                &format!("{mode}{number}.cf"),
                "pw",
                QUERY,
            );
            for (key, value) in [
                ("plain", Some("value")),
                ("o'brien", Some("quoted")),
                ("back\\slash", Some("bs")),
                ("žluť", Some("ž")),
                ("null", None),
                ("none", None),
                ("\\' or 1=1 -- ", None),
                ("' or '1'='1", None),
            ] {
                let found = table.lookup(key).await.expect("no failure");
                assert_eq!(found.as_deref(), value, "{key:?} with {mode} over {hosts}");
            }
        }
    }
}

#[tokio::test]
async fn faults_and_recovery() {
    if !testkit::peers() {
        return;
    }
    let mut server = Postgres::start();
    fill(&server);
    let dir = tempfile::tempdir().expect("temporary folder");
    assert!(
        open(dir.path(), &server.host(), "pw.cf", "wrong", QUERY)
            .lookup("plain")
            .await
            .is_err()
    );
    let missing = open(
        dir.path(),
        &server.host(),
        "m.cf",
        "pw",
        "query = SELECT v FROM nosuch WHERE k = '%s'",
    );
    assert!(missing.lookup("plain").await.is_err());
    let table = open(dir.path(), &server.host(), "t.cf", "pw", QUERY);
    assert!(table.lookup("plain").await.expect("up").is_some());
    server.stop();
    server.start_again();
    assert!(table.lookup("plain").await.expect("up again").is_some());
    server.kill();
    assert!(table.lookup("plain").await.is_err());
    server.start_again();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert!(table.lookup("plain").await.expect("recovered").is_some());
}

#[tokio::test]
async fn many_keys_at_once_get_the_answers_of_single_lookups() {
    if !testkit::peers() {
        return;
    }
    let server = Postgres::start();
    fill(&server);
    let dir = tempfile::tempdir().expect("temporary folder");
    let tables = Tables::without_cache(&Config::from_text("", "").expect("main.cf"));
    let open = |name: &str, query: &str| {
        let path = dir.path().join(name);
        let host = server.host();
        let text =
            format!("hosts = {host}\nuser = reader\npassword = pw\ndbname = mail\n{query}\n");
        std::fs::write(&path, text).expect("table file");
        let spec = format!("pgsql:{}", path.display());
        tables.open(&spec).expect("a table")
    };
    let table = open("t.cf", QUERY);
    let mut keys: Vec<String> = (0..300).map(|n| format!("user{n}@example.org")).collect();
    let known = [
        "plain",
        "o'brien",
        "back\\slash",
        "žluť",
        "null",
        "",
        "PLAIN",
    ];
    for (number, key) in known.iter().enumerate() {
        keys.insert(number * 31, key.to_string());
    }
    let bytes: Vec<Vec<u8>> = keys.iter().map(|key| key.clone().into_bytes()).collect();
    let together = table.lookup_together(&bytes).await.expect("it can");
    assert_eq!(together.len(), keys.len());
    for (key, answer) in keys.iter().zip(together) {
        assert_eq!(answer, table.lookup(key).await, "{key:?}");
    }
    // A division by zero, for the key of three characters.
    let table = open("zero.cf", "query = SELECT 6 / (length('%s') - 3)");
    let keys = ["four", "fivee", "bad", "four"].map(|key| key.as_bytes().to_vec());
    let answers = table.lookup_together(&keys).await.expect("it can");
    let value = |text: &str| Ok(Some(text.to_string()));
    assert_eq!(answers[..2], [value("6"), value("3")]);
    assert!(answers.len() == 3 && answers[2].is_err(), "{answers:?}");
    let answers = table.lookup_together(&keys[1..2]).await.expect("it can");
    assert_eq!(answers, [value("3")]);
}
