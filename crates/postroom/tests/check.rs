//! `postroom check` on SQLite: a clean setup, and the same with one fault planted at a time. Each is
//! found, told word for word as in tests/check/*.txt (some of which docs/check.md shows), and gone when
//! its remedy is done. `POSTROOM_BLESS=1` writes the files anew. `peer_check.rs` does it with servers.

mod findings;

use std::fs;

use findings::{check, codes, mend, report, snapshot};
use rusqlite::Connection;
use testkit::TempDir;

const SQL: &str = "
CREATE TABLE virtual_domains (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE virtual_users (id INTEGER PRIMARY KEY, email TEXT NOT NULL, password TEXT NOT NULL);
CREATE TABLE virtual_aliases (id INTEGER PRIMARY KEY, source TEXT NOT NULL, destination TEXT NOT NULL);
CREATE UNIQUE INDEX domains ON virtual_domains (name);
CREATE UNIQUE INDEX users ON virtual_users (email);
CREATE INDEX aliases ON virtual_aliases (source);
INSERT INTO virtual_domains (name) VALUES ('example.org'), ('example.net');
INSERT INTO virtual_users (email, password) VALUES
  ('john@example.org', ''), ('jane@example.org', ''), ('carol@example.net', ''), ('dave@example.net', '');
INSERT INTO virtual_aliases (source, destination) VALUES
  ('postmaster@example.org', 'john@example.org'),
  ('team@example.org', 'john@example.org'), ('team@example.org', 'jane@example.org'),
  ('press@example.org', 'agency@elsewhere.example'),
  ('@example.net', 'carol@example.net');
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

struct Setup {
    dir: TempDir,
}

impl Setup {
    /// Nothing is wrong with it.
    fn clean() -> Setup {
        let dir = TempDir::new();
        let root = dir.str().to_owned();
        let setup = Setup { dir };
        setup.sql(SQL);
        setup.mode("mail.sqlite", 0o600);
        for (name, query) in QUERIES {
            let text = format!("dbpath = {root}/mail.sqlite\nquery = {query}\n");
            setup.dir.write(&format!("{name}.cf"), text);
        }
        setup.dir.write(
            "main.cf",
            format!(
                "compatibility_level = 3.6\nmyhostname = mail.example.org\nmydestination = localhost\n\
                 local_recipient_maps =\nmynetworks = 127.0.0.0/8\nvirtual_alias_domains =\n\
                 virtual_mailbox_domains = sqlite:{root}/domains.cf\nvirtual_mailbox_maps = sqlite:{root}/users.cf\n\
                 virtual_alias_maps = sqlite:{root}/aliases.cf, sqlite:{root}/email2email.cf\n\
                 virtual_transport = lmtp:unix:private/dovecot-lmtp\n\
                 smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n"
            ),
        );
        setup.dir.write(
            "master.cf",
            "smtp inet n - n - - smtpd\nlmtp unix - - n - - lmtp\n",
        );
        setup
    }

    fn sql(&self, statements: &str) {
        Connection::open(self.dir.join("mail.sqlite"))
            .and_then(|database| database.execute_batch(statements))
            .unwrap_or_else(|error| panic!("{error}: {statements}"));
    }

    fn mode(&self, file: &str, mode: u32) {
        testkit::tempdir::set_mode(&self.dir.join(file), mode);
    }

    /// Replaces text in a file of the folder, which must have it.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        assert!(text.contains(from), "{file} has no {from}");
        self.dir.write(file, text.replace(from, to));
    }

    /// The output with the folder's name as /etc/postfix.
    fn shown(&self) -> (String, Option<i32>) {
        let (text, status) = check(self.dir.path(), &[]);
        let text = text.replace(self.dir.str(), "/etc/postfix");
        (format!("$ postroom check\n{text}"), status)
    }

    /// The only findings are of this code; the exit status is that of its severity; when its remedy is
    /// done, there is none.
    fn finds(&self, name: &str, code: &str, errors: bool, in_manual: bool) {
        let found = report(self.dir.path());
        let mut kinds = codes(&found);
        kinds.dedup();
        assert_eq!(kinds, [code], "{name}: {found:#}");
        for finding in findings::findings(&found) {
            for part in ["text", "consequence", "remedy"] {
                assert_ne!(finding[part], "", "{name} has no {part}");
            }
        }
        let (text, status) = self.shown();
        assert_eq!(status, Some(i32::from(errors)), "{name}");
        snapshot(name, &text, in_manual);
    }

    fn finds_and_mends(&self, name: &str, code: &str, errors: bool, in_manual: bool) {
        self.finds(name, code, errors, in_manual);
        mend(&report(self.dir.path()), code, &|statement| {
            self.sql(statement)
        });
        self.is_clean(name);
    }

    fn is_clean(&self, after: &str) {
        let (text, status) = self.shown();
        assert!(text.ends_with("found nothing\n"), "{after}: {text}");
        assert_eq!(status, Some(0), "{after}");
    }
}

#[test]
fn a_clean_setup_has_no_findings() {
    let setup = Setup::clean();
    let (text, status) = setup.shown();
    assert_eq!(status, Some(0), "{text}");
    snapshot("clean", &text, true);
}

#[test]
fn missing_indexes() {
    let setup = Setup::clean();
    setup.sql("DROP INDEX domains; DROP INDEX aliases;");
    setup.finds_and_mends("no-index", "no-index", false, true);
}

#[test]
fn a_catch_all_swallows_mailboxes() {
    let setup = Setup::clean();
    setup.edit(
        "main.cf",
        &format!(", sqlite:{}/email2email.cf", setup.dir.str()),
        "",
    );
    fs::remove_file(setup.dir.join("email2email.cf")).unwrap_or_else(|error| panic!("{error}"));
    setup.finds_and_mends("mailbox-swallowed", "mailbox-swallowed", true, true);
}

#[test]
fn the_order_of_tables_decides() {
    let setup = Setup::clean();
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('jane@example.org', 'john@example.org')");
    setup.finds("mailbox-hidden", "mailbox-hidden", false, true);
    let root = setup.dir.str().to_owned();
    let (aliases, email2email) = (
        format!("sqlite:{root}/aliases.cf"),
        format!("sqlite:{root}/email2email.cf"),
    );
    let order = format!("{aliases}, {email2email}");
    setup.edit("main.cf", &order, &format!("{email2email}, {aliases}"));
    setup.finds("alias-never-used", "alias-never-used", false, false);
    // The remedies in words: a copy for the mailbox, and the other order.
    setup.edit("main.cf", &format!("{email2email}, {aliases}"), &order);
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('jane@example.org', 'jane@example.org')");
    setup.is_clean("a copy");
}

#[test]
fn an_alias_that_leads_nowhere() {
    let setup = Setup::clean();
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('old@example.org', 'gone@example.org'), ('old@example.org', 'jane@example.org')");
    setup.finds_and_mends("alias-dangling", "alias-dangling", true, true);
}

#[test]
fn a_loop() {
    let setup = Setup::clean();
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('ping@example.org', 'pong@example.org'), ('pong@example.org', 'ping@example.org'), ('in@example.org', 'ping@example.org')");
    let found = report(setup.dir.path());
    assert_eq!(
        codes(&found),
        ["alias-loop"],
        "one finding a circle: {found:#}"
    );
    setup.finds("alias-loop", "alias-loop", true, true);
    mend(&found, "alias-loop", &|statement| setup.sql(statement));
    // What is left leads to an address that does not exist any more.
    let mut left = codes(&report(setup.dir.path()));
    left.dedup();
    assert_eq!(left, ["alias-dangling"]);
}

#[test]
fn chains_and_lists_beyond_the_limits() {
    let setup = Setup::clean();
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('a1@example.org', 'a2@example.org'), ('a2@example.org', 'a3@example.org'), ('a3@example.org', 'john@example.org')");
    setup.is_clean("three steps");
    setup.edit(
        "main.cf",
        "mynetworks =",
        "virtual_alias_recursion_limit = 3\nmynetworks =",
    );
    setup.finds("alias-too-large", "alias-too-large", true, false);
    setup.edit(
        "main.cf",
        "virtual_alias_recursion_limit = 3",
        "virtual_alias_expansion_limit = 1",
    );
    let found = report(setup.dir.path());
    let row = &findings::findings(&found)[0]["place"]["row"];
    assert_eq!(
        (codes(&found), row.as_str()),
        (vec!["alias-too-large".to_owned()], Some("team@example.org"))
    );
}

#[test]
fn a_domain_in_two_classes() {
    let setup = Setup::clean();
    setup.edit(
        "main.cf",
        "mydestination = localhost",
        "mydestination = localhost, example.org",
    );
    setup.finds_and_mends("domain-in-two-classes", "domain-in-two-classes", true, true);
    // A row with a bare domain makes a virtual alias domain of it, by default.
    setup.edit("main.cf", "virtual_alias_domains =\n", "");
    setup.is_clean("the default of virtual_alias_domains");
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('example.org', 'john@example.org')");
    setup.finds("domain-by-alias-row", "domain-in-two-classes", true, false);
}

#[test]
fn a_key_without_quotes() {
    let setup = Setup::clean();
    setup.edit("users.cf", "email='%s'", "email=%s");
    setup.finds_and_mends("unquoted-key", "unquoted-key", true, true);
    setup.edit("users.cf", "'%s'", "\"%s\"");
    assert_eq!(codes(&report(setup.dir.path())), ["key-as-column"]);
}

#[test]
fn missing_tables_columns_and_files() {
    let setup = Setup::clean();
    for (file, from, to, code) in [
        ("users.cf", "virtual_users", "mailboxes", "missing-table"),
        ("aliases.cf", "destination", "goal", "missing-column"),
        ("domains.cf", "WHERE", "WHERE AND", "query-rejected"),
        (
            "domains.cf",
            "mail.sqlite",
            "other.sqlite",
            "database-unreachable",
        ),
        ("main.cf", "/users.cf", "/user.cf", "table-unusable"),
        ("main.cf", "mynetworks =", "mynetwork =", "setting-unknown"),
        (
            "main.cf",
            "mynetworks =",
            "hopcount_limit = many\nmynetworks =",
            "setting-wrong",
        ),
        ("main.cf", "permit_mynetworks,", "permit,", "open-relay"),
        ("main.cf", "127.0.0.0/8", "0.0.0.0/0", "open-relay"),
        (
            "main.cf",
            "permit_mynetworks,",
            "permit_my_networks,",
            "setting-wrong",
        ),
    ] {
        let setup_text = fs::read_to_string(setup.dir.join(file)).unwrap_or_default();
        setup.edit(file, from, to);
        let found = report(setup.dir.path());
        assert!(
            codes(&found).iter().any(|known| known == code),
            "{code}: {found:#}"
        );
        let told = |finding: &serde_json::Value| finding["remedy"] != "" && finding["text"] != "";
        assert!(findings::findings(&found).iter().all(told), "{found:#}");
        setup.dir.write(file, setup_text);
    }
    setup.is_clean("all taken back");
}

#[test]
fn a_database_that_others_may_write() {
    let setup = Setup::clean();
    setup.mode("mail.sqlite", 0o646);
    setup.finds(
        "database-user-may-write",
        "database-user-may-write",
        false,
        false,
    );
    setup.mode("mail.sqlite", 0o604);
    assert_eq!(codes(&report(setup.dir.path())), ["database-readable"]);
}

/// What can be told without a database, of tables in all places.
#[test]
fn tables_whose_database_is_away() {
    let setup = Setup::clean();
    let root = setup.dir.str().to_owned();
    let users = format!("sqlite:{root}/users.cf");
    setup.edit(
        "main.cf",
        &format!("virtual_mailbox_maps = {users}"),
        &format!(
            "virtual_mailbox_maps = mysql:users\nusers_user = u\nusers_password = hush\nusers_hosts = 127.0.0.1:{}\n\
             users_dbname = x\nusers_query = SELECT 1 FROM users WHERE email=%s",
            testkit::dead_port()
        ),
    );
    let found = report(setup.dir.path());
    let places: Vec<(&str, &str)> = findings::findings(&found)
        .iter()
        .map(|finding| {
            let parameter = finding["place"]["parameter"].as_str().unwrap_or_default();
            (finding["code"].as_str().unwrap_or_default(), parameter)
        })
        .collect();
    for expected in [
        ("password-readable", "users_password"),
        ("database-unreachable", "users_hosts"),
        ("unquoted-key", "users_query"),
    ] {
        assert!(places.contains(&expected), "{expected:?}: {found:#}");
    }
    assert!(
        !found.to_string().contains("hush"),
        "a password in {found:#}"
    );
}

/// Tables that are no database: their rows are known too.
#[test]
fn text_tables() {
    let setup = Setup::clean();
    let root = setup.dir.str().to_owned();
    setup
        .dir
        .write("users", "john@example.org 1\nbob@example.net 1\n");
    setup.dir.write(
        "aliases",
        "postmaster@example.org john@example.org\n@example.net john@example.org\nexample.com x\n\
         info@example.org @example.net\nlist@example.org john@example.org, gone@example.org\n",
    );
    let (users, aliases) = (
        format!("sqlite:{root}/users.cf"),
        format!("sqlite:{root}/aliases.cf, sqlite:{root}/email2email.cf"),
    );
    setup.edit("main.cf", &users, &format!("hash:{root}/users"));
    setup.edit("main.cf", &aliases, &format!("texthash:{root}/aliases"));
    setup.edit("main.cf", "virtual_alias_domains =\n", "");
    setup.edit(
        "main.cf",
        "virtual_mailbox_domains = ",
        "virtual_mailbox_domains = example.com, ",
    );
    let found = report(setup.dir.path());
    let told: Vec<(&str, &str)> = findings::findings(&found)
        .iter()
        .map(|finding| {
            let row = finding["place"]["row"].as_str().unwrap_or_default();
            (finding["code"].as_str().unwrap_or_default(), row)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("domain-in-two-classes", "example.com"),
            ("mailbox-swallowed", "@example.net"),
            ("alias-dangling", "list@example.org"),
            ("no-postmaster", "example.com"),
        ],
        "{found:#}"
    );
    assert_eq!(
        findings::findings(&found)[2]["place"]["file"],
        format!("{root}/aliases")
    );
}

#[test]
fn stray_spaces_and_capital_letters() {
    let setup = Setup::clean();
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('shop@example.org', ' jane@example.org')");
    setup.finds_and_mends("stray-space", "stray-space", false, true);
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('shop2@example.org', 'jane @example.org')");
    setup.finds("space-inside", "stray-space", false, false);
    setup.sql("DELETE FROM virtual_aliases WHERE source = 'shop2@example.org'");
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('Office@example.org', 'jane@example.org')");
    setup.finds_and_mends("key-never-found", "key-never-found", true, false);
}

#[test]
fn domains_without_postmaster_and_mailboxes_without_domain() {
    let setup = Setup::clean();
    setup.sql("DELETE FROM virtual_aliases WHERE source = 'postmaster@example.org'");
    setup.finds("no-postmaster", "no-postmaster", false, true);
    setup.sql("INSERT INTO virtual_aliases (source, destination) VALUES ('postmaster@example.org', 'john@example.org')");
    setup.is_clean("with postmaster");
    setup.sql("INSERT INTO virtual_users (email, password) VALUES ('eve@example.com', '')");
    setup.finds("domain-not-listed", "domain-not-listed", false, false);
}

#[test]
fn settings_and_services_without_effect() {
    let setup = Setup::clean();
    setup.edit(
        "main.cf",
        "mynetworks =",
        "debug_peer_list = 192.0.2.1\nbiff = no\nmynetworks =",
    );
    setup.edit(
        "master.cf",
        "lmtp unix",
        "other unix - n n - - frobnicate\nlmtp unix",
    );
    let found = report(setup.dir.path());
    let told: Vec<(String, String)> = findings::findings(&found)
        .iter()
        .map(|finding| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            (
                text(&finding["severity"]),
                text(&finding["place"]["parameter"]),
            )
        })
        .collect();
    for (severity, parameter) in [
        ("note", "biff"),
        ("warning", "debug_peer_list"),
        ("warning", "other/unix"),
    ] {
        assert!(
            told.contains(&(severity.into(), parameter.into())),
            "{parameter}: {found:#}"
        );
    }
}

#[test]
fn json_has_the_shape_that_the_manual_shows() {
    let setup = Setup::clean();
    setup.sql("DROP INDEX aliases");
    let (output, status) = check(setup.dir.path(), &["--json"]);
    assert_eq!(status, Some(0));
    snapshot(
        "json",
        &output.replace(setup.dir.str(), "/etc/postfix"),
        true,
    );
}

/// The kinds of findings are counted beyond the first 20; `--all` lists them.
#[test]
fn many_findings_of_a_kind_are_counted() {
    let setup = Setup::clean();
    for number in 0..25 {
        setup.sql(&format!("INSERT INTO virtual_aliases (source, destination) VALUES ('old{number}@example.org', 'gone{number}@example.org')"));
    }
    let (text, _) = setup.shown();
    assert!(text.contains("about 5 more like the 20 above"), "{text}");
    let (all, _) = check(setup.dir.path(), &["--all"]);
    assert!(
        all.contains("found 25 errors, 0 warnings, 0 notes"),
        "{all}"
    );
}

#[test]
fn a_query_of_another_shape_is_told_and_followed() {
    let setup = Setup::clean();
    setup.edit(
        "email2email.cf",
        "WHERE email='%s'",
        "WHERE email IN ('%s')",
    );
    setup.finds("rows-not-listed", "rows-not-listed", false, true);
    // The catch-all swallows nothing: the router knows, although the rows are not listed.
    setup.sql("INSERT INTO virtual_users (email, password) VALUES ('erin@example.net', '')");
    assert_eq!(codes(&report(setup.dir.path())), ["rows-not-listed"]);
}

#[test]
fn nothing_is_changed() {
    let setup = Setup::clean();
    setup.sql("DROP INDEX aliases; INSERT INTO virtual_aliases (source, destination) VALUES ('Old@example.org', 'gone@example.org')");
    let files = || -> Vec<(String, Vec<u8>, u64)> {
        let entries = fs::read_dir(setup.dir.path())
            .into_iter()
            .flatten()
            .flatten();
        let mut files: Vec<_> = entries
            .map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let modified = entry.metadata().and_then(|meta| meta.modified()).ok();
                let since =
                    modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
                let content = fs::read(entry.path()).unwrap_or_default();
                (name, content, since.map_or(0, |time| time.as_secs()))
            })
            .collect();
        files.sort();
        files
    };
    let before = files();
    assert_ne!(codes(&report(setup.dir.path())), Vec::<String>::new());
    assert!(before == files(), "a file was changed");
}

#[test]
fn arguments() {
    let setup = Setup::clean();
    for (arguments, status) in [(&["--help"][..], 0), (&["--nonsense"], 64), (&["x"], 64)] {
        assert_eq!(
            check(setup.dir.path(), arguments).1,
            Some(status),
            "{arguments:?}"
        );
    }
    let (text, status) = check(&setup.dir.join("none"), &[]);
    assert_eq!(status, Some(1));
    assert!(
        text.starts_with("error: configuration-unreadable"),
        "{text}"
    );
}

#[test]
fn every_setting_is_listed_by_what_becomes_of_it() {
    let setup = Setup::clean();
    let root = setup.dir.str();
    let main_cf = fs::read_to_string(setup.dir.join("main.cf")).unwrap();
    setup.dir.write(
        "main.cf",
        format!("{main_cf}debug_peer_list = 192.0.2.1\nmax_use = 7\n"),
    );
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_postroom"))
        .args(["check", "--settings", "-c", root])
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout)
        .unwrap()
        .replace(root, "DIR");
    let part = |from: &str, to: &str| {
        let (_, rest) = text
            .split_once(from)
            .unwrap_or_else(|| panic!("{from}\n{text}"));
        rest.split_once(to)
            .map_or(rest, |(part, _)| part)
            .to_owned()
    };
    let missing = part("not supported\n", "without effect");
    assert!(
        missing.contains("  debug_peer_list  DIR/main.cf:"),
        "{text}"
    );
    assert!(
        missing.contains("    nothing is logged in more detail"),
        "{text}"
    );
    let harmless = part("without effect here, and harmless\n", "honoured");
    assert!(harmless.contains("  max_use  DIR/main.cf:"), "{text}");
    let honoured = part("honoured\n", "\u{0}");
    for name in [
        "myhostname  DIR/main.cf:2",
        "smtp/inet (smtpd)  DIR/master.cf:1",
        "lmtp/unix (lmtp)",
    ] {
        assert!(honoured.contains(&format!("  {name}")), "{name}\n{text}");
    }
}
