//! The address of `MAIL FROM:` and `RCPT TO:` as Postfix reads it.
//!
//! Postfix takes more than RFC 5321 allows: an address without `<>`, with comments, a source route,
//! blanks around its parts. What it leaves is the address in internal (unquoted) form.

use mail::host;
use mail::token::{self, Token};

/// How strictly an address is read, and what passes as its domain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// `strict_rfc821_envelopes`: `<>` is required, comments are not allowed.
    pub strict: bool,
    /// `allow_min_user`: the local part may begin with `-`.
    pub allow_min_user: bool,
    /// `resolve_null_domain`: `user@` is an address.
    pub null_domain: bool,
    /// `resolve_numeric_domain`: `user@1.2.3.4` is an address.
    pub numeric_domain: bool,
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// `<` without `>`, or `"` without another: the text was cut off. Postfix says nothing about it in its log.
    Unclosed,
    /// Anything else.
    Illegal,
}

/// Reads one address such as `<john@example.org>`, `"john doe"@example.org`, `<@relay:john@example.org>`.
/// The result may be empty (`<>`), and its domain is not yet checked: see [`is_valid`].
pub fn extract(text: &str, rules: Rules) -> Result<String, Malformed> {
    let text = text.trim_matches([' ', '\t']);
    if has_open_quote(text) {
        return Err(Malformed::Unclosed);
    }
    let mut inner = text;
    let mut bracketed = false;
    while let Some(rest) = inner.strip_prefix('<') {
        match rest.strip_suffix('>') {
            Some(within) => inner = within.trim_matches([' ', '\t']),
            None if rest.contains('>') => break,
            None => return Err(Malformed::Unclosed),
        }
        bracketed = true;
    }
    if rules.strict && !bracketed {
        return Err(Malformed::Illegal);
    }
    let address = read(inner, rules)?;
    // RFC 5321 has no empty local part.
    if rules.strict && address.starts_with('@') {
        return Err(Malformed::Illegal);
    }
    Ok(address)
}

/// The address between the brackets.
fn read(inner: &str, rules: Rules) -> Result<String, Malformed> {
    if is_plain(inner) {
        return Ok(inner.to_owned());
    }
    let inner = without_route(inner);
    if rules.strict
        && token::scan(inner)
            .iter()
            .any(|t| matches!(t, Token::Comment(_)))
    {
        return Err(Malformed::Illegal);
    }
    let addresses = token::addresses(inner);
    match addresses.as_slice() {
        [] => Ok(String::new()),
        [one] => Ok(token::internal(one)),
        _ => Err(Malformed::Illegal),
    }
}

/// Letters, digits and harmless marks around one `@`: nearly all addresses, and no parser is needed.
fn is_plain(text: &str) -> bool {
    let mut ats = 0;
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'+' | b'=' => {}
            b'@' => ats += 1,
            _ => return false,
        }
    }
    ats == 1
}

fn has_open_quote(text: &str) -> bool {
    let mut open = false;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => open = !open,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    open
}

/// Drops a source route, `@one,@two:` (RFC 5321 appendix F.2).
fn without_route(text: &str) -> &str {
    match text
        .strip_prefix('@')
        .and_then(|route| route.split_once(':'))
    {
        Some((route, address)) if !route.contains('"') => address,
        _ => text,
    }
}

/// Whether the mail system could do anything with the address: Postfix's trivial-rewrite refuses a
/// local part that begins with `-` (it would be an option to a delivery program) and a domain that is
/// neither a host name nor a valid address literal. An empty address is not valid.
pub fn is_valid(address: &str, utf8: bool, rules: Rules) -> bool {
    if address.is_empty() || (!rules.allow_min_user && address.starts_with('-')) {
        return false;
    }
    match address.rsplit_once('@') {
        None => true,
        Some((local, "")) => rules.null_domain && !local.is_empty(),
        Some((_, domain)) => {
            let domain = domain.strip_suffix('.').unwrap_or(domain);
            let numeric = domain.parse::<std::net::Ipv4Addr>().is_ok();
            (utf8 || domain.is_ascii())
                && (host::is_valid_domain(domain) || (numeric && rules.numeric_domain))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What real Postfix 3.7 made of `RCPT TO:` and the text, default settings: the address that it
    /// then looked up, or 501.
    #[test]
    fn as_postfix_reads_them() {
        let rules = Rules::default();
        for (text, expected) in [
            ("<john@example.org>", Some("john@example.org")),
            ("john@example.org", Some("john@example.org")),
            ("john@example.org>", Some("john@example.org")),
            ("<<john@example.org>>", Some("john@example.org")),
            ("< john@example.org >", Some("john@example.org")),
            ("<john@example.org.>", Some("john@example.org.")),
            ("<\"john doe\"@example.org>", Some("john doe@example.org")),
            ("<\"john\"@example.org>", Some("john@example.org")),
            (
                "<@relay.example:john@example.org>",
                Some("john@example.org"),
            ),
            (
                "<@a.example,@b.example:jack@example.org>",
                Some("jack@example.org"),
            ),
            ("<(c)john@example.org>", Some("john@example.org")),
            ("<john(comment)@example.org>", Some("john@example.org")),
            ("<john (c) @ example.org>", Some("john@example.org")),
            ("<john. doe@example.org>", Some("john.doe@example.org")),
            ("<john@example.org (x>", Some("john@example.org")),
            ("<.john@example.org>", Some(".john@example.org")),
            (
                "<doubledot..x@example.org>",
                Some("doubledot..x@example.org"),
            ),
            ("<:john@example.org>", Some(":john@example.org")),
            ("<)john@example.org>", Some(")john@example.org")),
            ("<a@b@example.org>", Some("a@b@example.org")),
            ("<jo\\@hn@example.org>", Some("jo@hn@example.org")),
            ("<jo\\ hn@example.org>", Some("jo hn@example.org")),
            (
                "<john%example.org@mail.host.example>",
                Some("john%example.org@mail.host.example"),
            ),
            (
                "<example.org!john@mail.host.example>",
                Some("example.org!john@mail.host.example"),
            ),
            ("<jo\u{1}hn@example.org>", Some("jo\u{1}hn@example.org")),
            ("<jörg@example.org>", Some("jörg@example.org")),
            ("<john@[1.2.3.4]>", Some("john@[1.2.3.4]")),
            ("<john@[IPv6:::1]>", Some("john@[IPv6:::1]")),
            ("<john@a_b.example.org>", Some("john@a_b.example.org")),
            ("<\"\"@example.org>", Some("@example.org")),
            ("<@foo>", Some("@foo")),
            ("<john>", Some("john")),
            ("<>", None),
            ("<\"\">", None),
            ("<@foo:>", None),
            ("<john@example.org", None),
            ("<\"john@example.org>", None),
            ("(\"x", None),
            ("<john@example.org>x", None),
            ("<john@example.org>,<jane@example.org>", None),
            ("<john@example.org,jane@example.org>", None),
            ("<john doe@example.org>", None),
            ("<jo\thn@example.org>", None),
            ("<john;x@example.org>", None),
            ("<a:b;@example.org>", None),
            ("<-john@example.org>", None),
            ("<\"-john\"@example.org>", None),
            ("<-john>", None),
            ("<john@>", None),
            ("<john@[1.2.3]>", None),
            ("<john@[IPv6:zz]>", None),
            ("<john@[example.org]>", None),
            ("<john@127.0.0.1>", None),
            ("<john@1.2.3>", None),
            ("<john@-a.example.org>", None),
            ("<john@a-.example.org>", None),
            ("<john@a..example.org>", None),
            ("<john@.example.org>", None),
            ("<john@example.org..>", None),
            ("<john@ex!ample.org>", None),
            ("<jörg@bücher.example>", None),
        ] {
            let address = extract(text, rules)
                .ok()
                .filter(|a| is_valid(a, false, rules));
            assert_eq!(address.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn settings_widen_and_narrow() {
        let strict = Rules {
            strict: true,
            ..Rules::default()
        };
        for (text, ok) in [
            ("<john@example.org>", true),
            ("<@foo:john@example.org>", true),
            ("<\"john\"@example.org>", true),
            ("john@example.org", false),
            ("<john(x)@example.org>", false),
        ] {
            assert_eq!(extract(text, strict).is_ok(), ok, "{text}");
        }
        let wide = Rules {
            allow_min_user: true,
            null_domain: true,
            numeric_domain: true,
            ..Rules::default()
        };
        for address in [
            "-john@example.org",
            "john@",
            "john@127.0.0.1",
            "j@bücher.example",
        ] {
            assert!(is_valid(address, true, wide), "{address}");
        }
        assert!(!is_valid("@", true, wide));
    }
}
