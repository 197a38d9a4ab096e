//! Many keys over one connection: the statements go out together where that changes nothing, the
//! answers come back one by one, each within its time.

use std::time::Duration;

use tokio::time::timeout;

use super::connect::Connection;
use super::pool::{Job, QueryError};
use super::rows::Rows;

/// The rows for a key, or why the server rejected its statement.
pub(crate) type Reply = Result<Rows, String>;

/// Why there are no replies.
pub(super) enum Broken {
    /// The connection is gone.
    Lost(String),
    /// An answer did not come in time.
    Silent,
}

/// How statements are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As many as fit into the buffers of a connection, before the first answer is there.
    Together,
    /// Each after the answer to the one before: what every server and every proxy can do.
    OneByOne,
}

/// The replies to all keys of the job, in their order.
pub(super) async fn ask(
    connection: &mut Connection,
    job: &Job<'_>,
    pace: Pace,
    limit: Duration,
) -> Result<Vec<Reply>, Broken> {
    let mut replies = Vec::with_capacity(job.keys.len());
    while replies.len() < job.keys.len() {
        let mut rest = &job.keys[replies.len()..];
        if pace == Pace::OneByOne {
            rest = &rest[..1];
        }
        let sent = timeout(limit, send(connection, job, rest)).await;
        match sent.map_err(|_| Broken::Silent)? {
            Ok(sent) => {
                for _ in 0..sent {
                    let answer = timeout(limit, answer(connection, job)).await;
                    replies.push(reply(answer.map_err(|_| Broken::Silent)?)?);
                }
            }
            Err(error) => replies.push(reply(Err(error))?),
        }
    }
    Ok(replies)
}

/// Sends the statements for some of the keys, at least for the first; how many.
async fn send(
    connection: &mut Connection,
    job: &Job<'_>,
    keys: &[&str],
) -> Result<usize, QueryError> {
    match connection {
        Connection::MySql(session) => session.send(job.query, keys).await,
        Connection::PgSql(session) => session.send(job.query, keys).await,
    }
}

async fn answer(connection: &mut Connection, job: &Job<'_>) -> Result<Rows, QueryError> {
    match connection {
        Connection::MySql(session) => session.answer(job.require_result_set).await,
        Connection::PgSql(session) => session.answer().await,
    }
}

fn reply(answer: Result<Rows, QueryError>) -> Result<Reply, Broken> {
    match answer {
        Ok(rows) => Ok(Ok(rows)),
        Err(QueryError::Rejected(text)) => Ok(Err(text)),
        Err(QueryError::Lost(text)) => Err(Broken::Lost(text)),
    }
}
