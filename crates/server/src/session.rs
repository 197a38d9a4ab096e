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
use smtp::server::{Answer, Counted, Helo, Peer, Privileges, Question, Session, Step};
use tokio::net::TcpStream;

use crate::Shutdown;
use crate::audit::Place;
use crate::generation::{Current, Smtpd};
use crate::milter::{Guard, Standing};
use crate::peer_name::Names;
use crate::rates::{Rates, Visit};
use crate::sasl::{Exchange, Login};
use crate::scheduler::Scheduler;
use crate::stream::Stream;
use crate::tls::Established;
use crate::told::Told;
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
        show_port: smtpd.incoming.port_logging,
        ..Peer::new(name, ip, address.port())
    };
    tracing::info!(prog = "smtpd", "connect from {}", peer.name_and_address());
    let privileges = Privileges {
        xclient: smtpd.incoming.xclient_hosts.has(&peer).await,
        xforward: smtpd.incoming.xforward_hosts.has(&peer).await,
    };
    let hostname = &smtpd.incoming.myhostname;
    let local = stream.local_addr().ok();
    let guard = Guard::new(smtpd.milters.as_ref(), hostname, ip, local).await;
    let mut session = Session::new(smtpd.settings_for(ip).await, peer, Instant::now());
    session.change_privileges(|_| privileges);
    let mut connection = Connection {
        stream: Stream::Clear(stream),
        session,
        encryption: None,
        exchange: None,
        login: None,
        transaction: None,
        deferrals: [None, None],
        guard,
        smtpd,
        visit,
        shutdown: shared.shutdown.clone(),
        shared: Arc::clone(&shared),
    };
    if connection.smtpd.tls.wrapper {
        connection.start_tls().await;
    }
    connection.run().await;
    connection.guard.quit().await;
    let name = connection.session.peer().name_and_address();
    let summary = connection.session.summary();
    tracing::info!(prog = "smtpd", "disconnect from {name} {summary}");
}

/// One client's connection.
pub(crate) struct Connection {
    pub stream: Stream,
    pub session: Session,
    transaction: Option<Transaction>,
    /// `defer_if_permit` at connecting and at HELO, where they are not delayed: it counts for every recipient.
    deferrals: [Option<Reply>; 2],
    /// The service's milters.
    guard: Guard,
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
                    if let Some(mut transaction) = self.transaction.take() {
                        let done = transaction.content(piece, &self.client()).await;
                        self.transaction = Some(transaction);
                        if let Err(refusal) = done {
                            self.place().log_reject(&self.client(), &refusal);
                            self.session.refuse_content(refusal.reply);
                        }
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
        match question {
            Question::Connect => match self.one_too_many().await {
                Some(reply) => Answer::Disconnect(reply),
                None => self.greet().await,
            },
            Question::Xclient { login } => {
                self.become_another(login).await;
                self.greet().await
            }
            Question::Count(command) => self.count(command).await,
            Question::Helo(helo) => {
                if helo.extended {
                    self.offer_mechanisms().await;
                }
                let client = Client {
                    helo: &helo.name,
                    ..self.client()
                };
                match self.decide_early(Stage::Helo, &client).await {
                    Ok(deferral) => self.deferrals[1] = deferral,
                    Err(refusal) => return Answer::Reply(refusal.reply),
                }
                self.milters_on_helo(&helo).await
            }
            Question::Mail(mail) => self.mail(mail).await,
            Question::Auth(_) | Question::Vrfy(_) | Question::Etrn(_)
                if self.guard.other().is_some() =>
            {
                self.guard.other().map_or(Answer::Continue, Answer::Reply)
            }
            Question::Unknown(command) => self.unknown(&command).await,
            Question::Auth(auth) => self.authenticate(auth).await,
            Question::AuthResponse(response) => self.continue_authentication(response).await,
            Question::AuthAborted => {
                self.give_up_authentication();
                Answer::Continue
            }
            Question::Rcpt(rcpt) => self.recipient(rcpt).await,
            Question::Data => match self.transaction.take() {
                Some(mut transaction) => {
                    let mut guard = std::mem::take(&mut self.guard);
                    let done = transaction.data(&self.client(), &mut guard).await;
                    self.guard = guard;
                    self.transaction = Some(transaction);
                    answer(done)
                }
                None => Answer::Reply(smtp::reply::NEED_RCPT),
            },
            Question::EndOfData { .. } => self.end_of_data().await,
            Question::Abort => {
                if let Some(mut dropped) = self.transaction.take() {
                    // The content may have been refused, and what was seen of it until then is to be told.
                    dropped.log_content();
                }
                self.guard.abort().await;
                Answer::Continue
            }
            Question::Vrfy(address) => self.verify(&address).await,
            Question::Etrn(domain) => self.flush(&domain).await,
        }
    }

    /// The restrictions that need no transaction; the deferral that they leave for RCPT.
    async fn decide_early(
        &self,
        stage: Stage,
        client: &Client<'_>,
    ) -> Result<Option<Reply>, Refusal> {
        let mut effects = Effects::default();
        let mut walk = Walk::new(Instant::now());
        let policy = &self.smtpd.policy;
        let told = Told::default();
        let facts = policy::Facts {
            connection: told.connection(client, self.session.place()),
            ..client.facts()
        };
        let decided = policy.decide(stage, &mut walk, facts, &mut effects).await;
        self.place().log_events(client, &mut effects.events);
        if let Err(refusal) = &decided {
            self.place().log_reject(client, refusal);
        }
        decided.map(|()| effects.defer_if_permit)
    }

    async fn greet(&mut self) -> Answer {
        match self.decide_early(Stage::Client, &self.client()).await {
            Ok(deferral) => {
                self.deferrals = [deferral, None];
                self.milters_on_connect().await
            }
            Err(refusal) => Answer::Reply(refusal.reply),
        }
    }

    /// XCLIENT: what belonged to the client before is forgotten.
    async fn become_another(&mut self, login: Option<String>) {
        self.guard.quit().await;
        let hostname = &self.smtpd.incoming.myhostname;
        let peer = self.session.peer();
        let milters = self.smtpd.milters.as_ref();
        self.guard = Guard::new(milters, hostname, peer.address, self.guard.local()).await;
        let xclient = self.smtpd.incoming.xclient_hosts.has(peer).await;
        let settings = self.smtpd.settings_for(peer.address).await;
        self.session
            .change_privileges(|now| Privileges { xclient, ..now });
        self.session.set_settings(settings);
        let login = login.filter(|_| self.smtpd.sasl.is_some());
        self.login = login.map(|user| Login {
            mechanism: "XCLIENT".to_owned(),
            user,
        });
    }

    async fn mail(&mut self, mail: smtp::server::MailFrom) -> Answer {
        let smtpd = Arc::clone(&self.smtpd);
        let [at_connect, at_helo] = self.deferrals.clone();
        let effects = Effects {
            defer_if_permit: at_connect.or(at_helo),
            ..Effects::default()
        };
        let forwarded = self.session.forwarded().cloned();
        let mut guard = std::mem::take(&mut self.guard);
        let client = self.client();
        let spool = &self.shared.spool;
        let begun = Transaction::begin(smtpd, &client, mail, effects, spool, &mut guard).await;
        if begun.is_err() {
            guard.abort().await;
        }
        self.guard = guard;
        match begun {
            Ok(mut transaction) => {
                transaction.forwarded = forwarded;
                self.transaction = Some(transaction);
                Answer::Continue
            }
            Err(refusal) => Answer::Reply(refusal.reply),
        }
    }

    fn place(&self) -> Place<'_> {
        Place {
            command: self.session.place(),
            ..Place::default()
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

    /// The milters hear of the client.
    async fn milters_on_connect(&mut self) -> Answer {
        if !self.guard.looks_into_messages() {
            return Answer::Continue;
        }
        let mut guard = std::mem::take(&mut self.guard);
        let limits = &self.smtpd.incoming.limits;
        let connections = self.visit.connections(limits, self.session.peer());
        guard.set_connections(connections.await);
        let answer = guard.connect(&self.client()).await;
        self.guard = guard;
        answer.unwrap_or(Answer::Continue)
    }

    async fn milters_on_helo(&mut self, helo: &Helo) -> Answer {
        let mut guard = std::mem::take(&mut self.guard);
        let client = Client {
            helo: &helo.name,
            ..self.client()
        };
        let answer = guard.helo(&client, helo.extended).await;
        self.guard = guard;
        answer.unwrap_or(Answer::Continue)
    }

    /// A command that nobody knows: milters may have another reply.
    async fn unknown(&mut self, command: &str) -> Answer {
        let mut guard = std::mem::take(&mut self.guard);
        let id = self.transaction.as_ref().and_then(Transaction::id);
        let id = id.map(|id| id.to_string());
        let standing = Standing {
            id: id.as_deref(),
            sender: self.transaction.as_ref().map(|open| &*open.mail.address),
            ..Standing::default()
        };
        let refusal = guard.unknown(&self.client(), command, standing).await;
        self.guard = guard;
        match refusal {
            Some(reply) if reply.code == 421 => Answer::Disconnect(reply),
            Some(reply) => Answer::Reply(reply),
            None => Answer::Continue,
        }
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
        let told = Told::default();
        let facts = policy::Facts {
            connection: told.connection(&client, "VRFY"),
            recipient: Some(address),
            ..client.facts()
        };
        let mut walk = Walk::new(Instant::now());
        let mut effects = Effects::default();
        let decided = self
            .smtpd
            .policy
            .recipient(&mut walk, facts, &mut effects)
            .await;
        let place = Place {
            recipient: Some(address),
            ..self.place()
        };
        place.log_events(&client, &mut effects.events);
        if let Err(refusal) = &decided {
            place.log_reject(&client, refusal);
        }
        answer(decided)
    }

    /// ETRN (RFC 1985): tries what waits for a domain of `fast_flush_domains`.
    async fn flush(&self, domain: &str) -> Answer {
        if !mail::host::is_valid_domain(domain) {
            return Answer::Reply(smtp::reply::ETRN_BAD_DOMAIN);
        }
        if let Err(refusal) = self.may_flush(domain).await {
            return Answer::Reply(refusal.reply);
        }
        match self.smtpd.incoming.fast_flush_domains.matches(domain).await {
            Ok(true) => {
                self.shared.scheduler.flush_site(domain).await;
                Answer::Continue
            }
            Ok(false) => self.cannot_flush(domain),
            Err(error) => {
                tracing::warn!(prog = "smtpd", "fast_flush_domains: {error}");
                self.cannot_flush(domain)
            }
        }
    }

    fn cannot_flush(&self, domain: &str) -> Answer {
        let client = self.session.peer().name_and_address();
        tracing::warn!(prog = "smtpd", "reject: ETRN {domain}... from {client}");
        Answer::Reply(smtp::reply::etrn_unavailable(domain))
    }

    /// `smtpd_etrn_restrictions`.
    async fn may_flush(&self, domain: &str) -> Result<(), Refusal> {
        let client = self.client();
        let mut effects = Effects::default();
        let mut walk = Walk::new(Instant::now());
        let policy = &self.smtpd.policy;
        let told = Told::default();
        let mut facts = client.facts();
        facts.connection = told.connection(&client, "ETRN");
        if let Some(connection) = &mut facts.connection {
            connection.etrn_domain = domain;
        }
        let decided = policy.etrn(domain, &mut walk, facts, &mut effects).await;
        self.place().log_events(&client, &mut effects.events);
        if let Err(refusal) = &decided {
            self.place().log_reject(&client, refusal);
        }
        decided
    }

    async fn recipient(&mut self, rcpt: smtp::server::RcptTo) -> Answer {
        let Some(mut transaction) = self.transaction.take() else {
            return Answer::Reply(smtp::reply::NEED_MAIL);
        };
        let mut guard = std::mem::take(&mut self.guard);
        let decided = transaction
            .recipient(&self.client(), rcpt, &self.shared.spool, &mut guard)
            .await;
        self.guard = guard;
        self.transaction = Some(transaction);
        answer(decided)
    }

    async fn end_of_data(&mut self) -> Answer {
        let Some(transaction) = self.transaction.take() else {
            return Answer::Reply(smtp::reply::NEED_RCPT);
        };
        let mut guard = std::mem::take(&mut self.guard);
        let ended = transaction
            .end(&self.client(), &self.shared.spool, &mut guard)
            .await;
        guard.abort().await;
        self.guard = guard;
        match ended {
            Ok(Ending::Queued(message)) => {
                let id = message.id.to_string();
                self.shared.scheduler.accept(*message);
                Answer::Reply(policy::reply::queued(&id))
            }
            Ok(Ending::Discarded(id)) => Answer::Reply(policy::reply::queued(&id.to_string())),
            Err(refusal) => Answer::Reply(refusal.reply),
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
            server: self.stream.local_address(),
            has_pipelined: self.session.has_pipelined(),
        }
    }
}

fn answer<T>(decided: Result<T, Refusal>) -> Answer {
    match decided {
        Ok(_) => Answer::Continue,
        Err(refusal) => Answer::Reply(refusal.reply),
    }
}
