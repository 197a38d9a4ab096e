//! What the commands of our own have in common.

use std::path::PathBuf;

/// Exit statuses of sysexits(3).
pub const EX_USAGE: u8 = 64;
pub const EX_CONFIG: u8 = 78;
pub const EX_TEMPFAIL: u8 = 75;

/// `MAIL_CONFIG`, or Postfix's folder.
pub fn default_config_dir() -> PathBuf {
    std::env::var_os("MAIL_CONFIG").map_or_else(|| PathBuf::from("/etc/postfix"), PathBuf::from)
}
