//! The pipe(8) agent: hands a message to a command, such as Dovecot's LDA.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use config::{Config, ConfigError};
use mail::address::ExtensionRules;
use mail::status::EnhancedCode;

use crate::command::{self, Job};
use crate::content::{LineFilter, Prepended, loops_to};
use crate::request::{Outcome, Rcpt, Request};

pub mod exit;
pub mod macros;
pub mod spec;

use spec::Spec;

const PROG: &str = "pipe";

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
            environment: command::environment(config)?,
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
        let job = self.job(request, recipients, &argv);
        match command::run(job, &message.content).await {
            Ok((end, said)) => exit::outcome(PROG, self.success(&said), command, end, &said),
            Err(text) => temporary(&text),
        }
    }

    fn success(&self, said: &[u8]) -> String {
        let said = exit::printable(said);
        match said.trim_end() {
            "" => format!("delivered via {} service", self.name),
            said => format!("delivered via {} service ({said})", self.name),
        }
    }

    fn job<'a>(&'a self, request: &Request, recipients: &[Rcpt], argv: &'a [String]) -> Job<'a> {
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
        let directory = self.spec.directory.as_ref();
        Job {
            prog: PROG,
            argv,
            environment: self.environment.clone(),
            directory: directory.unwrap_or(&self.queue_directory),
            user: &self.spec.user,
            time_limit: self.time_limit,
            head: head.to_bytes(eol),
            filter: LineFilter::new(flags.quote_from, flags.double_dots, eol),
            tail: if flags.blank_line {
                eol.as_bytes()
            } else {
                b""
            },
        }
    }
}

/// Flag `D`: the message was here before.
async fn looping(request: &Request, recipients: &[Rcpt]) -> Option<Outcome> {
    for recipient in recipients {
        match loops_to(&request.message.content, &recipient.address).await {
            Ok(false) => {}
            Ok(true) => {
                let address = mail::address::quote_local(&recipient.address);
                let text = format!("mail forwarding loop for {address}");
                return Some(Outcome::bounced(PROG, EnhancedCode::new(5, 4, 6), text));
            }
            Err(error) => return Some(temporary(&format!("cannot read the message: {error}"))),
        }
    }
    None
}

fn temporary(output: &str) -> Outcome {
    let text = format!("temporary failure. Command output: {output}");
    Outcome::deferred(PROG, EnhancedCode::new(4, 3, 0), text)
}
