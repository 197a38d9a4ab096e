//! Lists of names and networks, as match_list(3) reads them: `name`, `.suffix`, `!not this`,
//! `/file/with/more`, `type:table`. The first element that fits decides.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use crate::cidr::Network;
use crate::error::{ErrorKind, TableError, os_text};
use crate::open::Tables;
use crate::table::{Table, boxed};
use crate::{lines, spec};

/// How names are compared with the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// The whole text, nothing else (string_list(3)).
    Whole,
    /// `.suffix` takes in what lies below; a table is also asked for `.parent`.
    DotSuffix,
    /// A name takes in what lies below it; a table is also asked for the parents.
    Parents,
}

/// A list of names: `mydestination`, `relay_domains`, `virtual_mailbox_domains`, …
#[derive(Clone)]
pub struct MatchList {
    elements: Vec<(bool, Element)>,
    style: Style,
}

#[derive(Clone)]
enum Element {
    Name(String),
    Table(Table),
    Network(Network),
    /// Could not be read: the list fails when it gets here, as it cannot know.
    Broken(TableError),
}

impl MatchList {
    pub(crate) fn names(tables: &Tables, specs: &str, parents: bool) -> MatchList {
        let style = if parents {
            Style::Parents
        } else {
            Style::DotSuffix
        };
        MatchList::lenient(tables, specs, style)
    }

    pub(crate) fn strings(tables: &Tables, specs: &str) -> MatchList {
        MatchList::lenient(tables, specs, Style::Whole)
    }

    fn lenient(tables: &Tables, specs: &str, style: Style) -> MatchList {
        let mut elements = Vec::new();
        read_elements(tables, specs, false, 0, &mut elements);
        for (_, element) in &elements {
            if let Element::Broken(error) = element {
                tracing::warn!("{error}");
            }
        }
        MatchList { elements, style }
    }

    /// A list of whole strings; what cannot be read is an error at once.
    pub(crate) fn strings_strict(
        tables: &Tables,
        _owner: &str,
        specs: &str,
    ) -> Result<MatchList, TableError> {
        let mut elements = Vec::new();
        read_elements(tables, specs, false, 0, &mut elements);
        for (_, element) in &elements {
            if let Element::Broken(error) = element {
                return Err(error.clone());
            }
        }
        Ok(MatchList {
            elements,
            style: Style::Whole,
        })
    }

    /// Whether the list has no elements.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Whether the list takes the name in. Case does not matter.
    // Boxed, since a table may ask a list (`domain` of an SQL table) and a list its tables.
    pub fn matches<'a>(
        &'a self,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<bool, TableError>> + Send + 'a>> {
        Box::pin(self.ask(name))
    }

    async fn ask(&self, name: &str) -> Result<bool, TableError> {
        let name = mail::fold(name);
        for check in self.checks(&name).collect::<Vec<_>>() {
            match check {
                Check::Fits { negated } => return Ok(!negated),
                Check::Ask {
                    table,
                    keys,
                    negated,
                } => {
                    for key in keys {
                        if boxed(table, key).await?.is_some() {
                            return Ok(!negated);
                        }
                    }
                }
                Check::Broken(error) => return Err(error.clone()),
            }
        }
        Ok(false)
    }

    /// What decides whether the list takes in `name` (folded), for callers that ask the tables
    /// themselves: the first check that fits, or finds one of its keys, is the answer.
    pub fn checks<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Check<'a>> {
        self.elements.iter().filter_map(move |(negated, element)| {
            let negated = *negated;
            match element {
                Element::Name(pattern) => {
                    name_fits(name, pattern, self.style).then_some(Check::Fits { negated })
                }
                Element::Table(table) => Some(Check::Ask {
                    table,
                    keys: table_keys(table, name, self.style),
                    negated,
                }),
                Element::Network(_) => None,
                Element::Broken(error) => Some(Check::Broken(error)),
            }
        })
    }
}

/// One element of a [`MatchList`] that may decide about a name.
pub enum Check<'a> {
    /// It is the name, or its parent.
    Fits { negated: bool },
    /// A table; it fits when it has one of the keys.
    Ask {
        table: &'a Table,
        keys: Vec<&'a str>,
        negated: bool,
    },
    /// It could not be read, so the list cannot know.
    Broken(&'a TableError),
}

fn name_fits(name: &str, pattern: &str, style: Style) -> bool {
    if name == pattern {
        return true;
    }
    match style {
        Style::Whole => false,
        Style::DotSuffix => {
            pattern.starts_with('.') && name.len() > pattern.len() && name.ends_with(pattern)
        }
        Style::Parents => name
            .strip_suffix(pattern)
            .is_some_and(|above| above.ends_with('.')),
    }
}

/// The name, and for lists of domains the parents that a table may have instead.
fn table_keys<'a>(table: &Table, name: &'a str, style: Style) -> Vec<&'a str> {
    let mut keys = vec![name];
    if style == Style::Whole || table.is_pattern() {
        return keys;
    }
    let mut key = name;
    while let Some((dot, _)) = key.char_indices().skip(1).find(|(_, c)| *c == '.') {
        key = &key[if style == Style::Parents {
            dot + 1
        } else {
            dot
        }..];
        keys.push(key);
    }
    keys
}

/// A list of client addresses: `mynetworks` and its like.
#[derive(Clone)]
pub struct CidrList {
    elements: Vec<(bool, Element)>,
}

impl CidrList {
    pub(crate) fn lenient(tables: &Tables, specs: &str) -> CidrList {
        let mut elements = Vec::new();
        read_elements(tables, specs, false, 0, &mut elements);
        for (_, element) in &mut elements {
            if let Element::Name(text) = element
                && (text.parse::<IpAddr>().is_ok() || text.contains(['/', '[', ':']))
            {
                *element = match Network::parse(text) {
                    Ok(network) => Element::Network(network),
                    Err(problem) => Element::Broken(TableError::operator(text.as_str(), problem)),
                };
            }
            if let Element::Broken(error) = element {
                tracing::warn!("{error}");
            }
        }
        CidrList { elements }
    }

    /// Whether the list takes the address in.
    pub async fn matches(&self, address: IpAddr) -> Result<bool, TableError> {
        let text = address.to_canonical().to_string();
        for (negated, element) in &self.elements {
            let fits = match element {
                Element::Network(network) => network.contains(address),
                Element::Table(table) => boxed(table, &text).await?.is_some(),
                Element::Name(_) => false,
                Element::Broken(error) => return Err(error.clone()),
            };
            if fits {
                return Ok(!negated);
            }
        }
        Ok(false)
    }
}

/// Files may name files; a file that names itself must end somewhere.
const DEPTH: usize = 10;

fn read_elements(
    tables: &Tables,
    specs: &str,
    negated: bool,
    depth: usize,
    out: &mut Vec<(bool, Element)>,
) {
    for item in spec::split_specs(specs) {
        let text = item.trim_start_matches('!');
        let negated = negated ^ ((item.len() - text.len()) % 2 == 1);
        if text.starts_with('/') {
            match read_file(tables, text, depth) {
                Ok(content) => read_elements(tables, &content, negated, depth + 1, out),
                Err(error) => out.push((negated, Element::Broken(error))),
            }
        } else if is_table(text) {
            out.push((
                negated,
                match tables.open(text) {
                    Ok(table) => Element::Table(table),
                    Err(error) => Element::Broken(error),
                },
            ));
        } else {
            out.push((negated, Element::Name(mail::fold(text).into_owned())));
        }
    }
}

/// `type:name`, as against an IPv6 address in brackets or bare.
fn is_table(text: &str) -> bool {
    text.contains(':')
        && !text.starts_with('[')
        && text
            .split('/')
            .next()
            .is_none_or(|a| a.parse::<IpAddr>().is_err())
}

fn read_file(tables: &Tables, path: &str, depth: usize) -> Result<String, TableError> {
    if depth >= DEPTH {
        return Err(TableError::operator(
            path,
            format!("{path}: files nested more than {DEPTH} deep"),
        ));
    }
    tables.note_file(path);
    let bytes = std::fs::read(path).map_err(|e| {
        TableError::new(
            ErrorKind::Operator,
            path,
            format!("open file {path}: {}", os_text(&e)),
        )
    })?;
    let mut content = String::new();
    let (lines, stray) = lines::logical(&bytes);
    if let Some(stray) = stray {
        tracing::warn!("{path}: {stray}");
    }
    for line in lines {
        content.push_str(&String::from_utf8_lossy(&line.bytes));
        content.push('\n');
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Config;

    fn tables() -> Tables {
        Tables::new(&Config::from_text("", "").expect("an empty configuration"))
    }

    #[tokio::test]
    async fn names() {
        let tables = tables();
        for (list, parents, name, expected) in [
            ("example.org", false, "example.org", true),
            ("example.org", false, "EXAMPLE.ORG", true),
            ("example.org", false, "sub.example.org", false),
            ("example.org", true, "sub.example.org", true),
            ("example.org", true, "notexample.org", false),
            (".example.org", false, "sub.example.org", true),
            (".example.org", false, "example.org", false),
            (
                "!sub.example.org example.org",
                true,
                "sub.example.org",
                false,
            ),
            ("!sub.example.org, example.org", true, "x.example.org", true),
            ("inline:{example.org=x}", true, "a.b.example.org", true),
            ("inline:{.example.org=x}", false, "a.b.example.org", true),
            ("inline:{example.org=x}", false, "a.example.org", false),
            ("static:all", false, "anything", true),
            ("", false, "x", false),
        ] {
            let found = tables
                .match_list(list, parents)
                .matches(name)
                .await
                .expect("no failing table");
            assert_eq!(found, expected, "{list} {name}");
        }
        assert!(
            tables
                .match_list("a fail:x", false)
                .matches("b")
                .await
                .is_err()
        );
        assert!(
            tables
                .match_list("b fail:x", false)
                .matches("b")
                .await
                .expect("found before the failing table")
        );
        assert!(
            !tables
                .string_list(".org")
                .matches("a.org")
                .await
                .expect("no table")
        );
    }

    #[tokio::test]
    async fn files_are_read_into_the_list() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("names");
        std::fs::write(&file, "# c\nexample.org\n!bad.example.org, other.example\n")
            .expect("write");
        let tables = tables();
        let list = tables.match_list(&format!("!{}", file.display()), false);
        for (name, expected) in [
            ("example.org", false),
            ("bad.example.org", true),
            ("x", false),
        ] {
            assert_eq!(
                list.matches(name).await.expect("readable"),
                expected,
                "{name}"
            );
        }
        assert_eq!(tables.files(), vec![file]);
        assert!(
            tables
                .match_list("/nonesuch/file", false)
                .matches("x")
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn addresses() {
        let tables = tables();
        for (list, address, expected) in [
            ("127.0.0.0/8 [::1]/128", "127.0.0.1", true),
            ("127.0.0.0/8 [::1]/128", "::1", true),
            ("127.0.0.0/8, ::1/128", "::1", true),
            ("!10.0.0.1 10.0.0.0/8", "10.0.0.1", false),
            ("!10.0.0.1 10.0.0.0/8", "10.0.0.2", true),
            ("inline:{10.0.0.9=ok}", "10.0.0.9", true),
            ("", "10.0.0.9", false),
        ] {
            let found = tables
                .network_list(list)
                .matches(address.parse().expect("address"))
                .await;
            assert_eq!(
                found.expect("no failing table"),
                expected,
                "{list} {address}"
            );
        }
        assert!(
            tables
                .network_list("10.0.0.1/8")
                .matches("10.0.0.1".parse().expect("address"))
                .await
                .is_err()
        );
    }
}
