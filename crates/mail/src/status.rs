//! Enhanced status codes (RFC 3463).

use std::fmt;
use std::str::FromStr;

/// `class.subject.detail`, for example 5.1.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedCode {
    /// 2 success, 4 temporary failure, 5 permanent failure.
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl EnhancedCode {
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        EnhancedCode {
            class,
            subject,
            detail,
        }
    }

    /// The same subject and detail in the class of an SMTP reply code: 450 turns 5.1.1 into 4.1.1.
    pub const fn with_class_of(self, code: u16) -> Self {
        EnhancedCode {
            class: (code / 100) as u8,
            ..self
        }
    }

    pub const fn is_permanent(self) -> bool {
        self.class == 5
    }

    /// The code at the start of `text`, and the text that follows it without the blanks between.
    pub fn split_prefix(text: &str) -> Option<(EnhancedCode, &str)> {
        let end = text.find([' ', '\t', '\n']).unwrap_or(text.len());
        let code = text[..end].parse().ok()?;
        Some((code, text[end..].trim_start()))
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl fmt::Debug for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `digit.digits.digits` with a class of 2, 4 or 5 (RFC 3463 section 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAnEnhancedCode;

impl fmt::Display for NotAnEnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an enhanced status code; expected class.subject.detail as in 5.1.1")
    }
}

impl std::error::Error for NotAnEnhancedCode {}

impl FromStr for EnhancedCode {
    type Err = NotAnEnhancedCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let (Some(class), Some(subject), Some(detail), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotAnEnhancedCode);
        };
        let number = |part: &str, digits: usize| {
            let plain = (1..=digits).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_digit());
            if plain {
                part.parse::<u16>().ok()
            } else {
                None
            }
        };
        match (class, number(subject, 3), number(detail, 3)) {
            ("2" | "4" | "5", Some(subject), Some(detail)) => Ok(EnhancedCode {
                class: class.as_bytes()[0] - b'0',
                subject,
                detail,
            }),
            _ => Err(NotAnEnhancedCode),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        assert_eq!("5.1.1".parse(), Ok(EnhancedCode::new(5, 1, 1)));
        assert_eq!(EnhancedCode::new(4, 3, 0).to_string(), "4.3.0");
        for bad in [
            "", "5", "5.1", "3.1.1", "5.1.1.1", "5.x.1", "5.+1.1", "5.1234.1",
        ] {
            assert_eq!(bad.parse::<EnhancedCode>(), Err(NotAnEnhancedCode), "{bad}");
        }
    }

    #[test]
    fn takes_the_class_of_a_reply_code() {
        let code = EnhancedCode::new(5, 1, 1);
        assert_eq!(code.with_class_of(450), EnhancedCode::new(4, 1, 1));
    }

    #[test]
    fn splits_a_prefix() {
        assert_eq!(
            EnhancedCode::split_prefix("5.7.1  go away"),
            Some((EnhancedCode::new(5, 7, 1), "go away"))
        );
        assert_eq!(EnhancedCode::split_prefix("go away"), None);
    }
}
