//! The envelope of a message that is complete: aliases followed, copies added, what milters want changed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use filter::Change;
use mail::fold::fold;
use queue::{ClientInfo, Envelope, Recipient, RouteHint};
use route::{ExpandError, Leaf};
use smtp::server::RcptTo;

use super::{Accepted, Client, Transaction, printable};

impl Transaction {
    pub(super) async fn envelope(&mut self, client: &Client<'_>) -> Result<Envelope, ExpandError> {
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
    pub(super) fn filter(&self) -> Option<String> {
        let settings = self.settings();
        let of_service = Some(&settings.content_filter).filter(|filter| !filter.is_empty());
        let filter = match self.effects.redirect {
            Some(_) => None,
            None => self.effects.filter.as_ref().or(of_service),
        }?;
        Some(match filter.strip_suffix(':') {
            Some(transport) => format!("{transport}:{}", settings.filter_nexthop),
            None => filter.clone(),
        })
    }

    /// What milters want of sender and recipients.
    pub(super) async fn change_envelope(
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
