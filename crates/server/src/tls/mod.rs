//! TLS for the SMTP server: settings of a service, certificates, the handshake.
//!
//! | module | holds |
//! |---|---|
//! | `settings` | main.cf to [`Tls`] |
//! | `verify` | client certificates, and what a handshake tells |
//! | `established` | log line and header of a connection |

mod established;
mod settings;
mod verify;

pub(crate) use established::{ClientCertificate, Established};
pub(crate) use settings::{Service, service};

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tables::TableList;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use ::tls::{Certificate, Digest, Identity, Remembered};
use verify::{AskForCertificate, Chosen, Notes};

/// How a service encrypts.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    /// `tls_preempt_cipherlist`.
    prefer_own_ciphers: bool,
    identities: Vec<Identity>,
    /// `tls_server_sni_maps`.
    sni: TableList,
    sni_identities: Remembered,
    /// `smtpd_tls_ask_ccert`, or required.
    ask: bool,
    /// `smtpd_tls_req_ccert`.
    pub require: bool,
    trusted: Option<Arc<dyn ClientCertVerifier>>,
    digest: Digest,
    /// `smtpd_tls_loglevel`.
    pub loglevel: i64,
    /// `smtpd_starttls_timeout`.
    timeout: Duration,
}

impl Tls {
    /// The handshake, within `smtpd_starttls_timeout`.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, Established)> {
        let handshake = self.handshake(stream);
        match tokio::time::timeout(self.timeout, handshake).await {
            Ok(done) => done,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, Established)> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let hello = start.client_hello();
        let offered = hello.signature_schemes().to_vec();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let by_name = match name {
            Some(name) if !self.sni.is_empty() => self.for_name(&name).await,
            _ => None,
        };
        let identity = match by_name {
            Some(identities) => ::tls::choose(&identities, &offered),
            None => ::tls::choose(&self.identities, &offered),
        };
        let identity = identity.ok_or_else(|| io::Error::other("no certificate"))?;
        let notes = Notes::default();
        let config = self.config(&identity, &notes).map_err(io::Error::other)?;
        let stream = start.into_stream(Arc::new(config)).await?;
        let connection = stream.get_ref().1;
        let seen = notes.lock().unwrap_or_else(PoisonError::into_inner);
        let presented = connection.peer_certificates().and_then(<[_]>::first);
        let certificate = presented.and_then(|presented| self.client_certificate(presented, &seen));
        let established = Established::new(connection, &seen, identity.kind, self.ask, certificate);
        drop(seen);
        Ok((stream, established))
    }

    /// Every connection has a configuration of its own: its certificate depends on what the client offers.
    /// Sessions are not resumed, so that each handshake has its certificates.
    fn config(&self, identity: &Identity, notes: &Notes) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&self.versions)?;
        let builder = match self.ask {
            true => builder.with_client_cert_verifier(Arc::new(AskForCertificate {
                provider: Arc::clone(&self.provider),
                trusted: self.trusted.clone(),
                notes: Arc::clone(notes),
            })),
            false => builder.with_no_client_auth(),
        };
        let chosen = Chosen::new(&identity.key, Arc::clone(notes));
        let mut config = builder.with_cert_resolver(Arc::new(chosen));
        config.ignore_client_order = self.prefer_own_ciphers;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// What `tls_server_sni_maps` has for the name: itself, then its parents with a dot in front.
    async fn for_name(&self, name: &str) -> Option<Arc<[Identity]>> {
        let parents = name.match_indices('.').map(|(at, _)| &name[at..]);
        for key in std::iter::once(name).chain(parents) {
            let files = match self.sni.lookup(key).await {
                Ok(Some(files)) => files,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(prog = "smtpd", "tls_server_sni_maps: {error}");
                    return None;
                }
            };
            return match self.sni_identities.get(&self.provider, &files) {
                Ok(identities) => Some(identities),
                Err(error) => {
                    tracing::warn!(prog = "smtpd", "tls_server_sni_maps: {key}: {error}");
                    None
                }
            };
        }
        None
    }

    fn client_certificate(
        &self,
        presented: &CertificateDer<'_>,
        seen: &verify::Seen,
    ) -> Option<ClientCertificate> {
        let names = Certificate::read(presented)?;
        let distrust = match &seen.trust {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(error.to_string()),
            None => Some("not verified".into()),
        };
        Some(ClientCertificate {
            facts: policy::Certificate {
                subject: names.subject.clone(),
                trusted: distrust.is_none(),
                fingerprint: self.digest.fingerprint(presented),
                public_key: self.digest.fingerprint(&names.public_key),
            },
            distrust,
            names,
        })
    }
}

/// Who may sign the certificates of clients.
fn trusted_by(
    provider: &Arc<CryptoProvider>,
    authorities: Vec<CertificateDer<'static>>,
) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    if roots.is_empty() {
        return None;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    builder.build().ok()
}
