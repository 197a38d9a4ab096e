//! header_checks(5) and body_checks(5): a message goes through line by line, tables say what to do with what they find.

mod action;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use config::{Config, ConfigError};
use mail::EnhancedCode;
use mail::mime::{Depth, Divider, Owner, Piece};
use tables::{TableList, Tables};

use action::Action;

/// Which of the parameters to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// `header_checks`, `mime_header_checks`, `nested_header_checks`, `body_checks`.
    Message,
    /// `milter_header_checks`.
    Milter,
}

/// The tables, and how far into a message they are asked.
pub struct CheckLists {
    header: Named,
    mime: Named,
    nested: Named,
    body: Named,
    /// `body_checks_size_limit`, of each part.
    body_limit: u64,
    header_limit: usize,
    /// Longer body lines are looked at in pieces.
    line_limit: usize,
    /// In front of the action in the log.
    prefix: &'static str,
    /// `message_reject_characters`.
    refused: Vec<u8>,
    /// `message_strip_characters`.
    stripped: Vec<u8>,
}

/// Tables, with the parameter that names them.
struct Named(&'static str, TableList);

impl CheckLists {
    /// `None` where nothing is to be checked.
    pub fn of(
        config: &Config,
        tables: &Tables,
        lists: Lists,
    ) -> Result<Option<CheckLists>, ConfigError> {
        // Three of the four are mostly the same tables: they are opened, and complained of, once.
        let mut opened: Vec<(String, TableList)> = Vec::new();
        let mut named = |name: &'static str| -> Result<Named, ConfigError> {
            let spec = config.string(name)?;
            let known = opened.iter().find(|(known, _)| *known == spec);
            let list = match known {
                Some((_, list)) => list.clone(),
                None => tables.open_list_lenient(&spec),
            };
            opened.push((spec, list.clone()));
            Ok(Named(name, list))
        };
        let limit = |name: &str| {
            config
                .int(name)
                .map(|value| usize::try_from(value).unwrap_or(0))
        };
        let nothing = || Named("", TableList::default());
        let (header, mime, nested, body) = match lists {
            Lists::Message => (
                named("header_checks")?,
                named("mime_header_checks")?,
                named("nested_header_checks")?,
                named("body_checks")?,
            ),
            Lists::Milter => (
                named("milter_header_checks")?,
                nothing(),
                nothing(),
                nothing(),
            ),
        };
        let characters = |name: &str| -> Result<Vec<u8>, ConfigError> {
            match lists {
                Lists::Message => Ok(unescaped(&config.string(name)?)),
                Lists::Milter => Ok(Vec::new()),
            }
        };
        let lists = CheckLists {
            refused: characters("message_reject_characters")?,
            stripped: characters("message_strip_characters")?,
            header,
            mime,
            nested,
            body,
            body_limit: limit("body_checks_size_limit")? as u64,
            header_limit: limit("header_size_limit")?.max(1),
            line_limit: limit("line_length_limit")?.max(1),
            prefix: if lists == Lists::Milter {
                "milter-header-"
            } else {
                ""
            },
        };
        Ok((!lists.is_empty()).then_some(lists))
    }

    fn is_empty(&self) -> bool {
        let tables = [&self.header, &self.mime, &self.nested, &self.body];
        tables.iter().all(|list| list.1.is_empty())
            && self.refused.is_empty()
            && self.stripped.is_empty()
    }

    fn for_header(&self, owner: Owner, header: &[u8]) -> &Named {
        match owner {
            _ if self.prefix.is_empty() && is_mime(header) => &self.mime,
            Owner::Message => &self.header,
            Owner::Part => &self.mime,
            Owner::Attached => &self.nested,
        }
    }
}

/// Characters with the escapes of C: `\\0`, `\\n`, `\\177`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.trim().as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let escaped = match (byte, rest.first()) {
            (b'\\', Some(&escaped)) => escaped,
            _ => {
                out.push(byte);
                continue;
            }
        };
        let digits = rest
            .iter()
            .take(3)
            .take_while(|byte| (b'0'..=b'7').contains(*byte));
        let digits = digits.count();
        if digits > 0 {
            let value = rest[..digits]
                .iter()
                .fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(value as u8);
            rest = &rest[digits..];
            continue;
        }
        rest = &rest[1..];
        out.push(match escaped {
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            other => other,
        });
    }
    out
}

/// The headers that say what a body is.
fn is_mime(header: &[u8]) -> bool {
    let name = crate::draft::name_of(header).to_ascii_lowercase();
    matches!(
        &name[..],
        b"mime-version"
            | b"content-type"
            | b"content-transfer-encoding"
            | b"content-disposition"
            | b"content-id"
            | b"content-description"
    )
}

/// What the log says of the message.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub id: &'a str,
    /// `name[address]`.
    pub client: &'a str,
    pub sender: &'a str,
    pub recipient: Option<&'a str>,
    pub protocol: &'a str,
    pub helo: &'a str,
}

impl Context<'_> {
    /// `from=<…> to=<…> proto=… helo=<…>`.
    pub fn envelope(&self) -> String {
        let mut text = format!("from=<{}>", self.sender);
        if let Some(recipient) = self.recipient {
            text.push_str(&format!(" to=<{recipient}>"));
        }
        text.push_str(&format!(" proto={}", self.protocol));
        if !self.helo.is_empty() {
            text.push_str(&format!(" helo=<{}>", self.helo));
        }
        text
    }
}

/// What the tables want beside changes of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The message is refused, with this status and text.
    pub reject: Option<(EnhancedCode, String)>,
    /// A table failed: the message cannot be taken now.
    pub failed: bool,
    pub hold: Option<String>,
    pub discard: Option<String>,
    /// `transport:nexthop`.
    pub filter: Option<String>,
    pub redirect: Option<String>,
    pub bcc: Vec<String>,
}

/// Goes through one message.
pub struct Checker {
    lists: Arc<CheckLists>,
    divider: Divider,
    /// The beginning of a line whose end is to come.
    partial: Vec<u8>,
    /// The line that comes is the rest of one that was given out already.
    cut: bool,
    /// The first line has been seen.
    begun: bool,
    /// Bytes of the body of this part.
    body: u64,
    findings: Findings,
    /// Nothing is looked for any more.
    off: bool,
    /// Lines for the log about the text that is being put together.
    log: Vec<String>,
    /// Texts before it, of which the log is to say something.
    steps: Vec<Step>,
}

/// Text to be stored, and what the log says of its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub text: Bytes,
    pub log: Vec<String>,
}

impl Checker {
    pub fn new(lists: Arc<CheckLists>) -> Checker {
        Checker {
            divider: Divider::new(Depth::Parts, lists.header_limit),
            lists,
            partial: Vec::new(),
            cut: false,
            begun: false,
            body: 0,
            findings: Findings::default(),
            off: false,
            log: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// What the log is to say of what was found since the last call.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// The message is refused, or thrown away.
    pub fn is_final(&self) -> bool {
        self.findings.reject.is_some() || self.findings.discard.is_some()
    }

    pub fn into_findings(self) -> Findings {
        self.findings
    }

    /// Takes the next piece, which ends anywhere; gives back what is to be stored, and to be logged, in order.
    pub async fn feed(&mut self, piece: &[u8], context: &Context<'_>) -> Vec<Step> {
        let mut out = Vec::with_capacity(piece.len() + 256);
        for line in piece.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(line);
            let limit = match self.divider.is_in_body() {
                true => self.lists.line_limit,
                false => self.lists.header_limit,
            };
            if line.ends_with(b"\n") {
                let mut line = std::mem::take(&mut self.partial);
                line.pop();
                self.line(&line, context, &mut out).await;
            } else if self.partial.len() > 2 * limit.max(4096) {
                self.long_line(context, &mut out).await;
            }
        }
        self.end_step(out)
    }

    fn end_step(&mut self, out: Vec<u8>) -> Vec<Step> {
        let text = Bytes::from(out);
        let log = self.take_log();
        self.steps.push(Step { text, log });
        std::mem::take(&mut self.steps)
    }

    /// The message is complete.
    pub async fn finish(&mut self, context: &Context<'_>) -> Vec<Step> {
        let mut out = Vec::new();
        let last = std::mem::take(&mut self.partial);
        if !last.is_empty() {
            self.line(&last, context, &mut out).await;
        }
        let pieces = self.divider.finish();
        self.pieces(pieces, context, &mut out).await;
        self.end_step(out)
    }

    /// A header that comes from elsewhere: as it is to be, or `None`.
    pub async fn header(&mut self, header: Vec<u8>, context: &Context<'_>) -> Option<Vec<u8>> {
        let mut before = Vec::new();
        let header = self
            .check_header(Owner::Message, header, context, &mut before)
            .await?;
        Some(header)
    }

    /// A line that grows too long to be held: of a body line the pieces go on, of a header the rest is left out.
    async fn long_line(&mut self, context: &Context<'_>, out: &mut Vec<u8>) {
        if !self.divider.is_in_body() {
            self.partial.truncate(self.lists.header_limit + 1);
            return;
        }
        let line = std::mem::take(&mut self.partial);
        let whole = line.len() / self.lists.line_limit * self.lists.line_limit;
        for chunk in line[..whole].chunks(self.lists.line_limit) {
            self.body_chunk(chunk, context, out, false).await;
        }
        self.partial = line[whole..].to_vec();
    }

    /// One line without its newline.
    async fn line(&mut self, line: &[u8], context: &Context<'_>, out: &mut Vec<u8>) {
        let line = self.characters(line, context);
        let line = line.as_ref();
        if !std::mem::replace(&mut self.begun, true) && crate::draft::is_mbox_separator(line) {
            // Not part of the message; what stores it makes a header of it.
            self.begun = false;
            out.extend_from_slice(line);
            out.push(b'\n');
            return;
        }
        if !self.divider.is_in_body() {
            self.divider.line(line);
            let pieces = self.divider.take();
            return self.pieces(pieces, context, out).await;
        }
        let mut chunks = line.chunks(self.lists.line_limit).peekable();
        if chunks.peek().is_none() {
            self.body_chunk(line, context, out, true).await;
        }
        while let Some(chunk) = chunks.next() {
            let ends = chunks.peek().is_none();
            self.body_chunk(chunk, context, out, ends).await;
        }
    }

    /// Without characters that are to be stripped; one that is not allowed refuses the message.
    fn characters<'a>(&mut self, line: &'a [u8], context: &Context<'_>) -> Cow<'a, [u8]> {
        let lists = Arc::clone(&self.lists);
        if !self.off && line.iter().any(|byte| lists.refused.contains(byte)) {
            let action = Action::Reject(EnhancedCode::new(5, 7, 1), "disallowed character".into());
            let text = String::from_utf8_lossy(line);
            self.log
                .extend(action.log_line("", "content", &text, context));
            self.act(action, Vec::new(), &mut Vec::new());
        }
        match line.iter().any(|byte| lists.stripped.contains(byte)) {
            true => {
                let kept = line.iter().copied();
                kept.filter(|byte| !lists.stripped.contains(byte)).collect()
            }
            false => Cow::Borrowed(line),
        }
    }

    /// A body line, or a piece of one.
    async fn body_chunk(
        &mut self,
        chunk: &[u8],
        context: &Context<'_>,
        out: &mut Vec<u8>,
        ends: bool,
    ) {
        match std::mem::replace(&mut self.cut, !ends) {
            true => self.divider.rest_of_line(chunk),
            false => self.divider.line(chunk),
        }
        let pieces = self.divider.take();
        self.pieces(pieces, context, out).await;
        if !ends && out.last() == Some(&b'\n') {
            out.pop();
        }
    }

    async fn pieces(&mut self, pieces: Vec<Piece>, context: &Context<'_>, out: &mut Vec<u8>) {
        for piece in pieces {
            let is_header = matches!(piece, Piece::Header(..));
            let text = match piece {
                Piece::Header(owner, header) => {
                    self.body = 0;
                    self.check_header(owner, header, context, out).await
                }
                Piece::Body(line) => self.check_body(line, context, out).await,
            };
            if let Some(text) = text {
                out.extend_from_slice(&text);
                out.push(b'\n');
            }
            if is_header && !self.log.is_empty() {
                let text = Bytes::from(std::mem::take(out));
                let log = self.take_log();
                self.steps.push(Step { text, log });
            }
        }
    }

    async fn check_header(
        &mut self,
        owner: Owner,
        header: Vec<u8>,
        context: &Context<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Vec<u8>> {
        let lists = Arc::clone(&self.lists);
        let list = lists.for_header(owner, &header);
        self.check(list, "header", header, context, out).await
    }

    async fn check_body(
        &mut self,
        line: Vec<u8>,
        context: &Context<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Vec<u8>> {
        let begin = self.body;
        self.body += line.len() as u64 + 1;
        if line.is_empty() || begin >= self.lists.body_limit {
            return Some(line);
        }
        let lists = Arc::clone(&self.lists);
        self.check(&lists.body, "body", line, context, out).await
    }

    /// Looks one text up and does what the table says. `None`: the text is left out.
    async fn check(
        &mut self,
        Named(parameter, list): &Named,
        what: &'static str,
        text: Vec<u8>,
        context: &Context<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Vec<u8>> {
        if self.off || list.is_empty() {
            return Some(text);
        }
        let key = String::from_utf8_lossy(&text);
        match list.lookup(&key).await {
            Ok(None) => return Some(text),
            Ok(Some(value)) => match Action::parse(&value, what == "header") {
                Ok(action) => {
                    let prefix = self.lists.prefix;
                    if let Some(line) = action.log_line(prefix, what, &key, context)
                        && !(matches!(action, Action::Hold(_)) && self.is_settled())
                    {
                        self.log.push(line);
                    }
                    return self.act(action, text, out);
                }
                Err(mistake) => {
                    let mistake = mistake.replace("%", parameter);
                    tracing::warn!(prog = "cleanup", "{mistake}");
                }
            },
            Err(error) => {
                let id = context.id;
                tracing::warn!(
                    prog = "cleanup",
                    "{id}: {parameter} map lookup problem ({error}) -- message not accepted, try again later"
                );
                self.findings.failed = true;
                self.off = true;
            }
        }
        Some(text)
    }

    /// On hold, or to be thrown away, already.
    fn is_settled(&self) -> bool {
        self.findings.hold.is_some() || self.findings.discard.is_some()
    }

    fn act(&mut self, action: Action, text: Vec<u8>, out: &mut Vec<u8>) -> Option<Vec<u8>> {
        let findings = &mut self.findings;
        match action {
            Action::Reject(code, reason) => {
                findings.reject.get_or_insert((code, reason));
                self.off = true;
            }
            Action::Discard(reason) => {
                findings.discard = Some(reason);
                self.off = true;
            }
            Action::Hold(reason) => {
                if findings.discard.is_none() {
                    findings.hold.get_or_insert(reason);
                }
            }
            Action::Filter(destination) => findings.filter = Some(destination),
            Action::Redirect(address) => {
                findings.redirect = Some(address);
                self.off = true;
            }
            Action::Bcc(address) => findings.bcc.push(address),
            Action::Prepend(line) => {
                out.extend_from_slice(line.as_bytes());
                out.push(b'\n');
            }
            Action::Replace(line) => return Some(line.into_bytes()),
            Action::Strip(_) | Action::Ignore => return None,
            Action::Info(_) | Action::Warn(_) | Action::Dunno => {}
        }
        Some(text)
    }
}
