//! The rows of tables, and lookups among them without the database.
//!
//! 100,000 users are read by one statement a table. What is found among the rows is a suspicion: the
//! router confirms it with the lookups that mail would make.

use std::collections::HashMap;
use std::sync::Arc;

use config::Config;
use mail::address::ExtensionRules;
use mail::fold;
use tables::{Session, Table, Tables};

use crate::select::Key;
use crate::sources::Known;

/// A row as a lookup gives it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub value: String,
}

/// What is known of a table without asking the database.
pub(crate) enum Contents {
    /// All of it: a listed SQL table, or a table in memory.
    Listed(Arc<Listed>),
    /// A table in memory that has no list (patterns, `static:`): asking costs nothing.
    InMemory(Table),
    /// A table in a database whose keys cannot be listed.
    Opaque,
}

/// All rows, and for each key, folded, which they are.
#[derive(Default)]
pub(crate) struct Listed {
    pub rows: Vec<Entry>,
    by_key: HashMap<String, Vec<u32>>,
}

impl Listed {
    fn push(&mut self, key: String, value: String) {
        let at = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.by_key
            .entry(fold(&key).into_owned())
            .or_default()
            .push(at);
        self.rows.push(Entry { key, value });
    }

    /// The values of a key.
    pub fn get(&self, key: &str) -> Option<impl Iterator<Item = &Entry>> {
        let rows = self.by_key.get(&*fold(key))?;
        Some(rows.iter().filter_map(|at| self.rows.get(*at as usize)))
    }

    pub fn has(&self, key: &str) -> bool {
        self.by_key.contains_key(&*fold(key))
    }

    /// The distinct keys, folded, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.by_key.keys().map(String::as_str)
    }
}

/// Lists the rows of a table by its own query. The error is the database's.
pub(crate) async fn list(known: &Known, session: &mut Session) -> Result<Option<Listed>, String> {
    let Ok(select) = &known.select else {
        return Ok(None);
    };
    let keys = select.key.expressions().len();
    // A lookup in SQLite takes the first column of each row.
    let wanted = match known.source.dialect() {
        tables::Dialect::Sqlite => 1,
        _ => select.columns.len(),
    };
    let rows = session
        .ask(&select.listing(), "", keys + select.columns.len())
        .await?;
    let mut listed = Listed::default();
    let mut taken: HashMap<String, usize> = HashMap::new();
    for row in rows {
        let (parts, values) = row.split_at(keys.min(row.len()));
        let key = match (&select.key, parts) {
            (Key::Whole(_), [Some(key)]) => key.clone(),
            (Key::Parts { .. }, [Some(user), Some(domain)]) => format!("{user}@{domain}"),
            _ => continue,
        };
        if known.source.is_limited() && !known.source.wants(&key).await.unwrap_or(true) {
            continue;
        }
        if let Some(limit) = select.limit {
            let count = taken.entry(fold(&key).into_owned()).or_default();
            if *count >= limit {
                continue;
            }
            *count += 1;
        }
        for value in values.iter().take(wanted).flatten() {
            // A key and its value never differ when the query selects its own key.
            if let Some(value) = known.source.formatted(&key, value) {
                listed.push(key.clone(), value);
            }
        }
    }
    Ok(Some(listed))
}

/// The tables of a list, in the order in which they are asked.
pub(crate) struct Maps {
    pub tables: Vec<(String, Contents)>,
}

/// A value found among the rows.
pub(crate) struct Hit {
    pub key: String,
    pub values: Vec<String>,
}

impl Maps {
    /// The tables of a parameter. `listed` has the rows of SQL tables, by spec.
    pub fn new(
        config: &Config,
        parameter: &str,
        tables: &Tables,
        listed: &HashMap<String, Arc<Listed>>,
    ) -> Maps {
        let value = config.string(parameter).unwrap_or_default();
        let contents = |spec: &String| -> Contents {
            if let Some(rows) = listed.get(spec) {
                return Contents::Listed(Arc::clone(rows));
            }
            let Ok(table) = tables.open(spec) else {
                return Contents::Opaque;
            };
            if let Ok(Some(entries)) = table.entries() {
                let mut rows = Listed::default();
                let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                for (key, value) in entries {
                    rows.push(text(key), text(value));
                }
                return Contents::Listed(Arc::new(rows));
            }
            let bare = spec.strip_prefix("proxy:").unwrap_or(spec);
            const CHEAP: [&str; 6] = ["regexp", "pcre", "cidr", "static", "unix", "environ"];
            match bare.split_once(':') {
                Some((kind, _)) if CHEAP.contains(&kind) => Contents::InMemory(table),
                _ => Contents::Opaque,
            }
        };
        let specs = tables::split_specs(&value);
        Maps {
            tables: specs
                .iter()
                .map(|spec| (spec.clone(), contents(spec)))
                .collect(),
        }
    }

    /// The tables whose rows are all known.
    pub fn listed(&self) -> impl Iterator<Item = (usize, &str, &Listed)> {
        self.tables
            .iter()
            .enumerate()
            .filter_map(|(at, (spec, contents))| match contents {
                Contents::Listed(rows) => Some((at, spec.as_str(), &**rows)),
                _ => None,
            })
    }

    /// The first table that has the key.
    pub async fn get(&self, key: &str, partial: bool) -> Option<Hit> {
        for (_, contents) in &self.tables {
            let values: Vec<String> = match contents {
                Contents::Listed(rows) => match rows.get(key) {
                    Some(found) => found.map(|entry| entry.value.clone()).collect(),
                    None => continue,
                },
                Contents::InMemory(table) if partial && table.is_pattern() => continue,
                Contents::InMemory(table) => match table.lookup(key).await {
                    Ok(Some(value)) => vec![value],
                    _ => continue,
                },
                Contents::Opaque => continue,
            };
            return Some(Hit {
                key: key.to_owned(),
                values,
            });
        }
        None
    }

    /// An address in the forms that are tried: as it is, without extension, its domain.
    pub async fn find(&self, address: &str, extensions: &ExtensionRules) -> Option<Hit> {
        if let Some(hit) = self.get(address, false).await {
            return Some(hit);
        }
        if let Some((plain, _)) = extensions.strip(address)
            && let Some(hit) = self.get(&plain, true).await
        {
            return Some(hit);
        }
        let at = address.rfind('@')?;
        self.get(&address[at..], true).await
    }
}

/// The addresses in a value: what an alias leads to.
pub(crate) fn destinations(value: &str) -> Vec<String> {
    if is_plain(value) {
        return vec![value.to_owned()];
    }
    mail::token::addresses(value)
        .iter()
        .map(|tokens| mail::token::internal(tokens))
        .collect()
}

/// An address that is read and rewritten as it stands, as nearly all are: among 100,000 this counts.
pub(crate) fn is_plain(address: &str) -> bool {
    let plain = |text: &str| {
        text.bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b'+'))
    };
    match address.split_once('@') {
        Some((local, domain)) => {
            !local.is_empty()
                && plain(local)
                && plain(domain)
                && domain.contains('.')
                && !domain.starts_with('.')
                && !domain.ends_with('.')
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_addresses_are_what_the_parser_makes_of_them() {
        for (value, expected) in [
            ("john@example.org", vec!["john@example.org"]),
            ("John+x@Example.org", vec!["John+x@Example.org"]),
            ("a@b.c, d@e.f", vec!["a@b.c", "d@e.f"]),
            (" a@b.c ", vec!["a@b.c"]),
            ("\"a b\"@c.d", vec!["a b@c.d"]),
        ] {
            assert_eq!(destinations(value), expected, "{value}");
            let parsed: Vec<String> = mail::token::addresses(value)
                .iter()
                .map(|tokens| mail::token::internal(tokens))
                .collect();
            assert_eq!(parsed, expected, "{value}");
        }
        for value in [
            "a b@c.d", "a@b", "a@b.c.", "a%b@c.d", "@b.c", "a", "a@b@c.d",
        ] {
            assert!(!is_plain(value), "{value}");
        }
    }
}
