//! Checks the certificate of a database server: by rustls' own rules, and where these are too narrow for
//! the private CAs of older instructions, as OpenSSL does (a certificate of version 1; a self-signed one
//! that is itself the trusted one; a common name in place of an alternative name).

use tokio_rustls::rustls;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::Verify;
use super::certificate::Certificate;

#[derive(Debug)]
pub(super) struct Verifier {
    trusted: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    verify: Verify,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub fn new(
        trusted: Vec<CertificateDer<'static>>,
        verify: Verify,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Verifier {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        Verifier {
            trusted,
            roots,
            verify,
            algorithms,
        }
    }

    fn chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let usual = ParsedCertificate::try_from(end_entity).and_then(|certificate| {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                self.algorithms.all,
            )
        });
        match usual {
            Ok(()) => Ok(()),
            Err(error) => self.plain_chain(end_entity, now).unwrap_or(Err(error)),
        }
    }

    /// A trusted certificate itself, or one of version 1 (which has no extension that could be overlooked)
    /// that a trusted certificate has signed. `None`: neither, so that the usual error stands.
    fn plain_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Option<Result<(), Error>> {
        let certificate = Certificate::parse(end_entity)?;
        let is_trusted = self
            .trusted
            .iter()
            .any(|trusted| trusted.as_ref() == end_entity.as_ref());
        if is_trusted {
            return Some(in_time(&certificate, now));
        }
        // Signed by itself: nobody else can vouch for it, whatever else is wrong with it.
        if certificate.issuer == certificate.subject {
            return Some(Err(CertificateError::UnknownIssuer.into()));
        }
        if certificate.has_extensions() {
            return None;
        }
        let issuers = self
            .trusted
            .iter()
            .filter_map(|der| Certificate::parse(der));
        let issuers = issuers.filter(|issuer| issuer.subject == certificate.issuer);
        let mut signed = issuers.filter(|issuer| self.has_signed(issuer, &certificate));
        match signed.next() {
            Some(issuer) => Some(in_time(&certificate, now).and_then(|()| in_time(&issuer, now))),
            None => Some(Err(CertificateError::UnknownIssuer.into())),
        }
    }

    fn has_signed(&self, issuer: &Certificate<'_>, certificate: &Certificate<'_>) -> bool {
        self.algorithms.all.iter().any(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == issuer.key_algorithm
                && algorithm.signature_alg_id().as_ref() == certificate.signature_algorithm
                && algorithm
                    .verify_signature(issuer.key, certificate.signed, certificate.signature)
                    .is_ok()
        })
    }

    fn name(&self, end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
        let usual = ParsedCertificate::try_from(end_entity)
            .and_then(|certificate| verify_server_name(&certificate, name));
        let Err(error) = usual else {
            return Ok(());
        };
        // RFC 6125 6.4.4: the common name counts where the certificate has no name of the DNS type.
        let common_name = Certificate::parse(end_entity)
            .filter(|certificate| !certificate.has_dns_names())
            .and_then(|certificate| certificate.common_name());
        match common_name {
            Some(common_name) if matches(common_name, &name.to_str()) => Ok(()),
            Some(common_name) => Err(CertificateError::NotValidForNameContext {
                expected: name.to_owned(),
                presented: vec![common_name.to_string()],
            }
            .into()),
            None => Err(error),
        }
    }

    /// The signature of the handshake under a certificate that rustls does not read (version 1).
    fn plain_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::parse(certificate).ok_or(CertificateError::BadEncoding)?;
        let by_scheme = self
            .algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter());
        let mut valid = by_scheme.filter(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == certificate.key_algorithm
                && algorithm
                    .verify_signature(certificate.key, message, signed.signature())
                    .is_ok()
        });
        match valid.next() {
            Some(_) => Ok(HandshakeSignatureValid::assertion()),
            None => Err(CertificateError::BadSignature.into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.verify != Verify::Nothing {
            self.chain(end_entity, intermediates, now)?;
        }
        if self.verify == Verify::Name {
            self.name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match ParsedCertificate::try_from(certificate) {
            Ok(_) => verify_tls12_signature(message, certificate, signed, &self.algorithms),
            Err(_) => self.plain_signature(message, certificate, signed),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if ParsedCertificate::try_from(certificate).is_ok() {
            return verify_tls13_signature(message, certificate, signed, &self.algorithms);
        }
        let parsed = Certificate::parse(certificate).ok_or(CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.key_info);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn in_time(certificate: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = now.as_secs();
    match () {
        () if now < certificate.not_before => Err(CertificateError::NotValidYet.into()),
        () if now > certificate.not_after => Err(CertificateError::Expired.into()),
        () => Ok(()),
    }
}

/// `*.example.org` stands for one label.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(rest) => name
            .split_once('.')
            .is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(rest) && rest.contains('.')),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names() {
        for (pattern, name, expected) in [
            ("db.example.org", "DB.example.org", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("*.example.org", "db.example.org", true),
            ("*.example.org", "a.db.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.org", "example.org", false),
            ("*", "db", false),
            ("db.example.org", "example.org", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
