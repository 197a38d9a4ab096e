//! Delivery status notifications: `multipart/report` as RFC 3462 and RFC 3464 define it.
//!
//! The structure is the one that bounce(8) gives its reports, so that programs which sort bounces
//! recognize ours.

use std::io::{self, Read};
use std::time::SystemTime;

use mail::address::quote_local;
use mail::date;
use queue::Ret;

use crate::request::{Message, Outcome, Rcpt, Status};

/// What the report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Recipients that will not get the message.
    Failure,
    /// Recipients that have not got it yet (`delay_warning_time`).
    Delay,
    /// Recipients that have got it, and wanted to tell (`NOTIFY=SUCCESS`).
    Success,
}

/// Facts of this host and its settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `$myhostname`.
    pub hostname: String,
    /// `$myorigin`: the domain of the `From:` address.
    pub origin: String,
    /// `$mail_name`, in `Received:`.
    pub mail_name: String,
    /// `bounce_size_limit`: bytes of the message that a failure report returns at most.
    pub size_limit: u64,
    /// `maximal_queue_lifetime` in words, such as `5 days`; a delay report says how long we go on trying.
    pub queue_lifetime: String,
}

impl Settings {
    /// From main.cf.
    pub fn of(config: &config::Config) -> Result<Settings, config::ConfigError> {
        let lifetime = config.time("maximal_queue_lifetime")?.as_secs();
        let queue_lifetime = match (lifetime / 86_400, lifetime.div_ceil(3600)) {
            (0, hours) => format!("{hours} hours"),
            (days, _) => format!("{days} days"),
        };
        Ok(Settings {
            hostname: config.string("myhostname")?,
            origin: config.string("myorigin")?,
            mail_name: config.string("mail_name")?,
            size_limit: u64::try_from(config.int("bounce_size_limit")?).unwrap_or(0),
            queue_lifetime,
        })
    }
}

/// A composed report, ready for the queue. Its envelope sender is `<>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The sender of the message reported on, in internal form.
    pub recipient: String,
    /// Header and body, lines ending in `\n`.
    pub content: Vec<u8>,
    /// With its brackets.
    pub message_id: String,
    /// The returned text or an address is not ASCII.
    pub smtputf8: bool,
}

/// Whether the sender wants to hear of this outcome (RFC 3461 section 4.1). Never for the null sender.
pub fn is_wanted(kind: Kind, message: &Message, recipient: &Rcpt) -> bool {
    let notify = recipient.notify;
    !message.sender.is_empty()
        && match kind {
            Kind::Failure => notify.on_failure() && !notify.never,
            Kind::Delay => notify.on_delay() && !notify.never,
            Kind::Success => notify.success,
        }
}

/// Composes one report on all `recipients`; the caller has chosen them by [`is_wanted`].
///
/// `report_id` is the queue id that the report itself will have, `now` its date. Fails when the content
/// of the message cannot be read.
pub fn compose(
    settings: &Settings,
    kind: Kind,
    message: &Message,
    recipients: &[(&Rcpt, &Outcome)],
    report_id: &str,
    now: SystemTime,
) -> io::Result<Report> {
    let returned = Returned::of(settings, kind, message)?;
    let boundary = returned.boundary(message, settings, now);
    let text = explanation(settings, kind, recipients);
    let status = status_part(settings, kind, message, recipients);
    let smtputf8 = message.smtputf8 || !text.is_ascii() || !status.is_ascii();

    let mut out = header(settings, kind, message, report_id, &boundary, now).into_bytes();
    let charset = "text/plain; charset=utf-8";
    part(
        &mut out,
        &boundary,
        "Notification",
        charset,
        true,
        text.as_bytes(),
    );
    let report_type = if smtputf8 {
        "message/global-delivery-status"
    } else {
        "message/delivery-status"
    };
    part(
        &mut out,
        &boundary,
        report_subject(kind),
        report_type,
        smtputf8,
        status.as_bytes(),
    );
    let (description, content_type) = returned.kind(kind, message.smtputf8);
    part(
        &mut out,
        &boundary,
        description,
        content_type,
        true,
        &returned.bytes,
    );
    out.extend_from_slice(format!("--{boundary}--\n").as_bytes());
    Ok(Report {
        recipient: message.sender.clone(),
        content: out,
        message_id: message_id(settings, report_id, now),
        smtputf8,
    })
}

fn report_subject(kind: Kind) -> &'static str {
    match kind {
        Kind::Failure => "Delivery report",
        Kind::Delay => "Delivery delay report",
        Kind::Success => "Delivery success report",
    }
}

fn header(
    settings: &Settings,
    kind: Kind,
    message: &Message,
    report_id: &str,
    boundary: &str,
    now: SystemTime,
) -> String {
    let subject = match kind {
        Kind::Failure => "Undelivered Mail Returned to Sender",
        Kind::Delay => "Delayed Mail (still being retried)",
        Kind::Success => "Successful Mail Delivery Report",
    };
    let Settings {
        hostname,
        origin,
        mail_name,
        ..
    } = settings;
    let date = date::rfc5322(now);
    let to = quote_local(&message.sender);
    let message_id = message_id(settings, report_id, now);
    format!(
        "Received: by {hostname} ({mail_name})\n\tid {report_id}; {date}\n\
         Date: {date}\n\
         From: Mail Delivery System <MAILER-DAEMON@{origin}>\n\
         Subject: {subject}\n\
         To: {to}\n\
         Auto-Submitted: auto-replied\n\
         MIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"{boundary}\"\n\
         Content-Transfer-Encoding: 8bit\n\
         Message-Id: {message_id}\n\
         \n\
         This is a MIME-encapsulated message.\n\n"
    )
}

fn message_id(settings: &Settings, report_id: &str, now: SystemTime) -> String {
    let hostname = &settings.hostname;
    format!("<{}.{report_id}@{hostname}>", unix_seconds(now))
}

fn part(
    out: &mut Vec<u8>,
    boundary: &str,
    description: &str,
    kind: &str,
    eight_bit: bool,
    body: &[u8],
) {
    let mut head =
        format!("--{boundary}\nContent-Description: {description}\nContent-Type: {kind}\n");
    if eight_bit {
        head.push_str("Content-Transfer-Encoding: 8bit\n");
    }
    out.extend_from_slice(head.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(body);
    if !body.ends_with(b"\n") {
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// The part that people read.
fn explanation(settings: &Settings, kind: Kind, recipients: &[(&Rcpt, &Outcome)]) -> String {
    let host = &settings.hostname;
    let words = match kind {
        Kind::Failure => {
            "Your message could not be delivered to the recipients below, and will not be\n\
             tried again. The reason stands behind each address; the message follows.\n\n\
             If you need help, write to postmaster and include this report."
                .to_owned()
        }
        Kind::Delay => format!(
            "This is a warning only. You need not send your message again.\n\n\
             Your message has not reached the recipients below yet. Delivery is tried\n\
             again until the message is {} old.",
            settings.queue_lifetime
        ),
        Kind::Success => {
            "Your message was delivered to the recipients below, or handed on to a system\n\
             that may not report further."
                .to_owned()
        }
    };
    let mut text = format!("This is the mail system at host {host}.\n\n{words}\n\n");
    for (recipient, outcome) in recipients {
        let mut line = format!("<{}>", quote_local(&recipient.address));
        if !recipient.original.is_empty() && recipient.original != recipient.address {
            line.push_str(&format!(
                " (expanded from <{}>)",
                quote_local(&recipient.original)
            ));
        }
        line.push_str(": ");
        line.push_str(&reason(kind, outcome));
        text.push_str(&fold(&line, 78));
        text.push_str("\n\n");
    }
    text
}

fn reason(kind: Kind, outcome: &Outcome) -> String {
    match kind {
        Kind::Success => format!("delivery via {}: {}", outcome.relay, outcome.text),
        Kind::Failure | Kind::Delay => outcome.text.clone(),
    }
}

/// RFC 3464 section 2: fields of the message, then a group of fields for each recipient.
fn status_part(
    settings: &Settings,
    kind: Kind,
    message: &Message,
    recipients: &[(&Rcpt, &Outcome)],
) -> String {
    let address_type = |address: &str| {
        if address.is_ascii() {
            "rfc822"
        } else {
            "utf-8"
        }
    };
    let mut text = format!("Reporting-MTA: dns; {}\n", settings.hostname);
    if let Some(envid) = &message.envid {
        let plain = decode_xtext(envid);
        text.push_str(&format!("Original-Envelope-Id: {}\n", one_line(&plain)));
    }
    let sender = quote_local(&message.sender);
    text.push_str(&format!("X-Postfix-Queue-ID: {}\n", message.id));
    text.push_str(&format!(
        "X-Postfix-Sender: {}; {sender}\n",
        address_type(&sender)
    ));
    text.push_str(&format!(
        "Arrival-Date: {}\n",
        date::rfc5322(message.arrival)
    ));
    for (recipient, outcome) in recipients {
        let address = quote_local(&recipient.address);
        text.push_str(&format!(
            "\nFinal-Recipient: {}; {address}\n",
            address_type(&address)
        ));
        if let Some(original) = original_recipient(recipient) {
            text.push_str(&format!("Original-Recipient: {original}\n"));
        }
        text.push_str(&format!("Action: {}\n", action(kind, outcome)));
        text.push_str(&format!("Status: {}\n", outcome.dsn));
        let (kind_of_diagnostic, diagnostic) = match &outcome.remote {
            Some(remote) => {
                if let Some(mta) = &remote.mta {
                    text.push_str(&format!("Remote-MTA: dns; {mta}\n"));
                }
                (remote.kind, remote.diagnostic.clone())
            }
            None => ("X-Postfix", reason(kind, outcome)),
        };
        let line = format!(
            "Diagnostic-Code: {kind_of_diagnostic}; {}",
            one_line(&diagnostic)
        );
        text.push_str(&fold(&line, 78));
        text.push('\n');
    }
    text
}

fn action(kind: Kind, outcome: &Outcome) -> &'static str {
    match (kind, outcome.status, outcome.is_final) {
        (Kind::Delay, ..) => "delayed",
        (_, Status::Sent, true) => "delivered",
        (_, Status::Sent, false) => "relayed",
        (..) => "failed",
    }
}

/// ORCPT as the client gave it, decoded; without one, the recipient at RCPT (RFC 3461 section 6.3).
fn original_recipient(recipient: &Rcpt) -> Option<String> {
    let text = match &recipient.orcpt {
        Some(orcpt) => match orcpt.split_once(';') {
            Some((kind, address)) => format!("{kind};{}", decode_xtext(address)),
            None => return None,
        },
        None if recipient.original.is_empty() => return None,
        None => {
            let original = quote_local(&recipient.original);
            let kind = if original.is_ascii() {
                "rfc822"
            } else {
                "utf-8"
            };
            format!("{kind};{original}")
        }
    };
    Some(one_line(&text))
}

/// What the report returns of the message.
struct Returned {
    bytes: Vec<u8>,
    headers_only: bool,
}

impl Returned {
    /// The whole message for failures, unless the sender asked for headers or it is too large (as much of
    /// it as `bounce_size_limit` allows goes back then, cut at a line's end); headers for other reports.
    fn of(settings: &Settings, kind: Kind, message: &Message) -> io::Result<Returned> {
        let headers_only = kind != Kind::Failure
            || message.ret == Some(Ret::Headers)
            || message.size() > settings.size_limit;
        let limit = if headers_only {
            settings.size_limit.max(4096)
        } else {
            message.size()
        };
        let mut bytes = format!("Return-Path: <{}>\n", quote_if_any(&message.sender)).into_bytes();
        let start = bytes.len();
        message
            .content
            .reader()?
            .take(limit)
            .read_to_end(&mut bytes)?;
        if headers_only {
            if let Some(end) = find(&bytes[start..], b"\n\n") {
                bytes.truncate(start + end + 1);
            } else if let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') {
                bytes.truncate(end + 1);
            }
        }
        Ok(Returned {
            bytes,
            headers_only,
        })
    }

    /// Description and media type of the part.
    fn kind(&self, kind: Kind, smtputf8: bool) -> (&'static str, &'static str) {
        let description = match (kind, self.headers_only) {
            (Kind::Failure, false) => "Undelivered Message",
            (Kind::Failure, true) => "Undelivered Message Headers",
            (Kind::Delay | Kind::Success, _) => "Message Headers",
        };
        let media_type = match (self.headers_only, smtputf8) {
            (true, false) => "text/rfc822-headers",
            (true, true) => "message/global-headers",
            (false, false) => "message/rfc822",
            (false, true) => "message/global",
        };
        (description, media_type)
    }

    /// A boundary that the returned text does not contain.
    fn boundary(&self, message: &Message, settings: &Settings, now: SystemTime) -> String {
        let mut boundary = format!("{}.{}/{}", message.id, unix_seconds(now), settings.hostname);
        while find(&self.bytes, boundary.as_bytes()).is_some() {
            boundary.insert(0, '=');
        }
        boundary
    }
}

fn quote_if_any(address: &str) -> String {
    if address.is_empty() {
        String::new()
    } else {
        quote_local(address)
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

/// xtext (RFC 3461 section 4); what cannot be decoded stays as it is.
pub(crate) fn decode_xtext(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        match digits.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(value) if byte == b'+' => {
                out.push(value);
                rest = &tail[2..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Control characters, line ends among them, become blanks: a field cannot break into two.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Breaks a line at blanks so that it is no longer than `width` characters where possible; the following
/// lines are indented.
fn fold(line: &str, width: usize) -> String {
    let line = one_line(line);
    let mut out = String::with_capacity(line.len() + 16);
    let mut column = 0;
    for word in line.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push_str("\n    ");
            column = 4;
        } else if !out.is_empty() {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::status::EnhancedCode;
    use std::time::Duration;

    fn settings() -> Settings {
        Settings {
            hostname: "mail.host.example".into(),
            origin: "host.example".into(),
            mail_name: "Postfix".into(),
            size_limit: 5000,
            queue_lifetime: "5 days".into(),
        }
    }

    fn message(text: &str) -> Message {
        let arrival = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_361_297);
        let envelope = queue::Envelope::new("s p@x.example", Vec::new(), arrival);
        let content = queue::Content::Memory(text.to_owned().into());
        let mut message = Message::new("4ABC", &envelope, content);
        message.envid = Some("a+2Bb".into());
        message
    }

    fn rcpt(address: &str, original: &str) -> Rcpt {
        Rcpt {
            address: address.into(),
            original: original.into(),
            ..Rcpt::default()
        }
    }

    fn report(kind: Kind, message: &Message, outcome: &Outcome) -> String {
        let rcpt = rcpt("a@y.example", "al@y.example");
        let made = compose(
            &settings(),
            kind,
            message,
            &[(&rcpt, outcome)],
            "5DEF",
            message.arrival,
        );
        String::from_utf8(made.unwrap().content).unwrap()
    }

    #[test]
    fn a_failure_has_three_parts() {
        let message = message("Subject: t\n\nhello\n");
        let outcome = Outcome::bounced(
            "lmtp",
            EnhancedCode::new(5, 2, 2),
            "host h said: 552 5.2.2 full",
        )
        .said_by(crate::Remote {
            mta: Some("h".into()),
            kind: "smtp",
            diagnostic: "552 5.2.2 full".into(),
        });
        let text = report(Kind::Failure, &message, &outcome);
        for expected in [
            "Subject: Undelivered Mail Returned to Sender\nTo: \"s p\"@x.example\nAuto-Submitted: auto-replied\n",
            "\n<a@y.example> (expanded from <al@y.example>): host h said: 552 5.2.2 full\n",
            "\nOriginal-Envelope-Id: a+b\nX-Postfix-Queue-ID: 4ABC\n",
            "\nFinal-Recipient: rfc822; a@y.example\nOriginal-Recipient: rfc822;al@y.example\nAction: failed\nStatus: 5.2.2\nRemote-MTA: dns; h\nDiagnostic-Code: smtp; 552 5.2.2 full\n",
            "\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nReturn-Path: <\"s p\"@x.example>\nSubject: t\n\nhello\n\n--",
        ] {
            assert!(text.contains(expected), "{expected}\n--- in ---\n{text}");
        }
    }

    #[test]
    fn headers_alone_when_asked_or_too_large() {
        let sent = Outcome::sent(
            "virtual",
            EnhancedCode::new(2, 0, 0),
            "delivered to maildir",
        );
        let failed = Outcome::bounced("virtual", EnhancedCode::new(5, 1, 1), "unknown user");
        let small = message("Subject: t\n\nsecret\n");
        let mut asked = small.clone();
        asked.ret = Some(Ret::Headers);
        let large = message(&format!("Subject: t\n\nsecret{}\n", "x".repeat(6000)));
        for (kind, message, outcome) in [
            (Kind::Success, &small, &sent),
            (Kind::Delay, &small, &failed),
            (Kind::Failure, &asked, &failed),
            (Kind::Failure, &large, &failed),
        ] {
            let text = report(kind, message, outcome);
            assert!(
                text.contains("text/rfc822-headers") && !text.contains("secret"),
                "{text}"
            );
        }
    }

    #[test]
    fn notify_decides() {
        let message = message("");
        let with = |never, success, failure, delay| Rcpt {
            notify: queue::Notify {
                never,
                success,
                failure,
                delay,
            },
            ..Rcpt::default()
        };
        let cases = [
            (with(false, false, false, false), [true, true, false]),
            (with(true, false, false, false), [false, false, false]),
            (with(false, true, false, false), [false, false, true]),
            (with(false, false, true, false), [true, false, false]),
        ];
        for (rcpt, expected) in cases {
            let kinds = [Kind::Failure, Kind::Delay, Kind::Success];
            assert_eq!(
                kinds.map(|kind| is_wanted(kind, &message, &rcpt)),
                expected,
                "{rcpt:?}"
            );
        }
        let mut bounce = message.clone();
        bounce.sender.clear();
        assert!(!is_wanted(Kind::Failure, &bounce, &Rcpt::default()));
    }

    #[test]
    fn a_boundary_does_not_occur_in_the_message() {
        let outcome = Outcome::bounced("x", EnhancedCode::new(5, 0, 0), "no");
        let text = report(
            Kind::Failure,
            &message("X: 4ABC.1795361297/mail.host.example\n\n"),
            &outcome,
        );
        assert!(text.contains("boundary=\"=4ABC"));
    }

    #[test]
    fn long_reasons_are_folded_and_cannot_forge_fields() {
        assert_eq!(fold("aa bb cc\nX: y", 5), "aa bb\n    cc\n    X:\n    y");
    }
}
