//! The client of memcache_table(5): answers that are kept in a memcached, with another table behind it.

use std::sync::Arc;
use std::time::Duration;

use super::{Decoder, Endpoint, Links, Trouble};
use crate::error::{ErrorKind, TableError};
use crate::lists::MatchList;
use crate::open::{Open, Tables};
use crate::parameters::Parameters;
use crate::sql::Query;
use crate::table::{Table, boxed};

/// A memcached and the table that has what is not in it.
pub(crate) struct MemcacheTable {
    spec: String,
    /// The name of the file, for messages.
    name: String,
    links: Arc<Links>,
    backup: Option<Table>,
    key_format: Query,
    domain: Option<MatchList>,
    flags: i64,
    ttl: i64,
    limits: Limits,
    max_try: i64,
    pause: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    line: usize,
    data: usize,
}

impl MemcacheTable {
    pub fn open(parameters: &Parameters, tables: &Tables, how: Open) -> Result<Self, TableError> {
        let spec = parameters.spec();
        let number = |name, default, least| parameters.number(name, default, Some(least));
        let size =
            |name, default| number(name, default, 1).map(|n| usize::try_from(n).unwrap_or(1));
        let seconds = |name, default, least| {
            number(name, default, least).map(|n| Duration::from_secs(u64::try_from(n).unwrap_or(0)))
        };
        let server = parameters.text("memcache", "inet:localhost:11211", 0)?;
        let endpoint = Endpoint::parse(&server, &tables.queue_directory())
            .map_err(|error| TableError::operator(spec, error))?;
        let backup = match parameters.text("backup", "", 0)?.as_str() {
            "" => None,
            backup => Some(tables.open_with(backup, how)?),
        };
        let format = parameters.text("key_format", "%s", 1)?;
        let key_format = Query::parse(&format, false).ok_or_else(|| {
            let name = parameters.name();
            let text = format!("db_common_parse: {name}: Invalid query template: {format}");
            TableError::operator(spec, text)
        })?;
        let domain = match parameters.text("domain", "", 0)?.as_str() {
            "" => None,
            domain => Some(MatchList::strings_strict(tables, spec, domain)?),
        };
        let timeout = seconds("timeout", 2, 1)?;
        Ok(MemcacheTable {
            spec: spec.to_string(),
            name: parameters.name().to_string(),
            links: tables.links(endpoint, timeout),
            backup,
            key_format,
            domain,
            flags: number("flags", 0, 0)?,
            ttl: number("ttl", 3600, 0)?,
            limits: Limits {
                line: size("line_size_limit", 1024)?,
                data: size("data_size_limit", 10240)?,
            },
            max_try: number("max_try", 2, 1)?,
            pause: seconds("retry_pause", 1, 1)?,
        })
    }

    /// Asks the memcached, then the backup; what the backup has is then put into the memcached. Without a backup a
    /// memcached that does not answer is a failed lookup, with one it only costs time.
    pub async fn lookup(&self, key: &str) -> Result<Option<Vec<u8>>, TableError> {
        let cached = match self.cache_key(key).await? {
            None => return Ok(None),
            Some(cache_key) => cache_key,
        };
        let found = self.get(&cached).await;
        let Some(backup) = &self.backup else {
            return found;
        };
        if let Ok(Some(value)) = found {
            return Ok(Some(value));
        }
        let answer = boxed(backup, key).await;
        let answer = answer.map_err(|error| error.passed_on(&self.spec))?;
        if let Some(value) = &answer {
            self.set(&cached, value.as_bytes()).await;
        }
        Ok(answer.map(String::into_bytes))
    }

    /// The key that the memcached knows the value by; `None` when it is not to be asked.
    async fn cache_key(&self, key: &str) -> Result<Option<Vec<u8>>, TableError> {
        if let Some(domains) = &self.domain {
            match key.rsplit_once('@') {
                Some((user, domain)) if !user.is_empty() => {
                    if !domains.matches(domain).await? {
                        return Ok(None);
                    }
                }
                _ => return Ok(None),
            }
        }
        if key.is_empty() || !self.key_format.applies_to(key) {
            return Ok(None);
        }
        let mut cached = Vec::new();
        self.key_format.fill(key, &mut cached, |part, _, out| {
            out.extend_from_slice(part.as_bytes());
        });
        // Anything else would end the command, or begin another one.
        Ok(cached.iter().all(u8::is_ascii_graphic).then_some(cached))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        let request = [b"get ", key, b"\r\n"].concat();
        let limits = self.limits;
        let reply = self.command(&request, move || Get::new(limits)).await;
        reply.map_err(|trouble| self.failed(&trouble))
    }

    /// Failing to remember a value does not make it wrong.
    async fn set(&self, key: &[u8], value: &[u8]) {
        let (flags, ttl, size) = (self.flags, self.ttl, value.len());
        let mut request = [b"set ", key].concat();
        request.extend_from_slice(format!(" {flags} {ttl} {size}\r\n").as_bytes());
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        let limits = self.limits;
        let reply = self.command(&request, move || Line::new(limits)).await;
        match reply {
            Ok(line) if line == b"STORED" => {}
            Ok(line) => {
                let reply = crate::lines::shown(&line);
                tracing::warn!("{}: update failed: {reply}", self.name);
            }
            Err(trouble) => {
                self.failed(&trouble);
            }
        }
    }

    async fn command<D: Decoder>(
        &self,
        request: &[u8],
        decoder: impl Fn() -> D,
    ) -> Result<D::Reply, Trouble> {
        let mut tries = 1;
        loop {
            match self.links.exchange(request, &decoder).await {
                Err(Trouble::Broken(_) | Trouble::Closed | Trouble::Timeout)
                    if tries < self.max_try =>
                {
                    tries += 1;
                    tokio::time::sleep(self.pause).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn failed(&self, trouble: &Trouble) -> TableError {
        match trouble {
            Trouble::Connect(_) => {
                tracing::warn!("connect to {}: {trouble}", self.links.endpoint());
            }
            Trouble::Format(_) => tracing::warn!("{}: {trouble}", self.name),
            _ => tracing::warn!("{}: memcache server: {trouble}", self.name),
        }
        TableError::lookup(ErrorKind::Environment, &self.spec)
    }
}

/// One line up to CRLF.
struct Line {
    limits: Limits,
    line: Vec<u8>,
}

impl Line {
    fn new(limits: Limits) -> Line {
        Line {
            limits,
            line: Vec::new(),
        }
    }
}

impl Decoder for Line {
    type Reply = Vec<u8>;

    fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, String> {
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            if byte == b'\n' {
                let mut line = std::mem::take(&mut self.line);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some(line));
            }
            self.line.push(byte);
            if self.line.len() > self.limits.line {
                return Err(format!(
                    "reply longer than line_size_limit {}",
                    self.limits.line
                ));
            }
        }
        Ok(None)
    }
}

/// The reply to `get`: `VALUE key flags size`, the data, `END`; or `END` alone.
struct Get {
    limits: Limits,
    line: Line,
    /// The size of the data, once it is known, and what has come of them with their CRLF.
    data: Option<(usize, Vec<u8>)>,
}

impl Get {
    fn new(limits: Limits) -> Get {
        Get {
            limits,
            line: Line::new(limits),
            data: None,
        }
    }

    fn unexpected(line: &[u8]) -> String {
        let line = crate::lines::shown(line);
        format!("unexpected memcache server reply: {line}")
    }

    fn size(&self, line: &[u8]) -> Option<usize> {
        let text = std::str::from_utf8(line).ok()?;
        let mut words = text.split(' ');
        let (word, size) = (words.next()?, words.nth(2)?);
        let size: usize = size.parse().ok()?;
        (word == "VALUE" && size <= self.limits.data).then_some(size)
    }
}

impl Decoder for Get {
    type Reply = Option<Vec<u8>>;

    fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Self::Reply>, String> {
        loop {
            if let Some((size, data)) = &mut self.data
                && data.len() < *size + 2
            {
                let (now, later) = input.split_at(input.len().min(*size + 2 - data.len()));
                data.extend_from_slice(now);
                *input = later;
                if data.len() < *size + 2 {
                    return Ok(None);
                }
                if !data.ends_with(b"\r\n") {
                    return Err("data without a line end".to_string());
                }
            }
            let Some(line) = self.line.feed(input)? else {
                return Ok(None);
            };
            match (line.as_slice(), self.data.take()) {
                (b"END", None) => return Ok(Some(None)),
                (b"END", Some((size, mut data))) => {
                    data.truncate(size);
                    return Ok(Some(Some(data)));
                }
                (_, None) => {
                    let size = self.size(&line).ok_or_else(|| Get::unexpected(&line))?;
                    self.data = Some((size, Vec::new()));
                }
                (_, Some(_)) => return Err(Get::unexpected(&line)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { line: 64, data: 8 };

    /// The reply, fed in pieces of `size` bytes.
    fn get(text: &[u8], size: usize) -> Result<Option<Option<Vec<u8>>>, String> {
        let mut decoder = Get::new(LIMITS);
        for mut piece in text.chunks(size) {
            if let Some(reply) = decoder.feed(&mut piece)? {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    #[test]
    fn replies_in_pieces_of_any_size() {
        for size in 1..40 {
            let found = get(b"VALUE k 0 4\r\na\r\nb\r\nEND\r\n", size);
            assert_eq!(found, Ok(Some(Some(b"a\r\nb".to_vec()))));
            assert_eq!(
                get(b"VALUE k 0 0\r\n\r\nEND\r\n", size),
                Ok(Some(Some(Vec::new())))
            );
            assert_eq!(get(b"END\r\n", size), Ok(Some(None)));
            for bad in [
                &b"VALUE k 0 9\r\n"[..],
                b"VALUE k 0 -1\r\n",
                b"ERROR\r\n",
                b"VALUE k 0 1\r\nabEND\r\n",
                b"VALUE k 0 1\r\na\r\nVALUE k 0 1\r\n",
                &[b'x'; 70],
            ] {
                assert!(get(bad, size).is_err(), "{}", bad.escape_ascii());
            }
        }
    }
}
