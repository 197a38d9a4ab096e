//! Commits of small messages: those that arrive while a commit waits for the disk go into the next one together.

use std::io::IoSlice;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::batch;
use crate::content::Content;
use crate::envelope::Envelope;
use crate::error::QueueError;
use crate::id::QueueId;
use crate::record::{self, Header, Kind};
use crate::spool::{Message, Shared, lock};

/// Commits that wait for the disk at the same time.
const AT_ONCE: usize = 2;
/// A batch takes this many messages and, unless it is one message, this many bytes of content at most.
const MOST_MESSAGES: usize = 100;
const MOST_BYTES: usize = 2 * 1024 * 1024;

/// The line of messages to commit.
#[derive(Default)]
pub(crate) struct Committer {
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    waiting: Vec<Waiting>,
    running: usize,
}

struct Waiting {
    id: QueueId,
    content: Bytes,
    envelope: Envelope,
    done: oneshot::Sender<Result<Message, QueueError>>,
}

/// Commits a message, alone or with others. `None`: the worker that did it panicked.
pub(crate) async fn commit(
    shared: &Arc<Shared>,
    id: QueueId,
    content: Bytes,
    envelope: Envelope,
) -> Option<Result<Message, QueueError>> {
    let (done, answer) = oneshot::channel();
    let message = Waiting {
        id,
        content,
        envelope,
        done,
    };
    if shared.committer.take_in(message) {
        let worker = Arc::clone(shared);
        shared.workers.start(move || run(&worker));
    }
    answer.await.ok()
}

impl Committer {
    /// Puts the message into the line; whether another run must be started for it.
    fn take_in(&self, message: Waiting) -> bool {
        let mut line = lock(&self.line);
        line.waiting.push(message);
        let start = line.running < AT_ONCE;
        line.running += usize::from(start);
        start
    }
}

/// Commits batch after batch until nobody waits.
fn run(shared: &Shared) {
    loop {
        let mut line = lock(&shared.committer.line);
        let count = batch_size(&line.waiting);
        if count == 0 {
            line.running -= 1;
            return;
        }
        let batch: Vec<Waiting> = line.waiting.drain(..count).collect();
        drop(line);
        // A panic drops the senders: the sessions see it; the line must go on.
        let together = std::panic::AssertUnwindSafe(|| commit_together(shared, batch));
        let _ = std::panic::catch_unwind(together);
    }
}

fn batch_size(waiting: &[Waiting]) -> usize {
    let mut bytes = 0;
    let fits = |message: &&Waiting| {
        bytes += message.content.len();
        bytes <= MOST_BYTES
    };
    let count = waiting.iter().take(MOST_MESSAGES).take_while(fits).count();
    // A message larger than all of it goes alone.
    count.max(usize::from(!waiting.is_empty()))
}

fn commit_together(shared: &Shared, batch: Vec<Waiting>) {
    let tails: Vec<Vec<u8>> = batch
        .iter()
        .map(|message| record::envelope(&message.envelope))
        .collect();
    let together = batch.len() > 1 && write_batch(shared, &batch, &tails).is_ok();
    for (message, tail) in batch.into_iter().zip(&tails) {
        // When the batch failed, each message gets its own chance and its own error.
        let written = match together {
            true => Ok(()),
            false => shared.commit_alone(message.id, &message.content, tail),
        };
        let answer = written.map(|()| Message {
            id: message.id,
            envelope: message.envelope,
            content: Content::Memory(message.content),
        });
        // The session may have gone away.
        let _ = message.done.send(answer);
    }
}

fn write_batch(shared: &Shared, batch: &[Waiting], tails: &[Vec<u8>]) -> Result<(), QueueError> {
    let heads: Vec<Vec<u8>> = batch
        .iter()
        .map(|message| {
            let mut head = batch::mark(Kind::Member, message.id).to_vec();
            head.extend(record::head(Header::of(Kind::Content, &message.content)));
            head
        })
        .collect();
    let mut members = Vec::with_capacity(batch.len());
    let mut pieces = Vec::with_capacity(3 * batch.len());
    let mut at = 0;
    for ((message, head), tail) in batch.iter().zip(&heads).zip(tails) {
        let len = head.len() + message.content.len() + tail.len();
        members.push((
            message.id,
            (at + batch::MARK) as u64,
            (len - batch::MARK) as u64,
        ));
        at += len;
        pieces.extend([&head[..], &message.content, tail].map(IoSlice::new));
    }
    shared.commit_batch(&mut pieces, &members)
}
