//! Whatever the key, the statement that reaches the server has the same shape: generated keys, under all modes in
//! which the servers read literals differently. The server says itself what it has read, and its log how many
//! statements that were.

mod support;

use postroom_tables::{Open, Table, Tables};
use proptest::test_runner::{Config, TestRunner};
use support::tables;
use testkit::{MariaDb, Postgres, TempDir};

/// Much of what ends literals, begins comments or is escaped, and some of everything else.
const KEY: &str = r#"(?s)([a-z'"\\`]|[@;\-#/* \x00\n\r\x1aöß縗😀%$]|.){1,24}"#;

/// As typed: folded keys could not be told from changed ones.
fn open(tables: &Tables, dir: &TempDir, engine: &str, name: &str, text: &str) -> Table {
    let path = dir.write(name, text);
    let how = Open {
        fold: false,
        ..Open::default()
    };
    let spec = format!("{engine}:{}", path.display());
    tables.open_with(&spec, how).expect("a table")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs `batch` for lists of generated keys.
fn for_all_keys(mut batch: impl FnMut(&tokio::runtime::Runtime, &[String])) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut runner = TestRunner::new(Config {
        cases: 24,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let batch = std::cell::RefCell::new(&mut batch);
    let keys = proptest::collection::vec(KEY, 20);
    let outcome = runner.run(&keys, |keys| {
        (*batch.borrow_mut())(&runtime, &keys);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Between these two stands nothing but the key.
fn check_shape(statement: &[u8], key: &str, begin: &str, end: &str) {
    let shown = String::from_utf8_lossy(statement);
    assert!(statement.starts_with(begin.as_bytes()), "{shown}");
    // MariaDB's log writes a character of four bytes as \xF0\x90\x80\x80, and cuts what gets too long by it.
    let four_bytes = key.chars().filter(|c| c.len_utf8() == 4).count();
    if four_bytes <= 4 {
        assert!(statement.ends_with(end.as_bytes()), "{shown}");
    }
}

#[test]
fn mysql() {
    if !testkit::peers() {
        return;
    }
    let server = MariaDb::start();
    server.create_db("mail");
    server.create_user("reader", "pw", "mail");
    server.general_log(true);
    let dir = TempDir::new();
    let base = format!(
        "hosts = {}\nuser = reader\npassword = pw\ndbname = mail\n",
        server.host()
    );
    for mode in [
        "",
        "NO_BACKSLASH_ESCAPES",
        "ANSI_QUOTES",
        "ANSI_QUOTES,NO_BACKSLASH_ESCAPES",
    ] {
        server.run_sql("", &format!("SET GLOBAL sql_mode = '{mode}'"));
        // Its own connections, which have this mode.
        let tables = tables("");
        let ansi = mode.contains("ANSI");
        let name = |kind: &str| format!("{kind}-{}.cf", mode.to_lowercase().replace(',', "-"));
        let mut queries = vec![("SELECT HEX('", "'), 'end'")];
        match ansi {
            true => queries.push(("SELECT 'x' AS \"", "\", 'end'")),
            false => queries.push(("SELECT HEX(\"", "\"), 'end'")),
        }
        queries.push(("SELECT 'x' AS `", "`, 'end'"));
        for (number, (begin, end)) in queries.iter().enumerate() {
            let text = format!("{base}query = {begin}%s{end}\n");
            let table = open(&tables, &dir, "mysql", &name(&number.to_string()), &text);
            server.take_statements("reader");
            for_all_keys(|runtime, keys| {
                for key in keys {
                    let found = runtime.block_on(table.lookup(key));
                    if begin.contains("HEX") {
                        let expected = format!("{},end", hex(key.as_bytes()).to_uppercase());
                        let found = found.expect("no failure");
                        assert_eq!(found, Some(expected), "{key:?} under {mode:?}");
                    } else if let Ok(found) = found {
                        // A name may be refused (too long, a blank at its end), never anything else.
                        assert_eq!(found.as_deref(), Some("x,end"), "{key:?} under {mode:?}");
                    }
                }
                let mut statements = server.take_statement_bytes("reader");
                statements.retain(|statement| !statement.starts_with(b"SELECT @@sql_mode"));
                assert_eq!(statements.len(), keys.len(), "under {mode:?}: {keys:?}");
                for (statement, key) in statements.iter().zip(keys) {
                    check_shape(statement, key, begin, end);
                }
            });
        }
        // The parts of an address are quoted like the whole.
        let text = format!("{base}query = SELECT HEX('%u'), HEX('%d'), 'end'\n");
        let table = open(&tables, &dir, "mysql", &name("parts"), &text);
        for_all_keys(|runtime, keys| {
            for pair in keys.windows(2) {
                let (user, domain) = (&pair[0], pair[1].replace('@', ""));
                if user.is_empty() || domain.is_empty() {
                    continue;
                }
                let found = runtime.block_on(table.lookup(&format!("{user}@{domain}")));
                let (user, domain) = (hex(user.as_bytes()), hex(domain.as_bytes()));
                let expected = format!("{},{},end", user.to_uppercase(), domain.to_uppercase());
                assert_eq!(
                    found.expect("no failure"),
                    Some(expected),
                    "{pair:?} under {mode:?}"
                );
            }
        });
    }
}

#[test]
fn pgsql() {
    if !testkit::peers() {
        return;
    }
    let server = Postgres::start();
    server.create_db("mail");
    server.create_user("reader", "pw", "mail");
    server.log_statements(true);
    let dir = TempDir::new();
    let base = format!(
        "hosts = {}\nuser = reader\npassword = pw\ndbname = mail\n",
        server.host()
    );
    for standard in ["on", "off"] {
        server.run_sql(
            "mail",
            &format!("ALTER ROLE reader SET standard_conforming_strings = {standard}; ALTER ROLE reader SET escape_string_warning = off"),
        );
        let tables = tables("");
        for (number, (begin, end)) in [
            ("SELECT encode(convert_to('", "', 'UTF8'), 'hex'), 'end'"),
            ("SELECT encode(convert_to(E'", "', 'UTF8'), 'hex'), 'end'"),
            ("SELECT 'x' AS \"", "\", 'end'"),
        ]
        .iter()
        .enumerate()
        {
            let text = format!("{base}query = {begin}%s{end}\n");
            let table = open(
                &tables,
                &dir,
                "pgsql",
                &format!("{standard}{number}.cf"),
                &text,
            );
            let mut seen = server.log().len();
            for_all_keys(|runtime, keys| {
                // An empty name is refused before the log has it.
                let is_name =
                    |key: &&String| begin.contains("encode") || key.bytes().any(|byte| byte != 0);
                let keys: Vec<&String> = keys.iter().filter(is_name).collect();
                for key in &keys {
                    // PostgreSQL has no zero bytes in texts; libpq ends the statement there, we leave them out.
                    let plain: Vec<u8> = key.bytes().filter(|&byte| byte != 0).collect();
                    let found = runtime.block_on(table.lookup(key));
                    if begin.contains("encode") {
                        let expected = match plain.is_empty() {
                            true => "end".to_string(),
                            false => format!("{},end", hex(&plain)),
                        };
                        let found = found.expect("no failure");
                        assert_eq!(found, Some(expected), "{key:?} with {standard}");
                    } else if let Ok(found) = found {
                        assert_eq!(found.as_deref(), Some("x,end"), "{key:?} with {standard}");
                    }
                }
                let log = server.log();
                let statements = statements(&log[seen..]);
                seen = log.len();
                assert_eq!(statements.len(), keys.len(), "with {standard}: {keys:?}");
                for statement in &statements {
                    check_shape(statement.as_bytes(), "", begin, end);
                }
            });
        }
    }
}

/// What `log_statement` has written: further lines of a statement begin with a tab.
fn statements(log: &str) -> Vec<String> {
    let log = log.replace("\n\t", "\u{e000}");
    let lines = log
        .split('\n')
        .filter_map(|line| line.split_once("LOG:  statement: "));
    lines
        .map(|(_, statement)| statement.replace('\u{e000}', "\n"))
        .collect()
}
