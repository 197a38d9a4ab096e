//! The LMTP and SMTP client against scripted servers, with the outcomes of real lmtp(8) and smtp(8).

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{agents, folder, lines, message, request};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};

const TEXT: &str = "Subject: t\n\nhello\n.dot\n";

type Heard = Arc<Mutex<Vec<String>>>;

/// Behaves as the names of the recipients say; notes every line it hears.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, lmtp: bool, heard: Heard) {
    let mut stream = BufReader::new(stream);
    let mut accepted: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut in_data = false;
    stream
        .get_mut()
        .write_all(b"220 peer.example ESMTP\r\n")
        .await
        .unwrap();
    loop {
        line.clear();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        heard.lock().unwrap().push(line.trim_end().to_owned());
        let answer = if in_data {
            if line != ".\r\n" {
                continue;
            }
            in_data = false;
            if accepted.iter().any(|name| name.starts_with("drop-dot")) {
                return;
            }
            let count = if lmtp { accepted.len() } else { 1 };
            accepted[..count]
                .iter()
                .map(|name| match name.split('@').next() {
                    Some("d4") => format!("451 4.2.0 <{name}> internal\r\n"),
                    Some("d5") => format!("552 5.2.2 <{name}> Quota exceeded\r\n"),
                    _ => format!("250 2.0.0 <{name}> Saved\r\n"),
                })
                .collect()
        } else {
            match &line[..4] {
                "LHLO" | "EHLO" => {
                    "250-peer.example\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n".to_owned()
                }
                "MAIL" => {
                    accepted.clear();
                    "250 2.1.0 Ok\r\n".to_owned()
                }
                "RCPT" => {
                    let name = line.split(['<', '>']).nth(1).unwrap().to_owned();
                    match name.split('@').next() {
                        Some("t4") => format!("452 4.2.2 <{name}> try later\r\n"),
                        Some("t5") => format!("550-5.1.1 <{name}> first\r\n550 5.1.1 second\r\n"),
                        Some("drop") => return,
                        _ => {
                            accepted.push(name.clone());
                            format!("250 2.1.5 <{name}> OK\r\n")
                        }
                    }
                }
                "DATA" if accepted.is_empty() => "554 5.5.1 no valid recipients\r\n".to_owned(),
                "DATA" => {
                    in_data = true;
                    "354 go\r\n".to_owned()
                }
                "QUIT" => "221 2.0.0 Bye\r\n".to_owned(),
                _ => "250 2.0.0 Ok\r\n".to_owned(),
            }
        };
        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
    }
}

fn lmtp_server(path: &Path) -> Heard {
    let heard = Heard::default();
    let listener = UnixListener::bind(path).unwrap();
    let notes = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, true, Arc::clone(&notes)));
        }
    });
    heard
}

async fn smtp_server() -> (u16, Heard) {
    let heard = Heard::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let notes = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, false, Arc::clone(&notes)));
        }
    });
    (port, heard)
}

#[tokio::test]
async fn lmtp_gives_each_recipient_its_reply() {
    let dir = folder();
    let heard = lmtp_server(&dir.path().join("lm"));
    let agents = agents(dir.path(), "", "");
    let names = ["ok@e", "t4@e", "t5@e", "d4@e", "d5@e", "q q@e"];
    let outcomes = agents
        .deliver(&request("lmtp", "unix:lm", &names, message("s@x", TEXT)))
        .await;
    let relay = "mail.host.example[lm]";
    assert_eq!(
        lines(&outcomes),
        [
            format!("sent 2.0.0 {relay} (250 2.0.0 <ok@e> Saved)"),
            format!(
                "deferred 4.2.2 {relay} (host {relay} said: 452 4.2.2 <t4@e> try later (in reply to RCPT TO command))"
            ),
            format!(
                "bounced 5.1.1 {relay} (host {relay} said: 550-5.1.1 <t5@e> first 550 5.1.1 second (in reply to RCPT TO command))"
            ),
            format!(
                "deferred 4.2.0 {relay} (host {relay} said: 451 4.2.0 <d4@e> internal (in reply to end of DATA command))"
            ),
            format!(
                "bounced 5.2.2 {relay} (host {relay} said: 552 5.2.2 <d5@e> Quota exceeded (in reply to end of DATA command))"
            ),
            format!("sent 2.0.0 {relay} (250 2.0.0 <\"q q\"@e> Saved)"),
        ]
    );
    let remote = outcomes[2].remote.clone().unwrap();
    assert_eq!(remote.mta.as_deref(), Some("mail.host.example"));
    assert_eq!(remote.diagnostic, "550-5.1.1 <t5@e> first 550 5.1.1 second");
    assert!(heard.lock().unwrap().contains(&"..dot".to_owned()));
}

#[tokio::test]
async fn connections_are_used_again_and_stale_ones_replaced() {
    let dir = folder();
    let heard = lmtp_server(&dir.path().join("lm"));
    let agents = agents(dir.path(), "lmtp_connection_cache_time_limit = 60s\n", "");
    for expected_use in [1, 2, 3] {
        let outcomes = agents
            .deliver(&request("lmtp", "unix:lm", &["ok@e"], message("s@x", TEXT)))
            .await;
        assert_eq!(outcomes[0].text, "250 2.0.0 <ok@e> Saved");
        assert_eq!(outcomes[0].connection_use, expected_use);
    }
    let greetings = heard
        .lock()
        .unwrap()
        .iter()
        .filter(|line| line.starts_with("LHLO"))
        .count();
    assert_eq!(greetings, 1);
    agents.close().await;
}

#[tokio::test]
async fn lost_connections_are_tried_again_later() {
    let dir = folder();
    lmtp_server(&dir.path().join("lm"));
    let agents = agents(dir.path(), "", "");
    let host = "mail.host.example[lm]";
    for (name, expected) in [
        (
            "drop@e",
            format!("deferred 4.4.2 {host} (lost connection with {host} while sending RCPT TO)"),
        ),
        (
            "drop-dot@e",
            format!(
                "deferred 4.4.2 {host} (lost connection with {host} while sending end of data -- message may be sent more than once)"
            ),
        ),
    ] {
        let outcomes = agents
            .deliver(&request("lmtp", "unix:lm", &[name], message("s@x", TEXT)))
            .await;
        assert_eq!(lines(&outcomes), [expected]);
    }
}

#[tokio::test]
async fn hosts_that_are_not_there() {
    let dir = folder();
    let agents = agents(dir.path(), "disable_dns_lookups = yes\n", "");
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for (transport, nexthop, expected) in [
        ("lmtp", "unix:private/nosuch".to_owned(), "deferred 4.4.1 none (connect to mail.host.example[private/nosuch]: No such file or directory)".to_owned()),
        ("lmtp", format!("inet:127.0.0.1:{dead}"), format!("deferred 4.4.1 none (connect to 127.0.0.1[127.0.0.1]:{dead}: Connection refused)")),
        ("smtp", format!("[127.0.0.1]:{dead}"), format!("deferred 4.4.1 none (connect to 127.0.0.1[127.0.0.1]:{dead}: Connection refused)")),
        ("smtp", "[x".to_owned(), "deferred 4.3.5 none (bad next-hop destination: [x)".to_owned()),
    ] {
        let outcomes = agents.deliver(&request(transport, &nexthop, &["a@e"], message("s@x", TEXT))).await;
        assert_eq!(lines(&outcomes), [expected]);
    }
}

#[tokio::test]
async fn smtp_goes_on_to_the_next_host() {
    let dir = folder();
    let (port, heard) = smtp_server().await;
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let agents = agents(dir.path(), "disable_dns_lookups = yes\n", "");
    let nexthop = format!("[127.0.0.1]:{dead}, localhost:{port}");
    let outcomes = agents
        .deliver(&request(
            "relay",
            &nexthop,
            &["ok@e", "t5@e"],
            message("", TEXT),
        ))
        .await;
    let relay = format!("localhost[127.0.0.1]:{port}");
    assert_eq!(
        lines(&outcomes),
        [
            format!("sent 2.0.0 {relay} (250 2.0.0 <ok@e> Saved)"),
            format!(
                "bounced 5.1.1 {relay} (host localhost[127.0.0.1] said: 550-5.1.1 <t5@e> first 550 5.1.1 second (in reply to RCPT TO command))"
            ),
        ]
    );
    assert!(!outcomes[0].is_final, "an SMTP server relays");
    assert!(
        heard
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.starts_with("MAIL FROM:<>"))
    );
}
