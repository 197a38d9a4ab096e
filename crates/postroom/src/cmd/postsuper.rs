//! `postroom postsuper`: holds, releases, requeues and deletes messages, as postsuper(1).
//!
//! A running server is asked to do it; without one, the spool is changed directly.

use std::ffi::OsString;
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;

use queue::control::{self, QueueName, Request, Response, Selection};
use queue::{Options, QueueError, QueueId, Spool};

use super::daemon;
use super::queue_tool::{Fatal, Parsed, fatal, finish, parse, queue_directory};

const USAGE: &str = "usage: postsuper [-c config_dir] [-d queue_id (delete)] [-e queue_id (expire)] [-f queue_id (expire and/or un-hold)] [-h queue_id (hold)] [-H queue_id (un-hold)] [-p (purge temporary files)] [-r queue_id (requeue)] [-s (structure fix)] [-S (redundant structure fix)][-v (verbose)] [queue...]";

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    finish("postsuper", try_run(args))
}

/// What one option does, and how it is told.
struct Action {
    letter: char,
    request: fn(Selection) -> Request,
    one: &'static str,
    total: &'static str,
    /// The queues that `ALL` means when none is named.
    queues: &'static [QueueName],
}

use QueueName::{Active, Deferred, Hold, Incoming};

static ACTIONS: &[Action] = &[
    Action {
        letter: 'd',
        request: |messages| Request::Delete { messages },
        one: "removed",
        total: "Deleted",
        queues: &[QueueName::Any],
    },
    Action {
        letter: 'h',
        request: |messages| Request::Hold { messages },
        one: "placed on hold",
        total: "Placed on hold",
        queues: &[Incoming, Active, Deferred],
    },
    Action {
        letter: 'H',
        request: |messages| Request::Release { messages },
        one: "released from hold",
        total: "Released from hold",
        queues: &[Hold],
    },
    Action {
        letter: 'r',
        request: |messages| Request::Requeue { messages },
        one: "requeued",
        total: "Requeued",
        queues: &[QueueName::Any],
    },
];

fn try_run(args: &[OsString]) -> Result<(), Fatal> {
    let parsed = parse(args, "c:d:e:f:h:H:pr:sSv").map_err(|problem| {
        eprintln!("postsuper: {problem}");
        fatal(USAGE)
    })?;
    for letter in ['e', 'f'] {
        if parsed.has(letter) {
            return Err(fatal(format!(
                "option -{letter} is not supported by Postroom"
            )));
        }
    }
    if let Some(dir) = parsed.value('c').filter(|dir| !dir.starts_with('/')) {
        let _ = dir;
        return Err(fatal("-c requires absolute pathname"));
    }
    let queues = named_queues(&parsed)?;
    let directory = queue_directory(parsed.value('c'))?;
    for action in ACTIONS {
        let (mut ids, mut all, mut given) = (Vec::new(), false, false);
        for (_, value) in parsed
            .options
            .iter()
            .filter(|(letter, _)| *letter == action.letter)
        {
            given = true;
            read_ids(value, &mut ids, &mut all)?;
        }
        if given {
            let told = act(&directory, action, ids, all, &queues)?;
            for line in &told {
                eprintln!("postsuper: {line}");
            }
            daemon::log_lines("postsuper", parsed.value('c'), &told);
        }
    }
    Ok(())
}

fn named_queues(parsed: &Parsed) -> Result<Vec<QueueName>, Fatal> {
    let mut queues = Vec::new();
    for name in &parsed.others {
        match (QueueName::parse(name), name.as_str()) {
            (Some(queue), _) => queues.push(queue),
            // Postfix's other folders, which have no counterpart here.
            (None, "maildrop" | "bounce" | "defer" | "trace" | "flush" | "corrupt" | "saved") => {}
            (None, _) => return Err(fatal(format!("invalid directory name: {name}"))),
        }
    }
    Ok(queues)
}

/// An id, `-` for ids on standard input, or `ALL`.
fn read_ids(value: &str, ids: &mut Vec<QueueId>, all: &mut bool) -> Result<(), Fatal> {
    let mut add = |word: &str| match word.parse() {
        Ok(id) => ids.push(id),
        // Postfix's ids have other lengths: well-formed, but never here.
        Err(_) if !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric()) => {}
        Err(_) => eprintln!("postsuper: warning: invalid mail queue id: {word}"),
    };
    match value {
        "ALL" => *all = true,
        "-" => {
            for line in std::io::stdin().lock().lines() {
                let line = line.map_err(|error| fatal(format!("read standard input: {error}")))?;
                line.split_whitespace().take(1).for_each(&mut add);
            }
        }
        id => add(id),
    }
    Ok(())
}

/// Does it, and returns what is to be said of it.
fn act(
    directory: &Path,
    action: &Action,
    ids: Vec<QueueId>,
    all: bool,
    queues: &[QueueName],
) -> Result<Vec<String>, Fatal> {
    let mut told = Vec::new();
    let mut total = 0;
    if !ids.is_empty() {
        let changed = perform(directory, &(action.request)(Selection::Ids(ids)))?;
        for id in &changed {
            told.push(format!("{id}: {}", action.one));
        }
        total += changed.len();
    }
    if all {
        let queues = if queues.is_empty() {
            action.queues
        } else {
            queues
        };
        for queue in queues {
            let request = (action.request)(Selection::All(*queue));
            total += perform(directory, &request)?.len();
        }
    }
    let plural = if total == 1 { "" } else { "s" };
    told.push(format!("{}: {total} message{plural}", action.total));
    Ok(told)
}

/// By the server when one runs, otherwise here.
fn perform(directory: &Path, request: &Request) -> Result<Vec<QueueId>, Fatal> {
    let response = match control::ask(directory, request).map_err(refused)? {
        Some(response) => response,
        None => {
            let (spool, _) = Spool::open(directory, Options::default()).map_err(refused)?;
            tokio::runtime::Builder::new_current_thread()
                .build()
                .map_err(|error| fatal(format!("start: {error}")))?
                .block_on(control::apply(&spool, request))
        }
    };
    match response {
        Response::Done { changed } => Ok(changed),
        Response::Failed { message } => Err(fatal(message)),
    }
}

fn refused(error: QueueError) -> Fatal {
    match &error {
        QueueError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            fatal("use of this command is reserved for the superuser")
        }
        _ => fatal(error.to_string()),
    }
}
