//! Header and body checks, and milters: the dialogues of the suites under real Postfix and under Postroom.

#[path = "support/side_by_side.rs"]
mod side_by_side;
mod support;

use side_by_side::{Peers, Suite};
use testkit::{PythonMilter, free_port};

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
