//! The demo's folder: configuration, database, queue, log and mail, all in one place.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use delivery::mailbox::rights::Owner;
use rusqlite::Connection;
use socket2::{Domain, Socket, Type};

/// `myhostname` of the demo.
pub const HOST: &str = "mail.example.org";

/// First line of the demo's main.cf, by which its folder is known again.
const MARK: &str = "# Written by `postroom demo`";
const DATABASE: &str = "mail.sqlite";

/// Table file, its query. The names are those that the files have in main.cf below.
const TABLES: [(&str, &str); 4] = [
    (
        "domains.cf",
        "SELECT 1 FROM virtual_domains WHERE name='%s'",
    ),
    ("users.cf", "SELECT 1 FROM virtual_users WHERE email='%s'"),
    (
        "aliases.cf",
        "SELECT destination FROM virtual_aliases WHERE source='%s'",
    ),
    (
        "email2email.cf",
        "SELECT email FROM virtual_users WHERE email='%s'",
    ),
];

const SCHEMA: &str = "
CREATE TABLE virtual_domains (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(80) NOT NULL);
CREATE TABLE virtual_users (id INTEGER NOT NULL PRIMARY KEY,
  domain_id INTEGER NOT NULL REFERENCES virtual_domains (id) ON DELETE CASCADE,
  email VARCHAR(120) NOT NULL, password VARCHAR(150) NOT NULL);
CREATE TABLE virtual_aliases (id INTEGER NOT NULL PRIMARY KEY,
  domain_id INTEGER NOT NULL REFERENCES virtual_domains (id) ON DELETE CASCADE,
  source VARCHAR(120) NOT NULL, destination VARCHAR(120) NOT NULL);
CREATE UNIQUE INDEX virtual_domains_name ON virtual_domains (name);
CREATE UNIQUE INDEX virtual_users_email ON virtual_users (email);
CREATE INDEX virtual_aliases_source ON virtual_aliases (source);
INSERT INTO virtual_domains (id, name) VALUES (1, 'example.org'), (2, 'example.net');
INSERT INTO virtual_users (domain_id, email, password) VALUES
  (1, 'john@example.org', '{PLAIN}demo'), (1, 'jane@example.org', '{PLAIN}demo'),
  (1, 'jim@example.org', '{PLAIN}demo'),
  (2, 'carol@example.net', '{PLAIN}demo'), (2, 'dave@example.net', '{PLAIN}demo');
INSERT INTO virtual_aliases (domain_id, source, destination) VALUES
  (1, 'team@example.org', 'john@example.org'), (1, 'team@example.org', 'jane@example.org'),
  (1, 'team@example.org', 'jim@example.org'),
  (2, '@example.net', 'carol@example.net');
";

/// A folder that is ready to be served from.
pub struct Folder {
    root: PathBuf,
    port: u16,
    /// Keeps the port from other programs until the server listens there.
    _reserved: Socket,
}

/// A message file in a Maildir.
pub struct Copy {
    /// `john@example.org`.
    pub mailbox: String,
    /// The file, relative to the demo's folder.
    pub file: PathBuf,
}

/// What is in the database.
pub struct Contents {
    pub domains: Vec<String>,
    pub users: Vec<String>,
    /// Source and destinations, in the order of the rows.
    pub aliases: Vec<(String, Vec<String>)>,
}

impl Folder {
    /// Makes a fresh folder, or fills or takes up the one that is given. Errors are sentences.
    pub fn prepare(dir: Option<&Path>) -> Result<Folder, String> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => fresh_folder(&std::env::temp_dir())?,
        };
        let at = |error: io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(&dir).map_err(at)?;
        let root = dir.canonicalize().map_err(at)?;
        check_name(&root)?;
        check_contents(&root)?;
        let (port, reserved) = free_port().map_err(at)?;
        let folder = Folder {
            root,
            port,
            _reserved: reserved,
        };
        folder.fill()?;
        Ok(folder)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> PathBuf {
        self.root.join("mail.log")
    }

    /// Reads the database.
    pub fn contents(&self) -> Result<Contents, String> {
        let read = || -> rusqlite::Result<Contents> {
            let database = Connection::open(self.root.join(DATABASE))?;
            let column = |sql: &str| -> rusqlite::Result<Vec<String>> {
                let mut statement = database.prepare(sql)?;
                let rows = statement.query_map([], |row| row.get(0))?;
                rows.collect()
            };
            let sources =
                column("SELECT source FROM virtual_aliases GROUP BY source ORDER BY MIN(id)")?;
            let mut aliases = Vec::new();
            for source in sources {
                let mut statement = database.prepare(
                    "SELECT destination FROM virtual_aliases WHERE source = ? ORDER BY id",
                )?;
                let rows = statement.query_map([&source], |row| row.get(0))?;
                let destinations = rows.collect::<rusqlite::Result<_>>()?;
                aliases.push((source, destinations));
            }
            Ok(Contents {
                domains: column("SELECT name FROM virtual_domains ORDER BY id")?,
                users: column("SELECT email FROM virtual_users ORDER BY id")?,
                aliases,
            })
        };
        read().map_err(|error| format!("{}: {error}", self.root.join(DATABASE).display()))
    }

    /// The copies of the message that contains `token`.
    pub fn find(&self, token: &str) -> io::Result<Vec<Copy>> {
        let mut copies = Vec::new();
        let mail = self.root.join("mail");
        for domain in names_in(&mail)? {
            for user in names_in(&mail.join(&domain))? {
                let new = mail.join(&domain).join(&user).join("Maildir/new");
                for name in names_in(&new)? {
                    let file = new.join(&name);
                    // A mail reader may have moved it away meanwhile.
                    let text = fs::read(&file).unwrap_or_default();
                    if text
                        .windows(token.len())
                        .any(|part| part == token.as_bytes())
                    {
                        copies.push(Copy {
                            mailbox: format!("{user}@{domain}"),
                            file: file.strip_prefix(&self.root).unwrap_or(&file).to_owned(),
                        });
                    }
                }
            }
        }
        Ok(copies)
    }

    fn fill(&self) -> Result<(), String> {
        let owner = self.make_mail_folder()?;
        let database = self.root.join(DATABASE);
        if !database.exists() {
            // Under another name first: a demo that is cut off leaves no half database.
            let unfinished = self.root.join("mail.sqlite.new");
            let make =
                || -> rusqlite::Result<()> { Connection::open(&unfinished)?.execute_batch(SCHEMA) };
            let _ = fs::remove_file(&unfinished);
            make().map_err(|error| format!("{}: {error}", unfinished.display()))?;
            fs::rename(&unfinished, &database)
                .map_err(|error| format!("{}: {error}", database.display()))?;
        }
        // main.cf first: it is what marks the folder as a demo's.
        self.write("main.cf", &self.main_cf(owner))?;
        self.write("master.cf", &self.master_cf())?;
        for (name, query) in TABLES {
            let text = format!("dbpath = {}\nquery = {query}\n", database.display());
            self.write(name, &text)?;
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.root.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn main_cf(&self, owner: Owner) -> String {
        let dir = self.root.display();
        let Owner { uid, gid } = owner;
        format!(
            "{MARK}, and written anew each time it starts here.
# `postroom serve -c {dir}` runs the same server and leaves this file alone.
compatibility_level = 3.6
myhostname = {HOST}
mydestination =
local_recipient_maps =
mynetworks =
inet_protocols = ipv4
recipient_delimiter = +

# The four table files of the database.
virtual_mailbox_domains = sqlite:{dir}/domains.cf
virtual_mailbox_maps = sqlite:{dir}/users.cf
virtual_alias_domains =
virtual_alias_maps = sqlite:{dir}/aliases.cf, sqlite:{dir}/email2email.cf

# Delivery to Maildirs. users.cf answers 1 for every mailbox; the path comes from the address.
virtual_transport = virtual
virtual_mailbox_base = {dir}/mail
postroom_virtual_mailbox_path = %d/%u/Maildir/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = {}

# A demo sends nothing to other machines, and asks no name server.
smtpd_relay_restrictions = reject_unauth_destination
default_transport = error:5.7.1 the demo sends no mail to other machines
relay_transport = $default_transport
smtpd_peername_lookup = no

queue_directory = {dir}/queue
data_directory = {dir}/queue
maillog_file = {dir}/mail.log
maillog_file_prefixes = {dir}
",
            uid.min(100)
        )
    }

    fn master_cf(&self) -> String {
        format!(
            "{MARK}. The port is the first field.
127.0.0.1:{} inet n - n - - smtpd
virtual unix - n n - - virtual
",
            self.port
        )
    }

    /// Makes the folder of the mailboxes, and says whose they are to be: the user's who runs the demo, or
    /// the user nobody's when that is root. Where nobody cannot come in, root's own, so that a
    /// demo works in any folder.
    fn make_mail_folder(&self) -> Result<Owner, String> {
        let mail = self.root.join("mail");
        let at = |error: io::Error| format!("{}: {error}", mail.display());
        fs::create_dir_all(&mail).map_err(at)?;
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        if !uid.is_root() {
            return Ok(Owner {
                uid: uid.as_raw(),
                gid: gid.as_raw(),
            });
        }
        let nobody = Owner {
            uid: 65_534,
            gid: 65_534,
        };
        // virtual(8) takes no group 0.
        let root = Owner { uid: 0, gid: 1 };
        fs::set_permissions(&mail, fs::Permissions::from_mode(0o755)).map_err(at)?;
        let given = chown(&mail, Some(nobody.uid), Some(nobody.gid)).is_ok();
        if given && can_write(nobody, &mail) {
            return Ok(nobody);
        }
        chown(&mail, Some(root.uid), Some(root.gid)).map_err(at)?;
        Ok(root)
    }
}

fn can_write(owner: Owner, folder: &Path) -> bool {
    let Ok(_rights) = owner.borrow() else {
        return false;
    };
    let probe = folder.join(".probe");
    fs::write(&probe, "").is_ok() && fs::remove_file(&probe).is_ok()
}

/// `postroom-demo`, `postroom-demo-2`, …: the first that does not exist yet.
fn fresh_folder(parent: &Path) -> Result<PathBuf, String> {
    for number in 1..10_000 {
        let name = match number {
            1 => "postroom-demo".to_owned(),
            number => format!("postroom-demo-{number}"),
        };
        let dir = parent.join(name);
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(format!(
                    "{}: {error}; name a folder with --dir",
                    dir.display()
                ));
            }
        }
    }
    Err(format!(
        "{}: too many folders of earlier demos; remove some, or name one with --dir",
        parent.display()
    ))
}

/// The path stands in lists of main.cf.
fn check_name(root: &Path) -> Result<(), String> {
    let name = root
        .to_str()
        .ok_or_else(|| format!("{}: not UTF-8; take another folder", root.display()))?;
    match name
        .chars()
        .find(|c| c.is_whitespace() || ",$#{}'\"%".contains(*c))
    {
        Some(c) => Err(format!(
            "{name}: {c:?} in a path does not work in main.cf; take another folder"
        )),
        None => Ok(()),
    }
}

/// Nothing of anybody else's is written over.
fn check_contents(root: &Path) -> Result<(), String> {
    let main_cf = fs::read_to_string(root.join("main.cf")).unwrap_or_default();
    if main_cf.starts_with(MARK) {
        return Ok(());
    }
    let names = names_in(root).map_err(|error| format!("{}: {error}", root.display()))?;
    match names
        .iter()
        .find(|name| !["mail", DATABASE, "mail.sqlite.new"].contains(&name.as_str()))
    {
        None => Ok(()),
        Some(name) => Err(format!(
            "{} has other things in it ({name}); give --dir an empty folder, one that does not exist yet, or that of an earlier demo",
            root.display()
        )),
    }
}

/// The entries of a folder, sorted; none where there is no such folder.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// 2525 where it is free, or any other port; bound, so that nobody else takes it.
fn free_port() -> io::Result<(u16, Socket)> {
    let bind = |port: u16| -> io::Result<(u16, Socket)> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        // Behind bind: others cannot have the port, but the server, which sets this too, can.
        socket.set_reuse_address(true)?;
        let address = socket.local_addr()?.as_socket();
        Ok((address.map_or(port, |address| address.port()), socket))
    };
    bind(2525).or_else(|_| bind(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_main_cf_cannot_hold_are_refused() {
        for (path, refused) in [
            ("/tmp/demo-1", false),
            ("/tmp/Zoë", false),
            ("/tmp/my demo", true),
            ("/tmp/a,b", true),
            ("/tmp/$x", true),
        ] {
            assert_eq!(check_name(Path::new(path)).is_err(), refused, "{path}");
        }
    }
}
