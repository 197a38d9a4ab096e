//! Fingerprints of certificates and keys.

/// `smtpd_tls_fingerprint_digest` and its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    Md5,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Digest {
    /// By its name in main.cf.
    pub fn of(name: &str) -> Option<Digest> {
        Some(match name.to_ascii_lowercase().as_str() {
            "md5" => Digest::Md5,
            "sha1" => Digest::Sha1,
            "sha256" => Digest::Sha256,
            "sha384" => Digest::Sha384,
            "sha512" => Digest::Sha512,
            _ => return None,
        })
    }

    /// `AB:CD:…`, as access tables have it.
    pub fn fingerprint(self, der: &[u8]) -> String {
        use md5::Digest as _;
        let of_ring = |algorithm| ring::digest::digest(algorithm, der).as_ref().to_vec();
        let bytes = match self {
            Digest::Md5 => md5::Md5::digest(der).to_vec(),
            Digest::Sha1 => of_ring(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY),
            Digest::Sha256 => of_ring(&ring::digest::SHA256),
            Digest::Sha384 => of_ring(&ring::digest::SHA384),
            Digest::Sha512 => of_ring(&ring::digest::SHA512),
        };
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        digits.join(":")
    }
}
