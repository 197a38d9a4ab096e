//! The log, in the format of Postfix's maillog:
//! `Nov 22 15:28:17 mail postfix/smtpd[4711]: connect from unknown[192.0.2.1]`.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Local};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Where lines go.
#[derive(Clone, Debug)]
pub enum Target {
    StandardError,
    /// `maillog_file`.
    File(PathBuf),
}

/// The subscriber that writes the mail log. Lines are formatted where they arise, collected, and
/// written in order by a thread of their own.
pub struct MailLog {
    collected: Arc<Collected>,
    host: String,
    name: String,
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
    writing: bool,
    /// The writer waits for the first line.
    idle: bool,
}

/// Lines are collected this long before they are written: a busy server writes many at once.
const COLLECT: Duration = Duration::from_millis(5);

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
            drop(state);
            output.write(&lines);
            lines.clear();
            self.lock().writing = false;
            self.written.notify_all();
        }
    }
}

impl MailLog {
    /// A log to `target`. `host`: the machine's name; `syslog_name`: `postfix` unless configured.
    pub fn start(target: Target, host: &str, syslog_name: &str) -> io::Result<(MailLog, Flusher)> {
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
        let MailLog {
            host, name, pid, ..
        } = self;
        let program = parts.prog.as_deref().unwrap_or(self.program);
        let severity = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        // A line is one line, whatever a client put into it.
        let message = parts.message.replace(['\n', '\r'], " ");
        format!(
            "{} {host} {name}/{program}[{pid}]: {severity}{message}\n",
            now.format("%b %e %H:%M:%S")
        )
    }
}

/// The file, opened anew when somebody has moved it away (log rotation).
struct Output {
    target: Target,
    file: Option<(std::fs::File, u64)>,
}

impl Output {
    fn open(target: Target) -> io::Result<Output> {
        let mut output = Output { target, file: None };
        output.reopen()?;
        Ok(output)
    }

    fn reopen(&mut self) -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        if let Target::File(path) = &self.target {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o644)
                .open(path)?;
            let inode = file.metadata()?.ino();
            self.file = Some((file, inode));
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) {
        use std::os::unix::fs::MetadataExt;
        if bytes.is_empty() {
            return;
        }
        if let (Target::File(path), Some((_, inode))) = (&self.target, &self.file) {
            let moved = std::fs::metadata(path).map_or(true, |now| now.ino() != *inode);
            if moved && self.reopen().is_err() {
                self.file = None;
            }
        }
        // A log that cannot be written must not stop the mail; standard error is what is left.
        let written = match &mut self.file {
            Some((file, _)) => file.write_all(bytes),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        if written.is_err() {
            let _ = io::stderr().write_all(bytes);
        }
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
