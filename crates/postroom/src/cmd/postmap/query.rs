//! `-q KEY` and `-q -`: keys from the command line or standard input.
//!
//! Many keys are looked up side by side, in chunks; output and messages keep the order of the keys.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::maps::Maps;
use super::{Fatal, print_all};
use crate::cmd::tool_log::holding;

/// How many keys of `-q -` are looked up together.
const CHUNK: usize = 32;
/// How many chunks are under way at a time; the pool bounds the connections.
const AHEAD: usize = 8;

/// Looks up one key.
pub(super) async fn query_one(maps: &Maps, key: &[u8]) -> Result<ExitCode, Fatal> {
    let Some(mut value) = maps.lookup(key).await? else {
        return Ok(ExitCode::FAILURE);
    };
    value.push(b'\n');
    print_all(&value)?;
    Ok(ExitCode::SUCCESS)
}

type Running = JoinHandle<Chunk>;

/// Keys, what came of them up to the first failure, and what was logged meanwhile.
struct Chunk {
    keys: Vec<Vec<u8>>,
    outcomes: Vec<Result<Option<Vec<u8>>, Fatal>>,
    log: String,
}

/// Looks up every line of standard input.
pub(super) async fn query_stdin(maps: &Arc<Maps>) -> Result<ExitCode, Fatal> {
    let mut input = BufReader::with_capacity(1 << 16, std::io::stdin().lock());
    let mut output = Output::default();
    let mut running: VecDeque<Running> = VecDeque::new();
    let mut found = false;
    loop {
        // Reading may block: nothing may be under way then.
        let may_block = !has_line(&input);
        while running.len() >= if may_block { 1 } else { AHEAD } {
            let Some(next) = running.pop_front() else {
                break;
            };
            // After a failure, what was not written yet is lost, as with Postfix.
            found |= tell(next, maps.separator, &mut output).await?;
        }
        let keys = read_keys(&mut input)?;
        if keys.is_empty() {
            break;
        }
        let maps = maps.clone();
        running.push_back(tokio::spawn(async move {
            let (outcomes, log) = holding(maps.lookup_all(&keys)).await;
            Chunk {
                keys,
                outcomes,
                log,
            }
        }));
    }
    output.finish()?;
    Ok(if found {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether a line can be read without waiting.
fn has_line<R: Read>(input: &BufReader<R>) -> bool {
    input.buffer().contains(&b'\n')
}

/// The next line, and those that are there already, up to a chunk; none at the end.
fn read_keys<R: Read>(input: &mut BufReader<R>) -> Result<Vec<Vec<u8>>, Fatal> {
    let mut keys = Vec::with_capacity(CHUNK);
    while keys.len() < CHUNK && (keys.is_empty() || has_line(input)) {
        let mut key = Vec::new();
        let size = input
            .read_until(b'\n', &mut key)
            .map_err(|error| Fatal(format!("read standard input: {error}")))?;
        if size == 0 {
            break;
        }
        if key.last() == Some(&b'\n') {
            key.pop();
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Standard output in blocks of 4 KiB, as Postfix's streams write it: when an error ends the run,
/// what has not filled a block stays unwritten.
#[derive(Default)]
pub(super) struct Output {
    waiting: Vec<u8>,
}

impl Output {
    const BLOCK: usize = 4096;

    pub(super) fn push(&mut self, line: &[u8]) -> Result<(), Fatal> {
        self.waiting.extend_from_slice(line);
        let full = self.waiting.len() / Output::BLOCK * Output::BLOCK;
        if full > 0 {
            print_all(&self.waiting[..full])?;
            self.waiting.drain(..full);
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), Fatal> {
        print_all(&self.waiting)
    }
}

/// Waits for a chunk and writes what came of it. True when there was a hit.
async fn tell(running: Running, separator: &[u8], output: &mut Output) -> Result<bool, Fatal> {
    let chunk = running
        .await
        .map_err(|error| Fatal(format!("lookup ended early: {error}")))?;
    if !chunk.log.is_empty() {
        eprint!("{}", chunk.log);
    }
    let mut found = false;
    let mut line = Vec::new();
    for (key, outcome) in chunk.keys.iter().zip(chunk.outcomes) {
        if let Some(value) = outcome? {
            found = true;
            line.clear();
            for part in [key, separator, &value, b"\n"] {
                line.extend_from_slice(part);
            }
            output.push(&line)?;
        }
    }
    Ok(found)
}
