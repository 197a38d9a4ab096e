//! A key that the database rejects fails its own lookup and no other, however many run at the same time. What
//! Postfix's proxymap makes of the same input stands beside it.

mod support;

use std::process::Command;

use support::{open, tables};
use testkit::{MariaDb, MariaDbOptions, Postfix, Site, TempDir};

/// latin1 has no such letter: `Illegal mix of collations … for operation '='`.
const REJECTED: &str = "縗@example.org";

const QUERY: &str = "query = SELECT v FROM t WHERE k = '%s'";

fn server() -> MariaDb {
    let server = MariaDb::with(MariaDbOptions::default());
    server.create_db("mail");
    server.create_user("reader", "pw", "mail");
    let rows: Vec<String> = (0..1000)
        .map(|number| format!("('user{number}@example.org', 'value{number}')"))
        .collect();
    server.run_sql(
        "mail",
        &format!(
            "CREATE TABLE t (k VARCHAR(100) CHARACTER SET latin1 COLLATE latin1_swedish_ci PRIMARY KEY, v VARCHAR(100));
             INSERT INTO t VALUES {}",
            rows.join(",")
        ),
    );
    server
}

fn table_file(server: &MariaDb) -> String {
    let host = server.host();
    format!("hosts = {host}\nuser = reader\npassword = pw\ndbname = mail\n{QUERY}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rejected_key_fails_and_a_thousand_others_do_not() {
    if !testkit::peers() {
        return;
    }
    let server = server();
    let dir = TempDir::new();
    let table = open(&tables(""), &dir, "mysql", "t.cf", &table_file(&server));
    let mut running = Vec::new();
    for number in 0..1000 {
        let table = table.clone();
        running.push(tokio::spawn(async move {
            // Before, among and after the others.
            if number % 100 == 0 {
                let error = table.lookup(REJECTED).await.expect_err("rejected");
                assert!(error.is_logged(), "{error}");
            }
            let found = table.lookup(&format!("user{number}@example.org")).await;
            found.expect("no failure").expect("found")
        }));
    }
    for (number, lookup) in running.into_iter().enumerate() {
        assert_eq!(lookup.await.expect("no panic"), format!("value{number}"));
    }
    table.lookup(REJECTED).await.expect_err("still rejected");
    let found = table.lookup("user7@example.org").await;
    assert_eq!(found.expect("no failure").as_deref(), Some("value7"));
}

/// For the record (docs/tables.md): the rejected key takes the only host out of use for every lookup of the proxymap.
#[test]
fn postfix_fails_the_others_too() {
    if !testkit::peers() {
        return;
    }
    let server = server();
    let site = Site::new(
        "proxy_read_maps = proxy:mysql:@CONF@/t.cf",
        "proxymap unix - - n - 1 proxymap\n",
        &[("t.cf", &table_file(&server))],
    );
    let spec = site.expand("proxy:mysql:@CONF@/t.cf");
    let postfix = Postfix::on(site);
    let ask = |key: &str| {
        let mut command: Command = postfix.tool("postmap");
        let output = command
            .args(["-q", key, &spec])
            .output()
            .expect("postmap runs");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    assert_eq!(ask("user7@example.org"), "value7");
    assert_eq!(ask(REJECTED), "");
    assert_eq!(
        ask("user7@example.org"),
        "",
        "Postfix has changed: update docs/tables.md"
    );
    let log = postfix.log();
    assert!(
        log.contains("query failed: Illegal mix of collations"),
        "{log}"
    );
}
