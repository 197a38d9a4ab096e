//! Whether the other side has the key of its certificate.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::CertificateDer;
use rustls::{DigitallySignedStruct, Error};

use crate::certificate::Certificate;

/// In TLS 1.2.
pub fn check_tls12(
    provider: &CryptoProvider,
    message: &[u8],
    cert: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    verify_tls12_signature(message, cert, signed, algorithms)
}

/// In TLS 1.3.
pub fn check_tls13(
    provider: &CryptoProvider,
    message: &[u8],
    cert: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    match verify_tls13_signature(message, cert, signed, algorithms) {
        // X.509 version 1, as `openssl x509 -req` makes them: nobody vouches for it, yet its key can be known.
        Err(Error::InvalidCertificate(_)) => {
            let names = Certificate::read(cert);
            let key = names.map(|names| names.public_key).unwrap_or_default();
            verify_tls13_signature_with_raw_key(message, &key.into(), signed, algorithms)
        }
        verified => verified,
    }
}
