//! A connection's bytes: a TCP or unix stream, encrypted or not, with an input buffer that messages are
//! read out of.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    TlsTcp(Box<TlsStream<TcpStream>>),
    TlsUnix(Box<TlsStream<UnixStream>>),
}

pub(crate) struct Wire {
    stream: Stream,
    input: Vec<u8>,
    /// Where the unread part of `input` begins.
    start: usize,
}

impl Wire {
    pub async fn tcp(host: &str, port: u16) -> io::Result<Wire> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Wire::over(Stream::Tcp(stream)))
    }

    pub async fn unix(path: &Path) -> io::Result<Wire> {
        Ok(Wire::over(Stream::Unix(UnixStream::connect(path).await?)))
    }

    fn over(stream: Stream) -> Wire {
        Wire {
            stream,
            input: Vec::with_capacity(4096),
            start: 0,
        }
    }

    /// Goes on encrypted. What came in the clear and is not read yet would pass for encrypted afterwards:
    /// that is an error.
    pub async fn start_tls(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Wire> {
        if self.start < self.input.len() {
            return Err(io::Error::other(
                "unencrypted data before the TLS handshake",
            ));
        }
        let connector = TlsConnector::from(config);
        let stream = match self.stream {
            Stream::Tcp(stream) => Stream::TlsTcp(Box::new(connector.connect(name, stream).await?)),
            Stream::Unix(stream) => {
                Stream::TlsUnix(Box::new(connector.connect(name, stream).await?))
            }
            encrypted => encrypted,
        };
        Ok(Wire::over(stream))
    }

    /// Whether what is sent stays on this machine.
    pub fn is_local(&self) -> bool {
        matches!(self.stream, Stream::Unix(_) | Stream::TlsUnix(_))
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::TlsTcp(_) | Stream::TlsUnix(_))
    }

    /// The server's certificate (DER).
    pub fn certificate(&self) -> Option<&[u8]> {
        let session = match &self.stream {
            Stream::TlsTcp(stream) => stream.get_ref().1,
            Stream::TlsUnix(stream) => stream.get_ref().1,
            Stream::Tcp(_) | Stream::Unix(_) => return None,
        };
        Some(session.peer_certificates()?.first()?.as_ref())
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes).await,
            Stream::Unix(stream) => stream.write_all(bytes).await,
            Stream::TlsTcp(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Stream::TlsUnix(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// The unread bytes, at least `least` of them.
    pub async fn peek(&mut self, least: usize) -> io::Result<&[u8]> {
        while self.input.len() - self.start < least {
            if self.start > 0 {
                self.input.drain(..self.start);
                self.start = 0;
            }
            let got = match &mut self.stream {
                Stream::Tcp(stream) => stream.read_buf(&mut self.input).await?,
                Stream::Unix(stream) => stream.read_buf(&mut self.input).await?,
                Stream::TlsTcp(stream) => stream.read_buf(&mut self.input).await?,
                Stream::TlsUnix(stream) => stream.read_buf(&mut self.input).await?,
            };
            if got == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "server has gone away",
                ));
            }
        }
        Ok(&self.input[self.start..])
    }

    /// Takes `count` bytes, which [`Wire::peek`] has made sure of.
    pub fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start += count;
        &self.input[from..self.start]
    }
}
