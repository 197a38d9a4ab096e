//! As much of an IMAP client (RFC 3501) as reading a mailbox takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A logged-in session.
#[derive(Debug)]
pub struct Imap {
    stream: BufReader<TcpStream>,
    number: u32,
}

impl Imap {
    /// Connects to 127.0.0.1:`port` and logs in; panics when that is refused.
    pub fn login(port: u16, user: &str, password: &str) -> Imap {
        let stream = TcpStream::connect(("127.0.0.1", port));
        let stream = stream.unwrap_or_else(|error| panic!("IMAP on 127.0.0.1:{port}: {error}"));
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("the timeout is not zero");
        let mut imap = Imap {
            stream: BufReader::new(stream),
            number: 0,
        };
        imap.line();
        imap.command(&format!("LOGIN {} {}", quoted(user), quoted(password)));
        imap
    }

    /// Selects a mailbox and returns its number of messages.
    pub fn select(&mut self, mailbox: &str) -> usize {
        let lines = self.command(&format!("SELECT {}", quoted(mailbox)));
        let count = lines.iter().find_map(|line| {
            line.strip_prefix("* ")?
                .strip_suffix(" EXISTS")?
                .parse()
                .ok()
        });
        count.unwrap_or_else(|| panic!("SELECT {mailbox}: {lines:?}"))
    }

    /// The whole message with this sequence number (from 1) of the selected mailbox.
    pub fn fetch(&mut self, number: usize) -> String {
        let lines = self.command(&format!("FETCH {number} BODY.PEEK[]"));
        lines.into_iter().nth(1).unwrap_or_default()
    }

    /// All messages of a mailbox, oldest first.
    pub fn fetch_all(&mut self, mailbox: &str) -> Vec<String> {
        (1..=self.select(mailbox))
            .map(|number| self.fetch(number))
            .collect()
    }

    /// Sends a command; its untagged lines, literals as elements of their own. Panics unless it ends with OK.
    pub fn command(&mut self, command: &str) -> Vec<String> {
        self.number += 1;
        let tag = format!("a{}", self.number);
        write!(self.stream.get_mut(), "{tag} {command}\r\n")
            .unwrap_or_else(|error| panic!("IMAP: {error}"));
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            if let Some(status) = line.strip_prefix(&tag) {
                assert!(
                    status.trim_start().starts_with("OK"),
                    "IMAP {command}: {line}"
                );
                return lines;
            }
            let literal = line
                .strip_suffix('}')
                .and_then(|rest| rest.rsplit_once('{')?.1.parse().ok());
            lines.push(line);
            if let Some(length) = literal {
                let mut bytes = vec![0; length];
                self.stream
                    .read_exact(&mut bytes)
                    .unwrap_or_else(|error| panic!("IMAP: {error}"));
                lines.push(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        let read = self
            .stream
            .read_until(b'\n', &mut line)
            .unwrap_or_else(|error| panic!("IMAP: {error}"));
        assert!(read > 0, "the IMAP server closed the connection");
        String::from_utf8_lossy(&line)
            .trim_end_matches(['\r', '\n'])
            .to_owned()
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
