//! `smtpd_reject_footer`: its `$name`s are those of the session.

use config::{Config, ConfigError};
use smtp::server::{Footer, Peer};

/// The footer of a service; `None` without.
pub(crate) fn footer(config: &Config) -> Result<Option<Footer>, ConfigError> {
    let template = config.string("smtpd_reject_footer")?;
    let hostname = config.string("myhostname")?;
    if template.is_empty() {
        return Ok(None);
    }
    if let Some(name) = unknown_name(&template) {
        tracing::warn!(
            prog = "smtpd",
            "smtpd_reject_footer: unknown name ${name} stands for nothing; use client_address, client_port, \
             localtime or server_name"
        );
    }
    Ok(Some(Footer::new(move |client| {
        fill(&template, |name| value(name, client, &hostname))
    })))
}

fn unknown_name(template: &str) -> Option<String> {
    let nobody = Peer::new(Peer::UNKNOWN, std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
    let mut unknown = None;
    fill(template, |name| {
        let known = value(name, &nobody, "");
        if known.is_none() {
            unknown.get_or_insert(name.to_owned());
        }
        known
    });
    unknown
}

fn value(name: &str, client: &Peer, hostname: &str) -> Option<String> {
    Some(match name {
        "client_address" => client.shown_address(),
        "client_port" => client.port.to_string(),
        "localtime" => chrono::Local::now().format("%b %d %H:%M:%S").to_string(),
        "server_name" => hostname.to_owned(),
        _ => return None,
    })
}

/// The template with its names replaced.
fn fill(template: &str, mut value: impl FnMut(&str) -> Option<String>) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            text.push('$');
            rest = after;
            continue;
        }
        let (name, after) = name(after);
        text.push_str(&value(name).unwrap_or_default());
        rest = after;
    }
    text + rest
}

/// `name`, `{name}` or `(name)` at the start, and what follows.
fn name(text: &str) -> (&str, &str) {
    for (open, close) in [('{', '}'), ('(', ')')] {
        if let Some(inner) = text.strip_prefix(open) {
            return inner.split_once(close).unwrap_or((inner, ""));
        }
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced() {
        let client = Peer::new("unknown", [192, 0, 2, 1].into(), 25);
        let filled = |template: &str| fill(template, |name| value(name, &client, "mx.example"));
        assert_eq!(
            filled("a $client_address ${client_port}x $(server_name) $$ $recipient."),
            "a 192.0.2.1 25x mx.example $ ."
        );
        assert_eq!(unknown_name("a $recipient"), Some("recipient".to_owned()));
        assert_eq!(unknown_name("a $localtime $$x"), None);
    }
}
