//! TLS of the client: which of it a destination is to have, the handshake, and what is made of the server's certificate.
//!
//! | module | holds |
//! |---|---|
//! | `settings` | main.cf to [`Tls`] |
//! | `level` | security levels, and the policy of one destination |
//! | `verify` | the server's certificate |

mod level;
mod settings;
mod verify;

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mail::status::EnhancedCode;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, IpAddr, ServerName};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tables::TableList;
use tls::{Certificate, Digest, Identity, Negotiated};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use level::{Level, Policy};
use level::{Matching, NextHop};
use verify::{Authorities, Notes, Seen, Verifier};

/// How a client encrypts.
pub struct Tls {
    prog: &'static str,
    /// `smtp_tls_security_level` and, by destination, `smtp_tls_policy_maps`.
    level: Level,
    policies: TableList,
    /// `smtp_tls_wrappermode`.
    pub wrapper: bool,
    verify_match: Vec<String>,
    secure_match: Vec<String>,
    fingerprints: Vec<String>,
    digest: Digest,
    /// Protocols and ciphers where TLS is wanted, and where it is insisted on.
    opportunistic: Terms,
    mandatory: Terms,
    authorities: Arc<Authorities>,
    identity: Option<Identity>,
    servername: String,
    loglevel: i64,
    /// `smtp_tls_note_starttls_offer`.
    pub note_offer: bool,
    timeout: Duration,
}

/// What may be negotiated.
struct Terms {
    provider: Arc<rustls::crypto::CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

/// A handshake that came to nothing.
pub struct Refused {
    pub dsn: EnhancedCode,
    pub text: &'static str,
    /// There was no encrypted connection at all; in the clear it may work.
    pub handshake: bool,
}

const CANNOT_START: Refused = Refused {
    dsn: EnhancedCode::new(4, 7, 5),
    text: "Cannot start TLS: handshake failure",
    handshake: true,
};

const NOT_VERIFIED: Refused = Refused {
    dsn: EnhancedCode::new(4, 7, 5),
    text: "Server certificate not verified",
    handshake: false,
};

impl Refused {
    /// Nobody has asked for TLS.
    pub fn unwanted() -> Refused {
        CANNOT_START
    }
}

impl Tls {
    /// `smtp_tls_note_starttls_offer`.
    pub fn log_offer(&self, host: &str) {
        tracing::info!(prog = self.prog, "Host offered STARTTLS: [{host}]");
    }

    /// What this destination is to have. `nexthop`: as the transport names it; `host`: whom it leads to.
    pub async fn policy(&self, nexthop: &str, host: &str) -> Result<Policy, ()> {
        let nexthop = NextHop::of(nexthop);
        level::policy(self, &nexthop, host).await
    }

    /// The handshake, and what the certificate must be. `peer`: `host[address]:port`, for the log.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        policy: &Policy,
        peer: &str,
    ) -> Result<TlsStream<S>, Refused> {
        if self.loglevel >= 2 {
            tracing::info!(prog = self.prog, "setting up TLS connection to {peer}");
        }
        let notes = Notes::default();
        let shaken = tokio::time::timeout(self.timeout, self.handshake(stream, policy, &notes));
        let stream = match shaken.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.log_failure(peer, &error);
                return Err(CANNOT_START);
            }
            Err(_) => {
                self.log_failure(peer, &io::ErrorKind::TimedOut.into());
                return Err(CANNOT_START);
            }
        };
        let seen = notes.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = self.judge(&stream, policy, &seen, peer);
        match verdict {
            true => {
                drop(seen);
                Ok(stream)
            }
            false => Err(NOT_VERIFIED),
        }
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        policy: &Policy,
        notes: &Notes,
    ) -> io::Result<TlsStream<S>> {
        let config = self.config(policy, notes).map_err(io::Error::other)?;
        let name = policy.servername.clone();
        // Without a name none is sent; an address serves as well as another.
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let name = name.unwrap_or(ServerName::IpAddress(IpAddr::from(
            std::net::Ipv4Addr::LOCALHOST,
        )));
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await
    }

    fn config(&self, policy: &Policy, notes: &Notes) -> Result<ClientConfig, rustls::Error> {
        let terms = match policy.level {
            Level::None | Level::May => &self.opportunistic,
            _ => &self.mandatory,
        };
        let versions = policy.versions.as_ref().unwrap_or(&terms.versions);
        let verifier = Verifier {
            provider: Arc::clone(&terms.provider),
            authorities: Arc::clone(&self.authorities),
            notes: Arc::clone(notes),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&terms.provider))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.identity {
            Some(identity) => {
                let own = rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key));
                builder.with_client_cert_resolver(Arc::new(own))
            }
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = policy.servername.is_some();
        // So that each handshake shows its certificate.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Logs what kind of connection it is; whether it is good enough.
    fn judge<S>(&self, stream: &TlsStream<S>, policy: &Policy, seen: &Seen, peer: &str) -> bool {
        let connection = stream.get_ref().1;
        let presented = connection.peer_certificates().and_then(<[_]>::first);
        let certificate = presented.and_then(|der| Certificate::read(der));
        let key = certificate.as_ref().and_then(|read| read.key);
        let problem = match (&policy.matching, presented, &certificate) {
            (Matching::Nothing, ..) => None,
            (_, None, _) | (_, _, None) => Some("no certificate".to_owned()),
            (Matching::Fingerprints(wanted), Some(der), Some(read)) => {
                (!self.has_fingerprint(wanted, der, read)).then(|| {
                    // OpenSSL checks fingerprints as it does TLSA records, and says so.
                    let why = "num=65:no matching DANE TLSA records";
                    format!("server certificate verification failed for {peer}: {why}")
                })
            }
            (Matching::Names(names), Some(_), Some(read)) => match &seen.trust {
                Some(Ok(())) => verify::mismatch(read, names, policy.host_is_address)
                    .map(|why| format!("server certificate verification failed for {peer}: {why}")),
                trust => Some(format!(
                    "certificate verification failed for {peer}: {}",
                    verify::distrust(trust.as_ref(), read)
                )),
            },
        };
        if self.loglevel >= 1 {
            if let Some(problem) = &problem {
                tracing::info!(prog = self.prog, "{problem}");
            }
            let trust = match (&policy.matching, &problem, &seen.trust) {
                (Matching::Nothing, _, Some(Ok(()))) => "Trusted",
                (Matching::Nothing, ..) | (_, Some(_), _) => "Untrusted",
                (_, None, _) => "Verified",
            };
            let negotiated = Negotiated::of(connection, seen.signature, key);
            let exchange = negotiated
                .exchange
                .map_or(String::new(), |text| format!(" {text}"));
            tracing::info!(
                prog = self.prog,
                "{trust} TLS connection established to {peer}: {}{exchange}",
                negotiated.cipher
            );
        }
        problem.is_none()
    }

    /// The certificate's own, or that of its key.
    fn has_fingerprint(
        &self,
        wanted: &[String],
        der: &CertificateDer<'_>,
        read: &Certificate,
    ) -> bool {
        let own = [
            self.digest.fingerprint(der),
            self.digest.fingerprint(&read.public_key),
        ];
        wanted
            .iter()
            .any(|wanted| own.iter().any(|own| own.eq_ignore_ascii_case(wanted)))
    }

    fn log_failure(&self, peer: &str, error: &io::Error) {
        let prog = self.prog;
        let inner = error.get_ref();
        if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            tracing::info!(prog, "SSL_connect error to {peer}: -1");
            tracing::warn!(prog, "TLS library problem: {error}");
            return;
        }
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "lost connection".to_owned(),
            io::ErrorKind::TimedOut => "Connection timed out".to_owned(),
            _ => error.to_string(),
        };
        tracing::info!(prog, "SSL_connect error to {peer}: {why}");
    }
}
