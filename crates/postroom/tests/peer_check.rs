//! `postroom check` with MariaDB and PostgreSQL: a clean setup, and the same with one fault planted at a
//! time; each is found, and gone when its remedy is done. `check.rs` does it with SQLite.

mod findings;

use std::fs;
use std::time::Instant;

use findings::{check, codes, findings, mend, report, snapshot};
use testkit::tempdir::{own_ids, set_mode};
use testkit::{MariaDb, Postgres, TempDir, account, dead_port};

/// The well-known tutorial's tables: no index but on the numbers.
const TABLES: &str = "
CREATE TABLE virtual_domains (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(50) NOT NULL);
CREATE TABLE virtual_users (id INTEGER NOT NULL PRIMARY KEY, domain_id INTEGER NOT NULL, email VARCHAR(100) NOT NULL, password VARCHAR(150) NOT NULL);
CREATE TABLE virtual_aliases (id INTEGER NOT NULL PRIMARY KEY, domain_id INTEGER NOT NULL, source VARCHAR(100) NOT NULL, destination VARCHAR(100) NOT NULL);
INSERT INTO virtual_domains VALUES (1, 'example.org'), (2, 'example.net');
INSERT INTO virtual_users VALUES (1, 1, 'john@example.org', ''), (2, 1, 'jane@example.org', ''),
  (3, 2, 'carol@example.net', ''), (4, 2, 'dave@example.net', '');
INSERT INTO virtual_aliases VALUES (1, 1, 'postmaster@example.org', 'john@example.org'),
  (2, 1, 'team@example.org', 'john@example.org'), (3, 1, 'team@example.org', 'jane@example.org'),
  (4, 1, 'press@example.org', 'agency@elsewhere.example'), (5, 2, '@example.net', 'carol@example.net');
";

const INDEXES: &str = "
CREATE UNIQUE INDEX domain_name ON virtual_domains (name);
CREATE UNIQUE INDEX user_email ON virtual_users (email);
CREATE INDEX alias_source ON virtual_aliases (source);
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
    kind: &'static str,
    run: Box<dyn Fn(&str)>,
    hidden: Vec<(String, &'static str)>,
}

impl Setup {
    /// Nothing is wrong with it.
    fn mariadb(name: &str) -> Setup {
        let server = MariaDb::shared();
        server.create_db(name);
        let database = name.to_owned();
        let run = Box::new(move |sql: &str| drop(server.run_sql(&database, sql)));
        run(&format!("{TABLES}{INDEXES}"));
        for host in ["%", "localhost"] {
            run(&format!(
                "CREATE OR REPLACE USER '{name}'@'{host}' IDENTIFIED BY 'ouvert';
                 GRANT SELECT ON `{name}`.* TO '{name}'@'{host}';"
            ));
        }
        let hidden = vec![
            (server.host(), "127.0.0.1"),
            (
                server.socket.display().to_string(),
                "/run/mysqld/mysqld.sock",
            ),
            (name.to_owned(), "mailserver"),
        ];
        Setup::folder("mysql", name, &server.host(), run, hidden)
    }

    fn postgres(name: &str) -> Setup {
        let server = Postgres::shared();
        server.create_db(name);
        let database = name.to_owned();
        let run = Box::new(move |sql: &str| drop(server.run_sql(&database, sql)));
        run(&format!("{TABLES}{INDEXES}"));
        run(&format!(
            "DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN PASSWORD 'ouvert';
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name};"
        ));
        let hidden = vec![
            (server.host(), "127.0.0.1"),
            (name.to_owned(), "mailserver"),
        ];
        Setup::folder("pgsql", name, &server.host(), run, hidden)
    }

    fn folder(
        kind: &'static str,
        name: &str,
        host: &str,
        run: Box<dyn Fn(&str)>,
        hidden: Vec<(String, &'static str)>,
    ) -> Setup {
        let dir = TempDir::new();
        let root = dir.str().to_owned();
        let setup = Setup {
            dir,
            kind,
            run,
            hidden,
        };
        for (file, query) in QUERIES {
            setup.table_file(
                &format!("{file}.cf"),
                &format!("user = {name}\npassword = ouvert\nhosts = {host}\ndbname = {name}\nquery = {query}\n"),
            );
        }
        setup.dir.write(
            "main.cf",
            format!(
                "compatibility_level = 3.6\nmyhostname = mail.example.org\nmydestination = localhost\n\
                 local_recipient_maps =\nmynetworks = 127.0.0.0/8\n\
                 virtual_mailbox_domains = {kind}:{root}/domains.cf\nvirtual_mailbox_maps = {kind}:{root}/users.cf\n\
                 virtual_alias_maps = {kind}:{root}/aliases.cf, {kind}:{root}/email2email.cf\n\
                 virtual_transport = lmtp:unix:private/dovecot-lmtp\n\
                 smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n"
            ),
        );
        setup.dir.write(
            "master.cf",
            "smtp inet n - n - - smtpd\ncleanup unix n - n - 0 cleanup\nlmtp unix - - n - - lmtp\n",
        );
        setup
    }

    /// Mode 0640, root and group postfix, as it should be.
    fn table_file(&self, name: &str, text: &str) {
        let path = self.dir.write(name, text);
        own_ids(&path, 0, account("postfix").gid);
        set_mode(&path, 0o640);
    }

    fn sql(&self, statements: &str) {
        (self.run)(statements);
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        assert!(text.contains(from), "{file} has no {from}");
        let text = text.replace(from, to);
        match file {
            "main.cf" | "master.cf" => drop(self.dir.write(file, text)),
            _ => self.table_file(file, &text),
        }
    }

    fn shown(&self) -> String {
        let (mut text, _) = check(self.dir.path(), &[]);
        text = text.replace(self.dir.str(), "/etc/postfix");
        for (what, with) in &self.hidden {
            text = text.replace(what, with);
        }
        format!("$ postroom check\n{text}")
    }

    /// The only findings are of this code.
    fn finds(&self, code: &str) {
        let found = report(self.dir.path());
        let mut kinds = codes(&found);
        kinds.dedup();
        assert_eq!(kinds, [code], "{found:#}");
        for finding in findings(&found) {
            for part in ["text", "consequence", "remedy"] {
                assert_ne!(finding[part], "", "{code} has no {part}");
            }
        }
        assert!(
            !found.to_string().contains("ouvert"),
            "a password in {found:#}"
        );
    }

    /// And when its remedy is done, there are none.
    fn finds_and_mends(&self, code: &str) {
        self.finds(code);
        mend(&report(self.dir.path()), code, &|statement| {
            self.sql(statement)
        });
        self.is_clean(code);
    }

    fn is_clean(&self, after: &str) {
        let text = self.shown();
        assert!(
            text.ends_with("found nothing\n"),
            "{} {after}: {text}",
            self.kind
        );
    }

    fn without_email_to_email(&self) {
        let last = format!(", {}:{}/email2email.cf", self.kind, self.dir.str());
        self.edit("main.cf", &last, "");
        fs::remove_file(self.dir.join("email2email.cf")).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Issue 4, "Show" 7: ten configurations with one planted fault each.
#[test]
fn ten_faults_on_mariadb() {
    if !testkit::peers() {
        return;
    }
    let setup = Setup::mariadb("check_ten");
    setup.is_clean("as it was made");

    setup.sql("GRANT INSERT, UPDATE, DELETE ON check_ten.* TO 'check_ten'@'%'");
    setup.finds("database-user-may-write");
    snapshot("mariadb-database-user-may-write", &setup.shown(), true);
    setup.finds_and_mends("database-user-may-write");
    setup.sql("GRANT ALL ON check_ten.* TO 'check_ten'@'%'");
    setup.finds_and_mends("database-user-may-write");

    set_mode(&setup.dir.join("users.cf"), 0o644);
    setup.finds("password-readable");
    snapshot("mariadb-password-readable", &setup.shown(), true);
    setup.finds_and_mends("password-readable");

    let server = MariaDb::shared();
    setup.dir.write(
        "my.cnf",
        format!(
            "[client]\nsocket = {}\nport = {}\n",
            server.socket.display(),
            server.port
        ),
    );
    let option = format!("localhost\noption_file = {}/my.cnf", setup.dir.str());
    setup.edit("aliases.cf", &server.host(), &option);
    setup.is_clean("a socket, and no chroot");
    setup.edit("master.cf", "cleanup unix n - n", "cleanup unix n - y");
    setup.finds("socket-outside-chroot");
    snapshot("mariadb-socket-outside-chroot", &setup.shown(), true);
    let spec = format!("mysql:{}/aliases.cf", setup.dir.str());
    setup.edit("main.cf", &spec, &format!("proxy:{spec}"));
    setup.is_clean("proxymap, which is in no chroot");
    setup.edit("main.cf", &format!("proxy:{spec}"), &spec);
    setup.finds_and_mends("socket-outside-chroot");

    setup.sql("DROP INDEX domain_name ON virtual_domains; DROP INDEX user_email ON virtual_users; DROP INDEX alias_source ON virtual_aliases;");
    assert_eq!(
        codes(&report(setup.dir.path())).len(),
        3,
        "one a table, not one a file"
    );
    setup.finds_and_mends("no-index");

    setup.without_email_to_email();
    setup.finds_and_mends("mailbox-swallowed");
    let mode = std::os::unix::fs::MetadataExt::mode(
        &fs::metadata(setup.dir.join("email2email.cf")).unwrap_or_else(|error| panic!("{error}")),
    );
    assert_eq!(mode & 0o777, 0o640, "the new file holds the password");

    setup.sql("INSERT INTO virtual_aliases VALUES (6, 1, 'jane@example.org', 'john@example.org')");
    setup.finds("mailbox-hidden");
    setup.sql("INSERT INTO virtual_aliases VALUES (7, 1, 'jane@example.org', 'jane@example.org')");
    setup.is_clean("the mailbox keeps a copy");

    setup.sql("INSERT INTO virtual_aliases VALUES (8, 1, 'old@example.org', 'gone@example.org')");
    setup.finds_and_mends("alias-dangling");

    setup.sql("INSERT INTO virtual_aliases VALUES (9, 1, 'ping@example.org', 'pong@example.org'), (10, 1, 'pong@example.org', 'PING@example.org'), (11, 1, 'ping@example.org', 'jane@example.org')");
    setup.finds_and_mends("alias-loop");

    setup.edit(
        "main.cf",
        "mydestination = localhost",
        "mydestination = $myhostname, example.org, localhost",
    );
    setup.finds_and_mends("domain-in-two-classes");
    let main = fs::read_to_string(setup.dir.join("main.cf")).unwrap_or_default();
    assert!(
        main.contains("mydestination = $myhostname, localhost\n"),
        "{main}"
    );

    setup.edit("domains.cf", "name='%s'", "name=%s");
    setup.finds_and_mends("unquoted-key");
}

#[test]
fn what_mariadb_refuses() {
    if !testkit::peers() {
        return;
    }
    let setup = Setup::mariadb("check_refuses");
    let server = MariaDb::shared();
    let dead = format!("127.0.0.1:{}", dead_port());
    for (from, to, expected) in [
        ("password = ouvert", "password = ferme", "database-login"),
        (
            "dbname = check_refuses",
            "dbname = nowhere",
            "database-unknown",
        ),
        (
            server.host().as_str(),
            dead.as_str(),
            "database-unreachable",
        ),
        ("virtual_users", "virtual_user", "missing-table"),
        ("email='%s'", "mail='%s'", "missing-column"),
        ("SELECT 1 FROM", "SELECT FROM", "query-rejected"),
        (
            "virtual_users WHERE email",
            "mysql.user WHERE user",
            "query-denied",
        ),
    ] {
        setup.edit("users.cf", from, to);
        setup.finds(expected);
        setup.edit("users.cf", to, from);
    }
    // A query that writes is not run: `check` changes nothing.
    setup.sql(
        "CREATE TABLE seen (k VARCHAR(100));
         DELIMITER //
         CREATE PROCEDURE look(wanted VARCHAR(100)) SQL SECURITY DEFINER
           BEGIN INSERT INTO seen VALUES (wanted); SELECT 1 FROM virtual_users WHERE email = wanted; END//
         DELIMITER ;",
    );
    setup.sql(
        "GRANT EXECUTE ON check_refuses.* TO 'check_refuses'@'%', 'check_refuses'@'localhost'",
    );
    let query = "SELECT 1 FROM virtual_users WHERE email='%s'";
    setup.edit("users.cf", query, "CALL look('%s')");
    assert!(codes(&report(setup.dir.path())).contains(&"query-writes".to_owned()));
    assert_eq!(
        server.run_sql("check_refuses", "SELECT COUNT(*) FROM seen"),
        "0\n"
    );
    setup.edit("users.cf", "CALL look('%s')", query);
    // One host of two: lookups go on.
    setup.edit(
        "users.cf",
        &server.host(),
        &format!("{}, {dead}", server.host()),
    );
    setup.finds("database-unreachable");
    assert_eq!(report(setup.dir.path())["errors"], 0);
}

#[test]
fn a_collation_that_is_blind_for_accents() {
    if !testkit::peers() {
        return;
    }
    let setup = Setup::mariadb("check_accents");
    setup.sql("INSERT INTO virtual_users VALUES (5, 1, 'jörg@example.org', '')");
    setup.finds("accent-blind");
    // It is one column, which two files ask: the second statement changes nothing more.
    setup.finds_and_mends("accent-blind");
    setup.sql("INSERT INTO virtual_users VALUES (6, 1, 'Upper@example.org', '')");
    setup.finds_and_mends("key-never-found");
}

/// A query with a join, split into user and domain, and a view.
#[test]
fn queries_of_other_tutorials() {
    if !testkit::peers() {
        return;
    }
    let setup = Setup::mariadb("check_joins");
    setup.sql(
        "CREATE TABLE domains (id INT PRIMARY KEY, name VARCHAR(50) NOT NULL, UNIQUE KEY (name));
         CREATE TABLE users (id INT PRIMARY KEY, domain_id INT NOT NULL, user VARCHAR(50) NOT NULL, active INT NOT NULL DEFAULT 1);
         INSERT INTO domains SELECT id, name FROM virtual_domains;
         INSERT INTO users (id, domain_id, user) SELECT id, domain_id, SUBSTRING_INDEX(email, '@', 1) FROM virtual_users;
         CREATE SQL SECURITY DEFINER VIEW view_aliases AS SELECT source, destination FROM virtual_aliases;",
    );
    setup.edit(
        "users.cf",
        "SELECT 1 FROM virtual_users WHERE email='%s'",
        "SELECT CONCAT(d.name, '/', u.user, '/') FROM users AS u JOIN domains d ON u.domain_id = d.id WHERE u.user = '%u' AND d.name = '%d' AND u.active = 1",
    );
    setup.finds_and_mends("no-index");
    setup.edit("aliases.cf", "virtual_aliases", "view_aliases");
    setup.sql("INSERT INTO virtual_aliases VALUES (9, 1, 'old@example.org', 'gone@example.org')");
    let found = report(setup.dir.path());
    assert!(
        codes(&found).contains(&"alias-dangling".to_owned()),
        "{found:#}"
    );
    setup.sql("UPDATE users SET active = 0 WHERE user = 'carol'");
    let found = report(setup.dir.path());
    let rows: Vec<&str> = findings(&found)
        .iter()
        .filter(|finding| finding["code"] == "alias-dangling")
        .filter_map(|finding| finding["place"]["row"].as_str())
        .collect();
    assert!(rows.contains(&"@example.net"), "{found:#}");
}

#[test]
fn faults_on_postgresql() {
    if !testkit::peers() {
        return;
    }
    let setup = Setup::postgres("check_pg");
    setup.is_clean("as it was made");

    set_mode(&setup.dir.join("users.cf"), 0o644);
    setup.finds_and_mends("password-readable");

    setup.sql("DROP INDEX domain_name; DROP INDEX user_email; DROP INDEX alias_source;");
    setup.finds_and_mends("no-index");

    setup.sql("GRANT INSERT, DELETE ON virtual_users TO check_pg");
    setup.finds_and_mends("database-user-may-write");

    setup.sql("ALTER ROLE check_pg SUPERUSER");
    setup.finds_and_mends("database-user-may-write");

    setup.without_email_to_email();
    setup.finds_and_mends("mailbox-swallowed");

    setup.sql("INSERT INTO virtual_users VALUES (6, 1, 'Upper@example.org', '')");
    setup.finds_and_mends("key-never-found");

    setup.sql("INSERT INTO virtual_aliases VALUES (8, 1, 'old@example.org', 'gone@example.org')");
    setup.finds_and_mends("alias-dangling");

    setup.edit("domains.cf", "name='%s'", "name=%s");
    setup.finds_and_mends("unquoted-key");

    setup.sql("REVOKE SELECT ON virtual_domains FROM check_pg");
    setup.finds_and_mends("query-denied");

    setup.sql(
        "CREATE TABLE seen (k TEXT);
         CREATE FUNCTION look(k text) RETURNS int LANGUAGE sql SECURITY DEFINER
           AS 'INSERT INTO seen VALUES (k) RETURNING 1';",
    );
    let query = "SELECT 1 FROM virtual_users WHERE email='%s'";
    setup.edit("users.cf", query, "SELECT look('%s')");
    setup.finds("query-writes");
    let seen = Postgres::shared().run_sql("check_pg", "SELECT count(*) FROM seen");
    assert_eq!(seen, "0\n", "`check` changes nothing");
    setup.edit("users.cf", "SELECT look('%s')", query);

    let dead = format!("127.0.0.1:{}", dead_port());
    for (from, to, expected) in [
        ("password = ouvert", "password = ferme", "database-login"),
        ("dbname = check_pg", "dbname = nowhere", "database-unknown"),
        (
            Postgres::shared().host().as_str(),
            dead.as_str(),
            "database-unreachable",
        ),
        ("virtual_users", "virtual_user", "missing-table"),
        ("email='%s'", "mail='%s'", "missing-column"),
        ("email='%s'", "email=\"%s\"", "key-as-column"),
    ] {
        setup.edit("users.cf", from, to);
        setup.finds(expected);
        setup.edit("users.cf", to, from);
    }
}

/// Quick on 100,000 users: it ends, and prints how long it took.
#[test]
fn a_hundred_thousand_users() {
    if !testkit::peers() {
        return;
    }
    let setup = Setup::mariadb("check_large");
    setup.sql(
        "INSERT INTO virtual_domains SELECT seq + 100, CONCAT('d', seq, '.example') FROM seq_0_to_999;
         INSERT INTO virtual_users SELECT seq + 100, 1, CONCAT('user', seq, '@d', seq % 1000, '.example'), '' FROM seq_1_to_100000;
         INSERT INTO virtual_aliases SELECT seq + 100, 1, CONCAT('postmaster@d', seq, '.example'), 'john@example.org' FROM seq_0_to_999;
         INSERT INTO virtual_aliases SELECT seq + 10000, 1, CONCAT('alias', seq, '@d', seq % 1000, '.example'), CONCAT('user', seq, '@d', seq % 1000, '.example') FROM seq_1_to_20000;
         INSERT INTO virtual_aliases SELECT seq + 50000, 1, CONCAT('@d', seq, '.example'), CONCAT('user', seq + 1000, '@d', seq, '.example') FROM seq_0_to_99;",
    );
    let start = Instant::now();
    setup.is_clean("100,000 users");
    println!(
        "100,000 users, 21,105 aliases, nothing found: {:.1?}",
        start.elapsed()
    );
    setup.sql("DELETE FROM virtual_users WHERE id > 100 AND id % 100 = 7");
    let start = Instant::now();
    let text = setup.shown();
    println!("with 200 dangling aliases: {:.1?}", start.elapsed());
    assert!(text.contains("more like the 20 above"), "{text}");
    setup.without_email_to_email();
    let start = Instant::now();
    let (text, _) = check(setup.dir.path(), &["--all"]);
    println!(
        "with 100 catch-alls that swallow, --all: {:.1?}",
        start.elapsed()
    );
    // Those of d7.example have lost all their mailboxes; example.net has one.
    assert_eq!(text.matches(" takes the mail of mailboxes: ").count(), 100);
}
