//! Servers of socketmap_table(5) and tcp_table(5) whose replies, right and wrong ones, a test chooses by the key.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What to do about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// These bytes, as they are.
    Send(Vec<u8>),
    /// The same, and then the connection is closed.
    SendAndClose(Vec<u8>),
    /// Nothing comes; the connection stays.
    Silence,
}

/// Decides about a request. For a socketmap the bytes are the content of the netstring, for tcp_table the line.
pub type Answerer = Arc<dyn Fn(&[u8]) -> Act + Send + Sync>;

/// A running server. Its threads end with the test process.
#[derive(Debug)]
pub struct LookupServer {
    /// The port on 127.0.0.1; 0 for a unix socket.
    pub port: u16,
    connections: Arc<AtomicUsize>,
}

impl LookupServer {
    /// Netstrings on a free port.
    pub fn socketmap(answer: Answerer) -> LookupServer {
        LookupServer::on_port(answer, netstring)
    }

    /// Lines on a free port.
    pub fn tcp_table(answer: Answerer) -> LookupServer {
        LookupServer::on_port(answer, line)
    }

    /// Netstrings on a unix socket.
    pub fn socketmap_unix(path: &Path, answer: Answerer) -> LookupServer {
        let listener =
            UnixListener::bind(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                std::thread::spawn(move || serve(stream, netstring, &answer));
            }
        });
        LookupServer {
            port: 0,
            connections,
        }
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn on_port(answer: Answerer, request: Reader) -> LookupServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                std::thread::spawn(move || serve(stream, request, &answer));
            }
        });
        LookupServer { port, connections }
    }
}

/// Reads one request; `None` at the end of the stream.
type Reader = fn(&mut dyn BufRead) -> Option<Vec<u8>>;

fn netstring(input: &mut dyn BufRead) -> Option<Vec<u8>> {
    let mut length = Vec::new();
    input.read_until(b':', &mut length).ok()?;
    let length = std::str::from_utf8(length.strip_suffix(b":")?).ok()?;
    let mut content = vec![0; length.parse::<usize>().ok()? + 1];
    input.read_exact(&mut content).ok()?;
    (content.pop() == Some(b',')).then_some(content)
}

fn line(input: &mut dyn BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line).ok()?;
    Some(line.strip_suffix(b"\n")?.to_vec())
}

trait Stream: Read + Write + Sized {
    fn twin(&self) -> std::io::Result<Self>;
    fn close(&self);
}

impl Stream for TcpStream {
    fn twin(&self) -> std::io::Result<TcpStream> {
        self.try_clone()
    }

    fn close(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Stream for UnixStream {
    fn twin(&self) -> std::io::Result<UnixStream> {
        self.try_clone()
    }

    fn close(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// A client that goes away ends this; nobody waits for it.
fn serve(mut stream: impl Stream, request: Reader, answer: &Answerer) {
    let Ok(twin) = stream.twin() else { return };
    let mut input = BufReader::new(twin);
    while let Some(request) = request(&mut input) {
        let (bytes, close) = match answer(&request) {
            Act::Send(bytes) => (bytes, false),
            Act::SendAndClose(bytes) => (bytes, true),
            Act::Silence => (Vec::new(), false),
        };
        if stream.write_all(&bytes).is_err() || close {
            break;
        }
    }
    stream.close();
}
