//! The client machine against the server machine, in memory: no socket, no clock.

mod common;

use std::sync::Arc;

use common::Driver;
use postroom_smtp::client::{self, DotStuffer, RcptResult, Recipient, Transaction};
use postroom_smtp::server::{Answer, Keyword, Question, Settings};
use postroom_smtp::{Protocol, Reply};

const SERVER: &str = "mx.example[192.0.2.1]:25";

/// Runs the client until it is done with the message; `chunk` bytes at a time in both directions.
fn deliver<F: FnMut(&Question) -> Answer>(
    client: &mut client::Session,
    server: &mut Driver<F>,
    message: &[u8],
    chunk: usize,
) -> Vec<RcptResult> {
    loop {
        match client.step() {
            client::Step::Send(bytes) => to_server(server, &bytes, chunk),
            client::Step::Read { .. } => {
                server.run();
                if server.sent.is_empty() {
                    assert!(server.closed.is_some(), "both wait");
                    client.eof();
                }
                for piece in std::mem::take(&mut server.sent).chunks(chunk) {
                    client.receive(piece);
                }
            }
            client::Step::Body => {
                let (mut stuffer, mut out) = (DotStuffer::new(), Vec::new());
                for piece in message.chunks(chunk) {
                    stuffer.push(piece, &mut out);
                }
                stuffer.finish(&mut out);
                to_server(server, &out, chunk);
                client.body_sent();
            }
            client::Step::StartTls => panic!("nobody has asked for TLS"),
            client::Step::Done => return client.take_results(),
            client::Step::Closed => panic!("closed before it was done"),
        }
    }
}

fn to_server<F: FnMut(&Question) -> Answer>(server: &mut Driver<F>, bytes: &[u8], chunk: usize) {
    for piece in bytes.chunks(chunk) {
        server.session.receive(piece);
        server.run();
    }
}

fn transaction(recipients: &[&str]) -> Transaction {
    Transaction {
        sender: "a b@sender.example".to_owned(),
        recipients: recipients.iter().map(|r| Recipient::new(*r)).collect(),
        size: Some(100),
        ..Transaction::default()
    }
}

fn texts(results: &[RcptResult]) -> Vec<String> {
    results
        .iter()
        .map(|r| format!("{} {}", r.dsn(), r.text()))
        .collect()
}

fn client(protocol: Protocol) -> client::Session {
    let settings = client::Settings {
        protocol,
        helo_name: "client.example".into(),
        ..Default::default()
    };
    client::Session::new(Arc::new(settings), SERVER)
}

#[test]
fn messages_cross_whole_in_pieces_of_any_size() {
    let message = b"Subject: x\n\n.\n..\n.dot\nlast line.\n\n";
    for chunk in [1, 2, 3, 7, 100_000] {
        for pipelining in [true, false] {
            let discard = if pipelining {
                vec![]
            } else {
                vec![Keyword::Pipelining]
            };
            let settings = Settings {
                discard_ehlo_keywords: discard,
                ..common::settings()
            };
            let mut server = Driver::new(settings, common::policy);
            let mut client = client(Protocol::Smtp);
            for round in 1..=3 {
                client.begin(transaction(&[
                    "x@example.org",
                    "y@other.example",
                    "z@example.org",
                ]));
                let results = deliver(&mut client, &mut server, message, chunk);
                assert_eq!(
                    texts(&results),
                    [
                        "2.0.0 250 2.0.0 Ok: queued as QUEUEID".to_owned(),
                        format!(
                            "5.7.1 host {SERVER} said: 554 5.7.1 <y@other.example>: Recipient address rejected: \
                             Access denied (in reply to RCPT TO command)"
                        ),
                        "2.0.0 250 2.0.0 Ok: queued as QUEUEID".to_owned(),
                    ],
                    "chunk {chunk}, round {round}"
                );
                assert_eq!(std::mem::take(&mut server.content), message);
                assert!(client.is_open());
            }
            // Nobody is accepted: RSET, and the connection stays of use.
            client.begin(transaction(&["y@other.example"]));
            assert!(deliver(&mut client, &mut server, message, chunk)[0].is_permanent());
            client.begin(transaction(&["x@example.org"]));
            assert!(deliver(&mut client, &mut server, message, chunk)[0].is_accepted());
            client.quit();
            while let client::Step::Send(bytes) = client.step() {
                to_server(&mut server, &bytes, chunk);
            }
            assert!(server.closed.is_some());
        }
    }
}

#[test]
fn lmtp_has_one_reply_a_recipient() {
    let settings = Settings {
        protocol: Protocol::Lmtp,
        ..common::settings()
    };
    let reply = |text: &str| Reply::parse(text).unwrap();
    let replies = vec![reply("250 2.0.0 x saved"), reply("452 4.2.2 mailbox full")];
    let mut server = Driver::new(settings, |question: &Question| match question {
        Question::EndOfData { .. } => Answer::PerRecipient(replies.clone()),
        other => common::policy(other),
    });
    let mut client = client(Protocol::Lmtp);
    client.begin(transaction(&[
        "x@example.org",
        "n@other.example",
        "y@example.org",
    ]));
    let results = deliver(&mut client, &mut server, b"hello\n", 5);
    let kinds: Vec<(bool, bool)> = results
        .iter()
        .map(|r| (r.is_accepted(), r.is_permanent()))
        .collect();
    assert_eq!(
        kinds,
        [(true, false), (false, true), (false, false)],
        "{results:?}"
    );
    assert!(
        results[2]
            .text()
            .ends_with("(in reply to end of DATA command)")
    );
}

#[test]
fn many_recipients_do_not_overrun_the_window() {
    let mut server = Driver::new(
        Settings {
            recipient_limit: 150,
            ..common::settings()
        },
        common::policy,
    );
    let mut client = client(Protocol::Smtp);
    let names: Vec<String> = (0..400).map(|i| format!("u{i}@example.org")).collect();
    client.begin(transaction(
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    ));
    let results = deliver(&mut client, &mut server, b"x\n", 4096);
    assert_eq!(results.iter().filter(|r| r.is_accepted()).count(), 150);
    assert!(results.iter().all(|r| !r.is_permanent()));
}

/// What the server says, piece by piece, then it is gone; what each recipient is told.
#[test]
fn every_failure_has_its_words() {
    let ehlo = "220 x ESMTP\r\n250-x\r\n250 DSN\r\n";
    let with = |rest: &str| format!("{ehlo}{rest}");
    for (says, expected) in [
        (String::new(), "4.4.2 lost connection with PEER while receiving the initial server greeting".to_owned()),
        ("220 x\r\n".into(), "4.4.2 lost connection with PEER while performing the EHLO handshake".into()),
        ("220 x\r\n502 no\r\n".into(), "4.4.2 lost connection with PEER while performing the HELO handshake".into()),
        ("554 go away\r\n".into(), "4.0.0 host PEER refused to talk to me: 554 go away".into()),
        ("421 4.3.2 busy\r\n".into(), "4.3.2 host PEER refused to talk to me: 421 4.3.2 busy".into()),
        ("HTTP/1.0 400\r\n".into(), "4.5.0 Protocol error: host PEER said: HTTP/1.0 400".into()),
        (with(""), "4.4.2 lost connection with PEER while sending MAIL FROM".into()),
        (with("451-4.3.0 a\r\n451 4.3.0 b\r\n"), "4.3.0 host PEER said: 451-4.3.0 a 451 4.3.0 b (in reply to MAIL FROM command)".into()),
        (with("250 ok\r\n"), "4.4.2 lost connection with PEER while sending RCPT TO".into()),
        (with("250 ok\r\n550 no\r\n"), "5.0.0 host PEER said: 550 no (in reply to RCPT TO command)".into()),
        (with("250 ok\r\n250 ok\r\n"), "4.4.2 lost connection with PEER while sending DATA command".into()),
        (with("250 ok\r\n250 ok\r\n452 4.3.1 full\r\n"), "4.3.1 host PEER said: 452 4.3.1 full (in reply to DATA command)".into()),
        (
            with("250 ok\r\n250 ok\r\n354 go\r\n"),
            "4.4.2 lost connection with PEER while sending end of data -- message may be sent more than once".into(),
        ),
        (
            with("250 ok\r\n250 ok\r\n354 go\r\n552 5.3.4 big\r\n"),
            "5.3.4 host PEER said: 552 5.3.4 big (in reply to end of DATA command)".into(),
        ),
        (with("250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 taken\r\n"), "2.0.0 250 2.0.0 taken".into()),
    ] {
        let mut session = client(Protocol::Smtp);
        session.begin(transaction(&["x@example.org"]));
        session.receive(says.as_bytes());
        loop {
            match session.step() {
                client::Step::Send(_) => {}
                client::Step::Read { .. } => session.eof(),
                client::Step::Body => session.body_sent(),
                client::Step::StartTls => panic!("nobody has asked for TLS"),
                client::Step::Done => break,
                client::Step::Closed => panic!("closed before it was done: {says:?}"),
            }
        }
        assert_eq!(texts(&session.take_results()), [expected.replace("PEER", SERVER)], "{says:?}");
    }
}
