//! The words that logs and headers have for what a handshake chose.

use rustls::{CommonState, NamedGroup, ProtocolVersion, SignatureScheme};

use crate::certificate::KeyKind;
use crate::choice::describe;

/// What was negotiated, as log lines and `Received:` headers have it.
pub struct Negotiated {
    /// `TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)`.
    pub cipher: String,
    /// `TLSv1.3`.
    pub protocol: &'static str,
    /// The cipher suite by OpenSSL's name.
    pub suite: String,
    /// Of its key.
    pub bits: u16,
    /// `key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest SHA256`; TLS 1.3 alone.
    pub exchange: Option<String>,
    /// TLS 1.3.
    pub modern: bool,
}

impl Negotiated {
    /// `signed`: how the server has signed the handshake; `key`: the key of its certificate.
    pub fn of(
        connection: &CommonState,
        signed: Option<SignatureScheme>,
        key: Option<KeyKind>,
    ) -> Negotiated {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown protocol",
        };
        let suite = connection.negotiated_cipher_suite();
        let (name, bits) = suite
            .map(|suite| describe(suite.suite()))
            .unwrap_or_default();
        let modern = version == "TLSv1.3";
        let group = connection.negotiated_key_exchange_group();
        let exchange = group.filter(|_| modern).map(|group| {
            let signature = signature("server", signed, key);
            let signature = signature.map_or(String::new(), |text| format!(" {text}"));
            format!("key-exchange {}{signature}", group_name(group.name()))
        });
        Negotiated {
            cipher: format!("{version} with cipher {name} ({bits}/{bits} bits)"),
            protocol: version,
            suite: name,
            bits,
            exchange,
            modern,
        }
    }
}

/// `server-signature RSA-PSS (2048 bits) server-digest SHA256`.
pub fn signature(
    side: &str,
    scheme: Option<SignatureScheme>,
    key: Option<KeyKind>,
) -> Option<String> {
    let digest = match scheme? {
        SignatureScheme::RSA_PSS_SHA256
        | SignatureScheme::RSA_PKCS1_SHA256
        | SignatureScheme::ECDSA_NISTP256_SHA256 => Some("SHA256"),
        SignatureScheme::RSA_PSS_SHA384
        | SignatureScheme::RSA_PKCS1_SHA384
        | SignatureScheme::ECDSA_NISTP384_SHA384 => Some("SHA384"),
        SignatureScheme::RSA_PSS_SHA512
        | SignatureScheme::RSA_PKCS1_SHA512
        | SignatureScheme::ECDSA_NISTP521_SHA512 => Some("SHA512"),
        _ => None,
    };
    let key = match key? {
        KeyKind::Rsa { bits } => format!("RSA-PSS ({bits} bits)"),
        KeyKind::Ec { curve } => format!("ECDSA ({curve})"),
        KeyKind::Ed25519 => "ED25519".into(),
    };
    let digest = digest.map_or(String::new(), |digest| format!(" {side}-digest {digest}"));
    Some(format!("{side}-signature {key}{digest}"))
}

/// A key exchange group by the name that OpenSSL has for it.
fn group_name(group: NamedGroup) -> String {
    match group {
        NamedGroup::X25519 => "X25519".into(),
        NamedGroup::secp256r1 => "ECDHE (prime256v1)".into(),
        NamedGroup::secp384r1 => "ECDHE (secp384r1)".into(),
        other => format!("{other:?}"),
    }
}
