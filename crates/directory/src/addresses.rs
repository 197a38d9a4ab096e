//! Mailboxes and aliases: what hides what, what leads nowhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use mail::fold;
use mail::fold::same;
use route::{Class, Walk};

use crate::check::Directory;
use crate::circles;
use crate::contents::{self, Entry, destinations};
use crate::files;
use crate::finding::{Capped, Finding, Place, Report, Severity, shown};
use crate::select::Key;
use crate::sources::Known;

pub(crate) async fn check(directory: &mut Directory<'_>, report: &mut Report) {
    swallowed(directory, report).await;
    hidden(directory, report).await;
    dangling(directory, report).await;
    circles::check(directory, report).await;
    stray_spaces(directory, report);
}

/// The leaves of an address as mail finds them, folded; `None` where a table fails or the aliases do.
async fn leaves(directory: &Directory<'_>, address: &str) -> Option<HashSet<String>> {
    let mut walk = Walk::new(Instant::now());
    let tree = directory
        .router
        .recipients_of(&mut walk, address)
        .await
        .ok()?;
    Some(
        tree.leaf_addresses()
            .map(|leaf| fold(leaf).into_owned())
            .collect(),
    )
}

/// Mailboxes whose mail a catch-all takes, as no table maps them to themselves.
async fn swallowed(directory: &Directory<'_>, report: &mut Report) {
    let mut by_domain: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for (table, _, rows) in directory.mailboxes.listed() {
        for key in rows.keys() {
            let Some(at) = key.rfind('@').filter(|at| *at > 0) else {
                continue;
            };
            let catch_all = &key[at..];
            if !directory.has_alias(catch_all) {
                continue;
            }
            let hit = directory
                .aliases
                .find(key, directory.router.extensions())
                .await;
            if hit.is_some_and(|hit| hit.key == catch_all) {
                let known = by_domain.entry(catch_all.to_owned());
                known
                    .or_insert_with(|| (table, Vec::new()))
                    .1
                    .push(key.to_owned());
            }
        }
    }
    let mut told = Capped::new(directory.limit);
    let mut mended = false;
    for (catch_all, (table, mut mailboxes)) in by_domain {
        mailboxes.sort_unstable();
        if told.is_full() {
            told.skip();
            continue;
        }
        let mut lost = Vec::new();
        let mut others = mailboxes.len();
        for mailbox in mailboxes.iter().take(3) {
            let found = leaves(directory, mailbox).await;
            match found.is_some_and(|leaves| !leaves.contains(mailbox)) {
                true => lost.push(mailbox.as_str()),
                false => others -= 1,
            }
        }
        if lost.is_empty() {
            continue;
        }
        let mut finding = swallow(directory, &catch_all, table, &lost, others);
        // One table mends all of them.
        if std::mem::replace(&mut mended, true) {
            finding.fix.clear();
        }
        told.add(report, finding);
    }
    told.finish(report);
}

fn swallow(
    directory: &Directory<'_>,
    catch_all: &str,
    mailbox_table: usize,
    lost: &[&str],
    count: usize,
) -> Finding {
    let names = match count > lost.len() {
        true => format!("{}, … ({count} in all)", lost.join(", ")),
        false => lost.join(", "),
    };
    let alias_table = directory.alias_table(catch_all);
    let place = directory.row_place(&directory.aliases, alias_table.unwrap_or(0), catch_all);
    let finding = Finding::new(
        Severity::Error,
        "mailbox-swallowed",
        place,
        format!("the catch-all {catch_all} takes the mail of mailboxes: {names}"),
    )
    .so("they exist, but everything for them goes to the catch-all's destination: aliases are followed first, and no table of virtual_alias_maps maps these addresses to themselves");
    let spec = &directory.mailboxes.tables[mailbox_table].0;
    let known = directory
        .known
        .iter()
        .find(|known| known.source.spec() == spec);
    match known.and_then(|known| email_to_email(directory, known)) {
        Some((remedy, commands)) => commands
            .into_iter()
            .fold(finding.remedy(remedy), Finding::shell),
        None => finding.remedy(
            "add a table to virtual_alias_maps that has every mailbox with itself as its value, or an alias of each mailbox to itself",
        ),
    }
}

/// A table file that maps each mailbox to itself, made of the one that finds the mailboxes.
fn email_to_email(directory: &Directory<'_>, users: &Known) -> Option<(String, Vec<String>)> {
    let file = users.file.as_ref()?.path();
    let query = users.select.as_ref().ok()?.selecting_key()?;
    let new = file.with_file_name("email2email.cf");
    if new.exists() {
        return None;
    }
    let kind = users.source.spec().strip_suffix(users.source.name())?;
    let raw = directory.config.raw("virtual_alias_maps")?;
    let remedy = format!(
        "make a table file {} with the same access as {} and \"query = {query}\", and name it last in virtual_alias_maps",
        new.display(),
        file.display()
    );
    let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let (from, to) = (files::quoted(file), files::quoted(&new));
    let access = "^(user|password|hosts|dbname|dbpath|charset|encoding|option_file|option_group|tls_[a-zA-Z_]+)[[:space:]]*=";
    Some((
        remedy,
        vec![
            format!(
                "(umask 027; grep -E '{access}' {from} > {to}; echo {} >> {to})",
                quote(&format!("query = {query}"))
            ),
            format!("chgrp --reference={from} {to}"),
            format!(
                "postconf -c {} -e {}",
                files::quoted(directory.config.dir()),
                quote(&format!(
                    "virtual_alias_maps={raw}, {kind}{}",
                    new.display()
                ))
            ),
        ],
    ))
}

/// Mailboxes that have alias rows too: which counts depends on the order of the tables.
async fn hidden(directory: &Directory<'_>, report: &mut Report) {
    let mut told = Capped::new(directory.limit);
    let mut keys: Vec<&str> = Vec::new();
    for (_, _, rows) in directory.mailboxes.listed() {
        keys.extend(rows.keys());
    }
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let rows: Vec<(usize, Vec<String>)> = directory
            .aliases
            .listed()
            .filter_map(|(table, _, rows)| {
                let values: Vec<String> = rows
                    .get(key)?
                    .flat_map(|entry| destinations(&entry.value))
                    .collect();
                Some((table, values))
            })
            .collect();
        let to_itself = |values: &[String]| values.iter().any(|value| same(value, key));
        let only_itself = |values: &[String]| values.iter().all(|value| same(value, key));
        let Some(((first, values), later)) = rows.split_first() else {
            continue;
        };
        let finding = if only_itself(values) {
            // What comes later is never seen.
            let Some((table, unseen)) = later.iter().find(|(_, values)| !only_itself(values))
            else {
                continue;
            };
            never_used(directory, key, (*first, *table), unseen)
        } else if to_itself(values) {
            continue;
        } else {
            mailbox_hidden(
                directory,
                key,
                *first,
                values,
                later.first().map(|(table, _)| *table),
            )
        };
        if told.is_full() {
            told.skip();
            continue;
        }
        let found = leaves(directory, key).await;
        let gets_mail = found.is_some_and(|leaves| leaves.contains(key));
        if gets_mail == (finding.code == "alias-never-used") {
            told.add(report, finding);
        }
    }
    told.finish(report);
}

fn never_used(
    directory: &Directory<'_>,
    key: &str,
    (first, second): (usize, usize),
    unseen: &[String],
) -> Finding {
    let (one, other) = (directory.alias_spec(first), directory.alias_spec(second));
    Finding::new(
        Severity::Warning,
        "alias-never-used",
        directory.row_place(&directory.aliases, second, key),
        format!(
            "{key} is a mailbox, and an alias to {}; {one}, which maps it to itself, comes before {other}",
            unseen.join(", ")
        ),
    )
    .so("the first table that has an address counts: the alias does nothing, all mail goes to the mailbox")
    .remedy(format!("name {other} before {one} in virtual_alias_maps, or delete the alias"))
}

fn mailbox_hidden(
    directory: &Directory<'_>,
    key: &str,
    first: usize,
    values: &[String],
    later: Option<usize>,
) -> Finding {
    let spec = directory.alias_spec(first);
    let (severity, text) = match later {
        Some(second) => (
            Severity::Warning,
            format!(
                "{key} is a mailbox, and an alias to {}; {spec} comes before {}, which maps it to itself",
                values.join(", "),
                directory.alias_spec(second)
            ),
        ),
        None => (
            Severity::Note,
            format!("{key} is a mailbox, and an alias to {}", values.join(", ")),
        ),
    };
    Finding::new(
        severity,
        "mailbox-hidden",
        directory.row_place(&directory.aliases, first, key),
        text,
    )
    .so("aliases come first, so the mailbox gets no mail; all of it goes to the alias's destinations")
    .remedy(format!(
        "where the mailbox is to keep a copy, add an alias row {key} with the destination {key}; otherwise delete the alias, or the mailbox"
    ))
}

/// Aliases that lead to addresses of ours which do not exist.
async fn dangling(directory: &mut Directory<'_>, report: &mut Report) {
    let mut told = Capped::new(directory.limit);
    let mut judged: HashMap<String, Option<String>> = HashMap::new();
    // Rows that cannot be listed make every destination a suspect, and each costs some queries.
    let most = directory.limit.saturating_mul(100);
    let rows: Vec<(usize, Entry)> = directory
        .aliases
        .listed()
        .flat_map(|(table, _, rows)| rows.rows.iter().map(move |entry| (table, entry.clone())))
        .collect();
    for (table, Entry { key, value }) in rows {
        for destination in destinations(&value) {
            let address = directory.canonical(&destination);
            if destination.starts_with('@') || !suspicious(directory, &address).await {
                continue;
            }
            if told.is_full() {
                told.skip();
                continue;
            }
            let folded = fold(&address).into_owned();
            let why = match judged.get(&folded) {
                Some(known) => known.clone(),
                None if judged.len() >= most => {
                    report.add(not_all_followed(directory, judged.len()));
                    return told.finish(report);
                }
                None => {
                    let why = leads_nowhere(directory, &address).await;
                    judged.insert(folded, why.clone());
                    why
                }
            };
            let Some(why) = why else {
                continue;
            };
            let place = directory.row_place(&directory.aliases, table, &key);
            let finding = Finding::new(
                Severity::Error,
                "alias-dangling",
                place,
                format!("the alias {key} leads to {address}, which {why}"),
            )
            .so("mail for the alias is refused where that is its only destination; Postfix accepts it and sends a bounce")
            .remedy(format!("create {address}, or correct or delete the alias"));
            let finding = match directory.delete_row(table, &key, &value) {
                Some(statement) if value == destination => finding.sql(statement),
                _ => finding,
            };
            told.add(report, finding);
        }
    }
    told.finish(report);
}

fn not_all_followed(directory: &Directory<'_>, count: usize) -> Finding {
    Finding::new(
        Severity::Note,
        "not-all-followed",
        Place::file(directory.config.dir().join("main.cf")).parameter("virtual_alias_maps"),
        format!("{count} destinations of aliases were followed by lookups, and there are more"),
    )
    .so("aliases that lead nowhere may be among the others")
    .remedy("`postroom check --all` follows all of them")
}

/// Whether the rows have no mailbox and no further alias for an address of ours.
async fn suspicious(directory: &mut Directory<'_>, address: &str) -> bool {
    let Some((_, domain)) = address.rsplit_once('@') else {
        return false;
    };
    let class = directory.domains.class_of(&directory.router, domain).await;
    if matches!(class, None | Some(Class::Default)) || directory.domains.is_in_two(domain) {
        return false;
    }
    let extensions = directory.router.extensions();
    let hit = directory.aliases.find(address, extensions).await;
    let mut ends = hit.iter().flat_map(|hit| &hit.values);
    // Another row follows; whether that one leads nowhere is its own matter.
    if ends.any(|value| !destinations(value).iter().all(|next| same(next, address))) {
        return false;
    }
    class != Some(Class::VirtualMailbox)
        || directory
            .mailboxes
            .find(address, extensions)
            .await
            .is_none()
}

/// What the router says of the end of the address's way.
async fn leads_nowhere(directory: &Directory<'_>, address: &str) -> Option<String> {
    let mut walk = Walk::new(Instant::now());
    let tree = directory.router.expand(&mut walk, address).await.ok()?;
    let leaves = directory.router.leaves(&mut walk, &tree).await.ok()?;
    let certain = leaves
        .iter()
        .filter(|leaf| !directory.domains.is_in_two(leaf.resolved.domain()));
    certain.into_iter().find_map(|leaf| match leaf.verdict {
        route::Verdict::Dangling(table) => Some(format!("is not in the {}", table.table())),
        route::Verdict::Malformed => Some("is no address that mail can be delivered to".to_owned()),
        _ => None,
    })
}

/// Destinations with white space that somebody has not meant.
fn stray_spaces(directory: &Directory<'_>, report: &mut Report) {
    let mut told = Capped::new(directory.limit);
    for (table, _, rows) in directory.aliases.listed() {
        for Entry { key, value } in &rows.rows {
            if !has_stray_space(value) {
                continue;
            }
            let read: Vec<String> = contents::destinations(value)
                .iter()
                .map(|address| format!("\"{}\"", shown(&directory.canonical(address))))
                .collect();
            let finding = Finding::new(
                Severity::Warning,
                "stray-space",
                directory.row_place(&directory.aliases, table, key),
                format!("the destination \"{}\" has stray white space", shown(value)),
            )
            .so(format!(
                "it is read as {}; programs that compare it with a mailbox do not find it",
                read.join(" and ")
            ))
            .remedy("write the address without it");
            let spaces_around =
                value.trim_matches(' ') == value.trim() && !has_stray_space(value.trim());
            told.add(
                report,
                match directory.trim_rows(table).filter(|_| spaces_around) {
                    Some(statement) => finding.sql(statement),
                    None => finding,
                },
            );
        }
    }
    told.finish(report);
}

/// White space at the ends, or inside an address of a list.
fn has_stray_space(value: &str) -> bool {
    let quoted = value.contains(['"', '<', '(', ':']);
    let ends = value.trim() != value;
    ends || !quoted
        && value
            .split(',')
            .any(|part| part.trim().contains(char::is_whitespace))
}

impl Directory<'_> {
    /// Whether an alias table has the key.
    fn has_alias(&self, key: &str) -> bool {
        self.aliases.listed().any(|(_, _, rows)| rows.has(key))
    }

    pub fn alias_table(&self, key: &str) -> Option<usize> {
        let mut tables = self.aliases.listed();
        tables.find(|(_, _, rows)| rows.has(key)).map(|(at, ..)| at)
    }

    fn alias_spec(&self, table: usize) -> &str {
        self.aliases.tables.get(table).map_or("", |(spec, _)| spec)
    }

    fn alias_source(&self, table: usize) -> Option<&Known> {
        let spec = self.alias_spec(table);
        self.known.iter().find(|known| known.source.spec() == spec)
    }

    /// Table, column of the key, column of the value, where both are plain columns of one table.
    fn plain_row(&self, table: usize) -> Option<(&Known, &str, &str, &str)> {
        let known = self.alias_source(table)?;
        let select = known.select.as_ref().ok()?;
        let (Key::Whole(key), [value]) = (&select.key, select.columns.as_slice()) else {
            return None;
        };
        let (_, key_column) = crate::select::column(key)?;
        let (_, value_column) = crate::select::column(value)?;
        let name = select.only_table()?;
        let own = value_column != key_column && !value_column.starts_with(|c: char| c.is_numeric());
        own.then_some((known, name, key_column, value_column))
    }

    /// The statement that deletes a row.
    pub fn delete_row(&self, table: usize, key: &str, value: &str) -> Option<String> {
        let (known, name, key_column, value_column) = self.plain_row(table)?;
        let literal = |text: &str| {
            let text = text.replace('\'', "''");
            match known.is_mysql() {
                true => format!("'{}'", text.replace('\\', "\\\\")),
                false => format!("'{text}'"),
            }
        };
        Some(format!(
            "DELETE FROM {name} WHERE {key_column} = {} AND {value_column} = {};",
            literal(key),
            literal(value)
        ))
    }

    fn trim_rows(&self, table: usize) -> Option<String> {
        let (_, name, _, column) = self.plain_row(table)?;
        Some(format!("UPDATE {name} SET {column} = TRIM({column});"))
    }
}
