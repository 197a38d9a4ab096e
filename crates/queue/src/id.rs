//! Queue ids: what a message is called in replies, logs, file names and commands.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::QueueError;

/// Twelve upper-case hexadecimal digits, as in Postfix's short queue ids: the microsecond of its
/// making, modulo 2^48 (nine years). Ids sort by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct QueueId([u8; QueueId::LEN]);

impl QueueId {
    /// Characters in an id.
    pub const LEN: usize = 12;

    pub(crate) fn from_number(number: u64) -> QueueId {
        let mut text = [0; QueueId::LEN];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = b"0123456789ABCDEF"[(number >> (4 * place)) as usize & 15];
        }
        QueueId(text)
    }

    pub(crate) fn number(&self) -> u64 {
        u64::from_str_radix(self.as_str(), 16).unwrap_or(0)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Only ASCII digits and letters are ever stored.
        std::str::from_utf8(&self.0).unwrap_or("")
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for QueueId {
    type Err = QueueError;

    fn from_str(text: &str) -> Result<QueueId, QueueError> {
        let bad = || QueueError::BadId(text.to_owned());
        let digits: [u8; QueueId::LEN] = text.as_bytes().try_into().map_err(|_| bad())?;
        match digits
            .iter()
            .all(|c| matches!(c, b'0'..=b'9' | b'A'..=b'F'))
        {
            true => Ok(QueueId(digits)),
            false => Err(bad()),
        }
    }
}

impl From<QueueId> for String {
    fn from(id: QueueId) -> String {
        id.as_str().to_owned()
    }
}

impl TryFrom<String> for QueueId {
    type Error = QueueError;

    fn try_from(text: String) -> Result<QueueId, QueueError> {
        text.parse()
    }
}

/// Gives out ids, each greater than the last one, also when the clock steps back.
pub(crate) struct IdSource {
    last: AtomicU64,
}

impl IdSource {
    const MASK: u64 = (1 << 48) - 1;

    pub(crate) fn new() -> IdSource {
        IdSource {
            last: AtomicU64::new(0),
        }
    }

    pub(crate) fn next(&self, now: SystemTime) -> QueueId {
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as u64);
        let next = |last: u64| now.max(last + 1);
        let last = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last))
            })
            .unwrap_or_else(|last| last);
        QueueId::from_number(next(last) & IdSource::MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_look_like_postfix_and_read_back() {
        for number in [0, 1, 0xABCDEF012345, IdSource::MASK] {
            let id = QueueId::from_number(number);
            assert_eq!(id.number(), number);
            assert_eq!(id.as_str().parse::<QueueId>().unwrap(), id);
        }
        for bad in [
            "",
            "12",
            "abcdefabcdef",
            "../../etc/pas",
            "0123456789AG",
            "0123456789ABC",
        ] {
            assert!(bad.parse::<QueueId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_rise_even_when_the_clock_falls() {
        let source = IdSource::new();
        let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ids: Vec<_> = [0, 0, 5, 0]
            .iter()
            .map(|back| source.next(start - Duration::from_secs(*back)))
            .collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    }
}
