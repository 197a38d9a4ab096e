//! Protocols and ciphers: what main.cf wants, as far as rustls has it (TLS 1.2 and 1.3, AEAD ciphers with ECDHE).

use config::{Config, ConfigError};
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

/// OpenSSL's names, which are what logs and settings use, with what the suites are made of.
#[rustfmt::skip]
const SUITES: [(CipherSuite, &str, u16, &[&str]); 9] = [
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", 256, &[]),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", 128, &[]),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", 256, &[]),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384", 256, &["ECDSA", "AES256", "AESGCM", "AES", "SHA384"]),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256", 128, &["ECDSA", "AES128", "AESGCM", "AES", "SHA256"]),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305", 256, &["ECDSA", "CHACHA20"]),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384", 256, &["ARSA", "AES256", "AESGCM", "AES", "SHA384"]),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256", 128, &["ARSA", "AES128", "AESGCM", "AES", "SHA256"]),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305", 256, &["ARSA", "CHACHA20"]),
];

/// OpenSSL's name of the suite, and the bits of its key.
pub fn describe(suite: CipherSuite) -> (String, u16) {
    let known = SUITES.iter().find(|(known, ..)| *known == suite);
    known.map_or_else(
        || (format!("{suite:?}"), 0),
        |(_, name, bits, _)| ((*name).to_owned(), *bits),
    )
}

/// What may be negotiated.
pub struct Choice {
    pub provider: CryptoProvider,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// What main.cf wants and rustls does not have; for the log.
    pub warnings: Vec<String>,
}

impl Choice {
    /// By the parameters `PROGRAM_tls_…` for opportunistic TLS, or by those for mandatory TLS.
    pub fn read(config: &Config, program: &str, mandatory: bool) -> Result<Choice, ConfigError> {
        let [protocols, grade, excluded] = match mandatory {
            true => [
                "tls_mandatory_protocols",
                "tls_mandatory_ciphers",
                "tls_mandatory_exclude_ciphers",
            ],
            false => ["tls_protocols", "tls_ciphers", "tls_exclude_ciphers"],
        };
        let name = |what: &str| format!("{program}_{what}");
        let mut warnings = Vec::new();
        let versions = versions(config, &name(protocols), &mut warnings)?;
        check_grade(config, &name(grade), &mut warnings)?;
        let mut exclusions = config.list(&name("tls_exclude_ciphers"))?;
        if mandatory {
            exclusions.extend(config.list(&name(excluded))?);
        }
        let mut provider = rustls::crypto::ring::default_provider();
        provider
            .cipher_suites
            .retain(|suite| !is_excluded(suite, &exclusions));
        Ok(Choice {
            provider,
            versions,
            warnings,
        })
    }
}

/// Suites of TLS 1.3 are no affair of OpenSSL's cipher lists, and so not of ours.
fn is_excluded(suite: &SupportedCipherSuite, exclusions: &[String]) -> bool {
    let Some((_, name, _, parts)) = SUITES.iter().find(|(known, ..)| *known == suite.suite())
    else {
        return false;
    };
    let fits = |word: &str| {
        let word = word.to_ascii_uppercase();
        let all = ["ALL", "HIGH", "KEECDH", "ECDHE", "EECDH", "TLSV1.2"];
        word == *name
            || all.contains(&word.as_str())
            || parts.contains(&word.as_str())
            || (word == "AECDSA" && parts.contains(&"ECDSA"))
    };
    !parts.is_empty() && exclusions.iter().any(|item| item.split('+').all(fits))
}

/// The grades differ in ciphers that rustls does not have; only a word that is none of them is a mistake.
fn check_grade(config: &Config, name: &str, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    let grade = config.string(name)?;
    match grade.to_ascii_lowercase().as_str() {
        "medium" | "high" => Ok(()),
        "export" | "low" | "null" => {
            warnings.push(format!(
                "{name} = {grade}: there are no such ciphers here; those of grade high are offered"
            ));
            Ok(())
        }
        _ => Err(ConfigError::new(
            "unknown cipher grade",
            "use one of: high, medium, low, export, null",
        )
        .at(config.origin(name))
        .parameter(name)
        .value(&grade)),
    }
}

/// All protocols that the parameter may name, oldest first.
const PROTOCOLS: [&str; 6] = ["SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];

fn versions(
    config: &Config,
    name: &str,
    warnings: &mut Vec<String>,
) -> Result<Vec<&'static SupportedProtocolVersion>, ConfigError> {
    let text = config.string(name)?;
    let mistake = |problem: String, remedy: &str| {
        ConfigError::new(problem, remedy)
            .at(config.origin(name))
            .parameter(name)
            .value(&text)
    };
    let wanted = parse_protocols(&text).map_err(|word| {
        mistake(
            format!("unknown TLS protocol \"{word}\""),
            "write for example >=TLSv1.2",
        )
    })?;
    let mut versions = Vec::new();
    if wanted[4] {
        versions.push(&rustls::version::TLS12);
    }
    if wanted[5] {
        versions.push(&rustls::version::TLS13);
    }
    if versions.is_empty() {
        return Err(mistake(
            "neither TLSv1.2 nor TLSv1.3 is allowed, and there are no others here".into(),
            "write >=TLSv1.2",
        ));
    }
    // The default has them, too; only who asks for them is told.
    if config.raw(name).is_some() {
        let lacking: Vec<&str> = (0..4)
            .filter(|at| wanted[*at])
            .map(|at| PROTOCOLS[at])
            .collect();
        if !lacking.is_empty() {
            warnings.push(format!(
                "{name} = {text}: {} are not supported; the other side needs TLSv1.2 or TLSv1.3",
                lacking.join(", ")
            ));
        }
    }
    Ok(versions)
}

/// The protocols that a policy table names; an error where there are none of them here.
pub fn named_versions(text: &str) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let wanted =
        parse_protocols(text).map_err(|word| format!("unknown TLS protocol \"{word}\""))?;
    let mut versions = Vec::new();
    versions.extend(wanted[4].then_some(&rustls::version::TLS12));
    versions.extend(wanted[5].then_some(&rustls::version::TLS13));
    match versions.is_empty() {
        true => Err("neither TLSv1.2 nor TLSv1.3 is allowed, and there are no others here".into()),
        false => Ok(versions),
    }
}

/// `>=TLSv1.2, <=TLSv1.3`, `!SSLv2 !SSLv3`, `TLSv1.2 TLSv1.3`: which of [`PROTOCOLS`] are left.
/// `Err`: the word that is none of them.
fn parse_protocols(text: &str) -> Result<[bool; 6], String> {
    let at = |word: &str| {
        let known = PROTOCOLS
            .iter()
            .position(|name| name.eq_ignore_ascii_case(word));
        known.ok_or_else(|| word.to_owned())
    };
    let (mut lowest, mut highest) = (0, PROTOCOLS.len() - 1);
    let mut excluded = [false; 6];
    let mut included = [false; 6];
    let words = text.split(|c: char| c.is_whitespace() || c == ',' || c == ':');
    for word in words.filter(|word| !word.is_empty()) {
        if let Some(word) = word.strip_prefix(">=") {
            lowest = at(word)?;
        } else if let Some(word) = word.strip_prefix("<=") {
            highest = at(word)?;
        } else if let Some(word) = word.strip_prefix('!') {
            excluded[at(word)?] = true;
        } else {
            included[at(word)?] = true;
        }
    }
    let mut wanted = [false; 6];
    for (at, wanted) in wanted.iter_mut().enumerate() {
        let named = included[at] || included == [false; 6];
        *wanted = (lowest..=highest).contains(&at) && named && !excluded[at];
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols() {
        for (text, tls12, tls13, older) in [
            (">=TLSv1", true, true, true),
            (">=TLSv1.2", true, true, false),
            (">=TLSv1.2, <=TLSv1.2", true, false, false),
            ("!SSLv2, !SSLv3, !TLSv1, !TLSv1.1", true, true, false),
            ("!SSLv2 !SSLv3", true, true, true),
            ("TLSv1.3", false, true, false),
            ("TLSv1.1:tlsv1.2", true, false, true),
            ("", true, true, true),
            ("SSLv3", false, false, true),
        ] {
            let wanted = parse_protocols(text).expect(text);
            let older_found = wanted[..4].contains(&true);
            assert_eq!(
                (wanted[4], wanted[5], older_found),
                (tls12, tls13, older),
                "{text}"
            );
        }
        assert_eq!(parse_protocols(">=TLSv9"), Err("TLSv9".to_owned()));
    }

    #[test]
    fn exclusions_reach_the_suites_of_tls_1_2_alone() {
        let left = |words: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            let all = rustls::crypto::ring::default_provider().cipher_suites;
            let kept = all.iter().filter(|suite| !is_excluded(suite, &words));
            kept.count()
        };
        for (words, count) in [
            ("aNULL MD5 RC4 3DES", 9),
            ("AES128", 7),
            ("ECDSA", 6),
            ("aECDSA", 6),
            ("aRSA", 6),
            ("kEECDH+aRSA", 6),
            ("aRSA+AES128", 8),
            ("CHACHA20", 7),
            ("ECDHE-RSA-AES256-GCM-SHA384", 8),
            ("kEECDH", 3),
        ] {
            assert_eq!(left(words), count, "{words}");
        }
    }
}
