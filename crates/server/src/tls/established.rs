//! What is known of a connection once it is encrypted, in the words of Postfix's log and headers.

use rustls::{NamedGroup, ProtocolVersion, ServerConnection, SignatureScheme};

use super::certificate::{Certificate, KeyKind};
use super::choice;
use super::verify::Seen;

/// An encrypted connection.
#[derive(Clone, Debug)]
pub(crate) struct Established {
    /// `TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)`.
    cipher: String,
    /// `TLSv1.3`.
    pub protocol: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub suite: String,
    /// Of its key.
    pub bits: u16,
    /// `key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest SHA256`; TLS 1.3 alone.
    server: Option<String>,
    /// `client-signature ECDSA (prime256v1) client-digest SHA256`.
    client: Option<String>,
    /// A certificate was asked for.
    pub asked: bool,
    pub certificate: Option<ClientCertificate>,
}

/// The client's certificate, proven to be its own.
#[derive(Clone, Debug)]
pub(crate) struct ClientCertificate {
    pub names: Certificate,
    pub facts: policy::Certificate,
    /// Why it is not trusted.
    pub distrust: Option<String>,
}

impl Established {
    pub fn new(
        connection: &ServerConnection,
        seen: &Seen,
        server_key: Option<KeyKind>,
        asked: bool,
        certificate: Option<ClientCertificate>,
    ) -> Established {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown protocol",
        };
        let suite = connection
            .negotiated_cipher_suite()
            .map(|suite| choice::describe(suite.suite()));
        let (name, bits) = suite.unwrap_or_default();
        let client_key = certificate.as_ref().and_then(|found| found.names.key);
        let modern = version == "TLSv1.3";
        let group = connection
            .negotiated_key_exchange_group()
            .map(|group| group_name(group.name()));
        let server = group.map(|group| {
            let signature = signature("server", seen.server_signature, server_key);
            format!("key-exchange {group}{}", prefixed(signature))
        });
        Established {
            cipher: format!("{version} with cipher {name} ({bits}/{bits} bits)"),
            protocol: version,
            suite: name,
            bits,
            server: server.filter(|_| modern),
            client: signature("client", seen.client_signature, client_key).filter(|_| modern),
            asked,
            certificate,
        }
    }

    /// `TLSv1.3`.
    pub fn version(&self) -> &str {
        self.cipher.split(' ').next().unwrap_or_default()
    }

    /// `TLS_AES_256_GCM_SHA384`.
    pub fn cipher_name(&self) -> &str {
        self.cipher.split(' ').nth(3).unwrap_or_default()
    }

    /// `256`.
    pub fn cipher_bits(&self) -> &str {
        let bits = self.cipher.split(['(', '/']).nth(1);
        bits.unwrap_or_default()
    }

    /// `Anonymous`, `Untrusted`, `Trusted`.
    pub fn trust(&self) -> &'static str {
        match &self.certificate {
            None => "Anonymous",
            Some(certificate) if certificate.facts.trusted => "Trusted",
            Some(_) => "Untrusted",
        }
    }

    /// One line for the log.
    pub fn summary(&self) -> String {
        let parts = [
            Some(self.cipher.clone()),
            self.server.clone(),
            self.client.clone(),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// The lines of `Received:` under `smtpd_tls_received_header`, each begun with a tab and ended.
    pub fn received(&self) -> String {
        let parts = [
            Some(self.cipher.clone()),
            self.server.clone(),
            self.client.clone(),
        ];
        let using: Vec<String> = parts.into_iter().flatten().collect();
        let client = match &self.certificate {
            Some(certificate) => {
                let verdict = match certificate.facts.trusted {
                    true => "verified OK",
                    false => "not verified",
                };
                let Certificate {
                    subject, issuer, ..
                } = &certificate.names;
                format!("Client CN \"{subject}\", Issuer \"{issuer}\" ({verdict})")
            }
            None if self.asked => "Client did not present a certificate".into(),
            None => "No client certificate requested".into(),
        };
        format!("\t(using {})\n\t({client})\n", using.join("\n\t "))
    }
}

fn prefixed(text: Option<String>) -> String {
    text.map_or(String::new(), |text| format!(" {text}"))
}

/// `server-signature RSA-PSS (2048 bits) server-digest SHA256`.
fn signature(side: &str, scheme: Option<SignatureScheme>, key: Option<KeyKind>) -> Option<String> {
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

fn group_name(group: NamedGroup) -> String {
    match group {
        NamedGroup::X25519 => "X25519".into(),
        NamedGroup::secp256r1 => "ECDHE (prime256v1)".into(),
        NamedGroup::secp384r1 => "ECDHE (secp384r1)".into(),
        other => format!("{other:?}"),
    }
}
