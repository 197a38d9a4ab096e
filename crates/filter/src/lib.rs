//! What others say of a message: milters, and the patterns of header_checks(5) and body_checks(5).
//!
//! Nothing here knows SMTP: the facts of a session are passed in, and answers are texts that the caller sends on.

pub mod checks;
pub mod draft;
pub mod milter;

pub use checks::{CheckLists, Checker, Context, Findings};
pub use draft::Draft;
pub use milter::{Change, Macros, Milters, Settings as MilterSettings, Verdict};
