//! What is known of a connection once it is encrypted, in the words of Postfix's log and headers.

use rustls::ServerConnection;

use tls::{Certificate, KeyKind, Negotiated, signature};

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
        let negotiated = Negotiated::of(connection, seen.server_signature, server_key);
        let client_key = certificate.as_ref().and_then(|found| found.names.key);
        let client = signature("client", seen.client_signature, client_key);
        Established {
            cipher: negotiated.cipher,
            protocol: negotiated.protocol,
            suite: negotiated.suite,
            bits: negotiated.bits,
            server: negotiated.exchange,
            client: client.filter(|_| negotiated.modern),
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
