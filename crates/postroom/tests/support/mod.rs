//! What the end-to-end tests of the binary share: a running Postroom on a site of its own, and looks at its mail.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use testkit::{MailServer, Site, Smtp, wait_for};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_postroom");

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A sender elsewhere.
pub const SENDER: &str = "s@sender.example";

/// example.org with the mailboxes john, jane and jim in Maildirs, and a few aliases; no peer is needed.
/// Mail to other domains goes nowhere (a port that refuses).
pub const PLAIN: &str = "\
virtual_mailbox_domains = example.org
virtual_mailbox_maps = texthash:@CONF@/users
virtual_alias_maps = texthash:@CONF@/aliases
default_transport = discard:nothing leaves this test
";

pub const USERS: &str = "\
john@example.org example.org/john/
jane@example.org example.org/jane/
jim@example.org example.org/jim/
";

pub const ALIASES: &str = "\
team@example.org john@example.org, jane@example.org, jim@example.org
dangling@example.org gone@example.org
";

/// Postroom on [`PLAIN`] followed by `main_cf`.
pub fn plain(main_cf: &str) -> MailServer {
    start(plain_site(main_cf))
}

pub fn plain_site(main_cf: &str) -> Site {
    let files = [("users", USERS), ("aliases", ALIASES)];
    Site::new(&format!("{PLAIN}{main_cf}"), "", &files)
}

pub fn start(site: Site) -> MailServer {
    MailServer::postroom(Path::new(BINARY), site)
}

/// Runs `postroom …` to its end.
pub fn postroom(arguments: &[&str]) -> Output {
    let output = Command::new(BINARY).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{BINARY}: {error}"))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A complete small message.
pub fn message(subject: &str) -> String {
    format!(
        "From: Sender <{SENDER}>\nTo: somebody\nSubject: {subject}\nDate: Sun, 22 Nov 2026 12:00:00 +0000\n\
         Message-Id: <{subject}@sender.example>\n\nThis is {subject}.\n"
    )
}

/// The messages whose `Subject:` is `subject`.
pub fn with_subject(mailbox: &[String], subject: &str) -> usize {
    let line = format!("Subject: {subject}");
    let has = |text: &&String| text.lines().any(|found| found.trim_end() == line);
    mailbox.iter().filter(has).count()
}

/// The Maildir of a user of [`PLAIN`].
pub fn maildir(server: &MailServer, user: &str) -> Vec<String> {
    server.site.maildir(&format!("example.org/{user}"))
}

/// Waits until the user has a message with this subject; returns it.
pub fn wait_mail(server: &MailServer, user: &str, subject: &str) -> String {
    let line = format!("Subject: {subject}");
    wait_for(&format!("{subject:?} for {user}"), PATIENCE, || {
        let found = maildir(server, user).into_iter();
        found
            .into_iter()
            .find(|text| text.lines().any(|found| found == line))
    })
}

/// Waits until the queue is empty.
pub fn wait_empty_queue(server: &MailServer) {
    wait_for("an empty queue", PATIENCE, || {
        is_queue_empty(server).then_some(())
    });
}

pub fn is_queue_empty(server: &MailServer) -> bool {
    server.run_tool("postqueue", &["-p"]) == "Mail queue is empty\n"
}

/// Waits until the log says that a message for `recipient` was deferred; the line.
pub fn wait_deferred(server: &MailServer, recipient: &str) -> String {
    let to = format!("to=<{recipient}>");
    wait_for(&format!("the deferral of {recipient}"), PATIENCE, || {
        let log = server.log();
        let mut lines = log.lines();
        lines
            .find(|line| line.contains(&to) && line.contains("status=deferred"))
            .map(str::to_owned)
    })
}

/// The reply to RCPT in a transaction that is dropped afterwards.
pub fn rcpt(smtp: &mut Smtp, recipient: &str) -> testkit::smtp::Reply {
    smtp.command(&format!("MAIL FROM:<{SENDER}>"), 250);
    let reply = smtp.ask(&format!("RCPT TO:<{recipient}>"));
    smtp.command("RSET", 250);
    reply
}

/// Puts a small message into the queue; its id.
pub fn submit(server: &MailServer, recipients: &[&str], subject: &str) -> String {
    let reply = testkit::send_mail(server.port(), SENDER, recipients, &message(subject));
    let id = testkit::queue_id(&reply);
    id.unwrap_or_else(|| panic!("no queue id in {reply:?}"))
        .to_owned()
}

/// Everything that differs between two runs of a message: times, queue ids, ports, file names.
pub fn mask(text: &str, id: &str) -> String {
    let mut masked = String::new();
    for line in text.lines() {
        // `Message-Id: <20261122164726.ID@host>` has the time, too.
        let line = match line.split_once(&format!(".{id}@")) {
            Some((_, rest)) => format!("Message-Id: <TIME.ID@{rest}"),
            None => line.replace(id, "ID"),
        };
        // `From s@sender.example  Sun Nov 22 17:27:11 2026`, as mbox and pipe's F flag have it.
        let line = match line.split_once("  ") {
            Some((from, _)) if from.starts_with("From ") => format!("{from}  DATE"),
            _ => line,
        };
        let words: Vec<&str> = line.split(' ').collect();
        let is_day = |word: &str| {
            ["Mon,", "Tue,", "Wed,", "Thu,", "Fri,", "Sat,", "Sun,"]
                .iter()
                .any(|day| word.trim_start() == *day)
        };
        match words.iter().position(|word| is_day(word)) {
            // `Sun, 22 Nov 2026 12:00:00 +0000 (UTC)`
            Some(at) => {
                let lead = &words[at][..words[at].len() - 4];
                let zone = words.get(at + 5..).unwrap_or_default();
                masked += &format!("{} {lead}DATE {}\n", words[..at].join(" "), zone.join(" "));
            }
            None => masked += &format!("{line}\n"),
        }
    }
    masked
}

/// Lines of dovecot.conf that let wrong passwords fail at once, for mechanisms of all kinds.
pub const PROMPT_AUTH: &str = "\
auth_mechanisms = plain login cram-md5 scram-sha-256 xoauth2 anonymous
auth_anonymous_username = anonymous
auth_failure_delay = 0
service anvil {
 unix_listener anvil-auth-penalty {
  mode = 0
 }
}
";
