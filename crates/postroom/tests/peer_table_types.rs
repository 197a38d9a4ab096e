//! Asks Postfix's `postmap -q` and ours the same questions of the table types that need no database, and compares output,
//! exit status and messages.
//!
//! The questions are the files `corpus/types/*.cases`, in blocks:
//!
//! ```text
//! block NAME             begins a block; all that follows belongs to it
//! file PATH              a file in the block's folder; its lines follow, each behind `| `
//! build TYPE:NAME        runs Postfix's postmap on it first
//! main NAME = VALUE      a line of main.cf
//! options WORDS          options of postmap, before -q
//! table TYPE:NAME        the table to ask
//! key TEXT               a question; what is behind `key ` to the end of the line is the key
//! differs REASON         we differ from Postfix in the question before this line, and why
//! words REASON           the same, but in the words of a message alone, not in its class
//! ```
//!
//! `@DIR@` is the block's folder, `@SOCKETMAP@`, `@TCP@`, `@MEMCACHE@`, `@DEAD@` ports of 127.0.0.1 (nothing answers at the
//! last), `@SOCKET@` a unix socket of the socketmap server, `<hex 0d0a>` are bytes. `TYPES_CASE=text` runs the blocks whose name contains it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use testkit::corpus::{classify, sub};
use testkit::{Act, LookupServer, Memcached, TempDir};

const MAIN_CF: &str = "compatibility_level = 3.6\nmyhostname = mail.host.example\nmydomain = host.example\n\
                       queue_directory = @DIR@/spool\ndata_directory = @DIR@/data\n";

#[derive(Default, Clone)]
struct Block {
    name: String,
    files: Vec<(String, Vec<u8>)>,
    builds: Vec<Vec<u8>>,
    main_cf: Vec<u8>,
    options: Vec<String>,
    questions: Vec<Question>,
}

#[derive(Clone)]
struct Question {
    table: Vec<u8>,
    key: Vec<u8>,
    differs: Option<String>,
    words: Option<String>,
}

/// What one of the two programs made of a question.
#[derive(PartialEq)]
struct Outcome {
    exit: Option<i32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[test]
fn postmap_answers_as_postfix_does() {
    if !testkit::peers() {
        return;
    }
    let dir = TempDir::new();
    let servers = Servers::start(dir.path());
    let ours = dir.path().join("postmap");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postroom"), &ours).expect("a link");
    let only = std::env::var("TYPES_CASE").unwrap_or_default();
    let mut blocks = all_blocks();
    blocks.retain(|block| block.name.contains(&only));
    // Postfix sleeps for a second before it ends with an error: several blocks at a time.
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = compare(block, dir.path(), &servers, &ours);
                    wrong.lock().expect("no panic before").extend(found);
                }
            });
        }
    });
    let questions: Vec<&Question> = blocks.iter().flat_map(|block| &block.questions).collect();
    let named = questions.iter().filter(|q| q.differs.is_some()).count();
    println!(
        "{} questions, {named} with a named difference",
        questions.len()
    );
    let wrong = wrong.into_inner().expect("no panic before");
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// What is not as it should be in a block.
fn compare(block: &Block, dir: &Path, servers: &Servers, ours: &Path) -> Vec<String> {
    let dir = dir.join(
        block
            .name
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
    );
    let values = servers.values(&dir);
    let values: Vec<(&str, &str)> = values
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    prepare(block, &dir, &values);
    let theirs = testkit::require("postmap");
    let concrete = |text: &[u8]| sub(text, &values);
    for table in &block.builds {
        run(&theirs, &dir, &[], &[OsString::from_vec(concrete(table))]);
    }
    let mut wrong = Vec::new();
    for question in &block.questions {
        let words = [
            b"-q".to_vec(),
            question.key.clone(),
            concrete(&question.table),
        ];
        let words = words.map(OsString::from_vec);
        let expected = run(&theirs, &dir, &block.options, &words);
        let outcome = run(ours, &dir, &block.options, &words);
        let same_result = expected.exit == outcome.exit && expected.stdout == outcome.stdout;
        let same_words = said(&expected.stderr) == said(&outcome.stderr);
        let same_classes = classify(&expected.stderr) == classify(&outcome.stderr);
        let agrees = same_result && (same_words || question.words.is_some() && same_classes);
        let what = format!(
            "[{}] {} {:?}",
            block.name,
            String::from_utf8_lossy(&question.table),
            String::from_utf8_lossy(&question.key)
        );
        match (&question.differs, agrees) {
            (None, true) if question.words.is_some() && same_words => {
                wrong.push(format!("{what}: says the same now; take off `words`"));
            }
            (None, true) | (Some(_), false) => {}
            (Some(reason), true) => wrong.push(format!("{what}: agrees now; take off: {reason}")),
            (None, false) => wrong.push(format!(
                "{what}\n  Postfix  {}\n  Postroom {}",
                shown(&expected),
                shown(&outcome)
            )),
        }
    }
    wrong
}

/// The messages. What errno happened to be at the end of a message is left out where it says nothing: connecting was
/// "in progress" long ago.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr).into_owned();
    text.replace("query error: Operation now in progress", "query error")
        .replace("query error: Connection refused", "query error")
        .replace("query error: No such file or directory", "query error")
}

/// What the questions of `remote.cases` are put to.
struct Servers {
    socketmap: LookupServer,
    tcp: LookupServer,
    memcached: Memcached,
    socket: PathBuf,
    dead: u16,
}

impl Servers {
    fn start(dir: &Path) -> Servers {
        let socket = dir.join("socketmap.sock");
        let socketmap = |request: &[u8]| {
            let blank = request.iter().position(|&byte| byte == b' ');
            let (name, key) = request.split_at(blank.expect("a blank"));
            socketmap_reply(name, &key[1..])
        };
        LookupServer::socketmap_unix(&socket, Arc::new(socketmap));
        let memcached = Memcached::start();
        for (key, value) in [
            ("key", &b"value"[..]),
            ("empty", b""),
            ("not-utf8", b"\xff"),
            ("newline", b"a\r\nb"),
            ("big", &[b'x'; 20_000]),
            ("joe@b.example", b"joe"),
            ("x:example:mail:mail.example", b"labels"),
        ] {
            memcached.set(key, value);
        }
        Servers {
            socketmap: LookupServer::socketmap(Arc::new(socketmap)),
            tcp: LookupServer::tcp_table(Arc::new(tcp_reply)),
            memcached,
            socket,
            dead: testkit::dead_port(),
        }
    }

    fn values(&self, dir: &Path) -> Vec<(&'static str, String)> {
        vec![
            ("DIR", dir.display().to_string()),
            ("SOCKETMAP", self.socketmap.port.to_string()),
            ("TCP", self.tcp.port.to_string()),
            ("MEMCACHE", self.memcached.port.to_string()),
            ("SOCKET", self.socket.display().to_string()),
            ("DEAD", self.dead.to_string()),
        ]
    }
}

fn socketmap_reply(name: &[u8], key: &[u8]) -> Act {
    let long = |size: usize| [b"OK ", &b"x".repeat(size - 3)[..]].concat();
    let reply = match key {
        b"ok" => b"OK value one".to_vec(),
        b"empty" => b"OK ".to_vec(),
        b"ok without blank" => b"OK".to_vec(),
        b"notfound" => b"NOTFOUND ".to_vec(),
        b"notfound without blank" => b"NOTFOUND".to_vec(),
        b"notfound with text" => b"NOTFOUND no such".to_vec(),
        b"temp" => b"TEMP some reason".to_vec(),
        b"temp without reason" => b"TEMP ".to_vec(),
        b"timeout" => b"TIMEOUT too slow".to_vec(),
        b"perm" => b"PERM never".to_vec(),
        b"perm without reason" => b"PERM".to_vec(),
        b"odd" => b"WHAT is this".to_vec(),
        b"nothing" => Vec::new(),
        b"not utf-8" => b"OK \xff".to_vec(),
        b"lower case" => b"ok x".to_vec(),
        b"blanks" => b"OK  a  b ".to_vec(),
        b"newline" => b"OK a\nb".to_vec(),
        b"100000 bytes" => long(100_000),
        b"100001 bytes" => long(100_001),
        b"name" => [b"OK name <", name, b">"].concat(),
        b"close" => return Act::SendAndClose(Vec::new()),
        b"half" => return Act::SendAndClose(b"10:OK".to_vec()),
        b"reply and close" => return Act::SendAndClose(b"6:OK abc,".to_vec()),
        b"not a netstring" => return Act::Send(b"xx:yy,".to_vec()),
        b"no comma" => return Act::Send(b"4:OK x;".to_vec()),
        key => [b"OK <", key, b">"].concat(),
    };
    let mut framed = format!("{}:", reply.len()).into_bytes();
    framed.extend(reply);
    framed.push(b',');
    Act::Send(framed)
}

fn tcp_reply(request: &[u8]) -> Act {
    let long = |size: usize| [b"200 ", &b"x".repeat(size - 5)[..]].concat();
    let reply = match request {
        b"get ok" => b"200 value%20one".to_vec(),
        b"get blanks" => b"200  a  b ".to_vec(),
        b"get plain" => b"200 value one".to_vec(),
        b"get notfound" => b"500 not found".to_vec(),
        b"get notfound%20without%20text" => b"500".to_vec(),
        b"get temp" => b"400 try%20later".to_vec(),
        b"get temp%20without%20text" => b"400".to_vec(),
        b"get odd" => b"300 what".to_vec(),
        b"get no%20code" => b"what".to_vec(),
        b"get bad%20code" => b"2000 a".to_vec(),
        b"get bad%20hex" => b"200 a%zz".to_vec(),
        b"get empty" => b"200 ".to_vec(),
        b"get without%20blank" => b"200".to_vec(),
        b"get not%20utf-8" => b"200 %ff".to_vec(),
        b"get carriage%20return" => b"200 a\r".to_vec(),
        b"get percent" => b"200 100%25".to_vec(),
        b"get 4096%20bytes" => long(4096),
        b"get 4097%20bytes" => long(4097),
        b"get close" => return Act::SendAndClose(Vec::new()),
        // In quotes once more, so that the request itself comes back.
        request => [b"200 <", request, b">"]
            .concat()
            .split(|&byte| byte == b'%')
            .collect::<Vec<_>>()
            .join(&b"%25"[..]),
    };
    Act::Send([&reply[..], b"\n"].concat())
}

fn shown(outcome: &Outcome) -> String {
    let exit = outcome.exit.unwrap_or(-1);
    let stdout = String::from_utf8_lossy(&outcome.stdout);
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    format!(
        "{exit} {stdout:?} {}",
        stderr.trim().replace('\n', "\n             ")
    )
}

fn prepare(block: &Block, dir: &Path, values: &[(&str, &str)]) {
    for folder in ["conf", "spool", "data"] {
        fs::create_dir_all(dir.join(folder)).expect("a folder");
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("permissions");
    let main_cf = [MAIN_CF.as_bytes(), &block.main_cf].concat();
    fs::write(dir.join("conf/main.cf"), sub(&main_cf, values)).expect("main.cf");
    fs::write(dir.join("conf/master.cf"), "").expect("master.cf");
    for (name, content) in &block.files {
        fs::write(dir.join(name), sub(content, values)).expect("a file");
        // Postfix reads a file that is younger than a second until it is not.
        let file = fs::File::options().append(true).open(dir.join(name));
        let past = SystemTime::now() - Duration::from_secs(600);
        file.and_then(|file| file.set_modified(past))
            .expect("an older file");
    }
}

fn run(program: &Path, dir: &Path, options: &[String], words: &[OsString]) -> Outcome {
    let mut command = Command::new(program);
    command.arg("-c").arg(dir.join("conf")).args(options);
    command.args(words).env_clear().current_dir("/");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("colour", "blue");
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Outcome {
        exit: output.status.code(),
        stdout: output.stdout,
        stderr: output.stderr,
    }
}

fn all_blocks() -> Vec<Block> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/types");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    files.iter().flat_map(|file| blocks_of(file)).collect()
}

fn blocks_of(file: &Path) -> Vec<Block> {
    let text =
        fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut blocks: Vec<Block> = Vec::new();
    let mut table = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let bad = || format!("{}:{}: {line}", file.display(), number + 1);
        if word == "block" {
            blocks.push(Block {
                name: format!("{} {rest}", file.file_stem().unwrap_or_default().display()),
                ..Block::default()
            });
            continue;
        }
        if word.is_empty() || word == "#" {
            continue;
        }
        let block = blocks.last_mut().unwrap_or_else(|| panic!("{}", bad()));
        match word {
            "file" => block.files.push((rest.to_owned(), Vec::new())),
            "|" => {
                let (_, content) = block
                    .files
                    .last_mut()
                    .unwrap_or_else(|| panic!("{}", bad()));
                content.extend(bytes(rest));
                content.push(b'\n');
            }
            "build" => block.builds.push(bytes(rest)),
            "main" => block.main_cf.extend(bytes(&format!("{rest}\n"))),
            "options" => block.options = rest.split_whitespace().map(str::to_owned).collect(),
            "table" => table = bytes(rest),
            "key" => block.questions.push(Question {
                table: table.clone(),
                key: bytes(rest),
                differs: None,
                words: None,
            }),
            "differs" | "words" => {
                let question = block.questions.last_mut();
                let question = question.unwrap_or_else(|| panic!("{}", bad()));
                let reason = Some(rest.to_owned());
                match word {
                    "words" => question.words = reason,
                    _ => question.differs = reason,
                }
            }
            _ => panic!("{}", bad()),
        }
    }
    blocks
}

/// The text with `<hex …>` as bytes.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<hex ") {
        let (digits, after) = after.split_once('>').expect("<hex …> is closed");
        out.extend(before.bytes());
        for at in (0..digits.len()).step_by(2) {
            out.push(u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits"));
        }
        rest = after;
    }
    out.extend(rest.bytes());
    out
}
