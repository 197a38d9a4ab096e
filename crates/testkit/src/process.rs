//! A server process with its process group. It ends with its value, and also when the test process is
//! killed: a watchdog `sh` waits on a pipe whose other end only we hold.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Reads one line; `done` means that the server was stopped in order. Anything else (the pipe was closed
/// because the test died) kills the group `$1` and removes the folder `$2`.
const WATCHDOG: &str = r#"read -r word; test "$word" = done && exit 0
kill -s TERM -- "-$1"; i=0
while kill -s 0 -- "-$1" && test $i -lt 10; do sleep 0.1; i=$((i + 1)); done
kill -s KILL -- "-$1"; sleep 0.1; rm -rf -- "$2""#;

/// A running server: the leader of its own process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    watchdog: Child,
    pipe: Option<ChildStdin>,
    log: PathBuf,
    stop_signal: Signal,
}

impl Process {
    /// Starts `command` in its own group, standard output and error appended to `log`, no standard input.
    /// `folder` is removed by the watchdog should we die. `stop_signal` is what ends the server in order.
    pub fn spawn(mut command: Command, log: &Path, folder: &Path, stop_signal: Signal) -> Process {
        let open = || File::options().create(true).append(true).open(log);
        let output = open().unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let errors = open().unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", &child.id().to_string()])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("sh: {error}"));
        let pipe = watchdog.stdin.take();
        Process {
            child,
            watchdog,
            pipe,
            log: log.to_owned(),
            stop_signal,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the server has written to standard output and error so far.
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `ready`; panics with the server's log when it ends before or `limit` passes.
    pub fn wait_ready(&mut self, what: &str, limit: Duration, mut ready: impl FnMut() -> bool) {
        let end = Instant::now() + limit;
        while !ready() {
            let reason = match self.child.try_wait() {
                Ok(None) if Instant::now() < end => None,
                Ok(None) => Some("is not ready in time".to_owned()),
                Ok(Some(status)) => Some(format!("ended with {status}")),
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = reason {
                panic!("{what} {reason}; its log:\n{}", tail(&self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal to the leader alone.
    pub fn signal(&self, signal: Signal) {
        let _ = nix::sys::signal::kill(self.pid(), signal);
    }

    /// Ends the server in order, and by SIGKILL after 20 s; waits until all of its group is gone.
    pub fn stop(mut self) {
        self.signal(self.stop_signal);
        self.wait_exit(Duration::from_secs(20));
        // Drop kills what is left of the group.
    }

    /// SIGKILL to the whole group and to all that descend from it, as a power cut would. None of them is left when
    /// this returns.
    pub fn kill(self) {
        drop(self);
    }

    /// Waits until the leader has ended; its exit status, None after `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                _ => return None,
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = self.pid();
        // PostgreSQL's backends lead groups of their own, and answer queries for a moment after the postmaster is gone.
        let others = match self.child.try_wait() {
            Ok(None) => descendants(group),
            _ => Vec::new(),
        };
        let _ = killpg(group, Signal::SIGKILL);
        for &pid in &others {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && (group_lives(group) || any_lives(&others)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.watchdog.wait();
    }
}

/// Whether a process of this group is left that is not a zombie waiting for its parent.
fn group_lives(group: Pid) -> bool {
    killpg(group, None).is_ok() && all_stats().any(|stat| stat.group == group && stat.state != "Z")
}

fn any_lives(pids: &[Pid]) -> bool {
    !pids.is_empty() && all_stats().any(|stat| pids.contains(&stat.pid) && stat.state != "Z")
}

/// The children of a process, their children, and so on.
fn descendants(ancestor: Pid) -> Vec<Pid> {
    let all: Vec<Stat> = all_stats().collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children = all.iter().filter(|stat| stat.parent == parent);
        found.extend(children.map(|stat| stat.pid));
        next += 1;
    }
    found.split_off(1)
}

fn all_stats() -> impl Iterator<Item = Stat> {
    let stats = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter_map(|stat| Stat::parse(&stat))
}

/// What a line of /proc/PID/stat says (proc(5)).
struct Stat {
    pid: Pid,
    state: String,
    parent: Pid,
    group: Pid,
}

impl Stat {
    /// The name, the second field, stands in parentheses and may hold blanks.
    fn parse(stat: &str) -> Option<Stat> {
        let pid = stat.split(' ').next()?.parse().ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.to_owned();
        let mut number = || fields.next()?.parse().ok().map(Pid::from_raw);
        Some(Stat {
            pid: Pid::from_raw(pid),
            state,
            parent: number()?,
            group: number()?,
        })
    }
}

/// Runs `command` without standard input; panics with its output when it fails.
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    if !output.status.success() {
        panic!(
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    output
}

/// Runs `command` with `input` on its standard input and returns whatever comes of it.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it was piped above");
    let input = input.to_vec();
    // A thread, because the command may fill its output pipe before it has read all input.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let _ = writer.join();
    output
}

pub(crate) fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The last 4 KB.
pub(crate) fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(4096);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
