//! Logical lines of table sources: continuation lines, comments, blank lines (postmap(1), regexp_table(5)).

/// A logical line and the number of its first physical line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub number: usize,
    pub last: usize,
    pub bytes: Vec<u8>,
}

/// Joins physical lines that start with white space to the line before. Comments and blank lines
/// vanish and do not end a continuation.
pub(crate) fn logical(source: &[u8]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (index, physical) in source.split(|&byte| byte == b'\n').enumerate() {
        match physical.iter().find(|byte| !is_space(**byte)) {
            None | Some(b'#') => continue,
            Some(_) => {}
        }
        let continues = is_space(physical[0]);
        match lines.last_mut() {
            Some(line) if continues => {
                line.bytes.extend_from_slice(physical);
                line.last = index + 1;
            }
            _ => lines.push(Line {
                number: index + 1,
                last: index + 1,
                bytes: physical.to_vec(),
            }),
        }
    }
    lines
}

/// isspace(3) in the C locale: also the vertical tab.
pub(crate) fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_do_not_end_a_continuation() {
        let lines = logical(b"# c\na b\n\n# c\n c\nd e\n");
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].number, lines[0].bytes.as_slice()),
            (2, &b"a b c"[..])
        );
        assert_eq!(
            (lines[1].number, lines[1].bytes.as_slice()),
            (6, &b"d e"[..])
        );
    }
}
