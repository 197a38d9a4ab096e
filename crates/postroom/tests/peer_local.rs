//! local(8) beside real Postfix: the same aliases, users and `.forward` files, the same mail; log lines and
//! mailboxes must agree.
//!
//! Both run in a mount namespace in which `/etc/passwd` has a few more users, whose homes are in the site's folder.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use support::*;
use testkit::{MailServer, Site, require, wait_for};

const MAIN_CF: &str = "\
alias_maps = hash:@CONF@/aliases
local_recipient_maps = proxy:unix:passwd.byname $alias_maps
myorigin = localhost
mydestination = $myhostname, localhost
default_transport = discard:gone
mail_spool_directory = @DIR@/mbox
";

const ALIASES: &str = r#"
postmaster: root
far: x@away.example
two: alice, bob
mixed: alice, x@away.example, "|exit 0", nobodyhere
cmd: "|/bin/cat >/dev/null"
cmdfail: "|exit 1"
cmd67: "|echo no such thing; exit 67"
cmd75: "|echo wait; exit 75"
cmdout: "|echo 4.2.1 hold on; exit 1"
cmdkill: "|kill -9 $$"
whoami: "|test `id -un` = nobody"
environment: "|test \"$LOCAL/$DOMAIN/$EXTENSION/$RECIPIENT/$SENDER\" = environment/localhost//environment@localhost/s@sender.example"
file: @DIR@/mbox/afile
folder: @DIR@/mbox/afolder/
nullfile: /dev/null
badfile: /proc/nosuch/x
include: ":include:@CONF@/list"
include-gone: ":include:@CONF@/nosuch"
include-relative: ":include:rel/list"
include-commands: ":include:@CONF@/commands"
loop: pool
pool: loop
self: self, alice
selfonly: selfonly
dangling: nosuchuser
list: alice, x@away.example, "|cat >/dev/null"
owner-list: bob
empty: ""
final: \\carol
twice: alice, alice, alice@localhost
toroot: root
"#;

const LIST: &str = "alice, bob\n# a comment\n\nx@away.example\n";
const COMMANDS: &str = "\"|cat >/dev/null\"\n/tmp/no/file\n";

/// Users and what stands in which file of their home.
const USERS: &[(&str, &str, &str)] = &[
    ("alice", "", ""),
    ("bob", "", ""),
    ("carol", ".forward", "alice, x@away.example\n"),
    ("dave", ".forward", "\"|cat >/dev/null\"\n"),
    ("eve", ".forward", "\\eve, @DIR@/home/eve/box\n"),
    ("frank", ".forward", "frank, bob\n"),
    ("gina", ".forward", ""),
    ("hank", ".forward+x", "\"|exit 75\"\n"),
    ("iris", ".forward", "iris\n"),
];

const RECIPIENTS: &[&str] = &[
    "root",
    "alice",
    "alice+ext",
    "far",
    "two",
    "mixed",
    "cmd",
    "cmdfail",
    "cmd67",
    "cmd75",
    "cmdout",
    "cmdkill",
    "whoami",
    "environment",
    "file",
    "folder",
    "nullfile",
    "badfile",
    "include",
    "include-gone",
    "include-relative",
    "include-commands",
    "loop",
    "self",
    "selfonly",
    "dangling",
    "list",
    "list+x",
    "empty",
    "final",
    "twice",
    "toroot",
    "carol",
    "dave",
    "eve",
    "frank",
    "gina",
    "hank",
    "hank+x",
    "iris+y",
    "Alice",
    "postmaster",
];

/// main.cf on top of [`MAIN_CF`], and who gets mail.
const SETTINGS: &[(&str, &[&str])] = &[
    ("", RECIPIENTS),
    (
        "home_mailbox = Maildir/\nluser_relay = $user@away.example\nlocal_recipient_maps =\npropagate_unmatched_extensions = alias, forward\n",
        &[
            "alice", "two+x", "eve", "frank+z", "nosuch", "nosuch+x", "far+y",
        ],
    ),
    (
        "home_mailbox = mail/inbox\nmailbox_command_maps = inline:{bob=/usr/bin/false}\nexpand_owner_alias = yes\n",
        &["bob", "list"],
    ),
    (
        "mailbox_command = test \"$HOME\" = @DIR@/home/$USER && test `id -un` = $USER\nprepend_delivered_header = file\n",
        &["alice", "bob+x", "root", "frank", "cmd"],
    ),
    (
        "mailbox_transport_maps = inline:{alice=discard:kept}\nfallback_transport = error:5.1.6 moved away\nlocal_recipient_maps =\n",
        &["alice", "bob", "nosuch", "two"],
    ),
    (
        "mailbox_size_limit = 102400\nmessage_size_limit = 102400\nallow_mail_to_files = forward\nallow_mail_to_commands =\nforward_path = $home/.other, $home/.forward\nfrozen_delivered_to = no\nrequire_home_directory = yes\n",
        &[
            "alice", "file", "folder", "cmd", "eve", "dave", "carol", "nohome",
        ],
    ),
];

#[test]
fn local_delivery_is_postfix_s() {
    if !testkit::peers() {
        return;
    }
    let root = nix::unistd::geteuid().is_root();
    assert!(root, "a mount namespace wants root; run the tests as root");
    for (settings, recipients) in SETTINGS {
        let real = run(settings, recipients, |site| {
            let conf = site.conf().display().to_string();
            in_namespace(
                site,
                &["/usr/lib/postfix/sbin/master", "-c", &conf, "-d"],
                None,
            )
        });
        let ours = run(settings, recipients, |site| {
            let conf = site.conf().display().to_string();
            in_namespace(
                site,
                &[BINARY, "serve", "-c", &conf],
                Some(Path::new(BINARY)),
            )
        });
        assert_eq!(ours.lines, real.lines, "with\n{settings}\n{}", ours.log);
        assert_eq!(ours.mailboxes, real.mailboxes, "with\n{settings}");
        assert!(recipients.len() <= real.lines.len(), "{}", real.log);
    }
}

#[test]
fn unknown_local_recipients_are_refused() {
    if !testkit::peers() {
        return;
    }
    for binary in [true, false] {
        let site = site("");
        let conf = site.conf().display().to_string();
        let server = match binary {
            true => in_namespace(
                site,
                &[BINARY, "serve", "-c", &conf],
                Some(Path::new(BINARY)),
            ),
            false => in_namespace(
                site,
                &["/usr/lib/postfix/sbin/master", "-c", &conf, "-d"],
                None,
            ),
        };
        let mut smtp = server.smtp();
        for (name, code) in [
            ("far", 250),
            ("alice+x", 250),
            ("LIST+x", 250),
            ("root", 250),
            ("postmaster", 250),
            ("nosuch", 550),
        ] {
            for address in [name.to_owned(), format!("{name}@localhost")] {
                let reply = rcpt(&mut smtp, &address);
                assert_eq!(reply.code, code, "{address}: {reply:?}");
                let unknown = reply.text.contains("User unknown in local recipient table");
                assert_eq!(unknown, code == 550, "{address}: {reply:?}");
            }
        }
    }
}

/// What one server made of it.
struct Run {
    log: String,
    /// The log lines of the delivery agents, times and ids masked, sorted.
    lines: Vec<String>,
    /// The messages in each mailbox, sorted, what differs between runs masked.
    mailboxes: Vec<(PathBuf, Vec<String>)>,
}

fn run(settings: &str, recipients: &[&str], start: impl Fn(Site) -> MailServer) -> Run {
    let server = start(site(settings));
    let ids: Vec<String> = recipients
        .iter()
        .map(|recipient| submit_from_here(&server, recipient))
        .collect();
    wait_for("the end of all deliveries", PATIENCE, || {
        all_tried(&server.log(), &ids).then_some(())
    });
    let dir = server.site.dir().display().to_string();
    let log = server.log();
    let mut lines: Vec<String> = log.lines().filter_map(|line| outcome(line, &dir)).collect();
    lines.sort();
    Run {
        log,
        lines,
        mailboxes: mailboxes(server.site.dir()),
    }
}

fn submit_from_here(server: &MailServer, recipient: &str) -> String {
    let body = format!("Subject: to {recipient}\n\nFrom here\nbody\n");
    let mut smtp = server.smtp();
    let (_, reply) = smtp.message(SENDER, &[recipient], &body);
    let reply = reply.unwrap_or_else(|| panic!("{recipient} is refused"));
    let id = testkit::queue_id(&reply.text);
    id.unwrap_or_else(|| panic!("{recipient}: {reply:?}"))
        .to_owned()
}

/// The site with its users; `passwd` in its folder names them.
fn site(settings: &str) -> Site {
    let main_cf = format!("{}{settings}", testkit::site::without(MAIN_CF, settings));
    let files = [("aliases", ALIASES), ("list", LIST), ("commands", COMMANDS)];
    let site = Site::new(&main_cf, "", &files);
    let mbox = site.dir().join("mbox");
    fs::create_dir(&mbox).expect("a new folder");
    fs::set_permissions(&mbox, fs::Permissions::from_mode(0o1777)).expect("our own folder");
    let mut passwd = fs::read_to_string("/etc/passwd").expect("every machine has one");
    for (uid, (name, file, text)) in (3001..).zip(USERS) {
        let home = site.dir().join("home").join(name);
        fs::create_dir_all(&home).expect("a new folder");
        passwd.push_str(&format!(
            "{name}:x:{uid}:{uid}::{}:/bin/sh\n",
            home.display()
        ));
        chown(&home, Some(uid), Some(uid)).expect("root may");
        if !file.is_empty() {
            fs::write(home.join(file), site.expand(text)).expect("a new file");
            chown(home.join(file), Some(uid), Some(uid)).expect("root may");
        }
    }
    let nowhere = site.dir().join("home/nohome");
    passwd.push_str(&format!(
        "nohome:x:3100:3100::{}:/bin/sh\n",
        nowhere.display()
    ));
    fs::write(site.dir().join("passwd"), passwd).expect("a new file");
    let aliases = format!("hash:{}/aliases", site.conf().display());
    let conf = site.conf().display().to_string();
    let made = std::process::Command::new(require("postalias"))
        .args(["-c", &conf, &aliases])
        .status();
    assert!(made.is_ok_and(|status| status.success()));
    site
}

fn in_namespace(site: Site, command: &[&str], tools: Option<&Path>) -> MailServer {
    let passwd = site.dir().join("passwd").display().to_string();
    let script = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
    let mut arguments = vec!["-m", "sh", "-c", script, &passwd];
    arguments.extend(command);
    MailServer::start(site, &require("unshare"), &arguments, tools)
}

/// These messages and those that came of them are gone or deferred.
fn all_tried(log: &str, ids: &[String]) -> bool {
    let id = |line: &str| Some(line.split("]: ").nth(1)?.split_once(": ")?.0.to_owned());
    let with = |text: &str| -> BTreeSet<String> {
        let lines = log.lines().filter(|line| line.contains(text));
        lines.filter_map(id).collect()
    };
    let mut left = with(": message-id=");
    left.extend(ids.iter().cloned());
    for before in ["notification: ", "(forwarded as "] {
        let after = log.lines().filter_map(|line| line.split_once(before));
        left.extend(after.map(|(_, id)| id.trim().trim_end_matches(')').to_owned()));
    }
    for text in [": removed", "status=deferred"] {
        for id in with(text) {
            left.remove(&id);
        }
    }
    left.is_empty()
}

/// `agent to=<…>, orig_to=<…>, relay=…, dsn=…, status=…` of a line of a delivery agent.
fn outcome(line: &str, dir: &str) -> Option<String> {
    let (_, rest) = line.split_once(" postfix/")?;
    let (agent, rest) = rest.split_once('[')?;
    let (_, rest) = rest.split_once(": to=")?;
    let (to, rest) = rest.split_once(", relay=")?;
    let (relay, rest) = rest.split_once(", delay=")?;
    let (_, rest) = rest.split_once(", dsn=")?;
    let rest = match rest.split_once("(forwarded as ") {
        Some((start, _)) => format!("{start}(forwarded as ID)"),
        None => rest.replace(dir, "DIR"),
    };
    Some(format!("{agent} to={to}, relay={relay}, dsn={rest}"))
}

fn mailboxes(dir: &Path) -> Vec<(PathBuf, Vec<String>)> {
    let mut files = Vec::new();
    for folder in ["mbox", "home"] {
        walk(&dir.join(folder), &mut files);
    }
    let mut found: Vec<(PathBuf, Vec<String>)> = Vec::new();
    for file in files {
        let text = fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace(&dir.display().to_string(), "DIR");
        let facts = fs::metadata(&file).expect("it was listed");
        use std::os::unix::fs::MetadataExt;
        let rights = format!("{:o} {} {}", facts.mode(), facts.uid(), facts.gid());
        let parent = file.parent().expect("it is in the site");
        let is_maildir = parent.ends_with("new");
        let shown = if is_maildir { parent } else { &file };
        let shown = shown
            .strip_prefix(dir)
            .expect("it is in the site")
            .to_owned();
        let messages = split(&text)
            .into_iter()
            .map(|text| format!("{rights}\n{text}"));
        match found.iter_mut().find(|(path, _)| *path == shown) {
            Some((_, list)) => list.extend(messages),
            None => found.push((shown, messages.collect())),
        }
    }
    for (_, messages) in &mut found {
        messages.sort();
    }
    found.sort();
    found
}

/// The messages of an mbox, without what differs from run to run.
fn split(text: &str) -> Vec<String> {
    let mut messages = vec![String::new()];
    for line in text.lines() {
        let line = match line {
            from if from.starts_with("From ") => {
                messages.push(String::new());
                from.split("  ").next().unwrap_or_default()
            }
            received if received.starts_with("Received: ") => received
                .split_once(" from")
                .map_or(received, |(_, _)| "Received: from"),
            differs
                if ["\t", "Date: ", "Message-Id: "]
                    .iter()
                    .any(|start| differs.starts_with(start)) =>
            {
                continue;
            }
            line => line,
        };
        let message = messages.last_mut().expect("it begins with one");
        message.push_str(line);
        message.push('\n');
    }
    messages.retain(|text| !text.is_empty());
    messages
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), files),
            _ => files.push(entry.path()),
        }
    }
}
