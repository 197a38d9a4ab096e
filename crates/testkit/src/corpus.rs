//! Replaying recorded behaviour: byte strings in JSON, placeholders, classes of messages.

use std::path::Path;

use serde_json::Value;

/// The cases of a file with one JSON object a line. Panics with file and line on anything else.
pub fn load(file: &Path) -> Vec<Value> {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{}:{}: {error}", file.display(), number + 1))
        })
        .collect()
}

/// Bytes as a JSON value: text when valid UTF-8 without NUL, else `{"b64": "…"}`.
pub fn enc(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Value::String(text.to_owned()),
        _ => serde_json::json!({ "b64": base64(bytes) }),
    }
}

/// The bytes that [`enc`] encoded. Null is the empty string.
pub fn dec(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        Value::Object(object) => {
            let text = object.get("b64").and_then(Value::as_str);
            unbase64(text.unwrap_or_else(|| panic!("neither text nor b64: {value}")))
        }
        Value::Null => Vec::new(),
        other => panic!("neither text nor b64: {other}"),
    }
}

/// Replaces `@NAME@` by its value, for each pair (name, value); no other `@X@` is special.
pub fn sub(bytes: &[u8], values: &[(&str, &str)]) -> Vec<u8> {
    values.iter().fold(bytes.to_vec(), |bytes, (name, value)| {
        replace(&bytes, format!("@{name}@").as_bytes(), value.as_bytes())
    })
}

/// The inverse of [`sub`]: concrete values become placeholders. Pairs are (name, value), longest value first.
pub fn unsub(bytes: &[u8], values: &[(&str, &str)]) -> Vec<u8> {
    values.iter().fold(bytes.to_vec(), |bytes, (name, value)| {
        replace(&bytes, value.as_bytes(), format!("@{name}@").as_bytes())
    })
}

/// All occurrences of `from`, left to right. An empty `from` changes nothing.
pub fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest
        .windows(from.len().max(1))
        .position(|window| window == from)
    {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    result.extend_from_slice(rest);
    result
}

/// The class of each non-empty line of standard error, in order; see [`CLASSES`].
pub fn classify(stderr: &[u8]) -> Vec<&'static str> {
    let text = String::from_utf8_lossy(stderr);
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(class_of)
        .collect()
}

/// The class of one line of standard error; `other` when no row matches.
pub fn class_of(line: &str) -> &'static str {
    let row = CLASSES
        .iter()
        .find(|(patterns, _)| patterns.iter().any(|pattern| matches(line, pattern)));
    row.map_or("other", |(_, class)| class)
}

/// Whether the pieces of the pattern, separated by `*`, stand in the line in this order.
fn matches(line: &str, pattern: &str) -> bool {
    let mut rest = line;
    pattern.split('*').all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    })
}

/// What tools of the mail system say on standard error, by kind; the first row that matches counts.
/// A pattern is found anywhere in the line; `*` stands for any text.
pub const CLASSES: &[(&[&str], &str)] = &[
    (
        &[
            "warning: connect to mysql server",
            "warning: connect to pgsql server",
        ],
        "warn.connect",
    ),
    (&["warning: dict_pgsql: *connect"], "warn.connect"),
    (&["warning: *multiple result sets"], "warn.multi-result-set"),
    (
        &["warning: *no result set", "warning: *returned no result"],
        "warn.no-result-set",
    ),
    (
        &[
            "warning: *query failed",
            "warning: *SQL prepare failed",
            "warning: *SQL step failed",
            "warning: *query error",
        ],
        "warn.query-failed",
    ),
    (&["warning: *empty lookup result for"], "warn.empty-result"),
    (&["warning: *empty query string"], "warn.empty-query"),
    (
        &["warning: *empty string result is not allowed"],
        "warn.empty-string-result",
    ),
    (
        &["warning: *should return NO RESULT"],
        "warn.empty-string-result",
    ),
    (
        &["warning: *xpansion limit exceeded"],
        "warn.expansion-limit",
    ),
    (
        &["warning: *non-UTF-8 key", "warning: *non-UTF-8 value"],
        "warn.non-utf8",
    ),
    (
        &["warning: *skipped after query"],
        "warn.key-skipped-after-query",
    ),
    (&["warning: *unused parameter"], "warn.unused-parameter"),
    (
        &["warning: *'domain' pattern match failed"],
        "warn.domain-match-failed",
    ),
    (&["warning: *duplicate entry"], "warn.duplicate-entry"),
    (
        &["warning: *expected format: key whitespace value"],
        "warn.bad-source-line",
    ),
    (&["warning: *is unavailable"], "warn.map-unavailable"),
    (&["error: *is unavailable"], "error.map-unavailable"),
    (
        &["fatal: *query template", "fatal: *result template"],
        "fatal.bad-template",
    ),
    (
        &["fatal: *parameter not defined"],
        "fatal.missing-parameter",
    ),
    (&["fatal: *bad string length"], "fatal.bad-string-length"),
    (
        &["fatal: *bad numerical", "fatal: *bad boolean"],
        "fatal.bad-value",
    ),
    (
        &[
            "fatal: *unsupported dictionary type",
            "fatal: *unknown dictionary type",
        ],
        "fatal.unsupported-type",
    ),
    (&["fatal: table *: query error"], "fatal.query-error"),
    (&["fatal: *unknown service"], "fatal.unknown-service"),
    (&["fatal: usage"], "fatal.usage"),
    (&["fatal: open "], "fatal.open"),
    (&["warning: *overriding earlier entry"], "warn.cf-override"),
    (
        &["warning: *logical line must not start with whitespace"],
        "warn.cf-leading-whitespace",
    ),
    (&["warning: *text after null byte"], "warn.cf-nul"),
    (
        &[
            "fatal: *missing '=' after attribute name",
            "fatal: *missing attribute name",
        ],
        "fatal.cf-syntax",
    ),
    (&["fatal: read "], "fatal.read"),
    (
        &["warning: *table lookup problem"],
        "warn.table-lookup-problem",
    ),
    (&["fatal: dict_sqlite_lookup"], "fatal.sqlite-sql"),
    (&["Can't open database"], "fatal.sqlite-open"),
    (&["error: sqlite:*open database"], "error.sqlite-open"),
    (
        &[
            "fatal: *requires O_RDONLY",
            "fatal: *sequence operation is not supported",
            "fatal: *map create",
        ],
        "fatal.read-only-map",
    ),
    (&["fatal: specify only one"], "fatal.usage"),
    (&["invalid option"], "usage.invalid-option"),
    (
        &[
            "fatal: bad static",
            "fatal: bad syntax",
            "fatal: missing '=' after",
        ],
        "fatal.bad-map-syntax",
    ),
    (
        &["warning: *record is in \"key: value\" format"],
        "warn.alias-format",
    ),
    (
        &[
            "warning: regexp map",
            "warning: pcre map",
            "warning: cidr map",
        ],
        "warn.pattern-rule",
    ),
    (
        &["fatal: proxymap service is not configured"],
        "fatal.proxy-not-configured",
    ),
    (&["warning: connect to "], "warn.connect"),
    (&["without the recommended"], "warn.unquoted-expansion"),
    (&["requires dbname"], "fatal.missing-parameter"),
    (&["malformed BASE64"], "warn.bad-base64"),
    (&["warning: "], "warn.other"),
    (&["error: "], "error.other"),
    (&["fatal: "], "fatal.other"),
    (&["panic: "], "panic"),
];

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 section 4, with padding.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk
            .iter()
            .fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        let number = number << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(number >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut number, mut bits) = (0u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == digit);
        let value = value.unwrap_or_else(|| panic!("not base64: {text}"));
        number = number << 6 | value as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((number >> bits) as u8);
            number &= (1 << bits) - 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_strings_survive_json() {
        for bytes in [
            &b""[..],
            b"a",
            b"ab",
            b"abc",
            b"\xff",
            b"\xff\x00a",
            b"j\xc3\xb6rg",
            b"x\0y",
            &[0xfe; 7],
        ] {
            assert_eq!(dec(&enc(bytes)), bytes);
        }
        assert_eq!(enc(b"\xff\xfe"), serde_json::json!({"b64": "//4="}));
    }

    #[test]
    fn placeholders_go_in_and_come_out() {
        let values = [("CONF", "/tmp/x/conf"), ("DIR", "/tmp/x")];
        assert_eq!(
            sub(b"@CONF@/a @DIR@ @X@", &values),
            b"/tmp/x/conf/a /tmp/x @X@"
        );
        assert_eq!(unsub(b"/tmp/x/conf/a /tmp/x", &values), b"@CONF@/a @DIR@");
    }

    #[test]
    fn lines_have_classes() {
        for (line, class) in [
            (
                "postmap: warning: connect to mysql server 127.0.0.1:1: refused",
                "warn.connect",
            ),
            (
                "postmap: fatal: table mysql:/x: query error: Success",
                "fatal.query-error",
            ),
            (
                "postmap: fatal: open /x.cf: No such file or directory",
                "fatal.open",
            ),
            (
                "postmap: fatal: mysql:/x: bad string length 0 < 1: dbname =",
                "fatal.bad-string-length",
            ),
            ("postmap: warning: something new", "warn.other"),
            ("hello", "other"),
        ] {
            assert_eq!(class_of(line), class, "{line}");
        }
    }
}
