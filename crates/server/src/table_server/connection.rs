//! One client of the table server. It is answered request by request: what is kept for it is at most
//! one request, one reply, and what it has sent beyond; nothing while it rests.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tables::socketmap::{self, Frames, REPLY_LIMIT, REQUEST_LIMIT, Status};
use tables::tcp_table::{self, Lines};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant as Deadline, sleep_until, timeout, timeout_at};

use super::Shared;
use super::catalog::Unknown;
use super::endpoint::Protocol;
use super::metrics::{Outcome, add};
use crate::Shutdown;

/// Read at once, on the stack.
const CHUNK: usize = 4096;

/// A request that has begun, or an answer, passes within this time, as tcp_table(5) has it.
const STEP: Duration = Duration::from_secs(100);

/// After a refusal the client may go on sending for so long, and so much, before it is cut off; cut
/// off at once it might not get to see the reason.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// Speaks the protocol until the client is gone, silent for too long, or not understood.
pub(crate) async fn serve<S>(
    mut stream: S,
    peer: String,
    protocol: Arc<Protocol>,
    shared: Arc<Shared>,
    mut shutdown: Shutdown,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = Input::new(&protocol);
    loop {
        let idle = shared.settings().idle_timeout;
        let limit = idle.min(STEP);
        let next = tokio::select! {
            biased;
            () = async { drop(shutdown.wait_for(|stop| *stop).await) } => return,
            next = input.next(&mut stream, idle) => next,
        };
        let request = match next {
            Ok(request) => request,
            Err(Broken::Malformed(reason)) => {
                add(&shared.metrics.malformed);
                let complaint = format!("request from {peer} is refused: {reason}");
                shared.refusals.warn(complaint);
                let refusal = refusal(&protocol, &reason);
                if write(&mut stream, &refusal, limit).await {
                    linger(&mut stream).await;
                }
                return;
            }
            Err(Broken::Gone) => return,
        };
        // Boxed, so that a client who rests does not hold the room that a lookup needs.
        let reply = Box::pin(answer(&shared, &protocol, &request)).await;
        if !write(&mut stream, &reply, limit).await {
            return;
        }
    }
}

/// Whether all of it was taken in time.
async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8], limit: Duration) -> bool {
    matches!(timeout(limit, stream.write_all(bytes)).await, Ok(Ok(())))
}

async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let end = Deadline::now() + LINGER;
    let drain = async {
        let mut taken = 0;
        while taken < LINGER_BYTES {
            match read(stream, |bytes| bytes.len()).await {
                Ok(0) | Err(_) => return,
                Ok(more) => taken += more,
            }
        }
    };
    tokio::select! {
        () = drain => {}
        () = sleep_until(end) => {}
    }
}

/// Reads once into a buffer that lives no longer than the read.
async fn read<S, T>(stream: &mut S, mut take: impl FnMut(&[u8]) -> T) -> io::Result<T>
where
    S: AsyncRead + Unpin,
{
    std::future::poll_fn(|context| {
        let mut chunk = [0; CHUNK];
        let mut buffer = ReadBuf::new(&mut chunk);
        match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(take(buffer.filled()))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// What has come in.
struct Input {
    /// Read, and not yet part of a request.
    rest: Vec<u8>,
    decoder: Decoder,
}

enum Decoder {
    Socketmap(Frames),
    TcpTable(Lines),
}

enum Broken {
    /// Closed, failed, or silent for too long.
    Gone,
    Malformed(String),
}

impl Input {
    fn new(protocol: &Protocol) -> Input {
        Input {
            rest: Vec::new(),
            decoder: match protocol {
                Protocol::Socketmap => Decoder::Socketmap(Frames::new(REQUEST_LIMIT)),
                Protocol::TcpTable(_) => Decoder::TcpTable(Lines::default()),
            },
        }
    }

    /// The next request. It may be `idle` in coming, and then takes no longer than a step.
    async fn next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        idle: Duration,
    ) -> Result<Vec<u8>, Broken> {
        let mut end = Deadline::now() + idle;
        let mut begun = false;
        loop {
            if let Some(request) = self.decode()? {
                return Ok(request);
            }
            if !begun && !self.is_between() {
                begun = true;
                end = Deadline::now() + idle.min(STEP);
            }
            let rest = &mut self.rest;
            let got = read(stream, |bytes| {
                rest.extend_from_slice(bytes);
                bytes.len()
            });
            match timeout_at(end, got).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) | Err(_) => return Err(Broken::Gone),
            }
        }
    }

    fn decode(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let mut input = &self.rest[..];
        let request = match &mut self.decoder {
            Decoder::Socketmap(frames) => frames
                .next(&mut input)
                .map_err(|error| Broken::Malformed(error.to_string())),
            Decoder::TcpTable(lines) => lines
                .next(&mut input)
                .map_err(|error| Broken::Malformed(error.to_string())),
        };
        self.rest = input.to_vec();
        request
    }

    fn is_between(&self) -> bool {
        match &self.decoder {
            Decoder::Socketmap(frames) => frames.is_between(),
            Decoder::TcpTable(lines) => lines.is_between(),
        }
    }
}

/// What a lookup came to, before it is put into a protocol's words.
enum Answer {
    Found(String),
    NotFound,
    /// Try again later, and why.
    Failed(String),
    TimedOut(String),
    /// Not to be had at all, and why.
    Refused(String),
}

async fn answer(shared: &Shared, protocol: &Protocol, request: &[u8]) -> Vec<u8> {
    match protocol {
        Protocol::Socketmap => {
            let answer = match socketmap::message::Request::parse(request) {
                Some(request) => look_up(shared, request.name, request.key).await,
                None => malformed(shared, "no table's name before a blank"),
            };
            socketmap::frame(&socketmap_reply(answer).encode())
        }
        Protocol::TcpTable(name) => {
            let answer = match tcp_table::Request::parse(request) {
                tcp_table::Request::Get(key) => look_up(shared, name.as_bytes(), &key).await,
                tcp_table::Request::Put => malformed(shared, "put is not supported"),
                tcp_table::Request::Malformed => malformed(shared, "expected: get KEY"),
            };
            tcp_reply(answer).encode()
        }
    }
}

fn malformed(shared: &Shared, reason: &str) -> Answer {
    add(&shared.metrics.malformed);
    Answer::Refused(format!("malformed request: {reason}"))
}

fn socketmap_reply(answer: Answer) -> socketmap::Reply {
    let (status, text) = match answer {
        Answer::Found(value) if value.len() + "OK ".len() > REPLY_LIMIT => {
            let reason = format!("the value is longer than {REPLY_LIMIT} bytes");
            (Status::Perm, reason)
        }
        Answer::Found(value) => (Status::Ok, value),
        Answer::NotFound => (Status::NotFound, String::new()),
        Answer::Failed(reason) => (Status::Temp, reason),
        Answer::TimedOut(reason) => (Status::Timeout, reason),
        Answer::Refused(reason) => (Status::Perm, reason),
    };
    socketmap::Reply::new(status, text)
}

/// In this protocol a failure is a failure: 500 means that there is no such key.
fn tcp_reply(answer: Answer) -> tcp_table::Reply {
    match answer {
        Answer::Found(value) => tcp_table::Reply::Found(value.into_bytes()),
        Answer::NotFound => tcp_table::Reply::NotFound(b"not found".to_vec()),
        Answer::Failed(reason) | Answer::TimedOut(reason) | Answer::Refused(reason) => {
            tcp_table::Reply::Failed(reason.into_bytes())
        }
    }
}

/// To a client that cannot be understood any further.
fn refusal(protocol: &Protocol, reason: &str) -> Vec<u8> {
    let answer = Answer::Refused(reason.to_owned());
    match protocol {
        Protocol::Socketmap => socketmap::frame(&socketmap_reply(answer).encode()),
        Protocol::TcpTable(_) => tcp_reply(answer).encode(),
    }
}

async fn look_up(shared: &Shared, name: &[u8], key: &[u8]) -> Answer {
    let begun = Instant::now();
    let catalog = shared.catalog();
    let served = match catalog.find(name) {
        Ok(served) => served,
        Err(unknown) => return refuse_name(shared, name, unknown),
    };
    let limit = shared.settings().lookup_timeout;
    let (answer, outcome) = match std::str::from_utf8(key) {
        Err(_) => {
            let shown = String::from_utf8_lossy(key).replace('\u{fffd}', "?");
            let complaint = format!("{}: non-UTF-8 key \"{shown}\" is not found", served.name);
            shared.refusals.warn(complaint);
            (Answer::NotFound, Outcome::NotFound)
        }
        Ok(key) => match timeout(limit, catalog.lookup(served, key)).await {
            Ok(Ok(Some(value))) => (Answer::Found(value), Outcome::Found),
            Ok(Ok(None)) => (Answer::NotFound, Outcome::NotFound),
            Ok(Err(failure)) => {
                shared.complaints.warn(failure.to_string());
                (Answer::Failed(failure.reason), Outcome::Failed)
            }
            Err(_) => {
                let reason = format!("no answer within {} s", limit.as_secs());
                shared.complaints.warn(format!("{}: {reason}", served.name));
                (Answer::TimedOut(reason), Outcome::TimedOut)
            }
        },
    };
    let requests = shared.metrics.requests(&served.name);
    requests.count(outcome, begun.elapsed());
    answer
}

fn refuse_name(shared: &Shared, name: &[u8], unknown: Unknown) -> Answer {
    add(&shared.metrics.unknown);
    let name = String::from_utf8_lossy(&name[..name.len().min(100)]);
    let reason = match unknown {
        Unknown::Name => format!("unknown table {name}"),
        Unknown::Ambiguous => format!("several tables are named {name}: write the whole path"),
    };
    shared.refusals.warn(format!("{reason} was asked for"));
    Answer::Refused(reason)
}
