//! Speaking the dialogues to one server, and what came of each: replies, log lines, mail; without what differs in every run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use testkit::smtp::Reply;
use testkit::{MailServer, Smtp, wait_for};

use super::next_hop::{Delivery, NextHop};
use super::{Dialogue, Suite};
use crate::support::PATIENCE;

/// What came of a dialogue.
#[derive(Debug, Default)]
pub struct Trace {
    pub replies: Vec<String>,
    pub log: Vec<String>,
    /// For each message that was queued: whether it is held or deferred, and as it came to the next hop.
    pub mail: Vec<String>,
}

impl Trace {
    /// Each text of a pair replaced by the other.
    pub fn hide(mut self, texts: &[(String, String)]) -> Trace {
        for lines in [&mut self.replies, &mut self.log, &mut self.mail] {
            for line in lines.iter_mut() {
                for (text, placeholder) in texts.iter().filter(|(text, _)| text.len() > 4) {
                    *line = line.replace(text, placeholder);
                }
            }
        }
        self
    }
}

pub fn run(
    suite: &Suite,
    server: &MailServer,
    ports: &BTreeMap<String, u16>,
    next_hop: &NextHop,
) -> Vec<Trace> {
    // The connection that found out whether the server is up has its lines, too.
    let mut read = wait_disconnect(server, 0);
    let mut traces = Vec::new();
    let mut ids = Vec::new();
    for dialogue in &suite.dialogues {
        let port = ports[&dialogue.service];
        let replies = speak(dialogue, port).unwrap_or_else(|error| {
            let (name, log) = (&dialogue.name, server.log());
            panic!(
                "{name}: no reply: {error}; the log since then:\n{}",
                &log[read..]
            )
        });
        let end = wait_disconnect(server, read);
        let log = server.site.log();
        let lines: Vec<Line> = log[read..end].lines().filter_map(Line::read).collect();
        let smtpd = lines.iter().filter(|line| line.program == "smtpd");
        let begun = smtpd
            .clone()
            .filter(|line| line.text.starts_with("client="));
        ids.push(Ids {
            begun: begun.filter_map(|line| line.id.clone()).collect(),
            queued: replies
                .iter()
                .filter_map(|reply| testkit::queue_id(reply).map(str::to_owned))
                .collect(),
        });
        traces.push(Trace {
            log: smtpd.map(Line::shown).collect(),
            replies: replies.iter().map(|reply| mask_reply(reply)).collect(),
            mail: Vec::new(),
        });
        read = end;
    }
    let states = settle(server);
    let deliveries = next_hop.deliveries();
    let log = server.site.log();
    let lines: Vec<Line> = log.lines().filter_map(Line::read).collect();
    for (trace, ids) in traces.iter_mut().zip(&ids) {
        for id in &ids.begun {
            let cleanup = lines.iter().filter(|line| line.program == "cleanup");
            let its = cleanup.filter(|line| line.id.as_ref() == Some(id));
            trace.log.extend(its.map(Line::shown));
        }
        for id in &ids.queued {
            let state = states.get(id).copied().unwrap_or("gone");
            trace.mail.push(format!("message {state}"));
            trace.mail.extend(arrived(id, &deliveries));
        }
    }
    traces
}

/// The queue ids of a dialogue.
struct Ids {
    /// Messages with a recipient.
    begun: Vec<String>,
    /// Messages that were taken.
    queued: Vec<String>,
}

/// Sends the lines; the replies, the greeting first. `(closed)` where the server has ended the connection. An error when it
/// says nothing at all.
fn speak(dialogue: &Dialogue, port: u16) -> std::io::Result<Vec<String>> {
    let mut smtp = Smtp::connect(port);
    let mut replies = Vec::new();
    if !hear(&mut smtp, &mut replies)? {
        return Ok(replies);
    }
    let mut refused_data = false;
    let mut waiting = 0;
    let mut together = String::new();
    for line in &dialogue.lines {
        if let Some(body) = line.strip_prefix('|') {
            if !refused_data {
                together += &format!("{body}\r\n");
            }
            continue;
        }
        if line == "." && std::mem::take(&mut refused_data) {
            continue;
        }
        waiting += 1;
        if let Some(line) = line.strip_prefix('+') {
            together += &format!("{line}\r\n");
            continue;
        }
        together += &format!("{line}\r\n");
        smtp.send(std::mem::take(&mut together));
        for _ in 0..std::mem::take(&mut waiting) {
            if !hear(&mut smtp, &mut replies)? {
                return Ok(replies);
            }
        }
        let begins = replies.last().is_some_and(|reply| reply.starts_with("354"));
        refused_data = line.eq_ignore_ascii_case("DATA") && !begins;
    }
    Ok(replies)
}

/// Reads a reply; false at the end of the connection.
fn hear(smtp: &mut Smtp, replies: &mut Vec<String>) -> std::io::Result<bool> {
    let closed = [
        std::io::ErrorKind::UnexpectedEof,
        std::io::ErrorKind::ConnectionReset,
    ];
    match smtp.try_reply() {
        Ok(reply) => replies.push(show(&reply)),
        Err(error) if closed.contains(&error.kind()) => {
            replies.push("(closed)".to_owned());
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    Ok(true)
}

fn show(reply: &Reply) -> String {
    let lines: Vec<String> = reply
        .text
        .lines()
        .map(|line| format!("{} {line}", reply.code))
        .collect();
    lines.join(" | ")
}

/// Queue ids, and the keyword that Postroom does not have.
fn mask_reply(reply: &str) -> String {
    let lines = reply.split(" | ").filter(|line| *line != "250 CHUNKING");
    let text = lines.collect::<Vec<_>>().join(" | ");
    match text.split_once("queued as ") {
        Some((head, _)) => format!("{head}queued as ID"),
        None => text,
    }
}

/// Waits for the end of a session in the log behind `from`; the place behind its line.
fn wait_disconnect(server: &MailServer, from: usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = server.site.log();
        let new = log.get(from..).unwrap_or_default();
        let ends = ["]: disconnect from ", "]: fatal: "];
        let end = ends.iter().filter_map(|text| new.find(text)).min();
        let end = end.and_then(|at| Some(from + at + new[at..].find('\n')? + 1));
        match end {
            Some(end) => return end,
            None if Instant::now() > deadline => {
                panic!("the log shows no end of the session:\n{new}")
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// A line of smtpd or cleanup without time and process.
struct Line {
    program: String,
    id: Option<String>,
    text: String,
}

impl Line {
    fn read(line: &str) -> Option<Line> {
        let (head, text) = line.split_once("]: ")?;
        let program = head.rsplit('/').next()?.split('[').next()?;
        if !["smtpd", "cleanup"].contains(&program) || text.starts_with("connect from ") {
            return None;
        }
        let is_id = |word: &str| {
            word.len() >= 8
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && word.bytes().any(|byte| byte.is_ascii_digit())
        };
        let (id, text) = match text.split_once(": ") {
            Some((id, rest)) if is_id(id) => (Some(id), rest),
            _ => (None, text),
        };
        Some(Line {
            program: program.to_owned(),
            id: id.map(str::to_owned),
            text: text.to_owned(),
        })
    }

    /// Without the id.
    fn shown(&self) -> String {
        match &self.id {
            Some(id) => format!("{}: ID: {}", self.program, mask_message_id(&self.text, id)),
            None => format!("{}: {}", self.program, self.text),
        }
    }
}

/// `message-id=<20261122164726.ID@host>`, as the server makes it.
fn mask_message_id(text: &str, id: &str) -> String {
    match text.split_once(&format!(".{id}@")) {
        Some((head, rest)) => {
            let start = head.rfind('<').map_or(head, |at| &head[..=at]);
            format!("{start}TIME.ID@{rest}")
        }
        None => text.replace(id, "ID"),
    }
}

/// Waits until nothing in the queue moves any more: `held` and `deferred` messages by their ids.
fn settle(server: &MailServer) -> BTreeMap<String, &'static str> {
    wait_for("a queue at rest", PATIENCE, || {
        let mut states = BTreeMap::new();
        for line in server.run_tool("postqueue", &["-j"]).lines() {
            let name = field(line, "queue_name")?;
            let id = field(line, "queue_id")?;
            let state = match name.as_str() {
                "hold" => "held",
                "deferred" => "deferred",
                _ => return None,
            };
            states.insert(id, state);
        }
        Some(states)
    })
}

/// A field of `postqueue -j`'s flat start.
fn field(line: &str, name: &str) -> Option<String> {
    let rest = line.split(&format!("\"{name}\": \"")).nth(1)?;
    Some(rest.split('"').next()?.to_owned())
}

/// What came to the next hop of this message: places, envelopes, the distinct texts.
fn arrived(id: &str, deliveries: &[Delivery]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut texts: Vec<String> = Vec::new();
    for delivery in deliveries.iter().filter(|delivery| delivery.id() == id) {
        // Recipients may come in one session or in several.
        for line in &delivery.envelope {
            let line = mask_message_id(line, id);
            lines.push(format!("{}: {}", delivery.place, line));
        }
        let text = mask_message(&delivery.message, id);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    lines.sort();
    lines.dedup();
    texts.sort();
    for text in texts {
        lines.extend(text.lines().map(|line| format!("| {line}")));
    }
    lines
}

fn mask_message(message: &str, id: &str) -> String {
    let masked = message.lines().map(|line| {
        let line = mask_message_id(line, id);
        // The date of `Received:` and of `Date:` that the server adds.
        match line.find(|c: char| c.is_ascii_digit()) {
            Some(_) if line.ends_with("(UTC)") => {
                let words: Vec<&str> = line.split(' ').collect();
                let kept = words.len().saturating_sub(7);
                format!("{} DATE", words[..kept].join(" "))
            }
            _ => line,
        }
    });
    masked.collect::<Vec<_>>().join("\n")
}
