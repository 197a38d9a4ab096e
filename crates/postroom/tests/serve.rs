//! The server as a whole, over real sockets, without any peer: what it takes, what it refuses, and what
//! hostile clients cannot do to it.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use support::*;
use testkit::{MailServer, Smtp};

#[test]
fn mail_reaches_maildirs_through_an_alias() {
    let server = plain("");
    submit(&server, &["team@example.org"], "to-team");
    for user in ["john", "jane", "jim"] {
        let mail = wait_mail(&server, user, "to-team");
        let head: Vec<&str> = mail.lines().take(4).collect();
        assert_eq!(head[0], format!("Return-Path: <{SENDER}>"));
        assert_eq!(head[1], "X-Original-To: team@example.org");
        assert_eq!(head[2], format!("Delivered-To: {user}@example.org"));
        assert!(head[3].starts_with("Received: from client.example (unknown [127.0.0.1])"));
    }
    wait_empty_queue(&server);
    assert_eq!(server.site.mailbox_files().len(), 3);
}

#[test]
fn strangers_may_not_relay() {
    let own = plain("");
    let leaving = rcpt(&mut own.smtp(), "x@elsewhere.example");
    assert_eq!(leaving.code, 250, "{leaving:?}");
    drop(own);
    // Postfix' default tells them to try again; the usual choice does not.
    let server = plain("mynetworks = 192.0.2.0/24");
    let reply = rcpt(&mut server.smtp(), "x@elsewhere.example");
    assert_eq!(
        (reply.code, reply.text.as_str()),
        (454, "4.7.1 <x@elsewhere.example>: Relay access denied")
    );
    let server = plain(
        "mynetworks = 192.0.2.0/24\nsmtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n",
    );
    let mut smtp = server.smtp();
    let reply = rcpt(&mut smtp, "x@elsewhere.example");
    assert_eq!(reply.code, 554);
    assert_eq!(
        reply.text,
        "5.7.1 <x@elsewhere.example>: Relay access denied"
    );
    // Source routes and percent signs are no way around.
    for trick in [
        "x%elsewhere.example@example.org",
        "@example.org:x@elsewhere.example",
        "elsewhere.example!x",
        "x@elsewhere.example@example.org",
        "\"x@elsewhere.example\"@example.org",
    ] {
        let reply = rcpt(&mut smtp, trick);
        assert!((500..600).contains(&reply.code), "{trick}: {reply:?}");
    }
    assert_eq!(rcpt(&mut smtp, "john@example.org").code, 250);
    assert!(
        server
            .wait_log("554 5.7.1 <x@elsewhere.example>: Relay access denied;")
            .contains("NOQUEUE: reject: RCPT from unknown[127.0.0.1]: ")
    );
}

#[test]
fn a_dangling_alias_is_refused_at_rcpt_and_the_log_says_why() {
    let server = plain("");
    let reply = rcpt(&mut server.smtp(), "dangling@example.org");
    assert_eq!(reply.code, 550, "{reply:?}");
    assert!(
        reply.text.starts_with("5.1.1 <dangling@example.org>: "),
        "{reply:?}"
    );
    let log = server.wait_log("gone@example.org");
    assert!(log.contains("dangling@example.org"), "{log}");
}

#[test]
fn a_dangling_alias_bounces_where_postfix_would_bounce_it() {
    let server = plain("postroom_resolve_at_rcpt = no");
    let text = message("bouncing");
    testkit::send_mail(
        server.port(),
        "john@example.org",
        &["dangling@example.org"],
        &text,
    );
    let report = wait_mail(&server, "john", "Undelivered Mail Returned to Sender");
    for line in [
        "Return-Path: <>",
        "From: Mail Delivery System <MAILER-DAEMON@host.example>",
        "Auto-Submitted: auto-replied",
        "Reporting-MTA: dns; mail.host.example",
        "Final-Recipient: rfc822; gone@example.org",
        "Original-Recipient: rfc822;dangling@example.org",
        "Action: failed",
        "Status: 5.1.1",
        "Content-Type: message/rfc822",
        "Subject: bouncing",
        "This is bouncing.",
    ] {
        assert!(
            report.lines().any(|found| found == line),
            "{line}\n{report}"
        );
    }
    let flat = report.replace("\n\t", " ").replace("\n    ", " ");
    assert!(
        flat.contains("Content-Type: multipart/report; report-type=delivery-status;"),
        "{report}"
    );
    wait_empty_queue(&server);
}

#[test]
fn nobody_is_told_of_the_failure_of_a_report() {
    let server = plain("postroom_resolve_at_rcpt = no");
    let text = message("from-nobody");
    let reply = testkit::send_mail(server.port(), "", &["dangling@example.org"], &text);
    let id = testkit::queue_id(&reply).expect("an id").to_owned();
    server.wait_log(&format!("{id}: removed"));
    wait_empty_queue(&server);
    assert!(server.log().contains("status=bounced"));
    assert!(!server.log().contains("sender non-delivery notification"));
    assert!(server.site.mailbox_files().is_empty());
}

#[test]
fn mail_that_cannot_leave_is_deferred_and_returned_when_it_expires() {
    let dead = testkit::dead_port();
    let server = plain(&format!(
        "default_transport = smtp:[127.0.0.1]:{dead}\nminimal_backoff_time = 1s\nmaximal_backoff_time = 1s\n\
         queue_run_delay = 1s\nmaximal_queue_lifetime = 3s\n"
    ));
    testkit::send_mail(
        server.port(),
        "john@example.org",
        &["x@elsewhere.example"],
        &message("late"),
    );
    let deferred = wait_deferred(&server, "x@elsewhere.example");
    assert!(deferred.contains("dsn=4.4.1"), "{deferred}");
    assert!(deferred.contains("Connection refused"), "{deferred}");
    let report = wait_mail(&server, "john", "Undelivered Mail Returned to Sender");
    for line in [
        "Final-Recipient: rfc822; x@elsewhere.example",
        "Action: failed",
        "Status: 4.4.1",
    ] {
        assert!(
            report.lines().any(|found| found == line),
            "{line}\n{report}"
        );
    }
    server.wait_log("status=expired, returned to sender");
    wait_empty_queue(&server);
}

/// What Postfix, Exim, Sendmail and others once took for the end of a message, or still do.
const SMUGGLING: &[&[u8]] = &[
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n\x00.\r\n",
    b"\n.\r",
    b"\r.\n",
    b"\r\n.\r\r\n",
];

#[test]
fn no_byte_sequence_smuggles_a_second_message() {
    for mode in ["", "no", "yes", "normalize", "reject"] {
        let setting = match mode {
            "" => String::new(),
            mode => format!("smtpd_forbid_bare_newline = {mode}"),
        };
        // Local clients are excluded from the check by default.
        let server = plain(&format!(
            "smtpd_forbid_bare_newline_exclusions =\n{setting}\n"
        ));
        let mut accepted = 0;
        for sequence in SMUGGLING {
            accepted += usize::from(smuggle(&server, sequence));
        }
        submit(&server, &["john@example.org"], "afterwards");
        wait_mail(&server, "john", "afterwards");
        wait_empty_queue(&server);
        let mail = maildir(&server, "john");
        assert_eq!(with_subject(&mail, "carrier"), accepted, "mode {mode:?}");
        assert_eq!(mail.len(), accepted + 1, "mode {mode:?}: {mail:#?}");
        assert!(maildir(&server, "jane").is_empty(), "mode {mode:?}");
        if mode != "reject" {
            assert_eq!(accepted, SMUGGLING.len(), "mode {mode:?}");
        }
    }
}

/// Sends a message with `sequence` in its middle and a whole transaction behind it. Whether it was taken.
fn smuggle(server: &MailServer, sequence: &[u8]) -> bool {
    let mut smtp = server.smtp();
    smtp.command(&format!("MAIL FROM:<{SENDER}>"), 250);
    smtp.command("RCPT TO:<john@example.org>", 250);
    smtp.command("DATA", 354);
    let mut bytes = b"Subject: carrier\r\n\r\nfirst".to_vec();
    bytes.extend_from_slice(sequence);
    bytes.extend_from_slice(
        b"MAIL FROM:<evil@sender.example>\r\nRCPT TO:<jane@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil\r\n.\r\n",
    );
    smtp.send(&bytes);
    let reply = smtp.reply();
    if reply.code != 250 {
        assert!((500..600).contains(&reply.code), "{sequence:?}: {reply:?}");
        return false;
    }
    // The next reply is the one to QUIT: nothing else was taken for a command.
    smtp.command("QUIT", 221);
    assert!(smtp.at_end());
    true
}

#[test]
fn junk_harms_nobody() {
    let server = plain("smtpd_error_sleep_time = 0");
    let all: Vec<u8> = (0..=255).collect();
    let junk: Vec<Vec<u8>> = vec![
        all.repeat(400),
        vec![0; 100_000],
        vec![b'a'; 300_000],
        b"\r\n".repeat(5_000),
        b"\n\r\n\r\r\r\n".repeat(1_000),
        b"GET / HTTP/1.1\r\nHost: mail.host.example\r\n\r\n".to_vec(),
        // The first bytes of a TLS handshake.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50),
        b"EHLO \xff\xfe\x00\r\nMAIL FROM:<\xf0\x9f\xff>\r\nRCPT TO:<\x00>\r\nDATA\r\n.\r\n"
            .to_vec(),
        format!("EHLO {}\r\n", "x".repeat(50_000)).into_bytes(),
        format!("MAIL FROM:<{}>\r\n", "(".repeat(20_000)).into_bytes(),
        format!("MAIL FROM:<{}@x>\r\n", "\"".repeat(9_999)).into_bytes(),
    ];
    for bytes in junk {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connects");
        // The server may hang up in the middle; that is its right.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.starts_with(b"220 ") || answer.is_empty());
    }
    submit(&server, &["john@example.org"], "after-junk");
    wait_mail(&server, "john", "after-junk");
    assert!(!server.log().contains("panic"), "{}", server.log());
}

#[test]
fn a_client_that_disappears_leaves_nothing_behind() {
    let server = plain("");
    let dialogue = format!(
        "EHLO client.example\r\nMAIL FROM:<{SENDER}>\r\nRCPT TO:<john@example.org>\r\nDATA\r\n\
         Subject: cut off\r\n\r\nbody\r\n..\r\n.\r\n"
    );
    let dialogue = dialogue.as_bytes();
    for end in 0..dialogue.len() {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connects");
        stream.write_all(&dialogue[..end]).expect("sends");
        if end % 2 == 0 {
            // An orderly end of what we send, and a look at the answers.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answers = String::new();
            let _ = stream.read_to_string(&mut answers);
            assert!(!answers.contains("queued as"), "{end}: {answers}");
        }
        // Otherwise the kernel resets the connection: answers are unread.
    }
    server.wait_log("lost connection after");
    submit(&server, &["john@example.org"], "whole");
    wait_mail(&server, "john", "whole");
    wait_empty_queue(&server);
    assert_eq!(maildir(&server, "john").len(), 1);
    assert!(!server.log().contains("panic"), "{}", server.log());
}

#[test]
fn a_message_that_comes_in_small_pieces_is_the_same() {
    let server = plain("");
    let mut smtp = server.smtp();
    smtp.command(&format!("MAIL FROM:<{SENDER}>"), 250);
    smtp.command("RCPT TO:<john@example.org>", 250);
    smtp.command("DATA", 354);
    let text = message("in-pieces").replace('\n', "\r\n");
    for piece in text.as_bytes().chunks(3) {
        smtp.send(piece);
        // So that the server reads the pieces one by one.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    smtp.command(".", 250);
    let mail = wait_mail(&server, "john", "in-pieces");
    assert!(
        mail.ends_with(&format!(" (UTC)\n{}", message("in-pieces"))),
        "{mail}"
    );
}

#[test]
fn half_of_a_large_message_is_thrown_away() {
    let server = plain("");
    let folder = server.site.spool().join("postroom/incoming");
    let half_written = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
    let mut smtp = server.smtp();
    smtp.command(&format!("MAIL FROM:<{SENDER}>"), 250);
    smtp.command("RCPT TO:<john@example.org>", 250);
    smtp.command("DATA", 354);
    smtp.send("Subject: large\r\n\r\n");
    smtp.send("0123456789\r\n".repeat(300_000));
    testkit::wait_for("the file of a large message", PATIENCE, || {
        (half_written() == 1).then_some(())
    });
    drop(smtp);
    testkit::wait_for("its removal", PATIENCE, || {
        (half_written() == 0).then_some(())
    });
    assert!(is_queue_empty(&server));
    assert!(server.site.mailbox_files().is_empty());
}

#[test]
fn messages_beyond_the_size_limit_are_refused() {
    let server = plain("message_size_limit = 2000");
    let mut smtp = Smtp::connect(server.port());
    smtp.expect(220);
    let greeting = smtp.command("EHLO client.example", 250);
    assert!(greeting.text.lines().any(|line| line == "SIZE 2000"));
    let reply = smtp.command(&format!("MAIL FROM:<{SENDER}> SIZE=2001"), 552);
    assert_eq!(reply.text, "5.3.4 Message size exceeds fixed limit");
    let body = format!("{}{}", message("large"), "0123456789\n".repeat(300));
    let (_, reply) = smtp.message(SENDER, &["john@example.org"], &body);
    let reply = reply.expect("the recipient was taken");
    assert_eq!(
        (reply.code, reply.text.as_str()),
        (552, "5.3.4 Error: message file too big")
    );
    // The same session goes on.
    let (_, reply) = smtp.message(SENDER, &["john@example.org"], &message("small"));
    assert_eq!(reply.expect("taken").code, 250);
    wait_mail(&server, "john", "small");
    assert_eq!(maildir(&server, "john").len(), 1);
}

#[test]
fn a_message_that_goes_round_in_circles_is_stopped() {
    let server = plain("hopcount_limit = 5");
    // As many as Postfix takes: ours counts, and the limit itself is one too many.
    for (hops, code) in [(4, 250), (5, 554)] {
        let received = "Received: from a by b; Sun, 22 Nov 2026 12:00:00 +0000\n".repeat(hops - 1);
        let body = format!("{received}{}", message("hops"));
        let (_, reply) = server.smtp().message(SENDER, &["john@example.org"], &body);
        let reply = reply.expect("the recipient was taken");
        assert_eq!(reply.code, code, "{hops} hops with ours: {reply:?}");
        if code == 554 {
            assert_eq!(reply.text, "5.4.0 Error: too many hops");
        }
    }
    wait_mail(&server, "john", "hops");
    assert_eq!(maildir(&server, "john").len(), 1);
}

#[test]
fn the_queue_tools_work_on_the_running_server() {
    // The next hop is a second Postroom, which is down at first.
    let hop = plain_site("");
    let first = Site::with_next_hop(hop.smtp_port);
    let server = start(first);
    let held = submit(&server, &["john@example.org"], "held");
    let deleted = submit(&server, &["jane@example.org"], "deleted");
    let tried = submit(&server, &["jim@example.org", "jane@example.org"], "tried");
    for user in ["john", "jane", "jim"] {
        wait_deferred(&server, &format!("{user}@example.org"));
    }
    let list = server.run_tool("postqueue", &["-p"]);
    assert!(
        list.starts_with("-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------\n")
    );
    for part in [&held, &deleted, &tried, SENDER, "Connection refused"] {
        assert!(list.contains(part), "{part}\n{list}");
    }
    assert!(list.contains("in 3 Requests."), "{list}");
    assert_eq!(server.run_tool("mailq", &[]), list);
    assert_eq!(queue_names(&server), [("deferred".to_owned(), 3)]);

    server.run_tool("postsuper", &["-h", &held]);
    assert_eq!(
        queue_names(&server),
        [("deferred".to_owned(), 2), ("hold".to_owned(), 1)]
    );
    assert!(
        server
            .run_tool("postqueue", &["-p"])
            .contains(&format!("{held}!"))
    );
    let content = server.run_tool("postcat", &["-q", &held]);
    for line in [
        format!("sender: {SENDER}"),
        "recipient: john@example.org".to_owned(),
        "This is held.".to_owned(),
    ] {
        assert!(
            content.lines().any(|found| found == line),
            "{line}\n{content}"
        );
    }
    assert_eq!(server.recipients(&tried).len(), 2);
    server.run_tool("postsuper", &["-d", &deleted]);
    assert!(!server.run_tool("postqueue", &["-p"]).contains(&deleted));

    let hop = start(hop);
    server.run_tool("postqueue", &["-f"]);
    wait_mail(&hop, "jim", "tried");
    wait_mail(&hop, "jane", "tried");
    server.wait_log(&format!("{tried}: removed"));
    assert_eq!(queue_names(&server), [("hold".to_owned(), 1)]);
    assert!(maildir(&hop, "john").is_empty());
    server.run_tool("postsuper", &["-H", &held]);
    wait_mail(&hop, "john", "held");
    wait_empty_queue(&server);
    assert_eq!(hop.site.mailbox_files().len(), 3);
}

#[test]
fn what_would_have_been_refused_is_logged() {
    let server = plain(
        "smtpd_recipient_restrictions = warn_if_reject reject, check_recipient_access inline:{{john@example.org=WARN watch this}}",
    );
    assert_eq!(rcpt(&mut server.smtp(), "john@example.org").code, 250);
    server.wait_log("NOQUEUE: reject_warning: RCPT from unknown[127.0.0.1]: 554 5.7.1 <john@example.org>: Recipient address rejected: Access denied; from=<");
    server.wait_log("NOQUEUE: warn: RCPT from unknown[127.0.0.1]: watch this; from=<");
}

#[test]
fn a_requeued_message_takes_the_new_route() {
    let hop = start(plain_site(""));
    let server = start(Site::with_next_hop(testkit::dead_port()));
    let id = submit(&server, &["john@example.org"], "requeued");
    wait_deferred(&server, "john@example.org");
    let next_hop = format!("relayhost=[127.0.0.1]:{}", hop.port());
    server.run_tool("postconf", &["-e", &next_hop]);
    server.wait_log("reload -- configuration");
    server.run_tool("postsuper", &["-r", &id]);
    wait_mail(&hop, "john", "requeued");
    wait_empty_queue(&server);
    assert_eq!(hop.site.mailbox_files().len(), 1);
}

#[test]
fn a_requeued_message_goes_through_the_aliases_again() {
    let server = plain("smtpd_data_restrictions = check_client_access static:HOLD");
    let id = submit(&server, &["team@example.org"], "requeued");
    let aliases = format!("{ALIASES}john@example.org jim@example.org\n");
    std::fs::write(server.site.conf().join("aliases"), aliases).expect("the aliases are written");
    server.wait_log("reload -- configuration");
    server.run_tool("postsuper", &["-r", &id]);
    wait_mail(&server, "jane", "requeued");
    wait_mail(&server, "jim", "requeued");
    wait_empty_queue(&server);
    assert_eq!(
        server.site.mailbox_files().len(),
        2,
        "one for jane, one for jim"
    );
}

/// Names of queues and how many messages they hold, from `postqueue -j`.
fn queue_names(server: &MailServer) -> Vec<(String, usize)> {
    let mut names = std::collections::BTreeMap::new();
    for line in server.run_tool("postqueue", &["-j"]).lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let name = value["queue_name"].as_str().expect("text").to_owned();
        *names.entry(name).or_insert(0) += 1;
    }
    names.into_iter().collect()
}

/// A site of a relay in front of another server.
struct Site;

impl Site {
    fn with_next_hop(port: u16) -> testkit::Site {
        testkit::Site::new(
            &format!("mydestination =\nlocal_recipient_maps =\nrelayhost = [127.0.0.1]:{port}\n"),
            "",
            &[],
        )
    }
}

#[test]
fn a_thousand_idle_connections_leave_room_for_mail() {
    // As services are started by default: a soft limit of 1024 files, a much higher hard one.
    let site = plain_site("");
    let conf = site.conf().display().to_string();
    let script = format!("ulimit -Sn 512; exec {BINARY} serve -c {conf}");
    let server = MailServer::start(
        site,
        std::path::Path::new("/bin/sh"),
        &["-c", &script],
        None,
    );
    let mut idle: Vec<Smtp> = (0..1000).map(|_| Smtp::connect(server.port())).collect();
    for smtp in &mut idle {
        smtp.expect(220);
    }
    submit(&server, &["john@example.org"], "crowded");
    wait_mail(&server, "john", "crowded");
    // The idle ones are still served.
    for smtp in idle.iter_mut().step_by(100) {
        smtp.command("EHLO client.example", 250);
        smtp.command("QUIT", 221);
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let site = testkit::Site::bare(
        "myhostname = mail.host.example\nqueue_directory = @DIR@/spool\nmaillog_file = /nowhere/mail.log\n\
         no equals sign here\n\
         message_size_limit = big\nsmtpd_helo_required = maybe\nsmtpd_timeout = 5parsecs\n\
         smtpd_banner = ${oops\nmynetworks_style = everywhere\nsmtpd_tls_security_level = perhaps\n\
         smtpd_client_restrictions = reject_nonsense\nsmtpd_sender_restrictions = check_sender_access\n\
         maximal_queue_lifetime = 5y\nsmtpd_forbid_bare_newline = sometimes\na = $b\nb = $a\nrelay_domains = $a\n\
         default_process_limit = -3\n",
        "127.0.0.1:0 inet n - n - - smtpd\nshort inet n\n\
         127.0.0.1:nosuchport inet n - n - - smtpd\n\
         submission inet n - n - - smtpd -o smtpd_tls_auth_only=dunno -o smtpd_recipient_restrictions=rejekt\n",
        &[],
    );
    let conf = site.conf().display().to_string();
    let output = postroom(&["serve", "-c", &conf]);
    assert_eq!(output.status.code(), Some(78));
    let told = text(&output.stderr);
    for expected in [
        "maillog_file = /nowhere/mail.log: not below one of maillog_file_prefixes",
        "main.cf:4: missing '=' after attribute name: \"no equals sign here\"; write ",
        "main.cf:5: message_size_limit = big: not a number; write ",
        "main.cf:6: smtpd_helo_required = maybe: not a boolean; write ",
        "main.cf:7: smtpd_timeout = 5parsecs: not a time; write ",
        "main.cf:8: smtpd_banner = ${oops: truncated macro reference",
        "main.cf:9: mynetworks_style = everywhere: unknown word \"everywhere\"; write one of: ",
        "main.cf:10: smtpd_tls_security_level = perhaps: unknown TLS level; use one of: ",
        "main.cf:11: smtpd_client_restrictions = reject_nonsense: unknown smtpd restriction",
        "main.cf:12: smtpd_sender_restrictions = check_sender_access: check_sender_access needs a table",
        "main.cf:13: maximal_queue_lifetime = 5y: not a time",
        "main.cf:14: smtpd_forbid_bare_newline = sometimes: ",
        "its value refers to itself; break the cycle",
        "main.cf:18: default_process_limit = -3: below zero",
        "master.cf:2: bad field count; an entry has eight fields",
        "master.cf:3: unknown service \"nosuchport\"; write port",
        "master.cf:4: smtpd_tls_auth_only = dunno: not a boolean",
        "master.cf:4: smtpd_recipient_restrictions = rejekt: unknown smtpd restriction",
    ] {
        assert_eq!(told.matches(expected).count(), 1, "{expected}\n{told}");
    }
}

#[test]
fn a_change_with_mistakes_is_refused_with_all_of_them() {
    let server = plain("");
    let main_cf = server.site.conf().join("main.cf");
    let good = std::fs::read_to_string(&main_cf).unwrap();
    let bad =
        "message_size_limit = big\nsmtpd_timeout = soon\nsmtpd_sender_restrictions = nonsense\n";
    std::fs::write(&main_cf, format!("{good}{bad}")).unwrap();
    server.wait_log("the new configuration is not taken over; the old settings stay");
    let log = server.log();
    for expected in [
        "message_size_limit = big: not a number",
        "smtpd_timeout = soon: not a time",
        "smtpd_sender_restrictions = nonsense: unknown smtpd restriction",
    ] {
        assert!(log.contains(expected), "{expected}\n{log}");
    }
    submit(&server, &["john@example.org"], "still-there");
    wait_mail(&server, "john", "still-there");
}

#[test]
fn what_is_not_supported_is_said_once_with_what_follows() {
    let site = testkit::Site::new(
        &format!(
            "{PLAIN}debug_peer_list = 192.0.2.1\ndebug_peer_level = 3\nmax_use = 10\nsmtpd_bannner = x\n"
        ),
        "policy unix - n n - 0 frobnicate argv=/bin/true\n\
         cleanup2 unix n - n - 0 cleanup\n",
        &[("users", USERS), ("aliases", ALIASES)],
    );
    let server = start(site);
    let expected = [
        ": not supported: debug_peer_level (main.cf:",
        "): nothing is logged in more detail",
        ": no such parameter: smtpd_bannner (main.cf:",
        ": service policy/unix (frobnicate) (master.cf:",
        "): not supported: the program is not started",
        ": without effect here, and harmless (`postroom check --settings` says why): ",
    ];
    let told = |count: usize| {
        let log = server.log();
        for text in expected {
            assert_eq!(log.matches(text).count(), count, "{text}\n{log}");
        }
        assert!(!log.contains("cleanup2"), "{log}");
    };
    server.wait_log("daemon started");
    told(1);
    // A reload tells only what is new.
    server.run_tool("postconf", &["-e", "debugger_command = x"]);
    server.wait_log("reload -- configuration");
    let log = server.log();
    assert_eq!(
        log.matches("debug_peer_level (main.cf:").count(),
        1,
        "{log}"
    );
}

#[test]
fn behind_postscreen_is_an_smtpd() {
    let port = testkit::free_port();
    let site = testkit::Site::new(
        PLAIN,
        &format!(
            "127.0.0.1:{port} inet n - n - 1 postscreen\nsmtpd pass - - n - - smtpd -o smtpd_banner=behind\n"
        ),
        &[("users", USERS), ("aliases", ALIASES)],
    );
    let server = start(site);
    let mut smtp = Smtp::connect(port);
    assert_eq!(smtp.expect(220).text, "behind");
    smtp.command("EHLO client.example", 250);
    assert_eq!(rcpt(&mut smtp, "john@example.org").code, 250);
    let log = server.wait_log("Postroom has no postscreen; smtpd listens there");
    assert!(log.contains(&format!("127.0.0.1:{port}/inet")), "{log}");
}

#[test]
fn spawn_runs_a_command_for_each_connection() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("needs root, to become another user");
        return;
    }
    let port = testkit::free_port();
    let site = testkit::Site::new(
        &format!("{PLAIN}ask_time_limit = 1s\n"),
        &format!(
            "ask unix - n n - 0 spawn user=nobody argv=/bin/sh -c {{id -un; read line; echo \"[$line]\"; sleep 60}}\n\
             127.0.0.1:{port} inet n n n - 0 spawn user=nobody argv=/bin/cat\n\
             lost unix - n n - 0 spawn user=no-such-user argv=/bin/cat\n"
        ),
        &[("users", USERS), ("aliases", ALIASES)],
    );
    let server = start(site);
    let log = server.wait_log("service lost/unix: nothing listens there: ");
    assert!(log.contains("unknown username: no-such-user"), "{log}");
    // The command's own user, its input and output, and its end at the time limit.
    let socket = server.site.spool().join("private/ask");
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("it listens");
    stream.write_all(b"hello\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "nobody\n[hello]\n");
    server.wait_log("command /bin/sh: time limit of 1 s exceeded");
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    tcp.write_all(b"echo\n").unwrap();
    tcp.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "echo\n");
    // A reload takes it away, and gives it back.
    let master = server.site.conf().join("master.cf");
    let before = std::fs::read_to_string(&master).unwrap();
    let without: Vec<&str> = before
        .lines()
        .filter(|line| !line.starts_with("ask "))
        .collect();
    std::fs::write(&master, without.join("\n") + "\n").unwrap();
    testkit::wait_for("the end of the socket", PATIENCE, || {
        (!socket.exists()).then_some(())
    });
    std::fs::write(&master, before).unwrap();
    testkit::wait_for("the socket", PATIENCE, || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
}

#[test]
fn the_process_limit_is_one_of_sessions() {
    let port = testkit::free_port();
    let site = testkit::Site::new(
        PLAIN,
        &format!("127.0.0.1:{port} inet n - n - 2 smtpd\n"),
        &[("users", USERS), ("aliases", ALIASES)],
    );
    let server = start(site);
    let (mut first, _second) = (Smtp::hello(port), Smtp::hello(port));
    // The third waits for one of them to end.
    let mut third = Smtp::connect(port);
    let log = server.wait_log("has reached its process limit \"2\"");
    assert!(
        log.contains(&format!("service \"127.0.0.1:{port}\"")),
        "{log}"
    );
    first.command("QUIT", 221);
    third.expect(220);
    third.command("QUIT", 221);
}
