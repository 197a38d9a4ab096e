//! Finding the programs of the peers, and the switch that leaves peer tests out.

use std::path::{Path, PathBuf};

/// What to do when a peer is missing; ends every such panic.
pub const REMEDY: &str = "install the peers with scripts/install-peers, or set POSTROOM_TEST_PEERS=0 to leave out the tests that need them";

/// Folders outside an ordinary PATH in which Debian keeps servers.
const EXTRA: &[&str] = &[
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
    "/usr/lib/postfix/sbin",
    "/usr/lib/dovecot",
];

/// False, with a printed line, when `POSTROOM_TEST_PEERS=0` asks for the quick suite.
/// By default peers are required: a missing one fails the test.
pub fn peers() -> bool {
    if std::env::var_os("POSTROOM_TEST_PEERS").is_some_and(|value| value == "0") {
        println!("left out: POSTROOM_TEST_PEERS=0, this test needs a real peer");
        return false;
    }
    true
}

/// The full path of `program`; panics with the remedy when it is not installed.
pub fn require(program: &str) -> PathBuf {
    installed(program).unwrap_or_else(|| panic!("`{program}` is not installed; {REMEDY}"))
}

/// The full path of `program`, looked for in PATH and where Debian keeps servers.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(EXTRA.iter().map(PathBuf::from))
        .chain(postgres_folders())
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// `/usr/lib/postgresql/*/bin`, the newest version first.
fn postgres_folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((version(&entry.path())?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

fn version(folder: &Path) -> Option<u32> {
    folder.file_name()?.to_str()?.parse().ok()
}
