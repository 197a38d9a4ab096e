//! What a recipient turns into: aliases(5), `:include:` files, `.forward` files, and in the end the user's
//! mailbox, in local(8)'s order.

use std::collections::HashSet;
use std::fs;

use mail::address::{add_extension, quote_local};
use mail::status::EnhancedCode;
use mail::token::{Token, addresses, internal};

use super::words::Words;
use super::{About, Account, Addresses, Local, PROG, Step, Work, files};
use crate::content::{has_delivered_to, header};
use crate::mailbox::failure::reason;
use crate::request::{Outcome, Rcpt, Request};

/// How deep aliases may lead into aliases.
const DEPTH_LIMIT: usize = 100;
/// Addresses, files and commands that one recipient may turn into.
const STEP_LIMIT: usize = 100_000;

/// What an address stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The recipient of the message itself.
    Envelope,
    Alias,
    Forward,
    Include,
}

/// An address or other destination, and how we came to it.
#[derive(Clone, Debug)]
struct Item {
    text: String,
    about: About,
    kind: Kind,
    depth: usize,
    /// The alias's owner, or the user whose `.forward` this is: addresses of others are forwarded as a new message.
    owner: Option<String>,
    /// Whose rights files and commands get; `None`: `default_privs`.
    rights: Option<Account>,
    /// The address extension that nothing has matched yet.
    unmatched: Option<String>,
    /// The alias this stands in: within itself it is no alias.
    alias: Option<String>,
    /// `text` is a local address, rewritten and resolved.
    resolved: bool,
}

/// A lookup failed for now, or the text that the outcome has.
struct Stop(Box<Outcome>);

impl Stop {
    fn deferred(code: EnhancedCode, text: impl Into<String>) -> Stop {
        Stop(Box::new(Outcome::deferred(PROG, code, text)))
    }

    fn bounced(code: EnhancedCode, text: impl Into<String>) -> Stop {
        Stop(Box::new(Outcome::bounced(PROG, code, text)))
    }

    fn configuration() -> Stop {
        Stop::bounced(
            EnhancedCode::new(5, 3, 5),
            "mail system configuration error",
        )
    }
}

struct Expansion<'a> {
    agent: &'a Local,
    request: &'a Request,
    addresses: &'a dyn Addresses,
    header: Vec<u8>,
    /// What is still to be looked at, the next one last.
    left: Vec<Item>,
    seen: HashSet<String>,
    steps: Vec<Step>,
}

impl Local {
    /// The steps that deliver to this recipient.
    pub(super) async fn expand(
        &self,
        request: &Request,
        recipient: &Rcpt,
        addresses: &dyn Addresses,
    ) -> Vec<Step> {
        let about = About {
            address: recipient.address.clone(),
            delivered: recipient.address.clone(),
            original: recipient.original.clone(),
            sender: request.message.sender.clone(),
        };
        let settled = |stop: Stop, about: About| Step {
            about,
            work: Work::Settled(Box::new(stop.0.via(PROG))),
        };
        let header = match header(&request.message.content).await {
            Ok(header) => header,
            Err(error) => {
                let text = format!("cannot read the message: {}", reason(&error));
                let stop = Stop::deferred(EnhancedCode::new(4, 3, 0), text);
                return vec![settled(stop, about)];
            }
        };
        let first = Item {
            text: recipient.address.clone(),
            about,
            kind: Kind::Envelope,
            depth: 0,
            owner: None,
            rights: None,
            unmatched: None,
            alias: None,
            resolved: true,
        };
        let mut expansion = Expansion {
            agent: self,
            request,
            addresses,
            header,
            left: vec![first],
            seen: HashSet::new(),
            steps: Vec::new(),
        };
        while let Some(item) = expansion.left.pop() {
            let about = item.about.clone();
            let looked = match item.resolved {
                true => expansion.address(item).await,
                false => expansion.destination(item).await,
            };
            if let Err(stop) = looked {
                expansion.steps.push(settled(stop, about));
            }
        }
        expansion.steps
    }
}

impl Expansion<'_> {
    fn step(&mut self, about: About, work: Work) {
        let step = Step { about, work };
        if self.seen.insert(step.key()) {
            self.steps.push(step);
        }
    }

    /// One word of an alias, or of a file: a file, a command, an `:include:` file or an address.
    async fn destination(&mut self, item: Item) -> Result<(), Stop> {
        let restricted = |what: &str| {
            let text = format!("mail to {what} is restricted");
            Stop::bounced(EnhancedCode::new(5, 7, 1), text)
        };
        if item.text.starts_with('/') {
            if !item.kind.is_in(self.agent.files_from) {
                return Err(restricted("file"));
            }
            let (path, rights) = (item.text, item.rights);
            self.step(item.about, Work::File { path, rights });
            return Ok(());
        }
        if let Some(command) = item.text.strip_prefix('|') {
            if !item.kind.is_in(self.agent.commands_from) {
                return Err(restricted("command"));
            }
            let (command, rights) = (command.to_owned(), item.rights);
            self.step(item.about, Work::Command { command, rights });
            return Ok(());
        }
        let include = item.text.get(..":include:".len());
        if include.is_some_and(|start| start.eq_ignore_ascii_case(":include:")) {
            return self.include(item).await;
        }
        self.resolve(item).await
    }

    /// An address as it was written: ours, or one to forward to.
    async fn resolve(&mut self, mut item: Item) -> Result<(), Stop> {
        let written = match item.text.as_str() {
            "" => format!("MAILER-DAEMON@{}", self.agent.hostname),
            text => text.to_owned(),
        };
        let written = match &item.unmatched {
            Some(extension) => add_extension(&written, extension),
            None => written,
        };
        let place = self.addresses.place(&written).await.map_err(|problem| {
            tracing::warn!(prog = PROG, "{written}: {problem}");
            Stop::deferred(EnhancedCode::new(4, 3, 0), "address resolver failure")
        })?;
        if place.malformed {
            let text = format!(
                "bad recipient address syntax: {}",
                quote_local(&place.address)
            );
            return Err(Stop::bounced(EnhancedCode::new(5, 1, 3), text));
        }
        if place.transport != self.request.transport {
            let to = place.address;
            self.step(item.about, Work::Forward { to });
            return Ok(());
        }
        item.text.clone_from(&place.address);
        item.about.address = place.address;
        item.resolved = true;
        self.left.push(item);
        Ok(())
    }

    /// A local address.
    async fn address(&mut self, item: Item) -> Result<(), Stop> {
        let mut item = item;
        // \\user: neither aliases nor `.forward` are asked.
        let is_final = item.text.starts_with('\\');
        if is_final {
            item.text.remove(0);
            item.about.address.clone_from(&item.text);
        }
        let folded = mail::fold(&item.text).into_owned();
        if !self
            .seen
            .insert(format!("recipient {} {folded}", item.depth))
        {
            return Ok(());
        }
        if has_delivered_to(&self.header, &item.text) {
            let text = format!("mail forwarding loop for {}", quote_local(&item.text));
            return Err(Stop::bounced(EnhancedCode::new(5, 4, 6), text));
        }
        let local = folded
            .rsplit_once('@')
            .map_or(folded.as_str(), |(local, _)| local);
        let (user, extension) = match self.agent.extensions.split(local) {
            Some((_, extension)) if extension.contains('/') => {
                tracing::warn!(
                    prog = PROG,
                    "{folded}: address with illegal extension: {extension}"
                );
                (local, None)
            }
            Some((user, extension)) => (user, Some(extension.to_owned())),
            None => (local, None),
        };
        if is_final {
            let person = Person::of(local, user, extension.as_deref()).await?;
            return self.mailbox(item, person).await;
        }
        if self.alias(&item, local, None).await? {
            return Ok(());
        }
        if extension.is_some() && self.alias(&item, user, extension.clone()).await? {
            return Ok(());
        }
        let of_other = item
            .owner
            .as_ref()
            .is_some_and(|owner| !mail::fold::same(owner, user));
        if of_other || item.kind == Kind::Include {
            let to = item.text.clone();
            self.step(item.about, Work::Forward { to });
            return Ok(());
        }
        let person = Person::of(local, user, extension.as_deref()).await?;
        if self.forward_file(&item, &person).await? {
            return Ok(());
        }
        self.mailbox(item, person).await
    }

    /// Whether the name is an alias; then its destinations are to be looked at.
    async fn alias(
        &mut self,
        item: &Item,
        name: &str,
        extension: Option<String>,
    ) -> Result<bool, Stop> {
        let unavailable = |error: &dyn std::fmt::Display| {
            tracing::warn!(
                prog = PROG,
                "alias_maps: lookup of '{name}' failed: {error}"
            );
            Stop::deferred(EnhancedCode::new(4, 3, 0), "alias database unavailable")
        };
        let agent = self.agent;
        if item.alias.as_deref() == Some(name) {
            return Ok(false);
        }
        for table in agent.alias_maps.tables() {
            let answer = table
                .lookup(name)
                .await
                .map_err(|error| unavailable(&error))?;
            let Some(value) = answer else {
                continue;
            };
            if item.depth > DEPTH_LIMIT {
                tracing::warn!(prog = PROG, "alias database loop for {name}");
                let text = format!("alias database loop for {name}");
                return Err(Stop::bounced(EnhancedCode::new(5, 4, 6), text));
            }
            let mut next = item.clone();
            next.kind = Kind::Alias;
            next.alias = Some(name.to_owned());
            next.depth += 1;
            next.resolved = false;
            next.unmatched = extension.filter(|_| agent.propagate.alias);
            if !agent.frozen_delivered_to {
                next.about.delivered.clone_from(&item.text);
            }
            let spec = table.spec().to_owned();
            next.rights = blocking(move || files::owner_of_table(&spec)).await?;
            self.alias_owner(&mut next, name).await?;
            self.push_destinations(&next, &value)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// `owner-NAME` becomes the sender, and makes the expansion a message of its own.
    async fn alias_owner(&self, item: &mut Item, name: &str) -> Result<(), Stop> {
        let owner = format!("owner-{name}");
        let found = self.agent.alias_maps.lookup(&owner).await;
        let found = found.map_err(|error| {
            tracing::warn!(
                prog = PROG,
                "alias_maps: lookup of '{owner}' failed: {error}"
            );
            Stop::deferred(EnhancedCode::new(4, 3, 0), "alias database unavailable")
        })?;
        let Some(value) = found else {
            if self.agent.reset_owner_alias {
                item.owner = None;
            }
            return Ok(());
        };
        let written = match self.agent.expand_owner_alias {
            true => value,
            false => owner,
        };
        let place = self.addresses.place(&written).await.map_err(|problem| {
            tracing::warn!(prog = PROG, "{written}: {problem}");
            Stop::deferred(EnhancedCode::new(4, 3, 0), "address resolver failure")
        })?;
        item.about.sender.clone_from(&place.address);
        // What a list's members get is the list's: the sender's options end here.
        item.about.original.clear();
        item.owner = Some(place.address);
        Ok(())
    }

    /// Puts the destinations of `list` in line, the first one next. Tells whether there are any.
    fn push_destinations(&mut self, item: &Item, list: &str) -> Result<bool, Stop> {
        let words = addresses(list);
        if self.seen.len() + self.left.len() + words.len() > STEP_LIMIT {
            let text = format!("more than {STEP_LIMIT} destinations");
            return Err(Stop::bounced(EnhancedCode::new(5, 4, 6), text));
        }
        for tokens in words.iter().rev() {
            let shown: Vec<Token> = tokens
                .iter()
                .filter(|token| !matches!(token, Token::Comment(_)))
                .cloned()
                .collect();
            self.left.push(Item {
                text: internal(&shown),
                ..item.clone()
            });
        }
        Ok(!words.is_empty())
    }

    async fn include(&mut self, mut item: Item) -> Result<(), Stop> {
        let path = item.text[":include:".len()..].trim_start().to_owned();
        if !path.starts_with('/') {
            tracing::warn!(prog = PROG, ":include:{path} uses a relative path");
            return Err(Stop::configuration());
        }
        if !self.seen.insert(format!("include {path}")) {
            return Ok(());
        }
        let reader = item.rights.clone();
        let read = blocking(move || Ok(files::read_include(&path, reader.as_ref()))).await?;
        let (text, rights) = read.map_err(|problem| {
            tracing::warn!(prog = PROG, "{problem}");
            Stop::configuration()
        })?;
        item.kind = Kind::Include;
        item.alias = None;
        item.depth += 1;
        item.rights = rights;
        self.push_destinations(&item, &text)?;
        Ok(())
    }

    /// Whether the user has a `.forward` file with something in it.
    async fn forward_file(&mut self, item: &Item, person: &Person<'_>) -> Result<bool, Stop> {
        let Some(account) = person.account.clone() else {
            return Ok(false);
        };
        if self.agent.require_home {
            let (home, owner) = (account.home.clone(), account.owner);
            let found = blocking(move || {
                let _rights = owner.borrow()?;
                Ok(fs::metadata(home).err().map(|error| reason(&error)))
            });
            if let Some(why) = found.await? {
                let text = format!("cannot access home directory {}: {why}", account.home);
                return Err(Stop::deferred(EnhancedCode::new(4, 3, 0), text));
            }
        }
        let words = person.words(item);
        let agent = self.agent;
        let paths = agent.forward_path.iter().filter(|path| !words.lacks(path));
        let paths: Vec<String> = paths
            .filter_map(|path| words.expand(path, &agent.forward_filter))
            .collect();
        let owner = account.clone();
        let found = blocking(move || files::find_forward(&paths, &owner)).await?;
        let Some((path, text)) = found else {
            return Ok(false);
        };
        if !self.seen.insert(format!("forward {path}")) {
            return Ok(false);
        }
        let of_extension = words
            .extension
            .is_some_and(|extension| path.ends_with(extension));
        let mut next = item.clone();
        next.kind = Kind::Forward;
        next.alias = None;
        next.depth += 1;
        next.resolved = false;
        next.owner = Some(account.name.clone());
        next.rights = Some(account);
        next.unmatched = person
            .extension
            .filter(|_| agent.propagate.forward && !of_extension)
            .map(str::to_owned);
        if !agent.frozen_delivered_to {
            next.about.delivered.clone_from(&item.text);
        }
        self.push_destinations(&next, &text)
    }

    /// The end of the way: a transport, the user's mailbox, or whatever unknown users get.
    async fn mailbox(&mut self, item: Item, person: Person<'_>) -> Result<(), Stop> {
        let agent = self.agent;
        let transport = self
            .setting(
                &agent.mailbox_transport_maps,
                "mailbox_transport_maps",
                person.user,
                &agent.mailbox_transport,
            )
            .await?;
        if let Some(transport) = transport {
            self.step(item.about, self.pass(&transport));
            return Ok(());
        }
        let Some(user) = person.account.clone() else {
            return self.unknown(item, person).await;
        };
        if !self.seen.insert(format!("mailbox of {}", user.name)) {
            return Ok(());
        }
        let command = self
            .setting(
                &agent.mailbox_command_maps,
                "mailbox_command_maps",
                person.user,
                &agent.mailbox_command,
            )
            .await?;
        if let Some(command) = command {
            let rights = Some(user);
            self.step(item.about, Work::Command { command, rights });
            return Ok(());
        }
        let path = match (agent.home_mailbox.as_str(), agent.spool.as_str()) {
            ("", spool) if spool.ends_with('/') => format!("{spool}{}/", person.user),
            ("", spool) => format!("{spool}/{}", person.user),
            (home_mailbox, _) => format!("{}/{home_mailbox}", user.home),
        };
        self.step(item.about, Work::Mailbox { user, path });
        Ok(())
    }

    async fn unknown(&mut self, item: Item, person: Person<'_>) -> Result<(), Stop> {
        let agent = self.agent;
        let transport = self
            .setting(
                &agent.fallback_transport_maps,
                "fallback_transport_maps",
                person.user,
                &agent.fallback_transport,
            )
            .await?;
        if let Some(transport) = transport {
            self.step(item.about, self.pass(&transport));
            return Ok(());
        }
        if !agent.luser_relay.is_empty() {
            let words = person.words(&item);
            let expanded = words.expand(&agent.luser_relay, "");
            let mut next = item;
            next.depth += 1;
            next.resolved = false;
            next.unmatched = None;
            if next.depth < DEPTH_LIMIT
                && let Some(address) = expanded
            {
                let tokens = addresses(&address).into_iter().next().unwrap_or_default();
                next.text = internal(&tokens);
                return self.resolve(next).await;
            }
            let text = format!("alias database loop for {}", person.local);
            return Err(Stop::bounced(EnhancedCode::new(5, 4, 6), text));
        }
        if ["mailer-daemon", "postmaster"].contains(&person.user) {
            tracing::warn!(prog = PROG, "required alias not found: {}", person.user);
            let code = EnhancedCode::new(2, 0, 0);
            return Err(Stop(Box::new(Outcome::sent(PROG, code, "discarded"))));
        }
        let text = format!("unknown user: \"{}\"", person.local);
        Err(Stop::bounced(EnhancedCode::new(5, 1, 1), text))
    }

    /// What a table has for the user, else the setting for everybody; `None` when both are silent.
    async fn setting(
        &self,
        maps: &tables::TableList,
        parameter: &str,
        user: &str,
        everybody: &str,
    ) -> Result<Option<String>, Stop> {
        let found = maps.lookup(user).await.map_err(|error| {
            tracing::warn!(prog = PROG, "table {parameter}: lookup {user}: {error}");
            Stop::deferred(EnhancedCode::new(4, 3, 0), "table lookup failure")
        })?;
        let everybody = Some(everybody.to_owned());
        Ok(found.or(everybody).filter(|value| !value.is_empty()))
    }

    /// `transport:nexthop`; without a nexthop the message's own.
    fn pass(&self, value: &str) -> Work {
        let (transport, nexthop) = value.split_once(':').unwrap_or((value, ""));
        let nexthop = match nexthop {
            "" => &self.request.nexthop,
            nexthop => nexthop,
        };
        Work::Pass {
            transport: transport.to_owned(),
            nexthop: nexthop.to_owned(),
        }
    }
}

/// A local address taken apart, and the account behind it.
struct Person<'a> {
    local: &'a str,
    user: &'a str,
    extension: Option<&'a str>,
    account: Option<Account>,
}

impl<'p> Person<'p> {
    async fn of(
        local: &'p str,
        user: &'p str,
        extension: Option<&'p str>,
    ) -> Result<Person<'p>, Stop> {
        let name = user.to_owned();
        let account = blocking(move || Account::named(&name)).await?;
        Ok(Person {
            local,
            user,
            extension,
            account,
        })
    }

    fn words<'a>(&'a self, item: &'a Item) -> Words<'a> {
        Words {
            recipient: &item.text,
            local: self.local,
            user: self.user,
            extension: self.extension,
            account: self.account.as_ref(),
            sender: &item.about.sender,
        }
    }
}

impl Kind {
    fn is_in(self, kinds: super::settings::Kinds) -> bool {
        match self {
            Kind::Envelope => false,
            Kind::Alias => kinds.alias,
            Kind::Forward => kinds.forward,
            Kind::Include => kinds.include,
        }
    }
}

/// Asks the user database, or reads a file of some user's.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Stop> {
    let done = tokio::task::spawn_blocking(job).await;
    done.unwrap_or_else(|stopped| Err(stopped.to_string()))
        .map_err(|text| {
            tracing::warn!(prog = PROG, "{text}");
            Stop::deferred(
                EnhancedCode::new(4, 3, 0),
                format!("user lookup error: {text}"),
            )
        })
}
