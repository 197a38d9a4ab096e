//! Answers for a client that asks for whole keys alone. Behind `socketmap:` and `tcp:` Postfix looks
//! up `user+ext@domain` and nothing else (socketmap_table(5)); the search for `user@domain` and
//! `@domain`, which it does itself with `mysql:`, must then happen where the tables are.

use tables::TableList;

use crate::Router;
use crate::expand::ExpandError;
use crate::find::Forms;
use crate::walk::{Failure, Walk};

/// How the tables of a parameter are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// The key as it is.
    Exact,
    /// By the forms of an address (virtual(5), "table search order"). The value is for the address
    /// itself, whatever its extension is.
    Address,
    /// The same, where the value is addresses that take over the extension, should
    /// `propagate_unmatched_extensions` have the word.
    Map(Propagated),
    /// An address without and with extension, or a domain and its parents (transport(5)).
    Transport,
    /// A domain, or one of its parents, as `relay_domains` has it.
    Domain,
}

/// The words of `propagate_unmatched_extensions` that we act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagated {
    Canonical,
    Virtual,
}

impl Router {
    /// What Postfix, asking for all its partial keys, would find in the list for this key. The key is
    /// in external form, as Postfix sends it.
    pub async fn whole_key(
        &self,
        walk: &mut Walk,
        parameter: &'static str,
        list: &TableList,
        search: Search,
        key: &str,
    ) -> Result<Option<String>, Failure> {
        // Domains and `*` are keys of address tables too: virtual_alias_domains = $virtual_alias_maps.
        let address = key.contains('@');
        match search {
            Search::Address if address => {
                let found = self.find_external(walk, parameter, list, key).await?;
                Ok(found.map(|found| found.value))
            }
            Search::Map(word) if address => self.mapped(walk, parameter, list, word, key).await,
            Search::Transport if address => {
                let address = mail::address::unquote_local(key);
                let forms = Forms::WithDomain;
                let found = self
                    .find_address(walk, parameter, list, &address, forms)
                    .await?;
                Ok(found.map(|found| found.value))
            }
            Search::Transport => {
                let parents = self.transport_parents;
                self.domain_or_parent(walk, parameter, list, key, parents)
                    .await
            }
            Search::Domain => {
                let parents = self.relay_parents;
                self.domain_or_parent(walk, parameter, list, key, parents)
                    .await
            }
            Search::Exact | Search::Address | Search::Map(_) => {
                walk.ask_list(parameter, list, key, false).await
            }
        }
    }

    async fn find_external(
        &self,
        walk: &mut Walk,
        parameter: &'static str,
        list: &TableList,
        key: &str,
    ) -> Result<Option<crate::find::Found>, Failure> {
        let address = mail::address::unquote_local(key);
        self.find_address(walk, parameter, list, &address, Forms::AllQuoted)
            .await
    }

    /// The value as the table has it, but where it must take over the extension: Postfix cannot, not
    /// knowing that the key which was found had none.
    async fn mapped(
        &self,
        walk: &mut Walk,
        parameter: &'static str,
        list: &TableList,
        word: Propagated,
        key: &str,
    ) -> Result<Option<String>, Failure> {
        let Some(found) = self.find_external(walk, parameter, list, key).await? else {
            return Ok(None);
        };
        if found.unmatched_extension.is_none() {
            return Ok(Some(found.value));
        }
        let propagate = match word {
            Propagated::Canonical => self.propagate.canonical,
            Propagated::Virtual => self.propagate.virtual_alias,
        };
        let address = mail::address::unquote_local(key);
        // The walk remembers the lookups of a moment ago.
        let addresses = self.map(walk, parameter, list, &address, propagate).await;
        match addresses {
            Ok(addresses) => Ok(addresses.map(|addresses| {
                let quoted = addresses.iter().map(|a| mail::address::quote_local(a));
                quoted.collect::<Vec<_>>().join(", ")
            })),
            Err(ExpandError::Lookup(failure)) => Err(failure),
            // Postfix says what it thinks of a value that holds no address.
            Err(_) => Ok(Some(found.value)),
        }
    }

    /// The domain, then `.parent` or, where parents match without a dot, `parent`.
    pub(crate) async fn domain_or_parent(
        &self,
        walk: &mut Walk,
        parameter: &'static str,
        list: &TableList,
        domain: &str,
        parents: bool,
    ) -> Result<Option<String>, Failure> {
        let mut key = domain;
        let mut partial = false;
        loop {
            if let Some(value) = walk.ask_list(parameter, list, key, partial).await? {
                return Ok(Some(value));
            }
            partial = true;
            let from = usize::from(key.starts_with('.'));
            let Some(dot) = key[from..].find('.') else {
                return Ok(None);
            };
            key = &key[from + dot + usize::from(parents)..];
        }
    }
}
