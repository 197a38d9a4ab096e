//! Canonical mapping (canonical(5)) and automatic copies, as cleanup(8) applies them.

use mail::address::add_extension;
use mail::fold::same;
use tables::TableList;

use crate::Router;
use crate::expand::ExpandError;
use crate::find::Forms;
use crate::walk::{Failure, Walk};

/// A chain of canonical mappings is followed this far.
const LONGEST_CHAIN: usize = 10;

impl Router {
    /// A recipient after `recipient_canonical_maps` and `canonical_maps`.
    pub async fn canonical_recipient(
        &self,
        walk: &mut Walk,
        address: &str,
    ) -> Result<String, ExpandError> {
        let name = "recipient_canonical_maps";
        let maps = &self.recipient_canonical_maps;
        let address = self.map_one(walk, name, maps, address.to_owned()).await?;
        self.map_one(walk, "canonical_maps", &self.canonical_maps, address)
            .await
    }

    /// A sender after `sender_canonical_maps` and `canonical_maps`. The empty sender stays.
    pub async fn canonical_sender(
        &self,
        walk: &mut Walk,
        address: &str,
    ) -> Result<String, ExpandError> {
        let name = "sender_canonical_maps";
        let maps = &self.sender_canonical_maps;
        let address = self.map_one(walk, name, maps, address.to_owned()).await?;
        self.map_one(walk, "canonical_maps", &self.canonical_maps, address)
            .await
    }

    async fn map_one(
        &self,
        walk: &mut Walk,
        parameter: &'static str,
        maps: &TableList,
        mut address: String,
    ) -> Result<String, ExpandError> {
        for _ in 0..LONGEST_CHAIN {
            let found = self
                .map(walk, parameter, maps, &address, self.propagate.canonical)
                .await?;
            let Some(mapped) = found.and_then(|list| list.into_iter().next()) else {
                break;
            };
            if mapped == address {
                break;
            }
            let settled = same(&mapped, &address);
            address = mapped;
            if settled {
                break;
            }
        }
        Ok(address)
    }

    /// One lookup of an address whose value is a list of addresses: `@domain` values keep the
    /// local part, an unmatched extension is passed on, each address is rewritten.
    pub(crate) async fn map(
        &self,
        walk: &mut Walk,
        parameter: &'static str,
        maps: &TableList,
        address: &str,
        propagate: bool,
    ) -> Result<Option<Vec<String>>, ExpandError> {
        let Some(found) = self
            .find_address(walk, parameter, maps, address, Forms::AllQuoted)
            .await?
        else {
            return Ok(None);
        };
        let extension = found.unmatched_extension.as_deref();
        let value = if found.value.starts_with('@') {
            let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
            let bare = extension
                .and_then(|ext| local.strip_suffix(ext))
                .unwrap_or(local);
            mail::address::quote_local(&format!("{bare}{}", found.value))
        } else {
            found.value
        };
        let mut list = self.rewriter.canonical_list(&value);
        if list.is_empty() {
            tracing::warn!(
                prog = "cleanup",
                "{parameter} lookup of {address} returns non-address result \"{value}\""
            );
            return Err(ExpandError::NotAddresses {
                parameter,
                key: address.to_owned(),
                value,
            });
        }
        if let (true, Some(extension)) = (propagate, extension) {
            for address in &mut list {
                *address = add_extension(address, extension);
            }
        }
        Ok(Some(list))
    }

    /// What `sender_bcc_maps` has for the sender.
    pub async fn copy_for_sender(
        &self,
        walk: &mut Walk,
        sender: &str,
    ) -> Result<Option<String>, Failure> {
        let name = "sender_bcc_maps";
        let maps = &self.sender_bcc_maps;
        let found = self
            .find_address(walk, name, maps, sender, Forms::All)
            .await?;
        Ok(found.map(|found| found.value))
    }

    /// `always_bcc`.
    pub fn always_bcc(&self) -> Option<&str> {
        (!self.always_bcc.is_empty()).then_some(self.always_bcc.as_str())
    }

    /// What `recipient_bcc_maps` has for the recipient.
    pub async fn copy_for_recipient(
        &self,
        walk: &mut Walk,
        recipient: &str,
    ) -> Result<Option<String>, Failure> {
        let name = "recipient_bcc_maps";
        let maps = &self.recipient_bcc_maps;
        let found = self
            .find_address(walk, name, maps, recipient, Forms::All)
            .await?;
        Ok(found.map(|found| found.value))
    }
}
