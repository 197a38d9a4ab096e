//! `mysql:` tables against a real MariaDB: quoting under every mode, faults, recovery, bounds.

use config::Config;
use postroom_tables::{Table, Tables};
use testkit::{MariaDb, MariaDbOptions};

const KEYS: &[&str] = &[
    "o'brien@example.org",
    "\"quoted\"@example.org",
    "back\\slash",
    "end\\",
    "' or '1'='1",
    "\\' or 1=1 -- ",
    "\" or 1=1 -- ",
    "`x`; drop table t",
    "é' or 1=1 -- ",
    "縗' or 1=1 -- ",
    "line\nbreak",
    "\u{1a}",
];

fn options(sql_mode: Option<&str>, character_set: &str) -> MariaDbOptions {
    MariaDbOptions {
        sql_mode: sql_mode.map(str::to_string),
        character_set: character_set.to_string(),
        collation: None,
        ..MariaDbOptions::default()
    }
}

fn fill(server: &MariaDb) {
    server.create_db("mail");
    server.create_user("reader", "pw", "mail");
    server.run_sql("mail", "CREATE TABLE t (k VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, v VARCHAR(100) CHARACTER SET utf8mb4)");
    server.run_sql("mail", "INSERT INTO t VALUES ('plain', 'value')");
    for (number, key) in KEYS.iter().enumerate() {
        let hex: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
        server.run_sql(
            "mail",
            &format!("INSERT INTO t VALUES (CONVERT(x'{hex}' USING utf8mb4), 'key{number}')"),
        );
    }
}

fn open(tables: &Tables, dir: &std::path::Path, hosts: &str, name: &str, more: &str) -> Table {
    let path = dir.join(name);
    let text = format!("hosts = {hosts}\nuser = reader\ndbname = mail\n{more}\n");
    std::fs::write(&path, text).expect("table file");
    tables
        .open(&format!("mysql:{}", path.display()))
        .expect("a table")
}

fn tables(main_cf: &str) -> Tables {
    Tables::new(&Config::from_text(main_cf, "").expect("main.cf"))
}

const QUERY: &str = "password = pw\nquery = SELECT v FROM t WHERE k = '%s'";

#[tokio::test]
async fn no_key_changes_the_statement() {
    if !testkit::peers() {
        return;
    }
    for (mode, charset) in [
        (None, "utf8mb4"),
        (Some("NO_BACKSLASH_ESCAPES"), "utf8mb4"),
        (Some("ANSI_QUOTES"), "utf8mb4"),
        (Some("ANSI_QUOTES,NO_BACKSLASH_ESCAPES"), "utf8mb4"),
        (None, "gbk"),
        (None, "latin1"),
    ] {
        let server = MariaDb::with(options(mode, charset));
        fill(&server);
        let dir = tempfile::tempdir().expect("temporary folder");
        let table = open(&tables(""), dir.path(), &server.host(), "t.cf", QUERY);
        assert_eq!(
            table.lookup("plain").await.expect("found").as_deref(),
            Some("value")
        );
        for (number, key) in KEYS.iter().enumerate() {
            let found = table.lookup(key).await.expect("no failure");
            assert_eq!(
                found,
                Some(format!("key{number}")),
                "{key:?} under {mode:?}, {charset}"
            );
        }
        let quoted = "password = pw\nquery = SELECT v FROM t WHERE k = \"%s\"";
        let table = open(&tables(""), dir.path(), &server.host(), "double.cf", quoted);
        for (number, key) in KEYS.iter().enumerate() {
            // With ANSI_QUOTES the key is the name of a column that does not exist.
            match table.lookup(key).await {
                Ok(found) => assert_eq!(
                    found,
                    Some(format!("key{number}")),
                    "{key:?} under {mode:?}"
                ),
                Err(_) => assert!(
                    mode.is_some_and(|mode| mode.contains("ANSI")),
                    "{key:?} under {mode:?}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn a_session_character_set_that_swallows_quotes_is_refused() {
    if !testkit::peers() {
        return;
    }
    let server = MariaDb::with(MariaDbOptions {
        extra: vec!["--init-connect=SET NAMES gbk".to_string()],
        ..MariaDbOptions::default()
    });
    fill(&server);
    let dir = tempfile::tempdir().expect("temporary folder");
    let table = open(&tables(""), dir.path(), &server.host(), "t.cf", QUERY);
    assert_eq!(
        table
            .lookup("plain")
            .await
            .expect("no quoting needed")
            .as_deref(),
        Some("value")
    );
    assert!(table.lookup("縗' or 1=1 -- ").await.is_err());
    assert_eq!(
        table
            .lookup("plain")
            .await
            .expect("only that lookup failed")
            .as_deref(),
        Some("value")
    );
}

#[tokio::test]
async fn the_next_lookup_after_a_restart_works() {
    if !testkit::peers() {
        return;
    }
    let mut server = MariaDb::start();
    fill(&server);
    let dir = tempfile::tempdir().expect("temporary folder");
    let table = open(&tables(""), dir.path(), &server.host(), "t.cf", QUERY);
    assert!(table.lookup("plain").await.expect("up").is_some());
    // Between two lookups: the kept connection is dead, a fresh one is made without a failure.
    server.stop();
    server.start_again();
    assert!(table.lookup("plain").await.expect("up again").is_some());
    server.kill();
    assert!(
        table.lookup("plain").await.is_err(),
        "a dead server is a failure, not a miss"
    );
    server.start_again();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert!(table.lookup("plain").await.expect("recovered").is_some());
}

#[tokio::test]
async fn failures_are_told_apart_and_cost_no_other_lookup() {
    if !testkit::peers() {
        return;
    }
    let server = MariaDb::start();
    fill(&server);
    let dir = tempfile::tempdir().expect("temporary folder");
    let tables = tables("");
    let good = open(&tables, dir.path(), &server.host(), "good.cf", QUERY);
    for (name, settings) in [
        ("password.cf", "password = wrong\nquery = SELECT 1"),
        (
            "table.cf",
            "password = pw\nquery = SELECT v FROM nosuch WHERE k = '%s'",
        ),
        ("two.cf", "password = pw\nquery = SELECT 1; SELECT 2"),
        ("empty.cf", "password = pw\nquery = DO 1"),
    ] {
        let table = open(&tables, dir.path(), &server.host(), name, settings);
        let error = table.lookup("x").await.expect_err(name);
        assert!(!error.to_string().contains("wrong"), "{error}");
        assert!(good.lookup("plain").await.expect("others go on").is_some());
    }
    let dead = format!("127.0.0.1:{} {}", testkit::dead_port(), server.host());
    let table = open(&tables, dir.path(), &dead, "failover.cf", QUERY);
    for _ in 0..20 {
        assert!(
            table
                .lookup("plain")
                .await
                .expect("the other host")
                .is_some()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_and_shared() {
    if !testkit::peers() {
        return;
    }
    let server = MariaDb::start();
    fill(&server);
    let dir = tempfile::tempdir().expect("temporary folder");
    let tables = tables("postroom_table_connections = 3");
    let before = server.status("Connections");
    let mut running = Vec::new();
    for number in 0..400 {
        let table = open(
            &tables,
            dir.path(),
            &server.host(),
            &format!("{}.cf", number % 4),
            QUERY,
        );
        running.push(tokio::spawn(async move { table.lookup("plain").await }));
    }
    for lookup in running {
        assert!(
            lookup
                .await
                .expect("no panic")
                .expect("no failure")
                .is_some()
        );
    }
    // Asking for the counter is a connection itself.
    assert!(server.status("Connections") - before <= 3 + 1);
    let statistics = tables.statistics();
    assert_eq!(statistics.tables.len(), 4);
    for table in &statistics.tables {
        assert_eq!(
            (table.found, table.not_found, table.failed),
            (100, 0, 0),
            "{}",
            table.table
        );
        assert_eq!(table.latency.buckets.iter().sum::<u64>(), 100);
    }
    let [pool] = &statistics.pools[..] else {
        panic!("one pool: {:?}", statistics.pools);
    };
    assert!((1..=3).contains(&pool.open), "{pool:?}");
    assert_eq!(
        (pool.engine, pool.hosts.as_str(), pool.user.as_str()),
        ("mysql", server.host().as_str(), "reader")
    );
    assert_eq!((pool.limit, pool.in_use, pool.waiting), (3, 0, 0));
}

#[tokio::test]
async fn the_session_is_as_postfix_makes_it() {
    if !testkit::peers() {
        return;
    }
    let server = MariaDb::start();
    fill(&server);
    let dir = tempfile::tempdir().expect("temporary folder");
    let table = open(&tables(""), dir.path(), &server.host(), "t.cf", QUERY);
    server.general_log(true);
    assert!(table.lookup("plain").await.expect("found").is_some());
    assert_eq!(
        server.take_statements("reader"),
        ["SELECT v FROM t WHERE k = 'plain'"]
    );
}
