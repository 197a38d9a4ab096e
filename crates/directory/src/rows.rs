//! Keys that no lookup finds, or that another address finds too; stray spaces.
//!
//! A lookup folds its key to lower case and takes what the database thinks equal to it. Whether that
//! is more or less than what is written in the row depends on the collation of the column.

use std::collections::HashMap;
use std::sync::Arc;

use mail::fold;
use tables::{Session, Table, Tables};

use crate::contents::{Entry, Listed};
use crate::finding::{Capped, Finding, Report, Severity};
use crate::select::{self, Key};
use crate::sources::Known;

pub(crate) async fn check(
    known: &Known,
    listed: &Arc<Listed>,
    tables: &Tables,
    session: &mut Session,
    limit: usize,
    report: &mut Report,
) {
    let Ok(table) = tables.open(known.source.spec()) else {
        return;
    };
    unfindable(known, listed, &table, limit, report).await;
    accents(known, listed, &table, session, limit, report).await;
}

/// After so many keys of a kind that behave alike, the column's collation is known.
const ENOUGH: usize = 20;

/// Keys with capital letters or white space, where the collation distinguishes them.
async fn unfindable(
    known: &Known,
    listed: &Listed,
    table: &Table,
    limit: usize,
    report: &mut Report,
) {
    let mut told = Capped::new(limit);
    // Capital letters, white space before the key, white space behind it.
    let mut found_all_the_same = [0; 3];
    for Entry { key, .. } in &listed.rows {
        let tidy = key.trim();
        let wanted = fold(tidy);
        if *wanted == **key {
            continue;
        }
        let kind = match (tidy == key, key.trim_start() == key) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        if found_all_the_same[kind] >= ENOUGH {
            continue;
        }
        if told.is_full() {
            told.skip();
            continue;
        }
        if !matches!(table.lookup(&wanted).await, Ok(None)) {
            found_all_the_same[kind] += 1;
            continue;
        }
        let (why, function) = match tidy == key {
            true => (
                "has capital letters, and the column distinguishes them",
                "LOWER",
            ),
            false => ("has white space around it", "TRIM"),
        };
        let place = place(known).row(key);
        let finding = Finding::new(
            Severity::Error,
            "key-never-found",
            place,
            format!("the key {why}"),
        )
        .so(format!(
            "a lookup of {wanted} does not find the row: it counts for nothing"
        ))
        .remedy("write the key in lower case, without spaces");
        let update = sole_column(known)
            .map(|(table, column)| format!("UPDATE {table} SET {column} = {function}({column});"));
        told.add(
            report,
            match update {
                Some(update) => finding.sql(update),
                None => finding,
            },
        );
    }
    told.finish(report);
}

fn place(known: &Known) -> crate::finding::Place {
    let table = known
        .select
        .as_ref()
        .ok()
        .and_then(|select| select.only_table());
    known.query_place().table(table.unwrap_or("of the query"))
}

/// Table and column, where the statement compares a plain column of its only table.
fn sole_column(known: &Known) -> Option<(String, String)> {
    let select = known.select.as_ref().ok()?;
    let table = select.only_table()?;
    let Key::Whole(expression) = &select.key else {
        return None;
    };
    let (_, column) = select::column(expression)?;
    Some((table.to_owned(), column.to_owned()))
}

/// Keys beyond ASCII that the same letters without accents find too.
async fn accents(
    known: &Known,
    listed: &Listed,
    table: &Table,
    session: &mut Session,
    limit: usize,
    report: &mut Report,
) {
    if !known.is_mysql() {
        return;
    }
    let mut told = Capped::new(limit);
    let mut told_apart = 0;
    for Entry { key, .. } in listed.rows.iter().filter(|entry| !entry.key.is_ascii()) {
        let bare = without_accents(&fold(key));
        if bare == *fold(key) || told_apart >= ENOUGH {
            continue;
        }
        if told.is_full() {
            told.skip();
            continue;
        }
        if !matches!(table.lookup(&bare).await, Ok(Some(_))) {
            told_apart += 1;
            continue;
        }
        let both = match listed.has(&bare) {
            true => format!("mail for {bare} and mail for {key} find both rows"),
            false => format!("mail for {bare} finds the row too, although nobody has that address"),
        };
        let finding = Finding::new(
            Severity::Warning,
            "accent-blind",
            place(known).row(key),
            format!("the column's collation takes {key} and {bare} for the same"),
        )
        .so(both)
        .remedy("give the column a collation that tells letters apart (the keys must be in lower case then)");
        let change = alter(known, session).await;
        told.add(
            report,
            match change {
                Some(change) => finding.sql(change),
                None => finding,
            },
        );
    }
    told.finish(report);
}

/// `ALTER TABLE … MODIFY …` with the column's own type.
async fn alter(known: &Known, session: &mut Session) -> Option<String> {
    let (table, column) = sole_column(known)?;
    let template = "SELECT column_type, is_nullable FROM information_schema.columns \
         WHERE table_schema = DATABASE() AND CONCAT(table_name, '.', column_name) = '%s'";
    let name = format!("{}.{}", select::unquoted(&table), select::unquoted(&column));
    let rows = session.ask(template, &name, 2).await.ok()?;
    let [Some(kind), Some(nullable)] = rows.first()?.as_slice() else {
        return None;
    };
    let null = if nullable == "NO" { " NOT NULL" } else { "" };
    Some(format!(
        "ALTER TABLE {table} MODIFY {column} {kind} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin{null};"
    ))
}

/// Latin letters without their accents; others stay.
fn without_accents(text: &str) -> String {
    const LETTERS: [(&str, char); 14] = [
        ("àáâãäåāăą", 'a'),
        ("çćĉċč", 'c'),
        ("ďđ", 'd'),
        ("èéêëēĕėęě", 'e'),
        ("ĝğġģ", 'g'),
        ("ìíîïĩīĭį", 'i'),
        ("ĺļľ", 'l'),
        ("ñńņň", 'n'),
        ("òóôõöōŏő", 'o'),
        ("ŕŗř", 'r'),
        ("śŝşš", 's'),
        ("ţť", 't'),
        ("ùúûüũūŭůűų", 'u'),
        ("źżž", 'z'),
    ];
    let map: HashMap<char, char> = LETTERS
        .iter()
        .flat_map(|(letters, base)| letters.chars().map(|letter| (letter, *base)))
        .collect();
    text.chars().map(|c| *map.get(&c).unwrap_or(&c)).collect()
}
