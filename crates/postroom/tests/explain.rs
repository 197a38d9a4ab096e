//! `postroom explain` on a small setup, its output word for word: tests/explain/*.txt, which
//! docs/explain.md shows. `POSTROOM_BLESS=1` writes the files anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use testkit::TempDir;

/// File below tests/explain, arguments, exit status.
const CASES: &[(&str, &str, i32)] = &[
    ("catch-all", "anything@example.net", 0),
    ("protected-user", "dave@example.net", 0),
    ("alias-chain", "info@example.org", 0),
    ("loop", "ping@example.org", 75),
    ("dangling-alias", "old@example.org", 1),
    ("unknown-domain", "someone@example.com", 1),
    ("held", "jane@example.org", 0),
];

/// A catch-all, a mailbox beside it, a chain, a loop, and an alias that leads nowhere.
const SQL: &str = "
CREATE TABLE virtual_domains (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE virtual_users (id INTEGER PRIMARY KEY, email TEXT NOT NULL, password TEXT NOT NULL);
CREATE TABLE virtual_aliases (id INTEGER PRIMARY KEY, source TEXT NOT NULL, destination TEXT NOT NULL);
INSERT INTO virtual_domains (name) VALUES ('example.org'), ('example.net');
INSERT INTO virtual_users (email, password) VALUES
  ('john@example.org', ''), ('jane@example.org', ''), ('carol@example.net', ''), ('dave@example.net', '');
INSERT INTO virtual_aliases (source, destination) VALUES
  ('@example.net', 'carol@example.net'),
  ('info@example.org', 'office@example.org'),
  ('office@example.org', 'john@example.org'), ('office@example.org', 'jane@example.org'),
  ('ping@example.org', 'pong@example.org'), ('pong@example.org', 'ping@example.org'),
  ('old@example.org', 'gone@example.org');
";

const QUERIES: [(&str, &str); 4] = [
    ("domains", "SELECT 1 FROM virtual_domains WHERE name='%s'"),
    ("users", "SELECT 1 FROM virtual_users WHERE email='%s'"),
    (
        "aliases",
        "SELECT destination FROM virtual_aliases WHERE source='%s'",
    ),
    (
        "email2email",
        "SELECT email FROM virtual_users WHERE email='%s'",
    ),
];

fn setup() -> TempDir {
    let dir = TempDir::new();
    let root = dir.str();
    Connection::open(dir.join("mail.sqlite"))
        .and_then(|database| database.execute_batch(SQL))
        .unwrap_or_else(|error| panic!("the sample's SQL is right: {error}"));
    for (name, query) in QUERIES {
        dir.write(
            &format!("{name}.cf"),
            format!("dbpath = {root}/mail.sqlite\nquery = {query}\n"),
        );
    }
    dir.write(
        "main.cf",
        format!(
            "compatibility_level = 3.6\nmyhostname = mail.example.org\nmydestination = localhost\n\
             local_recipient_maps =\nmynetworks = 127.0.0.0/8\nvirtual_alias_domains =\n\
             virtual_mailbox_domains = sqlite:{root}/domains.cf\nvirtual_mailbox_maps = sqlite:{root}/users.cf\n\
             virtual_alias_maps = sqlite:{root}/aliases.cf, sqlite:{root}/email2email.cf\n\
             virtual_transport = lmtp:unix:private/dovecot-lmtp\n\
             smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n\
             smtpd_recipient_restrictions = check_recipient_access inline:{{{{jane@example.org=HOLD for a look}}}}\n"
        ),
    );
    dir.write(
        "master.cf",
        "smtp inet n - n - - smtpd\nlmtp unix - - n - - lmtp\n",
    );
    dir
}

fn explain(dir: &TempDir, arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_postroom"))
        .args(["explain", "-c", dir.str()])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("postroom runs: {error}"));
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (
        text.replace(dir.str(), "/etc/postfix"),
        output.status.code(),
    )
}

#[test]
fn the_outputs_are_those_in_the_manual() {
    let dir = setup();
    let bless = std::env::var_os("POSTROOM_BLESS").is_some();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = fs::read_to_string(here.join("../../docs/explain.md")).unwrap_or_default();
    for (name, address, status) in CASES {
        let (output, code) = explain(&dir, &[address]);
        let text = format!("$ postroom explain {address}\n{output}");
        let file: PathBuf = here.join("tests/explain").join(format!("{name}.txt"));
        if bless {
            fs::write(&file, &text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, expected, "{name}");
        assert_eq!(code, Some(*status), "{name}");
        assert!(
            bless || manual.contains(&expected),
            "docs/explain.md does not show {}",
            file.display()
        );
    }
}

#[test]
fn json_says_the_same() {
    let dir = setup();
    let (output, code) = explain(&dir, &["--json", "anything@example.net", "old@example.org"]);
    assert_eq!(code, Some(1), "{output}");
    let value: serde_json::Value =
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    assert_eq!(value[0]["reply"]["code"], 250);
    assert_eq!(
        value[0]["tree"]["destinations"][0]["address"],
        "carol@example.net"
    );
    assert_eq!(value[1]["reply"]["enhanced"], "5.1.1");
}
