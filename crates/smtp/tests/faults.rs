//! Limits, clients that vanish, junk, and the promise that the cut of the stream changes nothing.

mod common;

use std::time::Duration;

use common::Driver;
use postroom_smtp::server::{Answer, BareNewline, CloseReason, Question, Settings};
use postroom_smtp::{Reply, server};
use proptest::prelude::*;

const BEGIN: &[u8] = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@example.org>\r\nDATA\r\n";

fn driver(settings: Settings) -> Driver<fn(&Question) -> Answer> {
    let mut driver = Driver::new(settings, common::policy as fn(&Question) -> Answer);
    driver.run();
    driver.sent.clear();
    driver
}

#[test]
fn smuggled_commands_stay_content() {
    for ending in [
        "\n.\n",
        "\r\n.\n",
        "\n.\r\n",
        "\r.\r",
        "\r\n.\r",
        "\r.\r\n",
        "\r\n.\r\r\n",
    ] {
        let mut driver = driver(common::settings());
        driver.talk(BEGIN);
        let reply =
            driver.talk(format!("text{ending}MAIL FROM:<evil@b.example>\r\nRSET\r\n").as_bytes());
        assert_eq!(reply, "", "{ending:?}");
        assert_eq!(
            driver.talk(b".\r\n"),
            "250 2.0.0 Ok: queued as QUEUEID\r\n",
            "{ending:?}"
        );
        assert!(
            String::from_utf8_lossy(&driver.content).contains("MAIL FROM:<evil"),
            "{ending:?}"
        );
        assert!(!driver.content.contains(&b'\r'), "{ending:?}");
    }
}

#[test]
fn bare_newlines_can_be_refused() {
    let mut driver = driver(Settings {
        forbid_bare_newline: BareNewline::Reject,
        ..common::settings()
    });
    driver.talk(BEGIN);
    assert_eq!(
        driver.talk(b"a\nb\r\n.\r\n"),
        "550 5.5.2 mail.host.example Error: bare <LF> received\r\n"
    );
    assert_eq!(driver.questions.last(), Some(&Question::Abort));
    assert_eq!(
        driver.talk(b"NOOP\n"),
        "550 5.5.2 mail.host.example Error: bare <LF> received\r\n"
    );
    assert_eq!(driver.talk(b"NOOP\r\n"), "250 2.0.0 Ok\r\n");
}

#[test]
fn too_large_a_message_is_read_to_its_end() {
    let mut driver = driver(common::settings());
    driver.talk(BEGIN);
    for _ in 0..30 {
        assert_eq!(driver.talk(&[b'x'; 1000]), "");
    }
    assert_eq!(driver.questions.last(), Some(&Question::Abort));
    assert!(driver.content.len() <= 20_000);
    assert_eq!(
        driver.talk(b"\r\n.\r\nNOOP\r\n"),
        "552 5.3.4 Error: message file too big\r\n250 2.0.0 Ok\r\n"
    );
}

#[test]
fn content_that_cannot_be_kept() {
    for (content, at_once) in [("a\r\n.\r\n", true), ("a\r\n", false)] {
        let mut driver = driver(common::settings());
        driver.talk(BEGIN);
        driver.session.receive(content.as_bytes());
        assert!(matches!(
            driver.session.step(driver.now),
            server::Step::Content(_)
        ));
        let full = Reply::parse("452 4.3.1 Insufficient system storage").unwrap();
        driver.session.refuse_content(full);
        driver.run();
        let reply = if at_once {
            driver.talk(b"")
        } else {
            driver.talk(b".\r\n")
        };
        let reply = String::from_utf8_lossy(&driver.sent).into_owned() + &reply;
        assert_eq!(reply, "452 4.3.1 Insufficient system storage\r\n");
        let asked: Vec<_> = driver.questions.iter().rev().take(2).collect();
        assert!(
            matches!(asked[..], [Question::Abort, Question::Data]),
            "{asked:?}"
        );
    }
}

#[test]
fn the_client_may_vanish_anywhere() {
    let whole = [BEGIN, b"abc\r\n.\r\n"].concat();
    for cut in 0..=whole.len() {
        let mut driver = driver(common::settings());
        driver.talk(&whole[..cut]);
        driver.session.eof();
        driver.run();
        assert_eq!(driver.closed, Some(CloseReason::LostConnection));
        let opened = driver
            .questions
            .iter()
            .filter(|q| matches!(q, Question::Mail(_)))
            .count();
        let ended = driver
            .questions
            .iter()
            .filter(|q| matches!(q, Question::Abort | Question::EndOfData { .. }))
            .count();
        assert_eq!(opened, ended, "cut at {cut}");
    }
}

#[test]
fn a_question_left_open_lets_nothing_through() {
    let mut driver = driver(common::settings());
    driver.talk(b"EHLO x\r\nMAIL FROM:<a@b>\r\n");
    driver.session.receive(b"RCPT TO:<x@example.org>\r\n");
    assert!(matches!(
        driver.session.step(driver.now),
        server::Step::Ask(Question::Rcpt(_))
    ));
    assert_eq!(
        driver.talk(b"DATA\r\n").lines().last(),
        Some("554 5.5.1 Error: no valid recipients")
    );
}

#[test]
fn errors_cost_time() {
    let settings = Settings {
        soft_error_limit: 2,
        error_sleep_time: Duration::from_secs(1),
        ..common::settings()
    };
    let mut driver = driver(settings);
    driver.talk(b"FOO\r\nFOO\r\n");
    assert_eq!(driver.slept, Duration::ZERO);
    driver.talk(b"NOOP\r\nNOOP\r\n");
    assert_eq!(driver.slept, Duration::from_secs(2));
}

#[test]
fn silence_has_an_end() {
    let mut driver = driver(common::settings());
    driver.talk(b"EHLO x\r\nMAIL FROM:<a@b>\r\n");
    driver.session.timed_out();
    driver.run();
    assert_eq!(
        driver.sent,
        b"421 4.4.2 mail.host.example Error: timeout exceeded\r\n"
    );
    assert_eq!(
        (driver.questions.last(), driver.closed),
        (Some(&Question::Abort), Some(CloseReason::Timeout))
    );

    let mut slow = self::driver(Settings {
        per_request_deadline: true,
        ..common::settings()
    });
    for seconds in [0, 200, 200] {
        slow.now += Duration::from_secs(seconds);
        slow.talk(b"N");
    }
    assert_eq!(slow.closed, Some(CloseReason::Timeout));
}

#[test]
fn a_server_that_goes_down_lets_the_transaction_end() {
    let mut driver = driver(common::settings());
    driver.talk(BEGIN);
    driver.session.shut_down();
    assert_eq!(driver.talk(b"a\r\n"), "");
    let reply = driver.talk(b".\r\n");
    assert_eq!(
        reply,
        "250 2.0.0 Ok: queued as QUEUEID\r\n421 4.3.2 mail.host.example Service shutting down\r\n"
    );
}

/// What everything amounts to, however it was cut.
fn outcome(pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Vec<Question>, Option<CloseReason>, String) {
    let mut driver = driver(Settings {
        line_length_limit: 100,
        message_size_limit: 300,
        hard_error_limit: 20,
        ..common::settings()
    });
    for piece in pieces {
        driver.session.receive(piece);
        driver.run();
    }
    driver.session.eof();
    driver.run();
    (
        driver.sent,
        driver.content,
        driver.questions,
        driver.closed,
        driver.session.summary(),
    )
}

/// Pieces of dialogues, good and bad, in any order.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        Just(b"EHLO x\r\n".to_vec()),
        Just(b"MAIL FROM:<a@b.example>\r\n".to_vec()),
        Just(b"RCPT TO:<x@example.org>\r\n".to_vec()),
        Just(b"DATA\r\n".to_vec()),
        Just(b"\r\n.\r\n".to_vec()),
        Just(b".\r".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b".".to_vec()),
        Just(b"RSET\r\n".to_vec()),
        Just(b"NOOP \xff\r\n".to_vec()),
        Just(vec![b'x'; 150]),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn the_cut_of_the_stream_changes_nothing(tail in stream(), into_data in any::<bool>(), size in 1usize..50) {
        let stream = if into_data { [BEGIN, &tail].concat() } else { tail };
        let whole = outcome(&[&stream]);
        let cut: Vec<&[u8]> = stream.chunks(size).collect();
        let cut = outcome(&cut);
        // Only content that was refused later may have been given out in part.
        if !whole.2.contains(&Question::Abort) {
            prop_assert_eq!(&whole.1, &cut.1);
        }
        prop_assert_eq!((whole.0, whole.2, whole.3, whole.4), (cut.0, cut.2, cut.3, cut.4));
    }

    #[test]
    fn junk_from_a_server_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut client = postroom_smtp::client::Session::new(Default::default(), "h");
        client.begin(postroom_smtp::client::Transaction {
            recipients: vec![postroom_smtp::client::Recipient::new("x@y")],
            ..Default::default()
        });
        client.receive(b"220 x\r\n250 x\r\n");
        client.receive(&junk);
        for _ in 0..1000 {
            match client.step() {
                postroom_smtp::client::Step::Read { .. } => client.eof(),
                postroom_smtp::client::Step::Body => client.body_sent(),
                postroom_smtp::client::Step::Done => break,
                _ => {}
            }
        }
        prop_assert_eq!(client.take_results().len(), 1);
    }
}
