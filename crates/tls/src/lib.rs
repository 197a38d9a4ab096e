//! TLS as main.cf and the log speak of it, for the server and for the clients.
//!
//! | module | holds |
//! |---|---|
//! | `certificate` | the parts of X.509 that are shown, and the names a certificate is for |
//! | `choice` | protocols and ciphers: settings to what rustls has |
//! | `keys` | certificates and keys from PEM files |
//! | `fingerprint` | `AB:CD:…` |
//! | `signature` | whether the other side has the key of its certificate |
//! | `words` | what a handshake chose, in OpenSSL's words |

mod certificate;
mod choice;
mod fingerprint;
mod keys;
mod signature;
mod words;

pub use certificate::{Certificate, KeyKind};
pub use choice::{Choice, describe, named_versions};
pub use fingerprint::Digest;
pub use keys::{Identity, KeyError, Remembered, certificates, chains, choose, pair};
pub use signature::{check_tls12, check_tls13};
pub use words::{Negotiated, signature};
