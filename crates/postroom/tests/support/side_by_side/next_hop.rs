//! The next hop: an LMTP server that takes everything and writes it down.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// One message as it came.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `sink`, or `filter` for the address that FILTER and content_filter are to name.
    pub place: &'static str,
    /// XFORWARD, MAIL and RCPT lines, in order.
    pub envelope: Vec<String>,
    /// Lines ended by `\n`, dots removed.
    pub message: String,
}

impl Delivery {
    /// The id in the first `Received:` header.
    pub fn id(&self) -> &str {
        let received = self.message.split("Received: ").nth(1).unwrap_or_default();
        let id = received.split(" id ").nth(1).unwrap_or_default();
        id.split(|c: char| !c.is_alphanumeric())
            .next()
            .unwrap_or_default()
    }
}

/// Its threads end with the test's process.
pub struct NextHop {
    ports: [(&'static str, u16); 2],
    deliveries: Arc<Mutex<Vec<Delivery>>>,
}

impl NextHop {
    pub fn start() -> NextHop {
        let deliveries = Arc::new(Mutex::new(Vec::new()));
        let ports = ["sink", "filter"].map(|place| {
            let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            let port = listener.local_addr().expect("a bound socket").port();
            let deliveries = Arc::clone(&deliveries);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let deliveries = Arc::clone(&deliveries);
                    thread::spawn(move || {
                        // A client that goes away in the middle has delivered nothing.
                        let _ = serve(place, stream, &deliveries);
                    });
                }
            });
            (place, port)
        });
        NextHop { ports, deliveries }
    }

    /// `@SINK@` and `@FILTER@`: transport and next hop of the two places; `@NEXTHOP@`: that of the filter alone.
    pub fn placeholders(&self) -> Vec<(String, String)> {
        let one = |(place, port): &(&str, u16)| {
            let name = format!("@{}@", place.to_uppercase());
            (name, format!("lmtp:inet:127.0.0.1:{port}"))
        };
        let [_, (_, filter)] = self.ports;
        let alone = ("@NEXTHOP@".to_owned(), format!("inet:127.0.0.1:{filter}"));
        std::iter::once(alone)
            .chain(self.ports.iter().map(one))
            .collect()
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries
            .lock()
            .unwrap_or_else(|bad| bad.into_inner())
            .clone()
    }
}

fn serve(
    place: &'static str,
    stream: TcpStream,
    deliveries: &Mutex<Vec<Delivery>>,
) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut envelope: Vec<String> = Vec::new();
    let mut forwarded: Vec<String> = Vec::new();
    writer.write_all(b"220 next.hop LMTP\r\n")?;
    while let Some(line) = read_line(&mut reader)? {
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        let reply: &str = match verb.to_ascii_uppercase().as_str() {
            "LHLO" => {
                "250-next.hop\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n\
                 250-XFORWARD NAME ADDR PORT PROTO HELO SOURCE IDENT\r\n250 ENHANCEDSTATUSCODES"
            }
            "XFORWARD" => {
                forwarded.push(line.clone());
                "250 2.0.0 Ok"
            }
            "MAIL" => {
                envelope = std::mem::take(&mut forwarded);
                envelope.push(line.clone());
                "250 2.1.0 Ok"
            }
            "RCPT" => {
                envelope.push(line.clone());
                "250 2.1.5 Ok"
            }
            "DATA" => {
                writer.write_all(b"354 go on\r\n")?;
                let mut message = String::new();
                while let Some(line) = read_line(&mut reader)?.filter(|line| line != ".") {
                    message += line.strip_prefix('.').unwrap_or(&line);
                    message.push('\n');
                }
                let recipients = envelope.iter().filter(|line| line.starts_with("RCPT"));
                let replies = "250 2.0.0 taken\r\n".repeat(recipients.count());
                let delivery = Delivery {
                    place,
                    envelope: std::mem::take(&mut envelope),
                    message,
                };
                deliveries
                    .lock()
                    .unwrap_or_else(|bad| bad.into_inner())
                    .push(delivery);
                writer.write_all(replies.as_bytes())?;
                continue;
            }
            "QUIT" => {
                writer.write_all(b"221 2.0.0 bye\r\n")?;
                return Ok(());
            }
            _ => "250 2.0.0 Ok",
        };
        writer.write_all(format!("{reply}\r\n").as_bytes())?;
    }
    Ok(())
}

fn read_line(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let line = String::from_utf8_lossy(&line);
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}
