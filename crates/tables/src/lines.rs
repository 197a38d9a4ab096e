//! Logical lines of table sources: continuation lines, comments, blank lines (postmap(1), regexp_table(5)).

/// A logical line and the number of its first physical line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub number: usize,
    pub bytes: Vec<u8>,
}

/// Joins physical lines that start with white space to the line before. Comments and blank lines
/// vanish and do not end a continuation. A first line that starts with white space is reported and left out, with
/// what continues it. `path` is for that message.
pub(crate) fn logical(source: &[u8], path: &str, problems: &mut Vec<String>) -> Vec<Line> {
    let mut lines = join(source);
    let indented = |line: &Line| line.bytes[0].is_ascii_whitespace();
    if lines.first().is_some_and(indented) {
        let line = lines.remove(0).bytes;
        let rest = if line.len() > 30 { "..." } else { "" };
        let line = shown(&line[..line.len().min(30)]);
        problems.push(format!(
            "{path}: logical line must not start with whitespace: \"{line}{rest}\""
        ));
    }
    lines
}

fn join(source: &[u8]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (index, physical) in source.split(|&byte| byte == b'\n').enumerate() {
        let text = physical.trim_ascii();
        if text.is_empty() || text[0] == b'#' {
            continue;
        }
        let continues = physical[0].is_ascii_whitespace();
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
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_do_not_end_a_continuation() {
        let mut problems = Vec::new();
        let lines = logical(b"# c\na b\n\n# c\n c\nd e\n", "t", &mut problems);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].number, lines[0].bytes.as_slice()),
            (2, &b"a b c"[..])
        );
        assert_eq!(
            (lines[1].number, lines[1].bytes.as_slice()),
            (6, &b"d e"[..])
        );
        assert!(problems.is_empty());
    }

    #[test]
    fn a_first_line_does_not_continue_anything() {
        let mut problems = Vec::new();
        assert_eq!(logical(b"\n a b\n c\nd e\n", "t", &mut problems).len(), 1);
        assert_eq!(
            problems,
            ["t: logical line must not start with whitespace: \" a b c\""]
        );
    }
}
