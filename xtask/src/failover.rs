//! `cargo xtask failover`: a steady stream of lookups over two MariaDB servers, one of which is killed
//! and started again meanwhile. Counts the lookups that fail and shows how soon all is well again.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::Config;
use tables::{Table, Tables};
use testkit::{MariaDb, MariaDbOptions, TempDir};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::options::Options;

const HELP: &str = "usage: cargo xtask failover [OPTION VALUE]…
  --rate N             lookups a second (default 2000)
  --seconds N          length of each part: before the kill, while down (default 4)
  --retry-interval N   seconds, as in the table file (default 2)
  --fault WORD         kill (SIGKILL, then a restart) or stop (SIGSTOP, then SIGCONT) (default kill)";

const KEYS: usize = 5_000;

/// One lookup.
struct Shot {
    begun: Instant,
    took: Duration,
    right: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
}

pub fn run(words: &[&str]) -> Result<ExitCode, String> {
    let known = ["rate", "seconds", "retry-interval", "fault"];
    let options = Options::parse(words, &known, HELP)?;
    let rate: u32 = options.number("rate", 2000)?;
    let part = Duration::from_secs_f64(options.number("seconds", 4.0)?);
    let retry: u64 = options.number("retry-interval", 2)?;
    let fault = match options.get("fault").unwrap_or("kill") {
        "kill" => Fault::Kill,
        "stop" => Fault::Stop,
        other => return Err(format!("--fault {other}: either `kill` or `stop`")),
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(show(rate, part, retry, fault))
}

async fn show(rate: u32, part: Duration, retry: u64, fault: Fault) -> Result<ExitCode, String> {
    let (first, second) = (server(), server());
    let folder = TempDir::new();
    let hosts = format!("{}, {}", first.host(), second.host());
    let file = folder.write(
        "table.cf",
        format!(
            "hosts = {hosts}\nuser = reader\npassword = pw\ndbname = mail\nretry_interval = {retry}\n\
             query = SELECT v FROM t WHERE k = '%s'\n"
        ),
    );
    let config = Config::from_text("", "").map_err(|error| error.to_string())?;
    let tables = Tables::new(&config);
    let table = tables
        .open(&format!("mysql:{}", file.display()))
        .map_err(|error| error.to_string())?;
    let shots: Arc<Mutex<Vec<Shot>>> = Arc::default();
    let stream = tokio::spawn(fire(table, rate, Arc::clone(&shots)));
    let begin = Instant::now();
    let at = |moment: Instant| format!("{:6.2} s", (moment - begin).as_secs_f64());
    println!("{rate} lookups a second, hosts = {hosts}, retry_interval = {retry}");
    sleep(part).await;
    // The one that is used more.
    let used = [selects(&first).await, selects(&second).await];
    let (victim, other) = match used[0] > used[1] {
        true => (first, second),
        false => (second, first),
    };
    let down = Instant::now();
    let victim = off_thread(move || strike(victim, fault)).await;
    println!("{}  server {} is {}", at(down), victim.port, fault.done());
    sleep(part).await;
    let victim = off_thread(move || revive(victim, fault)).await;
    let up = Instant::now();
    println!("{}  it is up again", at(up));
    let before = selects(&victim).await;
    let mut back = None;
    while back.is_none() && up.elapsed() < Duration::from_secs(retry + 60) {
        sleep(Duration::from_millis(20)).await;
        if selects(&victim).await > before {
            back = Some(Instant::now());
        }
    }
    match back {
        Some(back) => println!("{}  lookups use it again", at(back)),
        None => println!("{}  lookups do not use it", at(Instant::now())),
    }
    sleep(part).await;
    stream.abort();
    wait_for_the_last(&tables).await;
    drop(other);
    let shots = std::mem::take(&mut *shots.lock().expect("no shot panics"));
    report(&shots, begin, down, up, back);
    let failed = shots.iter().filter(|shot| !shot.right).count();
    Ok(if failed == 0 && back.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Fault {
    fn done(self) -> &'static str {
        match self {
            Fault::Kill => "killed (SIGKILL)",
            Fault::Stop => "stopped (SIGSTOP)",
        }
    }
}

fn strike(mut server: MariaDb, fault: Fault) -> MariaDb {
    match fault {
        Fault::Kill => server.kill(),
        Fault::Stop => server.freeze(),
    }
    server
}

fn revive(mut server: MariaDb, fault: Fault) -> MariaDb {
    match fault {
        Fault::Kill => server.start_again(),
        Fault::Stop => server.thaw(),
    }
    server
}

fn server() -> MariaDb {
    let server = MariaDb::with(MariaDbOptions {
        durable: true,
        ..Default::default()
    });
    server.create_db("mail");
    server.create_user("reader", "pw", "mail");
    let rows: Vec<String> = (0..KEYS)
        .map(|n| format!("('{}', '{}')", key(n), value(n)))
        .collect();
    let rows = rows.join(", ");
    server.run_sql(
        "mail",
        &format!(
            "CREATE TABLE t (k VARCHAR(100) PRIMARY KEY, v VARCHAR(100)); INSERT INTO t VALUES {rows}"
        ),
    );
    server
}

fn key(number: usize) -> String {
    format!("user{number}@example.org")
}

fn value(number: usize) -> String {
    format!("box{number}@example.net")
}

/// Starts lookups at the given rate, whether those before have ended or not.
async fn fire(table: Table, rate: u32, shots: Arc<Mutex<Vec<Shot>>>) {
    let mut tick = interval(Duration::from_secs(1) / rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        tick.tick().await;
        let (table, shots) = (table.clone(), Arc::clone(&shots));
        tokio::spawn(async move {
            let number = number % KEYS;
            let begun = Instant::now();
            let found = table.lookup(&key(number)).await;
            let shot = Shot {
                begun,
                took: begun.elapsed(),
                right: found == Ok(Some(value(number))),
            };
            shots.lock().expect("no shot panics").push(shot);
        });
    }
}

/// Lookups that hang are waited for: they may still fail.
async fn wait_for_the_last(tables: &Tables) {
    let busy = || {
        let pools = tables.statistics().pools;
        pools.iter().any(|pool| pool.in_use + pool.waiting > 0)
    };
    while busy() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// SELECT statements that the server has run; asking is none.
async fn selects(server: &MariaDb) -> u64 {
    tokio::task::block_in_place(|| server.status("Com_select"))
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("servers start and stop")
}

fn report(shots: &[Shot], begin: Instant, down: Instant, up: Instant, back: Option<Instant>) {
    let end = shots.iter().map(|shot| shot.begun).max().unwrap_or(begin);
    let back = back.unwrap_or(end);
    println!(
        "\n{:26} {:>8} {:>8} {:>10} {:>12} {:>12}",
        "begun", "lookups", "failed", "a second", "median ms", "slowest ms"
    );
    for (name, from, to) in [
        ("before", begin, down),
        ("while it is down", down, up),
        ("until it is in use again", up, back),
        ("afterwards", back, end),
        ("all", begin, end),
    ] {
        let some: Vec<&Shot> = shots
            .iter()
            .filter(|shot| shot.begun >= from && (shot.begun < to || to == end))
            .collect();
        let mut times: Vec<f64> = some
            .iter()
            .map(|shot| shot.took.as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        let rate = some.len() as f64 / (to - from).as_secs_f64().max(0.001);
        println!(
            "{name:26} {:>8} {:>8} {rate:>10.0} {:>12.2} {:>12.2}",
            some.len(),
            some.iter().filter(|shot| !shot.right).count(),
            times.get(times.len() / 2).copied().unwrap_or(0.0),
            times.last().copied().unwrap_or(0.0),
        );
    }
    let late = shots
        .iter()
        .filter(|shot| shot.begun < up && shot.begun + shot.took >= down)
        .filter(|shot| shot.took > Duration::from_millis(100))
        .map(|shot| shot.begun + shot.took)
        .max();
    let stalled = late.map_or(0.0, |late| (late - down).as_secs_f64());
    println!(
        "\nfailed lookups: {} (aim 0). After the fault the last answer later than 100 ms came after {stalled:.2} s; \
         the server was used again {:.2} s after it was up.",
        shots.iter().filter(|shot| !shot.right).count(),
        (back - up).as_secs_f64()
    );
}
