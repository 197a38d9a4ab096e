//! The reply texts of the restrictions, in one place. They are Postfix's: log readers know them.

use mail::EnhancedCode;
use smtp::Reply;

/// "Recipient address" and "Sender address" in reply texts.
pub const RECIPIENT: &str = "Recipient address";
pub const SENDER: &str = "Sender address";
pub const CLIENT: &str = "Client host";
pub const HELO: &str = "Helo command";
pub const CERTIFICATE: &str = "Client certificate";
pub const LOGIN: &str = "SASL login name";
pub const DATA: &str = "Data command";
pub const END_OF_DATA: &str = "End-of-data";
pub const ETRN: &str = "Etrn command";

fn coded(code: u16, subject: u16, detail: u16, text: String) -> Reply {
    Reply::new(
        code,
        EnhancedCode::new((code / 100) as u8, subject, detail),
        text,
    )
}

/// A table failed: the client is to come back.
pub fn lookup_failure(address: &str) -> Reply {
    coded(451, 3, 0, format!("<{address}>: Temporary lookup failure"))
}

/// The configuration is wrong in a way that shows only now.
pub fn configuration_error() -> Reply {
    coded(451, 3, 5, "Server configuration error".into())
}

/// `reject_unauth_destination` and `defer_unauth_destination`.
pub fn relay_denied(code: u16, address: &str) -> Reply {
    coded(code, 7, 1, format!("<{address}>: Relay access denied"))
}

/// An address that the table of its class does not have. Senders get 5.1.0.
pub fn unknown_user(code: u16, address: &str, what: &str, in_table: &str) -> Reply {
    let detail = if what == SENDER { 0 } else { 1 };
    coded(
        code,
        1,
        detail,
        format!("<{address}>: {what} rejected: User unknown{in_table}"),
    )
}

/// The address is routed to `error` or `retry`, with this status and text.
pub fn undeliverable(status: EnhancedCode, address: &str, what: &str, text: &str) -> Reply {
    let code = if status.class == 4 { 450 } else { 550 };
    Reply::new(
        code,
        status,
        format!("<{address}>: {what} rejected: {text}"),
    )
}

/// The aliases of an address lead in a loop or beyond their limits.
pub fn alias_expansion(address: &str) -> Reply {
    coded(451, 6, 0, format!("<{address}>: Alias expansion error"))
}

/// The same, found only when the message is complete.
pub fn alias_expansion_of_message() -> Reply {
    coded(451, 6, 0, "Alias expansion error".into())
}

/// The message could not be put into the queue.
pub fn queue_file_write_error() -> Reply {
    coded(451, 3, 0, "Error: queue file write error".into())
}

/// No room for the message.
pub fn insufficient_storage() -> Reply {
    coded(452, 3, 1, "Insufficient system storage".into())
}

/// REJECT of header_checks(5) or body_checks(5).
pub fn content_rejected(status: EnhancedCode, text: &str) -> Reply {
    Reply::new(550, status, text.to_owned())
}

/// More `Received:` headers than `hopcount_limit`.
pub fn too_many_hops() -> Reply {
    coded(554, 4, 0, "Error: too many hops".into())
}

/// The message is in the queue.
pub fn queued(id: &str) -> Reply {
    coded(250, 0, 0, format!("Ok: queued as {id}"))
}

/// Too many connections of one client, at once or in a short time.
pub fn too_many_connections(hostname: &str, address: &str) -> Reply {
    let text = format!("{hostname} Error: too many connections from {address}");
    coded(421, 7, 0, text)
}

/// `smtpd_client_message_rate_limit` and its relatives; `what`: `much mail`.
pub fn too_often(what: &str, address: &str) -> Reply {
    coded(450, 7, 1, format!("Error: too {what} from {address}"))
}

/// `smtpd_client_new_tls_session_rate_limit` before TLS begins.
pub fn no_more_tls(name_and_address: &str) -> Reply {
    let text = format!("Error: too many new TLS sessions from {name_and_address}");
    coded(454, 7, 0, text)
}

/// The same once it has begun.
pub fn too_many_tls_sessions(hostname: &str, name_and_address: &str) -> Reply {
    let text = format!("{hostname} Error: too many new TLS sessions from {name_and_address}");
    coded(421, 7, 0, text)
}

/// `reject_non_fqdn_…`.
pub fn not_fully_qualified(code: u16, value: &str, what: &str) -> Reply {
    let noun = if what == HELO { "hostname" } else { "address" };
    coded(
        code,
        5,
        2,
        format!("<{value}>: {what} rejected: need fully-qualified {noun}"),
    )
}

/// `reject_invalid_helo_hostname`.
pub fn invalid_helo(code: u16, value: &str) -> Reply {
    coded(
        code,
        5,
        2,
        format!("<{value}>: {HELO} rejected: Invalid name"),
    )
}

/// The same, and `reject_non_fqdn_helo_hostname`, of an address literal that is none.
pub fn invalid_helo_address(code: u16, value: &str) -> Reply {
    coded(
        code,
        5,
        2,
        format!("<{value}>: {HELO} rejected: invalid ip address"),
    )
}

/// For the log: a table by itself in a list that is about nothing in particular.
pub(crate) fn misplaced_table(table: &str, what: &str) -> String {
    format!(
        "specify one of (check_client_access, check_reverse_client_hostname_access, check_helo_access, \
         check_sender_access, check_recipient_access, check_etrn_access) before {what} restriction \"{table}\""
    )
}

/// `reject_plaintext_session`.
pub fn plaintext_session(code: u16) -> Reply {
    coded(code, 7, 1, "Session encryption is required".into())
}

/// `reject_authenticated_sender_login_mismatch`.
pub fn not_owned(sender: &str, login: &str) -> Reply {
    coded(
        553,
        7,
        1,
        format!("<{sender}>: {SENDER} rejected: not owned by user {login}"),
    )
}

/// `reject_unauthenticated_sender_login_mismatch`.
pub fn not_logged_in(sender: &str) -> Reply {
    coded(
        553,
        7,
        1,
        format!("<{sender}>: {SENDER} rejected: not logged in"),
    )
}

/// `defer`.
pub fn deferred(code: u16, value: &str, what: &str) -> Reply {
    coded(
        code,
        3,
        2,
        format!("<{value}>: {what} rejected: Try again later"),
    )
}

/// `defer_if_permit`, when nothing refuses for good.
pub fn defer_if_permit(value: &str, what: &str) -> Reply {
    coded(
        450,
        7,
        0,
        format!("<{value}>: {what} rejected: defer_if_permit requested"),
    )
}

/// `reject_multi_recipient_bounce`.
pub fn multi_recipient_bounce(code: u16, value: &str, what: &str) -> Reply {
    coded(
        code,
        5,
        3,
        format!("<{value}>: {what} rejected: Multi-recipient bounce"),
    )
}

/// `defer_if_reject`, when something refuses for good.
pub fn defer_if_reject(value: &str, what: &str) -> Reply {
    coded(
        450,
        7,
        0,
        format!("<{value}>: {what} rejected: defer_if_reject requested"),
    )
}

/// `reject_unauth_pipelining`.
pub fn improper_pipelining(value: &str, what: &str) -> Reply {
    coded(
        503,
        5,
        0,
        format!("<{value}>: {what} rejected: Improper use of SMTP command pipelining"),
    )
}

/// `soft_bounce`: whatever is refused for good may be tried again.
pub fn soften(reply: &mut Reply) {
    if reply.code >= 500 {
        reply.code -= 100;
        reply.enhanced = reply.enhanced.map(|code| code.with_class_of(reply.code));
    }
}

/// An access table failed.
pub fn access_table_failure(value: &str, what: &str) -> Reply {
    coded(
        451,
        3,
        5,
        format!("<{value}>: {what} rejected: Server configuration error"),
    )
}

/// A refusal by an access table or a plain `reject` or `defer`.
pub fn access_denied(
    code: u16,
    enhanced: Option<EnhancedCode>,
    value: &str,
    what: &str,
    text: &str,
) -> Reply {
    let enhanced = enhanced.unwrap_or(EnhancedCode::new(5, 7, 1));
    let enhanced = enhanced.with_class_of(code);
    let text = if text.is_empty() {
        "Access denied"
    } else {
        text
    };
    Reply::new(
        code,
        enhanced,
        format!("<{value}>: {what} rejected: {text}"),
    )
}
