//! Replays the recorded behaviour of Postfix's `postmap` against ours, with real MariaDB,
//! PostgreSQL and SQLite: output, exit status, and the classes of the messages.
//!
//! The recordings are `corpus/lookup/given.jsonl` (Debian's Postfix 3.7.11 as `expect`, Postfix 3.12 as
//! `expect_alt` where it differs). `LOOKUP_CASE=substring` runs the cases whose id contains it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use testkit::corpus::{classify, dec, load, sub, unsub};
use testkit::{MariaDb, MariaDbOptions, Postgres, TempDir};

/// Cases in which we differ from Postfix, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "lk-nn-maptypes-hash-notbuilt",
        "hash: is read from its source text, which needs no building",
    ),
    (
        "lk-nn-maptypes-hash-build-r",
        "hash: is read from its source text; postmap -r has nothing to replace",
    ),
    (
        "lk-nn-maptypes-hash-delete",
        "hash: is read from its source text; postmap -d does not edit it",
    ),
    (
        "lk-nn-maptypes-hash-incremental",
        "hash: is read from its source text; postmap -i does not edit it",
    ),
    (
        "lk-nn-maptypes-tcp-dead",
        "Postfix tries a dead tcp: server ten times, a second apart",
    ),
    (
        "lk-my-newer-params-charset-bad",
        "an unusable charset is reported as a failed connection, once",
    ),
];

const USER: &str = "pfuser";
const PASSWORD: &str = "pf-Secret.1";
const DATABASE: &str = "pfcorpus";
const MAIN_CF: &str = "compatibility_level = 3.6\nmyhostname = mail.host.example\nmydomain = host.example\n\
                       queue_directory = @DIR@/spool\ndata_directory = @DIR@/data\n";

/// The servers and files that the cases share.
struct Peers {
    mysql: MariaDb,
    pgsql: Postgres,
    dir: TempDir,
}

impl Peers {
    fn start() -> Peers {
        let fixtures = corpus_dir();
        let text = |name: &str| fs::read_to_string(fixtures.join(name)).expect("a fixture");
        let mysql = MariaDb::with(MariaDbOptions {
            extra: vec!["--skip-name-resolve".to_string()],
            ..MariaDbOptions::default()
        });
        mysql.create_db(DATABASE);
        mysql.create_user(USER, PASSWORD, DATABASE);
        mysql.create_user("nopass", "", DATABASE);
        for fixture in ["ispmail.sql", "odd.sql", "proc_mysql.sql"] {
            mysql.run_sql(DATABASE, &text(fixture));
        }
        let pgsql = Postgres::start();
        pgsql.create_db(DATABASE);
        pgsql.create_user(USER, PASSWORD, DATABASE);
        for fixture in ["ispmail.sql", "odd.sql", "func_pgsql.sql"] {
            pgsql.run_sql(DATABASE, &text(fixture));
        }
        pgsql.run_sql(
            DATABASE,
            &format!("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {USER}"),
        );
        let dir = TempDir::new();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        let database = dir.path().join("corpus.db");
        testkit::sqlite(&database, &(text("ispmail.sql") + &text("odd.sql")));
        fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).expect("permissions");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postroom"), dir.path().join("postmap"))
            .expect("a link");
        Peers { mysql, pgsql, dir }
    }

    /// What the placeholders of a case stand for.
    fn values(&self, case: &Value, dir: &Path) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.display().to_string();
        let hosts = match case["db"].as_str() {
            Some("mysql") => self.mysql.host(),
            Some("pgsql") => self.pgsql.host(),
            _ => String::new(),
        };
        let database = match case["private_db"].as_bool() {
            Some(true) => dir.join("corpus.db"),
            _ => self.dir.path().join("corpus.db"),
        };
        let sockets = self.pgsql.socket_dir_5432();
        vec![
            ("DIR", text(dir)),
            ("CONF", text(&dir.join("conf"))),
            ("HOSTS", hosts),
            ("USER", USER.to_string()),
            ("PASSWORD", PASSWORD.to_string()),
            ("DBNAME", DATABASE.to_string()),
            ("DBPATH", text(&database)),
            ("MYSQL_PORT", self.mysql.port.to_string()),
            ("MYSQL_SOCKET", text(&self.mysql.socket)),
            ("PG_PORT", self.pgsql.port.to_string()),
            ("PG_SOCKET_DIR", text(&self.pgsql.socket_dir)),
            ("PG_SOCKET_DIR_5432", text(&sockets)),
            ("DEADPORT", testkit::dead_port().to_string()),
        ]
    }
}

fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/lookup")
}

/// What a command came to.
struct Outcome {
    exit: i64,
    stdout: Vec<u8>,
    classes: Vec<String>,
    stderr: String,
}

fn prepare(case: &Value, dir: &Path, values: &[(&str, &str)], peers: &Peers) {
    fs::create_dir_all(dir.join("conf")).expect("a folder");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("permissions");
    let mut main_cf = MAIN_CF.as_bytes().to_vec();
    main_cf.extend(dec(&case["main_cf"]));
    fs::write(dir.join("conf/main.cf"), sub(&main_cf, values)).expect("main.cf");
    for (name, text) in case["files"].as_object().into_iter().flatten() {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
        fs::write(&path, sub(&dec(text), values)).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("permissions");
    }
    for (name, mode) in case["modes"].as_object().into_iter().flatten() {
        let mode = u32::from_str_radix(mode.as_str().expect("a mode"), 8).expect("octal");
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).expect("permissions");
    }
    if case["private_db"].as_bool() == Some(true) {
        fs::copy(peers.dir.path().join("corpus.db"), dir.join("corpus.db")).expect("a copy");
    }
}

fn command(case: &Value, argv: &Value, values: &[(&str, &str)], peers: &Peers) -> Command {
    let mut words: Vec<OsString> = Vec::new();
    for word in argv.as_array().into_iter().flatten() {
        words.push(OsString::from_vec(sub(&dec(word), values)));
    }
    words[0] = peers.dir.path().join("postmap").into();
    if let Some(user) = case["run_as"].as_str() {
        let switch = [
            "setpriv",
            &format!("--reuid={user}"),
            "--regid=nogroup",
            "--clear-groups",
        ]
        .map(OsString::from);
        words.splice(0..0, switch);
    }
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().current_dir("/");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("HOME", "/root");
    for (name, value) in case["env"].as_object().into_iter().flatten() {
        command.env(name, OsString::from_vec(sub(&dec(value), values)));
    }
    command
}

fn run(mut command: Command, input: Vec<u8>) -> std::process::Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("postmap starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        // A program that ends early closes the pipe.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("postmap ends");
    writer.join().expect("no panic");
    output
}

fn replay(case: &Value, number: usize, peers: &Peers) -> Outcome {
    let dir = peers.dir.path().join(format!("case{number}"));
    let owned = peers.values(case, &dir);
    let values: Vec<(&str, &str)> = owned
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    prepare(case, &dir, &values, peers);
    for argv in case["pre"].as_array().into_iter().flatten() {
        run(command(case, argv, &values, peers), Vec::new());
    }
    let output = run(
        command(case, &case["argv"], &values, peers),
        sub(&dec(&case["stdin"]), &values),
    );
    let mut back: Vec<(&str, &str)> = values
        .iter()
        .copied()
        .filter(|(name, value)| {
            !value.is_empty() && !matches!(*name, "CONF" | "HOSTS" | "USER" | "PASSWORD" | "DBNAME")
        })
        .collect();
    back.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
    fs::remove_dir_all(&dir).expect("the case's folder");
    Outcome {
        exit: output.status.code().unwrap_or(-1).into(),
        stdout: unsub(&output.stdout, &back),
        classes: classify(&output.stderr)
            .iter()
            .map(|class| class.to_string())
            .collect(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn agrees(outcome: &Outcome, expect: &Value) -> bool {
    let classes = |value: &Value| -> Vec<String> {
        let list = value["stderr_class"].as_array().into_iter().flatten();
        list.map(|class| class.as_str().unwrap_or_default().to_string())
            .collect()
    };
    let mut accepted = vec![classes(expect)];
    accepted.extend(
        expect["stderr_variants"]
            .as_array()
            .into_iter()
            .flatten()
            .map(classes),
    );
    expect["exit"].as_i64() == Some(outcome.exit)
        && dec(&expect["stdout"]) == outcome.stdout
        && accepted.contains(&outcome.classes)
}

#[test]
fn postmap_answers_as_recorded() {
    if !testkit::peers() {
        return;
    }
    let peers = Peers::start();
    let only = std::env::var("LOOKUP_CASE").unwrap_or_default();
    let exceptions: BTreeMap<&str, &str> = EXCEPTIONS.iter().copied().collect();
    let cases = load(&corpus_dir().join("given.jsonl"));
    let (mut count, mut wrong) = (0, Vec::new());
    for (number, case) in cases.iter().enumerate() {
        let id = case["id"].as_str().expect("an id");
        if !id.contains(&only) || case["expect"]["unstable"].as_bool() == Some(true) {
            continue;
        }
        count += 1;
        let outcome = replay(case, number, &peers);
        let same = agrees(&outcome, &case["expect"])
            || case["expect_alt"].is_object() && agrees(&outcome, &case["expect_alt"]);
        match (same, exceptions.get(id)) {
            (true, None) | (false, Some(_)) => {}
            (true, Some(reason)) => {
                wrong.push(format!("{id} agrees now; take it off the list ({reason})"))
            }
            (false, None) => {
                let Outcome {
                    exit,
                    stdout,
                    classes,
                    stderr,
                } = outcome;
                let stdout = String::from_utf8_lossy(&stdout);
                wrong.push(format!(
                    "{id}: expected {}\n  got {exit} {stdout:?} {classes:?}\n{stderr}",
                    case["expect"]
                ));
            }
        }
    }
    println!("{count} cases, {} exceptions", EXCEPTIONS.len());
    assert!(
        wrong.is_empty(),
        "{} of {count} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
