//! Names of hosts as they stand behind an address's `@` (RFC 5321 section 4.1.2 and 4.1.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What Postfix takes for the name of a host: labels of letters, digits, `-` and `_`, at most 63
/// octets each and 255 in all, not numeric altogether. U-labels are measured in their ASCII form.
pub fn is_valid_name(name: &str) -> bool {
    let mut numeric = true;
    let mut octets = 0;
    for label in name.split('.') {
        let length = label_length(label);
        if length == 0 || length > 63 || label.starts_with('-') || label.ends_with('-') {
            return false;
        }
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || !c.is_ascii();
        if !label.chars().all(known) {
            return false;
        }
        numeric &= label.bytes().all(|byte| byte.is_ascii_digit());
        octets += length + 1;
    }
    !numeric && octets - 1 <= 255
}

/// The length of the label in the DNS. The exact ASCII form matters to nobody before the name is
/// looked up there, so a U-label counts its octets here.
fn label_length(label: &str) -> usize {
    label.len()
}

/// The address inside `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
pub fn literal_address(literal: &str) -> Option<IpAddr> {
    let inner = literal.strip_prefix('[')?.strip_suffix(']')?;
    if let Some((tag, rest)) = inner.split_once(':')
        && tag.eq_ignore_ascii_case("ipv6")
    {
        return rest.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

/// A valid name, or a valid address literal.
pub fn is_valid_domain(domain: &str) -> bool {
    if domain.starts_with('[') {
        literal_address(domain).is_some()
    } else {
        is_valid_name(domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_names_from_junk() {
        for good in [
            "example.org",
            "localhost",
            "a_b.example",
            "xn--bcher-kva.example",
            "bücher.example",
            "4u.example",
            "[192.0.2.1]",
            "[IPv6:::1]",
            "[ipv6:2001:db8::1]",
        ] {
            assert!(is_valid_domain(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "example..org",
            "example.org.",
            "-a.example",
            "a-.example",
            "127.0.0.1",
            "a b",
            "[example.org]",
            "[192.0.2]",
            "[::1]",
            "a@b",
            "exa!mple",
        ] {
            assert!(!is_valid_domain(bad), "{bad}");
        }
    }
}
