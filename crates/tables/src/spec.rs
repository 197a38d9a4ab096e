//! `type:name`, lists of them, and the types there are.

use crate::error::TableError;

/// The table types that can be opened, sorted: what `postconf -m` prints.
pub static TYPES: &[&str] = &[
    "btree",
    "cidr",
    "debug",
    "environ",
    "fail",
    "hash",
    "inline",
    "internal",
    "lmdb",
    "memcache",
    "mysql",
    "pcre",
    "pgsql",
    "pipemap",
    "proxy",
    "randmap",
    "regexp",
    "socketmap",
    "sqlite",
    "static",
    "tcp",
    "texthash",
    "unionmap",
    "unix",
];

/// Splits a list of tables at commas and white space; braces keep their content together.
pub fn split_specs(specs: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut depth = 0usize;
    for c in specs.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == ',' || c.is_ascii_whitespace()) {
            if !current.is_empty() {
                found.push(std::mem::take(&mut current));
            }
        } else {
            current.push(c);
        }
    }
    if !current.is_empty() {
        found.push(current);
    }
    found
}

/// The type and the name of `type:name`.
pub(crate) fn split(spec: &str) -> Result<(&str, &str), TableError> {
    match spec.split_once(':') {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() => Ok((kind, name)),
        _ => Err(TableError::operator(
            spec,
            format!("open dictionary: expecting \"type:name\" form instead of \"{spec}\""),
        )),
    }
}

/// The content of `{…}`; `None` when it does not end where the text ends.
pub(crate) fn braced(text: &str) -> Option<&str> {
    let text = text.trim();
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return (at + 1 == text.len()).then(|| text[1..at].trim());
                }
            }
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The content of `{…}`, or what is wrong with it in Postfix's words.
pub(crate) fn in_braces(text: &str) -> Result<&str, String> {
    let text = text.trim_ascii();
    if !text.starts_with('{') {
        return Err(format!("no '{{' at start of text in \"{text}\""));
    }
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return match text[at + 1..].is_empty() {
                true => Ok(text[1..at].trim_ascii()),
                false => Err(format!("syntax error after '}}' in \"{text}\"")),
            };
        }
    }
    Err(format!("missing '}}' in \"{text}\""))
}

/// A type that we do not have: its name, and what to use in its place.
pub(crate) fn unsupported(spec: &str, kind: &str) -> TableError {
    let instead = match kind {
        "ldap" | "mongodb" => {
            "not in Postroom; export the data to mysql:, pgsql:, sqlite: or hash:, or answer with a socketmap: server"
                .to_string()
        }
        "nis" | "nisplus" | "netinfo" => {
            "not in Postroom; export the map to hash:, or use unix: for accounts".to_string()
        }
        "cdb" | "dbm" | "sdbm" => {
            "not in Postroom; hash: reads the same source text, and lmdb: is an index file".to_string()
        }
        "internal" => "of use inside of Postfix alone; inline: has a list of entries".to_string(),
        _ => format!("there are: {}", TYPES.join(", ")),
    };
    TableError::operator(
        spec,
        format!("unsupported dictionary type: {kind} ({instead})"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_split_at_commas_and_blanks_outside_braces() {
        for (list, parts) in [
            ("", vec![]),
            (
                "hash:/a, mysql:/b  static:x",
                vec!["hash:/a", "mysql:/b", "static:x"],
            ),
            (
                "inline:{a=1, b=2} static:{x y}",
                vec!["inline:{a=1, b=2}", "static:{x y}"],
            ),
        ] {
            assert_eq!(split_specs(list), parts);
        }
    }

    #[test]
    fn braces_must_close_at_the_end() {
        for (text, content) in [
            ("{a}", Some("a")),
            ("{ {a} b }", Some("{a} b")),
            ("{a", None),
            ("{a}b", None),
            ("a", None),
            ("{}", Some("")),
        ] {
            assert_eq!(braced(text), content, "{text}");
        }
    }
}
