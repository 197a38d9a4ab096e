//! The `pgsql:` driver: connects to PostgreSQL, quotes, and runs a statement by the simple query
//! protocol (<https://www.postgresql.org/docs/15/protocol.html>), with the messages of the
//! `postgres-protocol` crate.

use std::io;

use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::{backend, frontend};

use super::Engine;
use super::connect::{self, Deadline};
use super::pool::{Login, Place, QueryError};
use super::quotes::Quote;
use super::rows::Rows;
use super::template::Query;
use super::tls::{self, When};
use super::wire::Wire;

/// No further statement is packed behind this many bytes. They fit into the buffers between us and the server,
/// so that sending never waits for a server that waits for us to read.
const TOGETHER: usize = 8192;

/// A session with a server.
pub(crate) struct Connection {
    wire: Wire,
    input: BytesMut,
    output: BytesMut,
    /// `standard_conforming_strings`, which the server reports at login and whenever it changes.
    standard_strings: bool,
    /// Whether the server has said that it expects UTF-8.
    utf8: bool,
    /// Whether the server has asked for a password, or let us in without.
    asked: bool,
}

const UNBOUND: &str = "channel binding is required, but the server authenticated the client without it; \
    let the user have scram-sha-256 in pg_hba.conf";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encrypt {
    No,
    IfOffered,
    Yes,
}

/// Why an attempt to connect came to nothing.
enum Refusal {
    Final(String),
    /// Encrypted, or not encrypted, it may work.
    Once(String),
}

impl Connection {
    /// Connects and logs in; with `sslmode=prefer` and `allow` a second time in the other way when the first
    /// is refused, as libpq does. The error is the server's text, or says what to do.
    pub async fn open(
        place: &Place,
        login: &Login,
        deadline: Deadline,
    ) -> Result<Connection, String> {
        let local = matches!(place, Place::Unix(_));
        let (first, second) = match login.tls.when {
            _ if local => (Encrypt::No, None),
            When::Never => (Encrypt::No, None),
            When::Demanded => (Encrypt::No, Some(Encrypt::Yes)),
            When::Offered => (Encrypt::IfOffered, Some(Encrypt::No)),
            When::Always => (Encrypt::Yes, None),
        };
        let refused = match Connection::attempt(place, login, first, deadline).await {
            Ok(connection) => return Ok(connection),
            Err(Refusal::Final(text)) => return Err(text),
            Err(Refusal::Once(text)) => text,
        };
        match second {
            None => Err(refused),
            Some(second) => Connection::attempt(place, login, second, deadline)
                .await
                .map_err(|(Refusal::Final(text) | Refusal::Once(text))| {
                    format!("{refused}; {text}")
                }),
        }
    }

    async fn attempt(
        place: &Place,
        login: &Login,
        encrypt: Encrypt,
        deadline: Deadline,
    ) -> Result<Connection, Refusal> {
        let wire = connect::wire(place, deadline, crate::error::os_text)
            .await
            .map_err(Refusal::Final)?;
        let wire = encrypted(wire, place, login, encrypt, deadline).await?;
        // What the other way may change: the server refuses the one before it asks for a password.
        let other_way = wire.is_encrypted() || encrypt == Encrypt::No;
        let mut connection = Connection {
            wire,
            input: BytesMut::new(),
            output: BytesMut::new(),
            standard_strings: false,
            utf8: false,
            asked: false,
        };
        let entered = deadline.within("login", connection.enter(login)).await;
        match entered {
            Ok(()) => Ok(connection),
            Err(text) if other_way && !connection.asked => Err(Refusal::Once(text)),
            Err(text) => Err(Refusal::Final(text)),
        }
    }

    async fn enter(&mut self, login: &Login) -> Result<(), String> {
        let encoding = if login.charset.is_empty() {
            "UTF8"
        } else {
            &login.charset
        };
        let mut settings = vec![("user", login.user.as_str()), ("client_encoding", encoding)];
        if !login.dbname.is_empty() {
            settings.push(("database", login.dbname.as_str()));
        }
        let more = login.session.iter();
        settings.extend(more.map(|(name, value)| (name.as_str(), value.as_str())));
        frontend::startup_message(settings, &mut self.output).map_err(|error| error.to_string())?;
        self.flush().await?;
        self.authenticate(login).await
    }

    async fn authenticate(&mut self, login: &Login) -> Result<(), String> {
        let mut scram = None;
        loop {
            let message = self
                .message()
                .await
                .map_err(|error| crate::error::os_text(&error))?;
            self.asked |= !matches!(message, backend::Message::ErrorResponse(_));
            match message {
                backend::Message::AuthenticationOk
                    if login.tls.binding_required && scram.is_none() =>
                {
                    return Err(UNBOUND.to_string());
                }
                backend::Message::AuthenticationOk => {}
                backend::Message::AuthenticationCleartextPassword => {
                    self.password(login, login.password.as_bytes())?
                }
                backend::Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(
                        login.user.as_bytes(),
                        login.password.as_bytes(),
                        body.salt(),
                    );
                    self.password(login, hash.as_bytes())?;
                }
                backend::Message::AuthenticationSasl(body) => {
                    scram = Some(self.begin_scram(&body, login)?);
                }
                backend::Message::AuthenticationSaslContinue(body) => {
                    let exchange = scram.as_mut().ok_or("unexpected authentication message")?;
                    exchange
                        .update(body.data())
                        .map_err(|error| error.to_string())?;
                    frontend::sasl_response(exchange.message(), &mut self.output)
                        .map_err(|error| error.to_string())?;
                }
                backend::Message::AuthenticationSaslFinal(body) => {
                    let exchange = scram.as_mut().ok_or("unexpected authentication message")?;
                    exchange
                        .finish(body.data())
                        .map_err(|error| error.to_string())?;
                }
                backend::Message::ErrorResponse(body) => return Err(ServerError::read(&body).text),
                backend::Message::ParameterStatus(body) => self.note(&body),
                backend::Message::ReadyForQuery(_) => return Ok(()),
                backend::Message::NoticeResponse(_) | backend::Message::BackendKeyData(_) => {}
                _ => {
                    return Err(
                        "authentication method is not supported (use scram-sha-256)".to_string()
                    );
                }
            }
            self.flush().await?;
        }
    }

    /// Bound to the encrypted channel where the server and its certificate allow it, as libpq does.
    fn begin_scram(
        &mut self,
        offer: &backend::AuthenticationSaslBody,
        login: &Login,
    ) -> Result<sasl::ScramSha256, String> {
        use fallible_iterator::FallibleIterator as _;
        if login.password.is_empty() {
            return Err("fe_sendauth: no password supplied".to_string());
        }
        let mut offered = offer.mechanisms();
        let mut has_plus = false;
        while let Some(mechanism) = offered.next().map_err(|error| error.to_string())? {
            has_plus |= mechanism == sasl::SCRAM_SHA_256_PLUS;
        }
        let end_point = self.wire.certificate().and_then(tls::end_point);
        let (mechanism, binding) = match end_point {
            Some(hash) if has_plus => (
                sasl::SCRAM_SHA_256_PLUS,
                sasl::ChannelBinding::tls_server_end_point(hash),
            ),
            _ => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        if login.tls.binding_required && mechanism == sasl::SCRAM_SHA_256 {
            return Err("channel binding is required, but the server did not offer a method that supports it; it needs TLS and scram-sha-256".to_string());
        }
        let exchange = sasl::ScramSha256::new(login.password.as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, exchange.message(), &mut self.output)
            .map_err(|error| error.to_string())?;
        Ok(exchange)
    }

    fn password(&mut self, login: &Login, proof: &[u8]) -> Result<(), String> {
        if login.password.is_empty() {
            return Err("fe_sendauth: no password supplied".to_string());
        }
        if login.tls.binding_required {
            return Err(UNBOUND.to_string());
        }
        frontend::password_message(proof, &mut self.output).map_err(|error| error.to_string())
    }

    /// Sends the statements for some of the keys, at least for the first, without waiting for answers.
    /// How many were sent: [`Connection::answer`] is to be called as often.
    pub async fn send(&mut self, query: &Query, keys: &[&str]) -> Result<usize, QueryError> {
        let mut count = 0;
        for key in keys {
            // How it is quoted is known when the answers to all before it are there.
            let special = key.contains(['\'', '"', '\\', '\0']);
            if count > 0 && (special || self.output.len() > TOGETHER) {
                break;
            }
            let start = self.output.len();
            if let Err(error) = self.pack(query, key) {
                self.output.truncate(start);
                match count {
                    0 => return Err(error),
                    // It has its turn as the first of the next.
                    _ => break,
                }
            }
            count += 1;
            if special {
                break;
            }
        }
        self.flush().await.map_err(QueryError::Lost)?;
        Ok(count)
    }

    fn pack(&mut self, query: &Query, key: &str) -> Result<(), QueryError> {
        if !self.utf8 && !key.is_ascii() && key.contains(['\'', '\\']) {
            let text = "a non-ASCII key with quotes needs encoding = UTF8".to_string();
            return Err(QueryError::Rejected(text));
        }
        let standard = self.standard_strings;
        let mut statement = Vec::new();
        query.fill(key, &mut statement, |part, context, out| {
            quote(part, context, standard, out)
        });
        statement.retain(|&byte| byte != 0);
        let statement = String::from_utf8_lossy(&statement);
        frontend::query(&statement, &mut self.output)
            .map_err(|error| QueryError::Rejected(error.to_string()))
    }

    /// The answer to the oldest statement that was sent and is not answered yet: the rows of its last
    /// result.
    pub async fn answer(&mut self) -> Result<Rows, QueryError> {
        let mut rows = Rows::default();
        let mut has_rows = false;
        let mut failure: Option<QueryError> = None;
        loop {
            let message = self
                .message()
                .await
                .map_err(|error| QueryError::Lost(lost_text(&error)))?;
            match message {
                backend::Message::RowDescription(_) => {
                    rows.clear();
                    has_rows = true;
                }
                backend::Message::DataRow(body) => push_row(&body, &mut rows)?,
                backend::Message::CommandComplete(_) | backend::Message::EmptyQueryResponse => {
                    // A statement without rows replaces the rows of the one before.
                    let had_rows = std::mem::take(&mut has_rows);
                    if !had_rows {
                        rows.clear();
                    }
                }
                backend::Message::CopyInResponse(_) => {
                    failure = Some(QueryError::Rejected("unknown code 0x4".to_string()));
                    frontend::copy_fail("no data", &mut self.output)
                        .map_err(|error| QueryError::Lost(error.to_string()))?;
                    self.flush().await.map_err(QueryError::Lost)?;
                }
                backend::Message::CopyOutResponse(_) => {
                    failure = Some(QueryError::Rejected("unknown code 0x3".to_string()));
                }
                backend::Message::ErrorResponse(body) => {
                    let error = ServerError::read(&body);
                    let text = format!("fatal error: {}", error.text);
                    if error.fatal {
                        return Err(QueryError::Lost(text));
                    }
                    failure.get_or_insert(QueryError::Rejected(text));
                }
                backend::Message::NoticeResponse(body) => {
                    tracing::info!("{}", notice(&body));
                }
                backend::Message::ParameterStatus(body) => self.note(&body),
                backend::Message::ReadyForQuery(_) => return failure.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    fn note(&mut self, body: &backend::ParameterStatusBody) {
        let (Ok(name), Ok(value)) = (body.name(), body.value()) else {
            return;
        };
        match name {
            "standard_conforming_strings" => self.standard_strings = value == "on",
            "client_encoding" => self.utf8 = value.eq_ignore_ascii_case("UTF8"),
            _ => {}
        }
    }

    async fn flush(&mut self) -> Result<(), String> {
        if !self.output.is_empty() {
            self.wire
                .send(&self.output)
                .await
                .map_err(|error| lost_text(&error))?;
            self.output.clear();
        }
        Ok(())
    }

    async fn message(&mut self) -> io::Result<backend::Message> {
        loop {
            if let Some(message) = backend::Message::parse(&mut self.input)? {
                return Ok(message);
            }
            let count = self.wire.peek(1).await?.len();
            self.input.extend_from_slice(self.wire.take(count));
        }
    }
}

/// Asks the server for TLS (protocol, 55.2.10) and goes on encrypted when it agrees.
async fn encrypted(
    mut wire: Wire,
    place: &Place,
    login: &Login,
    encrypt: Encrypt,
    deadline: Deadline,
) -> Result<Wire, Refusal> {
    if encrypt == Encrypt::No {
        return Ok(wire);
    }
    let asking = async {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        let lost = |error: io::Error| lost_text(&error);
        wire.send(&request).await.map_err(lost)?;
        wire.peek(1).await.map_err(lost)?;
        Ok(wire.take(1)[0])
    };
    let answer = deadline.within("the TLS handshake", asking).await;
    match answer.map_err(Refusal::Final)? {
        b'S' => connect::start_tls(wire, place, login, Engine::PgSql, deadline)
            .await
            .map_err(|text| Refusal::Once(format!("SSL error: {text}"))),
        b'N' if encrypt == Encrypt::Yes => Err(Refusal::Final(
            "server does not support SSL, but SSL was required; give the server a certificate (ssl = on), or \
             change sslmode"
                .to_string(),
        )),
        b'N' => Ok(wire),
        other => Err(Refusal::Final(format!(
            "received invalid response to SSL negotiation: {}",
            char::from(other)
        ))),
    }
}

fn push_row(body: &backend::DataRowBody, rows: &mut Rows) -> Result<(), QueryError> {
    use postgres_protocol::message::backend::DataRowRanges;
    let mut ranges: DataRowRanges<'_> = body.ranges();
    use fallible_iterator::FallibleIterator as _;
    while let Some(range) = ranges
        .next()
        .map_err(|error| QueryError::Lost(lost_text(&error)))?
    {
        rows.push(range.and_then(|range| body.buffer().get(range)));
    }
    Ok(())
}

struct ServerError {
    text: String,
    fatal: bool,
}

impl ServerError {
    /// The lines as libpq puts them together: severity and message, detail, hint, context.
    fn read(body: &backend::ErrorResponseBody) -> ServerError {
        use fallible_iterator::FallibleIterator as _;
        let (mut severity, mut message, mut more) = (String::new(), String::new(), String::new());
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'S' => severity = value,
                b'M' => message = value,
                b'D' => more.push_str(&format!("\nDETAIL:  {value}")),
                b'H' => more.push_str(&format!("\nHINT:  {value}")),
                b'W' => more.push_str(&format!("\nCONTEXT:  {value}")),
                _ => {}
            }
        }
        let fatal = severity == "FATAL" || severity == "PANIC";
        ServerError {
            text: format!("{severity}:  {message}{more}"),
            fatal,
        }
    }
}

/// What the server's code wants to say, as libpq prints it.
fn notice(body: &backend::NoticeResponseBody) -> String {
    use fallible_iterator::FallibleIterator as _;
    let (mut severity, mut message) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        match field.type_() {
            b'S' => severity = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            b'M' => message = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            _ => {}
        }
    }
    format!("{severity}:  {message}")
}

fn lost_text(error: &io::Error) -> String {
    format!(
        "server closed the connection: {}",
        crate::error::os_text(error)
    )
}

/// Appends a part of the key so that it cannot leave the literal in which it stands.
fn quote(part: &str, context: Quote, standard_strings: bool, out: &mut Vec<u8>) {
    for byte in part.bytes() {
        let doubled = match byte {
            b'\'' => context != Quote::Double,
            b'"' => context == Quote::Double,
            b'\\' => context == Quote::Escape || !standard_strings && context != Quote::Double,
            _ => false,
        };
        if doubled {
            out.push(byte);
        }
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        for (part, context, standard, expected) in [
            ("o'b\\", Quote::Single, true, "o''b\\"),
            ("o'b\\", Quote::Single, false, "o''b\\\\"),
            ("o'b\\", Quote::Escape, true, "o''b\\\\"),
            ("a\"b'c", Quote::Double, true, "a\"\"b'c"),
        ] {
            let mut out = Vec::new();
            quote(part, context, standard, &mut out);
            assert_eq!(String::from_utf8(out).expect("text"), expected);
        }
    }
}
