//! `lmdb:` files shared with a real Postfix: large tables that go back and forth, and lookups of one side while the other writes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use config::{Config, Environment};
use postroom_tables::{Keep, LmdbEditor, Nulls, Table, Tables};
use testkit::TempDir;

const MAP_SIZE: u64 = 1 << 20;

struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Site {
        let dir = TempDir::new();
        dir.write(
            "main.cf",
            "compatibility_level = 3.6\nlmdb_map_size = 1048576\n",
        );
        Site { dir }
    }

    /// The real postmap with these arguments.
    fn postmap(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(testkit::require("postmap"))
            .current_dir(self.dir.path())
            .env("MAIL_CONFIG", self.dir.path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("postmap starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_string();
        let writer = std::thread::spawn(move || {
            // A program that ends early closes the pipe.
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = child.wait_with_output().expect("postmap ends");
        writer.join().expect("no panic");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.is_empty(), "{args:?}: {stderr}");
        output
    }

    fn listed(&self) -> BTreeMap<String, String> {
        let output = self.postmap(&["-s", "lmdb:t"], "");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines()
            .map(|line| {
                let (key, value) = line.split_once('\t').expect("a tab");
                (key.to_string(), value.to_string())
            })
            .collect()
    }

    fn table(&self) -> Table {
        let config = Config::load_main(self.dir.path(), &Environment::of_this_machine());
        let tables = Tables::new(&config.expect("main.cf"));
        let name = self.dir.join("t");
        tables
            .open(&format!("lmdb:{}", name.display()))
            .expect("the table")
    }

    fn ours(&self) -> BTreeMap<String, String> {
        let entries = self.table().entries().expect("a sound file");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let entries = entries.expect("a table with entries").into_iter();
        entries.map(|(k, v)| (text(k), text(v))).collect()
    }
}

/// Values up to `longest` bytes, most of them short.
fn entries(count: usize, longest: usize) -> BTreeMap<String, String> {
    let mut random = fastrand::Rng::with_seed(count as u64);
    let mut entries = BTreeMap::new();
    for number in 0..count {
        let key = format!("{:x}-{number}", random.u32(..) >> random.u32(0..32));
        let length = match number % 50 {
            0 => random.usize(1..longest),
            _ => random.usize(1..40),
        };
        entries.insert(key, "v".repeat(length));
    }
    entries
}

fn write(path: &Path, keep: Keep, entries: &BTreeMap<String, String>) {
    let mut editor = LmdbEditor::open(path, keep, MAP_SIZE, 0o644).expect("the file");
    for (key, value) in entries {
        let [key, value] = [key, value].map(|text| Nulls::With.written(text.as_bytes()));
        editor.insert(key, value).expect("a good key");
    }
    editor.commit().expect("written");
}

fn source(entries: &BTreeMap<String, String>) -> String {
    entries.iter().map(|(k, v)| format!("{k} {v}\n")).collect()
}

#[test]
fn large_tables_go_back_and_forth() {
    if !testkit::peers() {
        return;
    }
    let site = Site::new();
    let path = site.dir.join("t.lmdb");
    let mut expected = entries(20_000, 9_000);
    write(&path, Keep::Nothing, &expected);
    assert!(site.listed() == expected, "Postfix reads what we built");
    // Postfix waits for the disk after each entry.
    let more = entries(400, 20_000);
    site.postmap(&["-ir", "lmdb:t"], &source(&more));
    expected.extend(more);
    assert!(site.ours() == expected, "we read what Postfix added");
    let more = entries(3_000, 60_000);
    write(&path, Keep::Entries, &more);
    expected.extend(more);
    assert!(site.listed() == expected, "Postfix reads what we added");
    let gone: Vec<String> = expected.keys().step_by(50).cloned().collect();
    site.postmap(&["-d", "-", "lmdb:t"], &(gone.join("\n") + "\n"));
    expected.retain(|key, _| !gone.contains(key));
    assert!(site.ours() == expected, "we read what Postfix left");
    let fewer = entries(100, 100);
    site.dir.write("t", source(&fewer));
    site.postmap(&["lmdb:t"], "");
    assert!(site.ours() == fewer, "we read what Postfix built anew");
    write(&path, Keep::Nothing, &entries(10_000, 5_000));
    assert!(site.listed() == entries(10_000, 5_000), "and Postfix we");
}

#[test]
fn lookups_go_on_while_postfix_writes() {
    if !testkit::peers() {
        return;
    }
    let site = Site::new();
    let constant = BTreeMap::from([("constant".to_string(), "here".to_string())]);
    write(&site.dir.join("t.lmdb"), Keep::Nothing, &constant);
    let table = site.table();
    let done = &AtomicBool::new(false);
    let lookups = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..12 {
                let mut round_entries = entries(2_000 + round * 100, 3_000);
                round_entries.extend(constant.clone());
                site.dir.write("t", source(&round_entries));
                site.postmap(&["lmdb:t"], "");
                site.postmap(&["-ir", "lmdb:t"], &source(&entries(20, 50)));
            }
            done.store(true, Ordering::Relaxed);
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        scope
            .spawn(move || {
                let mut lookups = 0;
                while !done.load(Ordering::Relaxed) {
                    let found = runtime.block_on(table.lookup("constant"));
                    assert_eq!(found.expect("an answer").as_deref(), Some("here"));
                    lookups += 1;
                }
                lookups
            })
            .join()
            .expect("every lookup was answered")
    });
    println!("{lookups} lookups");
    assert!(lookups > 0);
}

#[test]
fn postfix_looks_up_while_we_write() {
    if !testkit::peers() {
        return;
    }
    let site = Site::new();
    let path = site.dir.join("t.lmdb");
    let constant = BTreeMap::from([("constant".to_string(), "here".to_string())]);
    write(&path, Keep::Nothing, &constant);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let input = "constant\nabsent\n".repeat(20_000);
            // A bound, for the case that the writer panics.
            for _ in 0..500 {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let output = site.postmap(&["-q", "-", "lmdb:t"], &input);
                let text = String::from_utf8_lossy(&output.stdout);
                assert_eq!(text.lines().count(), 20_000);
                assert!(text.lines().all(|line| line == "constant\there"));
            }
        });
        for round in 0..30 {
            let mut round_entries = entries(1_000 + round * 50, 2_000);
            round_entries.extend(constant.clone());
            write(&path, Keep::Nothing, &round_entries);
            write(&path, Keep::Entries, &entries(20, 20));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(site.ours().len() > 2_000);
}
