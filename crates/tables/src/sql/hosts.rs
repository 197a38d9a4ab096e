//! The `hosts` parameter: `host`, `host:port`, `inet:host:port`, `unix:path`, and for PostgreSQL `postgresql://…`.

use std::path::PathBuf;

use super::Engine;
use super::conninfo::{self, ConnInfo};
use super::pool::{Host, Place};

const MYSQL_SOCKET: &str = "/run/mysqld/mysqld.sock";

/// What stands for `localhost` and a missing port, from the option file or from PostgreSQL's `dbname`.
#[derive(Default)]
pub(crate) struct Defaults {
    /// Takes the place of every unix socket, as in MariaDB's library.
    pub host: Option<String>,
    pub socket: Option<String>,
    pub port: Option<u16>,
    /// The table's `encoding`, which counts for URIs too.
    pub charset: String,
}

/// Reads one element of `hosts`.
pub(crate) fn parse(text: &str, engine: Engine, defaults: &Defaults) -> Result<Host, String> {
    if engine == Engine::PgSql && conninfo::is_uri(text) {
        return uri(text, &defaults.charset);
    }
    let host = |place, shown: &str| Host {
        shown: shown.to_string(),
        place,
        login: None,
    };
    let folder = (engine == Engine::PgSql && text.starts_with('/')).then_some(text);
    if let Some(path) = text.strip_prefix("unix:").or(folder) {
        if let Some(place) = defaults.instead_of_socket() {
            return Ok(host(place, path));
        }
        let place = match engine {
            // libpq takes the folder.
            Engine::PgSql => {
                let port = defaults.port.unwrap_or(5432);
                PathBuf::from(path).join(format!(".s.PGSQL.{port}"))
            }
            _ => PathBuf::from(path),
        };
        let shown = if engine == Engine::PgSql { text } else { path };
        return Ok(host(Place::Unix(place), shown));
    }
    let inet = text.strip_prefix("inet:").unwrap_or(text);
    let (name, port) = split_port(inet);
    if engine == Engine::MySql && name.eq_ignore_ascii_case("localhost") {
        if let Some(place) = defaults.instead_of_socket() {
            return Ok(host(place, inet));
        }
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

impl Defaults {
    fn instead_of_socket(&self) -> Option<Place> {
        let host = self.host.as_ref()?;
        let local = host.eq_ignore_ascii_case("localhost");
        (!local).then(|| Place::Tcp(host.clone(), self.port.unwrap_or(3306)))
    }
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
fn uri(text: &str, charset: &str) -> Result<Host, String> {
    let shown = shown_uri(text);
    let read = || {
        let info = ConnInfo::parse(text)?;
        Ok((info.place()?, info.login(charset)?))
    };
    let (place, login) =
        read().map_err(|problem: String| format!("connect to pgsql server {shown}: {problem}"))?;
    Ok(Host {
        shown,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let tcp = |host: &str, port| Place::Tcp(host.to_string(), port);
        let unix = |path: &str| Place::Unix(path.into());
        let none = Defaults::default();
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

    #[test]
    fn the_option_file_has_its_say() {
        let socket = Defaults {
            socket: Some("/run/other.sock".to_string()),
            port: Some(3307),
            ..Defaults::default()
        };
        let host = Defaults {
            host: Some("db.example".to_string()),
            ..Defaults::default()
        };
        for (defaults, text, shown) in [
            (&socket, "localhost", "/run/other.sock"),
            (&socket, "127.0.0.1", "127.0.0.1:3307"),
            (&socket, "127.0.0.1:3308", "127.0.0.1:3308"),
            (&socket, "unix:/run/x", "/run/x"),
            (&host, "localhost", "db.example:3306"),
            (&host, "unix:/run/x", "db.example:3306"),
            (&host, "127.0.0.1", "127.0.0.1:3306"),
        ] {
            let found = parse(text, Engine::MySql, defaults).expect("a host");
            assert_eq!(found.place.shown(), shown, "{text}");
        }
    }
}
