//! The clients of `socketmap:` and `tcp:`: connections are kept, bounded, and replaced when they break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use config::Config;
use postroom_tables::{ErrorKind, Tables};
use testkit::{Act, LookupServer};

fn tables(main_cf: &str) -> Tables {
    Tables::new(&Config::from_text(main_cf, "").expect("a configuration"))
}

fn echo(request: &[u8]) -> Act {
    let reply = [b"OK <", request, b">"].concat();
    Act::Send([format!("{}:", reply.len()).as_bytes(), &reply, b","].concat())
}

#[tokio::test]
async fn one_connection_serves_many_lookups() {
    let server = LookupServer::socketmap(Arc::new(echo));
    let spec = format!("socketmap:inet:127.0.0.1:{}:n", server.port);
    let table = tables("").open(&spec).expect("a table");
    assert!(table.is_pattern());
    for number in 0..200 {
        let key = format!("Key {number}");
        let answer = table.lookup(&key).await.expect("an answer");
        assert_eq!(answer, Some(format!("<n {key}>")));
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let server = LookupServer::socketmap(Arc::new(|request: &[u8]| {
        std::thread::sleep(std::time::Duration::from_millis(2));
        echo(request)
    }));
    let spec = format!("socketmap:inet:127.0.0.1:{}:n", server.port);
    let table = tables("postroom_table_connections = 3\n")
        .open(&spec)
        .expect("a table");
    let lookups: Vec<_> = (0..100)
        .map(|number| {
            let table = table.clone();
            tokio::spawn(async move { table.lookup(&number.to_string()).await })
        })
        .collect();
    for (number, lookup) in lookups.into_iter().enumerate() {
        let answer = lookup.await.expect("no panic").expect("an answer");
        assert_eq!(answer, Some(format!("<n {number}>")));
    }
    assert!((1..=3).contains(&server.connections()));
}

#[tokio::test]
async fn tables_of_one_server_share_its_connections() {
    let server = LookupServer::socketmap(Arc::new(echo));
    let tables = tables("");
    for name in ["one", "two", "three"] {
        let spec = format!("socketmap:inet:127.0.0.1:{}:{name}", server.port);
        let table = tables.open(&spec).expect("a table");
        assert_eq!(
            table.lookup("k").await.expect("an answer"),
            Some(format!("<{name} k>"))
        );
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn answers_are_remembered_where_the_configuration_says_so() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = LookupServer::socketmap(Arc::new(move |request: &[u8]| {
        count.fetch_add(1, Ordering::SeqCst);
        echo(request)
    }));
    let spec = format!("socketmap:inet:127.0.0.1:{}:n", server.port);
    let table = tables("postroom_table_cache_ttl = 600s\n")
        .open(&spec)
        .expect("a table");
    for key in ["a", "A", "a", "A"] {
        assert_eq!(
            table.lookup(key).await.expect("an answer"),
            Some(format!("<n {key}>"))
        );
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_broke_is_replaced() {
    let server = LookupServer::socketmap(Arc::new(|request: &[u8]| match echo(request) {
        Act::Send(bytes) => Act::SendAndClose(bytes),
        act => act,
    }));
    let spec = format!("socketmap:inet:127.0.0.1:{}:n", server.port);
    let table = tables("").open(&spec).expect("a table");
    for _ in 0..5 {
        assert_eq!(
            table.lookup("k").await.expect("an answer").as_deref(),
            Some("<n k>")
        );
    }
    assert_eq!(server.connections(), 5);
}

#[tokio::test]
async fn a_reply_too_many_is_not_taken_for_the_next_key() {
    let once = Arc::new(AtomicBool::new(true));
    let server = LookupServer::tcp_table(Arc::new(move |request: &[u8]| {
        if once.swap(false, Ordering::SeqCst) {
            return Act::Send(b"200 first\n200 stray\n".to_vec());
        }
        Act::Send([b"200 ", &request[4..], b"\n"].concat())
    }));
    let spec = format!("tcp:127.0.0.1:{}", server.port);
    let table = tables("").open(&spec).expect("a table");
    assert!(table.lookup("a").await.is_err());
    assert_eq!(
        table.lookup("b").await.expect("an answer").as_deref(),
        Some("b")
    );
}

#[tokio::test]
async fn what_the_server_cannot_say_is_a_failure_and_not_a_miss() {
    let server = LookupServer::socketmap(Arc::new(|_: &[u8]| Act::Send(b"7:TEMP ow,".to_vec())));
    let tables = tables("");
    let temp = format!("socketmap:inet:127.0.0.1:{}:n", server.port);
    let dead = format!("tcp:127.0.0.1:{}", testkit::dead_port());
    for (spec, kind) in [(temp, ErrorKind::Table), (dead, ErrorKind::Environment)] {
        let table = tables.open(&spec).expect("a table");
        let error = table.lookup("k").await.expect_err("no answer");
        assert_eq!(error.kind(), kind, "{spec}");
        assert!(error.is_logged() && error.to_string().contains(&spec));
    }
}

#[tokio::test]
async fn a_list_goes_on_only_after_a_miss() {
    let server = LookupServer::socketmap(Arc::new(|request: &[u8]| {
        Act::Send(match request {
            b"n gone" => b"9:NOTFOUND ,".to_vec(),
            _ => b"5:TEMP ,".to_vec(),
        })
    }));
    let spec = format!("socketmap:inet:127.0.0.1:{}:n, static:second", server.port);
    let list = tables("").open_list(&spec).expect("tables");
    assert_eq!(
        list.lookup("gone").await.expect("an answer").as_deref(),
        Some("second")
    );
    assert!(list.lookup("other").await.is_err());
}
