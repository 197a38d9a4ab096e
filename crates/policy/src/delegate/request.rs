//! The request: what a policy service is told, in the order in which Postfix 3.7 tells it.

use std::net::SocketAddr;

use super::service::Own;
use crate::Facts;

/// What policy services are told of a connection beside the [`Facts`] that restrictions use themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection<'a> {
    /// The command that is decided on: `CONNECT`, `EHLO`, `MAIL`, …, `END-OF-MESSAGE`.
    pub command: &'a str,
    /// `SMTP` or `ESMTP`.
    pub protocol: &'a str,
    pub client_port: u16,
    /// The name that the client's address leads to, verified or not; `unknown` without one.
    pub reverse_client_name: &'a str,
    /// Our end of the connection.
    pub server: Option<SocketAddr>,
    /// Empty before the first recipient is accepted.
    pub queue_id: &'a str,
    /// The same for all requests about one message; empty before MAIL is accepted.
    pub instance: &'a str,
    /// The size that MAIL announced; at the end of the message, what it is.
    pub size: u64,
    /// The argument of ETRN.
    pub etrn_domain: &'a str,
    pub sasl_method: &'a str,
    /// The AUTH parameter of MAIL.
    pub sasl_sender: &'a str,
    /// The issuer of the client's certificate.
    pub certificate_issuer: &'a str,
    /// `TLSv1.3`; empty without encryption.
    pub encryption_protocol: &'a str,
    pub encryption_cipher: &'a str,
    /// In bits.
    pub encryption_keysize: u32,
}

/// The whole request, with the empty line at its end.
pub(super) fn text(facts: &Facts<'_>, connection: &Connection<'_>, own: Own<'_>) -> String {
    let mut request = Request(String::with_capacity(800));
    let server = connection.server;
    let trusted = facts.certificate.filter(|shown| shown.trusted);
    request
        .add("request", "smtpd_access_policy")
        .add("protocol_state", connection.command)
        .add("protocol_name", connection.protocol)
        .add("client_address", &facts.client_address.to_string())
        .add("client_name", facts.client_name)
        .add("client_port", &connection.client_port.to_string())
        .add("reverse_client_name", connection.reverse_client_name)
        .add(
            "server_address",
            &server.map_or(String::new(), |own| own.ip().to_canonical().to_string()),
        )
        .add(
            "server_port",
            &server.map_or(String::new(), |own| own.port().to_string()),
        )
        .add("helo_name", facts.helo)
        .add("sender", facts.sender.unwrap_or_default())
        .add("recipient", facts.recipient.unwrap_or_default())
        .add(
            "recipient_count",
            &recipient_count(facts, connection).to_string(),
        )
        .add("queue_id", connection.queue_id)
        .add("instance", connection.instance)
        .add("size", &connection.size.to_string())
        .add("etrn_domain", connection.etrn_domain)
        .add("stress", own.stress)
        .add("sasl_method", connection.sasl_method)
        .add("sasl_username", facts.login.unwrap_or_default())
        .add("sasl_sender", connection.sasl_sender)
        .add(
            "ccert_subject",
            &trusted.map_or(String::new(), |shown| xtext(&shown.subject)),
        )
        .add(
            "ccert_issuer",
            &trusted.map_or(String::new(), |_| xtext(connection.certificate_issuer)),
        )
        .add(
            "ccert_fingerprint",
            facts.certificate.map_or("", |shown| &shown.fingerprint),
        )
        .add(
            "ccert_pubkey_fingerprint",
            facts.certificate.map_or("", |shown| &shown.public_key),
        )
        .add("encryption_protocol", connection.encryption_protocol)
        .add("encryption_cipher", connection.encryption_cipher)
        .add(
            "encryption_keysize",
            &connection.encryption_keysize.to_string(),
        )
        .add("policy_context", own.context);
    request.0.push('\n');
    request.0
}

/// The number of recipients, which is told only once it is final.
fn recipient_count(facts: &Facts<'_>, connection: &Connection<'_>) -> usize {
    match connection.command {
        "DATA" | "END-OF-MESSAGE" => {
            facts.recipients_so_far + usize::from(facts.recipient.is_some())
        }
        _ => 0,
    }
}

struct Request(String);

impl Request {
    /// One attribute. No value from outside can begin another one.
    fn add(&mut self, name: &str, value: &str) -> &mut Request {
        self.0.push_str(name);
        self.0.push('=');
        self.0
            .extend(value.chars().map(|c| if c.is_control() { '?' } else { c }));
        self.0.push('\n');
        self
    }
}

/// RFC 3461 section 4: names in certificates may have any character.
fn xtext(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' => encoded.push_str(&format!("+{byte:02X}")),
            b'!'..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("+{byte:02X}")),
        }
    }
    encoded
}
