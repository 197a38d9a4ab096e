//! TLS to the database servers: when it is used, what of the server's certificate is checked, and the
//! texts that tell an administrator why a handshake failed and what to do.
//!
//! The files are read for each new connection, as the client libraries of MariaDB and PostgreSQL do, so
//! that renewed certificates count without a restart.

mod certificate;
mod verifier;

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, SupportedProtocolVersion};

use super::Engine;
use certificate::Certificate;
pub(super) use certificate::{end_point, rsa_numbers};
use verifier::Verifier;

/// When a connection is to be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum When {
    #[default]
    Never,
    /// Only when the server lets nobody in without (PostgreSQL's `sslmode=allow`).
    Demanded,
    /// When the server offers it.
    Offered,
    Always,
}

/// What must be right with the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Verify {
    #[default]
    Nothing,
    /// A trusted CA has signed it.
    Chain,
    /// And it is for the name that we connect to.
    Name,
}

/// The lowest and the highest version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Versions {
    pub tls12: bool,
    pub tls13: bool,
}

/// How to be encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    pub when: When,
    pub verify: Verify,
    pub ca_file: Option<String>,
    /// A folder of CA certificates under hashed names, as `openssl rehash` makes it.
    pub ca_path: Option<String>,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    /// Names of OpenSSL; empty for all. They choose among the suites of TLS 1.2.
    pub ciphers: Vec<String>,
    pub versions: Versions,
    /// PostgreSQL's `channel_binding=require`.
    pub binding_required: bool,
    /// Whom the certificate must be for, where that is not the host that we connect to.
    pub name: Option<String>,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls {
            when: When::default(),
            verify: Verify::default(),
            ca_file: None,
            ca_path: None,
            cert_file: None,
            key_file: None,
            ciphers: Vec::new(),
            versions: Versions {
                tls12: true,
                tls13: true,
            },
            binding_required: false,
            name: None,
        }
    }
}

/// The cipher suites of TLS 1.2 that we have, by OpenSSL's names.
const SUITES: &[(&str, rustls::CipherSuite)] = {
    use rustls::CipherSuite as Suite;
    &[
        (
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ),
        (
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
        (
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        (
            "ECDHE-RSA-AES256-GCM-SHA384",
            Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ),
        (
            "ECDHE-RSA-AES128-GCM-SHA256",
            Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ),
        (
            "ECDHE-RSA-CHACHA20-POLY1305",
            Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ]
};

/// The names of a cipher list that choose nothing here: those we do not have, and OpenSSL's classes
/// (`HIGH`, `!aNULL`).
pub(crate) fn unknown_ciphers(list: &[String]) -> Vec<&str> {
    let known = |name: &str| SUITES.iter().any(|(known, _)| *known == name);
    let names = list.iter().map(String::as_str);
    names.filter(|name| !known(name)).collect()
}

/// Those that choose something.
pub(crate) fn known_ciphers() -> String {
    let names: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

impl Tls {
    /// What rustls needs, from the files. `engine` says which parameters the error names.
    pub fn config(&self, engine: Engine) -> Result<Arc<ClientConfig>, String> {
        let provider = self.provider();
        let verifier = self.verifier(&provider, engine)?;
        let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
        if self.versions.tls12 {
            versions.push(&rustls::version::TLS12);
        }
        if self.versions.tls13 {
            versions.push(&rustls::version::TLS13);
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)
            .map_err(|_| "no version of TLS is left by the settings; allow TLSv1.2".to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        // Either file may hold both, as OpenSSL has it.
        let (cert, key) = (
            self.cert_file.as_ref().or(self.key_file.as_ref()),
            self.key_file.as_ref().or(self.cert_file.as_ref()),
        );
        let config = match (cert, key) {
            (Some(cert), Some(key)) => {
                let own = own_certificate(cert, key, builder.crypto_provider())?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }

    fn provider(&self) -> CryptoProvider {
        let mut provider = rustls::crypto::ring::default_provider();
        let chosen = |suite: rustls::CipherSuite| {
            let name = SUITES.iter().find(|(_, known)| *known == suite);
            name.is_some_and(|(name, _)| self.ciphers.iter().any(|cipher| cipher == name))
        };
        let any = provider
            .cipher_suites
            .iter()
            .any(|suite| chosen(suite.suite()));
        if any {
            // As with OpenSSL, the list has no say on TLS 1.3.
            provider
                .cipher_suites
                .retain(|suite| suite.tls13().is_some() || chosen(suite.suite()));
        }
        provider
    }

    fn verifier(&self, provider: &CryptoProvider, engine: Engine) -> Result<Verifier, String> {
        let mut trusted = Vec::new();
        if self.verify != Verify::Nothing {
            if let Some(file) = &self.ca_file {
                trusted.extend(certificates(file)?);
            }
            if let Some(folder) = &self.ca_path {
                trusted.extend(hashed_certificates(Path::new(folder))?);
            }
            if self.ca_file.is_none() && self.ca_path.is_none() {
                trusted.extend(rustls_native_certs::load_native_certs().certs);
            }
            if trusted.is_empty() {
                let (ca, _) = parameters(engine);
                return Err(format!(
                    "no CA certificate to check the server's with{}; name one with {ca}",
                    self.ca_path
                        .as_ref()
                        .map(|folder| format!(
                            " in {folder} (its files need hashed names: openssl rehash {folder})"
                        ))
                        .unwrap_or_default()
                ));
            }
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Verifier::new(trusted, self.verify, algorithms))
    }

    /// The name to check, and to announce. `host` is the one that we connect to.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, String> {
        let name = self.name.as_deref().unwrap_or(host);
        match ServerName::try_from(name.to_string()) {
            Ok(name) => Ok(name),
            // Any address: no name is announced then, and none is checked.
            Err(_) if self.verify != Verify::Name => Ok(ServerName::from(
                rustls::pki_types::IpAddr::from(std::net::IpAddr::from([127, 0, 0, 1])),
            )),
            Err(_) => Err(format!("{name} is not a name that a certificate can have")),
        }
    }

    /// Why a handshake failed, and what to do.
    pub fn explain(&self, error: &io::Error, host: &str, engine: Engine) -> String {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        let Some(error) = inner else {
            return crate::error::os_text(error);
        };
        let (ca, verify) = parameters(engine);
        let name = self.name.as_deref().unwrap_or(host);
        match error {
            rustls::Error::InvalidCertificate(problem) => match problem {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    self.untrusted(ca)
                }
                CertificateError::NotValidForName => format!(
                    "certificate verify failed: the server's certificate is not for {name}; connect to a name that it has, or have it made with this one (subjectAltName)"
                ),
                CertificateError::NotValidForNameContext { presented, .. } => format!(
                    "certificate verify failed: the server's certificate is for {}, not for {name}; connect to a name that it has, or have it made with this one (subjectAltName)",
                    presented_names(presented)
                ),
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "certificate verify failed: the server's certificate has expired; renew it"
                        .to_string()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "certificate verify failed: the server's certificate is not valid yet; compare the clocks of the two machines".to_string()
                }
                problem => format!(
                    "certificate verify failed: {problem}; make the server's certificate anew, or do without {verify}"
                ),
            },
            rustls::Error::AlertReceived(alert) => format!(
                "the server ended the handshake: alert {alert:?}; its own log says more"
            ),
            error => error.to_string(),
        }
    }

    fn untrusted(&self, ca: &str) -> String {
        let place = match (&self.ca_file, &self.ca_path) {
            (Some(file), Some(folder)) => format!("{file} or {folder}"),
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => {
                return format!(
                    "certificate verify failed: the server's certificate is not signed by a CA that this machine trusts; name a file with the CA's certificate ({ca})"
                );
            }
        };
        format!(
            "certificate verify failed: the server's certificate is not signed by a CA in {place}; add the certificate of the CA that signed it ({ca})"
        )
    }
}

/// rustls gives `DnsName("a.example")`, `IpAddress(…)`.
fn presented_names(presented: &[String]) -> String {
    let bare = |name: &String| match name.split_once('(') {
        Some((_, rest)) => rest.trim_matches(['"', ')']).to_string(),
        None => name.clone(),
    };
    let names: Vec<String> = presented.iter().map(bare).collect();
    names.join(", ")
}

/// The settings that name the CA and that ask for verification.
fn parameters(engine: Engine) -> (&'static str, &'static str) {
    match engine {
        Engine::PgSql => ("sslrootcert", "sslmode=verify-full"),
        _ => ("tls_CAfile", "tls_verify_cert"),
    }
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).and_then(|certificates| certificates.collect());
    match found {
        Ok(found) if found.is_empty() => Err(format!(
            "{file}: no certificate in it; it must be a PEM file (-----BEGIN CERTIFICATE-----)"
        )),
        Ok(found) => Ok(found),
        Err(error) => Err(pem_problem(file, &error)),
    }
}

/// The client's certificate. One of version 1 is good too, which rustls' own check of the pair does not read.
fn own_certificate(
    cert: &str,
    key: &str,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let chain = certificates(cert)?;
    let signer = provider
        .key_provider
        .load_private_key(private_key(key)?)
        .map_err(|error| format!("the private key in {key} cannot be used: {error}"))?;
    let in_certificate = chain.first().and_then(|first| Certificate::parse(first));
    let of_key = signer.public_key();
    if let (Some(certificate), Some(of_key)) = (in_certificate, of_key)
        && certificate.key_info != of_key.as_ref()
    {
        return Err(format!(
            "the private key in {key} is not the one of the certificate in {cert}"
        ));
    }
    Ok(CertifiedKey::new(chain, signer))
}

fn private_key(file: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.contains("ENCRYPTED") {
            return format!(
                "{file}: the private key is encrypted; store it without a passphrase: openssl pkey -in {file}"
            );
        }
        match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                format!("{file}: no private key in it; it must be a PEM file (-----BEGIN PRIVATE KEY-----)")
            }
            error => pem_problem(file, &error),
        }
    })
}

fn pem_problem(file: &str, error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => {
            format!("cannot read {file}: {}", crate::error::os_text(error))
        }
        error => format!("{file} is damaged: {error}"),
    }
}

/// The files `xxxxxxxx.N`: OpenSSL looks at no others.
fn hashed_certificates(folder: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        // OpenSSL minds no missing folder; that nothing is trusted comes out in the end.
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let hashed = name.to_str().and_then(|name| name.split_once('.'));
        if hashed.is_some_and(|(hash, number)| {
            hash.len() == 8
                && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
                && number.bytes().all(|byte| byte.is_ascii_digit())
        }) {
            found.extend(certificates(&entry.path().to_string_lossy())?);
        }
    }
    Ok(found)
}
