//! The load generator: SMTP clients, one thread a session, whose commands are pipelined (RFC 2920) and prepared
//! beforehand, so that they cost little beside the servers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::wire::Wire;

/// Who the messages are for. Each message gets the next address in turn.
#[derive(Clone, Debug)]
pub struct Load {
    pub port: u16,
    pub sessions: usize,
    pub duration: Duration,
    /// All messages of a session on one connection; otherwise a connection for each.
    pub kept: bool,
    pub recipients: Arc<Vec<String>>,
    /// Recipients are unknown: a refusal is what is wanted, and no message follows.
    pub refused: bool,
    /// STARTTLS after EHLO, then AUTH PLAIN where a response for it is given.
    pub tls: Option<Arc<ClientConfig>>,
    pub login: Option<&'static str>,
}

/// What became of the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub accepted: u64,
    /// 5xx.
    pub refused: u64,
    /// 4xx.
    pub deferred: u64,
    /// Connections that could not be made, or broke.
    pub broken: u64,
    pub seconds: f64,
}

/// Runs the load to its end.
pub fn run(load: &Load) -> Tally {
    let counts: Arc<[AtomicU64; 4]> = Arc::default();
    let begin = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..load.sessions)
        .map(|_| {
            let (load, counts, next) = (load.clone(), counts.clone(), next.clone());
            let builder = std::thread::Builder::new()
                .stack_size(if load.tls.is_some() { 1024 } else { 128 } * 1024);
            let body = move || session(&load, begin + load.duration, &counts, &next);
            builder.spawn(body).expect("threads are to be had")
        })
        .collect();
    for thread in threads {
        thread.join().expect("a session does not panic");
    }
    let count = |index: usize| counts[index].load(Ordering::Relaxed);
    Tally {
        accepted: count(0),
        refused: count(1),
        deferred: count(2),
        broken: count(3),
        seconds: begin.elapsed().as_secs_f64(),
    }
}

fn session(load: &Load, end: Instant, counts: &[AtomicU64; 4], next: &AtomicU64) {
    let body = message("load");
    let mut client: Option<Client> = None;
    while Instant::now() < end {
        let number = next.fetch_add(1, Ordering::Relaxed) as usize;
        let to = &load.recipients[number % load.recipients.len()];
        let result = one_message(load, &mut client, to, &body);
        let index = match result {
            Ok(200..=299) => 0,
            Ok(500..) => 1,
            Ok(_) => 2,
            Err(_) => 3,
        };
        counts[index].fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            client = None;
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if let Some(mut client) = client {
        let _ = client.exchange(b"QUIT\r\n", 1);
    }
}

/// The code that decided about the message.
fn one_message(
    load: &Load,
    client: &mut Option<Client>,
    to: &str,
    body: &[u8],
) -> std::io::Result<u16> {
    let connection = match client {
        Some(connection) => connection,
        None => client.insert(Client::open(load)?),
    };
    let code = if load.refused {
        let last = if load.kept { "RSET" } else { "QUIT" };
        let group = format!("MAIL FROM:<bench@sender.example>\r\nRCPT TO:<{to}>\r\n{last}\r\n");
        connection.exchange(group.as_bytes(), 3)?;
        connection.codes[1]
    } else {
        connection.send(to, body, if load.kept { b"" } else { b"QUIT\r\n" })?
    };
    if !load.kept {
        *client = None;
    }
    Ok(code)
}

/// A connection with a buffer of its own.
pub struct Client {
    /// `None` only while it is being encrypted.
    stream: Option<Wire>,
    buffer: Vec<u8>,
    /// Codes of the last exchange.
    codes: Vec<u16>,
}

impl Client {
    /// Connects, reads the greeting, says EHLO.
    pub fn hello(port: u16) -> std::io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut client = Client {
            stream: Some(Wire::Clear(stream)),
            buffer: Vec::with_capacity(4096),
            codes: Vec::new(),
        };
        client.read(1)?;
        client.check(0, 220)?;
        client.exchange(b"EHLO bench.example\r\n", 1)?;
        client.check(0, 250)?;
        Ok(client)
    }

    /// The same, then STARTTLS and AUTH as the load has it.
    fn open(load: &Load) -> std::io::Result<Client> {
        let mut client = Client::hello(load.port)?;
        if let Some(settings) = &load.tls {
            client.exchange(b"STARTTLS\r\n", 1)?;
            client.check(0, 220)?;
            let clear = client
                .stream
                .take()
                .ok_or(std::io::ErrorKind::NotConnected)?;
            client.stream = Some(clear.encrypt(settings)?);
            client.exchange(b"EHLO bench.example\r\n", 1)?;
            client.check(0, 250)?;
        }
        if let Some(response) = load.login {
            client.exchange(format!("AUTH PLAIN {response}\r\n").as_bytes(), 1)?;
            client.check(0, 235)?;
        }
        Ok(client)
    }

    fn stream(&mut self) -> std::io::Result<&mut Wire> {
        let closed = || std::io::ErrorKind::NotConnected.into();
        self.stream.as_mut().ok_or_else(closed)
    }

    /// One message; returns the code of the final reply, or of the refusal. `after` is pipelined behind the dot.
    pub fn send(&mut self, to: &str, body: &[u8], after: &[u8]) -> std::io::Result<u16> {
        let group = format!("MAIL FROM:<bench@sender.example>\r\nRCPT TO:<{to}>\r\nDATA\r\n");
        self.exchange(group.as_bytes(), 3)?;
        if self.codes[2] != 354 {
            let code = if self.codes[0] == 250 {
                self.codes[1]
            } else {
                self.codes[0]
            };
            self.exchange(if after.is_empty() { b"RSET\r\n" } else { after }, 1)?;
            return Ok(code);
        }
        if after.is_empty() {
            self.exchange(body, 1)?;
        } else {
            self.exchange(&[body, after].concat(), 2)?;
        }
        Ok(self.codes[0])
    }

    /// Sends a group of commands and reads as many replies; a closed connection is an error.
    pub fn exchange(&mut self, commands: &[u8], replies: usize) -> std::io::Result<()> {
        self.stream()?.write_all(commands)?;
        self.read(replies)
    }

    fn check(&self, index: usize, code: u16) -> std::io::Result<()> {
        if self.codes[index] == code {
            return Ok(());
        }
        Err(std::io::Error::other(format!(
            "the server said {}",
            self.codes[index]
        )))
    }

    fn read(&mut self, replies: usize) -> std::io::Result<()> {
        self.codes.clear();
        while self.codes.len() < replies {
            let mut rest = &self.buffer[..];
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                // `250-…` goes on, `250 …` is the last line (RFC 5321 4.2.1).
                if rest.get(3) != Some(&b'-') {
                    let code = std::str::from_utf8(&rest[..3.min(end)])
                        .ok()
                        .and_then(|code| code.parse().ok());
                    self.codes
                        .push(code.ok_or_else(|| std::io::Error::other("not a reply"))?);
                }
                rest = &rest[end + 1..];
            }
            self.buffer = rest.to_vec();
            if self.codes.len() < replies {
                let mut chunk = [0; 4096];
                let length = self.stream()?.read(&mut chunk)?;
                if length == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                self.buffer.extend_from_slice(&chunk[..length]);
            }
        }
        Ok(())
    }
}

/// A message of 2 KiB with this id in a header, and the final dot.
pub fn message(id: &str) -> Vec<u8> {
    let mut text = format!(
        "From: Bench <bench@sender.example>\r\nTo: undisclosed-recipients:;\r\nSubject: load\r\n\
         Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{id}@sender.example>\r\n{ID_HEADER}{id}\r\n\r\n"
    );
    while text.len() < 2048 {
        text += "The quick brown fox jumps over the lazy dog, again and again and again.\r\n";
    }
    text += ".\r\n";
    text.into_bytes()
}

/// The header that carries a message's id.
pub const ID_HEADER: &str = "X-Load-Id: ";
