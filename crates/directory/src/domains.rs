//! The classes of domains: names in two lists, domains without postmaster, addresses of domains that
//! are in no list.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use config::Config;
use mail::fold;
use route::{Class, Listing, Router, Walk};
use tables::Tables;

use crate::check::Directory;
use crate::contents::{Contents, Listed, Maps};
use crate::finding::{Capped, Finding, Place, Report, Severity};
use crate::sources::{self, Known};

/// The four lists, in the order in which Postfix asks them.
const LISTS: [(&str, Class); 4] = [
    ("mydestination", Class::Local),
    ("virtual_alias_domains", Class::VirtualAlias),
    ("virtual_mailbox_domains", Class::VirtualMailbox),
    ("relay_domains", Class::Relay),
];

/// All domains that the lists name.
pub(crate) struct Domains {
    lists: Vec<List>,
    /// Whether there is nothing in the lists that could name further domains.
    complete: bool,
    /// What the router said of domains that are in no list.
    asked: HashMap<String, Option<Class>>,
}

struct List {
    parameter: &'static str,
    class: Class,
    /// Each domain, folded, and the table that has it.
    names: BTreeMap<String, Option<String>>,
}

impl Domains {
    pub fn read(
        config: &Config,
        tables: &Tables,
        listed: &HashMap<String, Arc<Listed>>,
    ) -> Domains {
        let mut complete = true;
        let lists = LISTS.map(|(parameter, class)| {
            let value = config.string(parameter).unwrap_or_default();
            let mut names = BTreeMap::new();
            for word in tables::split_specs(&value) {
                if word.starts_with(['/', '!', '.']) {
                    complete = false;
                } else if !word.contains(':') {
                    names.entry(fold(&word).into_owned()).or_insert(None);
                }
            }
            for (spec, contents) in Maps::new(config, parameter, tables, listed).tables {
                if !spec.contains(':') || spec.starts_with(['/', '!', '.']) {
                    continue;
                }
                let Contents::Listed(rows) = contents else {
                    complete = false;
                    continue;
                };
                for key in rows.keys().filter(|key| !key.contains('@')) {
                    names
                        .entry(key.to_owned())
                        .or_insert_with(|| Some(spec.clone()));
                }
            }
            List {
                parameter,
                class,
                names,
            }
        });
        Domains {
            lists: lists.into(),
            complete,
            asked: HashMap::new(),
        }
    }

    /// How many there are. Names without a dot in `virtual_alias_domains`, which defaults to the alias
    /// tables, are names of users.
    pub fn count(&self) -> usize {
        let mut names: Vec<&str> = self
            .lists
            .iter()
            .flat_map(|list| list.names.keys().map(String::as_str))
            .filter(|name| name.contains('.'))
            .collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    /// Whether two lists have the domain: then its mailboxes are told as lost already.
    pub fn is_in_two(&self, domain: &str) -> bool {
        let domain = fold(domain);
        let has = |list: &&List| list.names.contains_key(&*domain);
        self.lists.iter().filter(has).count() > 1
    }

    /// The class of a domain.
    pub async fn class_of(&mut self, router: &Router, domain: &str) -> Option<Class> {
        let domain = fold(domain).into_owned();
        let listed = self
            .lists
            .iter()
            .find(|list| list.names.contains_key(&domain));
        if let Some(list) = listed {
            return Some(list.class);
        }
        if self.complete {
            return Some(Class::Default);
        }
        if let Some(known) = self.asked.get(&domain) {
            return *known;
        }
        let class = ask_class(router, &domain).await;
        self.asked.insert(domain, class);
        class
    }
}

async fn ask_class(router: &Router, domain: &str) -> Option<Class> {
    let mut walk = Walk::new(Instant::now());
    let resolved = router
        .resolve(&mut walk, &format!("postmaster@{domain}"))
        .await;
    resolved.ok().map(|resolved| resolved.class)
}

pub(crate) async fn check(directory: &mut Directory<'_>, report: &mut Report) {
    twice(directory, report).await;
    postmasters(directory, report).await;
    unlisted(directory, report).await;
}

/// Where a list has a domain.
fn place(directory: &Directory<'_>, list: &List, domain: &str) -> Place {
    let config = directory.config;
    let table = list.names.get(domain).and_then(Option::as_ref);
    let known: Option<&Known> = table.and_then(|spec| {
        directory
            .known
            .iter()
            .find(|known| known.source.spec() == spec)
    });
    match (known, table) {
        (Some(known), _) => known.query_place().table(&table_name(known)).row(domain),
        (None, Some(spec)) => sources::text_place(spec).row(domain),
        (None, None) => {
            let origin = config.origin(list.parameter);
            Place::origin(origin, &config.dir().join("main.cf")).parameter(list.parameter)
        }
    }
}

pub(crate) fn table_name(known: &Known) -> String {
    let only = known
        .select
        .as_ref()
        .ok()
        .and_then(|select| select.only_table());
    only.map_or_else(|| known.source.spec().to_owned(), str::to_owned)
}

/// A domain in two lists: the first in Postfix's order counts.
async fn twice(directory: &Directory<'_>, report: &mut Report) {
    let lists = &directory.domains.lists;
    let mut told = Capped::new(directory.limit);
    for (index, first) in lists.iter().enumerate() {
        for second in &lists[index + 1..] {
            // By default `relay_domains` and `virtual_alias_domains` are made of the others.
            if second.class == Class::Relay && directory.config.raw("relay_domains").is_none() {
                continue;
            }
            for domain in first
                .names
                .keys()
                .filter(|name| second.names.contains_key(*name))
            {
                if told.is_full() {
                    told.skip();
                    continue;
                }
                if !(has(directory, first, domain).await && has(directory, second, domain).await) {
                    continue;
                }
                told.add(report, in_two(directory, first, second, domain));
            }
        }
    }
    told.finish(report);
}

async fn has(directory: &Directory<'_>, list: &List, domain: &str) -> bool {
    let value = directory.config.string(list.parameter).unwrap_or_default();
    let list = directory.tables.string_list(&value);
    list.matches(domain).await.unwrap_or(false)
}

fn in_two(directory: &Directory<'_>, first: &List, second: &List, domain: &str) -> Finding {
    let lost = match second.class {
        Class::VirtualMailbox => "its mailboxes in virtual_mailbox_maps get no mail",
        Class::VirtualAlias => "it is no virtual alias domain",
        _ => "its mail is not relayed",
    };
    let treated = match first.class {
        Class::Local => "mail for it is for accounts of this machine",
        Class::VirtualAlias => "an address of it is an alias or does not exist",
        _ => "mail for it is for mailboxes",
    };
    let at = place(directory, first, domain);
    let literal = first.names.get(domain).is_none_or(Option::is_none);
    let finding = Finding::new(
        Severity::Error,
        "domain-in-two-classes",
        at,
        format!(
            "{domain} is in {} and in {}",
            first.parameter, second.parameter
        ),
    )
    .so(format!("{} counts: {treated}, and {lost}", first.parameter));
    let remedy = match (literal, first.class) {
        (false, Class::VirtualAlias) => format!(
            "delete the row with the key {domain}; with no domains for aliases alone, set virtual_alias_domains to nothing"
        ),
        (true, _) if !mentions(directory, first, domain) => format!(
            "take {domain} out of {}, where $myhostname, $mydomain or the like stands for it",
            first.parameter
        ),
        _ => format!("take {domain} out of {}", first.parameter),
    };
    let raw = directory.config.raw(first.parameter).unwrap_or_default();
    let words = config::split_list(raw);
    let kept: Vec<&str> = words
        .iter()
        .filter(|word| fold(word) != domain)
        .map(String::as_str)
        .collect();
    let finding = finding.remedy(remedy);
    match literal && kept.len() < words.len() {
        true => finding.shell(format!(
            "postconf -c {} -e '{}={}'",
            crate::files::quoted(directory.config.dir()),
            first.parameter,
            kept.join(", ")
        )),
        false => finding,
    }
}

/// Whether main.cf has the domain in the list by its own name.
fn mentions(directory: &Directory<'_>, list: &List, domain: &str) -> bool {
    let raw = directory.config.raw(list.parameter).unwrap_or_default();
    config::split_list(raw)
        .iter()
        .any(|word| fold(word) == domain)
}

/// RFC 5321 4.5.1: every domain that receives mail has a postmaster.
async fn postmasters(directory: &Directory<'_>, report: &mut Report) {
    let mut told = Capped::new(directory.limit);
    for (at, list) in directory.domains.lists.iter().enumerate() {
        if !matches!(list.class, Class::VirtualAlias | Class::VirtualMailbox) {
            continue;
        }
        let earlier = &directory.domains.lists[..at];
        let first_here = |name: &&String| {
            name.contains('.') && !earlier.iter().any(|list| list.names.contains_key(*name))
        };
        for domain in list.names.keys().filter(first_here) {
            let address = format!("postmaster@{domain}");
            let extensions = directory.router.extensions();
            if directory.aliases.find(&address, extensions).await.is_some()
                || directory
                    .mailboxes
                    .find(&address, extensions)
                    .await
                    .is_some()
            {
                continue;
            }
            if told.is_full() {
                told.skip();
                continue;
            }
            if !is_unknown(directory, &address).await {
                continue;
            }
            let finding = Finding::new(
                Severity::Warning,
                "no-postmaster",
                place(directory, list, domain),
                format!("there is no {address}"),
            )
            .so("other servers' administrators cannot reach you (RFC 5321 4.5.1), and some lists punish that")
            .remedy(format!("add an alias {address} that leads to you"));
            told.add(report, finding);
        }
    }
    told.finish(report);
}

async fn is_unknown(directory: &Directory<'_>, address: &str) -> bool {
    let mut walk = Walk::new(Instant::now());
    let router = &directory.router;
    let Ok(resolved) = router.resolve(&mut walk, address).await else {
        return false;
    };
    // Of two classes the other one counts: that is told already.
    if !matches!(resolved.class, Class::VirtualAlias | Class::VirtualMailbox) {
        return false;
    }
    matches!(
        router.listing(&mut walk, &resolved, false).await,
        Ok(Listing::Unknown(_))
    )
}

/// Mailboxes of domains that no list has.
async fn unlisted(directory: &mut Directory<'_>, report: &mut Report) {
    let mut of_domain: BTreeMap<String, (usize, usize, String)> = BTreeMap::new();
    for (table, _, rows) in directory.mailboxes.listed() {
        for key in rows.keys() {
            let Some((_, domain)) = key.rsplit_once('@') else {
                continue;
            };
            let known = of_domain
                .entry(domain.to_owned())
                .or_insert_with(|| (table, 0, key.to_owned()));
            known.1 += 1;
            // The same example on every run.
            if key < known.2.as_str() {
                known.2 = key.to_owned();
            }
        }
    }
    let mut told = Capped::new(directory.limit);
    for (domain, (table, count, example)) in of_domain {
        let class = directory.domains.class_of(&directory.router, &domain).await;
        if class != Some(Class::Default) {
            continue;
        }
        if told.is_full() {
            told.skip();
            continue;
        }
        if ask_class(&directory.router, &domain).await != Some(Class::Default) {
            continue;
        }
        let place = directory.row_place(&directory.mailboxes, table, &example);
        let mailboxes = if count == 1 {
            "a mailbox".to_owned()
        } else {
            format!("{count} mailboxes")
        };
        let finding = Finding::new(
            Severity::Warning,
            "domain-not-listed",
            place,
            format!("{domain} has {mailboxes} and is in no list of domains"),
        )
        .so("mail for it from outside is refused: Relay access denied")
        .remedy(format!("add {domain} to the domains that virtual_mailbox_domains asks, or delete what is left of it"));
        told.add(report, finding);
    }
    told.finish(report);
}
