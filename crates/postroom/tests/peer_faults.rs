//! What breaks around the server (Dovecot, the database, the disk, the power), and what it does then.

mod support;

use std::path::Path;
use std::process::Command;

use support::*;
use testkit::{Dovecot, IspMail, MailServer, MariaDb, Site};

const USERS: [(&str, &str); 2] = [
    ("john@example.org", "secret"),
    ("jane@example.org", "secret"),
];

/// Deferred mail is tried again after a second.
const IMPATIENT: &str =
    "minimal_backoff_time = 1s\nmaximal_backoff_time = 1s\nqueue_run_delay = 1s\n";

fn to_dovecot(dovecot: &Dovecot, main_cf: &str) -> Site {
    let users = "john@example.org 1\njane@example.org 1\n";
    let transport = format!(
        "virtual_mailbox_domains = example.org\nvirtual_mailbox_maps = texthash:@CONF@/users\n\
         virtual_transport = lmtp:unix:{}\n{main_cf}\n",
        dovecot.lmtp_socket.display()
    );
    Site::new(&transport, "", &[("users", users)])
}

#[test]
fn mail_waits_while_dovecot_is_down_and_arrives_once() {
    if !testkit::peers() {
        return;
    }
    let mut dovecot = Dovecot::start(&USERS);
    let server = start(to_dovecot(&dovecot, IMPATIENT));
    submit(&server, &["john@example.org"], "before");
    wait_empty_queue(&server);
    dovecot.kill();
    let both = ["john@example.org", "jane@example.org"];
    submit(&server, &both, "meanwhile");
    let line = wait_deferred(&server, "jane@example.org");
    assert!(line.contains("dsn=4."), "{line}");
    dovecot.start_again();
    wait_empty_queue(&server);
    for user in both {
        let inbox = dovecot.inbox(user, "secret");
        assert_eq!(with_subject(&inbox, "meanwhile"), 1, "{user}");
    }
    assert!(!server.log().contains("status=bounced"));
}

#[test]
fn one_recipient_that_dovecot_refuses_bounces_alone() {
    if !testkit::peers() {
        return;
    }
    let dovecot = Dovecot::start(&USERS);
    // Dovecot does not know ghost, whom the table has.
    let site = to_dovecot(&dovecot, "");
    site.write(
        "users",
        "john@example.org 1\njane@example.org 1\nghost@example.org 1\n",
    );
    let server = start(site);
    let everybody = ["john@example.org", "ghost@example.org"];
    testkit::send_mail(
        server.port(),
        "jane@example.org",
        &everybody,
        &message("partly"),
    );
    wait_empty_queue(&server);
    let delivered = dovecot.inbox("john@example.org", "secret");
    assert_eq!(with_subject(&delivered, "partly"), 1);
    let told = dovecot.inbox_by_imaplib("jane@example.org", "secret");
    assert_eq!(told.len(), 1, "{}", server.log());
    assert!(
        told[0].contains("Final-Recipient: rfc822; ghost@example.org\r\n"),
        "{}",
        told[0]
    );
    assert!(
        !told[0].contains("Final-Recipient: rfc822; john@example.org"),
        "{}",
        told[0]
    );
    assert_eq!(report_by_python(&told[0]), ["failed", "5.1.1", "partly"]);
}

/// Action and status of the report's one recipient, and the subject of the returned message, as Python's
/// email package reads them.
fn report_by_python(report: &str) -> Vec<String> {
    let script = "import email, sys\nm = email.message_from_bytes(sys.stdin.buffer.read())\n\
                  assert m.get_content_type() == 'multipart/report', m.get_content_type()\n\
                  assert m.get_param('report-type') == 'delivery-status'\n\
                  text, status, original = m.get_payload()\n\
                  assert not m.defects and not status.defects\n\
                  about, rcpt = status.get_payload()\n\
                  print(rcpt['Action'], rcpt['Status'], original.get_payload()[0]['Subject'], sep='\\n')";
    let mut python = Command::new(testkit::require("python3"));
    let output = testkit::process::run_with_input(python.args(["-c", script]), report.as_bytes());
    assert!(
        output.status.success(),
        "{}\n{report}",
        text(&output.stderr)
    );
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_flush_delivers_what_waits_for_dovecot() {
    if !testkit::peers() {
        return;
    }
    let mut dovecot = Dovecot::start(&USERS);
    dovecot.stop();
    let server = start(to_dovecot(&dovecot, ""));
    submit(&server, &["john@example.org"], "flushed");
    wait_deferred(&server, "john@example.org");
    dovecot.start_again();
    assert!(!is_queue_empty(&server), "the next attempt is minutes away");
    server.run_tool("postqueue", &["-f"]);
    wait_empty_queue(&server);
    assert_eq!(dovecot.inbox("john@example.org", "secret").len(), 1);
}

#[test]
fn a_killed_server_delivers_after_its_restart_what_it_accepted() {
    if !testkit::peers() {
        return;
    }
    let mut dovecot = Dovecot::start(&USERS);
    dovecot.stop();
    let mut server = start(to_dovecot(&dovecot, IMPATIENT));
    for number in 0..20 {
        submit(
            &server,
            &["john@example.org"],
            &format!("accepted-{number}"),
        );
    }
    // One more is in the middle of its text.
    let mut half = server.smtp();
    half.command(&format!("MAIL FROM:<{SENDER}>"), 250);
    half.command("RCPT TO:<john@example.org>", 250);
    half.command("DATA", 354);
    half.send("Subject: half\r\n\r\nnot all of it\r\n");
    server.kill();
    dovecot.start_again();
    server.start_again();
    wait_empty_queue(&server);
    let inbox = dovecot.inbox("john@example.org", "secret");
    for number in 0..20 {
        assert_eq!(with_subject(&inbox, &format!("accepted-{number}")), 1);
    }
    assert_eq!(inbox.len(), 20);
}

/// A database with the sample data, and Postroom on it; mail goes to Maildirs.
fn on_mariadb(db: &MariaDb, main_cf: &str) -> MailServer {
    db.create_db("mailserver");
    db.run_sql("mailserver", &IspMail::sample().sql());
    db.create_user("mailuser", "Geheim-1234", "mailserver");
    let files = IspMail::table_files(&db.host(), "mailuser", "Geheim-1234", "mailserver");
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let tables = IspMail::main_cf("mysql", "@CONF@");
    let main_cf = format!(
        "{tables}postroom_virtual_mailbox_path = %d/%u/\npostroom_domain_class_ttl = 0\n{main_cf}"
    );
    start(Site::new(&main_cf, "", &files))
}

#[test]
fn while_the_database_is_down_mail_is_put_off_and_nothing_bounces() {
    if !testkit::peers() {
        return;
    }
    let mut db = MariaDb::start();
    // In Postfix's way of resolving, mail in the queue needs the database, too.
    let server = on_mariadb(
        &db,
        &format!("{IMPATIENT}virtual_transport = lmtp:unix:@DIR@/absent\n"),
    );
    submit(&server, &["john@example.org"], "queued");
    wait_deferred(&server, "john@example.org");
    let mut smtp = server.smtp();
    assert_eq!(rcpt(&mut smtp, "john@example.org").code, 250);
    db.stop();
    for recipient in [
        "john@example.org",
        "nobody@example.org",
        "x@elsewhere.example",
    ] {
        let reply = rcpt(&mut smtp, recipient);
        assert_eq!(
            (reply.code, reply.text),
            (
                451,
                format!("4.3.0 <{recipient}>: Temporary lookup failure")
            )
        );
    }
    // At the next attempt its address cannot be resolved.
    server.run_tool("postqueue", &["-f"]);
    server.wait_log("address resolver failure");
    db.start_again();
    wait_for_reply(&mut smtp, "john@example.org", 250);
    assert_eq!(rcpt(&mut smtp, "nobody@example.org").code, 550);
    server.run_tool("postconf", &["-e", "virtual_transport=virtual"]);
    testkit::wait_for("the delivery", PATIENCE, || {
        (with_subject(&server.site.maildir("example.org/john"), "queued") == 1).then_some(())
    });
    wait_empty_queue(&server);
    let log = server.log();
    assert!(!log.contains("status=bounced"), "{log}");
    assert!(!log.contains("Geheim"), "{log}");
}

fn wait_for_reply(smtp: &mut testkit::Smtp, recipient: &str, code: u16) {
    testkit::wait_for(&format!("{code} for {recipient}"), PATIENCE, || {
        (rcpt(smtp, recipient).code == code).then_some(())
    });
}

#[test]
fn a_query_that_the_database_rejects_fails_alone() {
    if !testkit::peers() {
        return;
    }
    let db = MariaDb::start();
    let server = on_mariadb(&db, "");
    let query = format!(
        "hosts = {}\nuser = mailuser\npassword = Geheim-1234\ndbname = mailserver\n\
         query = SELECT 1 FROM virtual_users WHERE email='%s' AND \
         IF('%u' = 'jane', (SELECT 1 UNION SELECT 2), 1) = 1\n",
        db.host()
    );
    std::fs::write(server.site.conf().join("users.cf"), query).expect("ours");
    server.wait_log("reload -- configuration");
    let mut smtp = server.smtp();
    for _ in 0..3 {
        assert_eq!(rcpt(&mut smtp, "john@example.org").code, 250);
        let reply = rcpt(&mut smtp, "jane@example.org");
        assert_eq!(
            (reply.code, reply.text.as_str()),
            (451, "4.3.0 <jane@example.org>: Temporary lookup failure")
        );
    }
    assert!(
        server
            .wait_log("Subquery returns more than 1 row")
            .contains("users.cf")
    );
}

#[test]
fn a_server_that_starts_before_its_database_works_once_that_is_there() {
    if !testkit::peers() {
        return;
    }
    let mut db = MariaDb::start();
    let mut server = on_mariadb(&db, "");
    server.stop();
    db.stop();
    server.start_again();
    let mut smtp = server.smtp();
    assert_eq!(rcpt(&mut smtp, "john@example.org").code, 451);
    db.start_again();
    wait_for_reply(&mut smtp, "john@example.org", 250);
    assert_eq!(rcpt(&mut smtp, "nobody@example.org").code, 550);
}

#[test]
fn a_database_that_hangs_holds_up_nobody_for_ever() {
    if !testkit::peers() {
        return;
    }
    let db = MariaDb::start();
    let server = on_mariadb(&db, "");
    let mut smtp = server.smtp();
    assert_eq!(rcpt(&mut smtp, "john@example.org").code, 250);
    db.freeze();
    let reply = rcpt(&mut smtp, "john@example.org");
    db.thaw();
    assert_eq!(
        (reply.code, reply.text.as_str()),
        (451, "4.3.0 <john@example.org>: Temporary lookup failure")
    );
    wait_for_reply(&mut smtp, "john@example.org", 250);
}

/// What `virtual_mailbox_maps` names, the text of its file (none: no file), and what log and `explain` say.
fn broken_tables(db: &MariaDb) -> Vec<(&'static str, Option<String>, Vec<&'static str>)> {
    let good = format!(
        "hosts = {}\nuser = mailuser\npassword = Geheim-1234\ndbname = mailserver\n",
        db.host()
    );
    let query = "query = SELECT 1 FROM virtual_users WHERE email='%s'\n";
    let dead = format!("hosts = 127.0.0.1:{}\n", testkit::dead_port());
    vec![
        (
            "mysql:@CONF@/password.cf",
            Some(format!("{good}{query}").replace("Geheim-1234", "Falsch-9876")),
            vec!["password.cf", "Access denied for user 'mailuser'"],
        ),
        (
            "mysql:@CONF@/dead.cf",
            Some(format!("{good}{query}{dead}")),
            vec!["dead.cf", "127.0.0.1:"],
        ),
        (
            "mysql:@CONF@/notable.cf",
            Some(format!(
                "{good}query = SELECT 1 FROM nosuch WHERE email='%s'\n"
            )),
            vec!["notable.cf", "'mailserver.nosuch' doesn't exist"],
        ),
        (
            "mysql:@CONF@/nodb.cf",
            Some(format!("{good}{query}dbname = nosuchdb\n")),
            vec!["nodb.cf", "nosuchdb"],
        ),
        (
            "mysql:@CONF@/absent.cf",
            None,
            vec!["absent.cf", "No such file or directory"],
        ),
        (
            "nosuch:@CONF@/x",
            None,
            vec!["nosuch:", "unsupported dictionary type"],
        ),
        (
            "mysql:@CONF@/noquery.cf",
            Some(good.clone()),
            vec!["noquery.cf", "query"],
        ),
        (
            "mysql:@CONF@/nodbname.cf",
            Some(format!(
                "{}{query}",
                good.replace("dbname = mailserver\n", "")
            )),
            vec!["nodbname.cf", "dbname"],
        ),
        (
            "texthash:@CONF@/absent",
            None,
            vec!["absent", "No such file or directory"],
        ),
    ]
}

#[test]
fn a_broken_table_is_a_temporary_failure_and_is_named() {
    if !testkit::peers() {
        return;
    }
    let db = MariaDb::start();
    db.create_db("mailserver");
    db.run_sql("mailserver", &IspMail::sample().sql());
    db.create_user("mailuser", "Geheim-1234", "mailserver");
    for (spec, text_of_file, says) in broken_tables(&db) {
        let main_cf =
            format!("virtual_mailbox_domains = example.org\nvirtual_mailbox_maps = {spec}\n");
        let site = Site::new(&main_cf, "", &[]);
        if let Some(content) = text_of_file {
            let name = spec.rsplit('/').next().expect("a path");
            site.write(name, &content);
        }
        let conf = site.conf().display().to_string();
        let server = start(site);
        let reply = rcpt(&mut server.smtp(), "john@example.org");
        assert_eq!(
            (reply.code, reply.text.as_str()),
            (451, "4.3.0 <john@example.org>: Temporary lookup failure"),
            "{spec}"
        );
        server.wait_log("reject: RCPT");
        let explained = postroom(&["explain", "-c", &conf, "john@example.org"]);
        assert_eq!(explained.status.code(), Some(75), "{spec}");
        let explained = text(&explained.stdout) + &text(&explained.stderr);
        let log = server.log();
        for part in says {
            assert!(log.contains(part), "log of {spec}: no {part:?} in\n{log}");
            assert!(
                explained.contains(part),
                "explain of {spec}: no {part:?} in\n{explained}"
            );
        }
        for secret in ["Geheim", "Falsch"] {
            assert!(
                !log.contains(secret) && !explained.contains(secret),
                "{spec}"
            );
        }
    }
}

/// A small file system on a folder, taken away with its value.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    fn on(folder: &Path) -> SmallDisk<'_> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=2m,mode=755", "postroom-test"])
            .arg(folder);
        let status = mount.status().expect("mount(8) is installed");
        assert!(
            status.success(),
            "this test mounts a small tmpfs: run it as root where mounting is allowed, or set POSTROOM_TEST_PEERS=0"
        );
        SmallDisk(folder)
    }

    /// Leaves no byte free; returns the file that takes the room.
    fn fill(&self) -> std::path::PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).expect("a new file");
        for size in [65536, 4096, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_mail_and_loses_none() {
    if !testkit::peers() {
        return;
    }
    let mut dovecot = Dovecot::start(&USERS);
    dovecot.stop();
    let site = to_dovecot(&dovecot, "message_size_limit = 200000\n");
    let spool = site.spool();
    let disk = SmallDisk::on(&spool);
    let mut server = start(site);
    submit(&server, &["john@example.org"], "kept");
    wait_deferred(&server, "john@example.org");

    // Full in the middle of small and large messages: answered at the end of each.
    let mut sessions = [("small", 10), ("large", 10_000)].map(|(subject, lines)| {
        let mut smtp = server.smtp();
        smtp.command(&format!("MAIL FROM:<{SENDER}>"), 250);
        smtp.command("RCPT TO:<john@example.org>", 250);
        smtp.command("DATA", 354);
        (
            smtp,
            format!(
                "Subject: {subject}\r\n\r\n{}",
                "some text\r\n".repeat(lines)
            ),
        )
    });
    let filler = disk.fill();
    for (smtp, body) in &mut sessions {
        smtp.send(&body);
        let reply = smtp.ask(".");
        assert_eq!(
            (reply.code, reply.text.as_str()),
            (452, "4.3.1 Insufficient system storage"),
            "{}",
            server.log()
        );
    }
    // Full before: answered at MAIL, once the free space has been looked at anew.
    let mut smtp = server.smtp();
    let mut mail = |code: u16| {
        testkit::wait_for(&format!("{code} at MAIL"), PATIENCE, || {
            let reply = smtp.ask(&format!("MAIL FROM:<{SENDER}>"));
            smtp.command("RSET", 250);
            (reply.code == code).then_some(reply.text)
        })
    };
    assert_eq!(mail(452), "4.3.1 Insufficient system storage");
    // What is in the queue stays there, and an attempt that cannot be written down does no harm.
    server.run_tool("postqueue", &["-f"]);
    let list = server.run_tool("postqueue", &["-p"]);
    assert!(list.contains("in 1 Request."), "{list}");

    std::fs::remove_file(filler).expect("ours");
    mail(250);
    let (_, reply) = smtp.message(SENDER, &["john@example.org"], &message("again"));
    assert_eq!(reply.expect("taken").code, 250);
    let (smtp, _) = &mut sessions[0];
    let (_, reply) = smtp.message(SENDER, &["jane@example.org"], &message("same-session"));
    assert_eq!(reply.expect("taken").code, 250);

    // Also after a restart: three messages, whole.
    server.kill();
    dovecot.start_again();
    server.start_again();
    server.run_tool("postqueue", &["-f"]);
    wait_empty_queue(&server);
    let inbox = dovecot.inbox("john@example.org", "secret");
    assert_eq!(inbox.len(), 2, "{inbox:?}");
    for subject in ["kept", "again"] {
        assert_eq!(with_subject(&inbox, subject), 1, "{subject}");
    }
    assert_eq!(dovecot.inbox("jane@example.org", "secret").len(), 1);
    assert!(!server.log().contains("set aside"), "{}", server.log());
    server.stop();
}

#[test]
fn nothing_is_lost_while_everything_around_falls_over() {
    if !testkit::peers() {
        return;
    }
    let mut db = MariaDb::start();
    let mut dovecot = Dovecot::start(&USERS);
    let transport = format!(
        "{IMPATIENT}virtual_transport = lmtp:unix:{}\n",
        dovecot.lmtp_socket.display()
    );
    let mut server = on_mariadb(&db, &transport);
    let port = server.port();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let senders: Vec<_> = (0..4)
        .map(|number| {
            let stop = stop.clone();
            std::thread::spawn(move || send_until(&stop, port, number))
        })
        .collect();
    let pause = || std::thread::sleep(std::time::Duration::from_millis(300));
    for _ in 0..3 {
        pause();
        // Not killed: its data is not on the disk, so that an emptied table would answer afterwards.
        db.stop();
        pause();
        db.start_again();
        pause();
        dovecot.stop();
        pause();
        server.kill();
        server.start_again();
        pause();
        dovecot.start_again();
    }
    pause();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let accepted: Vec<String> = senders
        .into_iter()
        .flat_map(|sender| sender.join().expect("no reply was a refusal for good"))
        .collect();
    wait_empty_queue(&server);
    let inbox = dovecot.inbox("john@example.org", "secret");
    assert!(accepted.len() > 10, "{} accepted", accepted.len());
    for subject in &accepted {
        assert!(
            with_subject(&inbox, subject) >= 1,
            "{subject} is lost\n{}",
            server.log()
        );
    }
    assert!(!server.log().contains("status=bounced"), "{}", server.log());
}

/// Sends messages until told to stop; the subjects of those that were answered 250.
fn send_until(stop: &std::sync::atomic::AtomicBool, port: u16, sender: usize) -> Vec<String> {
    let mut accepted = Vec::new();
    for number in 0.. {
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
        let subject = format!("chaos-{sender}-{number}");
        if try_send(port, &subject).is_ok_and(|code| code == 250) {
            accepted.push(subject);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    accepted
}

/// One message to john, as far as it goes; the last reply's code. Panics when the server refuses for good.
fn try_send(port: u16, subject: &str) -> std::io::Result<u16> {
    use std::io::{BufRead, BufReader, Write};
    let stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut code = 0;
    let body = format!("{}.", message(subject).replace('\n', "\r\n"));
    for line in [
        "",
        "HELO client.example",
        "MAIL FROM:<s@sender.example>",
        "RCPT TO:<john@example.org>",
        "DATA",
        &body,
    ] {
        if !line.is_empty() {
            stream.write_all(format!("{line}\r\n").as_bytes())?;
        }
        let mut reply = String::new();
        if reader.read_line(&mut reply)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        code = reply
            .get(..3)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        assert!(code < 500, "{line:?} was answered {reply:?}");
        if code >= 400 {
            return Ok(code);
        }
    }
    Ok(code)
}
