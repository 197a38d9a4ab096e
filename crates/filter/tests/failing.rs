//! Milters that are slow, dead or talk nonsense: the default action follows, and nothing hangs or grows.

use std::sync::Arc;

use config::Config;
use postroom_filter::{Context, Draft, Macros, MilterSettings, Milters, Verdict};
use queue::{Options, Spool};
use tables::Tables;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct NoFacts;

impl Macros for NoFacts {
    fn value(&self, _: &str) -> Option<String> {
        None
    }
}

const CONTEXT: Context<'static> = Context {
    id: "ID",
    client: "unknown[127.0.0.1]",
    sender: "a@b.example",
    recipient: None,
    protocol: "ESMTP",
    helo: "c.example",
};

/// How a milter treats events of one letter.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Silent,
    Closes,
    /// Reports progress for ever.
    Busy,
    /// One byte now and then, of a packet that never ends.
    Dribbles,
    /// This packet, length and all.
    Says(&'static [u8]),
    /// Asks for more changes than anybody could want.
    Changes,
}

/// Serves connections in its own way: "continue" to everything but `letter`.
async fn milter(letter: u8, manner: Manner) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there is a port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, letter, manner));
        }
    });
    port
}

async fn serve(mut stream: TcpStream, letter: u8, manner: Manner) -> Option<()> {
    loop {
        let length = stream.read_u32().await.ok()? as usize;
        let mut packet = vec![0; length];
        stream.read_exact(&mut packet).await.ok()?;
        let reply: &[u8] = match packet[0] {
            got if got == letter => match manner {
                Manner::Silent => &[],
                Manner::Closes => return None,
                Manner::Says(bytes) => bytes,
                Manner::Busy => loop {
                    stream.write_all(b"\0\0\0\x01p").await.ok()?;
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                },
                Manner::Dribbles => {
                    stream.write_all(b"\0\x0f\0\0y").await.ok()?;
                    loop {
                        stream.write_all(b"5").await.ok()?;
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                }
                Manner::Changes => loop {
                    stream.write_all(b"\0\0\0\x06hX\0y\0\0").await.ok()?;
                },
            },
            b'O' => b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0",
            b'A' | b'D' | b'Q' => &[],
            _ => b"\0\0\0\x01c",
        };
        stream.write_all(reply).await.ok()?;
    }
}

async fn milters(port: u16, action: &str) -> Milters {
    let main_cf = format!(
        "smtpd_milters = inet:127.0.0.1:{port}\nmilter_default_action = {action}\nmilter_connect_timeout = 1s\nmilter_command_timeout = 1s\nmilter_content_timeout = 1s\n"
    );
    let config = Config::from_text(&main_cf, "").expect("it is well formed");
    let settings = MilterSettings::of(&config, &Tables::new(&config));
    let settings = settings
        .expect("it is well formed")
        .expect("there is a milter");
    let client = [127, 0, 0, 1].into();
    let milters = Milters::new(&Arc::new(settings), client).await;
    milters.expect("there is a milter")
}

/// A whole session; the first verdict there is.
async fn session(port: u16, action: &str) -> Option<Verdict> {
    let mut milters = milters(port, action).await;
    let client = [127, 0, 0, 1].into();
    let mut verdict = milters.connect("[127.0.0.1]", client, 1234, &NoFacts).await;
    if verdict.is_none() {
        verdict = milters.helo("c.example", &NoFacts).await;
    }
    if verdict.is_none() {
        verdict = milters.mail(&["<a@b.example>"], &NoFacts).await;
    }
    if verdict.is_none() {
        verdict = milters.rcpt(&["<c@d.example>"], false, &NoFacts).await;
    }
    if verdict.is_none() {
        verdict = milters.data(&NoFacts).await;
    }
    if verdict.is_none() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (spool, _) = Spool::open(dir.path(), Options::default()).expect("an empty folder");
        let mut message = spool.incoming().expect("there is room");
        let text = b"Received: ours\nSubject: x\n\nbody\n";
        message.append(text).await.expect("it is writable");
        let mut draft = Draft::read(message, 0).await.expect("it is readable");
        let shown = milters.message(&mut draft, &NoFacts, &CONTEXT).await;
        let shown = shown.expect("the message can be read");
        verdict = match shown.hold {
            true => Some(Verdict::Hold),
            false => shown.verdict,
        };
    }
    milters.quit().await;
    verdict
}

fn later() -> Option<Verdict> {
    Some(Verdict::Reply(
        "451 4.7.1 Service unavailable - try again later".into(),
    ))
}

#[tokio::test]
async fn a_milter_that_behaves_lets_mail_pass() {
    let port = milter(b'?', Manner::Silent).await;
    assert_eq!(session(port, "reject").await, None);
}

#[tokio::test]
async fn whatever_fails_and_when_the_default_action_follows() {
    let mut sessions = Vec::new();
    for letter in *b"OCHMRTLNBE" {
        for manner in [
            Manner::Closes,
            Manner::Silent,
            Manner::Dribbles,
            Manner::Busy,
            Manner::Says(b"\x7f\xff\xff\xffc"),
            Manner::Says(b"\0\0\0\0"),
            Manner::Says(b"\0\0\0\x01?"),
            Manner::Says(b"\0\0\0\x02cc"),
            Manner::Says(b"\0\0\0\x01m"),
            Manner::Says(b"\0\0\0\x05m\0\0\0\x01"),
            Manner::Says(b"\0\0\0\x01f"),
        ] {
            sessions.push(tokio::spawn(async move {
                let port = milter(letter, manner).await;
                (letter as char, manner, session(port, "tempfail").await)
            }));
        }
    }
    for session in sessions {
        let (letter, manner, verdict) = session.await.expect("no session panics");
        assert_eq!(verdict, later(), "{letter} {manner:?}");
    }
}

#[tokio::test]
async fn each_default_action_is_what_it_says() {
    for (action, expected) in [
        ("accept", None),
        ("tempfail", later()),
        (
            "reject",
            Some(Verdict::Reply("550 5.5.0 Service unavailable".into())),
        ),
        ("quarantine", Some(Verdict::Hold)),
        ("shutdown", Some(Verdict::Shutdown)),
    ] {
        let port = milter(b'M', Manner::Closes).await;
        assert_eq!(session(port, action).await, expected, "{action}");
    }
}

#[tokio::test]
async fn changes_have_an_end() {
    let port = milter(b'E', Manner::Changes).await;
    assert_eq!(session(port, "tempfail").await, later());
}
