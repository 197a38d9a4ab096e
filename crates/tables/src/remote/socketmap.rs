//! The client of socketmap_table(5): `socketmap:inet:host:port:name`, `socketmap:unix:path:name`.

use std::sync::Arc;
use std::time::Duration;

use super::{Decoder, Endpoint, Links, Trouble};
use crate::error::{ErrorKind, TableError};
use crate::open::Tables;
use crate::socketmap::{FrameError, Frames, REPLY_LIMIT, Reply, Request, Status, frame};

/// What Postfix's client allows for an exchange.
const TIMEOUT: Duration = Duration::from_secs(100);

/// One table of a socketmap server.
pub(crate) struct SocketmapTable {
    spec: String,
    name: String,
    links: Arc<Links>,
}

impl SocketmapTable {
    pub fn open(spec: &str, name: &str, tables: &Tables) -> Result<SocketmapTable, TableError> {
        let (server, name) = name.rsplit_once(':').ok_or_else(|| {
            TableError::operator(spec, "socketmap requires server:socketmap argument")
        })?;
        let endpoint = Endpoint::parse(server, &tables.queue_directory())
            .map_err(|error| TableError::operator(spec, error))?;
        Ok(SocketmapTable {
            spec: spec.to_string(),
            name: name.to_string(),
            links: tables.links(endpoint, TIMEOUT),
        })
    }

    /// The key goes to the server as it is; folding it is the server's business.
    pub async fn lookup(&self, key: &str) -> Result<Option<Vec<u8>>, TableError> {
        let request = Request {
            name: self.name.as_bytes(),
            key: key.as_bytes(),
        };
        let request = frame(&request.encode());
        let decoder = || Netstring(Frames::new(REPLY_LIMIT));
        let content = self.links.exchange(&request, decoder).await;
        let content = content.map_err(|trouble| self.unreachable(trouble))?;
        match Reply::parse(&content) {
            // Postfix takes an OK without a blank behind it for no value.
            Some(Reply {
                status: Status::Ok, ..
            }) if content == b"OK" => Ok(None),
            Some(Reply {
                status: Status::Ok,
                text,
            }) => Ok(Some(text)),
            Some(Reply {
                status: Status::NotFound,
                ..
            }) => Ok(None),
            Some(Reply { status, text }) => Err(self.refused(status, &text)),
            None => Err(self.unknown(&content)),
        }
    }

    fn refused(&self, status: Status, reason: &[u8]) -> TableError {
        let what = match status {
            Status::Timeout => "timeout error",
            Status::Perm => "permanent error",
            _ => "temporary error",
        };
        self.complain(what, reason);
        TableError::lookup(ErrorKind::Table, &self.spec)
    }

    fn unknown(&self, content: &[u8]) -> TableError {
        let blank = content.iter().position(|&byte| byte == b' ');
        let text = blank.map_or(&b""[..], |at| &content[at + 1..]);
        self.complain("unknown error", text);
        TableError::lookup(ErrorKind::Environment, &self.spec)
    }

    fn complain(&self, what: &str, reason: &[u8]) {
        let spec = &self.spec;
        match reason {
            b"" => tracing::warn!("{spec} socketmap server {what}"),
            reason => {
                let reason = crate::lines::shown(reason);
                tracing::warn!("{spec} socketmap server {what}: {reason}");
            }
        }
    }

    fn unreachable(&self, trouble: Trouble) -> TableError {
        if let Trouble::Connect(_) = &trouble {
            tracing::warn!("connect to {}: {trouble}", self.links.endpoint());
        }
        tracing::warn!("table {} lookup error: {trouble}", self.spec);
        TableError::lookup(ErrorKind::Environment, &self.spec)
    }
}

struct Netstring(Frames);

impl Decoder for Netstring {
    type Reply = Vec<u8>;

    fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.0.next(input).map_err(|error| match error {
            FrameError::TooLong { .. } => "input exceeds size limit".to_string(),
            FrameError::Length | FrameError::Comma => "input format error".to_string(),
        })
    }
}
