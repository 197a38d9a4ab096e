//! A real Postfix whose tables are behind `postroom tables serve` does what it does with `mysql:`; and the table server
//! with many clients, and with a database that comes and goes.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::*;
use testkit::table_server::crowd;
use testkit::{
    IspMail, MailServer, MariaDb, MariaDbOptions, Postfix, Site, Socketmap, TableServer, free_port,
    wait_for,
};

/// The sample, where dave is protected from the catch-all by the email-to-email table.
fn mail() -> IspMail {
    let mut mail = IspMail::sample();
    mail.users
        .push(("dave@catch.example".into(), "secret".into()));
    mail
}

fn site(database: &MariaDb, main_cf: &str) -> Site {
    database.create_db("mail");
    database.create_user("reader", "secret", "mail");
    database.run_sql("mail", &mail().sql());
    let mut files = IspMail::table_files(&database.host(), "reader", "secret", "mail");
    // Maildirs, for the agent of Postfix that asks the table of mailboxes again.
    files[1].1 = files[1].1.replace(
        "SELECT 1",
        "SELECT CONCAT(SUBSTRING_INDEX(email,'@',-1),'/',SUBSTRING_INDEX(email,'@',1),'/')",
    );
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let tables = IspMail::main_cf("mysql", "@CONF@");
    Site::new(
        &format!("{tables}virtual_transport = virtual\ndefault_transport = discard:\n{main_cf}"),
        "",
        &files,
    )
}

/// Recipients and how many messages each is worth, by mailbox.
const MATRIX: &[&str] = &[
    "john@example.org",
    "JANE@Example.ORG",
    "john+lists@example.org",
    "jack@example.org",
    "team@example.org",
    "team+ext@example.org",
    "anything@catch.example",
    "any+ext@catch.example",
    "carol@catch.example",
    "dave@catch.example",
    "dave+ext@catch.example",
    "nobody@example.org",
    "\"quoted local\"@example.org",
    "somebody@elsewhere.example",
];

const MAILBOXES: &[&str] = &[
    "example.org/john",
    "example.org/jane",
    "example.org/jim",
    "catch.example/carol",
    "catch.example/dave",
];

/// What became of a message to each of [`MATRIX`].
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    replies: Vec<(String, String)>,
    /// Mailbox, subject, `Delivered-To:` and `X-Original-To:` of each message.
    delivered: BTreeMap<String, Vec<String>>,
}

/// Sends a message to each recipient and waits until all are delivered.
fn send_all(postfix: &MailServer) -> Seen {
    let mut replies = Vec::new();
    for (index, recipient) in MATRIX.iter().enumerate() {
        let mut smtp = postfix.smtp();
        // The client's network may relay: elsewhere would be queued for delivery.
        let (rcpt, _) = smtp.message(SENDER, &[recipient], &message(&format!("m{index}")));
        replies.push((
            recipient.to_string(),
            format!("{} {}", rcpt[0].code, rcpt[0].text),
        ));
    }
    wait_empty_queue(postfix);
    let mut delivered = BTreeMap::new();
    for mailbox in MAILBOXES {
        let line = |text: &String| {
            let wanted = ["Subject:", "Delivered-To:", "X-Original-To:"];
            let lines = text.lines().take_while(|line| !line.is_empty());
            let lines = lines.filter(|line| wanted.iter().any(|name| line.starts_with(name)));
            lines.collect::<Vec<_>>().join(" ")
        };
        let mut messages: Vec<String> = postfix.site.maildir(mailbox).iter().map(line).collect();
        messages.sort();
        delivered.insert(mailbox.to_string(), messages);
        std::fs::remove_dir_all(postfix.site.mail().join(mailbox)).expect("each has got mail");
    }
    Seen { replies, delivered }
}

fn wait_empty_queue(postfix: &MailServer) {
    let end = Instant::now() + PATIENCE;
    loop {
        let queue = postfix.run_tool("postqueue", &["-p"]);
        if queue.contains("Mail queue is empty") {
            return;
        }
        assert!(Instant::now() < end, "{queue}\n{}", postfix.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What `--print-postconf` prints, with Postfix' own postconf in the place of the one in the path.
fn print_postconf(site: &Site, arguments: &[&str]) -> String {
    let conf = site.conf().display().to_string();
    let output = postroom(
        &[
            &["tables", "serve", "-c", &conf, "--print-postconf"],
            arguments,
        ]
        .concat(),
    );
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

fn shell(script: &str) {
    let output = Command::new("sh")
        .args(["-e", "-c", script])
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{output:?}");
}

/// The lines behind "# to go back", without their `# `.
fn way_back(script: &str) -> String {
    let (_, back) = script.split_once("# to go back:\n").expect("a way back");
    back.replace("# ", "")
}

fn rcpt(postfix: &MailServer, recipient: &str) -> (u16, String) {
    let mut smtp = postfix.smtp();
    smtp.command(&format!("MAIL FROM:<{SENDER}>"), 250);
    let reply = smtp.ask(&format!("RCPT TO:<{recipient}>"));
    (reply.code, reply.text)
}

#[test]
fn postfix_delivers_through_socketmap_as_with_mysql() {
    if !testkit::peers() {
        return;
    }
    let mut database = MariaDb::start();
    let site = site(&database, "");
    let files = |site: &Site| {
        let read = |name| std::fs::read_to_string(site.conf().join(name)).expect("a file of ours");
        (read("main.cf"), read("master.cf"))
    };
    let before = files(&site);
    let script = print_postconf(&site, &[]);
    let mut postfix = Postfix::on(site);
    let with_mysql = send_all(&postfix);

    let mut tables = TableServer::start(Path::new(BINARY), &postfix.site, &[]);
    shell(&script);
    let (plugged, _) = files(&postfix.site);
    assert!(
        plugged.contains(
            "\nvirtual_alias_maps = socketmap:unix:private/postroom:virtual_alias_maps\n"
        )
    );
    assert!(
        !plugged.contains("\nvirtual_mailbox_domains = mysql:"),
        "{plugged}"
    );
    postfix.stop();
    postfix.start_again();
    let with_socketmap = send_all(&postfix);
    assert_eq!(with_socketmap, with_mysql);
    let team = with_mysql
        .replies
        .iter()
        .find(|(rcpt, _)| rcpt == "team@example.org");
    assert_eq!(team.expect("in the matrix").1, "250 2.1.5 Ok");
    let nobody = with_mysql
        .replies
        .iter()
        .find(|(rcpt, _)| rcpt == "nobody@example.org");
    assert!(nobody.expect("in the matrix").1.starts_with("550 5.1.1 "));
    assert!(
        with_mysql.delivered["catch.example/dave"].len() >= 2,
        "{with_mysql:?}"
    );

    database.stop();
    let (code, reply) = rcpt(&postfix, "john@example.org");
    assert_eq!(code, 451, "{reply}");
    wait_for("the reason in the log", PATIENCE, || {
        tables.log().contains("postfix/tables[").then_some(())
    });
    database.start_again();
    wait_for("the database's return", PATIENCE, || {
        (rcpt(&postfix, "john@example.org").0 == 250).then_some(())
    });
    assert_eq!(rcpt(&postfix, "nobody@example.org").0, 550);

    let again = print_postconf(&postfix.site, &[]);
    assert!(again.contains("# nothing to plug in\n"), "{again}");
    shell(&way_back(&again));
    let (main_cf, master_cf) = files(&postfix.site);
    assert_eq!(main_cf, before.0);
    // postconf reformats the entry that it touches.
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(&master_cf), words(&before.1));
    assert!(tables.stop());
}

#[test]
fn postfix_asks_by_tcp_table_and_by_inet() {
    if !testkit::peers() {
        return;
    }
    let database = MariaDb::start();
    let (socketmap, tcp) = (free_port(), free_port());
    let listen = format!(
        "inet:127.0.0.1:{socketmap}, tcp:127.0.0.1:{tcp}:virtual_alias_maps, unix:@DIR@/spool/private/postroom"
    );
    let site = site(
        &database,
        &format!("postroom_tables_listen = {listen}\npostroom_tables_idle_timeout = 4s\n"),
    );
    let script = print_postconf(&site, &[]);
    assert!(
        script.contains(&format!(
            "socketmap:inet:127.0.0.1:{socketmap}:virtual_mailbox_maps'"
        )),
        "{script}"
    );
    shell(&script);
    let conf = site.conf().display().to_string();
    let setting = format!("virtual_alias_maps = tcp:127.0.0.1:{tcp}");
    shell(&format!("postconf -c {conf} -e '{setting}'"));
    let _tables = TableServer::start(Path::new(BINARY), &site, &[]);
    let postfix = Postfix::on(site);
    assert_eq!(rcpt(&postfix, "nobody@example.org").0, 550);
    // The server has hung up on the idle clients; they come back.
    std::thread::sleep(Duration::from_millis(4500));
    let seen = send_all(&postfix);
    assert!(
        seen.replies[..11]
            .iter()
            .all(|(_, reply)| reply == "250 2.1.5 Ok"),
        "{seen:?}"
    );
    let count = |mailbox: &str| seen.delivered[mailbox].len();
    assert_eq!(
        (count("example.org/john"), count("example.org/jim")),
        (5, 2),
        "{seen:?}"
    );
    assert_eq!(
        (count("catch.example/carol"), count("catch.example/dave")),
        (3, 2),
        "{seen:?}"
    );
}

#[test]
fn a_thousand_clients_share_ten_connections() {
    if !testkit::peers() {
        return;
    }
    let database = MariaDb::with(MariaDbOptions {
        max_connections: 50,
        ..Default::default()
    });
    let port = free_port();
    let site = site(&database, "");
    let listen = format!("unix:private/postroom inet:127.0.0.1:{port}");
    let mut tables = TableServer::start(Path::new(BINARY), &site, &["--listen", &listen]);
    let socket = site.spool().join("private/postroom");
    let connect = |n: usize| match n % 2 {
        0 => Socketmap::tcp(port),
        _ => Socketmap::unix(&socket),
    };
    let wrong = crowd(1000, 3, connect, question);
    assert_eq!(wrong, Vec::<String>::new());
    let most = database.run_sql("", "SHOW STATUS LIKE 'Max_used_connections'");
    let most: u32 = most
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    // Ten of the server's, and the one that asks this or has made the tables.
    assert!((2..=12).contains(&most), "{most} connections");
    assert!(tables.stop(), "{}", tables.log());
    assert!(!socket.exists(), "the socket goes with its server");
}

/// Lookups of all four tables, found and not found.
fn question(n: usize) -> (String, String, String) {
    let (name, key, reply) = match n % 7 {
        0 => (
            "virtual_mailbox_domains",
            "example.org".to_owned(),
            "OK 1".to_owned(),
        ),
        1 => (
            "virtual_mailbox_domains",
            format!("d{n}.example"),
            "NOTFOUND ".to_owned(),
        ),
        2 => (
            "virtual_mailbox_maps",
            "john@example.org".to_owned(),
            "OK example.org/john/".to_owned(),
        ),
        3 => (
            "virtual_alias_maps",
            format!("u{n}@catch.example"),
            "OK carol@catch.example".to_owned(),
        ),
        4 => (
            "virtual_alias_maps",
            format!("u{n}@example.org"),
            "NOTFOUND ".to_owned(),
        ),
        5 => (
            "aliases.cf",
            "jack@example.org".to_owned(),
            "OK john@example.org".to_owned(),
        ),
        _ => (
            "email2email",
            format!("nobody{n}@example.org"),
            "NOTFOUND ".to_owned(),
        ),
    };
    (name.to_owned(), key, reply)
}

#[test]
fn a_frozen_database_is_a_timeout_and_a_dead_one_a_temporary_failure() {
    if !testkit::peers() {
        return;
    }
    let mut database = MariaDb::start();
    let site = site(
        &database,
        "postroom_tables_lookup_timeout = 1s\npostroom_tables_other = static:here\n",
    );
    let _tables = TableServer::start(Path::new(BINARY), &site, &[]);
    let mut client = Socketmap::unix(&site.spool().join("private/postroom"));
    assert_eq!(
        client.ask("users", "john@example.org"),
        "OK example.org/john/"
    );
    database.freeze();
    let socket = site.spool().join("private/postroom");
    let mut waiting: Vec<_> = (0..300).map(|_| Socketmap::unix(&socket)).collect();
    for waiting in &mut waiting {
        waiting.send("users", "john@example.org").expect("sent");
    }
    let other = client.ask("other", "x");
    assert_eq!(
        other, "OK here",
        "other tables do not wait for the frozen one"
    );
    assert_eq!(
        client.ask("users", "john@example.org"),
        "TIMEOUT no answer within 1 s"
    );
    database.thaw();
    // On a busy machine it takes its time to wake up.
    let awake = wait_for("an answer of the thawed database", PATIENCE, || {
        let reply = client.ask("users", "jane@example.org");
        (!reply.starts_with("TIMEOUT")).then_some(reply)
    });
    assert_eq!(awake, "OK example.org/jane/");
    database.kill();
    let reply = client.ask("virtual_mailbox_maps", "john@example.org");
    assert!(reply.starts_with("TEMP table mysql:"), "{reply}");
    assert!(!reply.contains("secret"));
    database.start_again();
    let back = wait_for("the database's return", PATIENCE, || {
        let reply = client.ask("users", "john@example.org");
        (!reply.starts_with("TEMP")).then_some(reply)
    });
    assert_eq!(back, "OK example.org/john/");
}
