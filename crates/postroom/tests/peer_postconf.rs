//! Postfix's postconf and ours. The command lines of `postconf/cases.txt` run with both on copies of the folders
//! beside it: output, messages, exit status, and the files afterwards with their modes and owners must be equal, where the
//! file does not say otherwise. And `-d`: the names and defaults of every parameter.
//!
//! `POSTCONF_CASE=text` runs the command lines that contain it.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use testkit::TempDir;

const POSTFIX: &str = "/usr/sbin/postconf";
/// Postfix waits for a second behind each fatal error.
const SIDE_BY_SIDE: usize = 8;

/// Parameters whose default differs from that of Postfix 3.7, with the reason.
const DEFAULTS: &[(&str, &str)] = &[
    ("process_id", "the number of the process"),
    (
        "smtpd_forbid_bare_newline",
        "normalize, the default since Postfix 3.9: it closes SMTP smuggling",
    ),
];

struct Case {
    folder: String,
    line: String,
    words: Vec<String>,
    differs: bool,
}

#[test]
fn agrees_with_postfix() {
    if !testkit::peers() {
        return;
    }
    let wanted = std::env::var("POSTCONF_CASE").unwrap_or_default();
    let mut cases = cases(include_str!("postconf/cases.txt"));
    cases.retain(|case| format!("[{}] {}", case.folder, case.line).contains(&wanted));
    let dir = TempDir::new();
    let ours = dir.join("postconf");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postroom"), &ours).unwrap();
    let (queue, wrong) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for number in 0..SIDE_BY_SIDE {
            let conf = dir.join(&number.to_string()).join("conf");
            let (queue, wrong, ours) = (&queue, &wrong, &ours);
            scope.spawn(move || {
                loop {
                    let Some(case) = queue.lock().unwrap().next() else {
                        break;
                    };
                    let want = run(Path::new(POSTFIX), case, &conf);
                    let got = run(ours, case, &conf);
                    if (want == got) == case.differs {
                        let (folder, line) = (&case.folder, &case.line);
                        let verdict = match case.differs {
                            true => "agrees, but is marked with !".to_owned(),
                            false => format!("Postfix {want:#?}\nPostroom {got:#?}"),
                        };
                        wrong
                            .lock()
                            .unwrap()
                            .push(format!("[{folder}] {line}\n{verdict}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    println!("{} of {} agree", cases.len() - wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn cases(text: &str) -> Vec<Case> {
    let mut folder = String::new();
    let mut cases = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut folder);
        } else if !line.is_empty() && !line.starts_with("# ") {
            let (line, differs) = match line.strip_prefix('!') {
                Some(rest) => (rest.split_once("   # ").expect("a reason").0, true),
                None => (line, false),
            };
            cases.push(Case {
                folder: folder.clone(),
                line: line.to_owned(),
                words: words(line),
                differs,
            });
        }
    }
    cases
}

/// As a shell splits them; quotes are single ones.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
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
    words
}

#[derive(Debug, PartialEq)]
struct Outcome {
    exit: Option<i32>,
    stdout: Vec<String>,
    /// Sorted: Postfix's order of warnings is that of a hash table.
    stderr: Vec<String>,
    /// Lines, mode, owner, group.
    files: BTreeMap<String, (Vec<String>, u32, u32, u32)>,
}

fn run(program: &Path, case: &Case, conf: &Path) -> Outcome {
    let _ = std::fs::remove_dir_all(conf);
    std::fs::create_dir_all(conf).unwrap();
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/postconf");
    for entry in std::fs::read_dir(source.join(&case.folder)).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let copy = conf.join(entry.file_name());
        std::fs::write(&copy, text.replace("@CONF@", conf.to_str().unwrap())).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644)).unwrap();
        let aged = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        let file = std::fs::File::options().write(true).open(&copy);
        file.and_then(|file| file.set_modified(aged)).unwrap();
    }
    let output = Command::new(program)
        .arg("-c")
        .arg(conf)
        .args(&case.words)
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let plain = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .replace(conf.to_str().unwrap(), "CONF")
            .replace(program.to_str().unwrap(), "postconf")
    };
    let mut stderr: Vec<String> = plain(&output.stderr).lines().map(str::to_owned).collect();
    stderr.sort();
    let ours_alone = |line: &&str| {
        let name = line.split([' ', '=']).next().unwrap_or_default();
        name.starts_with("postroom_") || default_differs(name)
    };
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(conf).unwrap() {
        let entry = entry.unwrap();
        let text = plain(&std::fs::read(entry.path()).unwrap());
        let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
        // New parameters are appended in the order of a hash table.
        if case.words.iter().filter(|word| word.contains('=')).count() > 1 {
            lines.sort();
        }
        let facts = entry.metadata().unwrap();
        files.insert(
            entry.file_name().into_string().unwrap(),
            (lines, facts.mode() & 0o7777, facts.uid(), facts.gid()),
        );
    }
    Outcome {
        exit: output.status.code(),
        stdout: plain(&output.stdout)
            .lines()
            .filter(|line| !ours_alone(line))
            .map(str::to_owned)
            .collect(),
        stderr,
        files,
    }
}

fn default_differs(name: &str) -> bool {
    let later = config::params::ADDED.iter();
    later.map(|(later, _)| later).any(|later| *later == name)
        || DEFAULTS.iter().any(|(known, _)| *known == name)
}

/// Names and defaults, `postconf -d`.
#[test]
fn every_parameter_has_postfix_default() {
    if !testkit::peers() {
        return;
    }
    let dir = TempDir::new();
    dir.write("main.cf", "");
    dir.write("master.cf", "");
    let list = |program: &str, arguments: &[&str]| -> BTreeMap<String, String> {
        let mut command = Command::new(program);
        let output = command.args(arguments).arg(dir.path()).arg("-d").output();
        let output = output.unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| {
            let (name, value) = line.split_once(" =").expect("name = value");
            (name.to_owned(), value.trim_start().to_owned())
        });
        lines.collect()
    };
    let postfix = list(POSTFIX, &["-c"]);
    let ours = list(env!("CARGO_BIN_EXE_postroom"), &["postconf", "-c"]);
    let mut wrong = Vec::new();
    for (name, value) in &postfix {
        let own = ours.get(name);
        let differs = own != Some(value);
        if differs != DEFAULTS.iter().any(|(known, _)| known == name) {
            wrong.push(format!("{name}: Postfix {value:?}, Postroom {own:?}"));
        }
    }
    let more: Vec<&String> = ours
        .keys()
        .filter(|name| !postfix.contains_key(*name) && !name.starts_with("postroom_"))
        .collect();
    let mut added: Vec<&str> = config::params::ADDED
        .iter()
        .map(|(name, _)| *name)
        .collect();
    added.sort_unstable();
    println!(
        "{} parameters of Postfix, {} of ours",
        postfix.len(),
        ours.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(more, added, "additions of later releases");
}
