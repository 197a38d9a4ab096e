//! One message on its way in: from MAIL to the queue.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use filter::checks::Step;
use filter::{Change, Checker, Context, Findings};
use mail::fold::fold;
use policy::{Admission, Effects, Facts, Policy, Refusal, Stage};
use queue::{
    ClientInfo, Envelope, Incoming as Spooling, QueueError, QueueId, Recipient, RouteHint, Spool,
};
use route::{ExpandError, Leaf, Walk};
use smtp::Reply;
use smtp::server::{Forwarded, MailFrom, Peer, RcptTo};

use crate::audit::Place;
use crate::generation::{Incoming as Settings, Smtpd};
use crate::headers::{HeaderPass, Missing};
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

    /// A piece of the message.
    pub async fn content(&mut self, piece: Bytes, client: &Client<'_>) -> Result<(), Refusal> {
        let lines = piece.iter().filter(|byte| **byte == b'\n').count();
        self.received_size += (piece.len() + lines) as u64;
        match self.checker.take() {
            None => self.checked(piece).await,
            Some(checker) => Box::pin(self.check(checker, Some(piece), client)).await,
        }
    }

    /// Header and body checks. `None`: the end of the message.
    async fn check(
        &mut self,
        mut checker: Checker,
        piece: Option<Bytes>,
        client: &Client<'_>,
    ) -> Result<(), Refusal> {
        let id = self.id().map(|id| id.to_string());
        let name = client.peer.name_and_address();
        let recipient = self.last_recipient();
        let sender = self.mail.address.clone();
        let context = Context {
            id: id.as_deref().unwrap_or("NOQUEUE"),
            client: &name,
            sender: &sender,
            recipient: recipient.as_deref(),
            protocol: client.protocol,
            helo: client.helo,
        };
        let steps = match piece {
            Some(piece) => checker.feed(&piece, &context).await,
            None => checker.finish(&context).await,
        };
        for Step { text, log } in steps {
            let of_message_id = text
                .get(..11)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"message-id:"));
            self.checked(text).await?;
            self.content_log.extend(log);
            // A message that is not to be has no more said of it, unless this very header was the reason.
            self.told_message_id |= checker.is_final() && !of_message_id;
        }
        self.checker = Some(checker);
        if self.content_log.len() > MOST_LINES {
            self.log_content();
        }
        Ok(())
    }

    /// Logs what there is to say of the content: behind what restrictions said of the end of the message, as far as that can wait.
    pub fn log_content(&mut self) {
        for line in self.content_log.drain(..) {
            tracing::info!(prog = "cleanup", "{line}");
        }
    }

    /// The recipient that the log names with the content: the last one.
    fn last_recipient(&self) -> Option<String> {
        let last = self.accepted.last();
        last.map(|last| last.rcpt.address.clone())
    }

    async fn checked(&mut self, piece: Bytes) -> Result<(), Refusal> {
        let piece = match &mut self.header {
            Some(header) => header.feed(piece),
            None => piece,
        };
        self.log_message_id();
        self.append(&piece).await
    }

    /// Once the header is complete, as whoever follows a message through the log expects it before
    /// anything that is said of its content.
    fn log_message_id(&mut self) {
        if self.told_message_id || self.effects.discard.is_some() {
            return;
        }
        if let (Some(header), Some(id)) = (&self.header, self.id())
            && (header.is_complete() || header.message_id.is_some())
        {
            let message_id = header.message_id.as_deref().unwrap_or("<>");
            self.content_log
                .push(format!("{id}: message-id={message_id}"));
            self.told_message_id = true;
        }
    }

    async fn append(&mut self, piece: &Bytes) -> Result<(), Refusal> {
        if piece.is_empty() {
            return Ok(());
        }
        match &mut self.spooling {
            Some(spooling) => spooling
                .append(piece)
                .await
                .map_err(|error| storage_refusal(&error)),
            None => Err(policy::reply::queue_file_write_error().into()),
        }
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

    /// What header_checks(5) and its relatives want beside a changed text.
    fn take_findings(&mut self, findings: Findings) -> Result<(), Refusal> {
        if findings.failed {
            return Err(policy::reply::queue_file_write_error().into());
        }
        if let Some((status, text)) = findings.reject {
            return Err(policy::reply::content_rejected(status, &text).into());
        }
        let effects = &mut self.effects;
        effects.hold = effects.hold.take().or(findings.hold);
        effects.discard = effects.discard.take().or(findings.discard);
        effects.filter = findings.filter.or(effects.filter.take());
        effects.redirect = findings.redirect.or(effects.redirect.take());
        effects.bcc.extend(findings.bcc);
        Ok(())
    }

    /// Shows the message to the milters, and takes it back as they want it.
    async fn ask_milters(&mut self, client: &Client<'_>, guard: &mut Guard) -> Result<(), Refusal> {
        let Some(message) = self.spooling.take() else {
            return Ok(());
        };
        // Where it is to be thrown away, this still has its id.
        let empty = message.successor();
        let id = message.id().to_string();
        let recipient = self.last_recipient();
        let standing = Standing {
            id: Some(&id),
            sender: Some(&self.mail.address),
            recipient: recipient.as_deref(),
            held: self.effects.hold.is_some(),
        };
        let shown = guard
            .message(client, message, self.prepended, standing)
            .await;
        let shown = shown.map_err(|problem| {
            tracing::warn!(prog = "cleanup", "{id}: {problem}");
            policy::reply::queue_file_write_error()
        })?;
        if let Some(refusal) = shown.refusal {
            return Err(refusal.into());
        }
        self.take_findings(shown.findings)?;
        if shown.hold {
            self.effects.hold.get_or_insert_default();
        }
        if shown.discard {
            self.effects.discard.get_or_insert_default();
        }
        self.changes = shown.changes;
        self.spooling = Some(shown.message.unwrap_or(empty));
        Ok(())
    }

    async fn envelope(&mut self, client: &Client<'_>) -> Result<Envelope, ExpandError> {
        let smtpd = Arc::clone(&self.smtpd);
        let router = smtpd.policy.router();
        let mut sender = match self.mail.address.as_str() {
            "" => String::new(),
            address => router.rewrite(address),
        };
        if self.settings().map_addresses && !sender.is_empty() {
            sender = router.canonical_sender(&mut self.walk, &sender).await?;
        }
        let recipients = self.recipients(&sender).await?;
        let mut envelope = Envelope::new(&sender, recipients, SystemTime::now());
        envelope.smtputf8 = self.mail.smtputf8;
        envelope.eight_bit = self.mail.eight_bit;
        envelope.envid.clone_from(&self.mail.envid);
        envelope.ret = self.mail.ret;
        envelope.hold = self.effects.hold.is_some();
        envelope.filter = self.filter();
        envelope.client = ClientInfo {
            name: client.peer.name.clone(),
            addr: client.peer.shown_address(),
            port: client.peer.port,
            helo: client.helo.to_owned(),
            protocol: client.protocol.to_owned(),
        };
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            Box::pin(self.change_envelope(&mut envelope, changes)).await?;
        }
        Ok(envelope)
    }

    /// All recipients after aliases and copies, without duplicates, in Postfix's order.
    async fn recipients(&mut self, sender: &str) -> Result<Vec<Recipient>, ExpandError> {
        let smtpd = Arc::clone(&self.smtpd);
        let router = smtpd.policy.router();
        let mut list = RecipientList::new(smtpd.incoming.enable_original_recipient);
        if smtpd.incoming.map_addresses
            && let Some(copy) = router.copy_for_sender(&mut self.walk, sender).await?
        {
            self.add_copy(&mut list, &copy).await?;
        }
        for Accepted { rcpt, admission } in std::mem::take(&mut self.accepted) {
            if !smtpd.incoming.map_addresses {
                list.add(recipient(&admission.address, &rcpt, None));
                continue;
            }
            match &admission.leaves {
                Some((tree, leaves)) => {
                    for leaf in leaves {
                        list.add(recipient(&tree.nodes[leaf.node].address, &rcpt, Some(leaf)));
                    }
                }
                None => {
                    let tree = router
                        .recipients_of(&mut self.walk, &admission.address)
                        .await?;
                    for address in tree.leaf_addresses() {
                        list.add(recipient(address, &rcpt, None));
                    }
                }
            }
            let canonical = router
                .canonical_recipient(&mut self.walk, &admission.address)
                .await?;
            if let Some(copy) = router
                .copy_for_recipient(&mut self.walk, &canonical)
                .await?
            {
                self.add_copy(&mut list, &copy).await?;
            }
        }
        let mut copies = std::mem::take(&mut self.effects.bcc);
        if smtpd.incoming.map_addresses {
            copies.splice(..0, router.always_bcc().map(str::to_owned));
        }
        for copy in copies {
            self.add_copy(&mut list, &copy).await?;
        }
        Ok(self.redirected(list.recipients))
    }

    /// REDIRECT: one recipient instead of all.
    fn redirected(&self, recipients: Vec<Recipient>) -> Vec<Recipient> {
        let Some(address) = &self.effects.redirect else {
            return recipients;
        };
        let address = self.policy().router().rewrite(address);
        // Of recipients that become the same, Postfix keeps the first in the order of what the senders called them.
        let first = recipients
            .into_iter()
            .min_by(|one, other| one.original.cmp(&other.original));
        let redirected = first.map(|first| Recipient {
            address,
            hint: None,
            ..first
        });
        redirected.into_iter().collect()
    }

    /// FILTER of a table, or `content_filter`; REDIRECT goes above both.
    fn filter(&self) -> Option<String> {
        let settings = &self.settings().content_filter;
        let of_service = (!settings.is_empty()).then(|| settings.clone());
        match self.effects.redirect {
            Some(_) => None,
            None => self.effects.filter.clone().or(of_service),
        }
    }

    /// What milters want of sender and recipients.
    async fn change_envelope(
        &mut self,
        envelope: &mut Envelope,
        changes: Vec<Change>,
    ) -> Result<(), ExpandError> {
        let smtpd = Arc::clone(&self.smtpd);
        let router = smtpd.policy.router();
        for change in changes {
            match change {
                Change::DeleteRecipient { address } => {
                    let address = internal(&address);
                    let originals = smtpd.incoming.enable_original_recipient;
                    envelope.recipients.retain(|recipient| match originals {
                        true => recipient.original != address,
                        false => recipient.address != address,
                    });
                }
                Change::AddRecipient {
                    address,
                    parameters,
                } => {
                    let address = router.rewrite(&internal(&address));
                    let tree = router.recipients_of(&mut self.walk, &address).await?;
                    for leaf in tree.leaf_addresses() {
                        let mut recipient = Recipient::new(leaf, &address);
                        apply_parameters(&mut recipient, &parameters);
                        let known = envelope.recipients.iter();
                        let twice = |known: &Recipient| known.address == recipient.address;
                        if !known.into_iter().any(twice) {
                            envelope.recipients.push(recipient);
                        }
                    }
                }
                Change::Sender {
                    address,
                    parameters,
                } => {
                    let address = internal(&address);
                    envelope.sender = match address.is_empty() {
                        true => address,
                        false => {
                            let address = router.rewrite(&address);
                            match smtpd.incoming.map_addresses {
                                true => router.canonical_sender(&mut self.walk, &address).await?,
                                false => address,
                            }
                        }
                    };
                    apply_sender_parameters(envelope, &parameters);
                }
            }
        }
        Ok(())
    }

    async fn add_copy(&mut self, list: &mut RecipientList, copy: &str) -> Result<(), ExpandError> {
        let smtpd = Arc::clone(&self.smtpd);
        let router = smtpd.policy.router();
        let address = router.rewrite(copy);
        let leaves = match smtpd.incoming.map_addresses {
            true => {
                let tree = router.recipients_of(&mut self.walk, &address).await?;
                tree.leaf_addresses().map(str::to_owned).collect()
            }
            false => vec![address.clone()],
        };
        for leaf in leaves {
            let mut recipient = Recipient::new(&leaf, &address);
            // Nobody asked for the copy, so nobody is told of its failure.
            recipient.notify = queue::Notify::NEVER;
            list.add(recipient);
        }
        Ok(())
    }

    /// `Received:`, as Postfix writes it (RFC 5321 section 4.4).
    fn received(&self, client: &Client<'_>) -> String {
        let Settings {
            myhostname,
            mail_name,
            ..
        } = self.settings();
        let id = self.id().map(|id| id.to_string()).unwrap_or_default();
        let date = mail::date::rfc5322(SystemTime::now());
        let literal = match client.peer.address {
            address if address.is_unspecified() => Peer::UNKNOWN.to_owned(),
            std::net::IpAddr::V4(address) => address.to_string(),
            std::net::IpAddr::V6(address) => format!("IPv6:{address}"),
        };
        let name = &client.peer.name;
        let helo = if client.helo.is_empty() {
            name
        } else {
            client.helo
        };
        let protocol = match (client.protocol, self.mail.smtputf8) {
            ("ESMTP", true) => "UTF8SMTP",
            ("LMTP", true) => "UTF8LMTP",
            (protocol, _) => protocol,
        };
        // RFC 3848: ESMTPS, ESMTPA, ESMTPSA.
        let extended = client.protocol != "SMTP";
        let with_tls = if extended && client.encryption.is_some() {
            "S"
        } else {
            ""
        };
        let with_login = if extended && client.login.is_some() {
            "A"
        } else {
            ""
        };
        let security = self.security(client);
        let by = format!(
            "Received: from {helo} ({name} [{literal}])\n{security}\tby {myhostname} ({mail_name}) with {protocol}{with_tls}{with_login} id {id}"
        );
        match self.accepted.as_slice() {
            [only] => {
                let recipient = mail::address::quote_local(&only.rcpt.address);
                format!("{by}\n\tfor <{recipient}>; {date}\n")
            }
            _ => format!("{by};\n\t{date}\n"),
        }
    }

    /// The lines of `Received:` that `smtpd_tls_received_header` and `smtpd_sasl_authenticated_header` add.
    fn security(&self, client: &Client<'_>) -> String {
        let mut lines = String::new();
        if let Some(encryption) = client.encryption
            && self.settings().show_tls
        {
            lines.push_str(&encryption.received());
        }
        let show_login = self
            .smtpd
            .sasl
            .as_ref()
            .is_some_and(|sasl| sasl.show_in_header);
        if let Some(login) = client.login.filter(|_| show_login) {
            let user = login
                .user
                .replace(|c: char| c.is_control() || "()\\".contains(c), "?");
            lines.push_str(&format!("\t(Authenticated sender: {user})\n"));
        }
        lines
    }

    /// Local clients' messages are completed (`local_header_rewrite_clients`).
    fn missing_headers(&self, client: &Client<'_>) -> Option<Missing> {
        let settings = self.settings();
        let source = self.forwarded.as_ref().and_then(|from| from.local);
        let local = source.unwrap_or(self.policy().is_own(client.peer.socket_address));
        if !settings.add_missing_headers && !local {
            return None;
        }
        let now = SystemTime::now();
        let stamp = chrono::DateTime::<chrono::Utc>::from(now).format("%Y%m%d%H%M%S");
        let id = self.id()?;
        let from = match self.mail.address.as_str() {
            // Without a domain, as Postfix leaves it.
            "" => "MAILER-DAEMON".to_owned(),
            sender => mail::address::quote_local(&self.policy().router().rewrite(sender)),
        };
        Some(Missing {
            from,
            message_id: format!("<{stamp}.{id}@{}>", settings.myhostname),
            date: now,
        })
    }
}

/// The AUTH parameter of MAIL, for policy services.
fn sasl_sender(mail: &MailFrom) -> String {
    mail.auth.clone().unwrap_or_default()
}

/// An address as milters write it, without brackets and quotes.
fn internal(address: &str) -> String {
    let address = address.trim();
    let inside = address
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'));
    mail::address::unquote_local(inside.unwrap_or(address))
}

/// `NOTIFY=` and `ORCPT=` of a recipient that a milter adds.
fn apply_parameters(recipient: &mut Recipient, parameters: &str) {
    for word in parameters.split_ascii_whitespace() {
        match word.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("NOTIFY") => {
                if let Some(notify) = queue::Notify::parse(value) {
                    recipient.notify = notify;
                }
            }
            Some((name, value)) if name.eq_ignore_ascii_case("ORCPT") => {
                recipient.orcpt = Some(value.to_owned());
            }
            _ => tracing::warn!(
                prog = "cleanup",
                "milter: ignoring unsupported ESMTP parameter \"{}\"",
                printable(word)
            ),
        }
    }
}

/// `RET=` and `ENVID=` of a sender that a milter sets.
fn apply_sender_parameters(envelope: &mut Envelope, parameters: &str) {
    for word in parameters.split_ascii_whitespace() {
        match word.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("RET") => {
                envelope.ret = queue::Ret::parse(value).or(envelope.ret);
            }
            Some((name, value)) if name.eq_ignore_ascii_case("ENVID") => {
                envelope.envid = Some(value.to_owned());
            }
            Some((name, _))
                if ["SIZE", "BODY"]
                    .iter()
                    .any(|known| name.eq_ignore_ascii_case(known)) => {}
            _ => tracing::warn!(
                prog = "cleanup",
                "milter: ignoring unsupported ESMTP parameter \"{}\"",
                printable(word)
            ),
        }
    }
}

fn recipient(address: &str, rcpt: &RcptTo, leaf: Option<&Leaf>) -> Recipient {
    let mut recipient = Recipient::new(address, &rcpt.address);
    recipient.orcpt.clone_from(&rcpt.orcpt);
    recipient.notify = rcpt.notify.unwrap_or_default();
    recipient.hint = leaf.map(|leaf| RouteHint {
        transport: leaf.resolved.route.transport.clone(),
        nexthop: leaf.resolved.route.nexthop.clone(),
        mailbox: match &leaf.verdict {
            route::Verdict::Mailbox(value) => Some(value.clone()),
            _ => None,
        },
    });
    recipient
}

/// Recipients without duplicates: the same address for the same original recipient counts once;
/// with `enable_original_recipient = no`, the same address.
struct RecipientList {
    distinct_originals: bool,
    seen: HashSet<String>,
    recipients: Vec<Recipient>,
}

impl RecipientList {
    fn new(distinct_originals: bool) -> RecipientList {
        RecipientList {
            distinct_originals,
            seen: HashSet::new(),
            recipients: Vec::new(),
        }
    }

    fn add(&mut self, recipient: Recipient) {
        let key = match self.distinct_originals {
            true => format!(
                "{}\n{:?}\n{}\n{}",
                recipient.orcpt.as_deref().unwrap_or_default(),
                recipient.notify,
                recipient.original,
                recipient.address
            ),
            false => recipient.address.clone(),
        };
        if self.seen.insert(fold(&key).into_owned()) {
            self.recipients.push(recipient);
        }
    }
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
