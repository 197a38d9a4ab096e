//! Addresses: quoting, the parts around `@`, and address extensions.

use std::borrow::Cow;

/// The external form of an internal address: the local part quoted where it is not an RFC 5322
/// dot-atom. Octets beyond ASCII stay as they are.
pub fn quote_local(address: &str) -> String {
    match address.rfind('@') {
        Some(at) => format!("{}{}", quote_local_part(&address[..at]), &address[at..]),
        None => quote_local_part(address).into_owned(),
    }
}

/// A local part by itself, quoted where it is not a dot-atom.
pub fn quote_local_part(local: &str) -> Cow<'_, str> {
    if is_dot_atom(local) {
        return Cow::Borrowed(local);
    }
    let mut quoted = String::with_capacity(local.len() + 2);
    quoted.push('"');
    for c in local.chars() {
        if matches!(c, '"' | '\\' | '\r') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

/// Whether the local part stands without quotes (RFC 5322 section 3.2.3). The empty one does not.
fn is_dot_atom(local: &str) -> bool {
    local.split('.').all(|atom| {
        !atom.is_empty()
            && atom
                .chars()
                .all(|c| c > ' ' && c != '\x7f' && !"()<>@,;:\\\"[]".contains(c))
    })
}

/// The internal form of an external address: the local part without quotes and backslashes.
pub fn unquote_local(address: &str) -> String {
    let mut plain = String::with_capacity(address.len());
    let mut inside_quotes = false;
    let mut chars = address.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => inside_quotes = !inside_quotes,
            '\\' => plain.extend(chars.next().map(|(_, quoted)| quoted)),
            '@' if !inside_quotes && !address[at + 1..].contains('@') => {
                plain.push_str(&address[at..]);
                break;
            }
            other => plain.push(other),
        }
    }
    plain
}

/// The parts before and behind the last `@`.
pub fn split_domain(address: &str) -> Option<(&str, &str)> {
    address.rsplit_once('@')
}

/// The part behind the last `@`.
pub fn domain(address: &str) -> Option<&str> {
    split_domain(address).map(|(_, domain)| domain)
}

/// What an address extension is cut off by, and which names are never cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionRules {
    /// `recipient_delimiter`: each of its characters ends the user's name. Empty: no extensions.
    pub delimiters: String,
    /// `owner_request_special`: with `-` among the delimiters, `owner-x` and `x-request` are names.
    pub owner_request_special: bool,
    /// `double_bounce_sender`: a name that is never cut.
    pub double_bounce: String,
}

impl ExtensionRules {
    /// `john+work` → `("john", "+work")`: the extension keeps its delimiter.
    pub fn split<'a>(&self, local: &'a str) -> Option<(&'a str, &'a str)> {
        let never = ["postmaster", "mailer-daemon", &self.double_bounce];
        if never.iter().any(|name| crate::fold::same(local, name)) {
            return None;
        }
        if self.delimiters.contains('-') && self.owner_request_special {
            let lower = local.to_ascii_lowercase();
            let request = lower
                .strip_suffix("-request")
                .is_some_and(|list| !list.is_empty());
            if lower.starts_with("owner-") || request {
                return None;
            }
        }
        let cut = local.find(|c| self.delimiters.contains(c))?;
        (cut > 0).then(|| local.split_at(cut))
    }

    /// `john+work@example.org` → `("john@example.org", "+work")`, for addresses in internal form.
    pub fn strip(&self, address: &str) -> Option<(String, String)> {
        if self.delimiters.is_empty() {
            return None;
        }
        let (local, at_domain) = match address.rfind('@') {
            Some(at) => address.split_at(at),
            None => (address, ""),
        };
        let (user, extension) = self.split(local)?;
        Some((format!("{user}{at_domain}"), extension.to_owned()))
    }
}

/// `john@example.org` with `+work` → `john+work@example.org`.
pub fn add_extension(address: &str, extension: &str) -> String {
    match address.rfind('@') {
        Some(at) => format!("{}{extension}{}", &address[..at], &address[at..]),
        None => format!("{address}{extension}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(delimiters: &str) -> ExtensionRules {
        ExtensionRules {
            delimiters: delimiters.into(),
            owner_request_special: true,
            double_bounce: "double-bounce".into(),
        }
    }

    #[test]
    fn quotes_where_needed() {
        for (plain, quoted) in [
            ("john@x", "john@x"),
            ("a b@x", "\"a b\"@x"),
            ("a\"b\\c@x", "\"a\\\"b\\\\c\"@x"),
            ("a..b@x", "\"a..b\"@x"),
            (".a@x", "\".a\"@x"),
            ("a@b@x", "\"a@b\"@x"),
            ("jörg@x", "jörg@x"),
            ("", "\"\""),
            ("o'brien%y!z@x", "o'brien%y!z@x"),
        ] {
            assert_eq!(quote_local(plain), quoted);
            assert_eq!(unquote_local(quoted), plain);
        }
    }

    #[test]
    fn splits_extensions() {
        for (delimiters, local, expected) in [
            ("+", "john+work", Some(("john", "+work"))),
            ("+", "john++", Some(("john", "++"))),
            ("+", "+work", None),
            ("+", "john", None),
            ("+-", "john-a+b", Some(("john", "-a+b"))),
            ("-", "owner-list", None),
            ("-", "list-request", None),
            ("-", "-request", None),
            ("-", "double-bounce", None),
            ("-", "mailer-daemon", None),
            ("", "john+work", None),
        ] {
            assert_eq!(
                rules(delimiters).split(local),
                expected,
                "{delimiters} {local}"
            );
        }
        assert_eq!(
            rules("+").strip("john+a@x"),
            Some(("john@x".into(), "+a".into()))
        );
        assert_eq!(add_extension("john@x", "+a"), "john+a@x");
        assert_eq!(add_extension("john", "+a"), "john+a");
    }

    proptest! {
        #[test]
        fn quoting_loses_nothing(local in "[ -~é]{0,20}", domain in "[a-z.]{1,12}") {
            let address = format!("{local}@{domain}");
            prop_assert_eq!(unquote_local(&quote_local(&address)), address);
        }
    }
}
