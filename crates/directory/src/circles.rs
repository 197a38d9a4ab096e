//! Aliases that lead round in circles, and trees beyond the limits.

use std::collections::HashMap;
use std::time::Instant;

use mail::fold;
use mail::fold::same;
use route::{ExpandError, Walk};

use crate::check::Directory;
use crate::contents::destinations;
use crate::finding::{Capped, Finding, Report, Severity};

/// Loops, and trees beyond the limits.
pub(crate) async fn check(directory: &Directory<'_>, report: &mut Report) {
    let limit = |name: &str| {
        let value = directory.config.int(name).unwrap_or(0);
        usize::try_from(value)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(usize::MAX)
    };
    let deepest = limit("virtual_alias_recursion_limit");
    let widest = limit("virtual_alias_expansion_limit");
    let mut loops = Capped::new(directory.limit);
    let mut large = Capped::new(directory.limit);
    let mut done: HashMap<String, (usize, usize)> = HashMap::new();
    let mut roots: Vec<(usize, String)> = Vec::new();
    for (table, _, rows) in directory.aliases.listed() {
        // Those that lead to themselves and nowhere else lead in no circle.
        let leads_on = |key: &&str| {
            let mut found = rows.get(key).into_iter().flatten();
            found.any(|entry| entry.value != entry.key)
        };
        let mut keys: Vec<&str> = rows.keys().filter(leads_on).collect();
        keys.sort_unstable();
        roots.extend(keys.into_iter().map(|key| (table, key.to_owned())));
    }
    for (table, key) in roots {
        // Mail for a catch-all is mail for some address of its domain.
        let root = match key.starts_with('@') {
            true => format!("postroom-check{key}"),
            false => key.clone(),
        };
        let turns = descend(directory, &root, &mut done).await;
        for turn in turns {
            if loops.is_full() {
                loops.skip();
                continue;
            }
            if let Some(finding) = circle(directory, &turn).await {
                loops.add(report, finding);
            }
        }
        let (depth, leaves) = done.get(&*fold(&root)).copied().unwrap_or_default();
        if depth >= deepest || leaves > widest {
            if large.is_full() {
                large.skip();
            } else if let Some(problem) = unreasonable(directory, &root).await {
                let finding = Finding::new(
                    Severity::Error,
                    "alias-too-large",
                    directory.row_place(&directory.aliases, table, &key),
                    problem,
                )
                .so("mail for it is answered 451 4.6.0 Alias expansion error; Postfix says so after DATA, to all recipients of the message")
                .remedy("make the list smaller or the chain shorter, or raise the limit");
                large.add(report, finding);
            }
        }
    }
    loops.finish(report);
    large.finish(report);
}

/// An address on the way down, and where it leads.
struct Step {
    address: String,
    next: Vec<String>,
    at: usize,
    depth: usize,
    leaves: usize,
}

/// Follows an address to its ends and remembers depth and number of leaves of all on the way.
/// Returns the circles that were closed.
async fn descend(
    directory: &Directory<'_>,
    root: &str,
    done: &mut HashMap<String, (usize, usize)>,
) -> Vec<Vec<String>> {
    let mut circles = Vec::new();
    let mut way: Vec<Step> = Vec::new();
    let mut on_way: HashMap<String, usize> = HashMap::new();
    if !done.contains_key(&*fold(root)) {
        on_way.insert(fold(root).into_owned(), 0);
        way.push(step(directory, root).await);
    }
    while let Some(top) = way.last_mut() {
        if let Some(next) = top.next.get(top.at).cloned() {
            top.at += 1;
            let folded = fold(&next).into_owned();
            if let Some((depth, leaves)) = done.get(&folded) {
                top.depth = top.depth.max(depth + 1);
                top.leaves = top.leaves.saturating_add(*leaves);
            } else if let Some(start) = on_way.get(&folded) {
                circles.push(
                    way[*start..]
                        .iter()
                        .map(|step| step.address.clone())
                        .collect(),
                );
            } else {
                on_way.insert(folded, way.len());
                way.push(step(directory, &next).await);
            }
            continue;
        }
        let Some(Step {
            address,
            next,
            depth,
            leaves,
            ..
        }) = way.pop()
        else {
            break;
        };
        let folded = fold(&address).into_owned();
        on_way.remove(&folded);
        let leaves = if next.is_empty() { 1 } else { leaves };
        done.insert(folded, (depth, leaves));
        if let Some(above) = way.last_mut() {
            above.depth = above.depth.max(depth + 1);
            above.leaves = above.leaves.saturating_add(leaves);
        }
    }
    circles
}

async fn step(directory: &Directory<'_>, address: &str) -> Step {
    let hit = directory
        .aliases
        .find(address, directory.router.extensions())
        .await;
    let values = hit.map(|hit| hit.values).unwrap_or_default();
    let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
    let mut next: Vec<String> = Vec::new();
    let mut keeps_itself = false;
    for destination in values.iter().flat_map(|value| destinations(value)) {
        let destination = match destination.starts_with('@') {
            true => format!("{local}{destination}"),
            false => directory.canonical(&destination),
        };
        match same(&destination, address) {
            true => keeps_itself = true,
            false => next.push(destination),
        }
    }
    Step {
        address: address.to_owned(),
        next,
        at: 0,
        depth: 0,
        leaves: usize::from(keeps_itself),
    }
}

/// The circle as a finding, where mail runs into it too.
async fn circle(directory: &Directory<'_>, turn: &[String]) -> Option<Finding> {
    let first = turn.first()?;
    unreasonable(directory, first).await?;
    let table = directory.alias_table(first);
    let place = directory.row_place(&directory.aliases, table.unwrap_or(0), first);
    let second = turn.get(1).unwrap_or(first);
    let finding = Finding::new(
        Severity::Error,
        "alias-loop",
        place,
        format!("aliases lead in a circle: {} -> {first}", turn.join(" -> ")),
    )
    .so("mail for these addresses is answered 451 4.6.0 Alias expansion error; Postfix says so after DATA, to all recipients of the message")
    .remedy("delete one of the aliases, or let one lead elsewhere");
    Some(
        match table.and_then(|table| directory.delete_row(table, first, second)) {
            Some(statement) => finding.sql(statement),
            None => finding,
        },
    )
}

async fn unreasonable(directory: &Directory<'_>, address: &str) -> Option<String> {
    let mut walk = Walk::new(Instant::now());
    let outcome = directory.router.recipients_of(&mut walk, address).await;
    match outcome {
        Err(ExpandError::Unreasonable { limit, .. }) => Some(format!(
            "{address} goes beyond {} = {}",
            limit.parameter(),
            directory
                .config
                .string(limit.parameter())
                .unwrap_or_default()
        )),
        _ => None,
    }
}
