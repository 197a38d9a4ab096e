//! A policy server that answers as its client's request says, well or badly, and keeps the requests.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Listens on a port of its own until the test ends.
pub struct PolicyServer {
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl PolicyServer {
    pub fn start() -> PolicyServer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&requests);
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let all = Arc::clone(&streams);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let copy = stream.try_clone().expect("a second handle");
                all.lock().expect("no panic while locked").push(copy);
                let kept = Arc::clone(&kept);
                // A client that goes away ends its thread.
                std::thread::spawn(move || serve(stream, &kept));
            }
        });
        PolicyServer {
            address,
            requests,
            streams,
        }
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.streams.lock().expect("no panic while locked").len()
    }

    /// Ends all connections.
    pub fn hang_up(&self) {
        for stream in self.streams.lock().expect("no panic while locked").iter() {
            // Those that are gone already need no end.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The requests so far, without their empty lines.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic while locked").clone()
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        while !request.ends_with("\n\n") {
            if reader.read_line(&mut request)? == 0 {
                return Ok(());
            }
        }
        kept.lock()
            .expect("no panic while locked")
            .push(request.trim_end().to_owned());
        let attribute = |name: &str| {
            let line = request.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().to_owned()
        };
        let context = attribute("policy_context=");
        let recipient = attribute("recipient=");
        let word = match context.is_empty() {
            true => recipient.split('@').next().unwrap_or_default(),
            false => &context,
        };
        if !answer(&mut stream, word)? {
            return stream.shutdown(Shutdown::Both);
        }
    }
}

/// Whether the connection goes on.
fn answer(stream: &mut TcpStream, word: &str) -> std::io::Result<bool> {
    let long = format!("action=REJECT {}\n\n", "x".repeat(300));
    let bytes: &[u8] = match word {
        "reject" => b"action=REJECT go away\n\n",
        "defer" => b"action=DEFER\n\n",
        "coded" => b"action=554 5.7.9 by its number\n\n",
        "busy" => b"action=DEFER_IF_PERMIT Service is busy\n\n",
        "bye" => b"action=450 4.7.1 come back\n\n",
        "class" => b"action=nobody\n\n",
        "words" => b"action=no such words\n\n",
        "list" => b"action=reject_unauth_destination reject\n\n",
        "permit" => b"action=permit\n\n",
        "nothing" => b"action=\n\n",
        "two" => b"action=450 4.7.1 first\naction=554 5.7.1 second\n\n",
        "second" => b"other=thing\naction=450 4.7.1 last\n\n",
        "utf8" => "action=REJECT gr\u{fc}n\n\n".as_bytes(),
        "long" => long.as_bytes(),
        "prepend" => b"action=PREPEND X-Policy: yes\n\n",
        "hold" => b"action=HOLD for a look\n\n",
        "full" => b"action=552 5.2.2 Mailbox is full\n\n",
        "garbage" => b"Nice to see you\n\n",
        "noaction" => b"other=thing\n\n",
        "empty" => b"\n",
        "octets" => b"action=REJECT \xff\x01\n\n",
        "crlf" => b"action=REJECT me\r\n\r\n",
        "close" => return Ok(false),
        "partial" => {
            stream.write_all(b"action=DUNNO\n")?;
            return Ok(false);
        }
        "half" => {
            stream.write_all(b"action=DUN")?;
            return Ok(false);
        }
        "sleep" => {
            std::thread::sleep(Duration::from_secs(20));
            return Ok(false);
        }
        "endless" => loop {
            stream.write_all(&[b'x'; 4096])?;
        },
        "lines" => loop {
            stream.write_all(&b"x=y\n".repeat(1024))?;
        },
        _ => b"action=DUNNO\n\n",
    };
    stream.write_all(bytes)?;
    Ok(true)
}
