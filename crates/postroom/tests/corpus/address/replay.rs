//! One message of the address corpus, said to a mail server, and what became of it: replies, queued recipients,
//! deliveries. Shared by the replay of the recordings and the live comparison with Postfix.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::corpus::{dec, enc, replace, sub};
use testkit::{MailServer, MariaDb, MariaDbOptions, Site, wait_for};

pub const USER: &str = "pfuser";
pub const PASSWORD: &str = "pf-Secret.1";
pub const DATABASE: &str = "pfaddr";

/// Ours alone: recipients are expanded when the message is queued, as Postfix does, not at RCPT.
pub const POSTROOM_MAIN_CF: &str = "postroom_resolve_at_rcpt = no\n";

pub fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/address")
}

/// The text of a fixture.
pub fn fixture(name: &str) -> String {
    let path = corpus_dir().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A private server with the fixture loaded.
pub fn database() -> MariaDb {
    let server = MariaDb::with(MariaDbOptions {
        // Every process of every Postfix instance holds one connection per table.
        max_connections: 1000,
        ..MariaDbOptions::default()
    });
    server.create_db(DATABASE);
    server.create_user(USER, PASSWORD, DATABASE);
    server.run_sql(DATABASE, &fixture("address.sql"));
    server
}

/// The site of a `config` (`main_cf`, `files`; null for neither): the base configuration, then `extra`, then the config's.
pub fn site(config: &Value, extra: &str, server: &MariaDb) -> Site {
    let port = server.port.to_string();
    let dead = testkit::dead_port().to_string();
    let values = [
        ("MYSQL_PORT", port.as_str()),
        ("USER", USER),
        ("PASSWORD", PASSWORD),
        ("DBNAME", DATABASE),
        ("DEADPORT", dead.as_str()),
    ];
    let text = |bytes: &[u8]| {
        String::from_utf8(sub(bytes, &values)).expect("the corpus' configurations are text")
    };
    let mut files: Vec<(String, String)> = Vec::new();
    for (name, query) in TABLES {
        let table = format!(
            "hosts = 127.0.0.1:@MYSQL_PORT@\nuser = @USER@\npassword = @PASSWORD@\ndbname = @DBNAME@\nquery = {query}\n"
        );
        files.push((name.to_string(), text(table.as_bytes())));
    }
    for (name, contents) in config["files"].as_object().into_iter().flatten() {
        files.retain(|(known, _)| known != name);
        files.push((name.clone(), text(&dec(contents))));
    }
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    // The temporary folder need not be below the /tmp that the fixture names.
    let changes = format!(
        "maillog_file_prefixes = /\n{extra}{}\n",
        text(&dec(&config["main_cf"]))
    );
    let main_cf = testkit::site::without(&fixture("address_main.cf"), &changes) + &changes;
    let site = Site::bare(&main_cf, &fixture("address_master.cf"), &files);
    empty_mailboxes(&site);
    site
}

const TABLES: [(&str, &str); 4] = [
    (
        "domains.cf",
        "SELECT 1 FROM virtual_domains WHERE name='%s'",
    ),
    ("users.cf", "SELECT 1 FROM virtual_users WHERE email='%s'"),
    (
        "aliases.cf",
        "SELECT destination FROM virtual_aliases WHERE source='%s' ORDER BY id",
    ),
    (
        "email2email.cf",
        "SELECT email FROM virtual_users WHERE email='%s'",
    ),
];

/// The folders below `mail/`, writable for whichever user delivers.
fn empty_mailboxes(site: &Site) {
    use std::os::unix::fs::PermissionsExt;
    let mail = site.mail();
    let open = |path: &Path| {
        fs::create_dir_all(path).expect("the site is ours");
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("the site is ours");
    };
    fs::remove_dir_all(&mail).expect("the site is ours");
    open(&mail);
    for domain in [
        "example.org",
        "example.net",
        "catch.example",
        "mixed.example",
    ] {
        open(&mail.join(domain));
    }
}

/// Runs `job` for every item, at most `workers` at a time; the results in the items' order.
pub fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    workers: usize,
    job: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = Mutex::new(0..items.len());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.lock().expect("taking a number does not panic").next();
                    let Some(index) = index else { return };
                    let result = job(&items[index]);
                    let mut results = results.lock().expect("pushing does not panic");
                    results.push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("the workers have ended");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Sends the message of a case in a session of its own. What came of it has the corpus' shape: `mail`, `rcpt`, `data`,
/// `recipients`; with `deliver` also `deliveries` and `mailboxes`; `greeting` when there was none.
pub fn replay(server: &MailServer, case: &Value) -> Value {
    let mut session = Session::connect(server.port());
    if session.reply().code != 220 {
        return json!({"greeting": "none", "mail": null, "rcpt": [], "data": null, "recipients": null});
    }
    session.ask(b"EHLO client.example");
    let mut line = b"MAIL FROM:<".to_vec();
    line.extend(dec(&case["mail_from"]));
    line.extend(if is_set(case, "smtputf8") {
        &b"> SMTPUTF8"[..]
    } else {
        b">"
    });
    let mail = session.ask(&line);
    let mut result = json!({"mail": mail.value(), "rcpt": [], "data": null, "recipients": null});
    let mut accepted = false;
    let recipients = case["rcpts"].as_array().expect("rcpts is a list");
    for recipient in recipients.iter().filter(|_| mail.code == 250) {
        let (open, close): (&[u8], &[u8]) = match is_set(case, "raw_rcpt") {
            true => (b"RCPT TO:", b""),
            false => (b"RCPT TO:<", b">"),
        };
        let reply = session.ask(&[open, &dec(recipient), close].concat());
        accepted |= reply.code == 250;
        let replies = result["rcpt"].as_array_mut().expect("made above");
        replies.push(reply.value());
    }
    let mut id = None;
    if accepted {
        let mut reply = session.ask(b"DATA");
        if reply.code == 354 {
            reply = session.ask(MESSAGE.as_bytes());
            id = reply.queue_id();
        }
        result["data"] = reply.value();
    }
    session.ask(b"QUIT");
    let Some(id) = id else { return result };
    if is_set(case, "deliver") {
        result["deliveries"] = deliveries(server, &id);
        result["mailboxes"] = mailboxes(&server.site);
        empty_mailboxes(&server.site);
    } else {
        result["recipients"] = queued(server, &id);
    }
    result
}

const MESSAGE: &str = "From: s@sender.example\r\nTo: r@example.org\r\nSubject: t\r\nMessage-ID: <x@y>\r\n\
                       Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\nbody\r\n.";

fn is_set(case: &Value, name: &str) -> bool {
    case[name].as_bool() == Some(true)
}

/// The recipients in the message's envelope, in its order.
fn queued(server: &MailServer, id: &str) -> Value {
    let output = server.tool("postcat").args(["-e", "-q", id]).output();
    let output = output.unwrap_or_else(|error| panic!("postcat: {error}"));
    let (mut list, mut original) = (Vec::new(), Value::Null);
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let field = |name: &str| {
            let value = line.strip_prefix(name.as_bytes())?;
            Some(value.strip_prefix(b" ").unwrap_or(value))
        };
        if let Some(address) = field("original_recipient:") {
            original = enc(address);
        } else if let Some(address) = field("recipient:") {
            list.push(json!({"recipient": enc(address), "original": original.take()}));
        } else if let Some(address) = field("done_recipient:") {
            let original = original.take();
            list.push(json!({"recipient": enc(address), "original": original, "done": true}));
        }
    }
    Value::Array(list)
}

/// The delivery lines of the log, sorted, once the message is gone or deferred.
fn deliveries(server: &MailServer, id: &str) -> Value {
    let patience = Duration::from_secs(60);
    let what = format!("the end of {id}");
    let removed = format!(" {id}: removed");
    let log = wait_for(&what, patience, || {
        let mut log = server.site.log();
        if !log.contains(&removed) {
            let mut lines = log.lines().filter(|line| line.contains(id));
            lines.find(|line| line.contains("status=deferred"))?;
            // Its other recipients may still be on their way.
            std::thread::sleep(Duration::from_secs(1));
            log = server.site.log();
        }
        Some(log)
    });
    let dir = server.site.dir().display().to_string();
    let start = format!(" {id}: to=<");
    let mut list: Vec<Value> = log
        .lines()
        .filter_map(|line| delivery(line.split_once(&start)?.1, &dir))
        .collect();
    list.sort_by_key(Value::to_string);
    Value::Array(list)
}

/// `ADDRESS>, orig_to=<ADDRESS>, relay=…, …, dsn=…, status=WORD (text)`; `orig_to` may be missing.
fn delivery(line: &str, dir: &str) -> Option<Value> {
    let (addresses, rest) = line.split_once(", relay=")?;
    let (to, original) = match addresses.split_once(">, orig_to=<") {
        Some((to, original)) => (to, Some(original.strip_suffix('>')?)),
        None => (addresses.strip_suffix('>')?, None),
    };
    let (relay, rest) = rest.split_once(", ")?;
    let (dsn, rest) = rest.split_once("dsn=")?.1.split_once(", status=")?;
    let (status, text) = rest.split_once(" (")?;
    let text = text.strip_suffix(')')?.replace(dir, "@DIR@");
    Some(json!({
        "to": to, "orig_to": original, "relay": relay, "dsn": dsn, "status": status, "text": text
    }))
}

fn mailboxes(site: &Site) -> Value {
    let files = site.mailbox_files().into_iter().map(|file| {
        let name = file.to_string_lossy().into_owned();
        match name.split_once("new/") {
            Some((folder, _)) => format!("{folder}new/*"),
            None => name,
        }
    });
    let mut files: Vec<String> = files.collect();
    files.sort();
    json!(files)
}

/// A connection that speaks bytes: addresses and replies need not be UTF-8.
struct Session(BufReader<TcpStream>);

struct Reply {
    code: u16,
    text: Vec<u8>,
}

impl Session {
    fn connect(port: u16) -> Session {
        let stream = TcpStream::connect(("127.0.0.1", port));
        let stream = stream.unwrap_or_else(|error| panic!("SMTP on 127.0.0.1:{port}: {error}"));
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).expect("it is not zero");
        // Commands are small; waiting for a fuller packet would only cost time.
        let _ = stream.set_nodelay(true);
        Session(BufReader::new(stream))
    }

    fn ask(&mut self, line: &[u8]) -> Reply {
        // A connection that the server has closed is seen when the reply is read.
        let _ = self.0.get_mut().write_all(&[line, b"\r\n"].concat());
        self.reply()
    }

    fn reply(&mut self) -> Reply {
        let mut texts: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut line = Vec::new();
            let end = self.0.read_until(b'\n', &mut line);
            let code = line
                .get(..3)
                .and_then(|code| std::str::from_utf8(code).ok());
            let code = code.and_then(|code| code.parse().ok());
            let (Ok(1..), Some(code)) = (end, code) else {
                return Reply {
                    code: 0,
                    text: b"connection closed".to_vec(),
                };
            };
            let more = line.get(3) == Some(&b'-');
            let line = line.strip_suffix(b"\r\n").unwrap_or(&line);
            texts.push(line.get(4..).unwrap_or_default().to_vec());
            if !more {
                let text = texts.join(&b'\n');
                return Reply { code, text };
            }
        }
    }
}

impl Reply {
    /// `{code, enhanced, text}`, the queue id replaced by its placeholder.
    fn value(&self) -> Value {
        let split = self.text.iter().position(|byte| *byte == b' ');
        let enhanced = split.and_then(|at| std::str::from_utf8(&self.text[..at]).ok());
        let enhanced = enhanced.filter(|code| is_enhanced(code));
        let rest = match (enhanced, split) {
            (Some(_), Some(at)) => &self.text[at + 1..],
            _ => &self.text,
        };
        let mut text = rest.to_vec();
        if let Some(id) = self.queue_id() {
            let id = format!("queued as {id}");
            text = replace(&text, id.as_bytes(), b"queued as @QID@");
        }
        json!({"code": self.code, "enhanced": enhanced, "text": enc(&text)})
    }

    fn queue_id(&self) -> Option<String> {
        testkit::queue_id(&String::from_utf8_lossy(&self.text)).map(str::to_owned)
    }
}

/// `5.1.1` and the like (RFC 3463 section 2).
fn is_enhanced(code: &str) -> bool {
    let parts: Vec<&str> = code.split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.len() == 3 && parts[0].len() == 1 && parts.iter().all(number)
}
