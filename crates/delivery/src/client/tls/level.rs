//! Security levels, and the policy of one destination: main.cf's, or what `smtp_tls_policy_maps` has for it.

use rustls::SupportedProtocolVersion;
use smtp::client::TlsWish;

use super::Tls;

/// `smtp_tls_security_level`, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    May,
    Encrypt,
    Fingerprint,
    Verify,
    Secure,
}

impl Level {
    /// By its name. `dane` needs TLSA records, which are not asked for here; what Postfix does without them is `may`.
    pub fn of(name: &str) -> Option<Level> {
        Some(match name.to_ascii_lowercase().as_str() {
            "none" => Level::None,
            "may" | "dane" => Level::May,
            "encrypt" => Level::Encrypt,
            "fingerprint" => Level::Fingerprint,
            "verify" => Level::Verify,
            "secure" => Level::Secure,
            _ => return None,
        })
    }
}

/// What TLS means for one destination.
pub struct Policy {
    pub level: Level,
    pub(super) matching: Matching,
    /// The host is named by its address, which no name of a certificate matches.
    pub(super) host_is_address: bool,
    /// To be sent as SNI.
    pub(super) servername: Option<String>,
    /// Where they are not those of main.cf.
    pub(super) versions: Option<Vec<&'static SupportedProtocolVersion>>,
}

/// What the certificate must be.
pub(super) enum Matching {
    Nothing,
    Names(Vec<String>),
    Fingerprints(Vec<String>),
}

impl Policy {
    /// What the dialogue is to do.
    pub fn wish(&self) -> TlsWish {
        match self.level {
            Level::None => TlsWish::No,
            Level::May => TlsWish::May,
            _ => TlsWish::Must,
        }
    }
}

/// A nexthop as tables and certificates name it.
pub(super) struct NextHop<'a> {
    /// `[host]:port`, `example.org`, as the transport has it.
    whole: &'a str,
    /// Without brackets and port.
    domain: &'a str,
}

impl NextHop<'_> {
    pub fn of(whole: &str) -> NextHop<'_> {
        let domain = match whole.strip_prefix('[') {
            Some(inside) => inside.split(']').next().unwrap_or(inside),
            None => whole.split(':').next().unwrap_or(whole),
        };
        NextHop { whole, domain }
    }

    /// The keys of a policy table: itself; for a domain its parents, with a dot in front.
    fn keys(&self) -> Vec<String> {
        let whole = self.whole.to_ascii_lowercase();
        let mut keys = vec![whole.clone()];
        if !whole.starts_with('[') && !whole.contains(':') {
            let parents = whole
                .match_indices('.')
                .map(|(at, _)| whole[at..].to_owned());
            keys.extend(parents);
        }
        keys
    }
}

/// Attributes of a policy table's value.
#[derive(Default)]
struct Special {
    level: Option<Level>,
    matches: Vec<String>,
    servername: Option<String>,
    versions: Option<Vec<&'static SupportedProtocolVersion>>,
}

pub(super) async fn policy(tls: &Tls, nexthop: &NextHop<'_>, host: &str) -> Result<Policy, ()> {
    let special = find(tls, nexthop).await?.unwrap_or_default();
    let level = special.level.unwrap_or(tls.level);
    // TLS from the first byte is TLS.
    let level = if tls.wrapper {
        level.max(Level::Encrypt)
    } else {
        level
    };
    let names = |configured: &[String]| -> Vec<String> {
        let wanted = match special.matches.is_empty() {
            true => configured,
            false => &special.matches,
        };
        let named = wanted.iter().map(|word| match word.as_str() {
            "hostname" => host.to_owned(),
            "nexthop" => nexthop.domain.to_owned(),
            "dot-nexthop" => format!(".{}", nexthop.domain),
            name => name.to_owned(),
        });
        named.map(|name| name.to_ascii_lowercase()).collect()
    };
    let matching = match level {
        Level::None | Level::May | Level::Encrypt => Matching::Nothing,
        Level::Verify => Matching::Names(names(&tls.verify_match)),
        Level::Secure => Matching::Names(names(&tls.secure_match)),
        Level::Fingerprint => Matching::Fingerprints(match special.matches.is_empty() {
            true => tls.fingerprints.clone(),
            false => special.matches.clone(),
        }),
    };
    let servername = special.servername.as_deref().unwrap_or(&tls.servername);
    let servername = match servername {
        "" => None,
        "hostname" => Some(host.to_owned()),
        "nexthop" => Some(nexthop.domain.to_owned()),
        name => Some(name.to_owned()),
    };
    Ok(Policy {
        level,
        matching,
        host_is_address: host.parse::<std::net::IpAddr>().is_ok(),
        servername,
        versions: special.versions,
    })
}

/// What `smtp_tls_policy_maps` has. A failure is logged, and defers the mail.
async fn find(tls: &Tls, nexthop: &NextHop<'_>) -> Result<Option<Special>, ()> {
    if tls.policies.is_empty() {
        return Ok(None);
    }
    for key in nexthop.keys() {
        match tls.policies.lookup(&key).await {
            Ok(None) => {}
            Ok(Some(value)) => {
                return parse(&value).map(Some).map_err(|problem| {
                    tracing::warn!(
                        prog = tls.prog,
                        "{}_tls_policy_maps: {key}: {problem}",
                        tls.prog
                    );
                });
            }
            Err(error) => {
                tracing::warn!(prog = tls.prog, "{}_tls_policy_maps: {error}", tls.prog);
                return Err(());
            }
        }
    }
    Ok(None)
}

fn parse(value: &str) -> Result<Special, String> {
    let words = value.split(|c: char| c.is_whitespace() || c == ',');
    let mut words = words.filter(|word| !word.is_empty());
    let name = words.next().ok_or("invalid empty policy")?;
    let level = Level::of(name).ok_or_else(|| format!("invalid security level \"{name}\""))?;
    let mut special = Special {
        level: Some(level),
        ..Special::default()
    };
    for word in words {
        let (attribute, value) = word
            .split_once('=')
            .ok_or_else(|| format!("malformed attribute/value pair \"{word}\""))?;
        match attribute {
            // Fingerprints have colons of their own.
            "match" if level == Level::Fingerprint => {
                special.matches.extend(value.split('|').map(str::to_owned));
            }
            "match" => special.matches.extend(value.split(':').map(str::to_owned)),
            "servername" => special.servername = Some(value.to_owned()),
            "protocols" => special.versions = Some(tls::named_versions(value)?),
            // The ciphers of all grades are the same here, and connections are never shared.
            "ciphers" | "exclude" | "connection_reuse" => {}
            _ => return Err(format!("invalid attribute \"{attribute}\"")),
        }
    }
    Ok(special)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_policy_tables() {
        let read =
            parse("secure match=a.example:.b.example servername=hostname").expect("a policy");
        assert_eq!(read.level, Some(Level::Secure));
        assert_eq!(read.matches, ["a.example", ".b.example"]);
        assert_eq!(read.servername.as_deref(), Some("hostname"));
        let read = parse("fingerprint match=AB:CD match=EF|01").expect("a policy");
        assert_eq!(read.matches, ["AB:CD", "EF", "01"]);
        for bad in [
            "",
            "sometimes",
            "may match",
            "may color=red",
            "encrypt protocols=TLSv9",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_of_policy_tables() {
        assert_eq!(
            NextHop::of("[Host.example]:587").keys(),
            ["[host.example]:587"]
        );
        assert_eq!(
            NextHop::of("a.b.example").keys(),
            ["a.b.example", ".b.example", ".example"]
        );
        assert_eq!(NextHop::of("[host.example]:587").domain, "host.example");
        assert_eq!(NextHop::of("host.example:25").domain, "host.example");
    }
}
