//! One connection: moves bytes between the socket and the state machine, and answers its
//! questions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use policy::{Effects, Refusal, Stage};
use queue::Spool;
use route::Walk;
use smtp::Reply;
use smtp::server::{Answer, Counted, Peer, Question, Session, Step};
use tokio::net::TcpStream;

use crate::Shutdown;
use crate::generation::{Current, Smtpd};
use crate::peer_name::Names;
use crate::rates::{Rates, Visit};
use crate::sasl::{Exchange, Login};
use crate::scheduler::Scheduler;
use crate::stream::Stream;
use crate::tls::Established;
use crate::transaction::{Client, Ending, Transaction};

/// What all sessions share.
pub(crate) struct Shared {
    pub current: Arc<Current>,
    pub spool: Spool,
    pub scheduler: Scheduler,
    pub rates: Arc<Rates>,
    pub names: Names,
    pub shutdown: Shutdown,
}

/// Bytes read at once.
const READ_SIZE: usize = 16 * 1024;

/// Serves one connection until it ends.
pub(crate) async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    smtpd: Arc<Smtpd>,
    shared: Arc<Shared>,
) {
    let ip = address.ip().to_canonical();
    let visit = Visit::begin(
        &shared.rates,
        &smtpd.service.name,
        ip,
        &smtpd.incoming.limits,
    );
    // Replies are small and wait for nothing; Nagle's algorithm would hold them back.
    let _ = stream.set_nodelay(true);
    let name = match smtpd.incoming.peername_lookup {
        true => shared.names.of(ip).await,
        false => "unknown".to_owned(),
    };
    let peer = Peer {
        name,
        address: ip,
        port: address.port(),
        show_port: smtpd.incoming.port_logging,
    };
    tracing::info!(prog = "smtpd", "connect from {}", peer.name_and_address());
    let session = Session::new(smtpd.settings_for(ip).await, peer, Instant::now());
    let mut connection = Connection {
        stream: Stream::Clear(stream),
        session,
        encryption: None,
        exchange: None,
        login: None,
        transaction: None,
        smtpd,
        visit,
        shutdown: shared.shutdown.clone(),
        shared: Arc::clone(&shared),
    };
    if connection.smtpd.tls.wrapper {
        connection.start_tls().await;
    }
    connection.run().await;
    let name = connection.session.peer().name_and_address();
    let summary = connection.session.summary();
    tracing::info!(prog = "smtpd", "disconnect from {name} {summary}");
}

/// One client's connection.
pub(crate) struct Connection {
    pub stream: Stream,
    pub session: Session,
    transaction: Option<Transaction>,
    pub smtpd: Arc<Smtpd>,
    /// Set once the connection is encrypted.
    pub encryption: Option<Established>,
    /// AUTH in the middle.
    pub exchange: Option<Exchange>,
    /// AUTH that succeeded.
    pub login: Option<Login>,
    /// What this client is counted by.
    pub visit: Visit,
    pub shutdown: Shutdown,
    shared: Arc<Shared>,
}

impl Connection {
    async fn run(&mut self) {
        let mut buffer = BytesMut::with_capacity(READ_SIZE);
        loop {
            match self.session.step(Instant::now()) {
                Step::Send(bytes) => self.send(&bytes).await,
                Step::Read { timeout } => self.read(&mut buffer, timeout).await,
                Step::Ask(question) => {
                    let answer = self.answer(question).await;
                    self.session.answer(answer);
                }
                Step::Content(piece) => {
                    if let Some(transaction) = &mut self.transaction
                        && let Err(refusal) = transaction.content(piece).await
                    {
                        self.log_reject("DATA", None, None, &refusal);
                        self.session.refuse_content(refusal.reply);
                    }
                }
                Step::Sleep(duration) => tokio::time::sleep(duration).await,
                Step::StartTls => self.start_tls().await,
                Step::Close { .. } => {
                    let patience = self.session.settings().timeout;
                    let _ = tokio::time::timeout(patience, self.stream.close()).await;
                    return;
                }
            }
        }
    }

    /// A client that does not take its replies has as long as one that says nothing.
    async fn send(&mut self, bytes: &[u8]) {
        let patience = self.session.settings().timeout;
        match tokio::time::timeout(patience, self.stream.write(bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => self.session.eof(),
        }
    }

    async fn read(&mut self, buffer: &mut BytesMut, timeout: std::time::Duration) {
        buffer.clear();
        let stopping = *self.shutdown.borrow();
        if stopping {
            self.session.shut_down();
            if self.transaction.is_none() {
                // Nothing is in progress: the state machine says good-bye at its next step.
                return;
            }
        }
        let read = tokio::time::timeout(timeout, self.stream.read(buffer));
        let read: Result<io::Result<usize>, _> = tokio::select! {
            read = read => read,
            _ = self.shutdown.wait_for(|stop| *stop), if !stopping => {
                self.session.shut_down();
                return;
            }
        };
        match read {
            Err(_) => self.session.timed_out(),
            Ok(Ok(0) | Err(_)) => self.session.eof(),
            Ok(Ok(_)) => {
                if self.transaction.is_none() {
                    // A reload counts from the next message on.
                    self.take_over_settings().await;
                }
                self.session.receive(buffer);
            }
        }
    }

    async fn answer(&mut self, question: Question) -> Answer {
        let result = match question {
            Question::Connect => match self.one_too_many().await {
                Some(reply) => return Answer::Disconnect(reply),
                None => self.connect().await,
            },
            Question::Helo(helo) => {
                if helo.extended {
                    self.offer_mechanisms().await;
                }
                let client = Client {
                    helo: &helo.name,
                    ..self.client()
                };
                let mut walk = Walk::new(Instant::now());
                let facts = client.facts();
                self.smtpd
                    .policy
                    .decide(Stage::Helo, &mut walk, facts, &mut Effects::default())
                    .await
                    .map_err(|refusal| ("HELO", refusal))
            }
            Question::Mail(mail) => {
                let smtpd = Arc::clone(&self.smtpd);
                let client = self.client();
                let begun = Transaction::begin(smtpd, &client, mail.clone(), &self.shared.spool);
                match begun.await {
                    Ok(transaction) => {
                        self.transaction = Some(transaction);
                        Ok(())
                    }
                    Err(refusal) => {
                        self.log_reject("MAIL", Some(&mail.address), None, &refusal);
                        return Answer::Reply(refusal.reply);
                    }
                }
            }
            Question::Count(command) => return self.count(command).await,
            Question::Auth(auth) => return self.authenticate(auth).await,
            Question::AuthResponse(response) => {
                return self.continue_authentication(response).await;
            }
            Question::AuthAborted => {
                self.give_up_authentication();
                Ok(())
            }
            Question::Rcpt(rcpt) => return self.recipient(rcpt).await,
            Question::Data => match self.transaction.take() {
                Some(mut transaction) => {
                    let done = transaction.data(&self.client()).await;
                    self.transaction = Some(transaction);
                    done.map_err(|refusal| ("DATA", refusal))
                }
                None => return Answer::Reply(smtp::reply::NEED_RCPT),
            },
            Question::EndOfData { .. } => return self.end_of_data().await,
            Question::Abort => {
                self.transaction = None;
                Ok(())
            }
            Question::Vrfy(address) => return self.verify(&address).await,
            Question::Etrn(domain) => return self.flush(&domain).await,
        };
        match result {
            Ok(()) => Answer::Continue,
            Err((command, refusal)) => {
                let sender = self
                    .transaction
                    .as_ref()
                    .map(|open| open.mail.address.clone());
                self.log_reject(command, sender.as_deref(), None, &refusal);
                Answer::Reply(refusal.reply)
            }
        }
    }

    /// `smtpd_client_connection_count_limit`, `smtpd_client_connection_rate_limit`.
    async fn one_too_many(&self) -> Option<Reply> {
        let limits = &self.smtpd.incoming.limits;
        let hostname = &self.smtpd.incoming.myhostname;
        self.visit
            .refused(limits, self.session.peer(), hostname)
            .await
    }

    async fn count(&self, command: Counted) -> Answer {
        let limits = &self.smtpd.incoming.limits;
        let refused = self.visit.command(command, limits, self.session.peer());
        refused.await.map_or(Answer::Continue, Answer::Reply)
    }

    async fn connect(&mut self) -> Result<(), (&'static str, Refusal)> {
        let mut walk = Walk::new(Instant::now());
        let client = self.client();
        let facts = client.facts();
        let decided = self
            .smtpd
            .policy
            .decide(Stage::Client, &mut walk, facts, &mut Effects::default())
            .await;
        decided.map_err(|refusal| ("CONNECT", refusal))
    }

    /// The service's settings as they are now; a service that is gone keeps those it had.
    async fn take_over_settings(&mut self) {
        let current = self.shared.current.get();
        let same = |smtpd: &&Arc<Smtpd>| smtpd.service.name == self.smtpd.service.name;
        let found = current.smtpd.iter().find(same);
        if let Some(smtpd) = found.filter(|smtpd| !Arc::ptr_eq(smtpd, &self.smtpd)) {
            self.smtpd = Arc::clone(smtpd);
            let settings = self.smtpd.settings_for(self.session.peer().address).await;
            self.session.set_settings(settings);
        }
    }

    /// VRFY: what RCPT would say of the address, and nothing more.
    async fn verify(&self, address: &str) -> Answer {
        let client = self.client();
        let facts = policy::Facts {
            recipient: Some(address),
            ..client.facts()
        };
        let mut walk = Walk::new(Instant::now());
        let decided = self
            .smtpd
            .policy
            .recipient(&mut walk, facts, &mut Effects::default())
            .await;
        match decided {
            Ok(_) => Answer::Continue,
            Err(refusal) => {
                self.log_reject("VRFY", None, Some(address), &refusal);
                Answer::Reply(refusal.reply)
            }
        }
    }

    /// ETRN (RFC 1985): tries what waits for a domain of `fast_flush_domains`.
    async fn flush(&self, domain: &str) -> Answer {
        if !mail::host::is_valid_domain(domain) {
            return Answer::Reply(smtp::reply::ETRN_BAD_DOMAIN);
        }
        match self.smtpd.incoming.fast_flush_domains.matches(domain).await {
            Ok(true) => {
                self.shared.scheduler.flush_site(domain).await;
                Answer::Continue
            }
            Ok(false) => {
                let client = self.session.peer().name_and_address();
                tracing::warn!(prog = "smtpd", "reject: ETRN {domain}... from {client}");
                Answer::Reply(smtp::reply::etrn_unavailable(domain))
            }
            Err(error) => {
                tracing::warn!(prog = "smtpd", "fast_flush_domains: {error}");
                Answer::Reply(smtp::reply::etrn_unavailable(domain))
            }
        }
    }

    async fn recipient(&mut self, rcpt: smtp::server::RcptTo) -> Answer {
        let Some(mut transaction) = self.transaction.take() else {
            return Answer::Reply(smtp::reply::NEED_MAIL);
        };
        let address = rcpt.address.clone();
        let decided = transaction
            .recipient(&self.client(), rcpt, &self.shared.spool)
            .await;
        let sender = transaction.mail.address.clone();
        self.transaction = Some(transaction);
        match decided {
            Ok(()) => Answer::Continue,
            Err(refusal) => {
                self.log_reject("RCPT", Some(&sender), Some(&address), &refusal);
                Answer::Reply(refusal.reply)
            }
        }
    }

    async fn end_of_data(&mut self) -> Answer {
        let Some(transaction) = self.transaction.take() else {
            return Answer::Reply(smtp::reply::NEED_RCPT);
        };
        let sender = transaction.mail.address.clone();
        match transaction.end(&self.client(), &self.shared.spool).await {
            Ok(Ending::Queued(message)) => {
                let id = message.id.to_string();
                self.shared.scheduler.accept(*message);
                Answer::Reply(policy::reply::queued(&id))
            }
            Ok(Ending::Discarded(id)) => {
                tracing::info!(prog = "smtpd", "{id}: discard: message thrown away");
                Answer::Reply(policy::reply::queued(&id.to_string()))
            }
            Err(refusal) => {
                self.log_reject("END-OF-MESSAGE", Some(&sender), None, &refusal);
                Answer::Reply(refusal.reply)
            }
        }
    }

    fn client(&self) -> Client<'_> {
        Client {
            peer: self.session.peer(),
            helo: self.session.helo().map_or("", |helo| helo.name.as_str()),
            protocol: self.session.protocol_name(),
            encryption: self.encryption.as_ref(),
            login: self.login.as_ref(),
            has_logins: self.smtpd.sasl.is_some(),
        }
    }

    /// `NOQUEUE: reject: RCPT from …`, in the form that log readers parse.
    fn log_reject(
        &self,
        command: &str,
        sender: Option<&str>,
        recipient: Option<&str>,
        refusal: &Refusal,
    ) {
        let client = self.client();
        let id = self.transaction.as_ref().and_then(Transaction::id);
        let id = id.map_or("NOQUEUE".to_owned(), |id| id.to_string());
        let Refusal { reply, detail } = refusal;
        if let Some(detail) = detail {
            tracing::warn!(prog = "smtpd", "{id}: {detail}");
        }
        let mut line = format!(
            "{id}: reject: {command} from {}: {};",
            client.peer.name_and_address(),
            reply
        );
        if let Some(sender) = sender {
            line.push_str(&format!(" from=<{sender}>"));
        }
        if let Some(recipient) = recipient {
            line.push_str(&format!(" to=<{recipient}>"));
        }
        line.push_str(&format!(" proto={}", client.protocol));
        if !client.helo.is_empty() {
            line.push_str(&format!(" helo=<{}>", client.helo));
        }
        tracing::info!(prog = "smtpd", "{line}");
    }
}
