//! Milters that people use, behind Postroom: rspamd, opendkim, and one on libmilter that changes everything there is to change.

mod support;

use std::path::Path;

use support::BINARY;
use testkit::{
    GTUBE, MailServer, OpenDkim, OpenDkimRole, PythonMilter, Rspamd, Site, TempDir, peers, wait_for,
};

const MAIN: &str = "virtual_mailbox_domains = example.org
virtual_mailbox_maps = inline:{john@example.org=john/, jane@example.org=jane/, jim@example.org=jim/}
virtual_alias_maps = inline:{{team@example.org=jane@example.org, jim@example.org}}
";

fn server(settings: &str) -> MailServer {
    let site = Site::new(&format!("{MAIN}{settings}\n"), "", &[]);
    MailServer::postroom(Path::new(BINARY), site)
}

/// Sends a message from Jane to John; the reply to its end.
fn send(server: &MailServer, body: &str) -> String {
    let message = format!(
        "From: jane@example.org\nTo: john@example.org\nSubject: s\nMessage-Id: <1@example.org>\nDate: Wed, 25 Nov 2026 12:00:00 +0000\n\n{body}\n"
    );
    let mut smtp = server.smtp();
    let (_, end) = smtp.message("jane@example.org", &["john@example.org"], &message);
    let end = end.expect("the recipient is known");
    format!("{} {}", end.code, end.text)
}

/// What has come to a mailbox, once something has.
fn delivered(server: &MailServer, mailbox: &str) -> String {
    wait_for("a message in the mailbox", support::PATIENCE, || {
        server.site.maildir(mailbox).pop()
    })
}

#[test]
fn rspamd_refuses_spam_and_signs_mail() {
    if !peers() {
        return;
    }
    let mut rspamd = Rspamd::start(&["example.org"]);
    let server = server(&format!(
        "smtpd_milters = {}\nmilter_default_action = tempfail\nmilter_mail_macros = i {{mail_addr}} {{client_addr}} {{client_name}} {{auth_authen}}",
        rspamd.endpoint()
    ));
    let reply = send(&server, GTUBE);
    assert!(reply.starts_with("554 "), "{reply}\n{}", rspamd.log());
    server.wait_log("milter-reject: END-OF-MESSAGE from unknown[127.0.0.1]: 5.7.1 Gtube pattern; from=<jane@example.org> to=<john@example.org> proto=ESMTP");
    let reply = send(&server, "a good message\n.\n..dots");
    assert!(reply.starts_with("250 "), "{reply}");
    let message = delivered(&server, "john");
    let signature = "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=mail;";
    assert!(message.contains(signature), "{message}\n{}", rspamd.log());
    assert!(message.contains("X-Spamd-Bar: "), "{message}");
    // The signature is good, by opendkim's word.
    let record = rspamd.dkim_record("example.org");
    let keys = format!("mail._domainkey.example.org {record}\n");
    assert_eq!(verified(&keys, &message), "pass");
    let broken = message.replace("a good message", "a bad message");
    assert_eq!(verified(&keys, &broken), "fail");
    // Without rspamd mail waits at its sender's.
    rspamd.kill();
    let reply = server.smtp().ask("MAIL FROM:<jane@example.org>");
    assert_eq!(reply.code, 451, "{}", reply.text);
    rspamd.start_again();
    assert!(send(&server, "another one").starts_with("250 "));
}

/// What a second opendkim says of the signature, by way of a Postroom of its own.
fn verified(keys: &str, message: &str) -> String {
    let keys = keys.to_owned();
    let verifier = OpenDkim::start(&OpenDkimRole::Verify { keys });
    let server = server(&format!("smtpd_milters = {}", verifier.endpoint()));
    let mut smtp = server.smtp();
    let (_, end) = smtp.message("jane@example.org", &["john@example.org"], message);
    assert_eq!(end.map(|end| end.code), Some(250));
    let message = delivered(&server, "john");
    let result = message.split("dkim=").nth(1).unwrap_or_default();
    result
        .split([' ', '\n', ';'])
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn opendkim_signs_what_a_milter_before_it_has_changed() {
    if !peers() {
        return;
    }
    let domain = "example.org".to_owned();
    let signer = OpenDkim::start(&OpenDkimRole::Sign { domain });
    let changer = PythonMilter::start(CHANGER, &[]);
    let settings = format!(
        "smtpd_milters = {} {}",
        changer.endpoint(),
        signer.endpoint()
    );
    let server = server(&settings);
    assert!(send(&server, "text").starts_with("250 "));
    let message = delivered(&server, "jane");
    assert!(message.contains("DKIM-Signature: "), "{message}");
    assert!(message.contains("the new body"), "{message}");
    assert_eq!(
        verified(&signer.public_key("example.org"), &message),
        "pass"
    );
}

#[test]
fn a_milter_changes_all_there_is() {
    if !peers() {
        return;
    }
    let milter = PythonMilter::start(CHANGER, &[]);
    let server = server(&format!("smtpd_milters = {}", milter.endpoint()));
    assert!(send(&server, "text").starts_with("250 "));
    let message = delivered(&server, "jane");
    // John was taken off the list.
    delivered(&server, "jim");
    assert_eq!(server.site.maildir("john"), Vec::<String>::new());
    let (header, body) = message.split_once("\n\n").expect("it has a header");
    let lines: Vec<&str> = header.lines().collect();
    assert!(
        lines[0].starts_with("Return-Path: <changed@example.org>"),
        "{message}"
    );
    for expected in [
        "X-Added: at the end",
        "X-First: above all",
        "Subject: changed",
    ] {
        assert!(lines.contains(&expected), "{expected}: {message}");
    }
    assert!(!header.contains("\nDate: "), "{message}");
    let first = lines.iter().position(|line| line.starts_with("X-First:"));
    let received = lines.iter().position(|line| line.starts_with("Received:"));
    assert!(first < received, "{message}");
    assert_eq!(body, "the new body\nin two lines\n");
    let events = milter.events();
    for expected in [
        "connect [127.0.0.1]",
        "mail <jane@example.org>",
        "rcpt <john@example.org>",
        "body b'text\\r\\n'",
    ] {
        assert!(events.contains(expected), "{expected}: {events}");
    }
    assert!(!events.contains("header Received"), "{events}");
}

#[test]
fn a_large_message_goes_to_the_milter_and_back() {
    if !peers() {
        return;
    }
    let milter = PythonMilter::start(COUNTER, &[]);
    let server = server(&format!("smtpd_milters = {}", milter.endpoint()));
    let line = "0123456789012345678901234567890123456789\n";
    let body = line.repeat(100_000);
    assert!(send(&server, &body).starts_with("250 "));
    let message = delivered(&server, "john");
    assert!(
        message.contains(&format!("X-Size: {}\n", body.len() + 100_001 + 1)),
        "{}",
        &message[..2000]
    );
    let (_, stored) = message.split_once("\n\n").expect("it has a header");
    assert_eq!(stored.trim_end(), body.trim_end());
    let folder = server.site.spool().join("postroom/incoming");
    wait_for("an empty incoming folder", support::PATIENCE, || {
        let left = std::fs::read_dir(&folder).ok()?.count();
        (left == 0).then_some(())
    });
}

#[test]
fn a_milter_that_hangs_leads_to_the_default_action() {
    if !peers() {
        return;
    }
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let port = silent.local_addr().expect("it is bound").port();
    let server = server(&format!(
        "smtpd_milters = {{ inet:127.0.0.1:{port}, connect_timeout=1s, default_action=accept }}"
    ));
    assert!(send(&server, "text").starts_with("250 "));
    server.wait_log("can't read SMFIC_OPTNEG reply packet header: Connection timed out");
    delivered(&server, "john");
}

#[test]
fn a_socket_is_found_below_the_queue_directory() {
    if !peers() {
        return;
    }
    let dir = TempDir::new();
    let socket = dir.join("rspamd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("the folder is ours");
    let server = server("smtpd_milters = unix:private/milter");
    let reply = server.smtp().ask("MAIL FROM:<jane@example.org>");
    assert_eq!(reply.code, 451, "{}", reply.text);
    server.wait_log("connect to Milter service unix:private/milter: No such file or directory");
    let link = server.site.spool().join("private/milter");
    std::os::unix::fs::symlink(&socket, link).expect("the folder is there");
    drop(listener);
    let reply = server.smtp().ask("MAIL FROM:<jane@example.org>");
    assert_eq!(reply.code, 451, "{}", reply.text);
    server.wait_log("connect to Milter service unix:private/milter: Connection refused");
}

/// Changes the sender, the recipients, headers and the body; notes what it was told.
const CHANGER: &str = r#"
import os, sys, Milter
def note(*words):
    open(os.environ["EVENTS"], "a").write(" ".join(str(word) for word in words) + "\n")
class M(Milter.Base):
    def connect(self, name, *rest): note("connect", name); return Milter.CONTINUE
    def envfrom(self, sender, *words): note("mail", sender); return Milter.CONTINUE
    def envrcpt(self, rcpt, *words): note("rcpt", rcpt); return Milter.CONTINUE
    def header(self, name, value): note("header", name, value); return Milter.CONTINUE
    def body(self, chunk): note("body", chunk); return Milter.CONTINUE
    def eom(self):
        self.addheader("X-Added", "at the end")
        self.addheader("X-First", "above all", 0)
        self.chgheader("Subject", 1, "changed")
        self.chgheader("Date", 1, "")
        self.addrcpt("<team@example.org>")
        self.delrcpt("<john@example.org>")
        self.chgfrom("<changed@example.org>")
        self.replacebody(b"the new body\r\nin two ")
        self.replacebody(b"lines\r\n")
        return Milter.ACCEPT
Milter.factory = M
Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS | Milter.CHGBODY | Milter.ADDRCPT | Milter.DELRCPT | Milter.CHGFROM)
Milter.runmilter("m", sys.argv[1], 0)
"#;

/// Counts the bytes of the body.
const COUNTER: &str = r#"
import sys, Milter
class M(Milter.Base):
    def envfrom(self, sender, *words): self.size = 0; return Milter.CONTINUE
    def body(self, chunk): self.size += len(chunk); return Milter.CONTINUE
    def eom(self): self.addheader("X-Size", str(self.size)); return Milter.CONTINUE
Milter.factory = M
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("m", sys.argv[1], 0)
"#;
