//! The index `NAME.db` that postmap(1) makes of a `hash:` or `btree:` source. It is not read; but it tells that something
//! may be amiss with the source text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{ErrorKind, TableError};

/// The error for a source text that is missing while its index is there; `None` when both are missing.
pub(crate) fn without_source(spec: &str, path: &Path) -> Option<TableError> {
    let index = index_of(path);
    if path.exists() || !index.exists() {
        return None;
    }
    let (path, index) = (path.display(), index.display());
    let text = format!(
        "open database {path}: the source text is missing, and its index {index} is not read; \
         get the text from a backup, or write it with Postfix's tool: postmap -s {spec} >{path}"
    );
    Some(TableError::new(ErrorKind::Operator, spec, text))
}

/// Reports an index that is newer than its source text, once for each in the life of the process: entries that were
/// put into the index alone (`postmap -i`) are not in the text.
pub(crate) fn report_newer(path: &Path) {
    static REPORTED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let Some(note) = newer(path) else {
        return;
    };
    let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
    if reported.insert(path.to_path_buf()) {
        tracing::info!("{note}");
    }
}

fn newer(path: &Path) -> Option<String> {
    let index = index_of(path);
    let changed = |path: &Path| path.metadata().ok()?.modified().ok();
    if changed(&index)? <= changed(path)? {
        return None;
    }
    let (path, index) = (path.display(), index.display());
    Some(format!(
        "{index} is newer than its source text {path}; the text is used"
    ))
}

fn index_of(path: &Path) -> PathBuf {
    let mut index = path.as_os_str().to_os_string();
    index.push(".db");
    index.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn an_index_is_no_source() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("aliases");
        let write = |path: &Path, age: u64| {
            let file = std::fs::File::create(path).expect("a file");
            let time = SystemTime::now() - Duration::from_secs(age);
            file.set_modified(time).expect("a time");
        };
        assert!(without_source("hash:x", &path).is_none());

        write(&dir.path().join("aliases.db"), 10);
        let error = without_source("hash:x", &path)
            .expect("an error")
            .to_string();
        assert!(error.contains("postmap -s hash:x >"), "{error}");
        assert!(error.contains("aliases.db is not read"), "{error}");

        write(&path, 20);
        assert!(without_source("hash:x", &path).is_none());
        let note = newer(&path).expect("a note");
        assert!(note.contains("aliases.db is newer"), "{note}");

        write(&path, 5);
        assert_eq!(newer(&path), None);
    }
}
