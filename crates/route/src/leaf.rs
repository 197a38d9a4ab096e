//! Whether an address exists: the recipient tables of the address classes, for the address a
//! client names and for the leaves that its aliases lead to.

use tables::TableList;

use crate::Router;
use crate::expand::{ExpandError, Expansion};
use crate::find::Forms;
use crate::resolve::{Class, Resolved};
use crate::walk::{Failure, Walk};

/// What the recipient tables say of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// An alias or a canonical mapping changes it: it exists, whatever its class.
    Mapped,
    /// The table of its class has it, with this value.
    InTable(String),
    /// Its class has no table to ask.
    NotChecked,
    Unknown(UnknownIn),
}

/// The table that does not have the address; each has its reply code in main.cf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownIn {
    Local,
    VirtualAlias,
    VirtualMailbox,
    Relay,
}

impl UnknownIn {
    /// As Postfix names it in `User unknown in …`.
    pub fn table(self) -> &'static str {
        match self {
            UnknownIn::Local => "local recipient table",
            UnknownIn::VirtualAlias => "virtual alias table",
            UnknownIn::VirtualMailbox => "virtual mailbox table",
            UnknownIn::Relay => "relay recipient table",
        }
    }

    /// The main.cf parameter with the SMTP reply code.
    pub fn code_parameter(self) -> &'static str {
        match self {
            UnknownIn::Local => "unknown_local_recipient_reject_code",
            UnknownIn::VirtualAlias => "unknown_virtual_alias_reject_code",
            UnknownIn::VirtualMailbox => "unknown_virtual_mailbox_reject_code",
            UnknownIn::Relay => "unknown_relay_recipient_reject_code",
        }
    }
}

/// One end of a recipient's tree.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Index into [`Expansion::nodes`].
    pub node: usize,
    pub resolved: Resolved,
    pub verdict: Verdict,
}

/// Whether a leaf can take mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A mailbox of ours; the value that `virtual_mailbox_maps` has for it.
    Mailbox(String),
    /// Nothing here says otherwise.
    Deliverable,
    /// The table of its class does not have it.
    Dangling(UnknownIn),
    /// The address cannot be delivered to anywhere.
    Malformed,
}

impl Verdict {
    pub fn is_deliverable(&self) -> bool {
        matches!(self, Verdict::Mailbox(_) | Verdict::Deliverable)
    }
}

impl Router {
    /// The check of `reject_unlisted_recipient` and `reject_unlisted_sender`.
    pub async fn listing(
        &self,
        walk: &mut Walk,
        resolved: &Resolved,
        is_sender: bool,
    ) -> Result<Listing, Failure> {
        let address = &resolved.recipient;
        let mappings = [
            (
                !is_sender,
                "recipient_canonical_maps",
                &self.recipient_canonical_maps,
            ),
            (
                is_sender,
                "sender_canonical_maps",
                &self.sender_canonical_maps,
            ),
            (true, "canonical_maps", &self.canonical_maps),
            (true, "virtual_alias_maps", &self.virtual_alias_maps),
        ];
        for (asked, parameter, maps) in mappings {
            if asked
                && self
                    .find_address(walk, parameter, maps, address, Forms::All)
                    .await?
                    .is_some()
            {
                return Ok(Listing::Mapped);
            }
        }
        self.listing_in_class(walk, resolved).await
    }

    /// What the table of the address's class says, aliases aside.
    async fn listing_in_class(
        &self,
        walk: &mut Walk,
        resolved: &Resolved,
    ) -> Result<Listing, Failure> {
        let (unknown, parameter, maps): (_, _, &TableList) = match resolved.class {
            Class::VirtualAlias => return Ok(Listing::Unknown(UnknownIn::VirtualAlias)),
            Class::Default => return Ok(Listing::NotChecked),
            Class::Local if self.always_exists(&resolved.recipient) => {
                return Ok(Listing::NotChecked);
            }
            Class::Local => (
                UnknownIn::Local,
                "local_recipient_maps",
                &self.local_recipient_maps,
            ),
            Class::VirtualMailbox => (
                UnknownIn::VirtualMailbox,
                "virtual_mailbox_maps",
                &self.virtual_mailbox_maps,
            ),
            Class::Relay => (
                UnknownIn::Relay,
                "relay_recipient_maps",
                &self.relay_recipient_maps,
            ),
        };
        if maps.is_empty() {
            return Ok(Listing::NotChecked);
        }
        let address = &resolved.recipient;
        Ok(
            match self
                .find_address(walk, parameter, maps, address, Forms::All)
                .await?
            {
                Some(found) => Listing::InTable(found.value),
                None => Listing::Unknown(unknown),
            },
        )
    }

    /// Local names that every Postfix accepts.
    fn always_exists(&self, recipient: &str) -> bool {
        let local = recipient
            .rsplit_once('@')
            .map_or(recipient, |(local, _)| local);
        ["postmaster", "mailer-daemon", &self.double_bounce]
            .iter()
            .any(|name| local.eq_ignore_ascii_case(name))
    }

    /// Resolves each leaf of a tree and asks the table of its class.
    pub async fn leaves(&self, walk: &mut Walk, tree: &Expansion) -> Result<Vec<Leaf>, Failure> {
        let mut leaves = Vec::with_capacity(tree.leaves.len());
        for &node in &tree.leaves {
            let resolved = self.resolve(walk, &tree.nodes[node].address).await?;
            let verdict = if resolved.malformed {
                Verdict::Malformed
            } else {
                match self.listing_in_class(walk, &resolved).await? {
                    Listing::Unknown(table) => Verdict::Dangling(table),
                    Listing::InTable(value) if resolved.class == Class::VirtualMailbox => {
                        Verdict::Mailbox(value)
                    }
                    _ => Verdict::Deliverable,
                }
            };
            leaves.push(Leaf {
                node,
                resolved,
                verdict,
            });
        }
        Ok(leaves)
    }

    /// The leaves of a recipient after canonical mapping, as cleanup(8) would write them.
    pub async fn recipients_of(
        &self,
        walk: &mut Walk,
        address: &str,
    ) -> Result<Expansion, ExpandError> {
        let canonical = self.canonical_recipient(walk, address).await?;
        self.expand(walk, &canonical).await
    }
}
