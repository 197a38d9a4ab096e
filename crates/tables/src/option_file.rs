//! `option_file` and `option_group` of mysql_table(5): the `[client]` section of a my.cnf, read as
//! MariaDB's client library reads it for Postfix. What stands there wins over the table's `tls_*`.

use std::path::{Path, PathBuf};

use crate::error::TableError;
use crate::parameters::Parameters;

/// Read where the table names no file. The library would also read `.my.cnf` in `$HOME`; Postfix's daemons
/// have none.
const USUAL: &[&str] = &["/etc/my.cnf", "/etc/mysql/my.cnf"];
/// Sections that count always, beside `option_group`.
const GROUPS: &[&str] = &["client", "client-server", "client-mariadb"];
/// How deep `!include` goes.
const DEPTH: usize = 10;
/// Restrictions that we cannot keep: better no connection than one that breaks them.
const NOT_HONOURED: &[&str] = &[
    "ssl-crl",
    "ssl-crlpath",
    "ssl-fp",
    "ssl-fp-list",
    "ssl-fplist",
    "tls-fp",
    "tls-fplist",
    "ssl-passphrase",
    "tls-passphrase",
];

/// What we take from an option file. The password is left out: Postfix hands an empty one to the library,
/// which then counts. So is `database`: the table always has `dbname`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OptionFile {
    pub user: Option<String>,
    /// In place of the unix socket.
    pub host: Option<String>,
    pub socket: Option<String>,
    pub port: Option<u16>,
    pub charset: Option<String>,
    pub connect_timeout: Option<u64>,
    pub init_commands: Vec<String>,
    pub ssl_ca: Option<String>,
    pub ssl_capath: Option<String>,
    pub ssl_cert: Option<String>,
    pub ssl_key: Option<String>,
    pub ssl_cipher: Option<String>,
    pub ssl_verify: Option<bool>,
    pub ssl_enforce: bool,
    pub tls_version: Option<String>,
    /// A setting that we cannot honour, with the file's name.
    refused: Option<String>,
    /// What was read: when one of these changes, the table is to be opened anew.
    pub files: Vec<PathBuf>,
}

impl OptionFile {
    /// The files for this table. Like the client library, an unreadable one is passed over.
    pub fn for_table(parameters: &Parameters) -> Result<OptionFile, TableError> {
        let path = parameters.text("option_file", "", 0)?;
        let group = parameters.text("option_group", "client", 0)?;
        let mut found = OptionFile::default();
        let files = match path.as_str() {
            "" => USUAL,
            path => &[path][..],
        };
        for file in files {
            found.read(Path::new(file), &group, DEPTH);
        }
        match &found.refused {
            Some(refused) => Err(parameters.error(format!(
                "{refused} is not supported; remove it, or use ssl-ca and ssl-verify-server-cert = 1"
            ))),
            None => Ok(found),
        }
    }

    fn read(&mut self, path: &Path, group: &str, depth: usize) {
        let Ok(bytes) = std::fs::read(path) else {
            return;
        };
        self.files.push(path.to_owned());
        let mut ours = false;
        for line in String::from_utf8_lossy(&bytes).lines().map(str::trim) {
            if let Some(directive) = line.strip_prefix('!') {
                self.include(directive, group, depth);
            } else if let Some(section) = line.strip_prefix('[') {
                let name = section.split_once(']').map_or("", |(name, _)| name);
                ours = GROUPS.contains(&name) || !group.is_empty() && name == group;
            } else if ours
                && !line.starts_with(['#', ';'])
                && let Some((name, value)) = line.split_once('=')
            {
                self.take(path, name.trim_end(), &unquoted(value.trim_start()));
            }
        }
    }

    /// `!includedir` means the `my.cnf` in that folder, and no other file.
    fn include(&mut self, directive: &str, group: &str, depth: usize) {
        if depth == 0 {
            return;
        }
        if let Some(folder) = directive.strip_prefix("includedir") {
            self.read(&Path::new(folder.trim()).join("my.cnf"), group, depth - 1);
        } else if let Some(file) = directive.strip_prefix("include") {
            self.read(Path::new(file.trim()), group, depth - 1);
        }
    }

    fn take(&mut self, path: &Path, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        let name = name.replace('_', "-");
        let text = || Some(value.to_string());
        match name.as_str() {
            "user" => self.user = text(),
            "host" => self.host = text(),
            "socket" => self.socket = text(),
            "port" => self.port = value.parse().ok(),
            "default-character-set" => self.charset = text(),
            "connect-timeout" | "timeout" => self.connect_timeout = value.parse().ok(),
            "init-command" => self.init_commands.push(value.to_string()),
            "ssl-ca" => self.ssl_ca = text(),
            "ssl-capath" => self.ssl_capath = text(),
            "ssl-cert" => self.ssl_cert = text(),
            "ssl-key" => self.ssl_key = text(),
            "ssl-cipher" => self.ssl_cipher = text(),
            "ssl-verify-server-cert" => self.ssl_verify = Some(is_set(value)),
            "ssl-enforce" => self.ssl_enforce = is_set(value),
            "tls-version" => self.tls_version = text(),
            name if NOT_HONOURED.contains(&name) => {
                self.refused = Some(format!("{name} in {}", path.display()));
            }
            _ => {}
        }
    }
}

/// C's atoi, not zero: `on` and `true` are no numbers, hence not set.
fn is_set(value: &str) -> bool {
    let digits = value.trim_start_matches(['+', '-']);
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].bytes().any(|digit| digit != b'0')
}

/// One quote off each end, then the escapes. A `#` in a value starts no comment.
fn unquoted(value: &str) -> String {
    let value = match value.strip_prefix(['"', '\'']) {
        Some(inner) => inner.strip_suffix(['"', '\'']).unwrap_or(inner),
        None => value,
    };
    let mut text = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => text.push('\n'),
            Some('t') => text.push('\t'),
            Some('r') => text.push('\r'),
            Some('b') => text.push('\u{8}'),
            Some('s') => text.push(' '),
            Some(c @ ('\\' | '"' | '\'')) => text.push(c),
            Some(c) => text.extend(['\\', c]),
            None => text.push('\\'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)], group: &str) -> OptionFile {
        let dir = tempfile::tempdir().expect("temporary folder");
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("folder");
            let text = text.replace("DIR", &dir.path().display().to_string());
            std::fs::write(path, text).expect("file");
        }
        let mut found = OptionFile::default();
        found.read(&dir.path().join(files[0].0), group, DEPTH);
        found
    }

    /// Each line was run through Postfix 3.7's postmap with MariaDB's library 3.3.
    #[test]
    fn values() {
        for (line, user) in [
            ("=nopw # comment", Some("nopw # comment")),
            ("= \"a b\"", Some("a b")),
            ("='a b'", Some("a b")),
            ("=a b  ", Some("a b")),
            ("=\"a b\" # c", Some("a b\" # c")),
            ("=\"a b", Some("a b")),
            ("=h#h", Some("h#h")),
            ("=it's", Some("it's")),
            ("=\"it's\"", Some("it's")),
            ("=b\\\\s", Some("b\\s")),
            ("=a\\sb", Some("a b")),
            ("=tab\\tx", Some("tab\tx")),
            (" = nopw", Some("nopw")),
            ("=nopw\r", Some("nopw")),
            ("", None),
            (":nopw", None),
            ("=", None),
            ("=u\nuser=nopw", Some("nopw")),
            ("=u\nUSER=nopw", Some("u")),
            ("=u\n[other]\nuser=nopw", Some("u")),
            ("=u\n[client-server]\nuser=nopw", Some("nopw")),
            ("=u\n[client-mariadb]\nuser=nopw", Some("nopw")),
            ("=u\n[ client ]\nuser=nopw", Some("u")),
            ("=u\n[CLIENT]\nuser=nopw", Some("u")),
            (
                "=u\n[mysql]\n[client] # x\n  #user=a\n;user=a\n user=nopw",
                Some("nopw"),
            ),
        ] {
            let file = read(
                &[("my.cnf", &format!("user=out\n[client]\nuser{line}"))],
                "",
            );
            assert_eq!(file.user.as_deref(), user, "{line:?}");
        }
        let file = read(&[("my.cnf", "[client]\nuser=a\n[other]\nuser=b")], "other");
        assert_eq!(file.user.as_deref(), Some("b"));
    }

    #[test]
    fn includes() {
        let file = read(
            &[
                (
                    "main.cnf",
                    "!includedir DIR/sub/\n!include DIR/one.cnf\n!include DIR/none\n[client]\nport=3307",
                ),
                ("sub/my.cnf", "[client]\nuser=sub\nsocket=/s"),
                ("sub/other.cnf", "[client]\nuser=other"),
                ("one.cnf", "[client]\nuser=one\n!include DIR/main.cnf"),
            ],
            "client",
        );
        assert_eq!(
            (file.user.as_deref(), file.socket.as_deref(), file.port),
            (Some("one"), Some("/s"), Some(3307))
        );
    }

    #[test]
    fn tls() {
        let text = "[client]\nssl_ca=/ca\nssl-verify-server-cert=on\nssl-enforce=1\nssl-crl = /x\npassword=p";
        let file = read(&[("my.cnf", text)], "client");
        assert_eq!(file.ssl_ca.as_deref(), Some("/ca"));
        assert_eq!((file.ssl_verify, file.ssl_enforce), (Some(false), true));
        assert!(
            file.refused
                .is_some_and(|text| text.starts_with("ssl-crl in /"))
        );
    }
}
