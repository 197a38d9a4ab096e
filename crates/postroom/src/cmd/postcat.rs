//! `postroom postcat`: shows a message of the queue, as postcat(1).

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use queue::control::QueueName;
use queue::{Envelope, Message, QueueError, QueueId, Reader, RecipientState};

use super::queue_tool::{Fatal, ctime, fatal, finish, parse, queue_directory};

const USAGE: &str = "usage: postcat [-b (body text)] [-c config_dir] [-d (decimal record type)] [-e (envelope records)] [-h (header text)] [-q (access queue)] [-v] [file(s)...]";

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    finish("postcat", try_run(args))
}

/// Which parts are shown; the lines of stars only with the envelope.
#[derive(Clone, Copy)]
struct Parts {
    envelope: bool,
    header: bool,
    body: bool,
}

fn try_run(args: &[OsString]) -> Result<(), Fatal> {
    // As postcat's `-q` is a switch, the ids are the other arguments.
    let parsed = parse(args, "bc:dehoqv").map_err(|problem| {
        eprintln!("postcat: {problem}");
        fatal(USAGE)
    })?;
    let any = ['b', 'e', 'h'].iter().any(|part| parsed.has(*part));
    let parts = Parts {
        envelope: parsed.has('e') || !any,
        header: parsed.has('h') || !any,
        body: parsed.has('b') || !any,
    };
    if parsed.others.is_empty() {
        return Err(fatal(USAGE));
    }
    let queue = match parsed.has('q') {
        true => Some(Reader::new(&queue_directory(parsed.value('c'))?)),
        false => None,
    };
    for name in &parsed.others {
        let message = match &queue {
            Some(reader) => by_id(reader, name)?,
            None => by_path(name)?,
        };
        show(&message, parts, &mut io::stdout().lock())
            .or_else(|error| match error.kind() {
                // The reader (`head`, `less`) has seen enough.
                io::ErrorKind::BrokenPipe => Ok(()),
                _ => Err(error),
            })
            .map_err(|error| fatal(format!("write error: {error}")))?;
    }
    Ok(())
}

fn by_id(reader: &Reader, name: &str) -> Result<Message, Fatal> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(fatal(format!("bad mail queue ID: {name}")));
    }
    let id = name.parse::<QueueId>().map_err(|_| missing(name))?;
    reader.load(id, 0).map_err(|error| match error {
        QueueError::NotFound(_) => missing(name),
        other => fatal(other.to_string()),
    })
}

/// A message file by its path: `…/postroom/queue/ID`.
fn by_path(path: &str) -> Result<Message, Fatal> {
    let mut above = Path::new(path).ancestors();
    let name = above
        .next()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    match (name, above.nth(2)) {
        (Some(name), Some(queue_directory)) => {
            by_id(&Reader::new(queue_directory), name).map_err(|error| {
                match error.text.starts_with("open queue file") {
                    true => missing(path),
                    false => error,
                }
            })
        }
        _ => Err(missing(path)),
    }
}

fn missing(name: &str) -> Fatal {
    fatal(format!("open queue file {name}: No such file or directory"))
}

fn show(message: &Message, parts: Parts, out: &mut impl Write) -> io::Result<()> {
    let queue = QueueName::of(&message.envelope).as_str();
    let name = format!("{queue}/{}", message.id);
    if parts.envelope {
        writeln!(out, "*** ENVELOPE RECORDS {name} ***")?;
        show_envelope(message.id, &message.envelope, out)?;
        writeln!(out, "*** MESSAGE CONTENTS {name} ***")?;
    }
    if parts.header || parts.body {
        show_content(message, parts, out)?;
    }
    if parts.envelope {
        writeln!(out, "*** HEADER EXTRACTED {name} ***")?;
        writeln!(out, "*** MESSAGE FILE END {name} ***")?;
    }
    out.flush()
}

fn show_envelope(id: QueueId, envelope: &Envelope, out: &mut impl Write) -> io::Result<()> {
    let size = envelope.size_as_sent();
    writeln!(
        out,
        "message_size: {size:>15} {:>15} {:>15} {:>15} {size:>15} {:>15}",
        0,
        envelope.recipients.len(),
        0,
        u8::from(envelope.smtputf8),
    )?;
    let arrival = ctime(envelope.arrival);
    writeln!(out, "message_arrival_time: {arrival}")?;
    writeln!(out, "create_time: {arrival}")?;
    let mut attribute = |name: &str, value: &str| match value {
        "" => Ok(()),
        value => writeln!(out, "named_attribute: {name}={value}"),
    };
    attribute("log_ident", id.as_str())?;
    attribute("envelope_id", envelope.envid.as_deref().unwrap_or(""))?;
    writeln!(out, "sender: {}", envelope.sender)?;
    let mut attribute = |name: &str, value: &str| match value {
        "" => Ok(()),
        value => writeln!(out, "named_attribute: {name}={value}"),
    };
    let client = &envelope.client;
    let port = match client.port {
        0 => String::new(),
        port => port.to_string(),
    };
    let facts = [
        ("client_name", client.name.as_str()),
        ("client_address", &client.addr),
        ("client_port", &port),
        ("helo_name", &client.helo),
        ("protocol_name", &client.protocol),
    ];
    for (name, value) in facts {
        attribute(&format!("log_{name}"), value)?;
    }
    for (name, value) in facts {
        attribute(name, value)?;
    }
    for (name, value) in &envelope.attributes {
        attribute(name, value)?;
    }
    for recipient in &envelope.recipients {
        if let Some(orcpt) = &recipient.orcpt {
            writeln!(out, "named_attribute: dsn_orig_rcpt={orcpt}")?;
        }
        if !recipient.original.is_empty() {
            writeln!(out, "original_recipient: {}", recipient.original)?;
        }
        let kind = match recipient.state {
            RecipientState::Sent | RecipientState::Bounced { .. } => "done_recipient",
            _ => "recipient",
        };
        writeln!(out, "{kind}: {}", recipient.address)?;
    }
    Ok(())
}

/// The header ends before the first empty line, which belongs to the body.
fn show_content(message: &Message, parts: Parts, out: &mut impl Write) -> io::Result<()> {
    let mut lines = BufReader::new(message.content.reader()?);
    let mut line = Vec::new();
    let mut in_header = true;
    while lines.read_until(b'\n', &mut line)? > 0 {
        in_header = in_header && line != b"\n";
        if (in_header && parts.header) || (!in_header && parts.body) {
            out.write_all(&line)?;
        }
        line.clear();
    }
    Ok(())
}
