//! From a host of the list to a session: connect, TLS, log in, each within the time that is left.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::pool::{Host, Login, Place};
use super::wire::Wire;
use super::{Engine, mysql, pgsql};

/// For all steps together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) enum Connection {
    MySql(Box<mysql::Connection>),
    PgSql(Box<pgsql::Connection>),
}

/// When a new connection must be ready.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    seconds: u64,
}

impl Deadline {
    fn of(login: &Login) -> Deadline {
        let limit = login.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let limit = limit.min(CONNECT_TIMEOUT);
        Deadline {
            at: Instant::now() + limit,
            seconds: limit.as_secs(),
        }
    }

    /// Does one step, or says which one took too long.
    pub async fn within<T>(
        self,
        step: &str,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let done = timeout_at(self.at, work).await;
        done.unwrap_or_else(|_| Err(format!("timeout during {step}, after {} s", self.seconds)))
    }
}

/// A session with the host. The error is a text for the log.
pub(super) async fn open(engine: Engine, host: &Host, login: &Login) -> Result<Connection, String> {
    let deadline = Deadline::of(login);
    match engine {
        Engine::PgSql => {
            let session = pgsql::Connection::open(&host.place, login, deadline).await;
            let session =
                session.map_err(|text| format!("{}: {text}", pgsql_place(&host.place, login)))?;
            Ok(Connection::PgSql(Box::new(session)))
        }
        _ => {
            let wire = wire(&host.place, deadline, |error| {
                mysql_connect_text(&host.place, error)
            })
            .await?;
            let session = mysql::Connection::login(wire, &host.place, login, deadline).await?;
            Ok(Connection::MySql(Box::new(session)))
        }
    }
}

/// The stream, still in the clear.
pub(super) async fn wire(
    place: &Place,
    deadline: Deadline,
    text: impl Fn(&std::io::Error) -> String,
) -> Result<Wire, String> {
    let connecting = async {
        match place {
            Place::Tcp(host, port) => Wire::tcp(host, *port).await,
            Place::Unix(path) => Wire::unix(path).await,
        }
        .map_err(|error| text(&error))
    };
    deadline.within("connect", connecting).await
}

/// Encrypts the stream; `place` is where it leads. The error says what to do.
pub(super) async fn start_tls(
    wire: Wire,
    place: &Place,
    login: &Login,
    engine: Engine,
    deadline: Deadline,
) -> Result<Wire, String> {
    let host = match place {
        Place::Tcp(host, _) => host.as_str(),
        Place::Unix(_) => "localhost",
    };
    let config = login.tls.config(engine)?;
    let name = login.tls.server_name(host)?;
    let handshake = async {
        let encrypted = wire.start_tls(config, name).await;
        encrypted.map_err(|error| login.tls.explain(&error, host, engine))
    };
    deadline.within("the TLS handshake", handshake).await
}

fn pgsql_place(place: &Place, login: &Login) -> String {
    let (host, port) = match place {
        Place::Tcp(host, port) => (host, port),
        Place::Unix(path) => {
            let path = path.display();
            return format!("connection to server on socket \"{path}\" failed");
        }
    };
    let host = login.tls.name.as_ref().unwrap_or(host);
    format!("connection to server at \"{host}\", port {port} failed")
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
