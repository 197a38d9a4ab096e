//! What rustls' own reader does not give of an X.509 certificate, and what private CAs made by older
//! instructions need: version 1 certificates, and the common name.

use sha2::{Digest, Sha256, Sha384, Sha512};

/// The parts of a certificate (RFC 5280 4.1), as they lie in it.
pub(super) struct Certificate<'a> {
    /// What the issuer has signed.
    pub signed: &'a [u8],
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
    /// Seconds since 1970.
    pub not_before: u64,
    pub not_after: u64,
    /// The whole SubjectPublicKeyInfo.
    pub key_info: &'a [u8],
    /// Algorithm and parameters, without the SEQUENCE around them.
    pub key_algorithm: &'a [u8],
    pub key: &'a [u8],
    pub signature_algorithm: &'a [u8],
    pub signature: &'a [u8],
    /// `None` in a certificate of version 1.
    extensions: Option<&'a [u8]>,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

impl<'a> Certificate<'a> {
    /// `None` for anything that is not a certificate.
    pub fn parse(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut outer = Reader(Reader(der).expect(SEQUENCE)?);
        let signed = outer.whole(SEQUENCE)?;
        let signature_algorithm = outer.expect(SEQUENCE)?;
        let signature = bits(outer.expect(BIT_STRING)?)?;

        let mut body = Reader(Reader(signed).expect(SEQUENCE)?);
        body.optional(0xa0);
        body.expect(INTEGER)?;
        body.expect(SEQUENCE)?;
        let issuer = body.expect(SEQUENCE)?;
        let mut validity = Reader(body.expect(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let subject = body.expect(SEQUENCE)?;
        let key_info = body.whole(SEQUENCE)?;
        body.optional(0x81);
        body.optional(0x82);
        let extensions = match body.optional(0xa3) {
            Some(wrapped) => Some(Reader(wrapped).expect(SEQUENCE)?),
            None => None,
        };
        let mut key = Reader(Reader(key_info).expect(SEQUENCE)?);
        Some(Certificate {
            signed,
            issuer,
            subject,
            not_before,
            not_after,
            key_info,
            key_algorithm: key.expect(SEQUENCE)?,
            key: bits(key.expect(BIT_STRING)?)?,
            signature_algorithm,
            signature,
            extensions,
        })
    }

    pub fn has_extensions(&self) -> bool {
        self.extensions.is_some()
    }

    /// The last common name of the subject, where text.
    pub fn common_name(&self) -> Option<&'a str> {
        let mut found = None;
        let mut sets = Reader(self.subject);
        while let Some(set) = sets.optional(SET) {
            let mut pair = Reader(Reader(set).expect(SEQUENCE)?);
            if pair.expect(OID)? == COMMON_NAME {
                let (_, value) = pair.next()?;
                found = std::str::from_utf8(value).ok();
            }
        }
        found
    }

    /// Whether the certificate names hosts as it should, so that the common name does not count.
    pub fn has_dns_names(&self) -> bool {
        self.alternative_names()
            .is_some_and(|names| Reader(names).any(0x82))
    }

    fn alternative_names(&self) -> Option<&'a [u8]> {
        let mut all = Reader(self.extensions?);
        while let Some(extension) = all.optional(SEQUENCE) {
            let mut parts = Reader(extension);
            if parts.expect(OID)? == SUBJECT_ALT_NAME {
                parts.optional(0x01);
                return Reader(parts.expect(OCTET_STRING)?).expect(SEQUENCE);
            }
        }
        None
    }
}

/// What binds a login to the encrypted channel (RFC 5929 4, `tls-server-end-point`): the hash of the server's
/// certificate by the algorithm of its signature. `None` where that has none of its own.
pub(in crate::sql) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3];
    let certificate = Certificate::parse(der)?;
    let algorithm = Reader(certificate.signature_algorithm).expect(OID)?;
    let kind = match (algorithm.strip_prefix(RSA), algorithm.strip_prefix(ECDSA)) {
        (Some([kind]), _) => *kind,
        // The numbers of RSA, from those of ECDSA.
        (_, Some([kind])) => kind.saturating_add(9),
        _ => return None,
    };
    match kind {
        // MD5 and SHA-1 count as SHA-256.
        4 | 5 | 11 => Some(Sha256::digest(der).to_vec()),
        12 => Some(Sha384::digest(der).to_vec()),
        13 => Some(Sha512::digest(der).to_vec()),
        _ => None,
    }
}

/// Modulus and exponent of an RSA key (RFC 8017 A.1.1).
pub(in crate::sql) fn rsa_numbers(key_info: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = Reader(Reader(key_info).expect(SEQUENCE)?);
    parts.expect(SEQUENCE)?;
    let mut numbers = Reader(Reader(bits(parts.expect(BIT_STRING)?)?).expect(SEQUENCE)?);
    Some((numbers.expect(INTEGER)?, numbers.expect(INTEGER)?))
}

/// The bytes of a bit string; keys and signatures are whole bytes.
fn bits(content: &[u8]) -> Option<&[u8]> {
    content.strip_prefix(&[0])
}

/// Takes one DER element after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Tag and content of the next element.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes
                    .iter()
                    .fold(0, |all, &byte| all << 8 | usize::from(byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        match self.0.first() {
            Some(&found) if found == tag => self.next().map(|(_, content)| content),
            _ => None,
        }
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.optional(tag)
    }

    /// The next element with its tag and length.
    fn whole(&mut self, tag: u8) -> Option<&'a [u8]> {
        let all = self.0;
        self.expect(tag)?;
        Some(&all[..all.len() - self.0.len()])
    }

    fn any(&mut self, tag: u8) -> bool {
        while let Some((found, _)) = self.next() {
            if found == tag {
                return true;
            }
        }
        false
    }

    /// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ` in seconds since 1970.
    fn time(&mut self) -> Option<u64> {
        let (tag, text) = self.next()?;
        let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let year: i64 = text.get(..2)?.parse().ok()?;
                (year + if year < 50 { 2000 } else { 1900 }, text.get(2..)?)
            }
            GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
            _ => return None,
        };
        let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
        let days = days_since_1970(year, part(0)?, part(2)?);
        let seconds = (days * 24 + part(4)?) * 3600 + part(6)? * 60 + part(8)?;
        u64::try_from(seconds).ok()
    }
}

/// The Gregorian calendar, counted in years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 25), 20_782),
        ] {
            let (year, month, day) = date;
            assert_eq!(days_since_1970(year, month, day), days, "{date:?}");
        }
    }

    proptest! {
        #[test]
        fn junk_is_no_certificate_and_no_panic(bytes: Vec<u8>) {
            if let Some(certificate) = Certificate::parse(&bytes) {
                certificate.common_name();
                certificate.has_dns_names();
            }
            rsa_numbers(&bytes);
            end_point(&bytes);
        }
    }
}
