//! How tools ask a running server to change its queue: one line of JSON there, one back.
//!
//! The server listens on the unix socket [`socket_path`]; `postsuper` and `postqueue` are the clients. The types are
//! plain: the server reads a [`Request`], acts on its `Spool` and `Schedule`, and writes a [`Response`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;
use crate::error::QueueError;
use crate::id::QueueId;
use crate::reader::Listed;
use crate::spool::Spool;

/// Longest line either side accepts, in bytes.
pub const LINE_LIMIT: u64 = 16 * 1024 * 1024;

/// `<queue_directory>/public/postroom`.
pub fn socket_path(queue_directory: &Path) -> PathBuf {
    queue_directory.join("public").join("postroom")
}

/// What a tool may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Request {
    Hold {
        messages: Selection,
    },
    Release {
        messages: Selection,
    },
    Delete {
        messages: Selection,
    },
    Requeue {
        messages: Selection,
    },
    /// `postqueue -f`: try everything that is deferred now.
    FlushAll,
    /// `postqueue -s`: the messages with recipients at this domain.
    FlushSite {
        site: String,
    },
    /// `postqueue -i`.
    FlushId {
        id: QueueId,
    },
}

/// Which messages are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    Ids(Vec<QueueId>),
    /// Those in the given queue.
    All(QueueName),
}

/// Postfix's queue names, as views of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueName {
    /// Every queue.
    Any,
    Incoming,
    /// Not deferred, not on hold.
    Active,
    /// Waiting for another attempt.
    Deferred,
    Hold,
}

impl QueueName {
    /// The queue in which Postfix would keep a message with this envelope.
    pub fn of(envelope: &Envelope) -> QueueName {
        match (envelope.hold, envelope.next_attempt) {
            (true, _) => QueueName::Hold,
            (false, Some(_)) => QueueName::Deferred,
            (false, None) => QueueName::Active,
        }
    }

    /// The queue's name, as a folder of Postfix.
    pub fn as_str(self) -> &'static str {
        match self {
            QueueName::Any => "all",
            QueueName::Incoming => "incoming",
            QueueName::Active => "active",
            QueueName::Deferred => "deferred",
            QueueName::Hold => "hold",
        }
    }

    /// The queue of that name; `None` for others.
    pub fn parse(name: &str) -> Option<QueueName> {
        use QueueName::{Active, Deferred, Hold, Incoming};
        [Incoming, Active, Deferred, Hold]
            .into_iter()
            .find(|queue| queue.as_str() == name)
    }
}

/// Does to the spool what the request asks. Flushes change nothing on the disk. The answer's `changed` tells the server
/// which messages its schedule must take up, forget or make due.
pub async fn apply(spool: &Spool, request: &Request) -> Response {
    match try_apply(spool, request).await {
        Ok(changed) => Response::Done { changed },
        Err(error) => Response::Failed {
            message: error.to_string(),
        },
    }
}

async fn try_apply(spool: &Spool, request: &Request) -> Result<Vec<QueueId>, QueueError> {
    let mut changed = Vec::new();
    for id in selected(spool, request).await? {
        let done = match request {
            Request::Hold { .. } => spool.hold(id).await,
            Request::Release { .. } => spool.release(id).await,
            Request::Delete { .. } => spool.delete(id).await,
            Request::Requeue { .. } => spool.requeue(id).await,
            Request::FlushAll | Request::FlushSite { .. } | Request::FlushId { .. } => Ok(()),
        };
        match done {
            Ok(()) => changed.push(id),
            // It was delivered meanwhile.
            Err(QueueError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}

/// The messages that the request means and that it would change.
async fn selected(spool: &Spool, request: &Request) -> Result<Vec<QueueId>, QueueError> {
    let listed = match request {
        Request::Hold { messages }
        | Request::Release { messages }
        | Request::Delete { messages }
        | Request::Requeue { messages } => chosen(spool, messages).await?,
        Request::FlushAll | Request::FlushSite { .. } => spool.list().await?,
        Request::FlushId { id } => chosen(spool, &Selection::Ids(vec![*id])).await?,
    };
    let wanted = |listed: &Listed| match request {
        Request::Hold { .. } => !listed.envelope.hold,
        Request::Release { .. } => listed.envelope.hold,
        Request::Delete { .. } | Request::Requeue { .. } => true,
        Request::FlushAll | Request::FlushId { .. } => !listed.envelope.hold,
        Request::FlushSite { site } => !listed.envelope.hold && reaches(&listed.envelope, site),
    };
    Ok(listed
        .iter()
        .filter(|one| wanted(one))
        .map(|one| one.id)
        .collect())
}

async fn chosen(spool: &Spool, selection: &Selection) -> Result<Vec<Listed>, QueueError> {
    let queue = match selection {
        Selection::All(queue) => *queue,
        Selection::Ids(ids) => {
            let found = |id: &QueueId| {
                let envelope = spool.reader().envelope(*id).ok()?;
                Some(Listed { id: *id, envelope })
            };
            return Ok(ids.iter().filter_map(found).collect());
        }
    };
    let mut listed = spool.list().await?;
    listed.retain(|one| queue == QueueName::Any || QueueName::of(&one.envelope) == queue);
    Ok(listed)
}

/// Whether an unfinished recipient is at that domain.
fn reaches(envelope: &Envelope, site: &str) -> bool {
    envelope.unfinished().any(|index| {
        let address = &envelope.recipients[index].address;
        address
            .rsplit_once('@')
            .is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(site))
    })
}

/// What the server did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The messages that were changed; ids that were not in the queue are left out.
    Done { changed: Vec<QueueId> },
    /// Nothing was done, or not all.
    Failed { message: String },
}

/// Sends the request and waits for the answer. `None`: no server listens there.
pub fn ask(queue_directory: &Path, request: &Request) -> Result<Option<Response>, QueueError> {
    let path = socket_path(queue_directory);
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        QueueError::Control(format!("{what} {}: {error}", path.display()))
    };
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed("connect to", &error)),
    };
    let mut line = serde_json::to_vec(request).map_err(|e| failed("ask", &e))?;
    line.push(b'\n');
    stream
        .set_read_timeout(Some(Duration::from_secs(300)))
        .and_then(|()| stream.write_all(&line))
        .map_err(|e| failed("write to", &e))?;
    let mut answer = String::new();
    BufReader::new(std::io::Read::take(stream, LINE_LIMIT))
        .read_line(&mut answer)
        .map_err(|e| failed("read from", &e))?;
    serde_json::from_str(&answer)
        .map(Some)
        .map_err(|e| failed("understand the answer of", &e))
}
