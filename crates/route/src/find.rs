//! How an address is looked up in a list of tables (virtual(5), "table search order").

use mail::address::{quote_local, quote_local_part};
use mail::fold::same;
use tables::TableList;

use crate::Router;
use crate::walk::{Failure, Walk};

/// Which forms of the address are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forms {
    /// user+ext@domain, user@domain, user+ext and user where the domain is local, @domain.
    All,
    /// The same, where local parts that need quotes are looked up with them and not without:
    /// so cleanup(8) maps addresses, whereas smtpd(8) tries both when it checks them.
    AllQuoted,
    /// user+ext@domain, user@domain.
    WithDomain,
}

/// A value, and the address extension that the key which found it did not have.
pub(crate) struct Found {
    pub value: String,
    pub unmatched_extension: Option<String>,
}

impl Router {
    /// What `smtpd_sender_login_maps` has for a sender: the logins that own it.
    pub async fn owners_of_sender(
        &self,
        walk: &mut Walk,
        maps: &TableList,
        sender: &str,
    ) -> Result<Option<String>, Failure> {
        let parameter = "smtpd_sender_login_maps";
        let address = self.rewrite(sender);
        let found = self
            .find_address(walk, parameter, maps, &address, Forms::All)
            .await?;
        Ok(found.map(|found| found.value))
    }

    /// Tries each form of the address in every table of the list before the next form.
    pub(crate) async fn find_address(
        &self,
        walk: &mut Walk,
        parameter: &'static str,
        list: &TableList,
        address: &str,
        forms: Forms,
    ) -> Result<Option<Found>, Failure> {
        if list.is_empty() || address.is_empty() {
            return Ok(None);
        }
        let mut search = Search {
            whole: address,
            walk,
            parameter,
            list,
            forms,
        };
        if let Some(found) = search
            .try_form(address, &quote_local(address), None)
            .await?
        {
            return Ok(Some(found));
        }
        if let Some((user, extension)) = self.extensions.strip(address)
            && let Some(found) = search
                .try_form(&user, &quote_local(&user), Some(&extension))
                .await?
        {
            return Ok(Some(found));
        }
        if forms == Forms::WithDomain {
            return Ok(None);
        }
        let Some((local, domain)) = address.rsplit_once('@') else {
            return Ok(None);
        };
        if same(domain, &self.myorigin) || self.is_local(search.walk, domain).await? {
            if let Some(found) = search
                .try_form(local, &quote_local_part(local), None)
                .await?
            {
                return Ok(Some(found));
            }
            if let Some((user, extension)) = self.extensions.split(local)
                && let Some(found) = search
                    .try_form(user, &quote_local_part(user), Some(extension))
                    .await?
            {
                return Ok(Some(found));
            }
        }
        search.try_key(&address[local.len()..], None, true).await
    }
}

/// A search in a list of tables.
struct Search<'a> {
    /// The address in full; every other key is a part of one.
    whole: &'a str,
    walk: &'a mut Walk,
    parameter: &'static str,
    list: &'a TableList,
    forms: Forms,
}

impl Search<'_> {
    /// One form of the address: quoted as RFC 5322 has it, then as it is where that differs.
    async fn try_form(
        &mut self,
        form: &str,
        quoted: &str,
        extension: Option<&str>,
    ) -> Result<Option<Found>, Failure> {
        let partial = form != self.whole;
        let found = self.try_key(quoted, extension, partial).await?;
        if found.is_some() || quoted == form || self.forms == Forms::AllQuoted {
            return Ok(found);
        }
        self.try_key(form, extension, partial).await
    }

    async fn try_key(
        &mut self,
        key: &str,
        extension: Option<&str>,
        partial: bool,
    ) -> Result<Option<Found>, Failure> {
        let Search {
            walk,
            parameter,
            list,
            ..
        } = self;
        let value = walk.ask_list(parameter, list, key, partial).await?;
        let unmatched_extension = extension.map(str::to_owned);
        Ok(value.map(|value| Found {
            value,
            unmatched_extension,
        }))
    }
}
