//! `postconf -e`, `-X` and `-#`: changes to main.cf that keep every other byte, and the atomic replacement of a file.
//!
//! A changed parameter keeps its place; its continuation lines go, comments among them stay. Every
//! occurrence of a duplicated parameter changes. New parameters are appended in the order given.

use crate::error::{ConfigError, Origin, os_text};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What to do with parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `-e name=value`.
    Set(Vec<(String, String)>),
    /// `-X name`.
    Remove(Vec<String>),
    /// `-# name`.
    CommentOut(Vec<String>),
}

/// Changes main.cf at `path`. Returns warnings in Postfix's words (`…: multiple entries for "mydomain"`).
pub fn edit_main(path: &Path, change: &Change) -> Result<Vec<String>, ConfigError> {
    let mut warnings = Vec::new();
    if let Change::Set(settings) = change {
        for (at, (name, value)) in settings.iter().enumerate() {
            if settings[at + 1..].iter().any(|(later, _)| later == name) {
                warnings.push(format!("ignoring earlier request: '{name} = {value}'"));
            }
        }
    }
    replace_file(path, |text| {
        let (new, duplicates) = apply(text, change);
        for name in duplicates {
            warnings.push(format!(
                "{}: multiple entries for \"{name}\"",
                path.display()
            ));
        }
        Ok(new)
    })?;
    Ok(warnings)
}

/// The changed text, and the names that occurred more than once.
pub fn apply(text: &[u8], change: &Change) -> (Vec<u8>, Vec<String>) {
    let mut out = Vec::with_capacity(text.len() + 80);
    let targets = targets(change);
    let mut seen = vec![0usize; targets.len()];
    let mut inside = None;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if is_skipped(line) {
            out.extend_from_slice(line);
            continue;
        }
        let continues = line.starts_with(b" ") || line.starts_with(b"\t");
        if !continues {
            let name = name_of(line);
            inside = targets
                .iter()
                .position(|target| target.name.as_bytes() == name);
        }
        match inside.map(|at| (at, change)) {
            None => out.extend_from_slice(line),
            Some((_, Change::CommentOut(_))) => {
                out.push(b'#');
                out.extend_from_slice(line);
            }
            Some((at, Change::Set(_))) if !continues => {
                out.extend_from_slice(targets[at].line().as_bytes())
            }
            Some(_) => {}
        }
        if let (Some(at), false) = (inside, continues) {
            seen[at] += 1;
        }
    }
    for (target, _) in targets
        .iter()
        .zip(&seen)
        .filter(|(target, seen)| target.value.is_some() && **seen == 0)
    {
        if out.last().is_some_and(|byte| *byte != b'\n') {
            out.push(b'\n');
        }
        out.extend_from_slice(target.line().as_bytes());
    }
    let duplicates = targets.iter().zip(&seen).filter(|(_, seen)| **seen > 1);
    let duplicates = duplicates
        .map(|(target, _)| target.name.to_owned())
        .collect();
    (out, duplicates)
}

struct Target<'a> {
    name: &'a str,
    value: Option<&'a str>,
}

impl Target<'_> {
    fn line(&self) -> String {
        format!("{} = {}\n", self.name, self.value.unwrap_or_default())
    }
}

/// The parameters to change, the last value of each counting.
fn targets(change: &Change) -> Vec<Target<'_>> {
    let mut targets: Vec<Target<'_>> = Vec::new();
    let mut add = |name, value| match targets.iter_mut().find(|target| target.name == name) {
        Some(target) => target.value = value,
        None => targets.push(Target { name, value }),
    };
    match change {
        Change::Set(settings) => settings
            .iter()
            .for_each(|(name, value)| add(name.as_str(), Some(value.as_str()))),
        Change::Remove(names) | Change::CommentOut(names) => {
            names.iter().for_each(|name| add(name.as_str(), None))
        }
    }
    targets
}

pub(crate) fn is_skipped(line: &[u8]) -> bool {
    let visible = line.trim_ascii_start();
    visible.is_empty() || visible.starts_with(b"#")
}

fn name_of(line: &[u8]) -> &[u8] {
    let end = line
        .iter()
        .position(|byte| byte.is_ascii_whitespace() || *byte == b'=');
    &line[..end.unwrap_or(line.len())]
}

/// Replaces a file by what `change` makes of its contents: temporary file beside it, fsync, rename, fsync of the folder.
///
/// Owner and mode are kept, a symbolic link stays one. Edits at the same time take turns: like
/// Postfix's own postconf they lock `FILE.tmp`. When `change` fails, that stays behind, empty, as it
/// does there; when the disk fails, nothing does.
pub fn replace_file(
    path: &Path,
    change: impl FnOnce(&[u8]) -> Result<Vec<u8>, ConfigError>,
) -> Result<(), ConfigError> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut temporary = real.clone().into_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mut lock = lock_temporary(&temporary)?;
    let (old, facts) = read(&real, path).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })?;
    // Another edit of this name may have crashed half-way: start from an empty file.
    lock.set_len(0)
        .map_err(|e| failed("truncate", &temporary, &e))?;
    let new = change(&old)?;
    let result = write_replacement(&real, &facts, &mut lock, &temporary, &new);
    if result.is_err() {
        // The error that led here matters more than one of the clean-up.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

fn read(real: &Path, shown: &Path) -> Result<(Vec<u8>, std::fs::Metadata), ConfigError> {
    let old = std::fs::read(real).map_err(|e| {
        let text = format!("open {} for reading: {}", shown.display(), os_text(&e));
        ConfigError::unreadable(shown, &e).like_postfix(text)
    })?;
    let facts = std::fs::metadata(real).map_err(|e| failed("stat", shown, &e))?;
    Ok((old, facts))
}

fn write_replacement(
    real: &Path,
    facts: &std::fs::Metadata,
    lock: &mut Flock<File>,
    temporary: &Path,
    new: &[u8],
) -> Result<(), ConfigError> {
    lock.write_all(new)
        .map_err(|e| failed("write", temporary, &e))?;
    let own = lock.metadata().map_err(|e| failed("stat", temporary, &e))?;
    if (own.uid(), own.gid()) != (facts.uid(), facts.gid()) {
        std::os::unix::fs::fchown(&**lock, Some(facts.uid()), Some(facts.gid()))
            .map_err(|e| failed("change the owner of", temporary, &e))?;
    }
    let mode = std::fs::Permissions::from_mode(facts.mode() & 0o7777);
    lock.set_permissions(mode)
        .map_err(|e| failed("change the mode of", temporary, &e))?;
    lock.sync_all()
        .map_err(|e| failed("fsync", temporary, &e))?;
    std::fs::rename(temporary, real).map_err(|e| failed("rename", temporary, &e))?;
    let folder = real
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| failed("fsync", folder, &e))
}

/// Opens and locks the temporary file; one that was renamed into place while we waited does not count.
fn lock_temporary(temporary: &Path) -> Result<Flock<File>, ConfigError> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(temporary)
            .map_err(|e| failed("open", temporary, &e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("lock", temporary, &errno.into()))?;
        let ours = lock.metadata().map_err(|e| failed("stat", temporary, &e))?;
        match std::fs::metadata(temporary) {
            Ok(now) if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) => return Ok(lock),
            _ => {}
        }
    }
}

fn failed(verb: &str, path: &Path, error: &std::io::Error) -> ConfigError {
    let reason = os_text(error);
    ConfigError::new(
        format!("cannot {verb} it: {reason}"),
        "check the permissions and free space of the folder",
    )
    .at(Some(Origin::new(path, 0)))
    .like_postfix(format!("{verb} {}: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Change {
        Change::Set(
            pairs
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn changes() {
        let text = "a = 1\n  # c\n  2\n# d\nb = 3";
        let names = |name: &str| vec![name.to_owned()];
        for (change, expected) in [
            (set(&[("a", "x")]), "a = x\n  # c\n# d\nb = 3"),
            (
                set(&[("new", "1"), ("b", ""), ("other", "2")]),
                "a = 1\n  # c\n  2\n# d\nb = \nnew = 1\nother = 2\n",
            ),
            (set(&[("c", "1")]), "a = 1\n  # c\n  2\n# d\nb = 3\nc = 1\n"),
            (Change::Remove(names("a")), "  # c\n# d\nb = 3"),
            (
                Change::CommentOut(names("a")),
                "#a = 1\n  # c\n#  2\n# d\nb = 3",
            ),
        ] {
            let (new, _) = apply(text.as_bytes(), &change);
            assert_eq!(String::from_utf8(new).unwrap(), expected, "{change:?}");
        }
    }

    #[test]
    fn every_duplicate_changes_and_is_reported() {
        let (new, duplicates) = apply(b"a=1\nb=2\na=3\n\xff\n", &set(&[("a", "x")]));
        assert_eq!(new, b"a = x\nb=2\na = x\n\xff\n");
        assert_eq!(duplicates, ["a"]);
    }

    #[test]
    fn mode_and_link_are_kept_and_the_next_edit_takes_what_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("real.cf");
        let link = dir.path().join("main.cf");
        std::fs::write(&file, "a = 1\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        edit_main(&link, &set(&[("a", "2")])).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "a = 2\n");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        let refused = replace_file(&file, |_| Err(ConfigError::new("no", "")));
        assert!(refused.is_err());
        let left = std::fs::read(dir.path().join("real.cf.tmp")).unwrap();
        assert_eq!(
            (left.len(), std::fs::read_dir(dir.path()).unwrap().count()),
            (0, 3)
        );
        edit_main(&link, &set(&[("a", "3")])).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn edits_at_the_same_time_do_not_lose_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("main.cf");
        std::fs::write(&file, "").unwrap();
        std::thread::scope(|scope| {
            for n in 0..20 {
                let file = &file;
                scope.spawn(move || edit_main(file, &set(&[(&format!("p{n}"), "x")])).unwrap());
            }
        });
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 20);
    }
}
