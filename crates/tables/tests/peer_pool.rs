//! The pool against real MariaDB servers that are busy, full, frozen or killed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::Config;
use postroom_tables::{Table, Tables};
use testkit::{MariaDb, MariaDbOptions};

const QUERY: &str = "SELECT CONCAT('value of ', '%s')";

fn server(max_connections: u32) -> MariaDb {
    let server = MariaDb::with(MariaDbOptions {
        max_connections,
        durable: true,
        ..MariaDbOptions::default()
    });
    server.create_db("mail");
    server.create_user("reader", "pw", "mail");
    server
}

fn open(dir: &std::path::Path, main_cf: &str, hosts: &str, query: &str) -> Table {
    let path = dir.join("t.cf");
    let text = format!(
        "hosts = {hosts}\nuser = reader\npassword = pw\ndbname = mail\nquery = {query}\nretry_interval = 1\n"
    );
    std::fs::write(&path, text).expect("table file");
    let tables = Tables::new(&Config::from_text(main_cf, "").expect("main.cf"));
    tables
        .open(&format!("mysql:{}", path.display()))
        .expect("a table")
}

/// How many connections of ours the server has.
fn connections(server: &MariaDb) -> u64 {
    let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'reader'";
    let count = server.run_sql("", sql);
    count.trim().parse().expect("a number")
}

#[tokio::test]
async fn each_lookup_has_its_turn() {
    if !testkit::peers() {
        return;
    }
    let server = server(50);
    let dir = tempfile::tempdir().expect("temporary folder");
    let slow = "SELECT '%s' WHERE SLEEP(0.02) = 0";
    let one = "postroom_table_connections = 1";
    let table = open(dir.path(), one, &server.host(), slow);
    let order = Arc::new(Mutex::new(Vec::new()));
    let start = |number: usize| {
        let (table, order) = (table.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            let found = table.lookup(&format!("key{number}")).await;
            assert_eq!(found, Ok(Some(format!("key{number}"))));
            order.lock().expect("no panic").push(number);
        })
    };
    let running: Vec<_> = (0..20).map(start).collect();
    for one in running {
        one.await.expect("an answer");
    }
    let order = order.lock().expect("no panic").clone();
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}

/// Lookups of ever new keys, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(table: &Table, tasks: usize) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            done: Arc::default(),
            wrong: Arc::default(),
            tasks: Vec::new(),
        };
        for task in 0..tasks {
            let table = table.clone();
            let (stop, done) = (Arc::clone(&load.stop), Arc::clone(&load.done));
            let wrong = Arc::clone(&load.wrong);
            load.tasks.push(tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("{task}-{number}");
                    let found = table.lookup(&key).await;
                    if found != Ok(Some(format!("value of {key}"))) {
                        wrong
                            .lock()
                            .expect("no panic")
                            .push(format!("{key}: {found:?}"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }));
        }
        load
    }

    async fn more(&self, lookups: u64) {
        let until = self.done.load(Ordering::Relaxed) + lookups;
        while self.done.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it; what went wrong.
    async fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no panic");
        }
        self.wrong.lock().expect("no panic").clone()
    }
}

/// Does what blocks beside the load.
async fn meanwhile<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_is_killed_under_load_and_no_lookup_fails() {
    if !testkit::peers() {
        return;
    }
    let (mut first, second) = (server(50), server(50));
    let dir = tempfile::tempdir().expect("temporary folder");
    let hosts = format!("{}, {}", first.host(), second.host());
    let table = open(dir.path(), "", &hosts, QUERY);
    let load = Load::start(&table, 8);
    load.more(300).await;
    first = meanwhile(move || {
        first.kill();
        first
    })
    .await;
    load.more(600).await;
    assert!(connections(&second) > 0);
    first = meanwhile(move || {
        first.start_again();
        first
    })
    .await;
    // It comes back into use by itself.
    let mut back = false;
    for _ in 0..300 {
        load.more(10).await;
        back = connections(&first) > 0;
        if back {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(back, "the restarted server gets connections again");
    load.more(300).await;
    let wrong = load.finish().await;
    assert!(wrong.is_empty(), "{} failed: {wrong:?}", wrong.len());
}

#[tokio::test]
async fn a_host_that_hangs_is_passed_over() {
    if !testkit::peers() {
        return;
    }
    let (frozen, good) = (server(50), server(50));
    let dir = tempfile::tempdir().expect("temporary folder");
    // The socket is tried first.
    let hosts = format!("unix:{}, {}", frozen.socket.display(), good.host());
    let table = open(dir.path(), "", &hosts, QUERY);
    frozen.freeze();
    for number in 0..5 {
        let found = table.lookup(&format!("{number}")).await;
        assert_eq!(found, Ok(Some(format!("value of {number}"))));
    }
    frozen.thaw();
}

#[tokio::test]
async fn a_connection_that_dies_under_a_query_costs_no_answer() {
    if !testkit::peers() {
        return;
    }
    let server = server(50);
    let dir = tempfile::tempdir().expect("temporary folder");
    let slow = "SELECT '%s' WHERE SLEEP(1) = 0";
    let table = open(dir.path(), "", &server.host(), slow);
    let start = |key: &'static str| {
        let table = table.clone();
        tokio::spawn(async move { (key, table.lookup(key).await) })
    };
    let running = [start("a"), start("b"), start("c")];
    while connections(&server) < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ids = "SELECT id FROM information_schema.processlist WHERE user = 'reader'";
    for id in server.run_sql("", ids).lines() {
        server.run_sql("", &format!("KILL CONNECTION {id}"));
    }
    for one in running {
        let (key, found) = one.await.expect("no panic");
        assert_eq!(found, Ok(Some(key.to_string())));
    }
}

#[tokio::test]
async fn a_server_with_too_few_connections_makes_lookups_wait_not_fail() {
    if !testkit::peers() {
        return;
    }
    let server = server(4);
    let dir = tempfile::tempdir().expect("temporary folder");
    let slow = "SELECT '%s' WHERE SLEEP(0.02) = 0";
    let table = open(dir.path(), "", &server.host(), slow);
    let start = |number: usize| {
        let table = table.clone();
        tokio::spawn(async move { table.lookup(&format!("key{number}")).await })
    };
    let running: Vec<_> = (0..60).map(start).collect();
    for (number, one) in running.into_iter().enumerate() {
        let found = one.await.expect("no panic");
        assert_eq!(found, Ok(Some(format!("key{number}"))));
    }
}

/// A replica may lack what the other host has: it is asked first here, and the answer is found all the same.
#[tokio::test]
async fn what_one_host_rejects_another_may_answer() {
    if !testkit::peers() {
        return;
    }
    let (with, without) = (server(50), server(50));
    with.run_sql(
        "mail",
        "CREATE TABLE t (k VARCHAR(80)); INSERT INTO t VALUES ('key')",
    );
    let dir = tempfile::tempdir().expect("temporary folder");
    // A socket comes before an address.
    let hosts = format!("unix:{} {}", without.socket.display(), with.host());
    let table = open(
        dir.path(),
        "",
        &hosts,
        "SELECT CONCAT('has ', k) FROM t WHERE k = '%s'",
    );
    for _ in 0..20 {
        assert_eq!(table.lookup("key").await, Ok(Some("has key".to_string())));
        assert_eq!(table.lookup("other").await, Ok(None));
    }
    // Neither went out of use.
    let questions = |server: &MariaDb| server.status("Com_select");
    assert!(questions(&with) >= 40, "{}", questions(&with));
    assert!(questions(&without) > 20, "{}", questions(&without));
}
