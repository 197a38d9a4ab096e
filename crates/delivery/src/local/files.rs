//! The files that local(8) reads destinations from, and whose rights those get.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::fcntl::OFlag;

use super::{Account, PROG};
use crate::mailbox::failure::reason;

/// Bytes of a `.forward` or `:include:` file.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

/// Whose rights the commands and files of an alias table get: its owner's; `None` where that is root, or where
/// the table is no file.
pub(super) fn owner_of_table(spec: &str) -> Result<Option<Account>, String> {
    let spec = spec.strip_prefix("proxy:").unwrap_or(spec);
    let path = spec.split_once(':').map_or("", |(_, path)| path);
    if !path.starts_with('/') {
        return Ok(None);
    }
    let candidates = [
        path.to_owned(),
        format!("{path}.db"),
        format!("{path}.lmdb"),
    ];
    let Some(facts) = candidates.iter().find_map(|path| fs::metadata(path).ok()) else {
        return Ok(None);
    };
    match facts.uid() {
        0 => Ok(None),
        uid => Account::of_uid(uid)?
            .map(Some)
            .ok_or_else(|| format!("cannot find alias database owner for {spec}")),
    }
}

/// An `:include:` file's text, and whose rights its commands get: its owner's, unless that is root.
/// The error says why it cannot be used.
pub(super) fn read_include(
    path: &str,
    reader: Option<&Account>,
) -> Result<(String, Option<Account>), String> {
    let _rights = reader.map(|account| account.owner.borrow()).transpose()?;
    let facts = fs::metadata(path)
        .map_err(|error| format!("unable to lookup :include: file {path}: {}", reason(&error)))?;
    if !facts.is_file() {
        return Err(format!(":include: file {path} is not a regular file"));
    }
    if facts.mode() & 0o002 != 0 {
        return Err(format!(":include: file {path} is world writable"));
    }
    let owner = match facts.uid() {
        0 => reader.cloned(),
        uid => Some(
            Account::of_uid(uid)?
                .ok_or_else(|| format!("{path}: cannot find :include: file owner username"))?,
        ),
    };
    let text = read(path)
        .map_err(|error| format!("cannot open include file {path}: {}", reason(&error)))?;
    Ok((text, owner))
}

/// The first of these files that is there and may be trusted.
pub(super) fn find_forward(
    paths: &[String],
    account: &Account,
) -> Result<Option<(String, String)>, String> {
    let _rights = account.owner.borrow()?;
    for path in paths {
        let Ok(facts) = fs::symlink_metadata(path) else {
            continue;
        };
        let complaint = if !facts.is_file() {
            "is not a regular file".to_owned()
        } else if facts.uid() != 0 && facts.uid() != account.owner.uid {
            format!("has bad owner uid {}", facts.uid())
        } else if facts.mode() & 0o002 != 0 {
            "is world writable".to_owned()
        } else {
            match read(path) {
                Ok(text) => return Ok(Some((path.clone(), text))),
                Err(error) => {
                    tracing::warn!(prog = PROG, "cannot open file {path}: {}", reason(&error));
                    continue;
                }
            }
        };
        tracing::warn!(prog = PROG, "file {path} {complaint}");
    }
    Ok(None)
}

/// The destinations in a file, comments left out, as one list.
fn read(path: &str) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    // O_NONBLOCK: a FIFO put in the file's place meanwhile must not hold us.
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?
        .take(FILE_LIMIT)
        .read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let lines: Vec<&str> = lines
        .map(|line| line.trim_end_matches([',', ' ']))
        .collect();
    Ok(lines.join(",\n"))
}
