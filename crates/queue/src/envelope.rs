//! The envelope of a message: who sent it, to whom, and how far each recipient has come.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mail::dsn::{Notify, Ret};
use serde::{Deserialize, Serialize};

/// Everything about a message but its content. Addresses are in internal (unquoted) form.
///
/// It is stored as JSON: fields that this version does not know survive in `unknown`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Empty for the null sender `<>`.
    pub sender: String,
    pub recipients: Vec<Recipient>,
    #[serde(with = "micros")]
    pub arrival: SystemTime,
    /// Bytes of the content as stored (lines end in `\n`). `Spool::commit` sets it.
    #[serde(default)]
    pub size: u64,
    /// Lines of the content. `Spool::commit` sets it.
    #[serde(default, skip_serializing_if = "is_zero_lines")]
    pub lines: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub smtputf8: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub eight_bit: bool,
    /// RFC 3461 4.4 ENVID, as given (xtext).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<String>,
    /// RFC 3461 4.3 RET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    #[serde(default)]
    pub client: ClientInfo,
    /// Not delivered until it is released.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hold: bool,
    /// `transport:nexthop` that every recipient goes to, whatever its own route: FILTER, or `content_filter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Delivery attempts made so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// When the next attempt is due; `None`: at once.
    #[serde(
        default,
        with = "optional_micros",
        skip_serializing_if = "Option::is_none"
    )]
    pub next_attempt: Option<SystemTime>,
    /// The sender was told of the delay (`delay_warning_time`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub delay_warned: bool,
    /// The recipients go through the aliases once more before the next attempt: the message was requeued.
    #[serde(default, skip_serializing_if = "is_false")]
    pub expand_again: bool,
    /// The id of the message whose alias or `.forward` made this one. It counts only when that message is gone or
    /// has recorded it ([`Envelope::has_forwarded`]): see [`Recovery::withdrawn`](crate::Recovery::withdrawn).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded_from: Option<String>,
    /// Free-form facts with Postfix's attribute names, such as `sasl_username` or `log_ident`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Fields written by a newer version.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl Envelope {
    /// An envelope with nothing but sender, recipients and arrival time.
    pub fn new(sender: &str, recipients: Vec<Recipient>, arrival: SystemTime) -> Envelope {
        Envelope {
            sender: sender.to_owned(),
            recipients,
            arrival,
            size: 0,
            lines: 0,
            smtputf8: false,
            eight_bit: false,
            envid: None,
            ret: None,
            client: ClientInfo::default(),
            hold: false,
            filter: None,
            attempts: 0,
            next_attempt: None,
            delay_warned: false,
            expand_again: false,
            forwarded_from: None,
            attributes: BTreeMap::new(),
            unknown: BTreeMap::new(),
        }
    }

    /// Bytes of the content with CR LF at the ends of lines: what SIZE means (RFC 1870 section 3), and
    /// what Postfix logs and lists.
    pub fn size_as_sent(&self) -> u64 {
        self.size + self.lines
    }

    /// The attribute by which a message remembers that it was forwarded as the message `id`.
    pub fn forwarded_as(id: &str) -> (String, String) {
        (format!("forwarded_as_{id}"), String::new())
    }

    /// Whether it is recorded that this message was forwarded as `id`.
    pub fn has_forwarded(&self, id: &str) -> bool {
        self.attributes.contains_key(&Envelope::forwarded_as(id).0)
    }

    /// Indices of the recipients that still want delivery.
    pub fn unfinished(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.recipients.len()).filter(|&index| !self.recipients[index].state.is_final())
    }

    /// Whether every recipient is sent or bounced.
    pub fn is_finished(&self) -> bool {
        self.unfinished().next().is_none()
    }

    /// Takes over what `update` says. Indices outside the list are ignored.
    pub fn apply(&mut self, update: &Update) {
        for (index, state) in &update.recipients {
            if let Some(recipient) = self.recipients.get_mut(*index) {
                recipient.state = state.clone();
            }
        }
        if let Some(recipients) = &update.replaced {
            self.recipients.clone_from(recipients);
            self.expand_again = false;
        }
        if let Some(hold) = update.hold {
            self.hold = hold;
        }
        if let Some(attempts) = update.attempts {
            self.attempts = attempts;
        }
        if update.next_attempt.is_some() {
            self.next_attempt = update.next_attempt;
        }
        if let Some(delay_warned) = update.delay_warned {
            self.delay_warned = delay_warned;
        }
        if update.requeue {
            self.next_attempt = None;
            self.hold = false;
            self.expand_again = true;
            for recipient in &mut self.recipients {
                recipient.hint = None;
                if matches!(recipient.state, RecipientState::Deferred { .. }) {
                    recipient.state = RecipientState::Pending;
                }
            }
        }
        for (name, value) in &update.attributes {
            self.attributes.insert(name.clone(), value.clone());
        }
    }
}

/// A change of an envelope that is recorded behind the message (`Spool::update`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Update {
    /// New states, by index into `Envelope::recipients`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<(usize, RecipientState)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    #[serde(with = "optional_micros", skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<SystemTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_warned: Option<bool>,
    /// The whole list of recipients, after they went through the aliases again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Vec<Recipient>>,
    /// Forget hints and deferrals and the hold; due at once, and through the aliases again.
    #[serde(skip_serializing_if = "is_false")]
    pub requeue: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// One recipient of a message, after aliases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipient {
    pub address: String,
    /// As it stood at RCPT, before rewriting and aliases; empty when the client's is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub original: String,
    /// RFC 3461 4.2 ORCPT, as given (`rfc822;…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<String>,
    #[serde(default, skip_serializing_if = "Notify::is_default")]
    pub notify: Notify,
    #[serde(default, skip_serializing_if = "RecipientState::is_pending")]
    pub state: RecipientState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<RouteHint>,
    /// Fields written by a newer version.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl Recipient {
    /// A pending recipient without delivery options.
    pub fn new(address: &str, original: &str) -> Recipient {
        Recipient {
            address: address.to_owned(),
            original: original.to_owned(),
            orcpt: None,
            notify: Notify::default(),
            state: RecipientState::Pending,
            hint: None,
            unknown: BTreeMap::new(),
        }
    }
}

/// How far delivery to one recipient has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientState {
    #[default]
    Pending,
    /// A temporary failure; tried again later.
    Deferred {
        /// Enhanced status code, `4.x.y`.
        dsn: String,
        text: String,
        #[serde(with = "micros")]
        at: SystemTime,
    },
    /// Delivered. Never delivered again.
    Sent,
    /// A permanent failure. Never tried again.
    Bounced {
        dsn: String,
        text: String,
        /// The relay that said so, `host[address]:port`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relay: Option<String>,
        /// The remote server's reply, for the report's `Diagnostic-Code`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        diagnostic: Option<String>,
        /// The report to the sender is in the queue already (or none is due).
        #[serde(default)]
        reported: bool,
    },
}

impl RecipientState {
    /// Whether nothing more will be tried.
    pub fn is_final(&self) -> bool {
        matches!(self, RecipientState::Sent | RecipientState::Bounced { .. })
    }

    fn is_pending(&self) -> bool {
        *self == RecipientState::Pending
    }
}

/// What RCPT found out about the recipient's way. It serves the first attempt only: tables may change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteHint {
    pub transport: String,
    pub nexthop: String,
    /// The value of `virtual_mailbox_maps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
}

/// The client that handed the message in. Empty texts: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInfo {
    /// Host name, or `unknown`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub addr: String,
    #[serde(skip_serializing_if = "is_zero_port")]
    pub port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub helo: String,
    /// `SMTP` or `ESMTP`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero_lines(lines: &u64) -> bool {
    *lines == 0
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

fn is_zero_port(value: &u16) -> bool {
    *value == 0
}

/// Times as microseconds since 1970.
mod micros {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn of(time: SystemTime) -> u64 {
        time.duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as u64)
    }

    pub fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(of(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let micros = u64::deserialize(from)?;
        Ok(UNIX_EPOCH + Duration::from_micros(micros))
    }
}

mod optional_micros {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.serialize_some(&super::micros::of(*time)),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
        let micros = Option::<u64>::deserialize(from)?;
        Ok(micros.map(|micros| UNIX_EPOCH + Duration::from_micros(micros)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn fields_of_a_newer_version_survive() {
        let text = r#"{"sender":"a@b","recipients":[{"address":"c@d","colour":"red"}],"arrival":1,"size":2,"shape":{"x":1}}"#;
        let envelope: Envelope = serde_json::from_str(text).unwrap();
        let again: serde_json::Value = serde_json::to_value(&envelope).unwrap();
        assert_eq!(again["shape"]["x"], 1);
        assert_eq!(again["recipients"][0]["colour"], "red");
    }

    #[test]
    fn updates_reach_their_recipients() {
        let arrival = UNIX_EPOCH + Duration::from_secs(7);
        let mut envelope = Envelope::new(
            "s@x",
            vec![Recipient::new("a@x", "a@x"), Recipient::new("b@x", "")],
            arrival,
        );
        envelope.apply(&Update {
            recipients: vec![(0, RecipientState::Sent), (9, RecipientState::Sent)],
            attempts: Some(1),
            hold: Some(true),
            ..Update::default()
        });
        assert_eq!(envelope.unfinished().collect::<Vec<_>>(), [1]);
        assert!(envelope.hold && envelope.attempts == 1);
        envelope.apply(&Update {
            requeue: true,
            ..Update::default()
        });
        assert!(!envelope.hold && !envelope.is_finished() && envelope.expand_again);
        assert_eq!(envelope.recipients[0].state, RecipientState::Sent);
        envelope.apply(&Update {
            replaced: Some(vec![Recipient::new("c@x", "b@x")]),
            ..Update::default()
        });
        assert!(!envelope.expand_again);
        assert_eq!(envelope.recipients.len(), 1);
    }
}
