//! The `mysql:` driver: connects to MariaDB or MySQL, quotes, and runs a statement by the text
//! protocol. Why it speaks the protocol itself: `docs/decisions/0002-sql-driver.md`.
//!
//! Protocol: <https://mariadb.com/kb/en/clientserver-protocol/>. The session is left as the server
//! makes it: no `SET` is sent, unless `charset` asks for another character set than utf8mb4, or the
//! option file for something with `init-command`.

mod auth;
mod login;

use std::io;

use super::pool::QueryError;
use super::quotes::Quote;
use super::rows::Rows;
use super::template::Query;
use super::wire::Wire;

const LONG_PASSWORD: u32 = 1;
const LONG_FLAG: u32 = 4;
const CONNECT_WITH_DB: u32 = 8;
const PROTOCOL_41: u32 = 0x200;
const SSL: u32 = 0x800;
const TRANSACTIONS: u32 = 0x2000;
const SECURE_CONNECTION: u32 = 0x8000;
const MULTI_RESULTS: u32 = 0x2_0000;
const PLUGIN_AUTH: u32 = 0x8_0000;
/// What we ask for. Several statements in one query (0x1_0000) stay forbidden.
const CAPABILITIES: u32 = LONG_PASSWORD
    | LONG_FLAG
    | CONNECT_WITH_DB
    | PROTOCOL_41
    | TRANSACTIONS
    | SECURE_CONNECTION
    | MULTI_RESULTS
    | PLUGIN_AUTH;
const UTF8MB4_GENERAL_CI: u8 = 45;
const MORE_RESULTS: u16 = 8;
const NO_BACKSLASH_ESCAPES: u16 = 0x200;
const COM_QUERY: u8 = 3;
const MAX_PACKET: usize = 0xff_ffff;
/// No further statement is packed behind this many bytes. They fit into the buffers between us and the server,
/// so that sending never waits for a server that waits for us to read.
const TOGETHER: usize = 8192;

/// Character sets in which no byte of a UTF-8 text can be taken for half of a character that swallows a quote.
const SAFE_CHARSETS: &[&str] = &[
    "utf8mb4", "utf8mb3", "utf8", "latin1", "latin2", "latin5", "latin7", "ascii", "binary",
    "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852", "cp866", "greek", "hebrew", "koi8r",
    "koi8u", "macroman", "macce",
];

/// A session with a server.
pub(crate) struct Connection {
    wire: Wire,
    sequence: u8,
    status: u16,
    /// `@@sql_mode`'s say on quotes, asked for when the first key comes that it matters for.
    mode: Option<Mode>,
    /// Kept for its memory.
    output: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode {
    backslash_escapes: bool,
    ansi_quotes: bool,
}

impl Connection {
    /// Sends the statements for some of the keys, at least for the first, without waiting for answers.
    /// How many were sent: [`Connection::answer`] is to be called as often.
    pub async fn send(&mut self, query: &Query, keys: &[&str]) -> Result<usize, QueryError> {
        let mut output = std::mem::take(&mut self.output);
        output.clear();
        let filled = self.fill(query, keys, &mut output).await;
        let outcome = match filled {
            Ok(count) => self.wire.send(&output).await.map(|()| count).map_err(lost),
            Err(error) => Err(error),
        };
        self.output = output;
        outcome
    }

    /// The answer to the oldest statement that was sent and is not answered yet.
    pub async fn answer(&mut self, require_result_set: bool) -> Result<Rows, QueryError> {
        let before = self.status & NO_BACKSLASH_ESCAPES;
        let rows = self.results(require_result_set).await;
        if self.status & NO_BACKSLASH_ESCAPES != before {
            self.mode = None;
        }
        rows
    }

    /// Packs statements until the next key needs quoting: only when the answers to all before it are
    /// there is it known how.
    async fn fill(
        &mut self,
        query: &Query,
        keys: &[&str],
        output: &mut Vec<u8>,
    ) -> Result<usize, QueryError> {
        // Nothing in a plain key needs quoting, whatever the mode.
        let plain = Mode {
            backslash_escapes: true,
            ansi_quotes: false,
        };
        let mut count = 0;
        for key in keys {
            let special = key.bytes().any(is_special);
            if count > 0 && (special || output.len() > TOGETHER) {
                break;
            }
            let mode = if special { self.mode().await? } else { plain };
            let start = output.len();
            output.extend_from_slice(&[0, 0, 0, 0, COM_QUERY]);
            query.fill(key, output, |part, context, out| {
                quote(part, context, mode, out)
            });
            match frame(&mut output[start..], 0) {
                // It has its turn as the first of the next.
                Err(_) if count > 0 => {
                    output.truncate(start);
                    break;
                }
                framed => framed?,
            }
            count += 1;
            if special {
                break;
            }
        }
        Ok(count)
    }

    /// A statement of our own, and its answer.
    async fn run(
        &mut self,
        statement: &[u8],
        require_result_set: bool,
    ) -> Result<Rows, QueryError> {
        self.sequence = 0;
        let mut payload = Vec::with_capacity(statement.len() + 5);
        payload.extend_from_slice(&[0, 0, 0, 0, COM_QUERY]);
        payload.extend_from_slice(statement);
        self.send_framed(payload).await?;
        self.answer(require_result_set).await
    }

    async fn mode(&mut self) -> Result<Mode, QueryError> {
        if let Some(mode) = self.mode {
            return Ok(mode);
        }
        let rows = self
            .run(b"SELECT @@sql_mode, @@character_set_client", true)
            .await?;
        let mut cells = rows
            .cells()
            .map(|cell| String::from_utf8_lossy(cell.unwrap_or_default()).into_owned());
        let (sql_mode, charset) = (
            cells.next().unwrap_or_default(),
            cells.next().unwrap_or_default(),
        );
        if !SAFE_CHARSETS.contains(&charset.as_str()) {
            return Err(QueryError::Rejected(format!(
                "a key with quotes cannot be made safe in the session's character set {charset}: let the server use utf8mb4"
            )));
        }
        let mode = Mode {
            backslash_escapes: !sql_mode.contains("NO_BACKSLASH_ESCAPES"),
            ansi_quotes: sql_mode.contains("ANSI_QUOTES"),
        };
        self.mode = Some(mode);
        Ok(mode)
    }

    async fn set_charset(&mut self, charset: &str) -> Result<(), String> {
        let failed = |text: &str| format!("cannot use character set {charset}: {text}");
        if !SAFE_CHARSETS.contains(&charset) {
            return Err(failed(
                "keys cannot be quoted safely in it, or it is unknown; use utf8mb4",
            ));
        }
        match self
            .run(format!("SET NAMES {charset}").as_bytes(), false)
            .await
        {
            Ok(_) => Ok(()),
            Err(QueryError::Rejected(text) | QueryError::Lost(text)) => Err(failed(&text)),
        }
    }

    /// All results of a statement: rows of the only one that may have any.
    async fn results(&mut self, require_result_set: bool) -> Result<Rows, QueryError> {
        let mut rows = Rows::default();
        let mut with_columns = 0;
        let mut first = true;
        loop {
            let size = self.packet().await?;
            let head = self.wire.take(size);
            match head.first() {
                Some(0x00) => self.status = ok_status(head),
                Some(0xff) => return Err(error_of(head, first)),
                Some(0xfb) => {
                    // LOAD DATA LOCAL: an empty file, and whatever the server says to that.
                    self.send_framed(vec![0; 4]).await?;
                    continue;
                }
                _ => {
                    let count = lenenc(head).map_or(0, |(count, _)| count);
                    with_columns += 1;
                    self.columns(count).await?;
                    match with_columns {
                        1 => self.rows(Some(&mut rows)).await?,
                        _ => self.rows(None).await?,
                    }
                }
            }
            first = false;
            if self.status & MORE_RESULTS == 0 {
                break;
            }
        }
        match with_columns {
            0 if require_result_set => Err(QueryError::Rejected(
                "query returned no result set(require_result_set = yes)".to_string(),
            )),
            0 | 1 => Ok(rows),
            _ => Err(QueryError::Rejected(
                "multiple result sets returning data are not supported".to_string(),
            )),
        }
    }

    /// Column definitions and the packet that ends them.
    async fn columns(&mut self, count: u64) -> Result<(), QueryError> {
        for _ in 0..=count {
            let size = self.packet().await?;
            self.wire.take(size);
        }
        Ok(())
    }

    async fn rows(&mut self, mut rows: Option<&mut Rows>) -> Result<(), QueryError> {
        loop {
            let size = self.packet().await?;
            let packet = self.wire.take(size);
            match packet.first() {
                Some(0xff) => return Err(error_of(packet, true)),
                Some(0xfe) if packet.len() < 9 => {
                    self.status = u16_at(packet, 3);
                    return Ok(());
                }
                _ => {}
            }
            let Some(rows) = rows.as_deref_mut() else {
                continue;
            };
            let mut rest = packet;
            while let Some(&byte) = rest.first() {
                if byte == 0xfb {
                    rows.push(None);
                    rest = &rest[1..];
                    continue;
                }
                let malformed = || QueryError::Lost("malformed row from the server".to_string());
                let (length, after) = lenenc(rest).ok_or_else(malformed)?;
                let (value, after) = after
                    .split_at_checked(length as usize)
                    .ok_or_else(malformed)?;
                // Postfix handles values as C strings.
                let end = value
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(value.len());
                rows.push(Some(&value[..end]));
                rest = after;
            }
        }
    }

    /// The size of the next packet's payload, which lies ready in the buffer behind its header.
    async fn packet(&mut self) -> Result<usize, QueryError> {
        let header = self.wire.peek(4).await.map_err(lost)?;
        let size =
            usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
        self.sequence = header[3].wrapping_add(1);
        if size == MAX_PACKET {
            return Err(QueryError::Lost("a row of more than 16 MiB".to_string()));
        }
        self.wire.peek(4 + size).await.map_err(lost)?;
        self.wire.take(4);
        Ok(size)
    }

    /// Sends a payload that begins with four bytes for the header.
    async fn send_framed(&mut self, mut packet: Vec<u8>) -> Result<(), QueryError> {
        frame(&mut packet, self.sequence)?;
        self.wire.send(&packet).await.map_err(lost)
    }
}

fn u16_at(packet: &[u8], at: usize) -> u16 {
    match packet.get(at..at + 2) {
        Some(bytes) => u16::from_le_bytes([bytes[0], bytes[1]]),
        None => 0,
    }
}

/// A length-encoded number and what follows it.
fn lenenc(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let width = match first {
        0..=0xfa => return Some((u64::from(first), rest)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => return None,
    };
    let (number, rest) = rest.split_at_checked(width)?;
    Some((
        number
            .iter()
            .rev()
            .fold(0, |all, &byte| all << 8 | u64::from(byte)),
        rest,
    ))
}

/// The status flags of an OK packet: after affected rows and insert id.
fn ok_status(packet: &[u8]) -> u16 {
    let after = lenenc(&packet[1..]).and_then(|(_, rest)| lenenc(rest));
    after.map_or(0, |(_, rest)| u16_at(rest, 0))
}

fn error_of(packet: &[u8], first: bool) -> QueryError {
    let code = u16_at(packet, 1);
    let text = packet.get(3..).unwrap_or_default();
    let text = if text.first() == Some(&b'#') {
        text.get(6..).unwrap_or_default()
    } else {
        text
    };
    let text = String::from_utf8_lossy(text).into_owned();
    match code {
        // The server goes away, or has thrown us out: not the statement's fault.
        1053 | 1077 | 1079 | 1080 | 1152..=1161 | 1184 | 1927 | 3169 | 4031 => {
            QueryError::Lost(text)
        }
        _ if first => QueryError::Rejected(text),
        _ => QueryError::Rejected(format!("(mysql_next_result): {text}")),
    }
}

fn lost(error: io::Error) -> QueryError {
    QueryError::Lost(format!(
        "Lost connection to server during query: {}",
        crate::error::os_text(&error)
    ))
}

/// Writes the header of a packet into the four bytes before its payload.
fn frame(packet: &mut [u8], sequence: u8) -> Result<(), QueryError> {
    let size = packet.len() - 4;
    if size >= MAX_PACKET {
        return Err(QueryError::Rejected("statement too long".to_string()));
    }
    packet[..3].copy_from_slice(&(size as u32).to_le_bytes()[..3]);
    packet[3] = sequence;
    Ok(())
}

fn text_of(error: QueryError) -> String {
    match error {
        QueryError::Rejected(text) | QueryError::Lost(text) => text,
    }
}

fn is_special(byte: u8) -> bool {
    matches!(
        byte,
        b'\'' | b'"' | b'\\' | b'`' | b'\0' | b'\n' | b'\r' | 0x1a
    )
}

/// Appends a part of the key so that it cannot leave the literal in which it stands.
fn quote(part: &str, context: Quote, mode: Mode, out: &mut Vec<u8>) {
    let identifier = context == Quote::Backtick || context == Quote::Double && mode.ansi_quotes;
    for byte in part.bytes() {
        if identifier || !mode.backslash_escapes {
            let doubled = match context {
                Quote::Backtick => byte == b'`',
                Quote::Double => byte == b'"',
                _ => byte == b'\'',
            };
            if doubled {
                out.push(byte);
            }
            out.push(byte);
            continue;
        }
        match byte {
            b'\'' | b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\0' => out.extend_from_slice(b"\\0"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0x1a => out.extend_from_slice(b"\\Z"),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::login::Greeting;
    use super::*;
    use proptest::prelude::*;

    /// Reads a literal as MySQL's lexer does; the rest must be exactly what stood behind it.
    fn read_literal(text: &[u8], delimiter: u8, backslash: bool) -> Option<(Vec<u8>, &[u8])> {
        let mut value = Vec::new();
        let mut at = 0;
        loop {
            let byte = *text.get(at)?;
            at += 1;
            if byte == delimiter {
                if text.get(at) != Some(&delimiter) {
                    return Some((value, &text[at..]));
                }
                at += 1;
                value.push(byte);
            } else if byte == b'\\' && backslash {
                let escaped = *text.get(at)?;
                at += 1;
                value.push(match escaped {
                    b'0' => 0,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b'Z' => 0x1a,
                    other => other,
                });
            } else {
                value.push(byte);
            }
        }
    }

    proptest! {
        #[test]
        fn no_key_leaves_its_literal(key in r#"(?s)([a-z@'"\\`;\-\x00\n\r\x1aöß]|.){0,12}"#, backslash: bool, ansi: bool) {
            let mode = Mode { backslash_escapes: backslash, ansi_quotes: ansi };
            for (context, delimiter) in [(Quote::Single, b'\''), (Quote::Double, b'"'), (Quote::Backtick, b'`')] {
                let mut out = Vec::new();
                quote(&key, context, mode, &mut out);
                out.push(delimiter);
                out.extend_from_slice(b" END");
                let string = context == Quote::Single || context == Quote::Double && !ansi;
                let (value, rest) = read_literal(&out, delimiter, string && backslash).expect("a closed literal");
                prop_assert_eq!(rest, b" END");
                prop_assert_eq!(value, key.as_bytes());
            }
        }

        #[test]
        fn junk_from_the_server_is_an_error_not_a_panic(bytes: Vec<u8>) {
            let _ = Greeting::parse(&bytes);
            let _ = lenenc(&bytes);
            let _ = error_of(&bytes, true);
            if !bytes.is_empty() {
                ok_status(&bytes);
            }
        }
    }
}
