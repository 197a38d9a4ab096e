//! Changed configuration under a running server, and its orderly end. Database tables come from a real SQLite file.

mod support;

use std::time::Duration;

use support::*;
use testkit::{IspMail, MailServer, Site, Smtp, wait_for};

/// [`PLAIN`], with the aliases in a SQLite file.
fn with_sqlite() -> MailServer {
    let files = [("users", USERS)];
    let site = Site::new(
        &format!(
            "{PLAIN}virtual_alias_maps = sqlite:@CONF@/aliases.cf\npostroom_domain_class_ttl = 0\n"
        ),
        "",
        &files,
    );
    let file = site.conf().join("mail.db");
    let mut mail = IspMail::sample();
    mail.aliases = vec![("info@example.org".into(), "john@example.org".into())];
    testkit::sqlite(&file, &mail.sql());
    let [_, _, (_, aliases), _] = IspMail::sqlite_files(&file.display().to_string());
    site.write("aliases.cf", &aliases);
    start(site)
}

/// Runs `postroom postconf -e SETTING` and waits until the server has taken it over.
fn postconf(server: &MailServer, setting: &str) {
    let before = reloads(server);
    server.run_tool("postconf", &["-e", setting]);
    wait_reload(server, before);
}

fn reloads(server: &MailServer) -> usize {
    server.log().matches("reload -- configuration").count()
}

fn wait_reload(server: &MailServer, before: usize) {
    wait_for("the reload", PATIENCE, || {
        (reloads(server) > before).then_some(())
    });
}

fn wait_refusals(server: &MailServer, count: usize) {
    let refused = "the new configuration is not taken over; the old settings stay";
    wait_for("the refusal", PATIENCE, || {
        (server.log().matches(refused).count() >= count).then_some(())
    });
}

#[test]
fn postconf_changes_the_running_server_and_drops_nobody() {
    if !testkit::peers() {
        return;
    }
    let server = with_sqlite();
    let mut idle = server.smtp();
    let mut busy = server.smtp();
    busy.command(&format!("MAIL FROM:<{SENDER}>"), 250);
    busy.command("RCPT TO:<info@example.org>", 250);

    postconf(&server, "message_size_limit=3000");
    postconf(
        &server,
        "virtual_alias_maps=inline:{sales@example.org=jane@example.org}",
    );
    let text = std::fs::read_to_string(server.site.conf().join("main.cf")).expect("main.cf");
    assert!(text.contains("\nmessage_size_limit = 3000\n"), "{text}");
    // A transaction that has begun is carried out as it began.
    busy.command("RCPT TO:<info@example.org>", 250);
    busy.command("DATA", 354);
    let large = format!("{}{}", message("begun-before"), "0123456789\n".repeat(400));
    for line in large.lines() {
        busy.send(format!("{line}\r\n"));
    }
    assert_eq!(busy.ask(".").code, 250);
    wait_mail(&server, "john", "begun-before");
    // Its next one, and the idle session, run by the new settings.
    for smtp in [&mut busy, &mut idle] {
        let greeting = smtp.command("EHLO client.example", 250);
        assert!(
            greeting.text.lines().any(|line| line == "SIZE 3000"),
            "{greeting:?}"
        );
        assert_eq!(rcpt(smtp, "info@example.org").code, 550);
        assert_eq!(rcpt(smtp, "sales@example.org").code, 250);
        let reply = smtp.command(&format!("MAIL FROM:<{SENDER}> SIZE=3001"), 552);
        assert!(reply.text.starts_with("5.3.4 "), "{reply:?}");
    }
    for smtp in [busy, idle] {
        let (_, reply) = { smtp }.message(SENDER, &["john@example.org"], &large);
        assert_eq!(reply.expect("taken").code, 552);
    }
}

#[test]
fn changed_table_files_and_sources_are_read_again() {
    if !testkit::peers() {
        return;
    }
    let server = with_sqlite();
    let mut smtp = server.smtp();
    let conf = server.site.conf();
    assert_eq!(rcpt(&mut smtp, "new@example.org").code, 550);
    // A source text of a lookup table.
    let before = reloads(&server);
    std::fs::write(
        conf.join("users"),
        format!("{USERS}new@example.org example.org/new/\n"),
    )
    .expect("ours");
    wait_reload(&server, before);
    assert_eq!(rcpt(&mut smtp, "new@example.org").code, 250);
    // The query in a table file.
    assert_eq!(rcpt(&mut smtp, "other@example.org").code, 550);
    let before = reloads(&server);
    let db = conf.join("mail.db").display().to_string();
    let query = "SELECT 'jane@example.org' FROM virtual_domains WHERE name='example.org' AND '%s' LIKE 'other@%%'";
    std::fs::write(
        conf.join("aliases.cf"),
        format!("dbpath = {db}\nquery = {query}\n"),
    )
    .expect("ours");
    wait_reload(&server, before);
    assert_eq!(rcpt(&mut smtp, "other@example.org").code, 250);
    // A change in the database needs no reload.
    let before = reloads(&server);
    testkit::sqlite(&conf.join("mail.db"), "DELETE FROM virtual_domains");
    assert_eq!(rcpt(&mut smtp, "other@example.org").code, 550);
    assert_eq!(reloads(&server), before);
}

#[test]
fn a_broken_new_configuration_is_refused_and_the_old_one_stays() {
    if !testkit::peers() {
        return;
    }
    let server = with_sqlite();
    let conf = server.site.conf();
    let good = |name: &str| std::fs::read_to_string(conf.join(name)).expect("ours");
    let (main_cf, aliases, master_cf) = (good("main.cf"), good("aliases.cf"), good("master.cf"));
    let cases = [
        (
            "main.cf",
            format!("{main_cf}message_size_limit = many\n"),
            "message_size_limit",
        ),
        (
            "main.cf",
            format!("{main_cf}smtpd_banner = $smtpd_banner\n"),
            "smtpd_banner",
        ),
        (
            "main.cf",
            format!(
                "{main_cf}virtual_alias_maps = sqlite:{}/absent.cf\n",
                conf.display()
            ),
            "absent.cf",
        ),
        (
            "main.cf",
            format!("{main_cf}virtual_alias_maps = nosuch:x\n"),
            "nosuch",
        ),
        (
            "aliases.cf",
            aliases.replace("query", "qwery"),
            "aliases.cf",
        ),
        (
            "master.cf",
            format!("{master_cf}broken line\n"),
            "master.cf",
        ),
    ];
    let mut smtp = server.smtp();
    for (number, (name, broken, says)) in cases.iter().enumerate() {
        let logged = server.log().len();
        std::fs::write(conf.join(name), broken).expect("ours");
        wait_refusals(&server, number + 1);
        let log = server.log()[logged..].to_owned();
        let errors: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("error: "))
            .collect();
        assert!(
            errors.iter().any(|line| line.contains(says)),
            "{says}: {log}"
        );
        assert_eq!(rcpt(&mut smtp, "info@example.org").code, 250, "{says}");
        assert_eq!(
            rcpt(&mut server.smtp(), "info@example.org").code,
            250,
            "{says}"
        );
        let before = reloads(&server);
        let old = match *name {
            "main.cf" => &main_cf,
            "aliases.cf" => &aliases,
            _ => &master_cf,
        };
        std::fs::write(conf.join(name), old).expect("ours");
        wait_reload(&server, before);
    }
}

#[test]
fn a_new_service_is_opened_and_a_removed_one_closed() {
    if !testkit::peers() {
        return;
    }
    let server = with_sqlite();
    let conf = server.site.conf();
    let master_cf = std::fs::read_to_string(conf.join("master.cf")).expect("ours");
    let port = testkit::free_port();
    let before = reloads(&server);
    let more =
        format!("{master_cf}127.0.0.1:{port} inet n - n - - smtpd -o message_size_limit=7777\n");
    std::fs::write(conf.join("master.cf"), more).expect("ours");
    wait_reload(&server, before);
    let mut second = Smtp::connect(port);
    second.expect(220);
    let greeting = second.command("EHLO client.example", 250);
    assert!(
        greeting.text.lines().any(|line| line == "SIZE 7777"),
        "{greeting:?}"
    );
    let before = reloads(&server);
    std::fs::write(conf.join("master.cf"), master_cf).expect("ours");
    wait_reload(&server, before);
    wait_for("the end of the listener", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", port))
            .is_err()
            .then_some(())
    });
    // Who is connected stays so.
    assert_eq!(rcpt(&mut second, "info@example.org").code, 250);
}

fn signal(server: &MailServer, name: &str) {
    let pid = server.pid().expect("it runs").to_string();
    let status = std::process::Command::new("kill")
        .args(["-s", name, &pid])
        .status();
    assert!(status.expect("kill(1)").success());
}

#[test]
fn sighup_reads_the_configuration_again() {
    let server = plain("");
    signal(&server, "HUP");
    wait_reload(&server, 0);
    assert_eq!(rcpt(&mut server.smtp(), "john@example.org").code, 250);
}

#[test]
fn sigterm_lets_a_transaction_finish_and_sends_the_idle_away() {
    let mut server = plain("postroom_shutdown_timeout = 60s");
    let mut idle = server.smtp();
    let mut mute = Smtp::connect(server.port());
    mute.expect(220);
    let mut busy = server.smtp();
    busy.command(&format!("MAIL FROM:<{SENDER}>"), 250);
    busy.command("RCPT TO:<john@example.org>", 250);
    signal(&server, "TERM");
    for smtp in [&mut idle, &mut mute] {
        let reply = smtp.expect(421);
        assert!(reply.text.starts_with("4.3.2 "), "{reply:?}");
        assert!(smtp.at_end());
    }
    wait_for("the end of the listener", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", server.port()))
            .is_err()
            .then_some(())
    });
    // Slowly, so that the server waits in the middle of the text, too.
    busy.command("DATA", 354);
    for line in message("last").lines() {
        busy.send(format!("{line}\r\n"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(busy.ask(".").code, 250);
    assert_eq!(busy.expect(421).code, 421);
    assert!(busy.at_end());
    server.wait_log("terminating");
    // Waits for the process, which must need no force any more.
    server.stop();
    assert!(
        !server.log().contains("gave up waiting"),
        "{}",
        server.log()
    );
    server.start_again();
    wait_mail(&server, "john", "last");
    wait_empty_queue(&server);
    assert_eq!(maildir(&server, "john").len(), 1);
}

#[test]
fn sigterm_does_not_wait_for_ever() {
    let mut server = plain("postroom_shutdown_timeout = 1s");
    let mut stuck = server.smtp();
    stuck.command(&format!("MAIL FROM:<{SENDER}>"), 250);
    stuck.command("RCPT TO:<john@example.org>", 250);
    stuck.command("DATA", 354);
    stuck.send("Subject: never ends\r\n");
    signal(&server, "TERM");
    server.wait_log("gave up waiting for running transactions");
    server.wait_log("terminating");
    assert!(stuck.at_end());
    server.stop();
    server.start_again();
    assert!(is_queue_empty(&server));
    assert!(maildir(&server, "john").is_empty());
}
