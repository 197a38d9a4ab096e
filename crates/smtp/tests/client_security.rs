//! TLS and AUTH from the client's side, reply by reply.

use std::sync::Arc;

use postroom_smtp::client::{
    Login, Mechanism, RcptResult, Recipient, Security, Session, Settings, Step, TlsWish,
    Transaction,
};
use postroom_smtp::server::Secret;

/// What the client said, line by line, `<TLS>` for a handshake, and how it ended.
fn dialogue(security: Security, replies: &[&str]) -> (Vec<String>, String) {
    let mut session = Session::new(Arc::new(Settings::default()), "h[192.0.2.1]");
    session.secure(security);
    session.begin(Transaction {
        recipients: vec![Recipient::new("x@example.org")],
        ..Transaction::default()
    });
    let mut replies = replies.iter();
    let mut said = Vec::new();
    loop {
        match session.step() {
            Step::Send(bytes) => {
                let text = String::from_utf8(bytes.to_vec()).expect("text");
                said.extend(text.lines().map(str::to_owned));
            }
            Step::Read { .. } => match replies.next() {
                Some(reply) => session.receive(reply.as_bytes()),
                None => session.eof(),
            },
            Step::StartTls => {
                said.push("<TLS>".into());
                session.tls_established();
            }
            Step::Body => session.body_sent(),
            Step::Done => break,
            Step::Closed => panic!("closed before it was done"),
        }
    }
    let result = session.take_results().remove(0);
    let end = match &result {
        RcptResult::Accepted { .. } => "accepted".to_owned(),
        other => format!("{} {}", other.dsn(), other.text()),
    };
    (said, end)
}

fn tls(tls: TlsWish) -> Security {
    Security { tls, login: None }
}

fn login(mechanisms: &[Mechanism]) -> Security {
    let login = Login {
        user: "tim".into(),
        password: Secret::new("tanstaaftanstaaf"),
        in_the_clear: mechanisms.to_vec(),
        under_tls: Mechanism::ALL.to_vec(),
        soft_bounce: true,
    };
    Security {
        tls: TlsWish::May,
        login: Some(login),
    }
}

const HELLO: &str = "220 h ESMTP\r\n";
const TLS_OFFER: &str = "250-h\r\n250 STARTTLS\r\n";
const DELIVERED: [&str; 4] = ["250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 2.0.0 Ok\r\n"];
const MAIL: [&str; 3] = ["MAIL FROM:<>", "RCPT TO:<x@example.org>", "DATA"];

fn with<'a>(first: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [first, rest].concat()
}

#[test]
fn tls_begins_where_it_is_offered_and_what_came_before_is_forgotten() {
    // What follows the 220 in one packet was written by nobody who has the server's key.
    let injected = "220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n";
    let replies = with(&[HELLO, TLS_OFFER, injected, "250 h\r\n"], &DELIVERED);
    let (said, end) = dialogue(tls(TlsWish::Must), &replies);
    let expected = with(
        &["EHLO localhost", "STARTTLS", "<TLS>", "EHLO localhost"],
        &MAIL,
    );
    assert_eq!(said, expected);
    assert_eq!(end, "accepted");
}

#[test]
fn without_tls_where_it_must_be_nothing_goes_out() {
    for (replies, expected) in [
        (
            [HELLO, "250 h\r\n", ""],
            "4.7.4 TLS is required, but was not offered by host h[192.0.2.1]",
        ),
        (
            [HELLO, TLS_OFFER, "454 4.7.0 no TLS now\r\n"],
            "4.7.0 TLS is required, but host h[192.0.2.1] refused to start TLS: 454 4.7.0 no TLS now",
        ),
        (
            [HELLO, TLS_OFFER, "554 5.7.0 never\r\n"],
            "4.7.0 TLS is required, but host h[192.0.2.1] refused to start TLS: 554 5.7.0 never",
        ),
    ] {
        let (said, end) = dialogue(tls(TlsWish::Must), &replies);
        assert_eq!(end, expected);
        assert!(
            !said.iter().any(|line| line.starts_with("MAIL")),
            "{said:?}"
        );
    }
}

#[test]
fn where_it_may_be_a_refusal_does_no_harm() {
    for refusal in ["454 4.7.0 no TLS now\r\n", "502 what?\r\n"] {
        let (said, end) = dialogue(
            tls(TlsWish::May),
            &with(&[HELLO, TLS_OFFER, refusal], &DELIVERED),
        );
        assert_eq!(said, with(&["EHLO localhost", "STARTTLS"], &MAIL));
        assert_eq!(end, "accepted");
    }
    let (said, _) = dialogue(tls(TlsWish::May), &with(&[HELLO, "250 h\r\n"], &DELIVERED));
    assert_eq!(said, with(&["EHLO localhost"], &MAIL));
}

#[test]
fn mechanisms() {
    let plain = "AHRpbQB0YW5zdGFhZnRhbnN0YWFm";
    // RFC 2195 section 2 has this challenge and this response.
    let challenge = "334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+\r\n";
    let digest = "dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw";
    let ok = "235 2.7.0 in\r\n";
    for (mechanism, offer, challenges, lines) in [
        (
            Mechanism::Plain,
            "PLAIN LOGIN",
            vec![ok],
            vec![format!("AUTH PLAIN {plain}")],
        ),
        (
            Mechanism::Plain,
            "PLAIN",
            vec!["334 \r\n", ok],
            vec![format!("AUTH PLAIN {plain}"), plain.into()],
        ),
        (
            Mechanism::Login,
            "LOGIN",
            vec!["334 VXNlcm5hbWU6\r\n", "334 UGFzc3dvcmQ6\r\n", ok],
            vec![
                "AUTH LOGIN".into(),
                "dGlt".into(),
                "dGFuc3RhYWZ0YW5zdGFhZg==".into(),
            ],
        ),
        (
            Mechanism::CramMd5,
            "PLAIN CRAM-MD5",
            vec![challenge, ok],
            vec!["AUTH CRAM-MD5".into(), digest.into()],
        ),
    ] {
        for form in ["AUTH ", "AUTH="] {
            let hello = format!("250-h\r\n250 {form}{offer}\r\n");
            let first = with(&[HELLO, &hello], &challenges);
            let (said, end) = dialogue(login(&[mechanism]), &with(&first, &DELIVERED));
            assert_eq!(said[1..=lines.len()], lines, "{mechanism:?}");
            assert_eq!(end, "accepted");
        }
    }
}

#[test]
fn a_password_goes_only_where_it_may() {
    let no_mechanism = "4.7.0 SASL authentication failed; cannot authenticate to server h[192.0.2.1]: no mechanism available";
    let (said, end) = dialogue(login(&[]), &[HELLO, "250-h\r\n250 AUTH PLAIN\r\n"]);
    assert_eq!(
        (said, end.as_str()),
        (vec!["EHLO localhost".to_owned()], no_mechanism)
    );
    // Under TLS more is allowed.
    let replies = [
        HELLO,
        TLS_OFFER,
        "220 go\r\n",
        "250-h\r\n250 AUTH PLAIN\r\n",
        "235 in\r\n",
    ];
    let (said, end) = dialogue(login(&[]), &with(&replies, &DELIVERED));
    assert!(
        said.contains(&"AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm".to_owned()),
        "{said:?}"
    );
    assert_eq!(end, "accepted");
    // A server without AUTH gets the message, not the password.
    let (said, end) = dialogue(
        login(&Mechanism::ALL),
        &with(&[HELLO, "250 h\r\n"], &DELIVERED),
    );
    assert_eq!(said, with(&["EHLO localhost"], &MAIL));
    assert_eq!(end, "accepted");
}

#[test]
fn a_refused_login_defers_and_endless_challenges_end() {
    let hello = "250-h\r\n250 AUTH PLAIN\r\n";
    let (_, end) = dialogue(
        login(&[Mechanism::Plain]),
        &[HELLO, hello, "535 5.7.8 wrong\r\n"],
    );
    assert_eq!(
        end,
        "4.7.8 SASL authentication failed; server h[192.0.2.1] said: 535 5.7.8 wrong"
    );
    let mut hard = login(&[Mechanism::Plain]);
    hard.login.as_mut().expect("a login").soft_bounce = false;
    let (_, end) = dialogue(hard, &[HELLO, hello, "535 5.7.8 wrong\r\n"]);
    assert!(end.starts_with("5.7.8 "), "{end}");
    let endless = vec!["334 VXNlcm5hbWU6\r\n"; 50];
    let (said, end) = dialogue(login(&[Mechanism::Plain]), &with(&[HELLO, hello], &endless));
    assert!(said.len() < 10 && end.starts_with('4'), "{said:?} {end}");
    let shown = format!("{:?}", login(&Mechanism::ALL));
    assert!(!shown.contains("tanstaaf"), "{shown}");
}
