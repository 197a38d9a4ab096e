//! The arguments of MAIL and RCPT: an address, then `NAME=value` parameters.

/// Splits `FROM:<address> NAME=value …` behind the verb: the address as given, and the parameters.
/// `None` when `label` (`FROM:`) or the address is missing.
pub(super) fn split<'a>(text: &'a str, label: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let head = text.get(..label.len())?;
    if !head.eq_ignore_ascii_case(label) {
        return None;
    }
    let mut rest = text[label.len()..].trim_start_matches([' ', '\t']);
    let mut words = Vec::new();
    while !rest.is_empty() {
        let end = word_end(rest);
        words.push(&rest[..end]);
        rest = rest[end..].trim_start_matches([' ', '\t']);
    }
    if words.is_empty() {
        return None;
    }
    let address = words.remove(0);
    Some((address, words))
}

/// A word ends at a blank outside `<>` and `""`; a backslash protects what follows it.
fn word_end(text: &str) -> usize {
    let (mut quoted, mut bracketed) = (false, false);
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => quoted = !quoted,
            b'<' if !quoted => bracketed = true,
            b'>' if !quoted => bracketed = false,
            b' ' | b'\t' if !quoted && !bracketed => return at,
            _ => {}
        }
    }
    text.len()
}

/// The value of `word` when it is `NAME=value` with that name, in any case.
pub(super) fn value<'a>(word: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = word.split_once('=')?;
    found.eq_ignore_ascii_case(name).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_postfix_does() {
        for (text, address, words) in [
            ("TO:<a@b>", Some("<a@b>"), &[][..]),
            ("to:  <a@b>  X=y Z", Some("<a@b>"), &["X=y", "Z"]),
            ("TO:<a b@c> X", Some("<a b@c>"), &["X"]),
            ("TO:<\"a> b\"@c> X", Some("<\"a> b\"@c>"), &["X"]),
            ("TO:John <a@b>", Some("John"), &["<a@b>"]),
            ("TO:<a@b>,<c@d>", Some("<a@b>,<c@d>"), &[]),
            ("TO:<a@b", Some("<a@b"), &[]),
            ("TO:\"a\\\" b\"@c", Some("\"a\\\" b\"@c"), &[]),
            ("TO:<a@b> \"SIZE=5 6\"", Some("<a@b>"), &["\"SIZE=5 6\""]),
            ("TO:", None, &[]),
            ("TO", None, &[]),
            ("TO : <a@b>", None, &[]),
            ("FROM:<a@b>", None, &[]),
            ("é", None, &[]),
        ] {
            let expected = address.map(|address| (address, words.to_vec()));
            assert_eq!(split(text, "TO:"), expected, "{text}");
        }
    }
}
