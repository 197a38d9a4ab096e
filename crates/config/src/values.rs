//! The types of parameter values: what text is a boolean, a number, a time, a list.

use std::time::Duration;

/// Splits a Postfix list: commas and white space separate, `{ … }` keeps its contents together.
pub fn split_list(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut item = String::new();
    let mut depth = 0usize;
    for c in text.chars() {
        let separates = depth == 0 && matches!(c, ',' | ' ' | '\t' | '\r' | '\n');
        if separates {
            if !item.is_empty() {
                items.push(std::mem::take(&mut item));
            }
            continue;
        }
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        item.push(c);
    }
    if !item.is_empty() {
        items.push(item);
    }
    items
}

/// `yes` or `no` in any case.
pub fn parse_bool(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("yes") {
        Some(true)
    } else if text.eq_ignore_ascii_case("no") {
        Some(false)
    } else {
        None
    }
}

/// A decimal number, with an optional sign.
pub fn parse_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// A number with an optional unit `s m h d w`; `default_unit` stands in where none is written.
pub fn parse_time(text: &str, default_unit: char) -> Option<Duration> {
    let (number, unit) = match text.chars().last()? {
        unit @ ('a'..='z' | 'A'..='Z') => (&text[..text.len() - 1], unit),
        _ => (text, default_unit),
    };
    let scale = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    let seconds = number.parse::<u32>().ok()?;
    Some(Duration::from_secs(u64::from(seconds) * scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        for (text, expected) in [
            ("", vec![]),
            (" a, b\tc,,d ", vec!["a", "b", "c", "d"]),
            (
                "inline:{a=1, {b = 2}}, c",
                vec!["inline:{a=1, {b = 2}}", "c"],
            ),
            ("a} b", vec!["a}", "b"]),
        ] {
            assert_eq!(split_list(text), expected, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, unit, expected) in [
            ("5", 'd', Some(432_000)),
            ("5s", 'd', Some(5)),
            ("2w", 's', Some(1_209_600)),
            ("0", 's', Some(0)),
            ("5x", 's', None),
            ("-5", 's', None),
            ("h", 's', None),
            ("", 's', None),
            ("1 h", 's', None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(parse_time(text, unit), expected, "{text}");
        }
    }
}
