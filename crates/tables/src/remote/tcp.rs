//! The client of tcp_table(5): `tcp:host:port`.

use std::sync::Arc;
use std::time::Duration;

use super::{Decoder, Endpoint, Links, Trouble};
use crate::error::{ErrorKind, TableError};
use crate::open::Tables;
use crate::tcp_table::{LINE_LIMIT, Lines, Reply, Request};

/// What the manual allows for sending and receiving.
const TIMEOUT: Duration = Duration::from_secs(100);

/// A table behind a tcp_table server.
pub(crate) struct TcpTable {
    spec: String,
    name: String,
    links: Arc<Links>,
}

impl TcpTable {
    pub fn open(spec: &str, name: &str, tables: &Tables) -> Result<TcpTable, TableError> {
        let endpoint = Endpoint::inet(name).map_err(|error| TableError::operator(spec, error))?;
        Ok(TcpTable {
            spec: spec.to_string(),
            name: name.to_string(),
            links: tables.links(endpoint, TIMEOUT),
        })
    }

    /// The key goes to the server as it is; folding it is the server's business.
    pub async fn lookup(&self, key: &str) -> Result<Option<Vec<u8>>, TableError> {
        let request = Request::get(key.as_bytes());
        let line = self
            .links
            .exchange(&request, || Line(Lines::default()))
            .await;
        let line = line.map_err(|trouble| self.unreachable(&trouble))?;
        match Reply::parse(&line) {
            Some(Reply::Found(value)) => Ok(Some(value)),
            Some(Reply::NotFound(_)) => Ok(None),
            Some(Reply::Failed(reason)) => {
                // Postfix keeps the reason to itself.
                let reason = crate::lines::shown(&reason);
                tracing::info!("TCP map {}: the server says: {reason}", self.name);
                Err(TableError::lookup(ErrorKind::Table, &self.spec))
            }
            None => {
                let coded = line.len() > 3
                    && line[..3].iter().all(u8::is_ascii_digit)
                    && !matches!(&line[..3], b"200" | b"400" | b"500");
                let what = match coded {
                    true => "bad status code",
                    false => "malformed reply",
                };
                let shown = crate::lines::shown(&line);
                let name = &self.name;
                tracing::warn!("read TCP map reply from {name}: {what}: {shown}");
                Err(TableError::lookup(ErrorKind::Environment, &self.spec))
            }
        }
    }

    fn unreachable(&self, trouble: &Trouble) -> TableError {
        let name = &self.name;
        match trouble {
            Trouble::Connect(_) => tracing::warn!("connect to TCP map {name}: {trouble}"),
            Trouble::Closed => {
                tracing::warn!("read TCP map reply from {name}: unexpected EOF");
            }
            _ => tracing::warn!("read TCP map reply from {name}: {trouble}"),
        }
        TableError::lookup(ErrorKind::Environment, &self.spec)
    }
}

struct Line(Lines);

impl Decoder for Line {
    type Reply = Vec<u8>;

    fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, String> {
        let line = self.0.next(input);
        line.map_err(|_| format!("text longer than {LINE_LIMIT}"))
    }
}
