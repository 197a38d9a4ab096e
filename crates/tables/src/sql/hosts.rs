//! The `hosts` parameter: `host`, `host:port`, `inet:host:port`, `unix:path`, and for PostgreSQL `postgresql://…`.

use std::path::PathBuf;

use super::Engine;
use super::pool::{Host, Login, Place};

const MYSQL_SOCKET: &str = "/run/mysqld/mysqld.sock";

/// What stands for `localhost` and a missing port, from the option file where there is one.
pub(crate) struct Defaults {
    pub socket: Option<String>,
    pub port: Option<u16>,
}

/// Reads one element of `hosts`.
pub(crate) fn parse(text: &str, engine: Engine, defaults: &Defaults) -> Result<Host, String> {
    if engine == Engine::PgSql
        && (text.starts_with("postgresql://") || text.starts_with("postgres://"))
    {
        return uri(text);
    }
    let host = |place, shown: &str| Host {
        shown: shown.to_string(),
        place,
        login: None,
    };
    let folder = (engine == Engine::PgSql && text.starts_with('/')).then_some(text);
    if let Some(path) = text.strip_prefix("unix:").or(folder) {
        let place = match engine {
            // libpq takes the folder.
            Engine::PgSql => PathBuf::from(path).join(".s.PGSQL.5432"),
            _ => PathBuf::from(path),
        };
        let shown = if engine == Engine::PgSql { text } else { path };
        return Ok(host(Place::Unix(place), shown));
    }
    let inet = text.strip_prefix("inet:").unwrap_or(text);
    let (name, port) = split_port(inet);
    if engine == Engine::MySql && name.eq_ignore_ascii_case("localhost") {
        let socket = defaults.socket.as_deref().unwrap_or(MYSQL_SOCKET);
        return Ok(host(Place::Unix(socket.into()), inet));
    }
    let usual = if engine == Engine::PgSql { 5432 } else { 3306 };
    let port = match port {
        None => defaults.port.unwrap_or(usual),
        Some(port) => port_number(port).ok_or_else(|| format!("unknown service: {port}/tcp"))?,
    };
    Ok(host(Place::Tcp(name.to_string(), port), inet))
}

fn port_number(text: &str) -> Option<u16> {
    match text {
        "mysql" => Some(3306),
        "postgresql" => Some(5432),
        number => number.parse().ok(),
    }
}

/// `host:port`, `[v6]:port`, `[v6]`; a path or a bare IPv6 address has no port.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, rest.strip_prefix(':'));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

/// The table's `user`, `password` and `dbname` do not count then, as in Postfix.
/// `postgresql://user:password@host:port/dbname?host=/socket/folder` (libpq, 34.1.1.2).
fn uri(text: &str) -> Result<Host, String> {
    let (_, rest) = text.split_once("://").unwrap_or(("", text));
    let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, server) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let mut login = Login::default();
    let set = |slot: &mut String, value: &str| {
        if !value.is_empty() {
            *slot = percent_decoded(value);
        }
    };
    set(&mut login.user, user);
    set(&mut login.password, password);
    set(&mut login.dbname, dbname);
    let (name, port) = split_port(server);
    let (mut name, mut port) = (percent_decoded(name), port.unwrap_or("5432").to_string());
    for option in options.split('&') {
        let (option, value) = option.split_once('=').unwrap_or((option, ""));
        match option {
            "host" => set(&mut name, value),
            "port" => set(&mut port, value),
            "user" => set(&mut login.user, value),
            "password" => set(&mut login.password, value),
            "dbname" => set(&mut login.dbname, value),
            _ => {}
        }
    }
    let port =
        port_number(&port).ok_or_else(|| format!("invalid port number in {}", shown_uri(text)))?;
    let place = match name.as_str() {
        "" => Place::Unix(PathBuf::from(format!(
            "/var/run/postgresql/.s.PGSQL.{port}"
        ))),
        path if path.starts_with('/') => {
            Place::Unix(PathBuf::from(format!("{path}/.s.PGSQL.{port}")))
        }
        _ => Place::Tcp(name, port),
    };
    Ok(Host {
        shown: shown_uri(text),
        place,
        login: Some(login),
    })
}

/// The URI without what may be secret.
fn shown_uri(text: &str) -> String {
    let plain = text.split('?').next().unwrap_or(text);
    match (plain.split_once("://"), plain.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => plain.to_string(),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let tcp = |host: &str, port| Place::Tcp(host.to_string(), port);
        let unix = |path: &str| Place::Unix(path.into());
        let none = Defaults {
            socket: None,
            port: None,
        };
        for (engine, text, place) in [
            (Engine::MySql, "127.0.0.1", tcp("127.0.0.1", 3306)),
            (
                Engine::MySql,
                "inet:db.example:3307",
                tcp("db.example", 3307),
            ),
            (Engine::MySql, "[::1]:3307", tcp("::1", 3307)),
            (Engine::MySql, "::1", tcp("::1", 3306)),
            (Engine::MySql, "localhost", unix(MYSQL_SOCKET)),
            (Engine::MySql, "LOCALHOST:3306", unix(MYSQL_SOCKET)),
            (Engine::MySql, "unix:/run/db.sock", unix("/run/db.sock")),
            (Engine::PgSql, "localhost", tcp("localhost", 5432)),
            (Engine::PgSql, "unix:/run/pg", unix("/run/pg/.s.PGSQL.5432")),
            (Engine::PgSql, "postgresql://u:p%40x@h:99/db", tcp("h", 99)),
            (
                Engine::PgSql,
                "postgresql:///db?host=/run/pg&port=7",
                unix("/run/pg/.s.PGSQL.7"),
            ),
        ] {
            let host = parse(text, engine, &none).expect("a host");
            assert!(host.place == place, "{text}");
            assert!(!host.shown.contains("p%40x"), "{}", host.shown);
        }
        assert!(parse("h:nosuch", Engine::MySql, &none).is_err());
        let uri = parse("postgresql://u:p%40x@h/db", Engine::PgSql, &none).expect("a host");
        let login = uri.login.expect("a login");
        assert_eq!(
            (
                login.user.as_str(),
                login.password.as_str(),
                login.dbname.as_str()
            ),
            ("u", "p@x", "db")
        );
    }
}
