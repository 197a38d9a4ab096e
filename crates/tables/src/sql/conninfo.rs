//! PostgreSQL's ways of saying everything about a connection in one text: `postgresql://…` in `hosts`, and
//! that or `name=value …` in `dbname` (libpq, 34.1.1).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::pool::{Login, Place};
use super::settings::os_user;
use super::tls::{Tls, Verify, Versions, When};

const SOCKET_FOLDER: &str = "/var/run/postgresql";

/// The parameters that count for us.
const KNOWN: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "connect_timeout",
    "options",
    "application_name",
    "fallback_application_name",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
];

/// Parameters that libpq knows and that make no difference here. Postfix sets `client_encoding` itself.
const WITHOUT_EFFECT: &[&str] = &[
    "client_encoding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslcompression",
    "sslsni",
    "krbsrvname",
    "gsslib",
    "load_balance_hosts",
];

/// Parameters that we cannot honour, with the values that ask for nothing.
const NOT_HONOURED: &[(&str, &[&str])] = &[
    ("gssencmode", &["prefer", "disable"]),
    ("target_session_attrs", &["any"]),
    ("replication", &["false", "off", "no", "0"]),
    ("passfile", &[]),
    ("requirepeer", &[]),
    ("service", &[]),
    ("sslcrl", &[]),
    ("sslcrldir", &[]),
    ("sslpassword", &[]),
];

/// What such a text says. Never shown: it may hold a password.
#[derive(Default)]
pub(super) struct ConnInfo(BTreeMap<String, String>);

/// Whether libpq takes this name of a database for more than that.
pub(super) fn is_conninfo(text: &str) -> bool {
    is_uri(text) || text.contains('=')
}

pub(super) fn is_uri(text: &str) -> bool {
    text.starts_with("postgresql://") || text.starts_with("postgres://")
}

impl ConnInfo {
    pub fn parse(text: &str) -> Result<ConnInfo, String> {
        let mut found = ConnInfo::default();
        match text.split_once("://") {
            Some((_, rest)) if is_uri(text) => found.read_uri(rest)?,
            _ => found.read_pairs(text)?,
        }
        Ok(found)
    }

    pub fn set(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.0.insert(name.to_string(), value.to_string());
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Checks the name and keeps the value.
    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        if KNOWN.contains(&name) {
            self.set(name, value);
            return Ok(());
        }
        if WITHOUT_EFFECT.contains(&name) {
            return Ok(());
        }
        match NOT_HONOURED.iter().find(|(known, _)| *known == name) {
            Some((_, harmless)) if value.is_empty() || harmless.contains(&value) => Ok(()),
            Some(_) => Err(format!("{name} is not supported here; remove it")),
            None => Err(format!("invalid connection option \"{name}\"")),
        }
    }

    /// What follows `postgresql://`. A list of hosts has been split at its commas before, as by Postfix.
    fn read_uri(&mut self, text: &str) -> Result<(), String> {
        let (text, options) = text.split_once('?').unwrap_or((text, ""));
        let end = text.find(['@', '/']).unwrap_or(text.len());
        let server = match text[end..].strip_prefix('@') {
            Some(server) => {
                let (user, password) = text[..end].split_once(':').unwrap_or((&text[..end], ""));
                self.set("user", &percent_decoded(user)?);
                self.set("password", &percent_decoded(password)?);
                server
            }
            None => text,
        };
        let (server, dbname) = server.split_once('/').unwrap_or((server, ""));
        let (host, port) = match server.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((address, rest)) => (address, rest.strip_prefix(':').unwrap_or(rest)),
            None => server.split_once(':').unwrap_or((server, "")),
        };
        self.set("host", &percent_decoded(host)?);
        self.set("port", &percent_decoded(port)?);
        self.set("dbname", &percent_decoded(dbname)?);
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| {
                format!("missing key/value separator \"=\" in URI query parameter: \"{option}\"")
            })?;
            if value.contains('=') {
                return Err(format!(
                    "extra key/value separator \"=\" in URI query parameter: \"{name}\"; write %3D in a value"
                ));
            }
            match (percent_decoded(name)?.as_str(), percent_decoded(value)?) {
                ("ssl", value) if value == "true" => self.set("sslmode", "require"),
                (name, value) => self.take(name, &value).map_err(|text| {
                    text.replace("invalid connection option", "invalid URI query parameter:")
                })?,
            }
        }
        Ok(())
    }

    /// `name = value name='va\'lue'`
    fn read_pairs(&mut self, text: &str) -> Result<(), String> {
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| c == '=' || c.is_ascii_whitespace())
                .unwrap_or(rest.len());
            let name = &rest[..end];
            let after = rest[end..].trim_start().strip_prefix('=').ok_or_else(|| {
                format!("missing \"=\" after \"{name}\" in connection info string")
            })?;
            let (value, after) = pair_value(after.trim_start())?;
            self.take(name, &value)?;
            rest = after.trim_start();
        }
        Ok(())
    }

    /// Where the server is.
    pub fn place(&self) -> Result<Place, String> {
        let port = self.port()?.unwrap_or(5432);
        let host = self.get("hostaddr").or(self.get("host"));
        let host = host.unwrap_or(SOCKET_FOLDER);
        Ok(match host.starts_with('/') {
            true => Place::Unix(PathBuf::from(host).join(format!(".s.PGSQL.{port}"))),
            false => Place::Tcp(host.to_string(), port),
        })
    }

    pub fn port(&self) -> Result<Option<u16>, String> {
        let Some(text) = self.get("port") else {
            return Ok(None);
        };
        match text.parse() {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(format!("invalid port number: \"{text}\"")),
        }
    }

    /// Whom to be and how, with the character set of the table.
    pub fn login(&self, charset: &str) -> Result<Login, String> {
        let text = |name: &str| self.get(name).unwrap_or_default().to_string();
        let mut login = Login {
            user: text("user"),
            password: text("password"),
            dbname: text("dbname"),
            charset: charset.to_string(),
            tls: self.tls()?,
            ..Login::default()
        };
        if login.user.is_empty() {
            login.user = os_user();
        }
        let application = self.get("application_name");
        let application = application.or(self.get("fallback_application_name"));
        for (name, value) in [
            ("application_name", application),
            ("options", self.get("options")),
        ] {
            if let Some(value) = value {
                login.session.push((name.to_string(), value.to_string()));
            }
        }
        if let Some(text) = self.get("connect_timeout") {
            let seconds: i32 = text.trim().parse().map_err(|_| {
                format!(
                    "invalid integer value \"{text}\" for connection option \"connect_timeout\""
                )
            })?;
            // libpq gives at least two seconds; zero and less is no limit.
            login.connect_timeout = u64::try_from(seconds)
                .ok()
                .filter(|&seconds| seconds > 0)
                .map(|seconds| Duration::from_secs(seconds.max(2)));
        }
        Ok(login)
    }

    fn tls(&self) -> Result<Tls, String> {
        let mode = self.get("sslmode").unwrap_or("prefer");
        let (when, mut verify) = match mode {
            "disable" => (When::Never, Verify::Nothing),
            "allow" => (When::Demanded, Verify::Nothing),
            "prefer" => (When::Offered, Verify::Nothing),
            "require" => (When::Always, Verify::Nothing),
            "verify-ca" => (When::Always, Verify::Chain),
            "verify-full" => (When::Always, Verify::Name),
            _ => return Err(format!("invalid sslmode value: \"{mode}\"")),
        };
        let system = self.get("sslrootcert") == Some("system");
        let ca_file = self.file("sslrootcert", "root.crt");
        let exists = |file: &String| Path::new(file).exists();
        let ca_file = match verify {
            _ if system && verify == Verify::Name => None,
            _ if system => {
                return Err(format!(
                    "weak sslmode \"{mode}\" may not be used with sslrootcert=system (use \"verify-full\")"
                ));
            }
            Verify::Nothing => ca_file.filter(exists),
            _ => match ca_file.filter(exists) {
                Some(file) => Some(file),
                None => {
                    let file = self.get("sslrootcert").unwrap_or("~/.postgresql/root.crt");
                    return Err(format!(
                        "root certificate file \"{file}\" does not exist; provide the file (sslrootcert=), or change sslmode to disable server certificate verification"
                    ));
                }
            },
        };
        if ca_file.is_some() && verify == Verify::Nothing {
            verify = Verify::Chain;
        }
        let cert_file = self.file("sslcert", "postgresql.crt").filter(exists);
        let key_file = match cert_file {
            Some(_) => self.file("sslkey", "postgresql.key"),
            None => None,
        };
        Ok(Tls {
            when,
            verify,
            ca_file,
            cert_file,
            key_file,
            versions: self.versions()?,
            binding_required: match self.get("channel_binding") {
                None | Some("prefer" | "disable") => false,
                Some("require") => true,
                Some(other) => return Err(format!("invalid channel_binding value: \"{other}\"")),
            },
            name: self.get("host").map(str::to_string),
            ..Tls::default()
        })
    }

    /// The file that is named, or the one in the user's home.
    fn file(&self, name: &str, usual: &str) -> Option<String> {
        let in_home = || {
            let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
            let file = user.dir.join(".postgresql").join(usual);
            file.exists().then(|| file.to_string_lossy().into_owned())
        };
        self.get(name).map(str::to_string).or_else(in_home)
    }

    fn versions(&self) -> Result<Versions, String> {
        let number = |name: &str, unset: u8| match self.get(name) {
            None => Ok(unset),
            Some(text) => match text.to_ascii_lowercase().as_str() {
                "tlsv1" | "tlsv1.1" => Ok(1),
                "tlsv1.2" => Ok(2),
                "tlsv1.3" => Ok(3),
                _ => Err(format!("invalid {name} value: \"{text}\"")),
            },
        };
        let lowest = number("ssl_min_protocol_version", 2)?;
        let highest = number("ssl_max_protocol_version", 3)?;
        Ok(Versions {
            tls12: lowest <= 2 && highest >= 2,
            tls13: lowest <= 3 && highest >= 3,
        })
    }
}

/// A value and what follows it.
fn pair_value(text: &str) -> Result<(String, &str), String> {
    let quoted = text.strip_prefix('\'');
    let text = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted.is_some() => return Ok((value, &text[at + 1..])),
            c if quoted.is_none() && c.is_ascii_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    match quoted {
        Some(_) => Err("unterminated quoted string in connection info string".to_string()),
        None => Ok((value, "")),
    }
}

/// The error does not show the text: it may be a password.
fn percent_decoded(text: &str) -> Result<String, String> {
    let invalid = || "invalid percent-encoded token in the URI; write % as %25".to_string();
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2).ok_or_else(invalid)?;
        let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        match u8::from_str_radix(digits, 16) {
            Ok(0) | Err(_) => return Err(invalid()),
            Ok(value) => bytes.push(value),
        }
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Result<String, String> {
        let info = ConnInfo::parse(text)?;
        let place = info.place()?.shown();
        let login = info.login("")?;
        let (user, password, dbname) = (&login.user, &login.password, &login.dbname);
        Ok(format!(
            "{user}:{password}@{place}/{dbname} {:?} {:?}",
            login.tls.when, login.tls.verify
        ))
    }

    #[test]
    fn texts() {
        for (text, expected) in [
            (
                "postgresql://u:p%40x@h:99/db",
                "u:p@x@h:99/db Offered Nothing",
            ),
            (
                "postgres://u@[::1]/db?sslmode=require",
                "u:@::1:5432/db Always Nothing",
            ),
            (
                "postgresql:///db?host=/run/pg&port=7&user=u&password=p&ssl=true",
                "u:p@/run/pg/.s.PGSQL.7/db Always Nothing",
            ),
            (
                "postgresql://u@%2Frun%2Fpg/db?sslmode=disable&keepalives=1",
                "u:@/run/pg/.s.PGSQL.5432/db Never Nothing",
            ),
            (
                "host=h user = 'o\\'b' password= p\\ w dbname=db sslmode=allow",
                "o'b:p w@h:5432/db Demanded Nothing",
            ),
            (
                "user=u dbname=db host=n hostaddr=10.0.0.1",
                "u:@10.0.0.1:5432/db Offered Nothing",
            ),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_name_the_parameter_and_never_the_password() {
        for (text, expected) in [
            (
                "postgresql://u:secret@h/db?bogus=1",
                "invalid URI query parameter: \"bogus\"",
            ),
            (
                "postgresql://u:secret@h/db?sslmode=bogus",
                "invalid sslmode value: \"bogus\"",
            ),
            (
                "postgresql://u:secret%zz@h/db",
                "invalid percent-encoded token in the URI; write % as %25",
            ),
            ("postgresql://u:secret@h:x/db", "invalid port number: \"x\""),
            (
                "postgresql://u:secret@h/db?sslcrl=/x",
                "sslcrl is not supported here; remove it",
            ),
            (
                "mail sslmode=require",
                "missing \"=\" after \"mail\" in connection info string",
            ),
            (
                "password=secret dbname='x",
                "unterminated quoted string in connection info string",
            ),
            (
                "password=secret connect_timeout=x",
                "invalid integer value \"x\" for connection option \"connect_timeout\"",
            ),
            (
                "password=secret sslmode=verify-ca sslrootcert=/nonexistent",
                "root certificate file \"/nonexistent\" does not exist; provide the file (sslrootcert=), or change sslmode to disable server certificate verification",
            ),
        ] {
            assert_eq!(shown(text), Err(expected.to_string()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(user in "[a-zA-Z0-9@:/?#%é ]{1,12}", password in "[a-zA-Z0-9@:/?#%é ]{1,12}") {
            let encoded = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02x}")).collect() };
            let uri = format!("postgresql://{}:{}@h/db", encoded(&user), encoded(&password));
            let login = ConnInfo::parse(&uri).expect("a URI").login("").expect("a login");
            prop_assert_eq!((login.user, login.password), (user, password));
        }

        #[test]
        fn junk_is_no_panic(text: String) {
            let _ = shown(&text);
            let _ = shown(&format!("postgresql://{text}"));
        }
    }
}
