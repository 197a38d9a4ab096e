//! The commands, one file each. A command gets the arguments that follow its name.

pub mod check;
pub mod daemon;
pub mod demo;
pub mod explain;
pub mod options;
pub mod pid_file;
pub mod postcat;
pub mod postconf;
pub mod postfix;
pub mod postmap;
pub mod postqueue;
pub mod postsuper;
pub mod queue_tool;
pub mod serve;
pub mod tables;
pub mod tool_log;

use std::ffi::OsString;
use std::process::ExitCode;

/// A verb of `postroom`, or the name of one of Postfix's tools.
pub struct Command {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&[OsString]) -> ExitCode,
}

static COMMANDS: &[Command] = &[
    Command {
        name: "serve",
        about: "run the mail server in the foreground",
        run: serve::run,
    },
    Command {
        name: "tables",
        about: "serve the tables to a real Postfix, over socketmap",
        run: tables::run,
    },
    Command {
        name: "demo",
        about: "a whole small mail server in one folder, to look at",
        run: demo::run,
    },
    Command {
        name: "explain",
        about: "where mail for an address goes, and why",
        run: explain::run,
    },
    Command {
        name: "check",
        about: "what is wrong in configuration and database, and the remedy",
        run: check::run,
    },
    Command {
        name: "postconf",
        about: "read and edit main.cf and master.cf, as postconf(1)",
        run: postconf::run,
    },
    Command {
        name: "postfix",
        about: "stop, reload, status, check, logrotate: the server, as postfix(1)",
        run: postfix::run,
    },
    Command {
        name: "postmap",
        about: "look up keys in tables, build and change them, as postmap(1)",
        run: postmap::run,
    },
    Command {
        name: "postalias",
        about: "the same for aliases(5), as postalias(1)",
        run: postmap::postalias,
    },
    Command {
        name: "newaliases",
        about: "postalias for all of alias_database",
        run: postmap::newaliases,
    },
    Command {
        name: "mailq",
        about: "list the queue, as postqueue -p",
        run: postqueue::mailq,
    },
    Command {
        name: "postcat",
        about: "show a message of the queue, as postcat(1)",
        run: postcat::run,
    },
    Command {
        name: "postqueue",
        about: "list the queue, ask for delivery, as postqueue(1)",
        run: postqueue::run,
    },
    Command {
        name: "postsuper",
        about: "hold, release, requeue and delete messages, as postsuper(1)",
        run: postsuper::run,
    },
];

/// The command of that name, if there is one.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// The text of `postroom help`.
pub fn usage() -> String {
    let mut text = String::from("usage: postroom COMMAND [ARGUMENTS]\n\n");
    for command in COMMANDS {
        text.push_str(&format!("  {:<12}{}\n", command.name, command.about));
    }
    text
}
