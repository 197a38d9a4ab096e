//! What the scheduler asks for and what it is told: [`Request`] in, one [`Outcome`] a recipient out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mail::status::EnhancedCode;
use queue::{ClientInfo, Content, Notify, Ret};

/// One message for one transport and nexthop, and those of its recipients that go there.
///
/// The scheduler puts at most `TRANSPORT_destination_recipient_limit` recipients into one request.
#[derive(Clone, Debug)]
pub struct Request {
    pub message: Arc<Message>,
    /// The service name in master.cf: `virtual`, `lmtp`, `dovecot`, …
    pub transport: String,
    /// The text behind the colon in `transport:nexthop`, or the recipients' domain.
    pub nexthop: String,
    pub recipients: Vec<Rcpt>,
    /// An earlier attempt may have been cut off after delivery and before it was recorded (the server was
    /// killed). The Maildir agent then looks whether the message is there already.
    pub recovered: bool,
}

/// What all agents need to know of a message.
#[derive(Clone, Debug)]
pub struct Message {
    /// The queue id as it stands in logs.
    pub id: String,
    /// Internal form; empty for `<>`.
    pub sender: String,
    /// Header and body, lines ending in `\n`.
    pub content: Content,
    /// Of the content.
    pub lines: u64,
    pub arrival: SystemTime,
    pub smtputf8: bool,
    pub eight_bit: bool,
    /// RFC 3461 ENVID as the client gave it (xtext).
    pub envid: Option<String>,
    pub ret: Option<Ret>,
    pub client: ClientInfo,
    /// `sasl_method`, `sasl_username`, `sasl_sender` for pipe(8), where known.
    pub sasl: Sasl,
}

/// How the submitter was authenticated; empty texts: not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sasl {
    pub method: String,
    pub username: String,
    pub sender: String,
}

impl Message {
    /// What agents need, from an envelope and its content.
    pub fn new(id: impl Into<String>, envelope: &queue::Envelope, content: Content) -> Message {
        let attribute = |name: &str| envelope.attributes.get(name).cloned().unwrap_or_default();
        Message {
            id: id.into(),
            sender: envelope.sender.clone(),
            content,
            lines: envelope.lines,
            arrival: envelope.arrival,
            smtputf8: envelope.smtputf8,
            eight_bit: envelope.eight_bit,
            envid: envelope.envid.clone(),
            ret: envelope.ret,
            client: envelope.client.clone(),
            sasl: Sasl {
                method: attribute("sasl_method"),
                username: attribute("sasl_username"),
                sender: attribute("sasl_sender"),
            },
        }
    }

    /// Bytes of the content with CR LF at the ends of lines (RFC 1870 section 3).
    pub fn size_as_sent(&self) -> u64 {
        self.content.len() + self.lines
    }

    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.content.len()
    }
}

/// One recipient of a [`Request`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rcpt {
    /// The place in the message's whole recipient list. Maildir file names are built from it, so it must
    /// be the same in every attempt.
    pub index: usize,
    /// Internal form, after aliases.
    pub address: String,
    /// As it stood at RCPT; empty when not known.
    pub original: String,
    /// RFC 3461 ORCPT as the client gave it (`rfc822;…`, xtext).
    pub orcpt: Option<String>,
    pub notify: Notify,
    /// The value of `virtual_mailbox_maps`, when RCPT looked it up a moment ago.
    pub mailbox_hint: Option<String>,
    /// What earlier attempts did for it: the [`Expanded::done`] of the last one.
    pub done: String,
}

impl Rcpt {
    /// Recipient `index` of an envelope. The mailbox hint is taken over when `fresh`.
    pub fn new(index: usize, recipient: &queue::Recipient, fresh: bool) -> Rcpt {
        let hint = recipient.hint.as_ref().filter(|_| fresh);
        Rcpt {
            index,
            address: recipient.address.clone(),
            original: recipient.original.clone(),
            orcpt: recipient.orcpt.clone(),
            notify: recipient.notify,
            mailbox_hint: hint.and_then(|hint| hint.mailbox.clone()),
            done: String::new(),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Sent,
    Deferred,
    Bounced,
}

impl Status {
    /// As in `status=sent`.
    pub fn name(self) -> &'static str {
        match self {
            Status::Sent => "sent",
            Status::Deferred => "deferred",
            Status::Bounced => "bounced",
        }
    }
}

/// How the attempt ended for one recipient; the log line and the delivery report are made from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub status: Status,
    /// Its class always agrees with `status`: 2, 4 or 5.
    pub dsn: EnhancedCode,
    /// `relay=`: `virtual`, `none`, `host[address]:port`, `host[private/socket]`.
    pub relay: String,
    /// The text in the log line's parentheses.
    pub text: String,
    /// What a remote server or a command said, for the delivery report.
    pub remote: Option<Remote>,
    /// A successful delivery was the last one (`delivered`); otherwise the message went on (`relayed`).
    pub is_final: bool,
    /// Third part of `delays=`: making the connection, greeting included.
    pub connection: Duration,
    /// Fourth part of `delays=`: the transmission.
    pub transmission: Duration,
    /// `conn_use=`: the how-manieth message on its connection. Logged when above 1.
    pub connection_use: u32,
    /// The Postfix program in whose name the log line is written: `virtual`, `lmtp`, `pipe`, …
    pub prog: &'static str,
    /// What the recipient turned into, where an agent looked (local(8)).
    pub expanded: Option<Box<Expanded>>,
}

/// What became of a recipient that its agent expanded: an alias, a user with a `.forward` file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expanded {
    /// The log lines, instead of the one for the recipient itself.
    pub lines: Vec<Line>,
    /// New messages that must be in the queue before the recipient counts as sent.
    pub forwards: Vec<Forward>,
    /// Which parts are finished, in the agent's own words. Where others are deferred, the next attempt gets it
    /// back as [`Rcpt::done`].
    pub done: String,
}

/// How one part of an expanded recipient ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub address: String,
    /// As it stood at RCPT; empty behind a mailing list.
    pub original: String,
    pub outcome: Outcome,
}

/// The same content to other addresses, as a message of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    pub sender: String,
    /// The recipient at RCPT; empty behind a mailing list, where the sender's delivery options end.
    pub original: String,
    /// For its `Delivered-To:` header; `None`: without one.
    pub delivered_to: Option<String>,
    /// Canonical, internal form, before aliases.
    pub recipients: Vec<String>,
}

/// The source of a failure's text, for the fields of RFC 3464 section 2.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `Remote-MTA: dns; …`.
    pub mta: Option<String>,
    /// The type in front of `Diagnostic-Code`: `smtp` or `x-unix`.
    pub kind: &'static str,
    pub diagnostic: String,
}

impl Outcome {
    fn new(
        status: Status,
        class: u8,
        prog: &'static str,
        dsn: EnhancedCode,
        text: String,
    ) -> Outcome {
        let dsn = if dsn.class == class {
            dsn
        } else {
            EnhancedCode::new(class, 0, 0)
        };
        Outcome {
            status,
            dsn,
            relay: "none".to_owned(),
            text,
            remote: None,
            is_final: true,
            connection: Duration::ZERO,
            transmission: Duration::ZERO,
            connection_use: 1,
            prog,
            expanded: None,
        }
    }

    /// Delivered. A code of another class than 2 becomes 2.0.0.
    pub fn sent(prog: &'static str, dsn: EnhancedCode, text: impl Into<String>) -> Outcome {
        Outcome::new(Status::Sent, 2, prog, dsn, text.into())
    }

    /// To be tried again. A code of another class than 4 becomes 4.0.0.
    pub fn deferred(prog: &'static str, dsn: EnhancedCode, text: impl Into<String>) -> Outcome {
        Outcome::new(Status::Deferred, 4, prog, dsn, text.into())
    }

    /// Failed for good. A code of another class than 5 becomes 5.0.0.
    pub fn bounced(prog: &'static str, dsn: EnhancedCode, text: impl Into<String>) -> Outcome {
        Outcome::new(Status::Bounced, 5, prog, dsn, text.into())
    }

    /// [`Outcome::bounced`] for class 5, [`Outcome::deferred`] for any other.
    pub fn failed(prog: &'static str, dsn: EnhancedCode, text: impl Into<String>) -> Outcome {
        if dsn.class == 5 {
            Outcome::bounced(prog, dsn, text)
        } else {
            Outcome::deferred(prog, dsn, text)
        }
    }

    /// The same with another `relay=`.
    pub fn via(mut self, relay: impl Into<String>) -> Outcome {
        self.relay = relay.into();
        self
    }

    /// The same with the source of its text.
    pub fn said_by(mut self, remote: Remote) -> Outcome {
        self.remote = Some(remote);
        self
    }

    /// The same, the transmission having taken `time`.
    pub fn after(mut self, time: Duration) -> Outcome {
        self.transmission = time;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_the_code_agrees_with_the_status() {
        let code = EnhancedCode::new(4, 2, 1);
        assert_eq!(
            Outcome::bounced("error", code, "odd").dsn.to_string(),
            "5.0.0"
        );
        assert_eq!(Outcome::deferred("error", code, "odd").dsn, code);
        assert_eq!(Outcome::failed("pipe", code, "x").status, Status::Deferred);
    }
}
