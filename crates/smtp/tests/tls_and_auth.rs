//! STARTTLS and AUTH in the state machine: what is refused when, and what is forgotten.

mod common;

use common::Driver;
use postroom_smtp::server::{Answer, CloseReason, Question, Settings, TlsLevel};
use postroom_smtp::{Reply, reply};
use proptest::prelude::*;

fn settings(tls: TlsLevel) -> Settings {
    Settings {
        tls,
        tls_ready: true,
        sasl: true,
        ..common::settings()
    }
}

/// One user, whose password is `secret`: PLAIN in one step, LOGIN in three.
fn policy(question: &Question) -> Answer {
    let failed = || Answer::Reply(reply::auth_failed("(reason unavailable)"));
    let challenge = |text: &str| Answer::Reply(reply::challenge(text));
    match question {
        Question::Auth(auth) => match (auth.mechanism.as_str(), &auth.initial) {
            ("PLAIN", Some(response)) if response.expose() == "secret" => Answer::Continue,
            ("PLAIN", Some(_)) => failed(),
            ("PLAIN", None) => challenge(""),
            ("LOGIN", None) => challenge("VXNlcm5hbWU6"),
            _ => Answer::Reply(reply::auth_failed("Invalid authentication mechanism")),
        },
        Question::AuthResponse(response) => match response.expose() {
            "secret" => Answer::Continue,
            "user" => challenge("UGFzc3dvcmQ6"),
            _ => failed(),
        },
        other => common::policy(other),
    }
}

type Client = Driver<fn(&Question) -> Answer>;

fn connect(settings: Settings) -> Client {
    let mut client = Driver::new(settings, policy as fn(&Question) -> Answer);
    client.run();
    assert!(client.sent.starts_with(b"220 "));
    client.sent.clear();
    client
}

/// Lines to the server, and how its replies begin.
fn check(client: &mut Client, dialogue: &[(&str, &str)]) {
    for (line, expected) in dialogue {
        let found = client.talk(format!("{line}\r\n").as_bytes());
        assert!(
            found.starts_with(expected),
            "{line}: {found:?}, not {expected:?}"
        );
    }
}

#[test]
fn starttls_is_offered_and_begins_the_session_anew() {
    let mut client = connect(settings(TlsLevel::May));
    let ehlo = client.talk(b"EHLO c\r\n");
    assert!(ehlo.contains("250-STARTTLS\r\n"), "{ehlo}");
    check(
        &mut client,
        &[
            ("STARTTLS x", "501 5.5.4 Syntax: STARTTLS"),
            ("AUTH PLAIN secret", "235 2.7.0 "),
            ("MAIL FROM:<a@b.example>", "250 "),
            ("STARTTLS", "220 2.0.0 Ready to start TLS\r\n"),
        ],
    );
    assert_eq!(client.handshakes, 1);
    assert_eq!(client.questions.last(), Some(&Question::Abort));
    assert!(client.session.helo().is_none());
    check(
        &mut client,
        &[
            ("RCPT TO:<a@example.org>", "503 5.5.1 Error: need MAIL"),
            ("STARTTLS", "554 5.5.1 Error: TLS already active"),
            ("AUTH PLAIN secret", "235 "),
        ],
    );
    let ehlo = client.talk(b"EHLO c\r\n");
    assert!(!ehlo.contains("STARTTLS"), "{ehlo}");
}

/// CVE-2011-0411: what a man in the middle has put behind STARTTLS must not be read as sent under TLS.
#[test]
fn nothing_that_came_behind_starttls_is_executed() {
    for injected in [
        "RSET\r\nMAIL FROM:<evil@b.example>\r\n",
        "MAIL FROM:<evil",
        "EHLO evil\r\nAUTH PLAIN secret\r\nRCPT",
        "\n\n\n",
    ] {
        let mut client = connect(settings(TlsLevel::Encrypt));
        let sent = client.talk(format!("EHLO c\r\nSTARTTLS\r\n{injected}").as_bytes());
        assert!(sent.ends_with("220 2.0.0 Ready to start TLS\r\n"), "{sent}");
        assert_eq!(client.handshakes, 1);
        let asked = client.questions.len();
        // The first command under TLS begins on a fresh line.
        check(&mut client, &[("NOOP", "250 2.0.0 Ok\r\n")]);
        assert_eq!(client.questions.len(), asked);
        check(
            &mut client,
            &[("RCPT TO:<a@b>", "503 5.5.1 Error: need MAIL")],
        );
    }
}

#[test]
fn before_starttls_only_a_few_commands_pass_where_it_is_required() {
    let mut client = connect(settings(TlsLevel::Encrypt));
    let first = "530 5.7.0 Must issue a STARTTLS command first\r\n";
    check(
        &mut client,
        &[
            ("EHLO c", "250-"),
            ("HELO c", "250 "),
            ("NOOP", "250 "),
            ("MAIL FROM:<a@b>", first),
            ("RCPT TO:<a@b>", first),
            ("DATA", first),
            ("RSET", first),
            ("VRFY x", first),
            ("ETRN x", first),
            ("AUTH PLAIN secret", first),
            ("FOO", "500 5.5.2 "),
            ("STARTTLS", "220 "),
            ("EHLO c", "250-"),
            ("AUTH PLAIN secret", "235 "),
            ("MAIL FROM:<a@b>", "250 "),
            ("QUIT", "221 "),
        ],
    );
}

#[test]
fn starttls_without_a_certificate_or_without_tls() {
    let mut client = connect(Settings {
        tls_ready: false,
        ..settings(TlsLevel::May)
    });
    let unavailable = "454 4.7.0 TLS not available due to local problem\r\n";
    check(
        &mut client,
        &[
            ("EHLO c", "250-"),
            ("STARTTLS", unavailable),
            ("NOOP", "250 "),
        ],
    );
    let mut client = connect(settings(TlsLevel::None));
    let ehlo = client.talk(b"EHLO c\r\n");
    assert!(!ehlo.contains("STARTTLS"));
    check(&mut client, &[("STARTTLS", "502 5.5.1 ")]);
    assert_eq!(client.handshakes, 0);
}

#[test]
fn a_failed_handshake_ends_the_session_without_a_word() {
    let mut client = connect(settings(TlsLevel::May));
    client.handshake_fails = true;
    let sent = client.talk(b"EHLO c\r\nSTARTTLS\r\n");
    assert!(sent.ends_with("220 2.0.0 Ready to start TLS\r\n"), "{sent}");
    assert_eq!(client.closed, Some(CloseReason::LostConnection));
    assert!(client.session.summary().contains("starttls=0/1"));
}

#[test]
fn tls_before_the_greeting() {
    let settings = settings(TlsLevel::None);
    let mut client = Driver::new(settings, policy as fn(&Question) -> Answer);
    client.session.tls_established();
    client.run();
    assert!(client.sent.starts_with(b"220 "));
    client.sent.clear();
    check(
        &mut client,
        &[("EHLO c", "250-"), ("STARTTLS", "554 5.5.1 ")],
    );
    let mut client = Driver::new(common::settings(), policy as fn(&Question) -> Answer);
    client.session.tls_established();
    let refusal = reply::client_certificate("mail.host.example", "No client certificate presented");
    client.session.hang_up(&refusal);
    client.run();
    let expected = "421 4.7.1 mail.host.example Error: No client certificate presented\r\n";
    assert_eq!(String::from_utf8_lossy(&client.sent), expected);
    assert_eq!(client.closed, Some(CloseReason::Disconnected));
}

#[test]
fn auth_dialogues() {
    let mut client = connect(settings(TlsLevel::None));
    check(
        &mut client,
        &[
            ("EHLO c", "250-"),
            ("AUTH", "501 5.5.4 Syntax: AUTH mechanism"),
            ("AUTH PLAIN a b", "501 5.5.4 Syntax: AUTH mechanism"),
            (
                "AUTH FOO",
                "535 5.7.8 Error: authentication failed: Invalid",
            ),
            ("AUTH PLAIN", "334 \r\n"),
            ("*", "501 5.7.0 Authentication aborted"),
            ("AUTH LOGIN", "334 VXNlcm5hbWU6\r\n"),
            ("user", "334 UGFzc3dvcmQ6\r\n"),
            ("wrong", "535 5.7.8 "),
            ("NOOP", "250 "),
            ("MAIL FROM:<a@b>", "250 "),
            (
                "AUTH PLAIN secret",
                "503 5.5.1 Error: MAIL transaction in progress",
            ),
            ("RSET", "250 "),
            ("AUTH LOGIN", "334 "),
            ("user", "334 "),
            ("secret", "235 2.7.0 Authentication successful\r\n"),
            (
                "AUTH PLAIN secret",
                "503 5.5.1 Error: already authenticated",
            ),
            ("EHLO c", "250-"),
            (
                "AUTH PLAIN secret",
                "503 5.5.1 Error: already authenticated",
            ),
        ],
    );
    assert!(client.questions.contains(&Question::AuthAborted));
    let summary = client.session.summary();
    assert!(summary.contains("auth=1/9"), "{summary}");
}

#[test]
fn a_response_may_be_longer_than_a_command_and_yet_not_endless() {
    let mut client = connect(settings(TlsLevel::None));
    let long = "A".repeat(12_288);
    let longer = format!("{long}A");
    let token = format!("AUTH PLAIN {}", "A".repeat(8_000));
    let endless = format!("auth PLAIN {long}");
    check(
        &mut client,
        &[
            ("AUTH PLAIN", "334 "),
            (&long, "535 5.7.8 "),
            ("AUTH PLAIN", "334 "),
            (&longer, "500 5.5.6 SASL response limit exceeded\r\n"),
            ("NOOP", "250 "),
            (&token, "535 5.7.8 "),
            (&endless, "535 5.7.8 "),
            ("NOOP", "250 "),
        ],
    );
    let initial = |size: usize| {
        let asked = |question: &&Question| match question {
            Question::Auth(auth) => auth
                .initial
                .as_ref()
                .is_some_and(|given| given.expose().len() == size),
            _ => false,
        };
        client.questions.iter().filter(asked).count()
    };
    // The token arrived whole; of the other no more than the limit was kept.
    assert_eq!(initial(8_000), 1);
    assert_eq!(initial(12_288 - "auth PLAIN ".len()), 1);
}

#[test]
fn auth_is_offered_as_the_settings_want_it() {
    let ehlo = |settings: Settings, tls: bool| {
        let mut client = connect(settings);
        if tls {
            check(&mut client, &[("STARTTLS", "220 ")]);
        }
        let mechanisms = ["PLAIN", "LOGIN"].map(str::to_owned).to_vec();
        client.session.offer_mechanisms(mechanisms);
        client.talk(b"EHLO c\r\n")
    };
    let may = || settings(TlsLevel::May);
    let only = || Settings {
        tls_auth_only: true,
        ..may()
    };
    let broken = Settings {
        broken_sasl_auth_clients: true,
        ..may()
    };
    assert!(ehlo(may(), false).contains("\r\n250-AUTH PLAIN LOGIN\r\n"));
    assert!(!ehlo(only(), false).contains("AUTH"));
    assert!(ehlo(only(), true).contains("\r\n250-AUTH PLAIN LOGIN\r\n"));
    assert!(ehlo(broken, false).contains("250-AUTH PLAIN LOGIN\r\n250-AUTH=PLAIN LOGIN\r\n"));
    let mut client = connect(only());
    check(
        &mut client,
        &[(
            "AUTH PLAIN secret",
            "503 5.5.1 Error: authentication not enabled",
        )],
    );
}

#[test]
fn a_lost_client_in_the_middle_of_auth_ends_the_session() {
    let mut client = connect(settings(TlsLevel::None));
    check(&mut client, &[("AUTH LOGIN", "334 ")]);
    client.session.eof();
    client.run();
    assert_eq!(client.closed, Some(CloseReason::LostConnection));
}

#[test]
fn no_password_is_shown() {
    let secret = postroom_smtp::server::Secret::new("hunter2");
    let question = Question::AuthResponse(secret);
    assert!(!format!("{question:?}").contains("hunter2"));
    let refusal: Reply = reply::auth_failed("no");
    assert_eq!(refusal.code, 535);
}

proptest! {
    /// Whatever is sent ahead, the state after the handshake is that of a fresh session.
    #[test]
    fn no_bytes_behind_starttls_survive(junk in proptest::collection::vec(any::<u8>(), 0..200), first in 0usize..200) {
        let mut client = connect(settings(TlsLevel::May));
        let stream = [b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nSTARTTLS\r\n".as_slice(), &junk].concat();
        client.session.receive(&stream);
        client.run();
        prop_assert_eq!(client.handshakes, 1);
        prop_assert_eq!(client.questions.last(), Some(&Question::Abort));
        client.sent.clear();
        let more = [b"NOOP\r\n".as_slice(), &junk[..first.min(junk.len())]].concat();
        let said = client.talk(&more);
        prop_assert!(said.starts_with("250 2.0.0 Ok\r\n"), "{:?}", said);
    }

    /// AUTH with anything in it ends in a reply to every line, and never lets anybody in without the policy's word.
    #[test]
    fn junk_in_auth_lets_nobody_in(lines in proptest::collection::vec("[ -~]{0,40}", 1..8)) {
        let refuse = |question: &Question| match question {
            Question::Auth(_) | Question::AuthResponse(_) => Answer::Reply(reply::challenge("AAAA")),
            other => common::policy(other),
        };
        let mut client = Driver::new(settings(TlsLevel::None), refuse as fn(&Question) -> Answer);
        client.run();
        let mut said = String::new();
        for line in lines {
            said += &client.talk(format!("AUTH {line}\r\n{line}\r\n").as_bytes());
        }
        prop_assert!(!said.lines().any(|reply| reply.starts_with("235")), "{}", said);
    }
}
