//! `cargo xtask crash`: SIGKILL at random moments under load. Whatever was answered 250 must be in a mailbox or in
//! the queue afterwards.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testkit::{IspMail, MailServer, MariaDb, Postfix, Site};

use crate::load::{Client, ID_HEADER, message};
use crate::options::{self, Options, Server};

const HELP: &str = "usage: cargo xtask crash [OPTION VALUE]…
  --kills N           how often the server is killed (default 200)
  --sessions N        clients that send all the while (default 10)
  --longest MS        longest time between start and kill, milliseconds (default 400)
  --drain SECONDS     how long the last deliveries may take (default 120)
  --tables KIND       sqlite or mysql (default sqlite)
  --servers NAME      postroom or postfix (default postroom)
  --postroom PATH     the binary (default: a release build of this workspace)";

/// Recipients in turn, with the mailboxes in which their mail must be found.
const RECIPIENTS: &[(&str, &[&str])] = &[
    ("john@example.org", &["john"]),
    ("jane@example.org", &["jane"]),
    ("jack@example.org", &["john"]),
    ("team@example.org", &["john", "jane", "jim"]),
];

/// Copies of each message by (id, mailbox).
type Found = HashMap<(String, String), u64>;

pub fn run(words: &[&str]) -> Result<ExitCode, String> {
    let known = [
        "kills", "sessions", "longest", "drain", "tables", "servers", "postroom",
    ];
    let options = Options::parse(words, &known, HELP)?;
    let kills: u64 = options.number("kills", 200)?;
    let sessions: usize = options.number("sessions", 10)?;
    let longest: u64 = options.number("longest", 400)?;
    let drain = Duration::from_secs(options.number("drain", 120)?);
    let servers = Server::list(options.get("servers").unwrap_or("postroom"))?;
    let database = match options.get("tables").unwrap_or("sqlite") {
        "sqlite" => None,
        "mysql" => Some(MariaDb::start()),
        other => return Err(format!("--tables {other}: either `sqlite` or `mysql`")),
    };
    let site = site(database.as_ref());
    let mut server = match servers.first() {
        Some(Server::Postfix) => Postfix::on(site),
        _ => MailServer::postroom(&options::postroom(&options)?, site),
    };
    let senders = Senders::start(server.port(), sessions);
    for kill in 1..=kills {
        std::thread::sleep(Duration::from_millis(random() % longest.max(1)));
        server.kill();
        server.start_again();
        if kill % 20 == 0 {
            eprintln!(
                "killed {kill} times, {} messages acknowledged",
                senders.count()
            );
        }
    }
    let acknowledged = senders.stop();
    let found = drain_queue(&server.site, &acknowledged, drain);
    Ok(report(&server, &acknowledged, &found))
}

fn site(database: Option<&MariaDb>) -> Site {
    let mail = IspMail::sample();
    let kind = if database.is_some() {
        "mysql"
    } else {
        "sqlite"
    };
    let mut files = match database {
        None => IspMail::sqlite_files("@CONF@/mail.db").to_vec(),
        Some(server) => {
            server.create_db("crash");
            server.run_sql("crash", &mail.sql());
            server.create_user("mailuser", "secret", "crash");
            IspMail::table_files(&server.host(), "mailuser", "secret", "crash").to_vec()
        }
    };
    files[1].1 = files[1].1.replace("SELECT 1 FROM", "SELECT email FROM")
        + "result_format = %d/%u/Maildir/\n";
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let main_cf = format!(
        "{}virtual_transport = virtual\n",
        IspMail::main_cf(kind, "@CONF@")
    );
    let site = Site::new(&main_cf, "", &files);
    if database.is_none() {
        testkit::sqlite(&site.conf().join("mail.db"), &mail.sql());
    }
    site
}

/// Clients that send until they are stopped, and write down what was answered 250.
struct Senders {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(String, usize)>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Senders {
    fn start(port: u16, sessions: usize) -> Senders {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<Mutex<Vec<(String, usize)>>> = Arc::default();
        let next = Arc::new(AtomicU64::new(0));
        let threads = (0..sessions)
            .map(|_| {
                let (stop, acknowledged, next) = (stop.clone(), acknowledged.clone(), next.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        // Refused and broken connections are what happens when the server is killed.
                        let _ = send_until_error(port, &stop, &acknowledged, &next);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .collect();
        Senders {
            stop,
            acknowledged,
            threads,
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no sender panics").len()
    }

    /// Ids of acknowledged messages, each with its row of [`RECIPIENTS`].
    fn stop(self) -> Vec<(String, usize)> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no sender panics");
        }
        std::mem::take(&mut *self.acknowledged.lock().expect("no sender panics"))
    }
}

fn send_until_error(
    port: u16,
    stop: &AtomicBool,
    acknowledged: &Mutex<Vec<(String, usize)>>,
    next: &AtomicU64,
) -> std::io::Result<()> {
    let mut client = Client::hello(port)?;
    while !stop.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let row = number as usize % RECIPIENTS.len();
        let id = format!("crash-{number}");
        let code = client.send(RECIPIENTS[row].0, &message(&id), b"")?;
        if code == 250 {
            acknowledged
                .lock()
                .expect("no sender panics")
                .push((id, row));
        }
    }
    client.exchange(b"QUIT\r\n", 1)
}

/// Waits until every acknowledged message lies in its mailboxes, or `limit` has passed.
fn drain_queue(site: &Site, acknowledged: &[(String, usize)], limit: Duration) -> Found {
    let end = Instant::now() + limit;
    loop {
        let found = found(site);
        if missing(acknowledged, &found).is_empty() || Instant::now() > end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn found(site: &Site) -> Found {
    let mut found = Found::new();
    for user in ["john", "jane", "jim"] {
        for text in site.maildir(&format!("example.org/{user}/Maildir")) {
            let id = text.lines().find_map(|line| line.strip_prefix(ID_HEADER));
            let id = id.unwrap_or("(message without id)").trim().to_owned();
            *found.entry((id, user.to_owned())).or_default() += 1;
        }
    }
    found
}

/// Pairs of id and mailbox that were acknowledged and are not there.
fn missing(acknowledged: &[(String, usize)], found: &Found) -> Vec<(String, String)> {
    let pairs = acknowledged.iter().flat_map(|(id, row)| {
        RECIPIENTS[*row]
            .1
            .iter()
            .map(move |user| (id.clone(), user.to_string()))
    });
    pairs.filter(|pair| !found.contains_key(pair)).collect()
}

fn report(server: &MailServer, acknowledged: &[(String, usize)], found: &Found) -> ExitCode {
    let missing = missing(acknowledged, found);
    let queue = spool_text(&server.site.spool());
    let (queued, lost): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(id, _)| {
        let header = format!("{ID_HEADER}{id}\n");
        queue.contains(&header) || queue.contains(&header.replace('\n', "\r\n"))
            // Postfix' queue files hold lines as records without line ends.
            || queue.contains(&format!("{ID_HEADER}{id}N"))
    });
    let wanted: usize = acknowledged
        .iter()
        .map(|(_, row)| RECIPIENTS[*row].1.len())
        .sum();
    let duplicates: u64 = found.values().map(|count| count - 1).sum();
    println!("acknowledged messages  {}", acknowledged.len());
    println!("copies they must make  {wanted}");
    println!(
        "  in a mailbox         {}",
        wanted - queued.len() - lost.len()
    );
    println!("  still in the queue   {}", queued.len());
    println!("  lost                 {}", lost.len());
    println!("duplicates             {duplicates}");
    for (id, user) in lost.iter().take(20) {
        println!("lost: {id} for {user}");
    }
    if !lost.is_empty() {
        println!("end of the log:\n{}", last_lines(&server.log(), 20));
    }
    ExitCode::from(if lost.is_empty() && !acknowledged.is_empty() {
        0
    } else {
        1
    })
}

/// All bytes of the spool's files as text: whatever its format, a message's header is in it as it came.
fn spool_text(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => text += &spool_text(&entry.path()),
            Ok(kind) if kind.is_file() => {
                text += &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default());
            }
            _ => {}
        }
    }
    text
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn random() -> u64 {
    // RandomState is seeded by the system.
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}
