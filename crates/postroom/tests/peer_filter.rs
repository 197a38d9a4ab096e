//! Header and body checks, and milters: the dialogues of the suites under real Postfix and under Postroom.

#[path = "support/side_by_side.rs"]
mod side_by_side;
mod support;

use side_by_side::{Peers, Suite};
use testkit::{MailServer, Postfix, PythonMilter, Site, free_port};

#[test]
fn header_and_body_checks_are_postfixs() {
    if !testkit::peers() {
        return;
    }
    assert!(Suite::read("checks").compare() >= 30);
}

#[test]
fn milters_decide_as_with_postfix() {
    if !testkit::peers() {
        return;
    }
    assert!(Suite::read("milters").compare_with(milters) >= 30);
}

/// What each milter of the suite answers: `LETTER=REPLY,REPLY` for an event, everything else with "continue".
/// `@M:NAME@` in the suite is the milter's place.
const MILTERS: &[(&str, &str)] = &[
    ("good", ""),
    ("connect-reject", "C=r"),
    ("connect-code", r"C=y550 5.7.1 go away\0"),
    ("connect-tempfail", "C=t"),
    ("connect-shutdown", "C=4"),
    ("connect-accept", "C=a;M=r"),
    ("connect-discard", "C=d"),
    ("helo-reject", "H=r"),
    ("mail-reject", "M=r"),
    ("mail-discard", "M=d"),
    ("mail-accept", "M=a;R=r"),
    ("rcpt-tempfail", "R=t"),
    ("rcpt-code", r"R=y552 5.2.2 <full>\0"),
    ("data-lines", r"T=y451-4.3.0 one\r\n451 4.3.0 two\0"),
    ("header-code", r"L=y554 no such headers\0"),
    ("body-skip", "B=s"),
    ("end-reject", "E=r"),
    ("end-code", r"E=y550 5.7.1 spam\0"),
    ("end-discard", "E=d"),
    ("end-quarantine", r"E=qreason\0,c"),
    ("end-malformed", r"E=y250 fine\0"),
    ("end-nonsense", "E=zzz"),
    ("end-close", "E=close"),
    ("end-huge", "E=huge"),
    ("connect-close", "C=close"),
    ("negotiate-wrong", "O=r"),
    (
        "edit-headers",
        r"E=hX-Added\0value\0,i\x00\x00\x00\x00X-First\0one\0,i\x00\x00\x00\x01X-Second\0two\n three\0,m\x00\x00\x00\x01Subject\0changed\0,m\x00\x00\x00\x01X-Gone\0\0,m\x00\x00\x00\x02X-New\0added by change\0,a",
    ),
    ("edit-body", r"E=bfirst\r\nsec,bond\r\nlast,a"),
    (
        "edit-recipients",
        r"E=+<jane@example.org>\0,-<john@example.org>\0,c",
    ),
    ("edit-alias", r"E=+team@example.org\0,c"),
    ("edit-sender", r"E=e<new@b.example>\0,c"),
    (
        "edit-parameters",
        r"E=2<jane@example.org>\0NOTIFY=NEVER\0,c",
    ),
    ("version-2", r"O=O\0\0\0\x02\0\0\0\x3f\0\0\0\0"),
    ("version-9", r"O=O\0\0\0\x09\0\0\0\x3f\0\0\0\0"),
    (
        "leading-space",
        r"O=O\0\0\0\x06\0\0\x01\xff\0\x10\0\0;E=hX-Tight\0value\0,hX-Loose\0  value\0,c",
    ),
    (
        "odd-headers",
        r"E=hX-Lines\0one\ntwo\r\n three\0,i\x00\x00\x00\x63X-Last\0 far away\0,m\0\0\0\x05Subject\0fifth\0,m\0\0\0\x03X-None\0\0,m\0\0\0\0Subject\0number nought\0,hX-Empty\0\0,c",
    ),
    ("bad-index", r"E=i\xff\xff\xff\xf0X-A\0b\0,c"),
    ("empty-body", "E=b,c"),
    ("null-sender", r"E=e<>\0,c"),
    (
        "sender-parameters",
        r"E=e<new@b.example>\0RET=HDRS ENVID=abc\0,c",
    ),
    ("delete-all", r"E=-<john@example.org>\0,c"),
    ("delete-alias", r"E=-team@example.org\0,c"),
    ("delete-leaf", r"E=-<jane@example.org>\0,c"),
    (
        "add-twice",
        r"E=+<john@example.org>\0,+jane@example.org\0,+jane@example.org\0,c",
    ),
    (
        "checked-headers",
        r"E=hX-Kept\0a\0,hX-Ignored\0a\0,hX-Replaced\0a\0,hX-Warned\0a\0,hX-Held\0a\0,c",
    ),
    ("checked-reject", r"E=hX-Refused\0a\0,c"),
    ("checked-discard", r"E=hX-Thrown\0a\0,c"),
    ("progress", r"C=p,p,c;E=p,p,hX-After\0progress\0,p,c"),
    ("edit-too-early", r"M=hX-A\0b\0,c"),
    ("unknown", r"U=y500 5.5.1 milter knows it not\0"),
];

/// A program that is all of [`MILTERS`].
fn milters() -> Peers {
    let mut placeholders = vec![("@M:dead@".to_owned(), inet(testkit::dead_port()))];
    let mut arguments = Vec::new();
    for (name, answers) in MILTERS {
        let port = free_port();
        placeholders.push((format!("@M:{name}@"), inet(port)));
        arguments.push(format!("{port}|{answers}"));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let script = include_str!("side_by_side/milter.py");
    Peers {
        placeholders,
        guard: Some(Box::new(PythonMilter::start(script, &arguments))),
    }
}

fn inet(port: u16) -> String {
    format!("inet:127.0.0.1:{port}")
}

/// Every macro that a stage may have.
const MACROS: &str = "j _ {daemon_name} {daemon_addr} {daemon_port} v {client_addr} {client_name} {client_port} {client_ptr} {client_resolve} {client_connections} {tls_version} {cipher} i {auth_type} {auth_authen} {mail_addr} {mail_host} {mail_mailer} {rcpt_addr} {rcpt_host} {rcpt_mailer} {own}";

/// Notes every event with all macros.
const TELLER: &str = r#"
import os, sys, Milter
MACROS = sys.argv[2].split()
def note(*words):
    open(os.environ["EVENTS"], "a").write(" ".join(repr(word) for word in words) + "\n")
@Milter.rejected_recipients
class M(Milter.Base):
    def macros(self):
        return {name: self.getsymval(name) for name in MACROS if self.getsymval(name) is not None}
    def connect(self, name, family, address): note("connect", name, family, address[0], self.macros()); return Milter.CONTINUE
    def hello(self, name): note("hello", name, self.macros()); return Milter.CONTINUE
    def envfrom(self, *words): note("mail", words, self.macros()); return Milter.CONTINUE
    def envrcpt(self, *words): note("rcpt", words, self.macros()); return Milter.CONTINUE
    def data(self): note("data", self.macros()); return Milter.CONTINUE
    def header(self, *words): note("header", words); return Milter.CONTINUE
    def eoh(self): note("eoh", self.macros()); return Milter.CONTINUE
    def body(self, chunk): note("body", chunk); return Milter.CONTINUE
    def eom(self): note("eom", self.macros()); return Milter.CONTINUE
    def abort(self): note("abort"); return Milter.CONTINUE
    def unknown(self, command): note("unknown", command); return Milter.CONTINUE
Milter.factory = M
Milter.set_flags(0x1ff)
Milter.runmilter("m", sys.argv[1], 0)
"#;

/// What a milter on libmilter hears of a dialogue.
fn told(start: impl FnOnce(Site) -> MailServer) -> String {
    let milter = PythonMilter::start(TELLER, &[MACROS]);
    let stages = [
        "connect",
        "helo",
        "mail",
        "rcpt",
        "data",
        "end_of_header",
        "end_of_data",
        "unknown_command",
    ];
    let lists: String = stages
        .iter()
        .map(|stage| format!("milter_{stage}_macros = {MACROS}\n"))
        .collect();
    let main = format!(
        "virtual_mailbox_domains = example.org
virtual_mailbox_maps = inline:{{{{john@example.org=john/}},{{jane@example.org=jane/}}}}
virtual_alias_maps = inline:{{{{team@example.org=jane@example.org}}}}
smtpd_authorized_xclient_hosts = 127.0.0.1
smtpd_sender_restrictions = check_sender_access inline:{{{{pre@b.example=PREPEND X-Pre: yes}}}}
milter_macro_v = version
milter_macro_defaults = own=default, {{daemon_port}}=25
smtpd_milters = {}
{lists}",
        milter.endpoint()
    );
    let server = start(Site::new(&main, "", &[]));
    let mut smtp = server.smtp();
    let message = "Subject:   three blanks\r\nX-Fold: a\r\n\t b\r\nTight:x\r\nMessage-Id: <1@b.example>\r\nDate: now\r\nFrom: a@b.example\r\n\r\nbody\r\n..dot\r\n.";
    for line in [
        "FOO bar",
        "MAIL FROM:<a@b.example> SIZE=100 BODY=8BITMIME",
        "RCPT TO:<nobody@example.org>",
        "RCPT TO:<john@example.org> NOTIFY=NEVER",
        "RCPT TO:<team@example.org>",
        "DATA",
        message,
        "MAIL FROM:a@b.example",
        "RSET",
        "MAIL FROM:<>",
        "RCPT TO:<elsewhere@c.example>",
        "DATA",
        "Message-Id: <2@b.example>\r\nDate: now\r\nFrom: x@y.example\r\n.",
        "EHLO again.example",
        "MAIL FROM:<pre@b.example>",
        "RCPT TO:<john@example.org>",
        "DATA",
        message,
        "XCLIENT NAME=host.c.example ADDR=192.0.2.1 HELO=h.c.example",
        "EHLO third.example",
        "MAIL FROM:<\"a b\"@b.example>",
        "RCPT TO:<\"john\"@example.org>",
        "QUIT",
    ] {
        smtp.ask(line);
    }
    drop(smtp);
    testkit::wait_for("the end of the session", support::PATIENCE, || {
        let events = milter.events();
        let ended = events.ends_with("'abort'\n") && events.contains("third.example");
        ended.then_some(())
    });
    let port = format!("'{}'", server.port());
    let events = milter.events().replace(&port, "'OUR-PORT'");
    // Behind XCLIENT, Postfix counts the connections of the address that was given, we those of the one that came.
    let events = events.replace("'{client_connections}': '2'", "'{client_connections}': '1'");
    let lines = events
        .lines()
        .map(|line| masked(&masked(line, "'{client_port}': '"), "'i': '"));
    // The connection that found out whether the server is up comes at any time.
    lines
        .filter(|line| !line.starts_with("'connect' '[127.0.0.1]'"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The line without the value behind `name`, which is another one each time.
fn masked(line: &str, name: &str) -> String {
    match line.split_once(name) {
        Some((head, rest)) => {
            let end = rest.find('\'').unwrap_or(rest.len());
            format!("{head}{name}*{}", &rest[end..])
        }
        None => line.to_owned(),
    }
}

#[test]
fn milters_are_told_what_postfix_tells_them() {
    if !testkit::peers() {
        return;
    }
    let theirs = told(Postfix::on);
    let ours = told(|site| MailServer::postroom(std::path::Path::new(support::BINARY), site));
    assert!(theirs.contains("'eom'"), "{theirs}");
    for (theirs, ours) in theirs.lines().zip(ours.lines()) {
        assert_eq!(theirs, ours);
    }
    assert_eq!(theirs.lines().count(), ours.lines().count());
}
