//! The demo's messages, and a few lines of SMTP to send them with.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Envelope sender of all of them.
pub const SENDER: &str = "visitor@example.com";

/// A message, and what should become of it.
pub struct Letter {
    pub to: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// The mailboxes it should reach, in the order in which they are shown; none: it should be refused.
    pub mailboxes: &'static [&'static str],
}

/// One of each kind.
pub const LETTERS: &[Letter] = &[
    Letter {
        to: "john@example.org",
        about: "a mailbox",
        mailboxes: &["john@example.org"],
    },
    Letter {
        to: "john+lists@example.org",
        about: "the same with an extension",
        mailboxes: &["john@example.org"],
    },
    Letter {
        to: "team@example.org",
        about: "an alias with three destinations",
        mailboxes: &["john@example.org", "jane@example.org", "jim@example.org"],
    },
    Letter {
        to: "anything@example.net",
        about: "no such mailbox: the catch-all takes it",
        mailboxes: &["carol@example.net"],
    },
    Letter {
        to: "dave@example.net",
        about: "a mailbox that email2email protects from the catch-all",
        mailboxes: &["dave@example.net"],
    },
    Letter {
        to: "nobody@example.org",
        about: "no mailbox, no alias, no catch-all",
        mailboxes: &[],
    },
];

/// How the server took a message.
pub struct Sent {
    pub accepted: bool,
    /// To RCPT.
    pub reply: String,
    /// To the end of DATA: `250 2.0.0 Ok: queued as …`.
    pub queued: Option<String>,
}

/// A word that no other message has.
pub fn token() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}.{}.demo", std::process::id(), now.as_nanos())
}

/// Sends the letter over a connection of its own. `token` becomes part of its Message-ID.
pub fn send(server: SocketAddr, letter: &Letter, token: &str) -> io::Result<Sent> {
    let mut talk = Talk::begin(server)?;
    talk.say("EHLO visitor.example.com", "250")?;
    talk.say(&format!("MAIL FROM:<{SENDER}>"), "250")?;
    let reply = talk.ask(&format!("RCPT TO:<{}>", letter.to))?;
    let accepted = reply.starts_with('2');
    let mut queued = None;
    if accepted {
        talk.say("DATA", "354")?;
        let Letter { to, about, .. } = letter;
        let date = mail::date::rfc5322(SystemTime::now());
        let message = format!(
            "From: <{SENDER}>\r\nTo: <{to}>\r\nSubject: {about}\r\nDate: {date}\r\n\
             Message-ID: <{token}@visitor.example.com>\r\n\r\nHello from the demo.\r\n."
        );
        queued = Some(talk.say(&message, "250")?);
    }
    talk.ask("QUIT")?;
    Ok(Sent {
        accepted,
        reply,
        queued,
    })
}

struct Talk {
    stream: BufReader<TcpStream>,
}

impl Talk {
    fn begin(server: SocketAddr) -> io::Result<Talk> {
        let stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        let mut talk = Talk {
            stream: BufReader::new(stream),
        };
        expect(talk.reply()?, "220")?;
        Ok(talk)
    }

    fn say(&mut self, line: &str, code: &str) -> io::Result<String> {
        let reply = self.ask(line)?;
        expect(reply, code)
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        let bytes = format!("{line}\r\n");
        self.stream.get_mut().write_all(bytes.as_bytes())?;
        self.reply()
    }

    /// The last line of a reply of one or more lines.
    fn reply(&mut self) -> io::Result<String> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}

fn expect(reply: String, code: &str) -> io::Result<String> {
    if reply.starts_with(code) {
        Ok(reply)
    } else {
        Err(io::Error::other(format!("the server said: {reply}")))
    }
}
