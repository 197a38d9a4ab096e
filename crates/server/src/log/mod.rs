//! The log, in the format of Postfix's maillog:
//! `Nov 22 15:28:17 mail postfix/smtpd[4711]: connect from unknown[192.0.2.1]`.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Local};
use tokio::task::futures::TaskLocalFuture;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

mod output;

use output::Output;
pub use output::{SYSLOG_SOCKET, Target, facility, facility_names};

tokio::task_local! {
    /// Of the service whose work a task does.
    static NAME: Name;
}

/// The `syslog_name` of a service, for the lines of its own program alone: what cleanup or qmgr do
/// for a message of `submission` is logged under their names.
#[derive(Clone, Debug)]
pub(crate) struct Name(Arc<(String, String)>);

impl Name {
    pub fn new(syslog_name: &str, program: &str) -> Name {
        Name(Arc::new((syslog_name.to_owned(), program.to_owned())))
    }

    fn of_program(&self, program: &str) -> Option<&str> {
        let (name, own) = &*self.0;
        (own == program).then_some(name)
    }
}

/// Work whose lines bear this name: `-o syslog_name=postfix/submission` of a service in master.cf.
pub(crate) fn named<F: Future>(name: Name, work: F) -> TaskLocalFuture<Name, F> {
    NAME.scope(name, work)
}

/// The same for work that waits for nothing.
pub(crate) fn named_now<T>(name: Name, work: impl FnOnce() -> T) -> T {
    NAME.sync_scope(name, work)
}

/// The subscriber that writes the mail log. Lines are formatted where they arise, collected, and
/// written in order by a thread of their own.
pub struct MailLog {
    collected: Arc<Collected>,
    host: String,
    name: String,
    /// `<priority>` in front of each line, and no host's name: the facility.
    syslog: Option<u8>,
    /// Where an event names no program.
    program: &'static str,
    pid: u32,
}

/// Lines on their way from those who log to the thread that writes.
#[derive(Default)]
struct Collected {
    state: Mutex<State>,
    /// There is something to write.
    begun: Condvar,
    /// Everything is written.
    written: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Lines that were thrown away because the writer did not keep up.
    lost: usize,
    writing: bool,
    /// The writer waits for the first line.
    idle: bool,
}

/// Lines are collected this long before they are written: a busy server writes many at once.
const COLLECT: Duration = Duration::from_millis(5);

/// Bytes that may wait for a writer that is stuck; a server must not die of its log.
const MOST_WAITING: usize = 16 * 1024 * 1024;

/// Waits for the log's writer; kept by `main` until the end.
#[derive(Clone)]
pub struct Flusher(Arc<Collected>);

impl Flusher {
    /// Returns when all lines so far are written, or after five seconds.
    pub fn flush(&self) {
        let state = self.0.lock();
        let busy = |state: &mut State| state.writing || !state.lines.is_empty();
        // Poisoned or late, the lines are as well written as they can be.
        drop(
            self.0
                .written
                .wait_timeout_while(state, Duration::from_secs(5), busy),
        );
    }
}

impl Collected {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn add(&self, line: &str) {
        let mut state = self.lock();
        if state.lines.len() + line.len() > MOST_WAITING {
            state.lost += 1;
            return;
        }
        state.lines.extend_from_slice(line.as_bytes());
        if state.idle {
            state.idle = false;
            self.begun.notify_one();
        }
    }

    fn write(&self, output: &mut Output) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.lock();
            while state.lines.is_empty() {
                state.idle = true;
                state = self
                    .begun
                    .wait(state)
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            drop(state);
            std::thread::sleep(COLLECT);
            let mut state = self.lock();
            std::mem::swap(&mut lines, &mut state.lines);
            state.writing = true;
            let lost = std::mem::take(&mut state.lost);
            drop(state);
            output.write(&lines);
            if lost > 0 {
                tracing::warn!(
                    prog = "master",
                    "{lost} log lines were lost: the log is too slow"
                );
            }
            lines.clear();
            self.lock().writing = false;
            self.written.notify_all();
        }
    }
}

impl MailLog {
    /// A log to `target`. `host`: the machine's name; `syslog_name`: `postfix` unless configured.
    pub fn start(target: Target, host: &str, syslog_name: &str) -> io::Result<(MailLog, Flusher)> {
        let syslog = match &target {
            Target::Syslog { facility, .. } => Some(*facility),
            _ => None,
        };
        let mut output = Output::open(target)?;
        let collected = Arc::new(Collected::default());
        let writer = Arc::clone(&collected);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.write(&mut output))?;
        let log = MailLog {
            collected: Arc::clone(&collected),
            host: host.split('.').next().unwrap_or(host).to_owned(),
            name: syslog_name.to_owned(),
            syslog,
            program: "smtpd",
            pid: std::process::id(),
        };
        Ok((log, Flusher(collected)))
    }

    /// The same under another name where an event says nothing of the program that it is about.
    pub fn of_program(self, program: &'static str) -> MailLog {
        MailLog { program, ..self }
    }

    fn line(&self, event: &Event<'_>) -> String {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let now: DateTime<Local> = SystemTime::now().into();
        let time = now.format("%b %e %H:%M:%S");
        let (severity, severity_number) = match *event.metadata().level() {
            Level::ERROR => ("error: ", 3),
            Level::WARN => ("warning: ", 4),
            _ => ("", 6),
        };
        let mut line = match self.syslog {
            Some(facility) => format!("<{}>{time} ", facility * 8 + severity_number),
            None => format!("{time} {} ", self.host),
        };
        let program = parts.prog.as_deref().unwrap_or(self.program);
        let named = NAME.try_with(|name| {
            line.push_str(name.of_program(program).unwrap_or(&self.name));
        });
        if named.is_err() {
            line.push_str(&self.name);
        }
        // Writing to a String cannot fail.
        let _ = write!(line, "/{program}[{}]: {severity}", self.pid);
        // A line is one line, and drives no terminal, whatever a client put into it.
        line.extend(parts.message.chars().map(|c| match c {
            '\n' | '\r' => ' ',
            c if c.is_control() => '?',
            c => c,
        }));
        line.push('\n');
        line
    }
}

#[derive(Default)]
struct Parts {
    prog: Option<String>,
    message: String,
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "prog" => self.prog = Some(value.to_owned()),
            "message" => self.message.push_str(value),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            // Writing to a String cannot fail.
            "message" => drop(write!(self.message, "{value:?}")),
            "prog" => self.prog = Some(format!("{value:?}").trim_matches('"').to_owned()),
            _ => {}
        }
    }
}

impl Subscriber for MailLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Other people's crates speak only when something is wrong.
        let ours = metadata.target().starts_with("postroom");
        let most = if ours { Level::INFO } else { Level::ERROR };
        *metadata.level() <= most
    }

    fn event(&self, event: &Event<'_>) {
        self.collected.add(&self.line(event));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
