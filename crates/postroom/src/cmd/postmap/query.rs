//! `-q KEY` and `-q -`: keys from the command line or standard input.
//!
//! Many keys are looked up side by side; output and messages keep the order of the keys.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::ExitCode;
use std::sync::Arc;

use super::maps::Maps;
use super::{Fatal, print_all};
use crate::cmd::tool_log::holding;

/// How many lookups of `-q -` are under way at a time; the pool bounds the connections.
const AHEAD: usize = 64;

/// Looks up one key.
pub(super) async fn query_one(maps: &Maps, key: &[u8]) -> Result<ExitCode, Fatal> {
    let Some(mut value) = maps.lookup(key).await? else {
        return Ok(ExitCode::FAILURE);
    };
    value.push(b'\n');
    print_all(&value)?;
    Ok(ExitCode::SUCCESS)
}

type Running = tokio::task::JoinHandle<(Vec<u8>, (Result<Option<Vec<u8>>, Fatal>, String))>;

/// Looks up every line of standard input.
pub(super) async fn query_stdin(maps: &Arc<Maps>) -> Result<ExitCode, Fatal> {
    let mut input = BufReader::with_capacity(1 << 16, std::io::stdin().lock());
    let mut output = Output::default();
    let mut running: VecDeque<Running> = VecDeque::new();
    let mut found = false;
    loop {
        // Reading may block: nothing may be under way then.
        let full = if input.buffer().is_empty() {
            0
        } else {
            AHEAD - 1
        };
        while running.len() > full {
            let Some(next) = running.pop_front() else {
                break;
            };
            match tell(next, maps.separator, &mut output).await {
                Ok(hit) => found |= hit,
                // What was not written yet is lost, as with Postfix.
                Err(fatal) => return Err(fatal),
            }
        }
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
        let maps = maps.clone();
        running.push_back(tokio::spawn(async move {
            let outcome = holding(maps.lookup(&key)).await;
            (key, outcome)
        }));
    }
    output.finish()?;
    Ok(if found {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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

/// Waits for a lookup and writes what came of it. True for a hit.
async fn tell(running: Running, separator: &[u8], output: &mut Output) -> Result<bool, Fatal> {
    let (key, (outcome, log)) = running
        .await
        .map_err(|error| Fatal(format!("lookup ended early: {error}")))?;
    if !log.is_empty() {
        eprint!("{log}");
    }
    let Some(value) = outcome? else {
        return Ok(false);
    };
    let line = [&key[..], separator, &value, b"\n"].concat();
    output.push(&line)?;
    Ok(true)
}
