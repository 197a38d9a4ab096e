//! From a host of the list to a session: connect and log in, within the time that is allowed.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::pool::{Host, Login, Place};
use super::wire::Wire;
use super::{Engine, mysql, pgsql};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) enum Connection {
    MySql(Box<mysql::Connection>),
    PgSql(Box<pgsql::Connection>),
}

/// A session with the host. The error is a text for the log.
pub(super) async fn open(engine: Engine, host: &Host, login: &Login) -> Result<Connection, String> {
    let attempt = timeout(CONNECT_TIMEOUT, session(engine, &host.place, login)).await;
    attempt.unwrap_or_else(|_| Err(format!("timeout after {} s", CONNECT_TIMEOUT.as_secs())))
}

async fn session(engine: Engine, place: &Place, login: &Login) -> Result<Connection, String> {
    let wire = match place {
        Place::Tcp(host, port) => Wire::tcp(host, *port).await,
        Place::Unix(path) => Wire::unix(path).await,
    };
    match engine {
        Engine::PgSql => {
            let where_to = pgsql_place(place);
            let wire =
                wire.map_err(|error| format!("{where_to}: {}", crate::error::os_text(&error)))?;
            let session = pgsql::Connection::login(wire, login)
                .await
                .map_err(|text| format!("{where_to}: {text}"))?;
            Ok(Connection::PgSql(Box::new(session)))
        }
        _ => {
            let wire = wire.map_err(|error| mysql_connect_text(place, &error))?;
            Ok(Connection::MySql(Box::new(
                mysql::Connection::login(wire, login).await?,
            )))
        }
    }
}

fn pgsql_place(place: &Place) -> String {
    match place {
        Place::Tcp(host, port) => format!("connection to server at \"{host}\", port {port} failed"),
        Place::Unix(path) => format!(
            "connection to server on socket \"{}\" failed",
            path.display()
        ),
    }
}

fn mysql_connect_text(place: &Place, error: &std::io::Error) -> String {
    let number = error.raw_os_error().unwrap_or(-2);
    let socket = |path: &Path| {
        format!(
            "Can't connect to local server through socket '{}' ({number})",
            path.display()
        )
    };
    match place {
        Place::Unix(path) => socket(path),
        Place::Tcp(host, _) if error.raw_os_error().is_none() => {
            format!("Unknown server host '{host}' ({number})")
        }
        Place::Tcp(host, _) => format!("Can't connect to server on '{host}' ({number})"),
    }
}
