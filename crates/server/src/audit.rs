//! The lines that tell what the restrictions did, in the form that log readers parse:
//! `NOQUEUE: reject: RCPT from name[address]: 554 5.7.1 …; from=<…> to=<…> proto=ESMTP helo=<…>`.

use mail::address::quote_local;
use policy::{Event, Refusal};
use queue::QueueId;

use crate::transaction::Client;

/// What a line is about.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    /// `RCPT`, `END-OF-MESSAGE`, …
    pub command: &'a str,
    pub id: Option<QueueId>,
    pub sender: Option<&'a str>,
    pub recipient: Option<&'a str>,
}

impl Place<'_> {
    /// Logs what has happened, and forgets it.
    pub fn log_events(self, client: &Client<'_>, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            match event {
                Event::Action { name, text } => self.log_action(client, name, &text),
                Event::Warning(text) => tracing::warn!(prog = "smtpd", "{text}"),
                Event::Info(text) => tracing::info!(prog = "smtpd", "{text}"),
            }
        }
    }

    pub fn log_reject(self, client: &Client<'_>, refusal: &Refusal) {
        let Refusal { reply, detail } = refusal;
        if let Some(detail) = detail {
            tracing::warn!(prog = "smtpd", "{}: {detail}", self.id());
        }
        self.log_action(client, "reject", &reply.to_string());
    }

    fn log_action(self, client: &Client<'_>, name: &str, text: &str) {
        let mut line = format!(
            "{}: {name}: {} from {}: {text};",
            self.id(),
            self.command,
            client.peer.name_and_address()
        );
        if let Some(sender) = self.sender {
            line.push_str(&format!(" from=<{}>", quoted(sender)));
        }
        if let Some(recipient) = self.recipient {
            line.push_str(&format!(" to=<{}>", quoted(recipient)));
        }
        line.push_str(&format!(" proto={}", client.protocol));
        if !client.helo.is_empty() {
            line.push_str(&format!(" helo=<{}>", client.helo));
        }
        tracing::info!(prog = "smtpd", "{line}");
    }

    fn id(self) -> String {
        self.id
            .map_or_else(|| "NOQUEUE".to_owned(), |id| id.to_string())
    }
}

fn quoted(address: &str) -> String {
    match address {
        "" => String::new(),
        address => quote_local(address),
    }
}
