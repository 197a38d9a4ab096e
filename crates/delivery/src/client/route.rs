//! How one connection is to be protected: the policy of its destination, and the login there.

use std::sync::Arc;

use mail::status::EnhancedCode;
use smtp::client::{Security, TlsWish};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use super::resolve::Trouble;
use super::tls::{Policy, Refused, Tls};
use super::{Inner, Peer};

/// A way to a server.
#[derive(Clone)]
pub struct Way {
    pub security: Security,
    tls: Option<(Arc<Tls>, Arc<Policy>)>,
    /// `host[address]:port`, for the log.
    peer: String,
    host: String,
}

const TLS_TROUBLE: EnhancedCode = EnhancedCode::new(4, 7, 5);
const LOGIN_TROUBLE: EnhancedCode = EnhancedCode::new(4, 3, 0);

impl Way {
    /// What main.cf and its tables say of this destination.
    pub async fn to(
        client: &Inner,
        peer: &Peer,
        nexthop: &str,
        sender: &str,
    ) -> Result<Way, Trouble> {
        let host = match peer {
            Peer::Unix { .. } => client.hostname.clone(),
            Peer::Tcp { host, .. } => host.clone(),
        };
        let mut security = Security::default();
        let tls = match &client.tls {
            None => None,
            Some(tls) => {
                let policy = tls.policy(nexthop, &host).await;
                let policy = policy
                    .map_err(|()| Trouble::new(TLS_TROUBLE, "client TLS configuration problem"))?;
                security.tls = policy.wish();
                Some((Arc::clone(tls), Arc::new(policy)))
            }
        };
        if let Some(logins) = &client.logins {
            let login = logins.find(sender, &host, nexthop).await;
            security.login = login.map_err(|error| {
                tracing::warn!(
                    prog = client.prog,
                    "{}_sasl_password_maps: {error}",
                    client.prog
                );
                Trouble::new(
                    LOGIN_TROUBLE,
                    "the password for this server could not be looked up",
                )
            })?;
        }
        Ok(Way {
            security,
            tls,
            peer: client.address(peer),
            host,
        })
    }

    /// The same without TLS, where that is allowed: nothing insists on it, and no password would go out in the clear.
    pub fn in_the_clear(&self) -> Option<Way> {
        let optional = self.security.tls == TlsWish::May && self.security.login.is_none();
        optional.then(|| Way {
            security: Security::default(),
            tls: None,
            ..self.clone()
        })
    }

    /// TLS before the greeting.
    pub fn wrapped(&self) -> bool {
        self.tls.as_ref().is_some_and(|(tls, _)| tls.wrapper)
    }

    pub fn is_plain(&self) -> bool {
        self.security.tls == TlsWish::No && self.security.login.is_none()
    }

    /// The handshake.
    pub async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<TlsStream<S>, Refused> {
        match &self.tls {
            Some((tls, policy)) => tls.connect(stream, policy, &self.peer).await,
            None => Err(Refused::unwanted()),
        }
    }

    /// `smtp_tls_note_starttls_offer`, where TLS is not used anyway.
    pub fn note_offer(&self) {
        if let Some((tls, _)) = &self.tls
            && tls.note_offer
            && self.security.tls == TlsWish::No
        {
            tls.log_offer(&self.host);
        }
    }
}
