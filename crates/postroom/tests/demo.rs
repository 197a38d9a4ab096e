//! `postroom demo`: what it prints, and that the mail is where it says.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::TempDir;

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postroom"))
        .arg("demo")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("postroom runs: {error}"))
}

/// `text` with everything replaced that differs from run to run.
fn masked(text: &str, folder: &str, program: &str) -> String {
    let text = text.replace(program, "PROGRAM").replace(folder, "FOLDER");
    let mut result = String::new();
    for line in text.split_inclusive('\n') {
        result.push_str(&cut_behind(
            &cut_behind(line, "127.0.0.1:", "PORT"),
            "/new/",
            "FILE",
        ));
    }
    result
}

/// Replaces the word that follows `mark`.
fn cut_behind(line: &str, mark: &str, word: &str) -> String {
    let Some(at) = line.find(mark) else {
        return line.to_owned();
    };
    let (head, rest) = line.split_at(at + mark.len());
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    format!("{head}{word}{}", &rest[end..])
}

fn file_count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |entries| entries.count())
}

#[test]
fn once_delivers_and_ends() {
    let dir = TempDir::new();
    let folder = dir.join("d");
    let name = folder.to_str().expect("TempDir names are UTF-8");
    let output = demo(&["--once", "--dir", name]);
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{complaint}");
    let shown = masked(&text, name, env!("CARGO_BIN_EXE_postroom"));
    assert_eq!(shown, include_str!("demo/once.txt"));
    for (mailbox, count) in [
        ("example.org/john", 3),
        ("example.org/jane", 1),
        ("example.org/jim", 1),
        ("example.net/carol", 1),
        ("example.net/dave", 1),
    ] {
        let new = folder.join("mail").join(mailbox).join("Maildir/new");
        assert_eq!(file_count(&new), count, "{mailbox}");
    }
    // The files that it names are there.
    let files = text
        .split_whitespace()
        .filter(|word| word.contains("/new/"));
    assert_eq!(files.filter(|file| folder.join(file).is_file()).count(), 7);

    // The second start finds the database and the mail of the first.
    let database = rusqlite::Connection::open(folder.join("mail.sqlite"));
    let insert =
        "INSERT INTO virtual_users (domain_id, email, password) VALUES (1, 'zoe@example.org', '')";
    database
        .and_then(|database| database.execute(insert, []))
        .unwrap_or_else(|error| panic!("{error}"));
    let output = demo(&["--once", "--dir", name]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("zoe@example.org"));
    assert_eq!(
        file_count(&folder.join("mail/example.org/john/Maildir/new")),
        6
    );
}

#[test]
fn a_message_that_goes_elsewhere_is_told() {
    let dir = TempDir::new();
    assert!(demo(&["--once", "--dir", dir.str()]).status.success());
    let delete = "DELETE FROM virtual_users WHERE email = 'dave@example.net'";
    rusqlite::Connection::open(dir.join("mail.sqlite"))
        .and_then(|database| database.execute(delete, []))
        .unwrap_or_else(|error| panic!("{error}"));
    let output = demo(&["--once", "--dir", dir.str()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("WRONG  expected in dave@example.net; 250 2.0.0 Ok: queued as "),
        "{text}"
    );
}

#[test]
fn other_peoples_folders_are_left_alone() {
    let dir = TempDir::new();
    dir.write("letter.txt", "mine");
    let output = demo(&["--once", "--dir", dir.str()]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr).replace(dir.str(), "FOLDER"),
        "postroom demo: FOLDER has other things in it (letter.txt); give --dir an empty folder, \
         one that does not exist yet, or that of an earlier demo\n"
    );
    assert_eq!(file_count(dir.path()), 1);
}

/// The README shows what the command really prints; Ctrl-C ends it.
#[test]
fn the_readme_shows_its_output() {
    let temporary = TempDir::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_postroom"))
        .arg("demo")
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("postroom runs: {error}"));
    let mut output = BufReader::new(child.stdout.take().expect("it is a pipe"));
    let mut text = String::new();
    while !text.ends_with("# when you are done\n") {
        let read = output.read_line(&mut text).unwrap_or_default();
        assert_ne!(read, 0, "the demo ended early: {text}");
    }
    let pid = i32::try_from(child.id()).expect("process ids are small");
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap_or_else(|error| panic!("{error}"));
    let status = child.wait().unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{status}");

    let folder = format!("{}/postroom-demo", temporary.str());
    let shown = masked(&text, &folder, env!("CARGO_BIN_EXE_postroom"));
    let readme = include_str!("../../../README.md");
    let readme = masked(readme, "/tmp/postroom-demo", "target/release/postroom");
    assert!(
        readme.contains(&shown),
        "README.md does not show this:\n{text}"
    );
}
