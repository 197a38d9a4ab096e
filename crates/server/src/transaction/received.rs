//! The header that says how a message came here, and those that a local client left out.

use std::time::SystemTime;

use smtp::server::Peer;

use super::{Client, Settings, Transaction};
use crate::headers::Missing;

impl Transaction {
    /// `Received:`, as Postfix writes it (RFC 5321 section 4.4).
    pub(super) fn received(&self, client: &Client<'_>) -> String {
        let Settings {
            myhostname,
            mail_name,
            ..
        } = self.settings();
        let id = self.id().map(|id| id.to_string()).unwrap_or_default();
        let date = mail::date::rfc5322(SystemTime::now());
        let literal = match client.peer.address {
            address if address.is_unspecified() => Peer::UNKNOWN.to_owned(),
            std::net::IpAddr::V4(address) => address.to_string(),
            std::net::IpAddr::V6(address) => format!("IPv6:{address}"),
        };
        let name = &client.peer.name;
        let helo = if client.helo.is_empty() {
            name
        } else {
            client.helo
        };
        let protocol = match (client.protocol, self.mail.smtputf8) {
            ("ESMTP", true) => "UTF8SMTP",
            ("LMTP", true) => "UTF8LMTP",
            (protocol, _) => protocol,
        };
        // RFC 3848: ESMTPS, ESMTPA, ESMTPSA.
        let extended = client.protocol != "SMTP";
        let with_tls = if extended && client.encryption.is_some() {
            "S"
        } else {
            ""
        };
        let with_login = if extended && client.login.is_some() {
            "A"
        } else {
            ""
        };
        let security = self.security(client);
        let by = format!(
            "Received: from {helo} ({name} [{literal}])\n{security}\tby {myhostname} ({mail_name}) with {protocol}{with_tls}{with_login} id {id}"
        );
        match self.accepted.as_slice() {
            [only] => {
                let recipient = mail::address::quote_local(&only.rcpt.address);
                format!("{by}\n\tfor <{recipient}>; {date}\n")
            }
            _ => format!("{by};\n\t{date}\n"),
        }
    }

    /// The lines of `Received:` that `smtpd_tls_received_header` and `smtpd_sasl_authenticated_header` add.
    pub(super) fn security(&self, client: &Client<'_>) -> String {
        let mut lines = String::new();
        if let Some(encryption) = client.encryption
            && self.settings().show_tls
        {
            lines.push_str(&encryption.received());
        }
        let show_login = self
            .smtpd
            .sasl
            .as_ref()
            .is_some_and(|sasl| sasl.show_in_header);
        if let Some(login) = client.login.filter(|_| show_login) {
            let user = login
                .user
                .replace(|c: char| c.is_control() || "()\\".contains(c), "?");
            lines.push_str(&format!("\t(Authenticated sender: {user})\n"));
        }
        lines
    }

    /// Local clients' messages are completed (`local_header_rewrite_clients`).
    pub(super) fn missing_headers(&self, client: &Client<'_>) -> Option<Missing> {
        let settings = self.settings();
        let source = self.forwarded.as_ref().and_then(|from| from.local);
        let local = source.unwrap_or(self.policy().is_own(client.peer.socket_address));
        if !settings.add_missing_headers && !local {
            return None;
        }
        let now = SystemTime::now();
        let stamp = chrono::DateTime::<chrono::Utc>::from(now).format("%Y%m%d%H%M%S");
        let id = self.id()?;
        let from = match self.mail.address.as_str() {
            // Without a domain, as Postfix leaves it.
            "" => "MAILER-DAEMON".to_owned(),
            sender => mail::address::quote_local(&self.policy().router().rewrite(sender)),
        };
        Some(Missing {
            from,
            message_id: format!("<{stamp}.{id}@{}>", settings.myhostname),
            date: now,
        })
    }
}
