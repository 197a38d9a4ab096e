//! Addresses and messages as the RFCs define them, without I/O.
//!
//! An address travels through Postroom in its *internal* form: the local part without quotes, as
//! Postfix keeps it. The *external* form, quoted where RFC 5322 asks for it, exists at the edges:
//! in SMTP commands, in message headers, and as the key and the value of lookup tables.

pub mod address;
pub mod date;
pub mod dsn;
pub mod fold;
pub mod host;
pub mod mime;
pub mod status;
pub mod token;

pub use fold::fold;
pub use status::EnhancedCode;
