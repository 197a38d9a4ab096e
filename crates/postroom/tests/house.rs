//! House rules that the compiler does not know.

use std::fs;
use std::path::{Path, PathBuf};

/// STYLE: a stranger who opens a file learns from its first line what it is for.
#[test]
fn every_module_opens_with_what_it_is_for() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for name in entries(&crates) {
        collect(&name.join("src"), &mut files);
    }
    assert!(
        files.len() > 50,
        "the crates are where they were: {files:?}"
    );
    let silent: Vec<&PathBuf> = files
        .iter()
        .filter(|file| {
            let text = fs::read_to_string(file).unwrap_or_default();
            !text.starts_with("//! ")
        })
        .collect();
    assert!(
        silent.is_empty(),
        "no `//!` paragraph at the top of {silent:#?}"
    );
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in entries(folder) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
