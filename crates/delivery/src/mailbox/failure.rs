//! Failures of file operations, with the status codes and words of virtual(8).

use std::io;

use mail::status::EnhancedCode;
use nix::errno::Errno;

/// A delivery that did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub dsn: EnhancedCode,
    pub text: String,
    /// It may go away: somebody else is at it just now, or has to put something right.
    pub passing: bool,
}

impl Failure {
    /// A failure that says `text: reason` with the code that the error deserves: 5.2.2 for a file limit or
    /// a quota, 4.3.0 for trouble of the whole system, 4.2.0 for trouble with this mailbox.
    pub fn of_io(text: impl AsRef<str>, error: &io::Error) -> Failure {
        Failure {
            dsn: code(error),
            text: format!("{}: {}", text.as_ref(), reason(error)),
            passing: matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::AlreadyExists
            ),
        }
    }

    /// Trouble with this mailbox.
    pub fn of_mailbox(text: impl Into<String>) -> Failure {
        Failure {
            dsn: EnhancedCode::new(4, 2, 0),
            text: text.into(),
            passing: false,
        }
    }

    /// The same failure, its text behind `what: `.
    pub fn within(self, what: &str) -> Failure {
        self.behind(&format!("{what}: "))
    }

    /// The same failure, its text behind `start`.
    pub fn behind(self, start: &str) -> Failure {
        Failure {
            text: format!("{start}{}", self.text),
            ..self
        }
    }

    /// The same for a file or folder that a user named: trouble with it alone is permanent (5.2.0), as
    /// local(8) has it.
    pub fn of_named_file(mut self) -> Failure {
        if !self.passing && self.dsn == EnhancedCode::new(4, 2, 0) {
            self.dsn = EnhancedCode::new(5, 2, 0);
        }
        self
    }
}

/// The error's plain words, as strerror(3) has them.
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

fn code(error: &io::Error) -> EnhancedCode {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EFBIG | Errno::EDQUOT) => EnhancedCode::new(5, 2, 2),
        Some(
            Errno::ENOSPC
            | Errno::EIO
            | Errno::EROFS
            | Errno::ENFILE
            | Errno::EMFILE
            | Errno::ENOMEM,
        ) => EnhancedCode::new(4, 3, 0),
        _ => EnhancedCode::new(4, 2, 0),
    }
}
