//! The answer of a policy service: attributes up to an empty line, of which `action` counts. Nothing is believed of
//! the other side: neither that it ends its lines, nor that it ends.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

/// More than this is no answer. Postfix has no limit here, and reads until its memory is full.
const LONGEST: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection.
    Connect(io::Error),
    Io(io::Error),
    /// The time is over; how many bytes of the answer had come.
    Timeout(Vec<u8>),
    /// The connection was closed behind these bytes.
    Closed(Vec<u8>),
    /// There is no `action` in it.
    NoAction,
    TooLong,
}

/// An answer, and whether the connection is good for another request.
pub(super) struct Answer {
    pub action: Vec<u8>,
    pub reusable: bool,
}

/// Reads one answer.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    deadline: Instant,
) -> Result<Answer, Failure> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = end_of(&bytes) {
            let reusable = bytes.len() == end;
            let action = action_in(&bytes[..end]).ok_or(Failure::NoAction)?;
            return Ok(Answer {
                action: action.to_vec(),
                reusable,
            });
        }
        if bytes.len() > LONGEST {
            return Err(Failure::TooLong);
        }
        match timeout_at(deadline, stream.read_buf(&mut bytes)).await {
            Err(_) => return Err(Failure::Timeout(bytes)),
            Ok(Ok(0)) => return Err(Failure::Closed(bytes)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(Failure::Io(error)),
        }
    }
}

/// Where the answer ends: behind its empty line.
fn end_of(bytes: &[u8]) -> Option<usize> {
    if bytes.first() == Some(&b'\n') {
        return Some(1);
    }
    let at = bytes.windows(2).position(|pair| pair == b"\n\n")?;
    Some(at + 2)
}

/// The value of the first `action`.
fn action_in(bytes: &[u8]) -> Option<&[u8]> {
    bytes
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"action="))
}

impl Failure {
    /// Whether nothing was heard: over an old connection, that means only that it was gone.
    pub fn is_silence(&self) -> bool {
        match self {
            Failure::Closed(bytes) => bytes.is_empty(),
            Failure::Io(error) => is_gone(error),
            _ => false,
        }
    }

    /// Warnings about the bytes themselves, as Postfix words them.
    pub fn details(&self, place: &str) -> Option<String> {
        let part = |bytes: &[u8]| {
            let line = bytes
                .rsplit(|byte| *byte == b'\n')
                .next()
                .unwrap_or_default();
            if line.contains(&b'=') {
                "value"
            } else {
                "name"
            }
        };
        match self {
            Failure::Connect(error) => Some(format!("connect to {place}: {}", reason(error))),
            Failure::NoAction => Some(format!("missing attribute action in input from {place}")),
            Failure::Closed(bytes) if !bytes.is_empty() => Some(format!(
                "premature end-of-input on {place} while reading input attribute {}",
                part(bytes)
            )),
            Failure::Timeout(bytes) if !bytes.is_empty() => Some(format!(
                "timeout on {place} while reading input attribute {}",
                part(bytes)
            )),
            Failure::TooLong => Some(format!(
                "answer of more than {LONGEST} bytes in input from {place}"
            )),
            _ => None,
        }
    }

    /// What `problem talking to server` ends with.
    pub fn summary(&self) -> String {
        match self {
            Failure::Connect(error) | Failure::Io(error) => reason(error),
            Failure::Timeout(_) => "Connection timed out".into(),
            Failure::Closed(_) | Failure::NoAction | Failure::TooLong => "Application error".into(),
        }
    }

    /// Failures that the first try may have without a word: the server has just been started again, say.
    pub fn is_common(&self) -> bool {
        match self {
            Failure::Connect(error) | Failure::Io(error) => {
                error.kind() == io::ErrorKind::NotFound || is_gone(error)
            }
            Failure::Closed(_) | Failure::NoAction | Failure::TooLong => true,
            Failure::Timeout(_) => false,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// `Connection refused`, without the number that Rust adds.
fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::TimedOut {
        return "Connection timed out".into();
    }
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_owned()
}

/// The moment at which a wait of this length is over.
pub(super) fn deadline(patience: Duration) -> Instant {
    Instant::now() + patience
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_action_of_a_complete_answer_counts() {
        for (bytes, end, action) in [
            (&b"action=DUNNO\n\n"[..], Some(14), Some(&b"DUNNO"[..])),
            (b"a=b\naction=x\naction=y\n\nrest", Some(23), Some(b"x")),
            (b"\n", Some(1), None),
            (b"action =x\n\n", Some(11), None),
            (b"action=DUNNO\n", None, Some(b"DUNNO")),
            (b"action=DUNNO\r\n\r\n", None, Some(b"DUNNO\r")),
        ] {
            assert_eq!(end_of(bytes), end, "{}", bytes.escape_ascii());
            assert_eq!(action_in(bytes), action, "{}", bytes.escape_ascii());
        }
    }
}
