//! The local(8) agent: aliases, `.forward` files, and the mailboxes of the machine's users.
//!
//! A recipient is first expanded as a whole ([`expand`]): what comes out is a list of [`Step`]s, which are then
//! done one after the other ([`deliver`]). Addresses that lead elsewhere are handed back as [`Forward`]s, and
//! become a message of their own; docs/decisions/0007-forwarded-messages.md says how that is done once.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use mail::status::EnhancedCode;
use nix::unistd::{Uid, User};

use crate::command::Identity;
use crate::mailbox::rights::Owner;
use crate::request::{Expanded, Forward, Line, Outcome, Rcpt, Request, Status};

mod deliver;
mod expand;
mod files;
mod settings;
mod words;

pub use settings::Local;

const PROG: &str = "local";

/// What the agent asks about addresses: where they go is not its business.
pub trait Addresses: Send + Sync {
    /// The place of an address in internal form. The error is told to the log.
    fn place<'a>(&'a self, address: &'a str) -> Asked<'a>;

    /// Hands a request to the agent of another transport.
    fn pass<'a>(&'a self, request: &'a Request) -> Passed<'a>;
}

/// The answer of [`Addresses::place`].
pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<Place, String>> + Send + 'a>>;
/// The answer of [`Addresses::pass`].
pub type Passed<'a> = Pin<Box<dyn Future<Output = Vec<Outcome>> + Send + 'a>>;

/// Where an address goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Canonical, with a domain, in internal form.
    pub address: String,
    pub transport: String,
    /// It cannot be delivered to anywhere.
    pub malformed: bool,
}

/// An account of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    owner: Owner,
    home: String,
    shell: String,
}

impl Account {
    /// Blocks while the user database is asked.
    fn named(name: &str) -> Result<Option<Account>, String> {
        if name.is_empty() || name.contains('\0') {
            return Ok(None);
        }
        let found = User::from_name(name).map_err(|error| error.desc().to_owned())?;
        Ok(found.map(Account::of))
    }

    fn of_uid(uid: u32) -> Result<Option<Account>, String> {
        let found = User::from_uid(Uid::from_raw(uid)).map_err(|error| error.desc().to_owned())?;
        Ok(found.map(Account::of))
    }

    fn of(user: User) -> Account {
        Account {
            name: user.name,
            owner: Owner {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
            },
            home: user.dir.to_string_lossy().into_owned(),
            shell: user.shell.to_string_lossy().into_owned(),
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            name: self.name.clone(),
            uid: self.owner.uid,
            gid: self.owner.gid,
        }
    }
}

/// One thing to do for a recipient.
#[derive(Clone, Debug)]
struct Step {
    about: About,
    work: Work,
}

/// For whom a step is done.
#[derive(Clone, Debug)]
struct About {
    /// The address that log lines name.
    address: String,
    /// The address for `Delivered-To:`.
    delivered: String,
    /// The address at RCPT; empty behind an alias with an owner.
    original: String,
    /// The sender, or the owner of the alias.
    sender: String,
}

#[derive(Clone, Debug)]
enum Work {
    /// A mailbox file of this user.
    Mailbox {
        user: Account,
        path: String,
    },
    /// A Maildir, or a file where the path does not end in `/`; `None`: with `default_privs`.
    File {
        path: String,
        rights: Option<Account>,
    },
    Command {
        command: String,
        rights: Option<Account>,
    },
    /// Another transport delivers it.
    Pass {
        transport: String,
        nexthop: String,
    },
    Forward {
        to: String,
    },
    /// Nothing more to do.
    Settled(Box<Outcome>),
}

impl Step {
    /// What tells this step from the others of the recipient, in every attempt; one line.
    fn key(&self) -> String {
        let uid = |rights: &Option<Account>| rights.as_ref().map_or(0, |account| account.owner.uid);
        let key = match &self.work {
            Work::Mailbox { user, .. } => format!("mailbox {}", user.name),
            Work::File { path, rights } => format!("file {} {path}", uid(rights)),
            Work::Command { command, rights } => format!("command {} {command}", uid(rights)),
            Work::Pass { transport, .. } => format!("pass {transport} {}", self.about.address),
            Work::Forward { to } => format!("forward {to}"),
            Work::Settled(outcome) => format!("settled {} {}", self.about.address, outcome.text),
        };
        one_line(&key)
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\t', '\r'], " ")
}

impl Local {
    /// Delivers to every recipient of the request, one after the other.
    pub async fn deliver(&self, request: &Request, addresses: &dyn Addresses) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(request.recipients.len());
        for recipient in &request.recipients {
            outcomes.push(Box::pin(self.recipient(request, recipient, addresses)).await);
        }
        outcomes
    }

    async fn recipient(
        &self,
        request: &Request,
        recipient: &Rcpt,
        addresses: &dyn Addresses,
    ) -> Outcome {
        let steps = self.expand(request, recipient, addresses).await;
        let mut record = Record::read(&recipient.done);
        let mut forwards = Vec::new();
        for step in steps {
            let key = step.key();
            if record.done.contains_key(&key) {
                continue;
            }
            if let Work::Forward { to } = step.work {
                self.add_forward(&mut forwards, step.about, to);
                continue;
            }
            let (address, original) = (step.about.address.clone(), step.about.original.clone());
            let outcome = self.step(request, recipient, step, addresses).await;
            record.add(
                key,
                Line {
                    address,
                    original,
                    outcome,
                },
            );
        }
        record.conclude(forwards)
    }

    fn add_forward(&self, forwards: &mut Vec<Forward>, about: About, to: String) {
        let delivered_to = self.prepend.forward.then_some(about.delivered);
        let same = |forward: &&mut Forward| {
            (&forward.sender, &forward.original, &forward.delivered_to)
                == (&about.sender, &about.original, &delivered_to)
        };
        match forwards.iter_mut().find(same) {
            Some(forward) => forward.recipients.push(to),
            None => forwards.push(Forward {
                sender: about.sender,
                original: about.original,
                delivered_to,
                recipients: vec![to],
            }),
        }
    }
}

/// How far a recipient has come: the steps that need not be done again, and the lines of this attempt.
#[derive(Default)]
struct Record {
    /// By key: why it bounced; `None`: it worked.
    done: BTreeMap<String, Option<(EnhancedCode, String)>>,
    lines: Vec<Line>,
}

impl Record {
    /// Reads what [`Record::write`] wrote. Lines that say nothing are left out: their steps are done again.
    fn read(text: &str) -> Record {
        let mut record = Record::default();
        for line in text.lines() {
            let mut parts = line.splitn(3, '\t');
            let (Some(key), code, why) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let bounced = code.and_then(|code| Some((code.parse().ok()?, why?.to_owned())));
            record.done.insert(key.to_owned(), bounced);
        }
        record
    }

    fn write(&self) -> String {
        let mut text = String::new();
        for (key, bounced) in &self.done {
            text.push_str(key);
            if let Some((code, why)) = bounced {
                text.push_str(&format!("\t{code}\t{}", one_line(why)));
            }
            text.push('\n');
        }
        text
    }

    fn add(&mut self, key: String, line: Line) {
        let outcome = &line.outcome;
        match outcome.status {
            Status::Deferred => {}
            Status::Sent => drop(self.done.insert(key, None)),
            Status::Bounced => {
                let why = (outcome.dsn, outcome.text.clone());
                self.done.insert(key, Some(why));
            }
        }
        self.lines.push(line);
    }

    /// The recipient's own outcome: deferred when a part is, else bounced when a part is. Nothing is
    /// forwarded while a part is deferred: all of it is tried again then.
    fn conclude(self, forwards: Vec<Forward>) -> Outcome {
        let of = |status: Status| {
            let mut outcomes = self.lines.iter().map(|line| &line.outcome);
            outcomes.find(|outcome| outcome.status == status).cloned()
        };
        let earlier = || {
            let (code, why) = self.done.values().flatten().next()?;
            Some(Outcome::bounced(PROG, *code, why.clone()).via(PROG))
        };
        let deferred = of(Status::Deferred);
        let forwards = match deferred {
            Some(_) => Vec::new(),
            None => forwards,
        };
        let done = self.write();
        let main = deferred
            .or_else(|| of(Status::Bounced))
            .or_else(earlier)
            .or_else(|| of(Status::Sent));
        let mut main = main.unwrap_or_else(|| {
            let text = match forwards.is_empty() {
                true => "no recipients",
                false => "forwarded",
            };
            Outcome::sent(PROG, EnhancedCode::new(2, 0, 0), text).via(PROG)
        });
        main.is_final = main.is_final && forwards.is_empty();
        main.expanded = Some(Box::new(Expanded {
            lines: self.lines,
            forwards,
            done,
        }));
        main
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Line {
        line(Outcome::sent(
            PROG,
            EnhancedCode::new(2, 0, 0),
            "delivered to mailbox",
        ))
    }

    fn line(outcome: Outcome) -> Line {
        Line {
            address: "x@y".into(),
            original: String::new(),
            outcome,
        }
    }

    #[test]
    fn what_is_done_is_known_in_the_next_attempt() {
        let mut record = Record::default();
        record.add("mailbox a".into(), sent());
        let unknown = Outcome::bounced(PROG, EnhancedCode::new(5, 1, 1), "unknown\nuser");
        record.add("settled b".into(), line(unknown));
        let later = Outcome::deferred(PROG, EnhancedCode::new(4, 3, 0), "later");
        record.add("command 1 c".into(), line(later));
        let forward = Forward {
            sender: String::new(),
            original: String::new(),
            delivered_to: None,
            recipients: vec!["d@y".into()],
        };
        let first = record.conclude(vec![forward.clone()]);
        assert_eq!(first.status, Status::Deferred);
        let expanded = first.expanded.expect("local always tells");
        assert!(expanded.forwards.is_empty(), "not before the rest is done");

        let mut record = Record::read(&expanded.done);
        assert_eq!(
            record.done.keys().collect::<Vec<_>>(),
            ["mailbox a", "settled b"]
        );
        record.add("command 1 c".into(), sent());
        let second = record.conclude(vec![forward]);
        assert_eq!(
            (second.status, second.text.as_str()),
            (Status::Bounced, "unknown user")
        );
        let expanded = second.expanded.expect("local always tells");
        assert_eq!((expanded.forwards.len(), expanded.lines.len()), (1, 1));
    }
}
