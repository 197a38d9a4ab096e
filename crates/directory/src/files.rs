//! Files with secrets that others may read, and sockets that a chrooted Postfix cannot reach.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use config::Config;
use nix::unistd::{Group, User};

use crate::finding::{Finding, Place, Report, Severity};
use crate::sources::Known;

pub(crate) fn check(config: &Config, known: &[Known], report: &mut Report) {
    let trusted = Trusted::of(config);
    let mut seen: Vec<PathBuf> = Vec::new();
    for table in known {
        let holder = match &table.file {
            Some(file) => Some(file.path().to_owned()),
            None if table.is_set("password") => Some(config.dir().join("main.cf")),
            None => None,
        };
        if let Some(path) = holder
            && !seen.contains(&path)
        {
            seen.push(path.clone());
            table_file(table, &path, &trusted, report);
        }
        if let Some(path) = table.source.file()
            && !seen.iter().any(|known| known == path)
        {
            seen.push(path.to_owned());
            database_file(table, path, &trusted, report);
        }
    }
    sockets(config, known, report);
}

/// Who may read a password: root, and Postfix's group.
struct Trusted {
    groups: Vec<u32>,
    group_name: String,
    me: u32,
}

impl Trusted {
    fn of(config: &Config) -> Trusted {
        let owner = config.string("mail_owner").unwrap_or_default();
        let owner = User::from_name(&owner).ok().flatten();
        let group = owner.and_then(|owner| Group::from_gid(owner.gid).ok().flatten());
        let group = group.or_else(|| Group::from_name("postfix").ok().flatten());
        let mut groups = vec![0];
        groups.extend(group.iter().map(|group| group.gid.as_raw()));
        Trusted {
            groups,
            group_name: group.map_or_else(|| "postfix".to_owned(), |group| group.name),
            me: nix::unistd::geteuid().as_raw(),
        }
    }

    /// Who else may read or write it, in words, the owner included, and the file's mode.
    fn others(&self, path: &Path, read: bool) -> Option<(String, u32)> {
        let meta = std::fs::metadata(path).ok()?;
        let mut who: Vec<String> = self
            .strangers(path, read)
            .map(|(who, _)| who)
            .into_iter()
            .collect();
        if meta.uid() != 0 && meta.uid() != self.me {
            let name = User::from_uid(meta.uid().into()).ok().flatten();
            let name = name.map_or_else(|| meta.uid().to_string(), |user| user.name);
            who.push(format!("its owner {name}"));
        }
        (!who.is_empty()).then(|| (who.join(" and "), meta.mode() & 0o7777))
    }

    /// The same without the owner.
    fn strangers(&self, path: &Path, read: bool) -> Option<(String, u32)> {
        let meta = std::fs::metadata(path).ok()?;
        let mode = meta.mode() & 0o7777;
        let (group_bit, other_bit) = if read { (0o040, 0o004) } else { (0o020, 0o002) };
        if mode & other_bit != 0 {
            return Some(("every user of this machine".to_owned(), mode));
        }
        if mode & group_bit == 0 || read && self.groups.contains(&meta.gid()) {
            return None;
        }
        let name = Group::from_gid(meta.gid().into()).ok().flatten();
        let name = name.map_or_else(|| meta.gid().to_string(), |group| group.name);
        Some((format!("group {name}"), mode))
    }
}

/// The commands that leave a file to root and Postfix's group.
fn mend(finding: Finding, path: &Path, trusted: &Trusted) -> Finding {
    let path = quoted(path);
    finding
        .remedy(format!(
            "let only root and group {} read it",
            trusted.group_name
        ))
        .shell(format!("chown root:{} {path}", trusted.group_name))
        .shell(format!("chmod 0640 {path}"))
}

/// A path for a shell.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Whether a line of a file, counted from 1, has the text.
pub(crate) fn line_has(path: &Path, line: usize, text: &str) -> bool {
    let content = std::fs::read_to_string(path).unwrap_or_default();
    let wanted = line.checked_sub(1).and_then(|at| content.lines().nth(at));
    wanted.is_some_and(|line| line.contains(text))
}

fn table_file(table: &Known, path: &Path, trusted: &Trusted, report: &mut Report) {
    if table.is_set("password")
        && let Some((who, mode)) = trusted.others(path, true)
    {
        let finding = Finding::new(
            Severity::Error,
            "password-readable",
            table.place("password"),
            format!("{who} can read the database password in it (mode {mode:04o})"),
        )
        .so("it opens the database: addresses, and the hashes of all mail passwords");
        report.add(match &table.file {
            Some(_) => mend(finding, path, trusted),
            None => finding.remedy(
                "move the table's parameters to a file of their own with mode 0640; main.cf must stay readable",
            ),
        });
    } else if let Some((who, mode)) = trusted.others(path, false) {
        let finding = Finding::new(
            Severity::Error,
            "table-file-writable",
            Place::file(path),
            format!("{who} can change it (mode {mode:04o})"),
        )
        .so("who changes it decides where mail goes");
        report.add(mend(finding, path, trusted));
    }
}

/// A database of SQLite: the passwords are in it, and only the program that administers the accounts,
/// its owner, writes it.
fn database_file(table: &Known, path: &Path, trusted: &Trusted, report: &mut Report) {
    let (code, does, consequence, who) = match (
        trusted.strangers(path, false),
        trusted.strangers(path, true),
    ) {
        (Some(who), _) => (
            "database-user-may-write",
            "write",
            "lookups only read; who writes it can change mailboxes, aliases and passwords",
            who,
        ),
        (None, Some(who)) => (
            "database-readable",
            "read",
            "all addresses, and the hashes of all mail passwords if they are in it, are open to them",
            who,
        ),
        (None, None) => return,
    };
    let (who, mode) = who;
    let finding = Finding::new(
        Severity::Warning,
        code,
        table.place("dbpath"),
        format!(
            "{who} can {does} the database {} (mode {mode:04o})",
            path.display()
        ),
    )
    .so(consequence)
    .remedy(format!(
        "let only its owner write it, and only group {} read it besides",
        trusted.group_name
    ));
    report.add(
        finding
            .shell(format!("chgrp {} {}", trusted.group_name, quoted(path)))
            .shell(format!("chmod g-w,o-rwx {}", quoted(path))),
    );
}

/// Which programs of Postfix open the tables of a parameter.
fn programs(parameter: &str) -> &'static [&'static str] {
    match parameter {
        "virtual_alias_maps"
        | "canonical_maps"
        | "recipient_canonical_maps"
        | "sender_canonical_maps"
        | "recipient_bcc_maps"
        | "sender_bcc_maps" => &["smtpd", "cleanup"],
        "virtual_mailbox_maps" => &["smtpd", "virtual"],
        "virtual_uid_maps" | "virtual_gid_maps" => &["virtual"],
        "virtual_mailbox_domains"
        | "virtual_alias_domains"
        | "relay_domains"
        | "mydestination"
        | "transport_maps"
        | "relocated_maps" => &["smtpd", "trivial-rewrite", "qmgr"],
        "local_recipient_maps" | "alias_maps" => &["smtpd", "local"],
        _ => &["smtpd"],
    }
}

/// `hosts = localhost` of `mysql:` is a socket that a process in a chroot does not see.
fn sockets(config: &Config, known: &[Known], report: &mut Report) {
    let jail = config.string("queue_directory").unwrap_or_default();
    let mut told: Vec<String> = Vec::new();
    for table in known {
        let hosts = table.source.hosts();
        for (host, shown) in hosts.iter().enumerate() {
            let Some(socket) = table.source.socket(host) else {
                continue;
            };
            let inside = Path::new(&jail).join(socket.strip_prefix("/").unwrap_or(socket));
            let Some(service) = chrooted_user(config, table) else {
                continue;
            };
            if inside.exists() || told.contains(&table.shown()) {
                continue;
            }
            told.push(table.shown());
            report.add(outside(table, shown, socket, &service));
        }
    }
}

/// The first service of master.cf that opens the table in a chroot.
fn chrooted_user(config: &Config, table: &Known) -> Option<String> {
    let proxied = table.source.spec().starts_with("proxy:");
    let opens = |command: &str| match proxied {
        true => command == "proxymap",
        false => table
            .users
            .iter()
            .any(|user| programs(&user.parameter).contains(&command)),
    };
    let service = config
        .services()
        .iter()
        .find(|service| service.chroot && opens(&service.command))?;
    Some(format!("{} ({})", service.id(), service.command))
}

fn outside(table: &Known, shown: &str, socket: &Path, service: &str) -> Finding {
    let place = table.place("hosts");
    let finding = Finding::new(
        Severity::Warning,
        "socket-outside-chroot",
        place.clone(),
        format!(
            "host {shown} is the socket {}, and service {service} of master.cf runs in a chroot where it does not exist",
            socket.display()
        ),
    )
    .so("Postfix cannot reach the database from there and answers 451; `postmap -q`, and Postroom, which runs without a chroot, can");
    let tcp = match table.is_mysql() && shown.to_ascii_lowercase().starts_with("localhost") {
        true => "127.0.0.1",
        false => "127.0.0.1 (or the server's name)",
    };
    let finding = finding.remedy(format!(
        "write hosts = {tcp}, which is reached by TCP; or put `n` into the chroot column of the service; or name the table with proxy: in front"
    ));
    match (&table.file, place.line) {
        (Some(file), Some(line))
            if tcp == "127.0.0.1" && line_has(file.path(), line, "localhost") =>
        {
            finding.shell(format!(
                "sed -i '{line}s/localhost/127.0.0.1/' {}",
                quoted(file.path())
            ))
        }
        _ => finding,
    }
}
