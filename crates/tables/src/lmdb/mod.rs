//! `lmdb:`: files in LMDB's format, read and written without LMDB.
//!
//! LMDB maps its files into memory, which is `unsafe` and ends the process when a file is cut off. Tables
//! need a small part of it, and the format is settled: reading takes a few `pread` calls a lookup and sees
//! changes at once, a damaged file gives an error. Postfix's `postmap` and LMDB's own tools read and change the
//! files that we write, and the other way round (`crates/postroom/tests/peer_postmap_oracle.rs`).
//!
//! Postfix writes a NUL behind keys and values and reads them with or without ([`Nulls`]).

mod format;
mod read;
mod write;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Entry;
use crate::error::{ErrorKind, TableError, os_text};

pub use write::{BAD_KEY_SIZE, BadKeySize, Keep, LmdbEditor};

/// Whether keys and values end with a NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Nulls {
    /// Looked for with, then without; written with.
    #[default]
    Either,
    With,
    Without,
}

impl Nulls {
    /// The forms in which a key is looked for, in this order.
    pub fn forms(self, key: &[u8]) -> Vec<Vec<u8>> {
        let with = [key, b"\0"].concat();
        match self {
            Nulls::Either => vec![with, key.to_vec()],
            Nulls::With => vec![with],
            Nulls::Without => vec![key.to_vec()],
        }
    }

    /// The form in which a key or value is written.
    pub fn written(self, text: &[u8]) -> Vec<u8> {
        match self {
            Nulls::Either | Nulls::With => [text, b"\0"].concat(),
            Nulls::Without => text.to_vec(),
        }
    }
}

/// The file of the table `lmdb:NAME`.
pub fn lmdb_path(name: &str) -> PathBuf {
    PathBuf::from(format!("{name}.lmdb"))
}

/// An open table.
pub(crate) struct LmdbTable {
    spec: String,
    path: PathBuf,
    nulls: Nulls,
    file: Mutex<Arc<File>>,
}

impl LmdbTable {
    pub(crate) fn open(spec: &str, name: &str, nulls: Nulls) -> Result<LmdbTable, TableError> {
        let path = lmdb_path(name);
        let file = open_file(&path).map_err(|error| {
            let text = format!("open database {}: {}", path.display(), os_text(&error));
            TableError::operator(spec, text)
        })?;
        Ok(LmdbTable {
            spec: spec.to_string(),
            path,
            nulls,
            file: Mutex::new(Arc::new(file)),
        })
    }

    /// The value without its NUL.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        let file = self.current();
        let found = read::consistent(&file, |state| {
            for form in self.nulls.forms(key) {
                if let Some(value) = state.get(&form)? {
                    return Ok(Some(value));
                }
            }
            Ok(None)
        });
        match found {
            Ok(value) => Ok(value.map(stripped)),
            Err(error) => Err(self.failed("reading", &error)),
        }
    }

    /// All entries, sorted by key as it is stored.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, TableError> {
        let entries = read::consistent(&self.current(), |state| state.entries())
            .map_err(|error| self.failed("seeking", &error))?;
        Ok(entries
            .into_iter()
            .map(|(key, value)| (stripped(key), stripped(value)))
            .collect())
    }

    /// The file that the path leads to now: a table may be replaced by renaming. When it is gone, the one that was open stays.
    fn current(&self) -> Arc<File> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let same = match (file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
            _ => true,
        };
        if !same && let Ok(new) = open_file(&self.path) {
            *file = Arc::new(new);
        }
        file.clone()
    }

    fn failed(&self, doing: &str, error: &io::Error) -> TableError {
        let text = format!("error {doing} {}: {}", self.spec, os_text(error));
        TableError::new(ErrorKind::Environment, &self.spec, text)
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::from_raw_os_error(nix::libc::EISDIR));
    }
    read::current_meta(&file)?;
    Ok(file)
}

fn stripped(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MAP_SIZE: u64 = 1 << 24;

    fn table(path: &Path) -> LmdbTable {
        let name = path.to_str().expect("a path in UTF-8");
        let name = name.strip_suffix(".lmdb").expect("a suffix");
        LmdbTable::open("lmdb:test", name, Nulls::Without).expect("a table")
    }

    fn fill(path: &Path, keep: Keep, entries: impl IntoIterator<Item = (String, String)>) {
        let mut editor = LmdbEditor::open(path, keep, MAP_SIZE, 0o644).expect("a file");
        for (key, value) in entries {
            editor
                .insert(key.into_bytes(), value.into_bytes())
                .expect("a good key");
        }
        editor.commit().expect("written");
    }

    #[test]
    fn a_table_seen_open_shows_every_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("t.lmdb");
        let entry = |key: &str, value: &str| [(key.to_string(), value.to_string())];
        fill(&path, Keep::Nothing, entry("a", "1"));
        let table = table(&path);
        assert_eq!(table.get(b"a").unwrap(), Some(b"1".to_vec()));
        fill(&path, Keep::Entries, entry("b", "2"));
        assert_eq!(table.get(b"b").unwrap(), Some(b"2".to_vec()));
        assert_eq!(table.get(b"a").unwrap(), Some(b"1".to_vec()));
        fill(&path, Keep::Nothing, entry("c", "3"));
        assert_eq!(table.get(b"a").unwrap(), None);
        std::fs::remove_file(&path).expect("removed");
        fill(&path, Keep::Nothing, entry("d", "4"));
        assert_eq!(table.get(b"d").unwrap(), Some(b"4".to_vec()));
    }

    #[test]
    fn building_again_and_again_does_not_let_the_file_grow() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("t.lmdb");
        let entries = || (0..5000).map(|n| (format!("key{n}"), "v".repeat(n % 5000)));
        let mut sizes = Vec::new();
        for _ in 0..4 {
            fill(&path, Keep::Nothing, entries());
            sizes.push(std::fs::metadata(&path).expect("a file").len());
        }
        assert!(sizes[3] <= sizes[0] * 5 / 2, "{sizes:?}");
        assert_eq!(table(&path).entries().unwrap().len(), 5000);
    }

    #[test]
    fn a_damaged_file_gives_an_error() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("t.lmdb");
        fill(
            &path,
            Keep::Nothing,
            (0..900).map(|n| (format!("key{n}"), "value".repeat(n))),
        );
        let whole = std::fs::read(&path).expect("the file");
        for cut in [0, 100, 4096, 8192, 8200, 20_000] {
            std::fs::write(&path, &whole[..cut]).expect("written");
            match LmdbTable::open(
                "lmdb:t",
                path.with_extension("").to_str().unwrap(),
                Nulls::With,
            ) {
                Err(error) => assert!(error.to_string().contains("MDB_INVALID"), "{error}"),
                Ok(table) => {
                    let error = table.entries().unwrap_err().to_string();
                    assert!(error.contains("MDB_CORRUPTED"), "{error}");
                }
            }
        }
        // Building anew repairs it.
        std::fs::write(&path, &whole[..20_000]).expect("written");
        fill(&path, Keep::Nothing, [("a".to_string(), "1".to_string())]);
        assert_eq!(table(&path).entries().unwrap().len(), 1);
        // Whatever the bytes are, there is an answer.
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100 {
            let mut bytes = whole.clone();
            for _ in 0..20 {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            std::fs::write(&path, &bytes).expect("written");
            let name = path.with_extension("");
            if let Ok(table) = LmdbTable::open("lmdb:t", name.to_str().unwrap(), Nulls::Without) {
                let _ = (table.entries(), table.get(b"key17"));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_was_written_is_read(
            first in prop::collection::btree_map("[a-z]{1,300}", "[^\\x00]{0,3000}", 0..60),
            second in prop::collection::btree_map("[a-c]{1,3}", "[^\\x00]{0,30}", 0..60),
        ) {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("t.lmdb");
            fill(&path, Keep::Nothing, first.clone());
            fill(&path, Keep::Entries, second.clone());
            let mut expected = first;
            expected.extend(second);
            let table = table(&path);
            for (key, value) in &expected {
                prop_assert_eq!(table.get(key.as_bytes()).unwrap(), Some(value.clone().into_bytes()));
            }
            prop_assert_eq!(table.get(b"#").unwrap(), None);
            let found: BTreeMap<_, _> = table.entries().unwrap().into_iter().collect();
            let expected = expected.into_iter().map(|(k, v)| (k.into_bytes(), v.into_bytes())).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
