//! Real `postmap`, `postalias` and `newaliases`, and ours, run the same command lines (`postmap/cases.txt`) in folders
//! of their own: output, exit status and messages must be the same. At the end of a case each program reads the `lmdb:`
//! files that the other has made.
//!
//! `POSTMAP_CASE=substring` runs the cases whose id contains it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use testkit::TempDir;
use testkit::corpus::{classify, replace};

const MAIN_CF: &str = "compatibility_level = 3.6\nmyhostname = mail.host.example\n";
/// Postfix waits for a second behind each fatal error.
const SIDE_BY_SIDE: usize = 8;

#[derive(Debug, Default)]
struct Case {
    id: String,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    MainCf(String),
    Write(String, Vec<u8>),
    Folder(String),
    Mode(u32, String),
    Owner(String, String),
    Stat(String),
    Run(Run),
}

#[derive(Debug)]
struct Run {
    line: String,
    as_nobody: bool,
    words: Vec<OsString>,
    input: Vec<u8>,
    agreement: Agreement,
}

#[derive(Debug, PartialEq, Eq)]
enum Agreement {
    Exact,
    Class,
    None,
}

fn parse(text: &str) -> (Vec<(String, Vec<u8>)>, Vec<Case>) {
    let (mut files, mut cases): (Vec<(String, Vec<u8>)>, Vec<Case>) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let named = || {
            let (name, text) = rest.split_once(" =").expect("NAME = TEXT");
            let text = text.strip_prefix(' ').unwrap_or(text);
            (name.to_string(), unescaped(text))
        };
        match word {
            "" | "#" => continue,
            "file" => {
                files.push(named());
                continue;
            }
            "case" => {
                cases.push(Case {
                    id: rest.to_string(),
                    steps: Vec::new(),
                });
                continue;
            }
            _ => {}
        }
        let case = cases.last_mut().expect("a case");
        let two = || rest.split_once(' ').expect("two words");
        case.steps.push(match word {
            "main.cf" => Step::MainCf(rest.to_string()),
            "write" => {
                let (name, text) = named();
                Step::Write(name, text)
            }
            "mkdir" => Step::Folder(rest.to_string()),
            "chmod" => Step::Mode(
                u32::from_str_radix(two().0, 8).expect("a mode"),
                two().1.to_string(),
            ),
            "chown" => Step::Owner(two().0.to_string(), two().1.to_string()),
            "stat" => Step::Stat(rest.to_string()),
            "$" | "nobody$" => Step::Run(command_line(rest, word == "nobody$", &files)),
            "~" | "!" => {
                let Some(Step::Run(run)) = case.steps.last_mut() else {
                    panic!("no command before {line:?}");
                };
                assert!(!rest.is_empty(), "a reason: {line:?}");
                run.agreement = match word {
                    "~" => Agreement::Class,
                    _ => Agreement::None,
                };
                continue;
            }
            _ => panic!("what is {line:?}?"),
        });
    }
    (files, cases)
}

fn command_line(text: &str, as_nobody: bool, files: &[(String, Vec<u8>)]) -> Run {
    let (command, input) = match text.split_once(" <") {
        Some((command, input)) => (command, input.strip_prefix(' ').unwrap_or(input)),
        None => (text, ""),
    };
    let input = match input.strip_prefix('@') {
        Some(name) => {
            let file = files.iter().find(|(known, _)| known == name);
            file.expect("a file of every case").1.clone()
        }
        None => unescaped(input),
    };
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in command.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Run {
        line: text.to_string(),
        as_nobody,
        words: words
            .iter()
            .map(|word| OsString::from_vec(unescaped(word)))
            .collect(),
        input,
        agreement: Agreement::Exact,
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().expect("something behind a backslash") {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'0' => 0,
            b'x' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.expect("a digit"));
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).expect("two hexadecimal digits")
            }
            other => other,
        });
    }
    bytes
}

/// One of the two sides: where its commands are, and its folder of the case.
struct Side {
    commands: PathBuf,
    dir: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    exit: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Side {
    fn prepare(&self, files: &[(String, Vec<u8>)]) {
        fs::create_dir_all(self.dir.join("conf")).expect("a folder");
        for dir in [&self.dir, &self.dir.join("conf")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        fs::write(self.dir.join("conf/main.cf"), MAIN_CF).expect("main.cf");
        for (name, text) in files {
            self.write(name, text);
        }
    }

    fn write(&self, name: &str, text: &[u8]) {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("a file");
        // Postfix reads a file again and again, and warns each time, until it is older than two seconds.
        let file = fs::File::options().write(true).open(&path).expect("a file");
        file.set_modified(SystemTime::now() - Duration::from_secs(3600))
            .expect("a date");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
    }

    fn step(&self, step: &Step) -> Option<Outcome> {
        match step {
            Step::MainCf(line) => {
                let line = line.replace("@DIR@", self.dir.to_str().expect("UTF-8"));
                let path = self.dir.join("conf/main.cf");
                let text = fs::read_to_string(&path).expect("main.cf") + &line + "\n";
                fs::write(path, text).expect("main.cf");
            }
            Step::Write(name, text) => self.write(name, text),
            Step::Folder(name) => fs::create_dir(self.dir.join(name)).expect("a folder"),
            Step::Mode(mode, name) => {
                let mode = fs::Permissions::from_mode(*mode);
                fs::set_permissions(self.dir.join(name), mode).expect("a mode");
            }
            Step::Owner(user, name) => {
                let done = Command::new("chown")
                    .arg(user)
                    .arg(self.dir.join(name))
                    .status();
                assert!(done.expect("chown runs").success());
            }
            Step::Stat(name) => {
                let about = fs::metadata(self.dir.join(name));
                let about = about.unwrap_or_else(|error| panic!("{name}: {error}"));
                let (mode, uid, gid) = (about.mode() & 0o7777, about.uid(), about.gid());
                return Some(Outcome {
                    exit: Some(0),
                    stdout: format!("{mode:o} {uid} {gid}").into_bytes(),
                    stderr: String::new(),
                });
            }
            Step::Run(run) => return Some(self.run(run)),
        }
        None
    }

    fn run(&self, run: &Run) -> Outcome {
        let program = self.commands.join(&run.words[0]);
        let mut command = match run.as_nobody {
            false => Command::new(program),
            true => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
                    .arg(program);
                command
            }
        };
        command
            .args(&run.words[1..])
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("MAIL_CONFIG", self.dir.join("conf"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A command that does not read closes the pipe early.
        let _ = stdin.write_all(&run.input);
        drop(stdin);
        let output = child.wait_with_output().expect("the command ends");
        let here = self.dir.to_str().expect("UTF-8").as_bytes();
        let stdout = replace(&output.stdout, here, b"@DIR@");
        let stderr = replace(&output.stderr, here, b"@DIR@");
        Outcome {
            exit: output.status.code(),
            stdout: comparable(stdout, run),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    fn list(&self, dir: &Path, name: &str) -> Outcome {
        let side = Side {
            commands: self.commands.clone(),
            dir: dir.to_path_buf(),
        };
        side.run(&command_line(
            &format!("postmap -us lmdb:{name}"),
            false,
            &[],
        ))
    }
}

/// The time of building left out, and listings sorted where the order is that of a hash table.
fn comparable(stdout: Vec<u8>, run: &Run) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = stdout.split(|&byte| byte == b'\n').map(Vec::from).collect();
    for line in &mut lines {
        if line.starts_with(b"YP_LAST_MODIFIED") {
            line.truncate(b"YP_LAST_MODIFIED".len());
        }
    }
    let listing = run.words.iter().any(|word| {
        let word = word.to_string_lossy();
        word.starts_with('-') && word.contains('s')
    });
    if listing && !run.line.contains("lmdb:") {
        lines.sort();
    }
    lines.join(&b'\n')
}

fn agree(run: Option<&Run>, real: &Outcome, ours: &Outcome) -> bool {
    match run.map(|run| &run.agreement) {
        Some(Agreement::Class) => {
            let class = |outcome: &Outcome| {
                let mut classes = classify(outcome.stderr.as_bytes());
                classes.dedup();
                classes
            };
            (real.exit, &real.stdout) == (ours.exit, &ours.stdout) && class(real) == class(ours)
        }
        _ => real == ours,
    }
}

fn shown(outcome: &Outcome) -> String {
    let stdout = String::from_utf8_lossy(&outcome.stdout);
    format!("{:?} {stdout:?} {:?}", outcome.exit, outcome.stderr)
}

/// What differs in a case, and how many commands it has.
fn replay(case: &Case, files: &[(String, Vec<u8>)], commands: &TempDir) -> (usize, String) {
    let home = TempDir::new();
    let real_commands = testkit::require("postmap");
    let newaliases = testkit::require("newaliases");
    assert_eq!(newaliases.parent(), Some(Path::new("/usr/bin")));
    // One folder has them all: /usr/sbin has `postmap`, `postalias`; /usr/bin `newaliases`.
    let real_folder = home.join("commands");
    fs::create_dir(&real_folder).expect("a folder");
    for (name, path) in [
        ("postmap", real_commands),
        ("postalias", testkit::require("postalias")),
        ("newaliases", newaliases),
    ] {
        std::os::unix::fs::symlink(path, real_folder.join(name)).expect("a link");
    }
    let real = Side {
        commands: real_folder,
        dir: home.join("real"),
    };
    let ours = Side {
        commands: commands.path().to_path_buf(),
        dir: home.join("ours"),
    };
    real.prepare(files);
    ours.prepare(files);
    let (mut count, mut wrong) = (0, String::new());
    for step in &case.steps {
        let (Some(expected), Some(found)) = (real.step(step), ours.step(step)) else {
            continue;
        };
        let run = match step {
            Step::Run(run) => Some(run),
            _ => None,
        };
        count += usize::from(run.is_some());
        let what = run.map_or_else(|| format!("{step:?}"), |run| run.line.clone());
        let listed = run.is_some_and(|run| run.agreement != Agreement::Exact);
        if listed && expected == found {
            let _ = writeln!(wrong, "{}: {what}: agrees now, take the line off", case.id);
            continue;
        }
        let meant = run.is_some_and(|run| run.agreement == Agreement::None);
        match (agree(run, &expected, &found), meant) {
            (true, _) | (false, true) => {}
            (false, false) => {
                let _ = writeln!(
                    wrong,
                    "{}: {what}\n  real {}\n  ours {}",
                    case.id,
                    shown(&expected),
                    shown(&found)
                );
            }
        }
    }
    wrong += &exchange(case, &real, &ours);
    (count, wrong)
}

/// Each side lists what it has made, and what the other has.
fn exchange(case: &Case, real: &Side, ours: &Side) -> String {
    let mut wrong = String::new();
    let mut names: Vec<String> = fs::read_dir(&ours.dir)
        .expect("the folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".lmdb")?.to_string()))
        .collect();
    names.sort();
    for name in names {
        let own = real.list(&real.dir, &name);
        for (what, other) in [
            ("ours reads real's", ours.list(&real.dir, &name)),
            ("real reads ours", real.list(&ours.dir, &name)),
        ] {
            if own.stdout != other.stdout {
                let (own, other) = (shown(&own), shown(&other));
                let id = &case.id;
                let _ = writeln!(wrong, "{id}: {name}.lmdb, {what}:\n  {own}\n  {other}");
            }
        }
    }
    wrong
}

#[test]
fn commands_do_what_postfix_commands_do() {
    if !testkit::peers() {
        return;
    }
    let text = include_str!("postmap/cases.txt");
    let only = std::env::var("POSTMAP_CASE").unwrap_or_default();
    let (files, mut cases) = parse(text);
    cases.retain(|case| case.id.contains(&only));
    let commands = TempDir::new();
    for name in ["postmap", "postalias", "newaliases"] {
        let link = commands.join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postroom"), link).expect("a link");
    }
    let waiting = Mutex::new(cases.iter());
    let results = Mutex::new((0, String::new()));
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no panic").next();
                    let Some(case) = next else { break };
                    let (count, wrong) = replay(case, &files, &commands);
                    let mut results = results.lock().expect("no panic");
                    results.0 += count;
                    results.1 += &wrong;
                }
            });
        }
    });
    let (count, wrong) = results.into_inner().expect("no panic");
    println!("{count} command lines");
    assert!(wrong.is_empty(), "of {count} command lines:\n{wrong}");
    assert!(
        !only.is_empty() || count >= 80,
        "only {count} command lines"
    );
}

#[test]
fn a_killed_build_leaves_the_old_table_or_the_new() {
    if !testkit::peers() {
        return;
    }
    let dir = TempDir::new();
    dir.write("main.cf", MAIN_CF);
    let build = |version: usize| {
        let line = |key: usize| format!("key{key} version{version}\n");
        dir.write("t", (0..8_000).map(line).collect::<String>());
        Command::new(env!("CARGO_BIN_EXE_postroom"))
            .args(["postmap", "lmdb:t"])
            .current_dir(dir.path())
            .env("MAIL_CONFIG", dir.path())
            .spawn()
            .expect("postmap starts")
    };
    let mut current = "version0".to_string();
    assert!(build(0).wait().expect("postmap ends").success());
    let (mut old, mut new) = (0, 0);
    for version in 1..40 {
        let mut child = build(version);
        std::thread::sleep(Duration::from_millis(version as u64 * 7));
        // It may have ended already.
        let _ = child.kill();
        child.wait().expect("postmap ends");
        let listing = Command::new(testkit::require("postmap"))
            .args(["-s", "lmdb:t"])
            .current_dir(dir.path())
            .env("MAIL_CONFIG", dir.path())
            .output()
            .expect("postmap runs");
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        assert_eq!(listing.lines().count(), 8_000);
        let next = format!("version{version}");
        if listing.lines().all(|line| line.ends_with(&next)) {
            new += 1;
            current = next;
        } else {
            old += 1;
            assert!(
                listing
                    .lines()
                    .all(|line| line.ends_with(&format!("\t{current}"))),
                "{current} or {next}"
            );
        }
    }
    println!("{old} times the old table, {new} times the new");
}

/// Texts made of what is special in sources: the same warnings and the same tables.
#[test]
fn random_sources_are_read_alike() {
    if !testkit::peers() {
        return;
    }
    let dir = TempDir::new();
    dir.write("main.cf", MAIN_CF);
    let mut random = Random(1);
    for round in 0..120 {
        let source = random.source();
        let tool = ["postmap", "postalias"][round % 2];
        let option = ["", "-u", "-f", "-r", "-w"][random.below(5)];
        let outcomes = ["real", "ours"].map(|side| {
            dir.write(&format!("{side}/s"), &source);
            let command = |args: &[&str]| {
                let mut command = match side {
                    "real" => Command::new(testkit::require(tool)),
                    _ => Command::new(env!("CARGO_BIN_EXE_postroom")),
                };
                if side == "ours" {
                    command.arg(tool);
                }
                let args = args.iter().filter(|arg| !arg.is_empty());
                let output = command
                    .args(args)
                    .current_dir(dir.join(side))
                    .env("MAIL_CONFIG", dir.path())
                    .output()
                    .expect("the command runs");
                let listing = String::from_utf8_lossy(&output.stdout).into_owned();
                let listing: Vec<String> = listing
                    .lines()
                    .filter(|line| !line.starts_with("YP_LAST_MODIFIED"))
                    .map(String::from)
                    .collect();
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                (output.status.code(), listing, stderr)
            };
            (command(&[option, "lmdb:s"]), command(&["-us", "lmdb:s"]))
        });
        let [real, ours] = outcomes;
        assert_eq!(real, ours, "{tool} {option} {:?}", source.escape_ascii());
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^= number >> 31;
        (number % limit as u64) as usize
    }

    fn source(&mut self) -> Vec<u8> {
        let mut source = Vec::new();
        for _ in 0..1 + self.below(14) {
            if self.below(6) == 0 {
                source.extend_from_slice(b"  ");
            }
            if self.below(2) == 0 {
                let start = ["ab: ", "K\t", "b ", "c:", "\"a b\": "][self.below(5)];
                source.extend_from_slice(start.as_bytes());
            }
            for _ in 0..self.below(10) {
                self.piece(&mut source);
            }
            source.push(b'\n');
        }
        source
    }

    fn piece(&mut self, source: &mut Vec<u8>) {
        const SPECIAL: &[u8] = b" ,:;@%!\"\\()<>[]|/.\t#\r=\x0b\x0c";
        match self.below(20) {
            0..10 => source.push(b"abcKX"[self.below(5)]),
            10 => source.extend_from_slice(b": "),
            11 => source.extend_from_slice("\u{df}\u{e4}".as_bytes()),
            12 if self.below(8) == 0 => source.push(0xff),
            13 if self.below(8) == 0 => source.push(0),
            _ => source.push(SPECIAL[self.below(SPECIAL.len())]),
        }
    }
}
