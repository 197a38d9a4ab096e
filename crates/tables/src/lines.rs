//! Logical lines of table sources: continuation lines, comments, blank lines (postmap(1), regexp_table(5)).

/// A logical line and the number of its first physical line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub number: usize,
    pub bytes: Vec<u8>,
}

/// Joins physical lines that start with white space to the line before. Comments and blank lines
/// vanish and do not end a continuation. A first line that starts with white space belongs to nothing; what is to be
/// said of it is the second value.
pub(crate) fn logical(source: &[u8]) -> (Vec<Line>, Option<String>) {
    let mut lines = join(source);
    let indented = |line: &Line| is_space(line.bytes[0]);
    let mut stray = None;
    if lines.first().is_some_and(indented) {
        let mut line = lines.remove(0).bytes;
        if let Some(end) = line.iter().position(|&byte| byte == 0) {
            line.truncate(end);
        }
        let rest = if line.len() > 30 { "..." } else { "" };
        let line = shown(&line[..line.len().min(30)]);
        stray = Some(format!(
            "logical line must not start with whitespace: \"{line}{rest}\""
        ));
    }
    (lines, stray)
}

fn join(source: &[u8]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (index, physical) in source.split(|&byte| byte == b'\n').enumerate() {
        match physical.iter().find(|byte| !is_space(**byte)) {
            None | Some(b'#') => continue,
            Some(_) => {}
        }
        let continues = is_space(physical[0]);
        match lines.last_mut() {
            Some(line) if continues => line.bytes.extend_from_slice(physical),
            _ => lines.push(Line {
                number: index + 1,
                bytes: physical.to_vec(),
            }),
        }
    }
    lines
}

/// Bytes for a message: what is not UTF-8 becomes a question mark.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
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
        let (lines, stray) = logical(b"# c\na b\n\n# c\n c\nd e\n");
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].number, lines[0].bytes.as_slice()),
            (2, &b"a b c"[..])
        );
        assert_eq!(
            (lines[1].number, lines[1].bytes.as_slice()),
            (6, &b"d e"[..])
        );
        assert_eq!(stray, None);
    }

    #[test]
    fn a_first_line_does_not_continue_anything() {
        let (lines, stray) = logical(b"\n a b\n c\nd e\n");
        assert_eq!(lines.len(), 1);
        let text = "logical line must not start with whitespace: \" a b c\"";
        assert_eq!(stray.as_deref(), Some(text));
    }
}
