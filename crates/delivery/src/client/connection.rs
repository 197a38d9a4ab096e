//! One connection, and the loop that joins it to the `smtp::client` machine.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::Content;
use smtp::client::{DotStuffer, RcptResult, Session, Step, Transaction};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::route::Way;
use super::{Inner, Peer};

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection to a server, for one message after the other.
pub struct Connection {
    stream: Box<dyn Stream>,
    session: Session,
    opened: Instant,
    uses: u32,
    longest_line: usize,
    input: Vec<u8>,
    way: Way,
    /// There could be no TLS; in the clear the server may take the message.
    handshake_failed: bool,
}

/// How a transaction went.
pub struct Transfer {
    pub results: Vec<RcptResult>,
    /// From the start to the end of the greeting, for `delays=`; the connect included when it is new.
    pub connection: Duration,
    /// The server may have got the message.
    pub body_started: bool,
    /// A kept connection that the server had closed meanwhile: to be tried again on a new one.
    pub is_stale: bool,
    /// There could be no TLS; in the clear the server may take the message.
    pub handshake_failed: bool,
}

impl Connection {
    /// Connects; fails with `TimedOut` after `connect_timeout`.
    pub async fn open(client: &Inner, peer: &Peer, way: Way) -> io::Result<Connection> {
        let opened = Instant::now();
        let connect = async {
            let stream: Box<dyn Stream> = match peer {
                Peer::Unix { path } => Box::new(
                    UnixStream::connect(Path::new(&client.queue_directory).join(path)).await?,
                ),
                Peer::Tcp { address, .. } => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
            };
            Ok(stream)
        };
        let stream = within(client.connect_timeout, connect)
            .await
            .unwrap_or_else(|| Err(io::Error::from_raw_os_error(nix::libc::ETIMEDOUT)))?;
        let mut session = Session::new(Arc::clone(&client.settings), client.name(peer));
        session.secure(way.security.clone());
        Ok(Connection {
            stream,
            session,
            opened,
            uses: 0,
            longest_line: client.longest_line,
            input: vec![0; 4096],
            way,
            handshake_failed: false,
        })
    }

    /// How many messages went over it.
    pub fn uses(&self) -> u32 {
        self.uses
    }

    /// How long it exists.
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Whether it can take another message.
    pub fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// Sends one message.
    pub async fn send(
        &mut self,
        transaction: Transaction,
        content: &Content,
        limit: Duration,
    ) -> Transfer {
        let is_reused = self.uses > 0;
        self.uses += 1;
        let started = if is_reused {
            Instant::now()
        } else {
            self.opened
        };
        let (mut connection, mut sends, mut body_started) = (None, 0, false);
        self.session.begin(transaction);
        if self.way.wrapped() && !is_reused {
            self.start_tls().await;
        }
        loop {
            match self.session.step() {
                Step::Send(bytes) => {
                    // A new connection's first words are EHLO; the second ones begin the transaction.
                    sends += 1;
                    if connection.is_none() && (is_reused || sends == 2) {
                        connection = Some(if is_reused {
                            Duration::ZERO
                        } else {
                            started.elapsed()
                        });
                    }
                    self.write(&bytes, limit).await;
                }
                Step::Read { timeout } => self.read(timeout).await,
                Step::StartTls => self.start_tls().await,
                Step::Body => {
                    body_started = true;
                    self.body(content, limit).await;
                }
                Step::Done | Step::Closed => break,
            }
        }
        if !is_reused && self.session.offers_starttls() {
            self.way.note_offer();
        }
        let results = self.session.take_results();
        let lost = |result: &RcptResult| matches!(result, RcptResult::Failed { dsn, .. } if dsn.class == 4);
        Transfer {
            is_stale: is_reused && !body_started && !self.is_open() && results.iter().all(lost),
            results,
            connection: connection.unwrap_or_else(|| started.elapsed()),
            body_started,
            handshake_failed: self.handshake_failed,
        }
    }

    /// Says goodbye. The answer is not waited for (`smtp_skip_quit_response`).
    pub async fn quit(mut self) {
        self.session.quit();
        if let Step::Send(bytes) = self.session.step() {
            self.write(&bytes, Duration::from_secs(5)).await;
        }
    }

    /// The handshake; what was not encrypted before it must not be used after it.
    async fn start_tls(&mut self) {
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        match self.way.encrypt(plain).await {
            Ok(encrypted) => {
                self.stream = Box::new(encrypted);
                self.session.tls_established();
            }
            Err(refused) => {
                self.handshake_failed = refused.handshake;
                self.session.tls_failed(refused.dsn, refused.text);
            }
        }
    }

    /// Whether it may serve other messages: one that was encrypted, or logged in, belongs to what it was made for.
    pub fn is_plain(&self) -> bool {
        self.way.is_plain()
    }

    async fn write(&mut self, bytes: &[u8], limit: Duration) -> bool {
        match within(limit, write_out(&mut self.stream, bytes)).await {
            Some(Ok(())) => return true,
            Some(Err(_)) => self.session.eof(),
            None => self.session.timed_out(),
        }
        false
    }

    async fn read(&mut self, limit: Duration) {
        match within(limit, self.stream.read(&mut self.input)).await {
            Some(Ok(count @ 1..)) => self.session.receive(&self.input[..count]),
            Some(Ok(0) | Err(_)) => self.session.eof(),
            None => self.session.timed_out(),
        }
    }

    async fn body(&mut self, content: &Content, limit: Duration) {
        let mut stuffer = DotStuffer::folding(self.longest_line);
        let mut chunks = content.chunks();
        let mut out = Vec::new();
        while let Some(piece) = chunks.next().await {
            match piece {
                Ok(piece) => stuffer.push(&piece, &mut out),
                Err(error) => return self.session.body_failed(&error.to_string()),
            }
            // A small message goes out with its end in one write.
            if out.len() >= 64 * 1024 {
                if !self.write(&out, limit).await {
                    return;
                }
                out.clear();
            }
        }
        stuffer.finish(&mut out);
        if self.write(&out, limit).await {
            self.session.body_sent();
        }
    }
}

/// Encrypted streams keep what was written until they are told to send it.
async fn write_out(stream: &mut Box<dyn Stream>, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// `None` when it took longer. A limit of zero is none.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    if limit.is_zero() {
        return Some(work.await);
    }
    tokio::time::timeout(limit, work).await.ok()
}
