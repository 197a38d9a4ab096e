//! Running a command with a message on its standard input, for pipe(8) and local(8): as another user, in a
//! process group of its own, with a time limit, its output kept.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use config::{Config, ConfigError};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getegid, geteuid};
use queue::Content;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};

use crate::content::LineFilter;

/// Bytes of a command's output that are kept.
const OUTPUT_LIMIT: usize = 1860;

/// The user and group a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// One run of a command.
pub struct Job<'a> {
    /// The agent, for messages.
    pub prog: &'static str,
    /// Never empty.
    pub argv: &'a [String],
    pub environment: Vec<(String, String)>,
    pub directory: &'a str,
    pub user: &'a Identity,
    pub time_limit: Duration,
    /// What stands before the message, its lines ended.
    pub head: Vec<u8>,
    pub filter: LineFilter,
    /// What stands behind it.
    pub tail: &'a [u8],
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Exited(ExitStatus),
    /// It was killed because it took longer than its time limit.
    TimedOut,
}

/// Runs the command. `Ok`: how it ended and what it wrote. `Err`: it got no (whole) message, for a
/// reason that may go away.
pub async fn run(job: Job<'_>, content: &Content) -> Result<(End, Vec<u8>), String> {
    let (mut child, stdin, output) = job.spawn()?;
    let (prog, limit) = (job.prog, job.time_limit);
    let command = job.argv[0].clone();
    let mut said = Vec::new();
    let finish = async {
        // The command may write before it reads: both at once.
        let (fed, ()) = tokio::join!(job.feed(content, stdin), collect(output, &mut said));
        (fed, child.wait().await)
    };
    let (fed, ended) = match tokio::time::timeout(limit, finish).await {
        Ok(both) => both,
        Err(_) => {
            kill(&mut child).await;
            tracing::warn!(prog, "pipe_command: time limit exceeded: {command}");
            return Ok((End::TimedOut, said));
        }
    };
    if let Err(error) = fed {
        // The message was cut short: whatever the command says, it has not got it.
        kill(&mut child).await;
        return Err(format!("cannot read the message: {error}"));
    }
    let status = ended.unwrap_or_else(|_| ExitStatus::from_raw(Signal::SIGKILL as i32));
    Ok((End::Exited(status), said))
}

impl Job<'_> {
    /// Starts the command, standard output and error on one pipe.
    fn spawn(&self) -> Result<(Child, ChildStdin, pipe::Receiver), String> {
        let prog = self.prog;
        let (reader, writer) = std::io::pipe().map_err(|error| format!("{prog}: {error}"))?;
        let also = writer
            .try_clone()
            .map_err(|error| format!("{prog}: {error}"))?;
        let mut command = Command::new(&self.argv[0]);
        command
            .args(&self.argv[1..])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::from(writer))
            .stderr(Stdio::from(also))
            .process_group(0)
            .kill_on_drop(true);
        let user = self.user;
        if geteuid().is_root() {
            // With an uid set by root, the standard library also drops supplementary groups.
            command.uid(user.uid).gid(user.gid);
        } else if geteuid().as_raw() != user.uid || getegid().as_raw() != user.gid {
            return Err(format!(
                "{prog}: fatal: user={} needs a mail server that runs as root, but it runs as uid {}",
                user.name,
                geteuid()
            ));
        }
        let failed = |error: std::io::Error| {
            let why = crate::mailbox::failure::reason(&error);
            format!("{prog}: fatal: cannot execute {}: {why}", self.argv[0])
        };
        let mut child = command.spawn().map_err(failed)?;
        // The parent's copies of the writing end go here, so that the command's exit ends the output.
        drop(command);
        let stdin = child
            .stdin
            .take()
            .ok_or_else(|| format!("{prog}: fatal: no standard input"))?;
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))
            .map_err(|error| format!("{prog}: {error}"))?;
        Ok((child, stdin, output))
    }

    /// Writes the message. A command that does not read to the end is no error; a message that cannot be
    /// read is.
    async fn feed(self, content: &Content, mut stdin: ChildStdin) -> std::io::Result<()> {
        let Job {
            head: mut out,
            mut filter,
            tail,
            ..
        } = self;
        let mut chunks = content.chunks();
        while let Some(piece) = chunks.next().await {
            filter.push(&piece?, &mut out);
            if stdin.write_all(&out).await.is_err() {
                return Ok(());
            }
            out.clear();
        }
        filter.finish(&mut out);
        out.extend_from_slice(tail);
        let _ = stdin.write_all(&out).await;
        Ok(())
    }
}

/// The environment of commands: what `export_environment` names, and a plain PATH.
pub fn environment(config: &Config) -> Result<Vec<(String, String)>, ConfigError> {
    let mut environment = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    for word in config.list("export_environment")? {
        let word = word.trim_start_matches('{').trim_end_matches('}').trim();
        let pair = match word.split_once('=') {
            Some((name, value)) => Some((name.trim().to_owned(), value.trim().to_owned())),
            None if word == "MAIL_CONFIG" => {
                Some((word.to_owned(), config.dir().to_string_lossy().into_owned()))
            }
            None => std::env::var(word)
                .ok()
                .map(|value| (word.to_owned(), value)),
        };
        if let Some((name, value)) = pair {
            environment.retain(|(known, _)| *known != name);
            environment.push((name, value));
        }
    }
    Ok(environment)
}

async fn collect(mut output: pipe::Receiver, said: &mut Vec<u8>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut piece).await {
        let room = OUTPUT_LIMIT.saturating_sub(said.len());
        said.extend_from_slice(&piece[..count.min(room)]);
    }
}

/// Kills the command and what it has started.
async fn kill(child: &mut Child) {
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(group) = group {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.kill().await;
}
