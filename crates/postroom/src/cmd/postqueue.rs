//! `postroom postqueue`: lists the queue and asks for delivery attempts, as postqueue(1).

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use queue::control::{self, QueueName, Request, Response};
use queue::{Listed, QueueId, Reader, Recipient, RecipientState};

use super::queue_tool::{Fatal, Parsed, ctime, fatal, finish, parse, printable, queue_directory};

const USAGE: &str =
    "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site";
/// sysexits(3) EX_UNAVAILABLE, for usage errors too, as in Postfix.
const UNAVAILABLE: u8 = 69;

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    finish("postqueue", try_run(args))
}

/// `mailq`: the same as `postqueue -p`.
pub fn mailq(args: &[OsString]) -> ExitCode {
    let mut all = vec![OsString::from("-p")];
    all.extend_from_slice(args);
    run(&all)
}

fn try_run(args: &[OsString]) -> Result<(), Fatal> {
    let parsed = parse(args, "c:fi:jps:v").map_err(|problem| {
        eprintln!("postqueue: {problem}");
        unavailable(USAGE)
    })?;
    let wanted: Vec<char> = ['f', 'i', 'j', 'p', 's']
        .into_iter()
        .filter(|letter| parsed.has(*letter))
        .collect();
    let ([wanted], true) = (&wanted[..], parsed.others.is_empty()) else {
        return Err(unavailable(USAGE));
    };
    let request = match wanted {
        'j' | 'p' => None,
        letter => Some(request(*letter, &parsed)?),
    };
    let directory = queue_directory(parsed.value('c'))?;
    match request {
        Some(request) => flush(&directory, &request),
        None => show(&directory, *wanted == 'j'),
    }
}

fn unavailable(text: impl Into<String>) -> Fatal {
    Fatal {
        status: UNAVAILABLE,
        text: text.into(),
    }
}

fn request(letter: char, parsed: &Parsed) -> Result<Request, Fatal> {
    let value = parsed.value(letter).unwrap_or("");
    match letter {
        'f' => Ok(Request::FlushAll),
        's' => Ok(Request::FlushSite {
            site: value.trim_matches(['[', ']']).to_owned(),
        }),
        _ => match value.parse::<QueueId>() {
            Ok(id) => Ok(Request::FlushId { id }),
            Err(_) => Err(unavailable(format!(
                "Cannot flush queue ID - invalid name: \"{value}\""
            ))),
        },
    }
}

fn flush(directory: &Path, request: &Request) -> Result<(), Fatal> {
    match control::ask(directory, request).map_err(|error| unavailable(error.to_string()))? {
        Some(Response::Done { .. }) => Ok(()),
        Some(Response::Failed { message }) => Err(unavailable(message)),
        None => Err(unavailable("Cannot flush mail queue - mail system is down")),
    }
}

fn show(directory: &Path, json: bool) -> Result<(), Fatal> {
    let listed = Reader::new(directory).list();
    let mut listed = listed.map_err(|error| fatal(error.to_string()))?;
    // Stable: within a queue, the oldest stays first.
    listed.sort_by_key(|message| QueueName::of(&message.envelope));
    let text = match json {
        true => listed.iter().map(json_line).collect(),
        false => table(&listed),
    };
    // A reader that closes early (`mailq | head`) is no mistake of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Postfix's name for the null sender in lists.
fn sender(message: &Listed) -> String {
    match message.envelope.sender.as_str() {
        "" => "MAILER-DAEMON".to_owned(),
        sender => mail::address::quote_local(sender),
    }
}

fn waiting(message: &Listed) -> impl Iterator<Item = &Recipient> {
    let recipients = &message.envelope.recipients;
    message
        .envelope
        .unfinished()
        .map(|index| &recipients[index])
}

fn reason(recipient: &Recipient) -> &str {
    match &recipient.state {
        RecipientState::Deferred { text, .. } => text,
        _ => "",
    }
}

fn table(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "Mail queue is empty\n".to_owned();
    }
    let mut text =
        String::from("-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------\n");
    for message in listed {
        let mark = match QueueName::of(&message.envelope) {
            QueueName::Hold => "!",
            QueueName::Active => "*",
            _ => "",
        };
        let id = format!("{}{mark}", message.id);
        let arrival = ctime(message.envelope.arrival);
        text.push_str(&format!(
            "{id:<11} {:>7} {:<20} {}\n",
            message.envelope.size_as_sent(),
            arrival.get(..19).unwrap_or(&arrival),
            printable(&sender(message))
        ));
        let mut last = "";
        for recipient in waiting(message) {
            let reason = reason(recipient);
            if !reason.is_empty() && reason != last {
                let indent = 76_usize.saturating_sub(reason.len());
                text.push_str(&format!("{:indent$}({})\n", "", printable(reason)));
            }
            last = reason;
            let address = mail::address::quote_local(&recipient.address);
            text.push_str(&format!("{:41}{}\n", "", printable(&address)));
        }
        text.push('\n');
    }
    let bytes: u64 = listed
        .iter()
        .map(|message| message.envelope.size_as_sent())
        .sum();
    let plural = if listed.len() == 1 { "" } else { "s" };
    text.push_str(&format!(
        "-- {} Kbytes in {} Request{plural}.\n",
        bytes / 1024,
        listed.len()
    ));
    text
}

/// Postfix's member order and spacing.
fn json_line(message: &Listed) -> String {
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let envelope = &message.envelope;
    let arrival = envelope
        .arrival
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let recipients: Vec<String> = waiting(message)
        .map(|recipient| {
            let address = quote(&mail::address::quote_local(&recipient.address));
            match reason(recipient) {
                "" => format!("{{\"address\": {address}}}"),
                text => format!(
                    "{{\"address\": {address}, \"delay_reason\": {}}}",
                    quote(text)
                ),
            }
        })
        .collect();
    format!(
        "{{\"queue_name\": \"{}\", \"queue_id\": \"{}\", \"arrival_time\": {}, \"message_size\": {}, \"forced_expire\": false, \"sender\": {}, \"recipients\": [{}]}}\n",
        QueueName::of(envelope).as_str(),
        message.id,
        arrival.as_secs(),
        envelope.size_as_sent(),
        quote(&sender(message)),
        recipients.join(", ")
    )
}
