//! One message on its way in: from MAIL to the queue.

mod content;
mod envelope;
mod received;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use filter::{Change, Checker};
use policy::{Admission, Effects, Facts, Policy, Refusal, Stage};
use queue::{Incoming as Spooling, QueueError, QueueId, Spool};
use route::{ExpandError, Walk};
use smtp::Reply;
use smtp::server::{Forwarded, MailFrom, Peer, RcptTo};

use crate::audit::Place;
use crate::generation::{Incoming as Settings, Smtpd};
use crate::headers::HeaderPass;
use crate::milter::{Guard, Standing};
use crate::sasl::Login;
use crate::tls::Established;
use crate::told::{self, Told};

/// What stays the same over a connection.
pub(crate) struct Client<'a> {
    pub peer: &'a Peer,
    pub helo: &'a str,
    pub protocol: &'static str,
    pub encryption: Option<&'a Established>,
    pub login: Option<&'a Login>,
    /// AUTH is enabled.
    pub has_logins: bool,
    /// Our end of the connection.
    pub server: Option<SocketAddr>,
    /// The client has sent commands ahead where that is not allowed.
    pub has_pipelined: bool,
}

impl Client<'_> {
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            client_name: &self.peer.name,
            client_address: self.peer.address,
            socket_address: self.peer.socket_address,
            shown_port: self.peer.show_port.then_some(self.peer.port),
            helo: self.helo,
            sender: None,
            recipient: None,
            recipients_so_far: 0,
            smtputf8: false,
            login: self.login.map(|login| login.user.as_str()),
            has_logins: self.has_logins,
            encrypted: self.encryption.is_some(),
            certificate: self.encryption.and_then(|encryption| {
                let certificate = encryption.certificate.as_ref();
                certificate.map(|certificate| &certificate.facts)
            }),
            connection: None,
            names: policy::ClientNames {
                status: self.peer.name_status,
                reverse: &self.peer.reverse_name,
                reverse_status: self.peer.reverse_status,
            },
            pipelined: self.has_pipelined,
        }
    }

    /// `, sasl_method=PLAIN, sasl_username=john@example.org`, behind `client=…` in the log.
    fn login_note(&self, mail: &MailFrom) -> String {
        let Some(login) = self.login else {
            return String::new();
        };
        let mut note = format!(
            ", sasl_method={}, sasl_username={}",
            printable(&login.mechanism),
            printable(&login.user)
        );
        if let Some(sender) = mail.auth.as_deref().filter(|sender| *sender != "<>") {
            note.push_str(&format!(", sasl_sender={}", printable(sender)));
        }
        note
    }
}

/// Text from outside as logs and headers may have it.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "?")
}

/// A message between MAIL and the answer to its end.
pub(crate) struct Transaction {
    smtpd: Arc<Smtpd>,
    pub mail: MailFrom,
    /// XFORWARD.
    pub forwarded: Option<Forwarded>,
    walk: Walk,
    effects: Effects,
    accepted: Vec<Accepted>,
    spooling: Option<Spooling>,
    /// Names the transaction to policy services.
    instance: String,
    /// Bytes of the message so far, as they came: with CR LF.
    received_size: u64,
    header: Option<HeaderPass>,
    told_message_id: bool,
    /// Looks for the patterns of header_checks(5).
    checker: Option<Checker>,
    /// What the log is to say of the content.
    content_log: Vec<String>,
    /// Headers in front of our own `Received:`.
    prepended: usize,
    /// What milters want changed of the envelope.
    changes: Vec<Change>,
}

/// So many lines about the content wait until the restrictions of the end of the message have been heard.
const MOST_LINES: usize = 100;

/// A recipient that RCPT accepted.
struct Accepted {
    rcpt: RcptTo,
    admission: Admission,
}

/// How a transaction ended well.
pub(crate) enum Ending {
    /// In the queue.
    Queued(Box<queue::Message>),
    /// Thrown away, as an access table wanted.
    Discarded(QueueId),
}

impl Transaction {
    /// Begins with a sender that the policy lets pass.
    pub async fn begin(
        smtpd: Arc<Smtpd>,
        client: &Client<'_>,
        mail: MailFrom,
        mut effects: Effects,
        spool: &Spool,
        guard: &mut Guard,
    ) -> Result<Transaction, Refusal> {
        let mut walk = Walk::new(Instant::now());
        let told = Told {
            size: mail.size.unwrap_or(0),
            sasl_sender: sasl_sender(&mail),
            ..Told::default()
        };
        let facts = Facts {
            connection: told.connection(client, "MAIL"),
            sender: Some(&mail.address),
            smtputf8: mail.smtputf8,
            ..client.facts()
        };
        let decided = smtpd.policy.sender(&mut walk, facts, &mut effects).await;
        let place = Place {
            command: "MAIL",
            sender: Some(&mail.address),
            ..Place::default()
        };
        place.log_events(client, &mut effects.events);
        if let Err(refusal) = &decided {
            place.log_reject(client, refusal);
        }
        decided?;
        let router = (smtpd.policy.router(), &mut walk);
        guard.mail(client, &mail, router, &mut effects).await?;
        if let Err(error) = spool.check_room(mail.size.unwrap_or(0)) {
            let refusal = storage_refusal(&error);
            place.log_reject(client, &refusal);
            return Err(refusal);
        }
        Ok(Transaction {
            smtpd,
            mail,
            forwarded: None,
            walk,
            effects,
            accepted: Vec::new(),
            spooling: None,
            instance: told::new_instance(),
            received_size: 0,
            header: None,
            told_message_id: false,
            checker: None,
            content_log: Vec::new(),
            prepended: 0,
            changes: Vec::new(),
        })
    }

    fn policy(&self) -> &Policy {
        &self.smtpd.policy
    }

    fn settings(&self) -> &Settings {
        &self.smtpd.incoming
    }

    /// The queue id, once a recipient was accepted.
    pub fn id(&self) -> Option<QueueId> {
        self.spooling.as_ref().map(Spooling::id)
    }

    /// RCPT. The first recipient gives the message its id.
    pub async fn recipient(
        &mut self,
        client: &Client<'_>,
        rcpt: RcptTo,
        spool: &Spool,
        guard: &mut Guard,
    ) -> Result<(), Refusal> {
        let told = self.told();
        let facts = Facts {
            connection: told.connection(client, "RCPT"),
            sender: Some(&self.mail.address),
            recipient: Some(&rcpt.address),
            recipients_so_far: self.accepted.len(),
            smtputf8: self.mail.smtputf8,
            ..client.facts()
        };
        let smtpd = Arc::clone(&self.smtpd);
        let decided = smtpd
            .policy
            .recipient(&mut self.walk, facts, &mut self.effects)
            .await;
        self.log(client, "RCPT", Some(&rcpt.address), decided.as_ref().err());
        let id = self.id().map(|id| id.to_string());
        let standing = Standing {
            id: id.as_deref(),
            sender: Some(&self.mail.address),
            ..Standing::default()
        };
        let refused = decided.as_ref().err().map(|refusal| &refusal.reply);
        let router = (smtpd.policy.router(), &mut self.walk);
        let asked = guard.rcpt(client, &rcpt, refused, standing, router, &mut self.effects);
        asked.await?;
        let admission = decided?;
        if self.spooling.is_none() {
            let spooling = spool.incoming().map_err(|error| storage_refusal(&error))?;
            let id = spooling.id();
            tracing::info!(
                prog = "smtpd",
                "{id}: client={}{}{}",
                client.peer.name_and_address(),
                client.login_note(&self.mail),
                self.origin_note()
            );
            self.spooling = Some(spooling);
        }
        self.accepted.push(Accepted { rcpt, admission });
        Ok(())
    }

    fn told(&self) -> Told {
        Told {
            queue_id: self.id().map(|id| id.to_string()).unwrap_or_default(),
            instance: self.instance.clone(),
            size: self.mail.size.unwrap_or(0),
            sasl_sender: sasl_sender(&self.mail),
        }
    }

    /// Logs what the restrictions did at a command, and their refusal.
    fn log(
        &mut self,
        client: &Client<'_>,
        command: &str,
        recipient: Option<&str>,
        refusal: Option<&Refusal>,
    ) {
        let place = Place {
            command,
            id: self.spooling.as_ref().map(Spooling::id),
            sender: Some(&self.mail.address),
            recipient,
        };
        place.log_events(client, &mut self.effects.events);
        if let Some(refusal) = refusal {
            place.log_reject(client, refusal);
        }
    }

    /// `, orig_queue_id=…, orig_client=name[address]`: what XFORWARD says.
    fn origin_note(&self) -> String {
        let Some(forwarded) = &self.forwarded else {
            return String::new();
        };
        let mut note = String::new();
        if let Some(ident) = &forwarded.ident {
            note.push_str(&format!(", orig_queue_id={}", printable(ident)));
        }
        if let Some(client) = forwarded.client() {
            note.push_str(&format!(", orig_client={}", printable(&client)));
        }
        note
    }

    /// The recipient that restrictions of the whole message are about: there must be but one.
    fn only_recipient(&self) -> Option<String> {
        match self.accepted.as_slice() {
            [only] => Some(only.rcpt.address.clone()),
            _ => None,
        }
    }

    /// DATA: the restrictions, then the header that says how the message came here.
    pub async fn data(&mut self, client: &Client<'_>, guard: &mut Guard) -> Result<(), Refusal> {
        let only = self.only_recipient();
        let told = self.told();
        let facts = Facts {
            connection: told.connection(client, "DATA"),
            sender: Some(&self.mail.address),
            recipient: only.as_deref(),
            recipients_so_far: self.accepted.len() - usize::from(only.is_some()),
            ..client.facts()
        };
        let smtpd = Arc::clone(&self.smtpd);
        let decided = smtpd
            .policy
            .decide(Stage::Data, &mut self.walk, facts, &mut self.effects)
            .await;
        self.log(client, "DATA", only.as_deref(), decided.as_ref().err());
        decided?;
        let id = self.id().map(|id| id.to_string());
        let first = self.accepted.first();
        let standing = Standing {
            id: id.as_deref(),
            sender: Some(&self.mail.address),
            recipient: first.map(|first| &*first.rcpt.address),
            ..Standing::default()
        };
        guard.data(client, standing, &mut self.effects).await?;
        let received = self.received(client);
        let missing = self.missing_headers(client);
        let settings = self.settings();
        let header = HeaderPass::new(&settings.drop_headers, missing);
        self.header = Some(header.with_limit(settings.header_limit));
        // A message that is thrown away anyway is not looked into.
        if self.effects.discard.is_none() {
            let lists = smtpd.checks.as_ref();
            self.checker = lists.map(|lists| Checker::new(Arc::clone(lists)));
        }
        self.prepended = self.effects.prepend.len();
        let mut start = String::new();
        for header in self.effects.prepend.drain(..) {
            start.push_str(&header);
            start.push('\n');
        }
        start.push_str(&received);
        self.append(&Bytes::from(start)).await
    }

    /// The end of the message: into the queue, or not at all.
    pub async fn end(
        mut self,
        client: &Client<'_>,
        spool: &Spool,
        guard: &mut Guard,
    ) -> Result<Ending, Refusal> {
        if let Some(checker) = self.checker.take() {
            Box::pin(self.check(checker, None, client)).await?;
        }
        if let Some(rest) = self.header.as_mut().map(HeaderPass::finish) {
            self.log_message_id();
            self.append(&rest).await?;
        }
        let only = self.only_recipient();
        let discarded = self.effects.discard.is_some();
        let decided = self.decide_at_end(client, only.as_deref()).await;
        self.log(
            client,
            "END-OF-MESSAGE",
            only.as_deref(),
            decided.as_ref().err(),
        );
        match discarded {
            true => self.content_log.clear(),
            false => self.log_content(),
        }
        decided?;
        if let Some(checker) = self.checker.take() {
            self.take_findings(checker.into_findings())?;
        }
        if guard.looks_into_messages() && self.effects.discard.is_none() {
            Box::pin(self.ask_milters(client, guard)).await?;
        }
        let id = self.id();
        let ended = self.store(client, spool).await;
        if let Err(refusal) = &ended {
            let place = Place {
                command: "END-OF-MESSAGE",
                id,
                sender: Some(&self.mail.address),
                recipient: only.as_deref(),
            };
            place.log_reject(client, refusal);
        }
        ended
    }

    async fn decide_at_end(
        &mut self,
        client: &Client<'_>,
        only: Option<&str>,
    ) -> Result<(), Refusal> {
        let told = Told {
            size: self.received_size,
            ..self.told()
        };
        let facts = Facts {
            connection: told.connection(client, "END-OF-MESSAGE"),
            sender: Some(&self.mail.address),
            recipient: only,
            recipients_so_far: self.accepted.len() - usize::from(only.is_some()),
            ..client.facts()
        };
        let smtpd = Arc::clone(&self.smtpd);
        smtpd
            .policy
            .decide(Stage::EndOfData, &mut self.walk, facts, &mut self.effects)
            .await
    }

    async fn store(&mut self, client: &Client<'_>, spool: &Spool) -> Result<Ending, Refusal> {
        let Some(spooling) = self.spooling.take() else {
            return Err(policy::reply::queue_file_write_error().into());
        };
        let id = spooling.id();
        if let Some(header) = &self.header {
            // Postfix counts the header that we have put in front, too.
            if header.hops + 1 >= self.settings().hopcount_limit {
                return Err(policy::reply::too_many_hops().into());
            }
        }
        let envelope = match self.envelope(client).await {
            Ok(envelope) => envelope,
            Err(error) => return Err(expansion_refusal(id, &error)),
        };
        if self.effects.discard.is_some() {
            return Ok(Ending::Discarded(id));
        }
        let message = spool.commit(spooling, envelope).await;
        message
            .map(|message| Ending::Queued(Box::new(message)))
            .map_err(|error| storage_refusal(&error))
    }
}

/// The AUTH parameter of MAIL, for policy services.
fn sasl_sender(mail: &MailFrom) -> String {
    mail.auth.clone().unwrap_or_default()
}

/// The reply when the spool does not take the message.
fn storage_refusal(error: &QueueError) -> Refusal {
    let reply: Reply = match error.is_full() {
        true => policy::reply::insufficient_storage(),
        false => policy::reply::queue_file_write_error(),
    };
    Refusal {
        reply,
        detail: Some(error.to_string()),
    }
}

/// The reply when the recipients of a complete message cannot be found out.
fn expansion_refusal(id: QueueId, error: &ExpandError) -> Refusal {
    tracing::warn!(
        prog = "cleanup",
        "{id}: {error} -- message not accepted, try again later"
    );
    let reply = match error {
        ExpandError::Unreasonable { .. } => policy::reply::alias_expansion_of_message(),
        _ => policy::reply::queue_file_write_error(),
    };
    Refusal {
        reply,
        detail: None,
    }
}
