//! header_checks(5) and body_checks(5): a message goes through line by line, tables say what to do with what they find.

mod action;

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
        let named = |name: &'static str| -> Result<Named, ConfigError> {
            Ok(Named(name, tables.open_list_lenient(&config.string(name)?)))
        };
        let limit = |name: &str| {
            config
                .int(name)
                .map(|value| usize::try_from(value).unwrap_or(0))
        };
        let nothing = || Named("", TableList::default());
        let (header, mime, nested, body) = match lists {
            Lists::Message => {
                let overrides = config.list("receive_override_options")?;
                if overrides.iter().any(|word| word == "no_header_body_checks") {
                    return Ok(None);
                }
                (
                    named("header_checks")?,
                    named("mime_header_checks")?,
                    named("nested_header_checks")?,
                    named("body_checks")?,
                )
            }
            Lists::Milter => (
                named("milter_header_checks")?,
                nothing(),
                nothing(),
                nothing(),
            ),
        };
        if [&header, &mime, &nested, &body]
            .iter()
            .all(|list| list.1.is_empty())
        {
            return Ok(None);
        }
        Ok(Some(CheckLists {
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
        }))
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

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: Context<'static> = Context {
        id: "ID",
        client: "unknown[127.0.0.1]",
        sender: "a@b.example",
        recipient: Some("john@example.org"),
        protocol: "ESMTP",
        helo: "c.example",
    };

    /// Each parameter with the lines of its regexp table.
    fn lists(tables: &[(&str, &str)], more: &str) -> Arc<CheckLists> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut main_cf = more.to_owned();
        for (name, lines) in tables {
            let file = dir.path().join(name);
            std::fs::write(&file, lines).expect("the folder is ours");
            main_cf.push_str(&format!("{name} = regexp:{}\n", file.display()));
        }
        let config = Config::from_text(&main_cf, "").expect("it is well formed");
        let tables = Tables::new(&config);
        let lists = CheckLists::of(&config, &tables, Lists::Message);
        Arc::new(lists.expect("it is well formed").expect("there are checks"))
    }

    async fn run(lists: &Arc<CheckLists>, text: &[u8], size: usize) -> (Vec<u8>, Findings) {
        let mut checker = Checker::new(Arc::clone(lists));
        let mut out = Vec::new();
        for piece in text.chunks(size) {
            for step in checker.feed(piece, &CONTEXT).await {
                out.extend_from_slice(&step.text);
            }
        }
        for step in checker.finish(&CONTEXT).await {
            out.extend_from_slice(&step.text);
        }
        (out, checker.into_findings())
    }

    #[tokio::test]
    async fn each_kind_of_line_has_its_tables() {
        let lists = lists(
            &[
                (
                    "header_checks",
                    "/^Subject: one/ REPLACE Subject: two\n/^X-Drop/ IGNORE\n/^X-Pre/ PREPEND X-New: 1\n",
                ),
                (
                    "mime_header_checks",
                    "/^Content-Type: text/ REPLACE Content-Type: text/x\n",
                ),
                ("nested_header_checks", "/^Subject:/ STRIP\n"),
                ("body_checks", "/secret/ REPLACE [gone]\n/^gone/ IGNORE\n"),
            ],
            "",
        );
        let text = b"Subject: one\n more\nX-Drop: a\n b\nX-Pre: 1\nContent-Type: multipart/mixed; boundary=b\n\nsecret\n--b\nContent-Type: text/plain\nSubject: part\n\ngone\ngo on\n--b\nContent-Type: message/rfc822\n\nSubject: inner\nTo: x\n\na secret\n--b--\n";
        let expected = b"Subject: two\nX-New: 1\nX-Pre: 1\nContent-Type: multipart/mixed; boundary=b\n\n[gone]\n--b\nContent-Type: text/x\nSubject: part\n\ngo on\n--b\nContent-Type: message/rfc822\n\nTo: x\n\n[gone]\n--b--\n";
        for size in [1, 2, 7, 1000] {
            let (out, findings) = run(&lists, text, size).await;
            assert_eq!(
                String::from_utf8_lossy(&out),
                String::from_utf8_lossy(expected)
            );
            assert_eq!(findings, Findings::default());
        }
    }

    #[tokio::test]
    async fn what_nothing_is_said_of_stays_as_it_is() {
        let lists = lists(
            &[
                ("header_checks", "/^Nothing:/ REJECT\n"),
                ("body_checks", "/^nothing$/ REJECT\n"),
            ],
            "",
        );
        let long = "x".repeat(10_000);
        let text = format!(
            "From here to there\nA: b\n c\nno header\n{long}\n.\n\u{e9}\n{long}{long}\nend\n"
        );
        let expected = text.replace("no header", "\nno header");
        for size in [1, 100, 5000, 100_000] {
            let (out, findings) = run(&lists, text.as_bytes(), size).await;
            assert_eq!(String::from_utf8_lossy(&out), expected, "{size}");
            assert_eq!(findings, Findings::default());
        }
    }

    #[tokio::test]
    async fn findings_are_kept() {
        let lists = lists(
            &[
                (
                    "header_checks",
                    "/^Hold/ HOLD why\n/^Bcc-To/ BCC x@y.example\n/^Route/ FILTER smtp:h\n/^Bad/ REJECT 5.7.9 no\n",
                ),
                ("body_checks", "/./ DISCARD\n"),
            ],
            "body_checks_size_limit = 4\n",
        );
        let (_, found) = run(&lists, b"Hold: 1\nBcc-To: 1\nRoute: 1\n\n\n\n\n\nlate\n", 9).await;
        assert_eq!(found.hold.as_deref(), Some("why"));
        assert_eq!(found.bcc, ["x@y.example"]);
        assert_eq!(found.filter.as_deref(), Some("smtp:h"));
        assert_eq!(found.discard, None);
        let (_, found) = run(&lists, b"Bad: 1\nHold: 1\n\nbody\n", 9).await;
        let code = EnhancedCode::new(5, 7, 9);
        assert_eq!(found.reject, Some((code, "no".to_owned())));
        assert_eq!((found.hold, found.discard), (None, None));
        let (_, found) = run(&lists, b"A: 1\n\nbody\n", 9).await;
        assert_eq!(found.discard.as_deref(), Some(""));
    }

    #[tokio::test]
    async fn a_table_that_fails_is_no_answer() {
        let lists = lists(&[], "body_checks = fail:now\n");
        let (out, found) = run(&lists, b"A: b\n\nx\n", 100).await;
        assert!(found.failed);
        assert_eq!(out, b"A: b\n\nx\n");
    }
}
