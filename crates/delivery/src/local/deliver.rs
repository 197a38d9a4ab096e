//! The steps that local(8) does itself: mailboxes, files and commands, with their owners' rights.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use mail::status::EnhancedCode;
use queue::Content;

use super::words::Words;
use super::{About, Account, Addresses, Local, PROG, Step, Work};
use crate::command::{self, Job};
use crate::content::{LineFilter, Prepended};
use crate::mailbox::failure::Failure;
use crate::mailbox::maildir;
use crate::mailbox::mbox::{self, Entry, Rules};
use crate::mailbox::rights::Owner;
use crate::pipe::exit;
use crate::request::{Outcome, Rcpt, Request};

const DELIVERED: EnhancedCode = EnhancedCode::new(2, 0, 0);

/// A file to write to, for a thread that may wait.
struct Writing {
    /// As whom the file is opened.
    rights: Owner,
    /// Who gets a new file, where root makes it.
    new_owner: Option<Owner>,
    path: String,
    head: Vec<u8>,
    name: String,
    content: Content,
    rules: Rules,
    recovered: bool,
    target: Target,
}

enum Target {
    Mailbox { user: String, uid: u32 },
    File,
}

impl Local {
    /// Does one step.
    pub(super) async fn step(
        &self,
        request: &Request,
        recipient: &Rcpt,
        step: Step,
        addresses: &dyn Addresses,
    ) -> Outcome {
        let started = Instant::now();
        let Step { about, work } = step;
        let outcome = match work {
            Work::Settled(outcome) => *outcome,
            Work::Mailbox { user, path } => {
                self.mailbox(request, recipient, &about, user, path).await
            }
            Work::File { path, rights } => {
                self.file(request, recipient, &about, path, rights).await
            }
            Work::Command { command, rights } => {
                self.command(request, &about, &command, rights).await
            }
            Work::Pass { transport, nexthop } => {
                let passed = passed(request, recipient, about, transport, nexthop);
                let outcomes = addresses.pass(&passed).await;
                return outcomes.into_iter().next().unwrap_or_else(|| {
                    Outcome::deferred(
                        PROG,
                        EnhancedCode::new(4, 3, 0),
                        "mail transport unavailable",
                    )
                });
            }
            // Local::recipient has taken these out.
            Work::Forward { .. } => Outcome::deferred(
                PROG,
                EnhancedCode::new(4, 3, 0),
                "unable to forward message",
            ),
        };
        outcome.via(PROG).after(started.elapsed())
    }

    async fn mailbox(
        &self,
        request: &Request,
        recipient: &Rcpt,
        about: &About,
        user: Account,
        path: String,
    ) -> Outcome {
        let (rights, new_owner) = match self.home_mailbox.is_empty() {
            true => spool_rights(&self.spool, user.owner),
            false => (user.owner, None),
        };
        let target = Target::Mailbox {
            uid: user.owner.uid,
            user: user.name,
        };
        let head = self.head(about, !path.ends_with('/'), self.prepend.file);
        self.write(
            request,
            recipient,
            Writing {
                rights,
                new_owner,
                path,
                head,
                name: String::new(),
                content: request.message.content.clone(),
                rules: self.mailbox_rules.clone(),
                recovered: request.recovered,
                target,
            },
        )
        .await
    }

    async fn file(
        &self,
        request: &Request,
        recipient: &Rcpt,
        about: &About,
        path: String,
        rights: Option<Account>,
    ) -> Outcome {
        if path == "/dev/null" {
            return Outcome::sent(PROG, DELIVERED, format!("delivered to file: {path}"));
        }
        let Some(Account { owner: rights, .. }) = self.acting(rights) else {
            return misconfigured();
        };
        let head = self.head(about, !path.ends_with('/'), self.prepend.file);
        self.write(
            request,
            recipient,
            Writing {
                rights,
                new_owner: None,
                path,
                head,
                name: String::new(),
                content: request.message.content.clone(),
                rules: self.file_rules.clone(),
                recovered: request.recovered,
                target: Target::File,
            },
        )
        .await
    }

    async fn write(&self, request: &Request, recipient: &Rcpt, mut writing: Writing) -> Outcome {
        writing.name = maildir::file_name(&request.message, recipient.index, &self.hostname);
        let id = request.message.id.clone();
        let done = tokio::task::spawn_blocking(move || write(&writing)).await;
        done.unwrap_or_else(|stopped| {
            tracing::warn!(prog = PROG, "{id}: delivery broke off: {stopped}");
            Outcome::deferred(PROG, EnhancedCode::new(4, 3, 0), "internal software error")
        })
    }

    /// With whose rights: never root's.
    fn acting(&self, rights: Option<Account>) -> Option<Account> {
        match rights.filter(|account| account.owner.uid != 0) {
            Some(account) => Some(account),
            None => {
                let default = self.default_privs.as_ref();
                default
                    .map_err(|problem| tracing::warn!(prog = PROG, "{problem}"))
                    .ok()
                    .cloned()
            }
        }
    }

    fn head(&self, about: &About, from_line: bool, delivered_to: bool) -> Vec<u8> {
        let head = Prepended {
            from_line: from_line.then(|| (about.sender.as_str(), SystemTime::now())),
            return_path: Some(&about.sender),
            original_to: Some(about.original.as_str()).filter(|_| self.original_recipient),
            delivered_to: Some(about.delivered.as_str()).filter(|_| delivered_to),
        };
        head.to_bytes("\n")
    }

    async fn command(
        &self,
        request: &Request,
        about: &About,
        command: &str,
        rights: Option<Account>,
    ) -> Outcome {
        let person = rights.clone();
        let Some(acting) = self.acting(rights) else {
            return misconfigured();
        };
        let mut argv = self.shell.clone();
        if argv.is_empty() {
            argv.extend(["/bin/sh".to_owned(), "-c".to_owned()]);
        }
        argv.push(command.to_owned());
        let directory = self.directory(about, person.as_ref());
        let identity = acting.identity();
        let job = Job {
            prog: PROG,
            argv: &argv,
            environment: self.environment(request, about, person.as_ref()),
            directory: &directory,
            user: &identity,
            time_limit: self.time_limit,
            head: self.head(about, true, self.prepend.command),
            filter: LineFilter::new(false, false, "\n"),
            tail: b"",
        };
        match command::run(job, &request.message.content).await {
            Ok((end, said)) => {
                let success = format!("delivered to command: {command}");
                exit::outcome(PROG, success, command, end, &said)
            }
            Err(text) => {
                let text = format!("temporary failure. Command output: {text}");
                Outcome::deferred(PROG, EnhancedCode::new(4, 3, 0), text)
            }
        }
    }

    /// `command_execution_directory`, or the queue's.
    fn directory(&self, about: &About, person: Option<&Account>) -> String {
        let parts = self.parts(&about.address);
        let words = parts.words(about, person);
        let expanded = words.expand(&self.execution_directory, &self.directory_filter);
        expanded
            .filter(|path| !path.is_empty())
            .unwrap_or_else(|| self.queue_directory.clone())
    }

    fn parts(&self, address: &str) -> Parts {
        let folded = mail::fold(address).into_owned();
        let local = match folded.rsplit_once('@') {
            Some((local, _)) => local.to_owned(),
            None => folded,
        };
        let (user, extension) = match self.extensions.split(&local) {
            Some((user, extension)) => (user.to_owned(), Some(extension.to_owned())),
            None => (local.clone(), None),
        };
        Parts {
            local,
            user,
            extension,
        }
    }

    fn environment(
        &self,
        request: &Request,
        about: &About,
        person: Option<&Account>,
    ) -> Vec<(String, String)> {
        let message = &request.message;
        let parts = self.parts(&about.address);
        let extension = parts.words(about, person).extension.unwrap_or_default();
        let mut characters = extension.chars();
        characters.next();
        let named = |account: &Account| {
            [
                ("HOME", account.home.clone()),
                ("LOGNAME", account.name.clone()),
                ("USER", account.name.clone()),
                ("SHELL", account.shell.clone()),
            ]
        };
        let mut values: Vec<(&str, String)> = person.map(named).into_iter().flatten().collect();
        values.extend([
            ("LOCAL", parts.local.clone()),
            (
                "DOMAIN",
                mail::address::domain(&about.address)
                    .unwrap_or_default()
                    .to_owned(),
            ),
            ("EXTENSION", characters.as_str().to_owned()),
            ("RECIPIENT", about.delivered.clone()),
            ("SENDER", about.sender.clone()),
            ("ORIGINAL_RECIPIENT", about.original.clone()),
            ("CLIENT_HOSTNAME", message.client.name.clone()),
            ("CLIENT_ADDRESS", message.client.addr.clone()),
            ("CLIENT_HELO", message.client.helo.clone()),
            ("CLIENT_PROTOCOL", message.client.protocol.clone()),
            ("SASL_METHOD", message.sasl.method.clone()),
            ("SASL_SENDER", message.sasl.sender.clone()),
            ("SASL_USERNAME", message.sasl.username.clone()),
        ]);
        // What `export_environment` says counts for PATH and the like; these are the message's own.
        let keep = |c: char| {
            if self.command_filter.contains(c) {
                c
            } else {
                '_'
            }
        };
        let mut environment = self.environment.clone();
        for (name, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
            environment.retain(|(known, _)| known != name);
            environment.push((name.to_owned(), value.chars().map(keep).collect()));
        }
        environment
    }
}

fn misconfigured() -> Outcome {
    let code = EnhancedCode::new(4, 3, 5);
    Outcome::deferred(PROG, code, "mail system configuration error")
}

/// A local part, and what it consists of.
struct Parts {
    local: String,
    user: String,
    extension: Option<String>,
}

impl Parts {
    fn words<'a>(&'a self, about: &'a About, account: Option<&'a Account>) -> Words<'a> {
        Words {
            recipient: &about.address,
            local: &self.local,
            user: &self.user,
            extension: self.extension.as_deref(),
            account,
            sender: &about.sender,
        }
    }
}

/// The request for the agent that `mailbox_transport` or `fallback_transport` names.
fn passed(
    request: &Request,
    recipient: &Rcpt,
    about: About,
    transport: String,
    nexthop: String,
) -> Request {
    let recipient = Rcpt {
        address: about.address,
        original: about.original,
        mailbox_hint: None,
        ..recipient.clone()
    };
    Request {
        transport,
        nexthop,
        recipients: vec![recipient],
        ..request.clone()
    }
}

/// In a spool folder that everybody may write to a mailbox is opened by its user, in one that a group may write to by
/// the user with that group, else by root, who gives a new file to the user.
fn spool_rights(spool: &str, user: Owner) -> (Owner, Option<Owner>) {
    use std::os::unix::fs::MetadataExt;
    let root = Owner { uid: 0, gid: 0 };
    let as_root = || match nix::unistd::geteuid().is_root() {
        true => (root, Some(user)),
        false => (user, None),
    };
    let Ok(facts) = std::fs::metadata(spool) else {
        return as_root();
    };
    let mode = facts.permissions().mode();
    if mode & 0o002 != 0 {
        (user, None)
    } else if mode & 0o020 != 0 {
        let gid = facts.gid();
        (Owner { gid, ..user }, None)
    } else {
        as_root()
    }
}

fn write(writing: &Writing) -> Outcome {
    let rights = match writing.rights.borrow() {
        Ok(rights) => rights,
        Err(text) => return Outcome::deferred(PROG, EnhancedCode::new(4, 3, 5), text),
    };
    let path = PathBuf::from(&writing.path);
    let (written, text) = match writing.path.ends_with('/') {
        true => (
            to_maildir(writing, &path),
            "delivered to maildir".to_owned(),
        ),
        false => to_mbox(writing, &path),
    };
    drop(rights);
    match written {
        Ok(()) => Outcome::sent(PROG, DELIVERED, text),
        Err(failure) => Outcome::failed(PROG, failure.dsn, failure.text),
    }
}

fn to_maildir(writing: &Writing, path: &Path) -> Result<(), Failure> {
    let Writing {
        name,
        head,
        content,
        rules,
        ..
    } = writing;
    if rules.limit > 0 && head.len() as u64 + content.len() > rules.limit {
        return Err(crate::mailbox::maildir_too_large());
    }
    maildir::deliver(path, name, head, content, writing.recovered).map_err(Failure::of_named_file)
}

fn to_mbox(writing: &Writing, path: &Path) -> (Result<(), Failure>, String) {
    let entry = Entry {
        head: &writing.head,
        content: &writing.content,
    };
    let rules = &writing.rules;
    match &writing.target {
        Target::Mailbox { user, uid } => {
            let owner = Owner {
                uid: *uid,
                gid: writing.rights.gid,
            };
            let written = mbox::append(path, Some(owner), writing.new_owner, entry, rules);
            let what = format!("cannot update mailbox {} for user {user}. ", path.display());
            (
                written.map_err(|failure| failure.of_named_file().behind(&what)),
                "delivered to mailbox".to_owned(),
            )
        }
        Target::File => {
            let executable = std::fs::metadata(path)
                .is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0);
            let written = match executable {
                true => Err(Failure {
                    dsn: EnhancedCode::new(5, 7, 1),
                    text: "file is executable".to_owned(),
                    passing: false,
                }),
                false => mbox::append(path, None, None, entry, rules).map_err(|failure| {
                    let what = format!("cannot append message to file {}: ", path.display());
                    failure.of_named_file().behind(&what)
                }),
            };
            (written, format!("delivered to file: {}", path.display()))
        }
    }
}
