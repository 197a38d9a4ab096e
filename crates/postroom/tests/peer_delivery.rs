//! The way of a message through a real database into a real Dovecot, and the headers that a real Postfix writes.

mod support;

use std::path::Path;

use support::*;
use testkit::dovecot::SqlUsers;
use testkit::{
    Dovecot, DovecotOptions, IspMail, MailServer, MariaDb, Postfix, Postgres, Site, TempDir,
};

/// A database with the sample data, as main.cf and Dovecot name it.
struct Database {
    kind: &'static str,
    files: Vec<(&'static str, String)>,
    users: SqlUsers,
}

const QUERY: &str = "SELECT email AS user, password FROM virtual_users WHERE email = '%u'";

fn users(driver: &str, connect: String) -> SqlUsers {
    SqlUsers {
        driver: driver.to_owned(),
        connect,
        password_query: QUERY.to_owned(),
    }
}

fn dovecot(database: &Database) -> Dovecot {
    Dovecot::with(DovecotOptions {
        sql: Some(database.users.clone()),
        ..DovecotOptions::default()
    })
}

/// Postroom with the tutorial's settings and this `virtual_transport`.
fn postroom_on(database: &Database, transport: &str, master_cf: &str) -> MailServer {
    let files: Vec<(&str, &str)> = database
        .files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let main_cf = IspMail::main_cf(database.kind, "@CONF@");
    let main_cf = format!("{main_cf}virtual_transport = {transport}\n");
    start(Site::new(&main_cf, master_cf, &files))
}

/// Recipient and subject of each message, and who must have it.
const MESSAGES: &[(&str, &str, &[&str])] = &[
    ("john@example.org", "to-a-user", &["john@example.org"]),
    (
        "team@example.org",
        "to-an-alias",
        &["john@example.org", "jane@example.org", "jim@example.org"],
    ),
    (
        "anything@catch.example",
        "to-a-catch-all",
        &["carol@catch.example"],
    ),
    (
        "jane+news@example.org",
        "to-an-extension",
        &["jane@example.org"],
    ),
    ("JIM@Example.ORG", "in-capitals", &["jim@example.org"]),
];

const EVERYBODY: [&str; 4] = [
    "john@example.org",
    "jane@example.org",
    "jim@example.org",
    "carol@catch.example",
];

/// swaks sends [`MESSAGES`]; Python's imaplib must find each where it belongs and nowhere else.
fn swaks_to_imaplib(server: &MailServer, dovecot: &Dovecot, run: &str) {
    let to_server = format!("127.0.0.1:{}", server.port());
    for (recipient, subject, _) in MESSAGES {
        let header = format!("Subject: {run}-{subject}");
        let output = testkit::swaks(&[
            "--server",
            &to_server,
            "--helo",
            "client.example",
            "--from",
            SENDER,
            "--to",
            recipient,
            "--header",
            &header,
            "--body",
            "swaks was here",
        ]);
        assert!(output.status.success(), "{}", text(&output.stdout));
    }
    wait_empty_queue(server);
    for user in EVERYBODY {
        let inbox = dovecot.inbox_by_imaplib(user, "secret");
        for (_, subject, owners) in MESSAGES {
            let wanted = usize::from(owners.contains(&user));
            let subject = format!("{run}-{subject}");
            assert_eq!(
                with_subject(&inbox, &subject),
                wanted,
                "{subject} for {user}\n{}\n{}",
                server.log(),
                dovecot.log()
            );
        }
    }
    let inbox = dovecot.inbox_by_imaplib("carol@catch.example", "secret");
    assert!(inbox.iter().all(|mail| mail.contains("swaks was here")));
    let refused = testkit::swaks(&[
        "--server",
        &to_server,
        "--from",
        SENDER,
        "--to",
        "nobody@example.org",
    ]);
    assert!(!refused.status.success());
    let refused = text(&refused.stdout);
    assert!(
        refused.contains("550 5.1.1 <nobody@example.org>: Recipient address rejected: User unknown in virtual mailbox table"),
        "{refused}"
    );
}

/// LMTP over both kinds of socket, and the LDA.
fn all_ways(database: &Database) {
    let dovecot = dovecot(database);
    let socket = dovecot.lmtp_socket.display().to_string();
    let unix = postroom_on(database, &format!("lmtp:unix:{socket}"), "");
    swaks_to_imaplib(&unix, &dovecot, "lmtp");
    let line = unix.wait_log("to=<jane+news@example.org>");
    assert!(
        line.contains("status=sent (250 2.0.0 <jane+news@example.org> "),
        "{line}"
    );
    let tcp = postroom_on(
        database,
        &format!("lmtp:inet:127.0.0.1:{}", dovecot.lmtp_port),
        "",
    );
    swaks_to_imaplib(&tcp, &dovecot, "tcp");
    let lda = format!(
        "dovecot unix - n n - - pipe\n  flags=DRhu user={} argv={} -f ${{sender}} -a ${{recipient}} -d ${{user}}@${{domain}}\n",
        dovecot.owner.name,
        dovecot.lda_command()
    );
    let pipe = postroom_on(database, "dovecot", &lda);
    swaks_to_imaplib(&pipe, &dovecot, "lda");
    let line = pipe.wait_log("to=<john@example.org>");
    assert!(line.contains("relay=dovecot,"), "{line}");
    assert!(
        line.contains("status=sent (delivered via dovecot service)"),
        "{line}"
    );
}

#[test]
fn mariadb_leads_to_dovecot() {
    if !testkit::peers() {
        return;
    }
    let server = MariaDb::start();
    server.create_db("mailserver");
    server.run_sql("mailserver", &IspMail::sample().sql());
    server.create_user("mailuser", "db-secret", "mailserver");
    let connect = format!(
        "host={} dbname=mailserver user=mailuser password=db-secret",
        server.socket.display()
    );
    let files = IspMail::table_files(&server.host(), "mailuser", "db-secret", "mailserver");
    all_ways(&Database {
        kind: "mysql",
        files: files.to_vec(),
        users: users("mysql", connect),
    });
}

#[test]
fn postgresql_leads_to_dovecot() {
    if !testkit::peers() {
        return;
    }
    let server = Postgres::start();
    server.create_db("mailserver");
    server.run_sql("mailserver", &IspMail::sample().sql());
    server.create_user("mailuser", "db-secret", "mailserver");
    let connect = format!(
        "host=127.0.0.1 port={} dbname=mailserver user=mailuser password=db-secret",
        server.port
    );
    let files = IspMail::table_files(&server.host(), "mailuser", "db-secret", "mailserver");
    all_ways(&Database {
        kind: "pgsql",
        files: files.to_vec(),
        users: users("pgsql", connect),
    });
}

#[test]
fn sqlite_leads_to_dovecot() {
    if !testkit::peers() {
        return;
    }
    let dir = TempDir::new();
    let file = dir.join("mail.db");
    testkit::sqlite(&file, &IspMail::sample().sql());
    let path = file.display().to_string();
    all_ways(&Database {
        kind: "sqlite",
        files: IspMail::sqlite_files(&path).to_vec(),
        users: users("sqlite", path),
    });
}

/// The LDA exactly as the tutorial calls it.
#[test]
fn the_tutorials_lda_line_works() {
    if !testkit::peers() {
        return;
    }
    let dovecot = Dovecot::start(&[("john@example.org", "secret")]);
    let lda = format!(
        "dovecot unix - n n - - pipe flags=DRhu user={} argv={} -f ${{sender}} -d ${{recipient}}\n",
        testkit::Site::new("", "", &[]).expand("@VMAIL@"),
        dovecot.lda_command()
    );
    let main_cf = "virtual_mailbox_domains = example.org\nvirtual_mailbox_maps = inline:{john@example.org=1}\n\
                   virtual_transport = dovecot\ndovecot_destination_recipient_limit = 1\n";
    let server = start(Site::new(main_cf, &lda, &[]));
    submit(&server, &["john@example.org"], "tutorial");
    wait_empty_queue(&server);
    let inbox = dovecot.inbox_by_imaplib("john@example.org", "secret");
    assert_eq!(with_subject(&inbox, "tutorial"), 1, "{}", server.log());
    assert!(inbox[0].starts_with(&format!(
        "Return-Path: <{SENDER}>\r\nDelivered-To: john@example.org\r\n"
    )));
}

#[test]
fn maildirs_at_the_tutorials_path_hold_what_postfix_writes() {
    if !testkit::peers() {
        return;
    }
    let dir = TempDir::new();
    let file = dir.join("mail.db");
    testkit::sqlite(&file, &IspMail::sample().sql());
    let files = IspMail::sqlite_files(&file.display().to_string());
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let main_cf = IspMail::main_cf("sqlite", "@CONF@");
    let ours = format!("{main_cf}postroom_virtual_mailbox_path = %d/%u/Maildir/\n");
    let ours = start(Site::new(&ours, "", &files));
    // Postfix needs the path from the table.
    let theirs = format!(
        "{main_cf}virtual_mailbox_maps = inline:{{\
         {{john@example.org = example.org/john/Maildir/}}, {{jane@example.org = example.org/jane/Maildir/}}, \
         {{jim@example.org = example.org/jim/Maildir/}}, {{carol@catch.example = catch.example/carol/Maildir/}}}}\n"
    );
    let theirs = Postfix::start(&theirs, "", &files);
    let mut differences = String::new();
    for (number, (sender, recipients, body)) in LETTERS.iter().enumerate() {
        let found = letters(&ours, sender, recipients, body);
        let wanted = letters(&theirs, sender, recipients, body);
        assert!(!wanted.is_empty(), "letter {number}");
        if found != wanted {
            let (found, wanted) = (found.join("---\n"), wanted.join("---\n"));
            differences += &format!("letter {number}: Postroom:\n{found}\nPostfix:\n{wanted}\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Senders, recipients and texts whose copies in the mailboxes are compared.
const LETTERS: &[(&str, &[&str], &str)] = &[
    (
        SENDER,
        &["john@example.org"],
        "Subject: one\nFrom: a@b.example\nDate: Sun, 22 Nov 2026 12:00:00 +0000\nMessage-Id: <1@b.example>\n\nbody\n",
    ),
    (
        SENDER,
        &["john@example.org", "jane@example.org"],
        "Subject: two recipients\nFrom: a@b.example\n\nbody\n",
    ),
    (SENDER, &["team@example.org"], "Subject: alias\n\nbody\n"),
    (
        SENDER,
        &["team@example.org", "john@example.org"],
        "Subject: alias and one of it\n\nbody\n",
    ),
    (
        SENDER,
        &["whoever@catch.example"],
        "Subject: catch-all\nTo: me@b.example\n\nbody\n",
    ),
    (
        SENDER,
        &["John+Ext@Example.org"],
        "Subject: extension\n\n..dots\n.\u{e4}\n",
    ),
    ("", &["john@example.org"], "Subject: from nobody\n\nbody\n"),
    (SENDER, &["john@example.org"], "no header at all\n"),
    (SENDER, &["john@example.org"], "\nonly a body\n"),
    (
        SENDER,
        &["john@example.org"],
        "Return-Path: <old@x.example>\nDelivered-To: other@x.example\nBcc: secret@x.example\nSubject: headers\n folded\n\nbody\n",
    ),
    (
        "\"a b\"@sender.example",
        &["john@example.org"],
        "Subject: quoted\n\nFrom here\n>From there\n",
    ),
    (SENDER, &["john@example.org"], "Subject: no end of line\n\n"),
];

/// Sends the letter and returns all mailboxes, masked, and emptied for the next one.
fn letters(server: &MailServer, sender: &str, recipients: &[&str], body: &str) -> Vec<String> {
    let reply = testkit::send_mail(server.port(), sender, recipients, body);
    let id = testkit::queue_id(&reply).expect("an id").to_owned();
    server.wait_log(&format!("{id}: removed"));
    let mut found = Vec::new();
    for file in server.site.mailbox_files() {
        let path = server.site.mail().join(&file);
        let text = String::from_utf8_lossy(&std::fs::read(&path).expect("a message")).into_owned();
        std::fs::remove_file(&path).expect("ours");
        let folder = file.parent().unwrap_or(Path::new("")).display();
        found.push(format!("{folder}\n{}", mask(&text, &id)));
    }
    found.sort();
    found
}

/// Texts that agents treat in ways of their own: long lines, dots, 8-bit bytes, lines like an mbox's.
fn odd_letters() -> Vec<String> {
    let head = "Subject: odd\nFrom: a@b.example\nDate: Sun, 22 Nov 2026 12:00:00 +0000\nMessage-Id: <1@b.example>\n";
    let words = "word ".repeat(1_500);
    // Long enough to come in several pieces; shorter than header_size_limit.
    let folded = " 0123456789 folded\n".repeat(5_000);
    vec![
        format!("{head}\nplain\n"),
        format!("{head}\n.\n..\n.dot\n\n\n"),
        format!("{head}\nFrom the start\n>From quoted\nFrom\n"),
        format!("{head}\n{}\nafter\n", "x".repeat(998)),
        format!("{head}\n{}\nafter\n", "y".repeat(5_000)),
        format!("{head}\n{words}\n.{words}\n"),
        format!("{head}\n\u{e4}\u{f6}\u{fc} \u{20ac} \u{1f4ee}\n"),
        format!("{head}X-Long: {}\n\nbody\n", "z".repeat(3_000)),
        format!("{head}X-Folded: begins\n{folded}X-Next: 1\n\nbody\n"),
        format!(
            "{head}Return-Path: <old@x.example>\nDelivered-To: other@x.example\nX-Original-To: o@x.example\n\nbody\n"
        ),
        format!("{head}not a header\nstill text\n"),
        format!(" starts with a blank\n{head}\nbody\n"),
        "From s@sender.example Sun Nov 22 12:00:00 2026\nSubject: mbox line first\n\nbody\n"
            .to_owned(),
        format!("{head}Resent-From: r@b.example\n\nresent\n"),
    ]
}

/// Sends all odd letters through both servers and compares what `take` finds after each.
fn compare_odd_letters(
    ours: &MailServer,
    theirs: &MailServer,
    recipients: &[&str],
    take: impl Fn(&MailServer) -> Vec<String>,
) {
    let mut differences = String::new();
    for (number, letter) in odd_letters().iter().enumerate() {
        let copies = [ours, theirs].map(|server| {
            let reply = testkit::send_mail(server.port(), SENDER, recipients, letter);
            let id = testkit::queue_id(&reply).expect("an id").to_owned();
            server.wait_log(&format!("{id}: removed"));
            take(server)
                .iter()
                .map(|copy| mask(copy, &id))
                .collect::<Vec<_>>()
        });
        assert!(!copies[1].is_empty(), "letter {number}\n{}", theirs.log());
        if copies[0] != copies[1] {
            let [ours, theirs] = copies.map(|copies| shortened(&copies.join("---\n")));
            differences += &format!("letter {number}: Postroom:\n{ours}\nPostfix:\n{theirs}\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Long lines with their lengths instead of their middles, repeated ones once.
fn shortened(text: &str) -> String {
    let lines = text.lines().map(|line| match line.get(60..) {
        Some(_) => format!("{}... {} bytes", line.get(..60).unwrap_or(""), line.len()),
        None => line.to_owned(),
    });
    let mut lines: Vec<String> = lines.collect();
    lines.dedup();
    lines.join("\n")
}

#[test]
fn dovecot_gets_over_lmtp_what_postfix_sends() {
    if !testkit::peers() {
        return;
    }
    let dovecot = Dovecot::start(&[
        ("john@example.org", "secret"),
        ("jane@example.org", "secret"),
    ]);
    let main_cf = format!(
        "virtual_mailbox_domains = example.org\n\
         virtual_mailbox_maps = inline:{{{{john@example.org=1}}, {{jane@example.org=1}}}}\n\
         virtual_transport = lmtp:unix:{}\n",
        dovecot.lmtp_socket.display()
    );
    let ours = start(Site::new(&main_cf, "", &[]));
    let theirs = Postfix::start(&main_cf, "", &[]);
    let take = |_: &MailServer| {
        let mut copies = Vec::new();
        for user in ["john@example.org", "jane@example.org"] {
            let mut imap = dovecot.imap(user, "secret");
            copies.extend(imap.fetch_all("INBOX"));
            imap.command("STORE 1:* +FLAGS (\\Deleted)");
            imap.command("EXPUNGE");
        }
        // Dovecot's own Received header has its session's id and the time.
        let own = |text: &String| match (
            text.find("Received: from mail.host.example"),
            text.find("Received: from client.example"),
        ) {
            (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to..]),
            _ => text.clone(),
        };
        copies.iter().map(own).collect()
    };
    compare_odd_letters(
        &ours,
        &theirs,
        &["john@example.org", "jane@example.org"],
        take,
    );
}

/// Writes its arguments and its input to a file whose name is its first argument.
const SCRIPT: &str = r#"#!/bin/sh
out=$1; shift
{ for word; do printf '<%s>\n' "$word"; done; cat; } > "$out"
"#;

#[test]
fn commands_get_through_a_pipe_what_postfix_gives_them() {
    if !testkit::peers() {
        return;
    }
    let macros = "${sender} ${recipient} ${user} ${domain} ${extension} ${nexthop} ${mailbox} \
                  ${original_recipient} ${client_address} ${client_helo} ${client_hostname} \
                  ${client_protocol} ${sasl_username} a${extension}b plain";
    for (flags, limit) in [("DRhu", 1), ("DROXq", 1), ("BFu.>", 1), ("hq", 5), ("", 5)] {
        let option = match flags {
            "" => String::new(),
            flags => format!("flags={flags}"),
        };
        let master_cf = format!(
            "store unix - n n - - pipe {option} user=@VMAIL@\n argv=/bin/sh @CONF@/script @MAIL@/out-${{user}} {macros}\n"
        );
        let main_cf = format!(
            "virtual_mailbox_domains = example.org\nvirtual_mailbox_maps = inline:{{@example.org=1}}\n\
             virtual_alias_maps = inline:{{info@example.org=John+Ext@example.org}}\n\
             virtual_transport = store:next.hop\nstore_destination_recipient_limit = {limit}\n"
        );
        let site = || Site::new(&main_cf, &master_cf, &[("script", SCRIPT)]);
        let (ours, theirs) = (start(site()), Postfix::on(site()));
        let take = |server: &MailServer| {
            let files = server.site.mailbox_files();
            let read = |file: &std::path::PathBuf| {
                let path = server.site.mail().join(file);
                let text = text(&std::fs::read(&path).expect("a copy"));
                std::fs::remove_file(&path).expect("ours");
                let folder = server.site.mail().display().to_string();
                format!("{}\n{}", file.display(), text.replace(&folder, "MAIL"))
            };
            files.iter().map(read).collect()
        };
        // In the order of the alphabet, into which Postfix' qmgr brings them.
        let recipients = ["Jane@Example.org", "info@example.org"];
        compare_odd_letters(&ours, &theirs, &recipients, take);
    }
}
