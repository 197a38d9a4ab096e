//! What a certificate says of its owner, its issuer and its key: as much of X.509 as logs, headers and
//! access tables show.

/// A certificate, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name; empty without one.
    pub subject: String,
    /// The issuer's common name, or its organization.
    pub issuer: String,
    /// The whole name of the issuer: `/O=Tests/CN=Test CA`.
    pub issuer_line: String,
    /// What kind of key it is for.
    pub key: Option<KeyKind>,
    /// The public key (SubjectPublicKeyInfo) in DER.
    pub public_key: Vec<u8>,
    /// The host names of its subject alternative names.
    pub dns_names: Vec<String>,
}

/// A public key as log lines describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Rsa { bits: usize },
    Ec { curve: &'static str },
    Ed25519,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_ID: u8 = 0x06;
/// `[0]`, the version of a certificate.
const VERSION: u8 = 0xa0;

/// `[3]`, the extensions.
const EXTENSIONS: u8 = 0xa3;
const OCTET_STRING: u8 = 0x04;
/// `[2]`, a host name among the alternative names.
const DNS_NAME: u8 = 0x82;
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 17];

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANIZATION: &[u8] = &[0x55, 4, 10];
/// What OpenSSL calls the parts of a Name.
const NAMES: [(&[u8], &str); 8] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (ORGANIZATION, "O"),
    (&[0x55, 4, 11], "OU"),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
        "emailAddress",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
        "DC",
    ),
];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const CURVES: [(&[u8], &str); 3] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], "prime256v1"),
    (&[0x2b, 0x81, 4, 0, 34], "secp384r1"),
    (&[0x2b, 0x81, 4, 0, 35], "secp521r1"),
];

impl Certificate {
    /// Reads DER (RFC 5280 section 4.1); `None` when it is no certificate.
    pub fn read(der: &[u8]) -> Option<Certificate> {
        let mut outer = Der(Der(der).take(SEQUENCE)?.content);
        let mut body = Der(outer.take(SEQUENCE)?.content);
        if body.0.first() == Some(&VERSION) {
            body.take(VERSION)?;
        }
        body.take(INTEGER)?;
        body.take(SEQUENCE)?;
        let issuer = body.take(SEQUENCE)?.content;
        body.take(SEQUENCE)?;
        let subject = body.take(SEQUENCE)?.content;
        let public_key = body.take(SEQUENCE)?;
        let issuer_line = one_line(issuer);
        let issuer = name_part(issuer, COMMON_NAME).or_else(|| name_part(issuer, ORGANIZATION));
        Some(Certificate {
            subject: name_part(subject, COMMON_NAME).unwrap_or_default(),
            issuer: issuer.unwrap_or_default(),
            issuer_line,
            key: key_kind(public_key.content),
            public_key: public_key.whole.to_vec(),
            dns_names: dns_names(body).unwrap_or_default(),
        })
    }
}

/// What stands behind the public key: unique identifiers, and the extensions.
fn dns_names(mut rest: Der<'_>) -> Option<Vec<String>> {
    let extensions = loop {
        let element = rest.next()?;
        if element.tag == EXTENSIONS {
            break Der(element.content).take(SEQUENCE)?.content;
        }
    };
    let mut extensions = Der(extensions);
    while let Some(extension) = extensions.take(SEQUENCE) {
        let mut parts = Der(extension.content);
        if parts.take(OBJECT_ID)?.content != ALTERNATIVE_NAMES {
            continue;
        }
        // Whether it is critical may stand between.
        let value = loop {
            let element = parts.next()?;
            if element.tag == OCTET_STRING {
                break element.content;
            }
        };
        let mut names = Der(Der(value).take(SEQUENCE)?.content);
        let mut found = Vec::new();
        while let Some(name) = names.next() {
            // What is not ASCII, or has a NUL in it to deceive, is no host name.
            let text = std::str::from_utf8(name.content).ok();
            let text = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
            if name.tag == DNS_NAME {
                found.extend(text.map(str::to_owned));
            }
        }
        return Some(found);
    }
    None
}

/// The types and values in a Name, as far as they can be read, fit to be shown.
fn attributes(name: &[u8]) -> Vec<(&[u8], String)> {
    let mut found = Vec::new();
    let mut sets = Der(name);
    while let Some(set) = sets.take(SET) {
        let mut attributes = Der(set.content);
        while let Some(attribute) = attributes.take(SEQUENCE) {
            let mut parts = Der(attribute.content);
            let (Some(kind), Some(value)) = (parts.take(OBJECT_ID), parts.next()) else {
                return found;
            };
            let odd = |c: char| c.is_control() || ['(', ')', '\\'].contains(&c);
            let text = String::from_utf8_lossy(value.content).replace(odd, "?");
            found.push((kind.content, text));
        }
    }
    found
}

fn name_part(name: &[u8], wanted: &[u8]) -> Option<String> {
    let mut all = attributes(name).into_iter();
    all.find(|(kind, _)| *kind == wanted).map(|(_, text)| text)
}

/// A Name as OpenSSL prints it in one line.
fn one_line(name: &[u8]) -> String {
    let all = attributes(name).into_iter().map(|(kind, text)| {
        let known = NAMES.iter().find(|(known, _)| *known == kind);
        let label = known.map_or("UNDEF", |(_, label)| label);
        format!("/{label}={text}")
    });
    all.collect()
}

fn key_kind(public_key: &[u8]) -> Option<KeyKind> {
    let mut parts = Der(public_key);
    let mut algorithm = Der(parts.take(SEQUENCE)?.content);
    match algorithm.take(OBJECT_ID)?.content {
        RSA => {
            // A bit string begins with the number of its unused bits.
            let key = parts.take(BIT_STRING)?.content.get(1..)?;
            let modulus = Der(Der(key).take(SEQUENCE)?.content).take(INTEGER)?.content;
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            let first = modulus.get(zeros)?.leading_zeros() as usize;
            Some(KeyKind::Rsa {
                bits: (modulus.len() - zeros) * 8 - first,
            })
        }
        EC => {
            let id = algorithm.take(OBJECT_ID)?.content;
            let known = CURVES.iter().find(|(curve, _)| *curve == id);
            known.map(|(_, curve)| KeyKind::Ec { curve })
        }
        ED25519 => Some(KeyKind::Ed25519),
        _ => None,
    }
}

/// The rest of a DER value.
struct Der<'a>(&'a [u8]);

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// With tag and length.
    whole: &'a [u8],
}

impl<'a> Der<'a> {
    /// The next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    fn next(&mut self) -> Option<Element<'a>> {
        let all = self.0;
        let (&tag, rest) = all.split_first()?;
        let (&short, mut rest) = rest.split_first()?;
        let length = match short {
            0..=127 => usize::from(short),
            // More than four bytes of length: nothing that fits into a handshake.
            0x81..=0x84 => {
                let count = usize::from(short & 0x7f);
                let (bytes, behind) = rest.split_at_checked(count)?;
                rest = behind;
                bytes
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            _ => return None,
        };
        let (content, behind) = rest.split_at_checked(length)?;
        self.0 = behind;
        Some(Element {
            tag,
            content,
            whole: &all[..all.len() - behind.len()],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl req -x509 -newkey ed25519 -subj '/O=Org/CN=a (test)'`, made once.
    const ED25519_PEM: &str = include_str!("testdata/ed25519.pem");

    fn der(pem: &str) -> Vec<u8> {
        let read = rustls::pki_types::pem::from_buf(&mut pem.as_bytes());
        read.expect("PEM").expect("a certificate").1
    }

    #[test]
    fn a_certificate_is_read() {
        let certificate = Certificate::read(&der(ED25519_PEM)).expect("a certificate");
        assert_eq!(certificate.subject, "a ?test?");
        assert_eq!(certificate.issuer, "a ?test?");
        assert_eq!(certificate.key, Some(KeyKind::Ed25519));
        assert_eq!(certificate.public_key.len(), 44);
    }

    #[test]
    fn what_is_cut_is_no_certificate_and_never_a_panic() {
        let whole = der(ED25519_PEM);
        for end in 0..whole.len() {
            assert_eq!(Certificate::read(&whole[..end]), None, "{end} bytes");
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = Certificate::read(&changed);
            }
        }
    }
}
