//! Milters in a session: when they are asked, what they are told of client and envelope, what their answers become.

use std::net::SocketAddr;
use std::sync::Arc;

use filter::{Change, Context, Draft, Findings, Macros, MilterSettings, Milters, Verdict};
use policy::{Effects, Refusal};
use queue::Incoming as Spooling;
use route::{Router, Walk};
use smtp::Reply;
use smtp::server::{Answer, MailFrom, NameStatus, RcptTo};

use crate::transaction::Client;

/// The milters of a session, and what they have to know of it. Without milters it does nothing.
#[derive(Default)]
pub(crate) struct Guard {
    milters: Option<Milters>,
    hostname: String,
    /// Our own end of the connection.
    local: Option<SocketAddr>,
    /// Connections of this client.
    connections: usize,
    sender: Option<Place>,
    /// The recipient that RCPT is about.
    recipient: Option<Place>,
    /// The first recipient that was accepted.
    first: Option<Place>,
    /// `AUTH=` of MAIL, from a client that has logged in.
    author: Option<String>,
}

/// An address, and where mail for it goes: `{mail_addr}`, `{mail_host}`, `{mail_mailer}`.
struct Place {
    address: String,
    host: String,
    mailer: String,
}

/// Where a transaction stands, for macros and for the log.
#[derive(Clone, Copy, Default)]
pub(crate) struct Standing<'a> {
    pub id: Option<&'a str>,
    pub sender: Option<&'a str>,
    pub recipient: Option<&'a str>,
    /// The message is on hold already.
    pub held: bool,
}

/// What became of the content.
pub(crate) struct Shown {
    /// The message as it is to be stored; `None` where a milter refused or discarded it.
    pub message: Option<Spooling>,
    pub refusal: Option<Reply>,
    pub discard: bool,
    pub hold: bool,
    pub changes: Vec<Change>,
    pub findings: Findings,
}

impl Guard {
    /// The milters for this client; they are not connected yet.
    pub async fn new(
        settings: Option<&Arc<MilterSettings>>,
        hostname: &str,
        client: std::net::IpAddr,
        local: Option<SocketAddr>,
    ) -> Guard {
        let Some(settings) = settings else {
            return Guard::default();
        };
        Guard {
            milters: Milters::new(settings, client).await,
            hostname: hostname.to_owned(),
            local,
            connections: 0,
            sender: None,
            recipient: None,
            first: None,
            author: None,
        }
    }

    /// The client has so many connections.
    pub fn set_connections(&mut self, connections: usize) {
        self.connections = connections;
    }

    /// The client has connected. A refusal takes the greeting's place; commands hear of it later.
    pub async fn connect(&mut self, client: &Client<'_>) -> Option<Answer> {
        let milters = self.milters.take()?;
        Box::pin(self.tell_connect(milters, client)).await
    }

    async fn tell_connect(&mut self, mut milters: Milters, client: &Client<'_>) -> Option<Answer> {
        let peer = client.peer;
        let name = match peer.name.as_str() {
            // What is no name is shown as an address.
            "unknown" => format!("[{}]", peer.address),
            name => name.to_owned(),
        };
        let facts = self.facts(&milters, client, Standing::default());
        let verdict = milters.connect(&name, peer.address, peer.port, &facts);
        let verdict = verdict.await;
        let reply = self.judge(
            verdict,
            "CONNECT",
            client,
            Standing::default(),
            &mut Effects::default(),
        );
        self.milters = Some(milters);
        let refusal = reply.err()?;
        Some(match refusal.code {
            421 => Answer::Disconnect(smtp::reply::milter_closes(&self.hostname)),
            500.. => Answer::Greet(smtp::reply::milter_refuses_client(&self.hostname)),
            _ => return None,
        })
    }

    /// HELO or EHLO: only 421 is said at once, other refusals are said to the commands that follow.
    pub async fn helo(&mut self, client: &Client<'_>, extended: bool) -> Option<Answer> {
        let mut milters = self.milters.take()?;
        let place = if extended { "EHLO" } else { "HELO" };
        let facts = self.facts(&milters, client, Standing::default());
        let verdict = Box::pin(milters.helo(client.helo, &facts)).await;
        let reply = self.judge(
            verdict,
            place,
            client,
            Standing::default(),
            &mut Effects::default(),
        );
        self.milters = Some(milters);
        match reply {
            Err(refusal) if refusal.code == 421 => Some(Answer::Disconnect(refusal)),
            // There is no use in telling what we have.
            Err(refusal) if refusal.is_permanent() && extended => {
                Some(Answer::Reply(smtp::reply::bare_ehlo(&self.hostname)))
            }
            _ => None,
        }
    }

    /// MAIL that the policy lets pass.
    pub async fn mail(
        &mut self,
        client: &Client<'_>,
        mail: &MailFrom,
        (router, walk): (&Router, &mut Walk),
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        self.first = None;
        let author = mail.auth.as_deref().filter(|author| *author != "<>");
        self.author = author.filter(|_| client.login.is_some()).map(str::to_owned);
        let Some(mut milters) = self.milters.take() else {
            return Ok(());
        };
        let standing = Standing {
            sender: Some(&mail.address),
            ..Standing::default()
        };
        self.sender = Some(Box::pin(place(&self.hostname, router, walk, &mail.address)).await);
        let facts = self.facts(&milters, client, standing);
        let words = words_behind(&mail.raw, "FROM:");
        let verdict = Box::pin(milters.mail(&words, &facts)).await;
        self.milters = Some(milters);
        Ok(self.judge(verdict, "MAIL", client, standing, effects)?)
    }

    /// RCPT; `refused`: what the policy has against it.
    pub async fn rcpt(
        &mut self,
        client: &Client<'_>,
        rcpt: &RcptTo,
        refused: Option<&Reply>,
        standing: Standing<'_>,
        (router, walk): (&Router, &mut Walk),
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        if effects.discard.is_some() {
            return Ok(());
        }
        let Some(mut milters) = self.milters.take() else {
            return Ok(());
        };
        self.recipient = Some(match refused {
            None => Box::pin(place(&self.hostname, router, walk, &rcpt.address)).await,
            Some(reply) => Place {
                address: reason(&reply.text).to_owned(),
                host: reply
                    .enhanced
                    .map_or(String::new(), |code| code.to_string()),
                mailer: "error".to_owned(),
            },
        });
        let facts = self.facts(&milters, client, standing);
        let words = words_behind(&rcpt.raw, "TO:");
        let verdict = Box::pin(milters.rcpt(&words, refused.is_some(), &facts)).await;
        self.milters = Some(milters);
        let standing = Standing {
            recipient: Some(&rcpt.address),
            ..standing
        };
        let place = self.recipient.take();
        self.judge(verdict, "RCPT", client, standing, effects)?;
        if refused.is_none() && self.first.is_none() {
            self.first = place;
        }
        Ok(())
    }

    /// DATA that the policy lets pass.
    pub async fn data(
        &mut self,
        client: &Client<'_>,
        standing: Standing<'_>,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        if effects.discard.is_some() {
            return Ok(());
        }
        let Some(mut milters) = self.milters.take() else {
            return Ok(());
        };
        let facts = self.facts(&milters, client, standing);
        let verdict = Box::pin(milters.data(&facts)).await;
        self.milters = Some(milters);
        Ok(self.judge(verdict, "DATA", client, standing, effects)?)
    }

    /// A command that is none.
    pub async fn unknown(
        &mut self,
        client: &Client<'_>,
        command: &str,
        standing: Standing<'_>,
    ) -> Option<Reply> {
        let mut milters = self.milters.take()?;
        let facts = self.facts(&milters, client, standing);
        let verdict = Box::pin(milters.unknown(command, &facts)).await;
        self.milters = Some(milters);
        let reply = self.judge(
            verdict,
            "UNKNOWN",
            client,
            standing,
            &mut Effects::default(),
        );
        reply.err()
    }

    /// What stands against a client that was refused, for commands that milters are not told of.
    pub fn other(&self) -> Option<Reply> {
        match self.milters.as_ref()?.other()? {
            Verdict::Reply(text) => reply_of(&text),
            Verdict::Shutdown => Some(smtp::reply::MILTER_SHUTDOWN),
            Verdict::Hold | Verdict::Discard => None,
        }
    }

    /// Our own end of the connection.
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Whether the content of messages is to be shown.
    pub fn looks_into_messages(&self) -> bool {
        self.milters.is_some()
    }

    /// Shows the message, and takes it back as the milters want it. `hidden`: the headers in front of our own.
    pub async fn message(
        &mut self,
        client: &Client<'_>,
        message: Spooling,
        hidden: usize,
        standing: Standing<'_>,
    ) -> Result<Shown, String> {
        let mut shown = Shown {
            message: None,
            refusal: None,
            discard: false,
            hold: false,
            changes: Vec::new(),
            findings: Findings::default(),
        };
        let Some(mut milters) = self.milters.take() else {
            shown.message = Some(message);
            return Ok(shown);
        };
        let client_name = client.peer.name_and_address();
        let context = Context {
            id: standing.id.unwrap_or("NOQUEUE"),
            client: &client_name,
            sender: standing.sender.unwrap_or_default(),
            recipient: standing.recipient,
            protocol: client.protocol,
            helo: client.helo,
        };
        let facts = self.facts(&milters, client, standing);
        let done = Box::pin(async {
            let mut draft = Draft::read(message, hidden).await?;
            let outcome = milters.message(&mut draft, &facts, &context).await?;
            Ok((outcome, draft))
        });
        let done: Result<_, filter::draft::DraftError> = done.await;
        self.milters = Some(milters);
        let (outcome, draft) = done.map_err(|error| error.to_string())?;
        shown.changes = outcome.changes;
        shown.findings = outcome.findings;
        let log = |action: &str, text: &str| {
            let (id, envelope) = (context.id, context.envelope());
            tracing::info!(
                prog = "cleanup",
                "{id}: milter-{action}: END-OF-MESSAGE from {client_name}: {text}; {envelope}"
            );
        };
        if outcome.hold && !standing.held {
            log("hold", HOLDS);
            shown.hold = true;
        }
        match outcome.verdict {
            None | Some(Verdict::Hold) => {
                let message = Box::pin(draft.finish()).await;
                shown.message = Some(message.map_err(|error| error.to_string())?);
            }
            Some(Verdict::Discard) => {
                log("discard", DISCARDS);
                shown.discard = true;
            }
            Some(Verdict::Shutdown) => {
                let reply = smtp::reply::MILTER_SHUTDOWN;
                log("reject", &without_code(&reply));
                shown.refusal = Some(reply);
            }
            Some(Verdict::Reply(text)) => {
                let reply = reply_of(&text).unwrap_or(smtp::reply::MILTER_UNAVAILABLE);
                log("reject", &without_code(&reply));
                shown.refusal = Some(reply);
            }
        }
        Ok(shown)
    }

    /// The transaction is over, or was dropped.
    pub async fn abort(&mut self) {
        if let Some(milters) = &mut self.milters {
            Box::pin(milters.abort()).await;
        }
        self.sender = None;
        self.first = None;
        self.author = None;
    }

    /// The session is over.
    pub async fn quit(&mut self) {
        if let Some(milters) = &mut self.milters {
            Box::pin(milters.quit()).await;
        }
    }

    fn facts<'a>(
        &'a self,
        milters: &Milters,
        client: &'a Client<'a>,
        standing: Standing<'a>,
    ) -> Facts<'a> {
        Facts {
            guard: self,
            client,
            daemon_name: milters.settings().daemon_name.clone(),
            version: milters.settings().version.clone(),
            id: standing.id,
        }
    }

    /// Logs what the milters decided at a command; `Err`: the command is refused.
    fn judge(
        &self,
        verdict: Option<Verdict>,
        command: &str,
        client: &Client<'_>,
        standing: Standing<'_>,
        effects: &mut Effects,
    ) -> Result<(), Reply> {
        let Some(verdict) = verdict else {
            return Ok(());
        };
        let (action, text, refusal) = match verdict {
            Verdict::Hold => {
                effects.hold = Some(HOLDS.to_owned());
                ("milter-hold", HOLDS.to_owned(), None)
            }
            Verdict::Discard => {
                effects.discard = Some(DISCARDS.to_owned());
                ("milter-discard", DISCARDS.to_owned(), None)
            }
            Verdict::Shutdown => {
                let reply = smtp::reply::MILTER_SHUTDOWN;
                ("milter-reject", reply.to_string(), Some(reply))
            }
            Verdict::Reply(text) => {
                let reply = reply_of(&text).unwrap_or(smtp::reply::MILTER_UNAVAILABLE);
                let shown = text.replace(|c: char| c.is_control(), "?");
                ("milter-reject", shown, Some(reply))
            }
        };
        let id = standing.id.unwrap_or("NOQUEUE");
        let name = client.peer.name_and_address();
        let mut line = format!("{id}: {action}: {command} from {name}: {text};");
        if let Some(sender) = standing.sender {
            line.push_str(&format!(" from=<{sender}>"));
        }
        if let Some(recipient) = standing.recipient {
            line.push_str(&format!(" to=<{recipient}>"));
        }
        line.push_str(&format!(" proto={}", client.protocol));
        if !client.helo.is_empty() {
            line.push_str(&format!(" helo=<{}>", client.helo));
        }
        tracing::info!(prog = "smtpd", "{line}");
        refusal.map_or(Ok(()), Err)
    }
}

const HOLDS: &str = "milter triggers HOLD action";
const DISCARDS: &str = "milter triggers DISCARD action";

/// The facts that macros give.
struct Facts<'a> {
    guard: &'a Guard,
    client: &'a Client<'a>,
    daemon_name: String,
    version: String,
    id: Option<&'a str>,
}

impl Macros for Facts<'_> {
    fn value(&self, name: &str) -> Option<String> {
        let Client {
            peer,
            encryption,
            login,
            ..
        } = *self.client;
        let sender = self.guard.sender.as_ref();
        let recipient = self.guard.recipient.as_ref();
        let recipient = recipient.or(self.guard.first.as_ref());
        let certificate = encryption.and_then(|encryption| encryption.certificate.as_ref());
        match name {
            "j" => Some(self.guard.hostname.clone()),
            "_" => {
                let forged = match peer.name.eq_ignore_ascii_case(&peer.reverse_name) {
                    true => "",
                    false => " (may be forged)",
                };
                Some(format!(
                    "{} [{}]{forged}",
                    peer.reverse_name,
                    peer.shown_address()
                ))
            }
            "v" => Some(self.version.clone()),
            "i" => self.id.map(str::to_owned),
            "daemon_name" => Some(self.daemon_name.clone()),
            "daemon_addr" | "if_addr" => self
                .guard
                .local
                .map(|at| at.ip().to_canonical().to_string()),
            "daemon_port" => self.guard.local.map(|at| at.port().to_string()),
            "client_addr" => Some(peer.shown_address()),
            "client_name" => Some(peer.name.clone()),
            "client_ptr" => Some(peer.reverse_name.clone()),
            "client_connections" => Some(self.guard.connections.to_string()),
            "client_port" => Some(peer.port.to_string()),
            "client_resolve" => Some(
                match peer.name_status {
                    NameStatus::Known => "OK",
                    NameStatus::None => "FAIL",
                    NameStatus::NotNow => "TEMP",
                    NameStatus::Forged => "FORGED",
                }
                .to_owned(),
            ),
            "tls_version" => encryption.map(|encryption| encryption.version().to_owned()),
            "cipher" => encryption.map(|encryption| encryption.cipher_name().to_owned()),
            "cipher_bits" => encryption.map(|encryption| encryption.cipher_bits().to_owned()),
            "cert_subject" => certificate.map(|found| found.names.subject.clone()),
            "cert_issuer" => certificate.map(|found| found.names.issuer.clone()),
            "auth_type" => login.map(|login| login.mechanism.clone()),
            "auth_authen" => login.map(|login| login.user.clone()),
            "auth_author" => self.guard.author.clone(),
            "mail_addr" => sender.map(|place| place.address.clone()),
            "mail_host" => sender.map(|place| place.host.clone()),
            "mail_mailer" => sender.map(|place| place.mailer.clone()),
            "rcpt_addr" => recipient.map(|place| place.address.clone()),
            "rcpt_host" => recipient.map(|place| place.host.clone()),
            "rcpt_mailer" => recipient.map(|place| place.mailer.clone()),
            _ => None,
        }
    }
}

/// Where mail for an address would go; a table that fails leaves that open.
async fn place(hostname: &str, router: &Router, walk: &mut Walk, address: &str) -> Place {
    // Mail for nobody would come to the mail system itself.
    let whole = match address {
        "" => format!("MAILER-DAEMON@{hostname}"),
        address => router.rewrite(address),
    };
    let (host, mailer) = match router.resolve(walk, &whole).await {
        Ok(resolved) => (resolved.route.nexthop, resolved.route.transport),
        Err(_) => (String::new(), String::new()),
    };
    Place {
        address: match address {
            "" => String::new(),
            _ => mail::address::quote_local(&whole),
        },
        host,
        mailer,
    }
}

/// The words of MAIL and RCPT: the address as given, then the parameters.
fn words_behind<'a>(raw: &'a str, keyword: &str) -> Vec<&'a str> {
    let start = raw.get(..keyword.len());
    let given = match start {
        Some(start) if start.eq_ignore_ascii_case(keyword) => &raw[keyword.len()..],
        _ => raw,
    };
    let given = given.trim();
    // Blanks may stand in a quoted local part.
    let end = match given.rfind('>') {
        Some(end) if given.starts_with('<') => end + 1,
        _ => given.find(' ').unwrap_or(given.len()),
    };
    let mut words = vec![&given[..end]];
    words.extend(given[end..].split_ascii_whitespace());
    words
}

/// A refusal without the address in front of it.
fn reason(text: &str) -> &str {
    text.split_once(">: ").map_or(text, |(_, rest)| rest)
}

fn without_code(reply: &Reply) -> String {
    reply.to_string().get(4..).unwrap_or_default().to_owned()
}

/// A reply of one or several lines.
fn reply_of(text: &str) -> Option<Reply> {
    let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
    let mut reply = Reply::parse(lines.next()?)?;
    let mut whole = reply.text.into_owned();
    for line in lines {
        let next = Reply::parse(line)?;
        whole.push('\n');
        match next.enhanced {
            Some(code) if reply.enhanced != Some(code) => whole.push_str(&format!("{code} ")),
            _ => {}
        }
        whole.push_str(&next.text);
    }
    reply.text = whole.into();
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_command_are_as_given() {
        for (raw, expected) in [
            (
                "FROM:<a@b> SIZE=1 BODY=7BIT",
                &["<a@b>", "SIZE=1", "BODY=7BIT"][..],
            ),
            ("from: <\"a b\"@c>", &["<\"a b\"@c>"]),
            ("FROM:a@b X", &["a@b", "X"]),
            ("FROM:<>", &["<>"]),
        ] {
            assert_eq!(words_behind(raw, "FROM:"), expected, "{raw}");
        }
    }

    #[test]
    fn replies_of_several_lines() {
        let reply = reply_of("451-4.3.0 one\r\n451 4.3.0 two").expect("it is a reply");
        assert_eq!(reply.to_bytes(), b"451-4.3.0 one\r\n451 4.3.0 two\r\n");
        let reply = reply_of("554 spam").expect("it is a reply");
        assert_eq!(reply.to_bytes(), b"554 spam\r\n");
    }
}
