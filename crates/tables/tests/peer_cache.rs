//! Shared queries and the cache, in front of a real MariaDB.

use std::time::Duration;

use config::Config;
use postroom_tables::{Table, TableStatistics, Tables};
use testkit::{MariaDb, MariaDbOptions};

const QUERY: &str = "SELECT v FROM t WHERE k = '%s'";
/// Takes its time, so that other lookups come meanwhile.
const SLOW: &str = "SELECT v FROM t WHERE k = '%s' AND SLEEP(0.5) = 0";

struct Fixture {
    server: MariaDb,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        // One test kills it and wants its rows back.
        let server = MariaDb::with(MariaDbOptions {
            durable: true,
            ..MariaDbOptions::default()
        });
        server.create_db("mail");
        server.create_user("reader", "pw", "mail");
        server.run_sql(
            "mail",
            "CREATE TABLE t (k VARCHAR(100) PRIMARY KEY, v VARCHAR(100));
             INSERT INTO t VALUES ('plain', 'value'), ('other', 'second')",
        );
        let dir = tempfile::tempdir().expect("temporary folder");
        Fixture { server, dir }
    }

    /// Opens a table with the query and further settings, each on its own line.
    fn open(&self, tables: &Tables, name: &str, query: &str, more: &str) -> Table {
        let path = self.dir.path().join(name);
        let host = self.server.host();
        let text = format!(
            "hosts = {host}\nuser = reader\npassword = pw\ndbname = mail\nquery = {query}\n{more}\n"
        );
        std::fs::write(&path, text).expect("table file");
        tables
            .open(&format!("mysql:{}", path.display()))
            .expect("a table")
    }

    fn update(&self, value: &str) {
        let sql = format!("UPDATE t SET v = '{value}' WHERE k = 'plain'");
        self.server.run_sql("mail", &sql);
    }
}

fn tables(main_cf: &str) -> Tables {
    Tables::new(&Config::from_text(main_cf, "").expect("main.cf"))
}

async fn lookup(table: &Table, key: &str) -> Option<String> {
    table.lookup(key).await.expect("no failure")
}

fn some(value: &str) -> Option<String> {
    Some(value.to_string())
}

fn statistics(tables: &Tables, table: &Table) -> TableStatistics {
    let mut all = tables.statistics().tables.into_iter();
    all.find(|one| one.table == table.spec())
        .expect("counts of the table")
}

#[tokio::test]
async fn identical_lookups_under_way_share_a_query() {
    if !testkit::peers() {
        return;
    }
    let fixture = Fixture::new();
    let tables = tables("");
    let table = fixture.open(&tables, "t.cf", SLOW, "");
    fixture.server.general_log(true);
    let mut running = Vec::new();
    for number in 0..40 {
        let table = table.clone();
        // Folded alike, so one key; every fourth is another one.
        let key = ["plain", "PLAIN", "Plain", "other"][number % 4];
        running.push(tokio::spawn(
            async move { (key, lookup(&table, key).await) },
        ));
    }
    for one in running {
        let (key, value) = one.await.expect("no panic");
        let expected = if key == "other" { "second" } else { "value" };
        assert_eq!(value, some(expected));
    }
    let statements = fixture.server.take_statements("reader");
    assert_eq!(statements.len(), 2, "{statements:?}");
    let counts = statistics(&tables, &table);
    assert_eq!((counts.found, counts.shared), (40, 38));
    // A later one asks anew.
    fixture.update("new");
    assert_eq!(lookup(&table, "plain").await, some("new"));
}

#[tokio::test]
async fn a_lookup_that_was_given_up_leaves_the_others_their_answer() {
    if !testkit::peers() {
        return;
    }
    let fixture = Fixture::new();
    let table = fixture.open(&tables(""), "t.cf", SLOW, "");
    let start = || {
        let table = table.clone();
        tokio::spawn(async move { lookup(&table, "plain").await })
    };
    let first = start();
    let others = [start(), start()];
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    for other in others {
        assert_eq!(other.await.expect("no panic"), some("value"));
    }
}

#[tokio::test]
async fn the_cache_is_off_unless_asked_for_and_each_table_may_say_otherwise() {
    if !testkit::peers() {
        return;
    }
    let fixture = Fixture::new();
    let default = tables("");
    let cached = tables("postroom_table_cache_ttl = 1h\npostroom_table_cache_negative_ttl = 1h");
    let off_here = "postroom_table_cache_ttl = 0";
    let on_here = "postroom_table_cache_ttl = 1h\npostroom_table_cache_negative_ttl = 0";
    let each = [
        (fixture.open(&default, "1.cf", QUERY, ""), false, false),
        (fixture.open(&default, "2.cf", QUERY, on_here), true, false),
        (fixture.open(&cached, "3.cf", QUERY, ""), true, true),
        (fixture.open(&cached, "4.cf", QUERY, off_here), false, false),
    ];
    for (table, _, _) in &each {
        assert_eq!(lookup(table, "plain").await, some("value"));
        assert_eq!(lookup(table, "new").await, None);
    }
    fixture.update("changed");
    fixture
        .server
        .run_sql("mail", "INSERT INTO t VALUES ('new', 'there')");
    for (table, values, misses) in &each {
        let expected = if *values { "value" } else { "changed" };
        assert_eq!(lookup(table, "PLAIN").await, some(expected), "{table:?}");
        let expected = if *misses { None } else { some("there") };
        assert_eq!(lookup(table, "new").await, expected, "{table:?}");
    }
    let counts = statistics(&cached, &each[2].0);
    assert_eq!((counts.cache_hits, counts.cache_misses), (2, 2));
    // Opened anew, as after a change of a file: nothing comes back.
    let anew = tables("postroom_table_cache_ttl = 1h");
    let table = fixture.open(&anew, "3.cf", QUERY, "");
    assert_eq!(lookup(&table, "plain").await, some("changed"));
}

#[tokio::test]
async fn a_remembered_answer_has_its_day() {
    if !testkit::peers() {
        return;
    }
    let fixture = Fixture::new();
    let short = tables("postroom_table_cache_ttl = 1s");
    let table = fixture.open(&short, "t.cf", QUERY, "");
    assert_eq!(lookup(&table, "plain").await, some("value"));
    fixture.update("changed");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(lookup(&table, "plain").await, some("changed"));
}

#[tokio::test]
async fn while_the_database_is_down_known_answers_may_be_used() {
    if !testkit::peers() {
        return;
    }
    let mut fixture = Fixture::new();
    let strict = tables("");
    let lenient = tables("postroom_table_stale_ttl = 1h");
    let fails = fixture.open(&strict, "strict.cf", QUERY, "");
    let table = fixture.open(&lenient, "t.cf", QUERY, "");
    for table in [&fails, &table] {
        assert_eq!(lookup(table, "plain").await, some("value"));
        assert_eq!(lookup(table, "none").await, None);
    }
    // While it is up, an edit is seen at once.
    fixture.update("changed");
    assert_eq!(lookup(&table, "plain").await, some("changed"));
    fixture.server.kill();
    assert!(fails.lookup("plain").await.is_err());
    for _ in 0..5 {
        assert_eq!(lookup(&table, "plain").await, some("changed"));
        assert_eq!(lookup(&table, "none").await, None);
        assert!(table.lookup("other").await.is_err(), "never asked before");
    }
    assert_eq!(statistics(&lenient, &table).stale, 10);
    fixture.server.start_again();
    fixture.update("later");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(lookup(&table, "plain").await, some("later"));
}

#[tokio::test]
async fn wrong_settings_are_told_with_their_place() {
    if !testkit::peers() {
        return;
    }
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("t.cf");
    let text = "hosts = x\ndbname = mail\nquery = SELECT 1\npostroom_table_cache_ttl = soon\n";
    std::fs::write(&path, text).expect("table file");
    let path = path.display();
    let error = tables("").open(&format!("mysql:{path}")).expect_err("soon");
    assert_eq!(
        error.to_string(),
        format!("{path}: bad time configuration: postroom_table_cache_ttl = soon")
    );
}
