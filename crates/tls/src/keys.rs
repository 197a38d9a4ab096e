//! Certificates and private keys: read from PEM files, and chosen by what a client offers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};

use crate::certificate::{Certificate, KeyKind};

/// A certificate chain with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    pub key: Arc<CertifiedKey>,
    pub kind: Option<KeyKind>,
}

/// What can go wrong with a file; the caller adds the parameter.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is damaged: {problem}")]
    Pem { path: PathBuf, problem: String },
    #[error("{path} has no {what}")]
    Missing { path: PathBuf, what: &'static str },
    #[error("the private key in {path} is of a kind that is not supported: {problem}")]
    Key { path: PathBuf, problem: String },
    #[error("the private key in {path} does not belong to its certificate")]
    Mismatch { path: PathBuf },
}

/// One section of a PEM file.
enum Section {
    Certificate(CertificateDer<'static>),
    Key(PrivateKeyDer<'static>),
}

fn sections(path: &Path) -> Result<Vec<Section>, KeyError> {
    let text = std::fs::read(path).map_err(|source| KeyError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut rest = text.as_slice();
    let mut found = Vec::new();
    loop {
        let section = pem::from_buf(&mut rest).map_err(|problem| KeyError::Pem {
            path: path.to_owned(),
            problem: format!("{problem:?}"),
        })?;
        let Some((kind, der)) = section else {
            return Ok(found);
        };
        found.push(match kind {
            SectionKind::Certificate => Section::Certificate(der.into()),
            SectionKind::PrivateKey => Section::Key(PrivateKeyDer::Pkcs8(der.into())),
            SectionKind::RsaPrivateKey => Section::Key(PrivateKeyDer::Pkcs1(der.into())),
            SectionKind::EcPrivateKey => Section::Key(PrivateKeyDer::Sec1(der.into())),
            _ => continue,
        });
    }
}

/// All certificates of a PEM file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KeyError> {
    let certificates = sections(path)?
        .into_iter()
        .filter_map(|section| match section {
            Section::Certificate(certificate) => Some(certificate),
            Section::Key(_) => None,
        });
    Ok(certificates.collect())
}

/// A certificate file and its key file, which may be one and the same.
pub fn pair(
    provider: &CryptoProvider,
    certificate: &Path,
    key: &Path,
) -> Result<Identity, KeyError> {
    let chain = certificates(certificate)?;
    let mut keys = sections(key)?
        .into_iter()
        .filter_map(|section| match section {
            Section::Key(key) => Some(key),
            Section::Certificate(_) => None,
        });
    let missing = |path: &Path, what| KeyError::Missing {
        path: path.to_owned(),
        what,
    };
    if chain.is_empty() {
        return Err(missing(certificate, "certificate"));
    }
    let found = keys.next().ok_or_else(|| missing(key, NO_KEY))?;
    identity(provider, chain, found, key)
}

const NO_KEY: &str = "private key (one without a passphrase is needed)";

/// `smtpd_tls_chain_files`: a key, the certificates for it, the next key, …, over all the files.
pub fn chains(provider: &CryptoProvider, files: &[PathBuf]) -> Result<Vec<Identity>, KeyError> {
    let mut found = Vec::new();
    let mut open: Option<(PrivateKeyDer<'static>, Vec<CertificateDer<'static>>)> = None;
    for path in files {
        for section in sections(path)? {
            match (section, &mut open) {
                (Section::Key(key), _) => {
                    if let Some((key, chain)) = open.replace((key, Vec::new())) {
                        found.push(identity(provider, chain, key, path)?);
                    }
                }
                (Section::Certificate(certificate), Some((_, chain))) => chain.push(certificate),
                (Section::Certificate(_), None) => {
                    return Err(KeyError::Missing {
                        path: path.clone(),
                        what: "private key before its first certificate",
                    });
                }
            }
        }
    }
    if let (Some((key, chain)), Some(path)) = (open, files.last()) {
        found.push(identity(provider, chain, key, path)?);
    }
    match (found.is_empty(), files.last()) {
        (true, Some(path)) => Err(KeyError::Missing {
            path: path.clone(),
            what: NO_KEY,
        }),
        _ => Ok(found),
    }
}

fn identity(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    path: &Path,
) -> Result<Identity, KeyError> {
    let Some(first) = chain.first() else {
        return Err(KeyError::Missing {
            path: path.to_owned(),
            what: "certificate behind its private key",
        });
    };
    let kind = Certificate::read(first).and_then(|certificate| certificate.key);
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|problem| KeyError::Key {
            path: path.to_owned(),
            problem: problem.to_string(),
        })?;
    let key = CertifiedKey::new(chain, key);
    // Other errors than this one are about certificates that rustls does not read itself; clients may.
    match key.keys_match() {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(KeyError::Mismatch {
            path: path.to_owned(),
        }),
        _ => Ok(Identity {
            key: Arc::new(key),
            kind,
        }),
    }
}

/// The identity for a client: the first of its signature schemes that one of ours can do.
pub fn choose(identities: &[Identity], offered: &[SignatureScheme]) -> Option<Identity> {
    let fits = |scheme: &SignatureScheme| {
        let can = |identity: &&Identity| identity.key.key.choose_scheme(&[*scheme]).is_some();
        identities.iter().find(can)
    };
    let chosen = offered.iter().find_map(fits).or(identities.first());
    chosen.cloned()
}

/// Identities by the files that they come from, read again when a file has changed.
#[derive(Default)]
pub struct Remembered(Mutex<HashMap<String, Loaded>>);

struct Loaded {
    stamps: Vec<Option<SystemTime>>,
    identities: Arc<[Identity]>,
}

impl Remembered {
    /// What the files in `list` (as `smtpd_tls_chain_files` has them) hold.
    pub fn get(&self, provider: &CryptoProvider, list: &str) -> Result<Arc<[Identity]>, KeyError> {
        let files: Vec<PathBuf> = config::split_list(list)
            .into_iter()
            .map(PathBuf::from)
            .collect();
        let stamp = |path: &PathBuf| std::fs::metadata(path).ok()?.modified().ok();
        let stamps: Vec<_> = files.iter().map(stamp).collect();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = known.get(list).filter(|loaded| loaded.stamps == stamps) {
            return Ok(Arc::clone(&loaded.identities));
        }
        let identities: Arc<[Identity]> = chains(provider, &files)?.into();
        let loaded = Loaded {
            stamps,
            identities: Arc::clone(&identities),
        };
        known.insert(list.to_owned(), loaded);
        Ok(identities)
    }
}
