//! The pipe(8) agent: hands a message to a command, such as Dovecot's LDA.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use config::{Config, ConfigError};
use mail::address::ExtensionRules;
use mail::status::EnhancedCode;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getegid, geteuid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};

use crate::content::{LineFilter, Prepended, has_delivered_to};
use crate::request::{Outcome, Rcpt, Request};

pub mod exit;
pub mod macros;
pub mod spec;

use exit::End;
use spec::Spec;

const PROG: &str = "pipe";
/// Bytes of a command's output that are kept.
const OUTPUT_LIMIT: usize = 1860;
/// Bytes of the header that are searched for `Delivered-To:`.
const HEADER_LIMIT: usize = 256 * 1024;

/// The agent behind a `pipe` service.
#[derive(Clone)]
pub struct Pipe {
    name: String,
    spec: Arc<Spec>,
    extensions: ExtensionRules,
    /// `NAME_time_limit`, or `command_time_limit`.
    time_limit: Duration,
    queue_directory: String,
    environment: Vec<(String, String)>,
}

impl Pipe {
    /// The agent of service `name`. `spec` comes from [`spec::parse`].
    pub fn new(name: &str, spec: Spec, config: &Config) -> Result<Pipe, ConfigError> {
        let own = format!("{name}_time_limit");
        let time_limit = match config.raw(&own) {
            Some(_) => config.time(&own)?,
            None => config.time("command_time_limit")?,
        };
        Ok(Pipe {
            name: name.to_owned(),
            spec: Arc::new(spec),
            extensions: ExtensionRules {
                delimiters: config.string("recipient_delimiter")?,
                owner_request_special: config.bool("owner_request_special")?,
                double_bounce: config.string("double_bounce_sender")?,
            },
            time_limit,
            queue_directory: config.string("queue_directory")?,
            environment: environment(config)?,
        })
    }

    /// Runs the command once for all recipients; once for each where a flag names the recipient in the
    /// header (Postfix demands `NAME_destination_recipient_limit = 1` there).
    pub async fn deliver(&self, request: &Request) -> Vec<Outcome> {
        let flags = self.spec.flags;
        if !(flags.delivered_to || flags.original_to) {
            return self.run(request, &request.recipients).await;
        }
        let mut outcomes = Vec::with_capacity(request.recipients.len());
        for recipient in &request.recipients {
            outcomes.extend(self.run(request, std::slice::from_ref(recipient)).await);
        }
        outcomes
    }

    async fn run(&self, request: &Request, recipients: &[Rcpt]) -> Vec<Outcome> {
        let started = Instant::now();
        let outcome = self.attempt(request, recipients).await;
        let mut outcome = outcome.via(self.name.as_str()).after(started.elapsed());
        outcome.is_final = self.spec.flags.is_final;
        vec![outcome; recipients.len()]
    }

    async fn attempt(&self, request: &Request, recipients: &[Rcpt]) -> Outcome {
        let message = &request.message;
        if self
            .spec
            .size_limit
            .is_some_and(|limit| message.size() > limit)
        {
            return Outcome::bounced(PROG, EnhancedCode::new(5, 2, 3), "message too large");
        }
        if self.spec.flags.delivered_to
            && let Some(looping) = looping(request, recipients).await
        {
            return looping;
        }
        let argv = macros::expand(&self.spec, &self.extensions, request, recipients);
        let Some(command) = argv.first() else {
            return temporary("no command");
        };
        let (mut child, stdin, output) = match self.spawn(&argv) {
            Ok(started) => started,
            Err(text) => return temporary(&text),
        };
        let feed = self.feed(request, recipients, stdin);
        let mut said = Vec::new();
        let finish = async {
            // The command may write before it reads: both at once.
            let (fed, ()) = tokio::join!(feed, collect(output, &mut said));
            (fed, child.wait().await)
        };
        let (fed, ended) = match tokio::time::timeout(self.time_limit, finish).await {
            Ok(both) => both,
            Err(_) => {
                kill(&mut child).await;
                tracing::warn!(prog = PROG, "pipe_command: time limit exceeded: {command}");
                return exit::outcome(&self.name, command, End::TimedOut, &said);
            }
        };
        if let Err(error) = fed {
            // The message was cut short: whatever the command says, it has not got it.
            kill(&mut child).await;
            return temporary(&format!("cannot read the message: {error}"));
        }
        let status = ended.unwrap_or_else(|_| ExitStatus::from_raw(Signal::SIGKILL as i32));
        exit::outcome(&self.name, command, End::Exited(status), &said)
    }

    /// Starts the command in its own process group, standard output and error on one pipe.
    fn spawn(&self, argv: &[String]) -> Result<(Child, ChildStdin, pipe::Receiver), String> {
        let (reader, writer) = std::io::pipe().map_err(|error| format!("pipe: {error}"))?;
        let also = writer
            .try_clone()
            .map_err(|error| format!("pipe: {error}"))?;
        let mut command = Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(
                self.spec
                    .directory
                    .as_ref()
                    .unwrap_or(&self.queue_directory),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::from(writer))
            .stderr(Stdio::from(also))
            .process_group(0)
            .kill_on_drop(true);
        let user = &self.spec.user;
        if geteuid().is_root() {
            // With an uid set by root, the standard library also drops supplementary groups.
            command.uid(user.uid).gid(user.gid);
        } else if geteuid().as_raw() != user.uid || getegid().as_raw() != user.gid {
            return Err(format!(
                "pipe: fatal: user={} needs a mail server that runs as root, but it runs as uid {}",
                user.name,
                geteuid()
            ));
        }
        let failed = |error: std::io::Error| {
            let why = crate::mailbox::failure::reason(&error);
            format!("pipe: fatal: cannot execute {}: {why}", argv[0])
        };
        let mut child = command.spawn().map_err(failed)?;
        // The parent's copies of the writing end go here, so that the command's exit ends the output.
        drop(command);
        let stdin = child.stdin.take().ok_or("pipe: fatal: no standard input")?;
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))
            .map_err(|error| format!("pipe: {error}"))?;
        Ok((child, stdin, output))
    }

    /// Writes the message. A command that does not read to the end is no error; a message that cannot be
    /// read is.
    async fn feed(
        &self,
        request: &Request,
        recipients: &[Rcpt],
        mut stdin: ChildStdin,
    ) -> std::io::Result<()> {
        let Spec { flags, eol, .. } = &*self.spec;
        let message = &request.message;
        let shown = if message.sender.is_empty() {
            &self.spec.null_sender
        } else {
            &message.sender
        };
        let recipient = recipients.first();
        let head = Prepended {
            from_line: flags.from_line.then(|| (shown.as_str(), SystemTime::now())),
            return_path: flags.return_path.then_some(shown),
            original_to: recipient
                .filter(|_| flags.original_to)
                .map(|rcpt| rcpt.original.as_str()),
            delivered_to: recipient
                .filter(|_| flags.delivered_to)
                .map(|rcpt| rcpt.address.as_str()),
        };
        let mut out = head.to_bytes(eol);
        let mut filter = LineFilter::new(flags.quote_from, flags.double_dots, eol);
        let mut chunks = message.content.chunks();
        while let Some(piece) = chunks.next().await {
            filter.push(&piece?, &mut out);
            if stdin.write_all(&out).await.is_err() {
                return Ok(());
            }
            out.clear();
        }
        filter.finish(&mut out);
        if flags.blank_line {
            out.extend_from_slice(eol.as_bytes());
        }
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

/// Flag `D`: the message was here before.
async fn looping(request: &Request, recipients: &[Rcpt]) -> Option<Outcome> {
    let mut header = Vec::new();
    let mut chunks = request.message.content.chunks();
    while header.len() < HEADER_LIMIT {
        match chunks.next().await? {
            Ok(piece) => header.extend_from_slice(&piece),
            Err(error) => return Some(temporary(&format!("cannot read the message: {error}"))),
        }
        let ended = |pair: &[u8]| pair == b"\n\n";
        if header.windows(2).any(ended) || header.len() as u64 >= request.message.size() {
            break;
        }
    }
    let twice = recipients
        .iter()
        .find(|recipient| has_delivered_to(&header, &recipient.address))?;
    let text = format!(
        "mail forwarding loop for {}",
        mail::address::quote_local(&twice.address)
    );
    Some(Outcome::bounced(PROG, EnhancedCode::new(5, 4, 6), text))
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

fn temporary(output: &str) -> Outcome {
    let text = format!("temporary failure. Command output: {output}");
    Outcome::deferred(PROG, EnhancedCode::new(4, 3, 0), text)
}
