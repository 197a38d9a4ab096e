//! What the pool does when an answer does not come, with less patience than in earnest.

use testkit::MariaDb;

use super::*;

fn pool(hosts: &[(&str, Place)]) -> Pool {
    let host = |(shown, place): &(&str, Place)| Host {
        shown: shown.to_string(),
        place: place.clone(),
        login: None,
    };
    let target = Target {
        engine: Engine::MySql,
        hosts: hosts.iter().map(host).collect(),
        login: Login {
            user: "reader".to_string(),
            password: "pw".to_string(),
            dbname: "mail".to_string(),
            ..Login::default()
        },
        retry_interval: Duration::from_secs(60),
        idle_interval: Duration::from_secs(60),
    };
    let patience = Patience {
        query: Duration::from_secs(1),
        ..Patience::default()
    };
    Pool::new(target, 4, patience)
}

fn server() -> MariaDb {
    let server = MariaDb::start();
    server.create_db("mail");
    server.create_user("reader", "pw", "mail");
    server
}

/// The value for the key, and the host that gave it.
async fn run(pool: &Pool, query: &str, key: &str) -> Option<(usize, Vec<u8>)> {
    let query = Query::parse(query, true).expect("a template");
    let job = Job {
        spec: "mysql:x",
        query: &query,
        keys: &[key],
        require_result_set: true,
    };
    let replies = pool.run(&job).await.ok()?;
    let rows = replies.each.first()?.as_ref().ok()?;
    Some((replies.host, rows.cells().next()??.to_vec()))
}

const QUERY: &str = "SELECT '%s'";

#[tokio::test]
async fn a_server_that_freezes_under_a_query_is_passed_over() {
    if !testkit::peers() {
        return;
    }
    let (first, second) = (server(), server());
    let pool = pool(&[
        // The socket is preferred.
        ("first", Place::Unix(first.socket.clone())),
        ("second", Place::Tcp("127.0.0.1".to_string(), second.port)),
    ]);
    assert_eq!(run(&pool, QUERY, "a").await, Some((0, b"a".to_vec())));
    first.freeze();
    for key in ["b", "c", "d"] {
        let expected = Some((1, key.as_bytes().to_vec()));
        assert_eq!(run(&pool, QUERY, key).await, expected);
    }
    first.thaw();
}

#[tokio::test]
async fn a_statement_that_is_too_slow_fails_alone() {
    if !testkit::peers() {
        return;
    }
    let server = server();
    let pool = pool(&[("only", Place::Unix(server.socket.clone()))]);
    for key in ["a", "b"] {
        assert_eq!(run(&pool, "SELECT '%s', SLEEP(30)", key).await, None);
        let expected = Some((0, key.as_bytes().to_vec()));
        assert_eq!(run(&pool, QUERY, key).await, expected);
    }
}

#[tokio::test]
async fn a_connection_to_another_host_takes_the_place_of_one_that_rests() {
    if !testkit::peers() {
        return;
    }
    let (first, second) = (server(), server());
    let mut pool = pool(&[
        ("first", Place::Tcp("127.0.0.1".to_string(), first.port)),
        ("second", Place::Tcp("127.0.0.1".to_string(), second.port)),
    ]);
    pool.limit = 1;
    pool.permits = Semaphore::new(1);
    assert!(run(&pool, QUERY, "a").await.is_some());
    let used = pool.idle()[0].host;
    // The other one was down for long enough.
    let long_ago = Instant::now().checked_sub(Duration::from_secs(61));
    let Some(long_ago) = long_ago else {
        return;
    };
    pool.health.bad(1 - used, long_ago);
    let found = run(&pool, QUERY, "b").await.map(|(host, _)| host);
    assert_eq!(found, Some(1 - used));
    assert_eq!(pool.statistics().open, 1);
}
