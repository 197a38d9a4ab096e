//! One message on its way in: from MAIL to the queue.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
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
}

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
        decided?;
        if let Err(error) = spool.check_room(mail.size.unwrap_or(0)) {
            return Err(storage_refusal(&error));
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
    pub async fn data(&mut self, client: &Client<'_>) -> Result<(), Refusal> {
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
        let received = self.received(client);
        let missing = self.missing_headers(client);
        self.header = Some(HeaderPass::new(&self.settings().drop_headers, missing));
        let mut start = String::new();
        for header in self.effects.prepend.drain(..) {
            start.push_str(&header);
            start.push('\n');
        }
        start.push_str(&received);
        self.append(&Bytes::from(start)).await
    }

    /// A piece of the message.
    pub async fn content(&mut self, piece: Bytes) -> Result<(), Refusal> {
        let lines = piece.iter().filter(|byte| **byte == b'\n').count();
        self.received_size += (piece.len() + lines) as u64;
        let piece = match &mut self.header {
            Some(header) => header.feed(piece),
            None => piece,
        };
        self.append(&piece).await
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
    pub async fn end(mut self, client: &Client<'_>, spool: &Spool) -> Result<Ending, Refusal> {
        if let Some(rest) = self.header.as_mut().map(HeaderPass::finish) {
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
        let id = self.id();
        if let (Some(id), Some(header), false) = (id, &self.header, discarded) {
            let message_id = header.message_id.as_deref().unwrap_or("<>");
            tracing::info!(prog = "cleanup", "{id}: message-id={message_id}");
        }
        decided?;
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
