//! RFC 4648 4, with padding: the values of tables of files (`postmap -F`).

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `bytes` in base64.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number = chunk
            .iter()
            .fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        let number = number << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

/// The bytes that `text` stands for; `None` when it is not base64.
pub fn base64_decoded(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in digits.bytes() {
        let value = ALPHABET.iter().position(|&digit| digit == byte)?;
        // At most 63.
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (text, bytes) in [
            ("aGVsbG8=", &b"hello"[..]),
            ("", b""),
            ("/w==", b"\xff"),
            ("AAEC", b"\0\x01\x02"),
        ] {
            assert_eq!(base64(bytes), text);
            assert_eq!(base64_decoded(text).as_deref(), Some(bytes));
        }
        for bad in ["aGVsbG8", "***=", "a==="] {
            assert_eq!(base64_decoded(bad), None, "{bad}");
        }
    }
}
