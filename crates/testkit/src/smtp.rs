//! A scripted SMTP or LMTP client, and `swaks`.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::require;

/// One reply: its code and the texts of its lines without code, joined by `\n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

/// A connection on which the test says every byte.
#[derive(Debug)]
pub struct Smtp {
    stream: BufReader<Box<dyn Stream>>,
}

trait Stream: Read + Write + Debug + Send {
    fn shutdown_write(&self);
}

impl Stream for TcpStream {
    fn shutdown_write(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

impl Stream for UnixStream {
    fn shutdown_write(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

/// How long a reply may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

impl Smtp {
    /// Connects to 127.0.0.1:`port`; the greeting is not read yet.
    pub fn connect(port: u16) -> Smtp {
        let stream = TcpStream::connect(("127.0.0.1", port));
        let stream = stream.unwrap_or_else(|error| panic!("SMTP on 127.0.0.1:{port}: {error}"));
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("the timeout is not zero");
        let _ = stream.set_nodelay(true);
        Smtp {
            stream: BufReader::new(Box::new(stream)),
        }
    }

    /// Connects to a unix socket.
    pub fn connect_unix(path: &Path) -> Smtp {
        let stream = UnixStream::connect(path);
        let stream = stream.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("the timeout is not zero");
        Smtp {
            stream: BufReader::new(Box::new(stream)),
        }
    }

    /// Connects, reads the greeting and says `EHLO client.example`.
    pub fn hello(port: u16) -> Smtp {
        let mut smtp = Smtp::connect(port);
        smtp.expect(220);
        smtp.command("EHLO client.example", 250);
        smtp
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stream = self.stream.get_mut();
        stream
            .write_all(bytes.as_ref())
            .unwrap_or_else(|error| panic!("SMTP: {error}"));
    }

    /// Sends a line (CRLF is added) and returns the reply.
    pub fn ask(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n"));
        self.reply()
    }

    /// Sends a line and insists on the code of the reply.
    pub fn command(&mut self, line: &str, code: u16) -> Reply {
        let reply = self.ask(line);
        assert_eq!(reply.code, code, "{line:?} was answered {reply:?}");
        reply
    }

    /// Reads a reply and insists on its code.
    pub fn expect(&mut self, code: u16) -> Reply {
        let reply = self.reply();
        assert_eq!(reply.code, code, "{reply:?}");
        reply
    }

    /// Reads one reply, all its lines; panics when the connection ends or stays silent.
    pub fn reply(&mut self) -> Reply {
        self.try_reply()
            .unwrap_or_else(|error| panic!("SMTP reply: {error}"))
    }

    /// Reads one reply; an error when the connection ends or stays silent.
    pub fn try_reply(&mut self) -> std::io::Result<Reply> {
        let mut texts: Vec<String> = Vec::new();
        loop {
            let mut line = Vec::new();
            if self.stream.read_until(b'\n', &mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&line)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let Some(code) = code else {
                return Err(std::io::Error::other(format!("not a reply: {line:?}")));
            };
            texts.push(line.get(4..).unwrap_or("").to_owned());
            if !line[3..].starts_with('-') {
                return Ok(Reply {
                    code,
                    text: texts.join("\n"),
                });
            }
        }
    }

    /// One whole message in an open session; `body` has LF or CRLF line ends and is dot-stuffed here.
    /// Returns the replies to the recipients and the one to the final dot (None when all were refused).
    pub fn message(&mut self, from: &str, to: &[&str], body: &str) -> (Vec<Reply>, Option<Reply>) {
        self.command(&format!("MAIL FROM:<{from}>"), 250);
        let replies: Vec<Reply> = to
            .iter()
            .map(|to| self.ask(&format!("RCPT TO:<{to}>")))
            .collect();
        if replies.iter().all(|reply| reply.code >= 300) {
            self.command("RSET", 250);
            return (replies, None);
        }
        self.command("DATA", 354);
        for line in body.lines() {
            let dot = if line.starts_with('.') { "." } else { "" };
            self.send(format!("{dot}{line}\r\n"));
        }
        (replies, Some(self.ask(".")))
    }

    /// Whether the server has closed the connection; waits for it up to the patience of a reply.
    pub fn at_end(&mut self) -> bool {
        matches!(self.stream.fill_buf(), Ok([]) | Err(_))
    }

    /// Closes our sending side.
    pub fn close_write(&mut self) {
        self.stream.get_ref().shutdown_write();
    }
}

/// Sends one message to 127.0.0.1:`port` in a session of its own; panics when any step is refused.
/// Returns the text of the final reply ("2.0.0 Ok: queued as …").
pub fn send_mail(port: u16, from: &str, to: &[&str], body: &str) -> String {
    let mut smtp = Smtp::hello(port);
    let (replies, end) = smtp.message(from, to, body);
    assert!(
        replies.iter().all(|reply| reply.code == 250),
        "{to:?}: {replies:?}"
    );
    let end = end.expect("a recipient was accepted");
    assert_eq!(end.code, 250, "{end:?}");
    smtp.command("QUIT", 221);
    end.text
}

/// Runs swaks; its whole output and exit status, judged by the caller.
pub fn swaks(arguments: &[&str]) -> Output {
    crate::process::run_with_input(Command::new(require("swaks")).args(arguments), b"")
}
