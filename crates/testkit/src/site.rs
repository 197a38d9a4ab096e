//! A mail system's folder: configuration, spool, data and mailboxes, ready for Postfix and for Postroom alike.

use std::path::{Path, PathBuf};

use crate::tempdir::{own_ids, set_mode, write_aged};
use crate::{Account, TempDir, account, free_port, vmail};

/// `conf/` (main.cf, master.cf, table files), `spool/`, `data/`, `mail/` in one temporary folder.
///
/// In every text given here these placeholders are replaced: `@DIR@` the folder, `@CONF@` its `conf`, `@MAIL@` its
/// `mail` (owned by the account of `@VMAIL_UID@`, `@VMAIL_GID@`, `@VMAIL@` = `user:group`), `@SMTP_PORT@` a free port.
#[derive(Debug)]
pub struct Site {
    pub smtp_port: u16,
    pub vmail: Account,
    dir: TempDir,
}

impl Site {
    /// [`BASE_MAIN`] without what `main_cf` sets, followed by `main_cf`; the services of [`MASTER`] followed by `master_cf`,
    /// and `files` in `conf/`.
    pub fn new(main_cf: &str, master_cf: &str, files: &[(&str, &str)]) -> Site {
        Site::bare(
            &format!("{}{main_cf}\n", without(BASE_MAIN, main_cf)),
            &format!("{MASTER}{master_cf}\n"),
            files,
        )
    }

    /// Exactly these texts.
    pub fn bare(main_cf: &str, master_cf: &str, files: &[(&str, &str)]) -> Site {
        let dir = TempDir::new();
        let site = Site {
            smtp_port: free_port(),
            vmail: vmail(),
            dir,
        };
        site.make_folders();
        site.write("main.cf", main_cf);
        site.write("master.cf", master_cf);
        for (name, text) in files {
            site.write(name, text);
        }
        site
    }

    /// Writes a file of `conf/`, placeholders replaced, dated one hour back.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.conf().join(name);
        write_aged(&path, self.expand(text).as_bytes());
        path
    }

    /// `text` with the placeholders replaced.
    pub fn expand(&self, text: &str) -> String {
        let Account {
            name,
            group,
            uid,
            gid,
        } = &self.vmail;
        let dir = self.dir.str();
        text.replace("@DIR@", dir)
            .replace("@CONF@", &format!("{dir}/conf"))
            .replace("@MAIL@", &format!("{dir}/mail"))
            .replace("@VMAIL_UID@", &uid.to_string())
            .replace("@VMAIL_GID@", &gid.to_string())
            .replace("@VMAIL@", &format!("{name}:{group}"))
            .replace("@SMTP_PORT@", &self.smtp_port.to_string())
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn conf(&self) -> PathBuf {
        self.dir.join("conf")
    }

    pub fn spool(&self) -> PathBuf {
        self.dir.join("spool")
    }

    pub fn mail(&self) -> PathBuf {
        self.dir.join("mail")
    }

    /// The text of `maillog_file`.
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.dir.join("maillog"))
    }

    /// All files below `mail/`, relative, sorted; dovecot's own index files left out.
    pub fn mailbox_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        walk(&self.mail(), &mut files);
        let mut files: Vec<PathBuf> = files
            .iter()
            .filter(|file| !file.to_string_lossy().contains("/dovecot"))
            .filter_map(|file| Some(file.strip_prefix(self.mail()).ok()?.to_owned()))
            .collect();
        files.sort();
        files
    }

    /// The messages in the `new` and `cur` folders of the Maildir at `mail/PATH`, in the order of their names.
    pub fn maildir(&self, path: &str) -> Vec<String> {
        let mut files = Vec::new();
        walk(&self.mail().join(path).join("cur"), &mut files);
        walk(&self.mail().join(path).join("new"), &mut files);
        files.sort();
        files
            .iter()
            .map(|file| crate::process::read_lossy(file))
            .collect()
    }

    /// The queue's folders with the owners and modes that Postfix insists on.
    fn make_folders(&self) {
        let dir = &self.dir;
        let me = Account::current();
        dir.folder("conf", 0o755, &me);
        dir.folder("spool", 0o755, &me);
        dir.folder("mail", 0o755, &self.vmail);
        let Some(postfix) = postfix_account() else {
            dir.folder("data", 0o700, &me);
            return;
        };
        for name in PRIVATE_FOLDERS {
            let folder = dir.folder(&format!("spool/{name}"), 0o700, &postfix);
            own_ids(&folder, postfix.uid, 0);
        }
        let drop_group = nix::unistd::Group::from_name("postdrop").ok().flatten();
        let drop_group = drop_group.map_or(postfix.gid, |group| group.gid.as_raw());
        for (name, mode) in [("maildrop", 0o730), ("public", 0o710)] {
            let folder = dir.folder(&format!("spool/{name}"), mode, &postfix);
            own_ids(&folder, postfix.uid, drop_group);
            set_mode(&folder, mode);
        }
        dir.folder("spool/pid", 0o755, &me);
        dir.folder("data", 0o700, &postfix);
    }
}

/// Postfix' own account; None when it is not installed or we may not hand files to it.
fn postfix_account() -> Option<Account> {
    let known = nix::unistd::User::from_name("postfix")
        .ok()
        .flatten()
        .is_some();
    (known && crate::account::is_root()).then(|| account("postfix"))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), files),
            _ => files.push(entry.path()),
        }
    }
}

const PRIVATE_FOLDERS: [&str; 11] = [
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved",
    "trace", "private",
];

/// `base` (one line a setting) without the settings that `changes` has: Postfix warns of a setting made twice, and its
/// postlogd, which logs to itself, hangs for ever when it starts with such a warning while its own socket is full.
pub fn without(base: &str, changes: &str) -> String {
    let name = |line: &str| line.split_once('=').map(|(name, _)| name.trim().to_owned());
    let changed: Vec<String> = changes.lines().filter_map(name).collect();
    let kept = base
        .lines()
        .filter(|line| name(line).is_none_or(|name| !changed.contains(&name)));
    kept.map(|line| format!("{line}\n")).collect()
}

/// The main.cf that [`Site::new`] begins with: no DNS, no local delivery set up, the client's own network may relay.
pub const BASE_MAIN: &str = "\
compatibility_level = 3.6
myhostname = mail.host.example
mydomain = host.example
myorigin = $mydomain
mydestination = $myhostname, localhost
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
queue_directory = @DIR@/spool
data_directory = @DIR@/data
maillog_file = @DIR@/maillog
maillog_file_prefixes = /
alias_maps =
alias_database =
local_recipient_maps = inline:{root=x}
recipient_delimiter = +
smtpd_peername_lookup = no
disable_dns_lookups = yes
notify_classes =
virtual_mailbox_base = @MAIL@
virtual_uid_maps = static:@VMAIL_UID@
virtual_gid_maps = static:@VMAIL_GID@
virtual_minimum_uid = 1
";

/// The services of [`Site::new`]: Postfix' own, smtpd on 127.0.0.1:`@SMTP_PORT@`.
pub const MASTER: &str = "\
127.0.0.1:@SMTP_PORT@ inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";
