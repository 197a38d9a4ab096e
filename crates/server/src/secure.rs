//! The parts of a session that make a client known: the TLS handshake and AUTH.

use std::io;

use smtp::server::{Answer, Auth, Secret};

use crate::sasl::{Exchange, Failure, Progress, Situation};
use crate::session::Connection;
use crate::tls::{Established, Tls};

impl Connection {
    /// The handshake, after STARTTLS or before the greeting.
    pub(crate) async fn start_tls(&mut self) {
        // The authentication and the transaction before it are forgotten (RFC 3207 section 4.2).
        self.login = None;
        self.exchange = None;
        let smtpd = std::sync::Arc::clone(&self.smtpd);
        let Some(tls) = &smtpd.tls.tls else {
            return self.session.tls_failed();
        };
        let client = self.session.peer().name_and_address();
        if tls.loglevel >= 2 {
            tracing::info!(prog = "smtpd", "setting up TLS connection from {client}");
        }
        let mut shutdown = self.shutdown.clone();
        let encrypted = tokio::select! {
            encrypted = self.stream.encrypt(tls) => encrypted,
            // A handshake is nothing to wait for when the server goes down.
            _ = shutdown.wait_for(|stop| *stop) => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        match encrypted {
            Ok(established) => {
                if tls.loglevel >= 1 {
                    tracing::info!(
                        prog = "smtpd",
                        "{} TLS connection established from {client}: {}",
                        established.trust(),
                        established.summary()
                    );
                }
                self.session.tls_established();
                self.check_certificate(tls, &established, &client);
                self.encryption = Some(established);
                let limits = &smtpd.incoming.limits;
                let hostname = &smtpd.incoming.myhostname;
                let counted = self
                    .visit
                    .tls_session(limits, self.session.peer(), hostname);
                if let Some(reply) = counted.await {
                    self.session.hang_up(&reply);
                }
            }
            Err(error) => {
                log_failure(&client, &error);
                self.session.tls_failed();
            }
        }
    }

    /// `smtpd_tls_req_ccert`.
    fn check_certificate(&mut self, tls: &Tls, established: &Established, client: &str) {
        if !tls.require {
            return;
        }
        let problem = match &established.certificate {
            Some(certificate) => match &certificate.distrust {
                None => return,
                Some(reason) => {
                    tracing::info!(
                        prog = "smtpd",
                        "certificate verification failed for {client}: {reason}"
                    );
                    "Client certificate not trusted"
                }
            },
            None => "No client certificate presented",
        };
        tracing::info!(
            prog = "smtpd",
            "NOQUEUE: abort: TLS from {client}: {problem}"
        );
        let hostname = &self.session.settings().hostname;
        let reply = smtp::reply::client_certificate(hostname, problem);
        self.session.hang_up(&reply);
    }

    /// Tells the state machine what to offer with AUTH, before it answers EHLO.
    pub(crate) async fn offer_mechanisms(&mut self) {
        let mechanisms = match &self.smtpd.sasl {
            Some(sasl) if self.session.may_authenticate() => {
                sasl.mechanisms(&self.situation()).await
            }
            _ => Vec::new(),
        };
        self.session.offer_mechanisms(mechanisms);
    }

    pub(crate) async fn authenticate(&mut self, auth: Auth) -> Answer {
        let progress = match &self.smtpd.sasl {
            Some(sasl) => sasl.begin(&auth, &self.situation()).await,
            None => return Answer::Reply(smtp::reply::NO_AUTHENTICATION),
        };
        self.follow(progress)
    }

    pub(crate) async fn continue_authentication(&mut self, response: Secret) -> Answer {
        match self.exchange.take() {
            Some(exchange) => {
                let progress = exchange.respond(&response).await;
                self.follow(progress)
            }
            None => Answer::Reply(smtp::reply::NO_AUTHENTICATION),
        }
    }

    pub(crate) fn give_up_authentication(&mut self) {
        let exchange = self.exchange.take();
        let mechanism = exchange.as_ref().map_or("", Exchange::mechanism);
        tracing::warn!(
            prog = "smtpd",
            "{}: SASL {mechanism} authentication aborted",
            self.session.peer().name_and_address()
        );
    }

    fn follow(&mut self, progress: Progress) -> Answer {
        match progress {
            Progress::Challenge(exchange, challenge) => {
                self.exchange = Some(exchange);
                Answer::Reply(smtp::reply::challenge(&challenge))
            }
            Progress::Done(login) => {
                self.login = Some(login);
                Answer::Continue
            }
            Progress::Failed(failure) => {
                let client = self.session.peer().name_and_address();
                tracing::warn!(prog = "smtpd", "{}", Failure::log(&failure, &client));
                Answer::Reply(failure.reply())
            }
        }
    }

    fn situation(&self) -> Situation {
        let client = self.session.peer().address;
        let own = self.stream.local_address();
        Situation {
            client,
            server: own.map_or(client, |own| own.ip().to_canonical()),
            encrypted: self.encryption.is_some(),
        }
    }
}

fn log_failure(client: &str, error: &io::Error) {
    let tls = error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>());
    match error.kind() {
        _ if tls => {
            tracing::info!(prog = "smtpd", "SSL_accept error from {client}: -1");
            tracing::warn!(prog = "smtpd", "TLS library problem: {error}");
        }
        io::ErrorKind::UnexpectedEof => {
            tracing::info!(
                prog = "smtpd",
                "SSL_accept error from {client}: lost connection"
            );
        }
        io::ErrorKind::TimedOut => {
            tracing::info!(
                prog = "smtpd",
                "SSL_accept error from {client}: Connection timed out"
            );
        }
        _ => tracing::info!(prog = "smtpd", "SSL_accept error from {client}: {error}"),
    }
}
