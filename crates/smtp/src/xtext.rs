//! xtext (RFC 3461 section 4): bytes outside `!`…`~`, and `+` and `=`, are written as `+XX`.

/// Undoes the encoding. `None` when a `+` is not followed by two upper-case hexadecimal digits
/// or when the result is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    if !text.contains('+') {
        return Some(text.to_owned());
    }
    let mut parts = text.split('+');
    let mut out: Vec<u8> = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2)?;
        if !digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
        {
            return None;
        }
        out.push(u8::from_str_radix(digits, 16).ok()?);
        out.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(out).ok()
}

/// Encodes `text`; non-ASCII characters stay as they are when `utf8` says that the peer takes them.
pub fn encode(text: &str, utf8: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_ascii_graphic() && c != '+' && c != '=') || (utf8 && !c.is_ascii()) {
            out.push(c);
        } else {
            let mut bytes = [0; 4];
            for b in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("+{b:02X}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (encoded, plain) in [
            ("a+2Bb", Some("a+b")),
            ("a", Some("a")),
            ("a+b", None),
            ("+3", None),
            ("+FF", None),
            ("+é0", None),
        ] {
            assert_eq!(decode(encoded).as_deref(), plain, "{encoded}");
        }
        assert_eq!(encode("a+b c=é", false), "a+2Bb+20c+3D+C3+A9");
        assert_eq!(encode("é", true), "é");
    }
}
