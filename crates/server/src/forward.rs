//! What local(8) needs of the server: where addresses go, and new messages for those that lead elsewhere.

use std::time::{Instant, SystemTime};

use delivery::{Asked, Forward, Locate, Place, Rcpt};
use queue::{Envelope, Message, Notify, Recipient, Spool};
use route::{Router, Walk};

use crate::generation::Generation;

/// The router, asked by local(8).
pub(crate) struct Located<'a>(pub &'a Router);

impl Locate for Located<'_> {
    fn locate<'a>(&'a self, address: &'a str) -> Asked<'a> {
        let Located(router) = self;
        Box::pin(async move {
            let mut walk = Walk::new(Instant::now());
            let rewritten = router.rewrite(address);
            let resolved = router.resolve(&mut walk, &rewritten).await;
            let resolved = resolved.map_err(|failure| failure.to_string())?;
            Ok(Place {
                malformed: resolved.malformed,
                transport: resolved.route.transport,
                address: resolved.recipient,
            })
        })
    }
}

/// Puts the message that `parent` is forwarded as into the queue. It must not be tried before `parent` has recorded
/// it, or is gone: see docs/decisions/0007-forwarded-messages.md.
pub(crate) async fn commit(
    spool: &Spool,
    generation: &Generation,
    (parent, mail): (&Envelope, &delivery::Message),
    recipient: &Rcpt,
    forward: &Forward,
) -> Result<Message, String> {
    let recipients = recipients(&generation.router, recipient, forward).await?;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut spooling = spool.incoming().map_err(|error| text(&error))?;
    let now = SystemTime::now();
    let head = head(generation, &spooling.id().to_string(), now, forward);
    let mut written = spooling.append(head.as_bytes()).await;
    let mut chunks = mail.content.chunks();
    while let (Ok(()), Some(piece)) = (&written, chunks.next().await) {
        let piece = piece.map_err(|error| text(&error))?;
        written = spooling.append(&piece).await;
    }
    written.map_err(|error| text(&error))?;
    let envelope = Envelope {
        smtputf8: parent.smtputf8,
        eight_bit: parent.eight_bit,
        envid: parent.envid.clone(),
        ret: parent.ret,
        client: parent.client.clone(),
        attributes: inherited(parent),
        forwarded_from: Some(mail.id.clone()),
        ..Envelope::new(&forward.sender, recipients, now)
    };
    let committed = spool.commit(spooling, envelope).await;
    committed.map_err(|error| text(&error))
}

/// What is logged of a new message before the queue has it.
pub(crate) fn log(message: &Message, header: &[u8]) {
    let id = message.id;
    let found = header.split(|&byte| byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked("message-id:".len())?;
        let value = name.eq_ignore_ascii_case(b"message-id:").then_some(value)?;
        Some(String::from_utf8_lossy(value).trim().to_owned())
    });
    let message_id = found.unwrap_or_else(|| "<>".to_owned());
    tracing::info!(prog = "cleanup", "{id}: message-id={message_id}");
}

async fn recipients(
    router: &Router,
    recipient: &Rcpt,
    forward: &Forward,
) -> Result<Vec<Recipient>, String> {
    let mut walk = Walk::new(Instant::now());
    let mut list: Vec<Recipient> = Vec::new();
    let (orcpt, notify) = match forward.original.is_empty() {
        true => (None, Notify::default()),
        false => (recipient.orcpt.clone(), failures_of(recipient.notify)),
    };
    for address in &forward.recipients {
        let original = match forward.original.as_str() {
            "" => address,
            original => original,
        };
        let tree = router.recipients_of(&mut walk, address).await;
        let tree = tree.map_err(|error| error.to_string())?;
        for leaf in tree.leaf_addresses() {
            let known = |other: &Recipient| mail::fold::same(&other.address, leaf);
            if !list.iter().any(known) {
                list.push(Recipient {
                    orcpt: orcpt.clone(),
                    notify,
                    ..Recipient::new(leaf, original)
                });
            }
        }
    }
    Ok(list)
}

/// The report of success is the forwarded recipient's own.
fn failures_of(notify: Notify) -> Notify {
    let rest = Notify {
        success: false,
        ..notify
    };
    match notify.success && rest.is_default() {
        true => Notify::NEVER,
        false => rest,
    }
}

fn head(generation: &Generation, id: &str, now: SystemTime, forward: &Forward) -> String {
    let delivery::dsn::Settings {
        hostname,
        mail_name,
        ..
    } = &generation.reports;
    let date = mail::date::rfc5322(now);
    let mut head = format!("Received: by {hostname} ({mail_name})\n\tid {id}; {date}\n");
    if let Some(address) = &forward.delivered_to {
        let line = delivery::content::Prepended {
            delivered_to: Some(address),
            ..Default::default()
        };
        head.push_str(&String::from_utf8_lossy(&line.to_bytes("\n")));
    }
    head
}

/// Who handed it in stays known; how far the other message has come does not.
fn inherited(parent: &Envelope) -> std::collections::BTreeMap<String, String> {
    let of_client = |name: &str| name.starts_with("sasl_") || name.starts_with("log_");
    let kept = parent.attributes.iter().filter(|(name, _)| of_client(name));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
