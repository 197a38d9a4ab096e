//! The server's certificate: looked at during the handshake, judged after it.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tls::Certificate;

/// `smtp_tls_CAfile` and its like.
#[derive(Debug)]
pub(super) struct Authorities {
    roots: RootCertStore,
    all: Vec<CertificateDer<'static>>,
}

impl Authorities {
    pub fn new(all: Vec<CertificateDer<'static>>) -> Authorities {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(all.iter().cloned());
        Authorities { roots, all }
    }
}

/// What one handshake leaves behind beside its connection.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub signature: Option<SignatureScheme>,
    /// Whether the certificate leads to one of ours, or why it does not.
    pub trust: Option<Result<(), Error>>,
}

pub(super) type Notes = Arc<Mutex<Seen>>;

/// Lets every certificate pass that belongs to the server's key, and notes whether it is trusted.
#[derive(Debug)]
pub(super) struct Verifier {
    pub provider: Arc<CryptoProvider>,
    pub authorities: Arc<Authorities>,
    pub notes: Notes,
}

impl Verifier {
    fn note(&self, write: impl FnOnce(&mut Seen)) {
        write(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn trust(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let roots = &self.authorities.roots;
        let checked = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            roots,
            intermediates,
            now,
            algorithms,
        );
        match checked {
            // A server's own certificate among the CAs, made by `openssl req -x509`: it vouches for itself. What is
            // wrong with its dates has been found before this.
            Err(Error::InvalidCertificate(CertificateError::Other(other)))
                if other.to_string().contains("CaUsedAsEndEntity")
                    && self
                        .authorities
                        .all
                        .iter()
                        .any(|known| known == certificate) =>
            {
                Ok(())
            }
            checked => checked,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trust = self.trust(certificate, intermediates, now);
        self.note(|seen| seen.trust = Some(trust));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(|seen| seen.signature = Some(signed.scheme));
        tls::check_tls12(&self.provider, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(|seen| seen.signature = Some(signed.scheme));
        tls::check_tls13(&self.provider, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let all = self.provider.signature_verification_algorithms;
        let mut schemes = all.supported_schemes();
        // As OpenSSL has it: the longer digests do not come first.
        let later = |scheme: &SignatureScheme| {
            matches!(
                scheme,
                SignatureScheme::RSA_PSS_SHA512 | SignatureScheme::RSA_PSS_SHA384
            )
        };
        schemes.sort_by_key(later);
        schemes
    }
}

/// Why the certificate is for none of these names; `None` when it is.
pub(super) fn mismatch(
    certificate: &Certificate,
    names: &[String],
    host_is_address: bool,
) -> Option<&'static str> {
    let common = [certificate.subject.clone()];
    let presented: &[String] = match certificate.dns_names.is_empty() {
        true => &common,
        false => &certificate.dns_names,
    };
    let fits = names
        .iter()
        .any(|wanted| presented.iter().any(|name| is_for(name, wanted)));
    match (fits, host_is_address) {
        (true, _) => None,
        (false, true) => Some("num=64:IP address mismatch"),
        (false, false) => Some("num=62:hostname mismatch"),
    }
}

/// A name in a certificate, maybe `*.domain`, for a name that is wanted, maybe `.domain` for all below it.
fn is_for(presented: &str, wanted: &str) -> bool {
    let presented = presented.trim_end_matches('.').to_ascii_lowercase();
    if let Some(domain) = wanted.strip_prefix('.') {
        let below = presented.strip_suffix(domain);
        return below.is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
    }
    match presented.strip_prefix("*.") {
        // RFC 6125 section 6.4.3: one label, the leftmost.
        Some(domain) => wanted
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
        None => !presented.is_empty() && presented == wanted,
    }
}

/// Why it is not trusted, in OpenSSL's words where it has some.
pub(super) fn distrust(trust: Option<&Result<(), Error>>, read: &Certificate) -> String {
    match trust {
        Some(Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ))) => "certificate has expired".into(),
        _ if read.subject == read.issuer => "self-signed certificate".into(),
        Some(Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))) => {
            format!("untrusted issuer {}", read.issuer_line)
        }
        Some(Err(error)) => error.to_string(),
        Some(Ok(())) | None => "not verified".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates() {
        for (presented, wanted, fits) in [
            ("mail.example.org", "mail.example.org", true),
            ("MAIL.example.org.", "mail.example.org", true),
            ("*.example.org", "mail.example.org", true),
            ("*.example.org", "a.mail.example.org", false),
            ("*.example.org", "example.org", false),
            ("mail.example.org", ".example.org", true),
            ("a.mail.example.org", ".example.org", true),
            ("example.org", ".example.org", false),
            ("badexample.org", ".example.org", false),
            ("", "", false),
            ("other.example", "mail.example.org", false),
        ] {
            assert_eq!(is_for(presented, wanted), fits, "{presented} for {wanted}");
        }
    }

    #[test]
    fn the_common_name_counts_where_there_are_no_others() {
        let named = |dns: &[&str]| Certificate {
            subject: "mail.example.org".into(),
            dns_names: dns.iter().map(|name| (*name).to_owned()).collect(),
            ..Certificate::default()
        };
        let wanted = ["mail.example.org".to_owned()];
        assert_eq!(mismatch(&named(&[]), &wanted, false), None);
        let other = named(&["other.example.org"]);
        assert_eq!(
            mismatch(&other, &wanted, false),
            Some("num=62:hostname mismatch")
        );
        assert_eq!(
            mismatch(&other, &wanted, true),
            Some("num=64:IP address mismatch")
        );
    }
}
