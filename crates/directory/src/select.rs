//! Reads `SELECT … FROM … WHERE column = '%s' AND …`, and turns it into the statement that lists all
//! keys with their values. FROM and the other conditions are kept word for word, so joins, views and
//! functions in them do not matter. What has another shape is left alone, with the reason.

use std::ops::Range;

use crate::scan::{Kind, Token, has_part, scan, uses_key};

/// A statement of a table, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Select {
    distinct: bool,
    /// The expressions of the result.
    pub columns: Vec<String>,
    from: String,
    /// The tables in FROM: name and the name that the statement uses for it.
    pub tables: Vec<(String, String)>,
    /// Conditions without a part of the key.
    conditions: Vec<String>,
    pub key: Key,
    order: String,
    /// LIMIT, for one key.
    pub limit: Option<usize>,
}

/// What is compared with the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// `expression = '%s'`
    Whole(String),
    /// `expression = '%u' AND other = '%d'`
    Parts { user: String, domain: String },
}

impl Key {
    /// The expressions, in the order in which [`Select::listing`] asks for them.
    pub fn expressions(&self) -> Vec<&str> {
        match self {
            Key::Whole(whole) => vec![whole],
            Key::Parts { user, domain } => vec![user, domain],
        }
    }
}

/// In which quotes the parts of a template stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Quoting {
    /// A part stands outside all quotes.
    pub bare: bool,
    /// A part stands in quotes that make it the name of a column.
    pub as_name: bool,
}

/// Where the parts of the template stand. `mysql`: backslashes escape, `"…"` is a text.
pub(crate) fn quoting(template: &str, mysql: bool) -> Quoting {
    let mut found = Quoting::default();
    for token in scan(template, mysql).unwrap_or_default() {
        match token.kind {
            Kind::Part => found.bare = true,
            Kind::Name => found.as_name |= has_part(&template[token.range]),
            _ => {}
        }
    }
    found
}

/// Takes a statement apart. The error says, in words that follow "because", why it cannot be.
pub(crate) fn parse(text: &str, mysql: bool) -> Result<Select, &'static str> {
    let text = text.trim().trim_end_matches(';').trim_end();
    let tokens = scan(text, mysql).ok_or("it has comments, or quotes that do not close")?;
    let top = |word: &str| {
        tokens
            .iter()
            .position(|token| token.depth == 0 && is_word(text, token, word))
    };
    if top("SELECT") != Some(0) {
        return Err("it does not begin with SELECT");
    }
    for word in [
        "UNION",
        "GROUP",
        "HAVING",
        "INTO",
        "INTERSECT",
        "EXCEPT",
        "OFFSET",
    ] {
        if top(word).is_some() {
            return Err("it is more than SELECT … FROM … WHERE");
        }
    }
    let from = top("FROM").ok_or("it has no FROM")?;
    let place = top("WHERE")
        .filter(|at| *at > from)
        .ok_or("it has no WHERE")?;
    let order = top("ORDER").unwrap_or(tokens.len());
    let limit = top("LIMIT").unwrap_or(tokens.len());
    let end = order.min(limit);
    if end < place {
        return Err("its clauses are in an unknown order");
    }
    let distinct = tokens
        .get(1)
        .is_some_and(|token| is_word(text, token, "DISTINCT"));
    let first = 1 + usize::from(distinct);
    let source = |range: Range<usize>| slice(text, &tokens[range]);
    let columns: Vec<String> = split(&tokens[first..from], |token| token.kind == Kind::Comma)
        .iter()
        .map(|part| slice(text, part))
        .collect();
    if columns
        .iter()
        .any(|column| column.is_empty() || column.ends_with('*'))
    {
        return Err("its columns are not named");
    }
    let outside = [&tokens[first..place], &tokens[end..]].concat();
    if uses_key(text, &outside) {
        return Err("the key is used outside WHERE");
    }
    let (conditions, key) = conditions(text, &tokens[place + 1..end])?;
    Ok(Select {
        distinct,
        columns,
        from: source(from + 1..place),
        tables: tables(text, &tokens[from + 1..place]),
        conditions,
        key,
        order: match order < limit {
            true => source(order..limit),
            false => String::new(),
        },
        limit: match tokens.get(limit + 1) {
            None => None,
            Some(_) if limit + 2 < tokens.len() => return Err("its LIMIT has two numbers"),
            Some(token) => Some(
                text[token.range.clone()]
                    .parse()
                    .map_err(|_| "its LIMIT is no number")?,
            ),
        },
    })
}

impl Select {
    /// The template that lists every key with its values: the expressions of the key come first.
    pub fn listing(&self) -> String {
        let mut columns = self.key.expressions();
        columns.extend(self.columns.iter().map(String::as_str));
        let mut text = String::from("SELECT ");
        if self.distinct {
            text.push_str("DISTINCT ");
        }
        text.push_str(&format!("{} FROM {}", columns.join(", "), self.from));
        if !self.conditions.is_empty() {
            text.push_str(&format!(" WHERE {}", self.conditions.join(" AND ")));
        }
        // DISTINCT allows an order only by what it selects.
        if !self.order.is_empty() && !self.distinct {
            text.push_str(&format!(" {}", self.order));
        }
        text
    }

    /// The template with another result: `SELECT what …` with the same FROM and WHERE.
    pub fn selecting_key(&self) -> Option<String> {
        let Key::Whole(key) = &self.key else {
            return None;
        };
        let mut conditions = vec![format!("{key}='%s'")];
        conditions.extend(self.conditions.iter().cloned());
        Some(format!(
            "SELECT {key} FROM {} WHERE {}",
            self.from,
            conditions.join(" AND ")
        ))
    }

    /// The only table, where a row of it can be named by this statement's key alone.
    pub fn only_table(&self) -> Option<&str> {
        match self.tables.as_slice() {
            [(name, _)] => Some(name),
            _ => None,
        }
    }

    /// The name of the table that the statement calls `alias`.
    pub fn table_called(&self, alias: &str) -> Option<&str> {
        let bare = unquoted(alias);
        self.tables
            .iter()
            .find(|(name, called)| unquoted(called) == bare || unquoted(name) == bare)
            .map(|(name, _)| name.as_str())
    }

    /// What is compared with the key in the table called `alias`: names of columns, or whole
    /// expressions.
    pub fn compared_in(&self, alias: &str) -> Vec<&str> {
        let only = self.tables.len() == 1;
        let mut found = Vec::new();
        for expression in self.key.expressions() {
            match column(expression) {
                Some((Some(table), _)) if unquoted(table) != unquoted(alias) => {}
                Some((Some(_), name)) => found.push(name),
                Some((None, name)) if only => found.push(name),
                None if only => found.push(expression),
                _ => {}
            }
        }
        found
    }

    /// Columns that FROM and WHERE compare with one of another table: `virtual_users.domain_id`.
    pub fn joined_columns(&self, alias: &str) -> Vec<String> {
        let text = format!("{} {}", self.from, self.conditions.join(" "));
        let prefix = format!("{}.", unquoted(alias));
        let words = text.split(|c: char| !(c.is_alphanumeric() || "_$.`\"".contains(c)));
        let mut found: Vec<String> = Vec::new();
        for word in words {
            let word = unquoted(word);
            if let Some(name) = word.strip_prefix(&prefix)
                && !found.iter().any(|known| known == name)
            {
                found.push(name.to_owned());
            }
        }
        found
    }
}

/// The table and the name of a plain column; `None` for an expression.
pub(crate) fn column(expression: &str) -> Option<(Option<&str>, &str)> {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_alphanumeric() || "_$`\"".contains(c))
            && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    match expression.rsplit_once('.') {
        Some((table, name)) if plain(name) && table.split('.').all(plain) => {
            Some((Some(table), name))
        }
        None if plain(expression) => Some((None, expression)),
        _ => None,
    }
}

/// A name without its quotes.
pub(crate) fn unquoted(name: &str) -> String {
    name.replace(['`', '"'], "")
}

fn conditions(text: &str, tokens: &[Token]) -> Result<(Vec<String>, Key), &'static str> {
    let (mut plain, mut whole, mut user, mut domain) = (Vec::new(), None, None, None);
    for condition in split(tokens, |token| is_word(text, token, "AND")) {
        let condition = without_parentheses(condition);
        let base = condition.first().map_or(0, |token| token.depth);
        let at_top = |word: &str| {
            condition
                .iter()
                .any(|token| token.depth == base && is_word(text, token, word))
        };
        if at_top("OR") || at_top("BETWEEN") || at_top("XOR") {
            return Err("WHERE has more than conditions joined by AND");
        }
        if !uses_key(text, condition) {
            plain.push(slice(text, condition));
            continue;
        }
        let (expression, template) = comparison(text, condition)?;
        let slot = match template {
            "%s" | "%S" | "%u@%d" | "%U@%D" => &mut whole,
            "%u" | "%U" => &mut user,
            "%d" | "%D" => &mut domain,
            _ => return Err("the key is more than '%s', or '%u' and '%d'"),
        };
        if slot.replace(expression).is_some() {
            return Err("the key is compared twice");
        }
    }
    match (whole, user, domain) {
        (Some(whole), None, None) => Ok((plain, Key::Whole(whole))),
        (None, Some(user), Some(domain)) => Ok((plain, Key::Parts { user, domain })),
        _ => Err("the key is not compared with '%s', or with '%u' and '%d'"),
    }
}

/// `expression = 'template'`, either way round.
fn comparison<'a>(text: &'a str, condition: &[Token]) -> Result<(String, &'a str), &'static str> {
    let shape = "the key is not compared by =";
    let base = condition.first().map_or(0, |token| token.depth);
    let equals = |token: &Token| token.depth == base && token.kind == Kind::Equals;
    let at = condition.iter().position(equals).ok_or(shape)?;
    let (left, right) = (&condition[..at], &condition[at + 1..]);
    let (expression, literal) = match (left, right) {
        (_, [literal]) if literal.kind == Kind::Text => (left, literal),
        ([literal], _) if literal.kind == Kind::Text => (right, literal),
        _ => return Err(shape),
    };
    let strange = |token: &Token| match token.kind {
        Kind::Other => !matches!(&text[token.range.clone()], "||" | "::"),
        kind => matches!(kind, Kind::Part | Kind::Equals),
    };
    let outer = expression
        .iter()
        .any(|token| token.depth == base && strange(token));
    if expression.is_empty() || outer || uses_key(text, expression) {
        return Err(shape);
    }
    let range = literal.range.start + 1..literal.range.end - 1;
    Ok((slice(text, expression), &text[range]))
}

fn without_parentheses(mut tokens: &[Token]) -> &[Token] {
    while let [first, inner @ .., last] = tokens {
        let encloses = first.kind == Kind::Open
            && last.kind == Kind::Close
            && inner.iter().all(|token| token.depth > first.depth);
        if !encloses {
            break;
        }
        tokens = inner;
    }
    tokens
}

/// The tables of FROM, as far as they are named there.
fn tables(text: &str, tokens: &[Token]) -> Vec<(String, String)> {
    const NOT_A_NAME: [&str; 10] = [
        "ON", "USING", "LEFT", "RIGHT", "INNER", "OUTER", "CROSS", "JOIN", "NATURAL", "FULL",
    ];
    let name = |token: Option<&&Token>| -> Option<String> {
        let token = token?;
        let word = &text[token.range.clone()];
        let keyword = NOT_A_NAME
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known));
        (matches!(token.kind, Kind::Word | Kind::Name) && !keyword).then(|| word.to_owned())
    };
    let top: Vec<&Token> = tokens.iter().filter(|token| token.depth == 0).collect();
    let begins = |at: usize| {
        at == 0 || top[at - 1].kind == Kind::Comma || is_word(text, top[at - 1], "JOIN")
    };
    let mut found = Vec::new();
    for at in (0..top.len()).filter(|at| begins(*at)) {
        let Some(table) = name(top.get(at)) else {
            continue;
        };
        let has_as = top
            .get(at + 1)
            .is_some_and(|token| is_word(text, token, "AS"));
        let alias = name(top.get(at + 1 + usize::from(has_as)));
        let called = alias.unwrap_or_else(|| table.clone());
        found.push((table, called));
    }
    found
}

fn split(tokens: &[Token], divides: impl Fn(&Token) -> bool) -> Vec<&[Token]> {
    tokens
        .split(|token| token.depth == 0 && divides(token))
        .collect()
}

fn slice(text: &str, tokens: &[Token]) -> String {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => text[first.range.start..last.range.end].to_owned(),
        _ => String::new(),
    }
}

fn is_word(text: &str, token: &Token, word: &str) -> bool {
    token.kind == Kind::Word && text[token.range.clone()].eq_ignore_ascii_case(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_become_listings() {
        for (query, expected) in [
            (
                "SELECT destination FROM virtual_aliases WHERE source='%s'",
                "SELECT source, destination FROM virtual_aliases",
            ),
            (
                "select 1 from users where email = '%s' and active = 1;",
                "SELECT email, 1 FROM users WHERE active = 1",
            ),
            (
                "SELECT goto FROM alias WHERE ('%u@%d' = address) AND domain <> '%%x' LIMIT 1",
                "SELECT address, goto FROM alias WHERE domain <> '%%x'",
            ),
            (
                "SELECT u.name FROM users u JOIN domains AS d ON u.domain_id = d.id WHERE u.name='%u' AND d.name='%d' AND u.on=1 ORDER BY u.id",
                "SELECT u.name, d.name, u.name FROM users u JOIN domains AS d ON u.domain_id = d.id WHERE u.on=1 ORDER BY u.id",
            ),
            (
                "SELECT CONCAT(u.name, '@', d.name) FROM u, d WHERE CONCAT(u.name,'@',d.name) = '%s' AND u.d = d.id",
                "SELECT CONCAT(u.name,'@',d.name), CONCAT(u.name, '@', d.name) FROM u, d WHERE u.d = d.id",
            ),
        ] {
            let select = parse(query, true).unwrap_or_else(|reason| panic!("{query}: {reason}"));
            assert_eq!(select.listing(), expected);
        }
    }

    #[test]
    fn other_statements_are_left_alone() {
        for query in [
            "SELECT f('%s')",
            "SELECT a FROM t",
            "SELECT a FROM t WHERE k=%s",
            "SELECT a FROM t WHERE k LIKE '%s'",
            "SELECT a FROM t WHERE k IN ('%s')",
            "SELECT a FROM t WHERE k='%s' OR j='%s'",
            "SELECT a FROM t WHERE k='x%s'",
            "SELECT a FROM t WHERE k='%d'",
            "SELECT a FROM t WHERE k='%s' UNION SELECT b FROM t WHERE j='%s'",
            "SELECT a FROM t WHERE k=LOWER('%s')",
            "SELECT * FROM t WHERE k='%s'",
            "SELECT '%s' FROM t WHERE k='%s'",
            "SELECT a FROM t WHERE k='%s' -- c",
            "SELECT a FROM t WHERE k='%s",
            "CALL p('%s')",
        ] {
            assert!(parse(query, true).is_err(), "{query}");
        }
    }

    #[test]
    fn tables_and_columns() {
        let query = "SELECT 1 FROM `mail`.users AS u LEFT JOIN domains d ON u.domain_id=d.id WHERE u.email='%s'";
        let select = parse(query, true).expect("a plain SELECT");
        assert_eq!(select.table_called("d"), Some("domains"));
        assert_eq!(select.compared_in("u"), ["email"]);
        assert!(select.compared_in("d").is_empty());
        assert_eq!(select.joined_columns("d"), ["id"]);
        let select = parse("SELECT 1 FROM users WHERE lower(email)='%s'", false).expect("SELECT");
        assert_eq!(select.compared_in("users"), ["lower(email)"]);
        assert_eq!(select.only_table(), Some("users"));
    }

    proptest::proptest! {
        /// Whatever stands in a table file: no panic, and a listing asks for no key.
        #[test]
        fn any_text(words in proptest::collection::vec(
            r#"SELECT|FROM|WHERE|AND|OR|ORDER BY|LIMIT|DISTINCT|JOIN|ON|AS|'%s'|'%u'|'%d'|%s|%%|=|,|\(|\)|'|"|`|``|\.|a\.b|1|ß|[\PC]"#,
            0..24,
        ), mysql: bool) {
            let text = words.join(" ");
            quoting(&text, mysql);
            if let Ok(select) = parse(&text, mysql) {
                proptest::prop_assert!(!has_part(&select.listing()), "{}", select.listing());
            }
            let text = format!("SELECT a FROM t WHERE {} AND k='%s'", words.join(""));
            if let Ok(select) = parse(&text, mysql) {
                proptest::prop_assert!(!has_part(&select.listing()), "{}", select.listing());
                select.selecting_key();
                select.joined_columns("t");
                select.compared_in("t");
            }
        }
    }

    #[test]
    fn parts_outside_quotes_are_seen() {
        for (query, mysql, bare, as_name) in [
            ("SELECT a FROM t WHERE k='%s'", true, false, false),
            ("SELECT a FROM t WHERE k=%s", true, true, false),
            ("SELECT a FROM t WHERE k=\"%s\"", true, false, false),
            ("SELECT a FROM t WHERE k=\"%s\"", false, false, true),
            ("SELECT 'it''s' FROM t WHERE k=%u", false, true, false),
            ("SELECT a %% b FROM t WHERE k='%s'", true, false, false),
        ] {
            assert_eq!(quoting(query, mysql), Quoting { bare, as_name }, "{query}");
        }
    }
}
