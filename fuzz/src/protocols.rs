//! Bytes from the network: SMTP, both sides, and the addresses in it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smtp::address::{Rules, extract, is_valid};
use smtp::server::{Answer, CloseReason, Peer, Question, Settings, Step};
use smtp::{EnhancedCode, Reply, client, server};

/// More steps than any input of a few kilobytes can make.
const STEPS: usize = 1_000_000;

/// Addresses as SMTP and as header and table values write them.
pub fn addresses(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for rules in [
        Rules::default(),
        Rules {
            strict: true,
            ..Rules::default()
        },
    ] {
        if let Ok(address) = extract(&text, rules) {
            let _ = is_valid(&address, true, rules);
            let quoted = mail::address::quote_local(&address);
            assert_eq!(mail::address::unquote_local(&quoted), address, "{quoted:?}");
        }
    }
    for address in mail::token::addresses(&text) {
        let external = mail::token::external(&address);
        let internal = mail::token::internal(&address);
        assert!(
            external.len() >= internal.len(),
            "{external:?} {internal:?}"
        );
    }
    let folded = mail::fold(&text).into_owned();
    assert_eq!(mail::fold(&folded), folded, "folding twice");
}

/// A client that says anything: how its bytes are cut into packets changes nothing.
pub fn smtp_server(data: &[u8]) {
    let whole = Dialogue::of(&[data]);
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    let cut = Dialogue::of(&bytes);
    assert_eq!(whole.sent, cut.sent);
    assert_eq!(whole.questions, cut.questions);
    assert_eq!(whole.closed, cut.closed);
    // Only content that was refused later may have been given out in part.
    if !whole.questions.contains(&Question::Abort) {
        assert_eq!(whole.content, cut.content);
    }
    assert!(!whole.content.contains(&b'\r'), "a bare CR got through");
}

/// A server that answers anything, with and without TLS and AUTH: the client ends, with a result for each recipient.
pub fn smtp_client(data: &[u8]) {
    let login = client::Login {
        user: "user".into(),
        password: smtp::server::Secret::new("password"),
        in_the_clear: client::Mechanism::ALL.to_vec(),
        under_tls: client::Mechanism::ALL.to_vec(),
        soft_bounce: true,
    };
    let secured = client::Security {
        tls: client::TlsWish::May,
        login: Some(login),
    };
    for (protocol, security) in [
        (smtp::Protocol::Smtp, client::Security::default()),
        (smtp::Protocol::Lmtp, client::Security::default()),
        (smtp::Protocol::Smtp, secured),
    ] {
        let settings = client::Settings {
            protocol,
            ..client::Settings::default()
        };
        let mut session = client::Session::new(Arc::new(settings), "host");
        session.secure(security);
        let recipients = ["x@example.org", "y@example.org"];
        session.begin(client::Transaction {
            recipients: recipients.map(client::Recipient::new).into(),
            ..client::Transaction::default()
        });
        session.receive(data);
        let ended = (0..STEPS).any(|_| match session.step() {
            client::Step::Read { .. } => {
                session.eof();
                false
            }
            client::Step::Body => {
                session.body_sent();
                false
            }
            client::Step::StartTls => {
                session.tls_established();
                session.receive(data);
                false
            }
            client::Step::Done => true,
            client::Step::Send(_) | client::Step::Closed => false,
        });
        assert!(ended, "the session never ends");
        assert_eq!(session.take_results().len(), recipients.len());
    }
}

/// Netstrings and what is in them: how the bytes are cut changes nothing, and what was read can be written.
pub fn socketmap_frames(data: &[u8]) {
    use tables::socketmap::{Frames, Reply, Request, frame};
    let read = |size: usize| {
        let mut frames = Frames::new(1000);
        let mut found = Vec::new();
        for mut piece in data.chunks(size.max(1)) {
            loop {
                match frames.next(&mut piece) {
                    Ok(Some(content)) => found.push(content),
                    Ok(None) => break,
                    // Behind a malformed frame nothing is known: the connection ends.
                    Err(error) => return (found, Some(format!("{error:?}"))),
                }
            }
        }
        (found, None)
    };
    let whole = read(data.len());
    assert_eq!(whole, read(1), "cut into bytes");
    for content in whole.0 {
        let mut frames = Frames::new(1000);
        let again = frames.next(&mut frame(&content).as_slice());
        assert_eq!(again.ok().flatten(), Some(content.clone()));
        if let Some(request) = Request::parse(&content) {
            assert_eq!(request.encode(), content);
        }
        if let Some(reply) = Reply::parse(&content) {
            assert_eq!(Reply::parse(&reply.encode()), Some(reply));
        }
    }
}

/// tcp_table(5): any line is a request or a reply, or none; a key survives its encoding.
pub fn tcp_table_lines(data: &[u8]) {
    use tables::tcp_table::{Reply, Request};
    let _ = Request::parse(data);
    if let Some(reply) = Reply::parse(data) {
        let line = reply.encode();
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        assert_eq!(Reply::parse(line), Some(reply));
    }
    let line = Request::get(data);
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    match Request::parse(line) {
        Request::Get(key) => assert_eq!(key, data),
        // There is no lookup without a key.
        Request::Malformed if data.is_empty() => {}
        other => panic!("{other:?}"),
    }
}

/// What came of a session in which the policy agrees to everything.
#[derive(Default)]
struct Dialogue {
    sent: Vec<u8>,
    content: Vec<u8>,
    questions: Vec<Question>,
    closed: Option<CloseReason>,
}

impl Dialogue {
    fn of(packets: &[&[u8]]) -> Dialogue {
        let settings = Settings {
            message_size_limit: 2000,
            error_sleep_time: Duration::ZERO,
            ..Settings::default()
        };
        let peer = Peer::new("unknown", Ipv4Addr::LOCALHOST.into(), 12345);
        let now = Instant::now();
        let mut session = server::Session::new(Arc::new(settings), peer, now);
        let mut dialogue = Dialogue::default();
        dialogue.advance(&mut session, now);
        for packet in packets {
            session.receive(packet);
            dialogue.advance(&mut session, now);
        }
        session.eof();
        dialogue.advance(&mut session, now);
        dialogue
    }

    /// Steps until the session wants to read or has ended.
    fn advance(&mut self, session: &mut server::Session, now: Instant) {
        for _ in 0..STEPS {
            match session.step(now) {
                Step::Send(bytes) => self.sent.extend_from_slice(&bytes),
                Step::Read { .. } => return,
                Step::Ask(question) => {
                    session.answer(agree(&question));
                    self.questions.push(question);
                }
                Step::Content(bytes) => self.content.extend_from_slice(&bytes),
                Step::Sleep(_) => {}
                Step::StartTls => panic!("TLS was not offered"),
                Step::Close { reason } => {
                    self.closed = Some(reason);
                    return;
                }
            }
        }
        panic!("the session never stops");
    }
}

fn agree(question: &Question) -> Answer {
    match question {
        Question::EndOfData { .. } => Answer::Reply(Reply::new(
            250,
            EnhancedCode::new(2, 0, 0),
            "Ok: queued as QUEUEID",
        )),
        _ => Answer::Continue,
    }
}

/// Packets of a milter, each behind its length, as `milter_replies` has them in its inputs.
pub fn milter_replies(data: &[u8]) {
    use filter::milter::packet::{self, Edit, Reply};
    let mut rest = data;
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = (u32::from_be_bytes(*length) as usize).min(behind.len());
        let (packet, behind) = behind.split_at(length);
        rest = behind;
        let Some((&letter, data)) = packet.split_first() else {
            continue;
        };
        if letter == b'O'
            && let Some(found) = packet::parse_negotiation(data)
        {
            assert!(found.macros.iter().all(|(_, names)| !names.contains('\0')));
        }
        match packet::parse(letter, data) {
            Some(Reply::Code(text)) if packet::is_valid_code(&text) => {
                let class = text.as_bytes()[0];
                assert!(matches!(class, b'4' | b'5'), "{text:?}");
                assert!(text.split("\r\n").all(|line| line.as_bytes()[0] == class));
            }
            Some(Reply::Edit(
                Edit::AddHeader { name, value } | Edit::InsertHeader { name, value, .. },
            )) => assert!(!name.contains('\0') && !value.contains(&0)),
            Some(Reply::Edit(Edit::AddRecipient { address, .. })) => {
                assert!(!address.contains('\0'));
            }
            _ => {}
        }
    }
}
