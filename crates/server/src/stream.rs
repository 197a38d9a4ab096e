//! The connection to a client: in the clear at first, maybe encrypted later.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::tls::{Established, Tls};

/// A client's connection.
pub(crate) enum Stream {
    Clear(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
    /// A handshake has failed: nothing more can be said.
    Dead,
}

impl Stream {
    /// Waits for bytes and appends them to the buffer; 0 at the end.
    pub async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Stream::Clear(stream) => stream.read_buf(buffer).await,
            Stream::Encrypted(stream) => stream.read_buf(buffer).await,
            Stream::Dead => Ok(0),
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Clear(stream) => stream.write_all(bytes).await,
            Stream::Encrypted(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Stream::Dead => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says that nothing more will come.
    pub async fn close(&mut self) {
        // The client may be gone already; there is nobody left to tell.
        let _ = match self {
            Stream::Clear(stream) => stream.shutdown().await,
            Stream::Encrypted(stream) => stream.shutdown().await,
            Stream::Dead => Ok(()),
        };
    }

    /// Begins TLS. After a failure the connection is dead.
    pub async fn encrypt(&mut self, tls: &Tls) -> io::Result<Established> {
        let Stream::Clear(stream) = std::mem::replace(self, Stream::Dead) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let (stream, established) = tls.accept(stream).await?;
        *self = Stream::Encrypted(Box::new(stream));
        Ok(established)
    }

    /// Our own address, as the client sees it.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Stream::Clear(stream) => stream.local_addr().ok(),
            Stream::Encrypted(stream) => stream.get_ref().0.local_addr().ok(),
            Stream::Dead => None,
        }
    }
}
