//! Sessions with the databases; what they say to the configured queries; users that may write.

use tables::{Dialect, Session};

use crate::files;
use crate::finding::{Finding, Report, Severity};
use crate::select;
use crate::sources::Known;

/// A key that has every part which a template may ask for, and that no table has.
pub(crate) const SAMPLE: &str = "postmaster@a.b.c.d.e.f.example.invalid";

/// One session for each database that the tables name.
pub(crate) struct Databases {
    /// The table whose parameters led there, and the session where there is one.
    sessions: Vec<(usize, usize, Option<Session>)>,
    /// For each table the index into `sessions`.
    of: Vec<usize>,
}

impl Databases {
    /// Connects to every host of every table.
    pub async fn connect(known: &[Known], report: &mut Report) -> Databases {
        let mut all = Databases {
            sessions: Vec::new(),
            of: Vec::new(),
        };
        for (index, table) in known.iter().enumerate() {
            let same = all
                .sessions
                .iter()
                .position(|(first, ..)| known[*first].source.shares_database_with(&table.source));
            let at = match same {
                Some(at) => at,
                None => {
                    let (host, session) = reach(table, report).await;
                    all.sessions.push((index, host, session));
                    all.sessions.len() - 1
                }
            };
            all.of.push(at);
        }
        all
    }

    /// The session for a table; `None` where its database cannot be reached.
    pub fn session(&mut self, table: usize) -> Option<&mut Session> {
        let at = *self.of.get(table)?;
        self.sessions.get_mut(at)?.2.as_mut()
    }

    /// Users that may do more than read.
    pub async fn check_rights(&mut self, known: &[Known], report: &mut Report) {
        for (first, host, session) in &mut self.sessions {
            let Some(session) = session else {
                continue;
            };
            let table = &known[*first];
            match table.source.dialect() {
                Dialect::MySql => mysql_rights(table, *host, session, report).await,
                Dialect::PgSql => pgsql_rights(table, session, report).await,
                Dialect::Sqlite => {}
            }
        }
    }
}

/// Tries all hosts; the first that answers serves.
async fn reach(table: &Known, report: &mut Report) -> (usize, Option<Session>) {
    let hosts = table.source.hosts();
    let mut reached = None;
    let mut failed = Vec::new();
    for host in 0..hosts.len() {
        match table.source.connect(host).await {
            Ok(session) => {
                reached.get_or_insert((host, session));
            }
            Err(problem) => failed.push((host, problem)),
        }
    }
    for (host, problem) in failed {
        let others = reached.is_some();
        report.add(unreachable(table, host, &problem, others));
    }
    match reached {
        Some((host, session)) => (host, Some(session)),
        None => (0, None),
    }
}

fn unreachable(table: &Known, host: usize, problem: &str, others: bool) -> Finding {
    let name = table
        .source
        .hosts()
        .get(host)
        .copied()
        .unwrap_or_default()
        .to_owned();
    let (user, database) = table.source.user_and_database(host);
    let has = |words: &[&str]| words.iter().any(|word| problem.contains(word));
    let (code, parameter, remedy) = if table.source.file().is_some() {
        (
            "database-unreachable",
            "dbpath",
            "correct dbpath, or let group postfix read the file and enter its folder".to_owned(),
        )
    } else if has(&["to database", "Unknown database", "database \""]) {
        (
            "database-unknown",
            "dbname",
            format!("correct dbname, or create the database {database} and let {user} read it"),
        )
    } else if has(&["Access denied", "password", "authentication", "role \""]) {
        (
            "database-login",
            "password",
            format!(
                "correct user and password: the database must know {user} from this machine with that password"
            ),
        )
    } else {
        (
            "database-unreachable",
            "hosts",
            "start the database server, or correct hosts; `host:port` names another port"
                .to_owned(),
        )
    };
    let (severity, consequence) = match others {
        false => (
            Severity::Error,
            "every lookup fails: mail that needs it is answered 451 or waits in the queue",
        ),
        true => (
            Severity::Warning,
            "lookups go to the other hosts; when those fail too, mail is answered 451",
        ),
    };
    let at = match name.as_str() {
        "" => String::new(),
        name => format!(" at {name}"),
    };
    Finding::new(
        severity,
        code,
        table.place(parameter),
        format!(
            "no session with the database{at}: {}",
            problem.replace('\n', " ")
        ),
    )
    .so(consequence)
    .remedy(remedy)
}

/// Whether the key stands in quotes that make it a text.
pub(crate) fn check_quotes(table: &Known, report: &mut Report) -> bool {
    let quoting = select::quoting(table.source.query(), table.is_mysql());
    if quoting.bare {
        report.add(unquoted(table));
    } else if quoting.as_name {
        report.add(
            Finding::new(
                Severity::Error,
                "key-as-column",
                table.query_place(),
                "the key stands in double quotes, which make it the name of a column".to_owned(),
            )
            .so("lookups are rejected, or compare the column with itself")
            .remedy("write '%s' with single quotes"),
        );
    }
    !quoting.bare && !quoting.as_name
}

/// Runs the table's query once. Whether the database accepts it.
pub(crate) async fn try_query(table: &Known, session: &mut Session, report: &mut Report) -> bool {
    match session.ask(table.source.query(), SAMPLE, 1).await {
        Ok(_) => true,
        Err(problem) => {
            report.add(rejected(table, &problem));
            false
        }
    }
}

fn unquoted(table: &Known) -> Finding {
    let place = table.query_place();
    let finding = Finding::new(
        Severity::Error,
        "unquoted-key",
        place.clone(),
        "the key (%s, %u or %d) stands in the query without quotes".to_owned(),
    )
    .so("the database rejects most addresses, and mail for them is answered 451; whoever sends mail can write into the statement")
    .remedy("put single quotes around it: '%s'");
    let file = table.file.as_ref().map(|file| file.path());
    match (file, place.line) {
        // Not where the statement goes on in other lines.
        (Some(file), Some(line)) if files::line_has(file, line, table.source.query()) => finding
            .shell(format!(
                "sed -i -E \"{line}s/(^|[^'])%([sud])([^']|$)/\\1'%\\2'\\3/g\" {}",
                files::quoted(file)
            )),
        _ => finding,
    }
}

fn rejected(table: &Known, problem: &str) -> Finding {
    let has = |words: &[&str]| words.iter().any(|word| problem.contains(word));
    let (user, _) = table.source.user_and_database(0);
    if has(&["READ ONLY transaction", "read-only transaction"]) {
        return writes(table);
    }
    let denied = has(&["command denied", "permission denied"]);
    let (code, remedy) = if denied {
        (
            "query-denied",
            format!("let {user} read what the query names"),
        )
    } else if has(&["Unknown column", "no such column"])
        || problem.contains("column") && problem.contains("does not exist")
    {
        (
            "missing-column",
            "correct the name of the column in the query, or add the column".to_owned(),
        )
    } else if has(&["doesn't exist", "no such table", "does not exist"]) {
        (
            "missing-table",
            "correct the name of the table in the query, or create the table".to_owned(),
        )
    } else {
        (
            "query-rejected",
            "correct the query; `postmap -q` with an address tries it".to_owned(),
        )
    };
    let finding = Finding::new(
        Severity::Error,
        code,
        table.query_place(),
        format!("the database rejects the query: {}", problem.replace('\n', " ")),
    )
    .so("every lookup in this table fails: mail that needs it is answered 451 or waits in the queue")
    .remedy(remedy);
    match (&table.select, denied, table.source.dialect()) {
        (Ok(select), true, Dialect::PgSql) => {
            select.tables.iter().fold(finding, |finding, (name, _)| {
                finding.sql(format!("GRANT SELECT ON {name} TO {user};"))
            })
        }
        _ => finding,
    }
}

/// A query that changes the database: no lookup may be made then.
pub const QUERY_WRITES: &str = "query-writes";

/// The session is read-only, lookups are not: the query itself may be good.
fn writes(table: &Known) -> Finding {
    Finding::new(
        Severity::Warning,
        QUERY_WRITES,
        table.query_place(),
        "the query changes the database, so `check` made no lookups".to_owned(),
    )
    .so("one message makes the same lookup several times, and so do `postmap -q` and `explain`; domains, mailboxes and aliases were not looked through")
    .remedy("let lookups read only")
}

/// Privileges that change data, tables or rights.
const WRITING: &[&str] = &[
    "ALL PRIVILEGES",
    "ALL",
    "INSERT",
    "UPDATE",
    "DELETE",
    "DELETE HISTORY",
    "CREATE",
    "DROP",
    "ALTER",
    "INDEX",
    "TRIGGER",
    "EVENT",
    "CREATE VIEW",
    "CREATE ROUTINE",
    "ALTER ROUTINE",
    "CREATE USER",
    "SUPER",
    "FILE",
];

/// What a line of SHOW GRANTS lets the user write, on what, and who it is.
fn writing_grant(line: &str, database: &str) -> Option<(Vec<String>, String, String)> {
    let (privileges, rest) = line.strip_prefix("GRANT ")?.split_once(" ON ")?;
    let (scope, rest) = rest.split_once(" TO ")?;
    let end = [" IDENTIFIED", " REQUIRE", " WITH "]
        .iter()
        .filter_map(|word| rest.find(word))
        .min();
    let grantee = rest[..end.unwrap_or(rest.len())].to_owned();
    let granted_in = scope.split_once('.').map_or(scope, |(first, _)| first);
    let pattern = select::unquoted(granted_in).replace("\\_", "_");
    let here = pattern == "*" || pattern == database || pattern.contains('%');
    let mut writing: Vec<String> = Vec::new();
    let mut depth = 0;
    let parts = privileges.split(|c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    });
    for privilege in parts {
        let name = privilege.split('(').next().unwrap_or_default().trim();
        if WRITING.contains(&name) {
            writing.push(privilege.trim().to_owned());
        }
    }
    (here && !writing.is_empty()).then(|| (writing, scope.to_owned(), grantee))
}

async fn mysql_rights(table: &Known, host: usize, session: &mut Session, report: &mut Report) {
    let (user, database) = table.source.user_and_database(host);
    let Ok(rows) = session.run("SHOW GRANTS", 1).await else {
        return;
    };
    for line in rows.into_iter().flatten().flatten() {
        let Some((privileges, scope, grantee)) = writing_grant(&line, database) else {
            continue;
        };
        let all = privileges.iter().any(|name| name.starts_with("ALL"));
        let list = privileges.join(", ");
        let mut finding = may_write(table, user, &format!("{list} on {scope}"))
            .sql(format!("REVOKE {list} ON {scope} FROM {grantee};"));
        if all {
            let read = match scope.as_str() {
                "*.*" => format!("`{database}`.*"),
                _ => scope,
            };
            finding = finding.sql(format!("GRANT SELECT ON {read} TO {grantee};"));
        }
        report.add(finding);
    }
}

async fn pgsql_rights(table: &Known, session: &mut Session, report: &mut Report) {
    const SUPERUSER: &str = "SELECT quote_ident(current_user::text) FROM pg_roles WHERE rolname = current_user AND rolsuper";
    const WRITABLE: &str = "\
        SELECT quote_ident(current_user::text), quote_ident(n.nspname) || '.' || quote_ident(c.relname), \
          (pg_get_userbyid(c.relowner) = current_user)::text, \
          concat_ws(', ', CASE WHEN has_table_privilege(c.oid, 'INSERT') THEN 'INSERT' END, \
            CASE WHEN has_table_privilege(c.oid, 'UPDATE') THEN 'UPDATE' END, \
            CASE WHEN has_table_privilege(c.oid, 'DELETE') THEN 'DELETE' END, \
            CASE WHEN has_table_privilege(c.oid, 'TRUNCATE') THEN 'TRUNCATE' END) \
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'p', 'v') AND n.nspname <> 'information_schema' \
          AND n.nspname NOT LIKE 'pg!_%' ESCAPE '!' AND has_schema_privilege(n.oid, 'USAGE') \
          AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') ORDER BY 2";
    if let Ok(rows) = session.run(SUPERUSER, 1).await
        && let Some([Some(user), ..]) = rows.first().map(Vec::as_slice)
    {
        let finding = may_write(table, user, "everything: it is a superuser")
            .sql(format!("ALTER ROLE {user} NOSUPERUSER;"));
        return report.add(finding);
    }
    let rows = session.run(WRITABLE, 4).await.unwrap_or_default();
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| row.into_iter().map(Option::unwrap_or_default).collect())
        .collect();
    let Some(user) = rows.first().and_then(|row| row.first()) else {
        return;
    };
    let names: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.get(1))
        .map(|name| &**name)
        .collect();
    let mut finding = may_write(table, user, &names.join(", "));
    for row in &rows {
        let [user, name, owns, privileges] = row.as_slice() else {
            continue;
        };
        finding = match owns.as_str() {
            "true" => finding
                .sql(format!("ALTER TABLE {name} OWNER TO postgres;"))
                .sql(format!("GRANT SELECT ON {name} TO {user};")),
            _ => finding.sql(format!("REVOKE {privileges} ON {name} FROM {user};")),
        };
    }
    report.add(finding);
}

fn may_write(table: &Known, user: &str, what: &str) -> Finding {
    Finding::new(
        Severity::Warning,
        "database-user-may-write",
        table.place("user"),
        format!("the database user {user} of {} may write: {what}", table.shown()),
    )
    .so("lookups only read; whoever gets hold of this password, or of a mistake in a query, can change mailboxes, aliases and passwords")
    .remedy("take the rights away, and let the program that administers the accounts be another user")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants() {
        for (line, expected) in [
            (
                "GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*X'",
                None,
            ),
            ("GRANT SELECT, EXECUTE ON `mail`.* TO `u`@`%`", None),
            ("GRANT INSERT ON `other`.* TO `u`@`%`", None),
            (
                "GRANT SELECT, INSERT, UPDATE (a, b) ON `mail\\_db`.`t` TO `u`@`%` WITH GRANT OPTION",
                Some("INSERT, UPDATE (a, b)|`mail\\_db`.`t`|`u`@`%`"),
            ),
            (
                "GRANT ALL PRIVILEGES ON *.* TO `u`@`localhost` IDENTIFIED VIA unix_socket",
                Some("ALL PRIVILEGES|*.*|`u`@`localhost`"),
            ),
            ("GRANT `role` TO `u`@`%`", None),
        ] {
            let database = if line.contains("mail\\_db") {
                "mail_db"
            } else {
                "mail"
            };
            let found = writing_grant(line, database)
                .map(|(list, scope, who)| format!("{}|{scope}|{who}", list.join(", ")));
            assert_eq!(found.as_deref(), expected, "{line}");
        }
    }
}
