//! The database of the well-known tutorial: `virtual_domains`, `virtual_users`, `virtual_aliases`, and the four
//! table files that lead to it.

/// Contents of the three tables. [`IspMail::sql`] loads unchanged on MariaDB, PostgreSQL and SQLite.
#[derive(Clone, Debug, Default)]
pub struct IspMail {
    pub domains: Vec<String>,
    /// Address and plain password.
    pub users: Vec<(String, String)>,
    /// Source and one destination; several rows with one source make a list.
    pub aliases: Vec<(String, String)>,
}

/// Names of the table files that [`IspMail::table_files`] makes.
pub const FILES: [&str; 4] = ["domains.cf", "users.cf", "aliases.cf", "email2email.cf"];

impl IspMail {
    /// example.org with users john, jane and jim (password `secret`), `team@` leading to all three, `jack@` to john;
    /// catch.example with user carol and a catch-all to her.
    pub fn sample() -> IspMail {
        let user = |name: &str| (name.to_owned(), "secret".to_owned());
        let alias = |source: &str, destination: &str| (source.to_owned(), destination.to_owned());
        IspMail {
            domains: vec!["example.org".into(), "catch.example".into()],
            users: [
                "john@example.org",
                "jane@example.org",
                "jim@example.org",
                "carol@catch.example",
            ]
            .map(user)
            .to_vec(),
            aliases: vec![
                alias("jack@example.org", "john@example.org"),
                alias("team@example.org", "john@example.org"),
                alias("team@example.org", "jane@example.org"),
                alias("team@example.org", "jim@example.org"),
                alias("@catch.example", "carol@catch.example"),
            ],
        }
    }

    /// Tables with the indexes that lookups need, and the rows.
    pub fn sql(&self) -> String {
        let mut sql = SCHEMA.to_owned();
        let rows = |rows: Vec<String>, table: &str| -> String {
            if rows.is_empty() {
                String::new()
            } else {
                format!("INSERT INTO {table} VALUES {};\n", rows.join(",\n"))
            }
        };
        let domains = self
            .domains
            .iter()
            .enumerate()
            .map(|(n, name)| format!("({},{})", n + 1, literal(name)));
        sql += &rows(domains.collect(), "virtual_domains");
        let pairs = |pairs: &[(String, String)]| -> Vec<String> {
            let rows = pairs.iter().enumerate();
            rows.map(|(n, (a, b))| format!("({},{},{})", n + 1, literal(a), literal(b)))
                .collect()
        };
        sql += &rows(pairs(&self.users), "virtual_users");
        sql += &rows(pairs(&self.aliases), "virtual_aliases");
        sql
    }

    /// The four table files (name, text) for a MariaDB or PostgreSQL server: `hosts` is one entry of that line.
    pub fn table_files(
        hosts: &str,
        user: &str,
        password: &str,
        dbname: &str,
    ) -> [(&'static str, String); 4] {
        let head =
            format!("hosts = {hosts}\nuser = {user}\npassword = {password}\ndbname = {dbname}\n");
        queries(&head)
    }

    /// The four table files for a SQLite file.
    pub fn sqlite_files(dbpath: &str) -> [(&'static str, String); 4] {
        queries(&format!("dbpath = {dbpath}\n"))
    }

    /// main.cf lines that use the four table files in `conf` with this table type, as the tutorial writes them.
    pub fn main_cf(kind: &str, conf: &str) -> String {
        format!(
            "virtual_mailbox_domains = {kind}:{conf}/domains.cf\nvirtual_mailbox_maps = {kind}:{conf}/users.cf\n\
             virtual_alias_maps = {kind}:{conf}/aliases.cf,{kind}:{conf}/email2email.cf\n"
        )
    }
}

fn queries(head: &str) -> [(&'static str, String); 4] {
    let file = |query: &str| format!("{head}query = {query}\n");
    [
        (
            FILES[0],
            file("SELECT 1 FROM virtual_domains WHERE name='%s'"),
        ),
        (
            FILES[1],
            file("SELECT 1 FROM virtual_users WHERE email='%s'"),
        ),
        (
            FILES[2],
            file("SELECT destination FROM virtual_aliases WHERE source='%s'"),
        ),
        (
            FILES[3],
            file("SELECT email FROM virtual_users WHERE email='%s'"),
        ),
    ]
}

/// A SQL string literal of text without backslashes.
fn literal(text: &str) -> String {
    assert!(
        !text.contains('\\'),
        "backslashes mean different things to the three engines: {text}"
    );
    format!("'{}'", text.replace('\'', "''"))
}

const SCHEMA: &str = "\
CREATE TABLE virtual_domains (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(80) NOT NULL);
CREATE TABLE virtual_users (id INTEGER NOT NULL PRIMARY KEY, email VARCHAR(120) NOT NULL, password VARCHAR(150) NOT NULL);
CREATE TABLE virtual_aliases (id INTEGER NOT NULL PRIMARY KEY, source VARCHAR(120) NOT NULL, destination VARCHAR(120) NOT NULL);
CREATE UNIQUE INDEX domain_name ON virtual_domains (name);
CREATE UNIQUE INDEX user_email ON virtual_users (email);
CREATE INDEX alias_source ON virtual_aliases (source);
";
