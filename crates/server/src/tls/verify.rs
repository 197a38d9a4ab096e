//! Client certificates: asked for and looked at, not insisted on; and which signatures a handshake used.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureAlgorithm, SignatureScheme,
};

/// What one handshake leaves behind beside its connection.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub server_signature: Option<SignatureScheme>,
    pub client_signature: Option<SignatureScheme>,
    /// Whether the client's certificate leads to one of ours, or why it does not.
    pub trust: Option<Result<(), Error>>,
}

/// Shared by the two halves of a handshake that report to us.
pub(crate) type Notes = Arc<Mutex<Seen>>;

fn note(notes: &Notes, write: impl FnOnce(&mut Seen)) {
    write(&mut notes.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Lets every client certificate pass that belongs to the client's key, and notes whether it is trusted:
/// what follows from that is decided by restrictions, and after the handshake.
#[derive(Debug)]
pub(crate) struct AskForCertificate {
    pub provider: Arc<CryptoProvider>,
    /// Knows the CAs; `None` without any: then no certificate is trusted.
    pub trusted: Option<Arc<dyn ClientCertVerifier>>,
    pub notes: Notes,
}

impl ClientCertVerifier for AskForCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trusted
            .as_ref()
            .map_or(&[], |trusted| trusted.root_hint_subjects())
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trust = match &self.trusted {
            Some(trusted) => trusted
                .verify_client_cert(end_entity, intermediates, now)
                .map(drop),
            None => Err(Error::General("no CA is configured".into())),
        };
        note(&self.notes, |seen| seen.trust = Some(trust));
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        note(&self.notes, |seen| {
            seen.client_signature = Some(signed.scheme)
        });
        ::tls::check_tls12(&self.provider, message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        note(&self.notes, |seen| {
            seen.client_signature = Some(signed.scheme)
        });
        ::tls::check_tls13(&self.provider, message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The certificate chosen for one connection.
#[derive(Debug)]
pub(crate) struct Chosen(pub Arc<CertifiedKey>);

impl Chosen {
    pub fn new(key: &CertifiedKey, notes: Notes) -> Chosen {
        let noting = Noting {
            key: Arc::clone(&key.key),
            notes,
        };
        Chosen(Arc::new(CertifiedKey {
            key: Arc::new(noting),
            ..key.clone()
        }))
    }
}

impl ResolvesServerCert for Chosen {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A key that prefers what the client prefers, as OpenSSL does, and notes what it was used for.
#[derive(Debug)]
struct Noting {
    key: Arc<dyn SigningKey>,
    notes: Notes,
}

impl SigningKey for Noting {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let mut possible = offered
            .iter()
            .filter_map(|scheme| self.key.choose_scheme(&[*scheme]));
        let signer = possible.next()?;
        let scheme = signer.scheme();
        note(&self.notes, |seen| seen.server_signature = Some(scheme));
        Some(signer)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}
