//! Temporary folders: short paths (unix sockets allow 107 bytes), readable by the servers' own users.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::account::Account;

/// A folder with mode 0755 that is removed with all its contents when dropped.
#[derive(Debug)]
pub struct TempDir(tempfile::TempDir);

impl TempDir {
    #[allow(clippy::new_without_default)]
    pub fn new() -> TempDir {
        let dir = tempfile::Builder::new().prefix("ptk").tempdir();
        let dir = dir.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        set_mode(dir.path(), 0o755);
        TempDir(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path as text; temporary folders have plain names.
    pub fn str(&self) -> &str {
        self.path().to_str().expect("TMPDIR is valid UTF-8")
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file (folders on the way are made), mode 0644, dated one hour back: Postfix re-reads
    /// a configuration file until it is older than two seconds.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        write_aged(&path, contents.as_ref());
        path
    }

    /// Makes a folder with this mode, and its parents, owned by `owner` when we are root.
    pub fn folder(&self, name: &str, mode: u32, owner: &Account) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        own(&path, owner);
        set_mode(&path, mode);
        path
    }

    /// Leaves the folder behind, for a look at it after the test.
    pub fn keep(self) -> PathBuf {
        self.0.keep()
    }
}

/// Writes `path` with mode 0644, dated one hour back.
pub fn write_aged(path: &Path, contents: &[u8]) {
    let fail = |error: std::io::Error| -> ! { panic!("{}: {error}", path.display()) };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).unwrap_or_else(|error| fail(error));
    }
    fs::write(path, contents).unwrap_or_else(|error| fail(error));
    set_mode(path, 0o644);
    let old = SystemTime::now() - Duration::from_secs(3600);
    let file = fs::File::options()
        .write(true)
        .open(path)
        .unwrap_or_else(|error| fail(error));
    file.set_modified(old).unwrap_or_else(|error| fail(error));
}

/// `chmod`.
pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("chmod {}: {error}", path.display()));
}

/// `chown` to user and group of `owner`; nothing when we are not root.
pub fn own(path: &Path, owner: &Account) {
    own_ids(path, owner.uid, owner.gid);
}

/// `chown` by number; nothing when we are not root.
pub fn own_ids(path: &Path, uid: u32, gid: u32) {
    if crate::account::is_root() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    }
}

/// Where database templates and port reservations are kept between runs: `postroom-testkit-UID` in the
/// system's temporary folder. Its owner must be us: another user's folder of that name is refused.
pub fn cache_dir() -> PathBuf {
    let uid = nix::unistd::geteuid().as_raw();
    let path = std::env::temp_dir().join(format!("postroom-testkit-{uid}"));
    let _ = fs::DirBuilder::new().mode(0o755).create(&path);
    let owner = fs::symlink_metadata(&path).map(|meta| (meta.is_dir(), meta.uid()));
    match owner {
        Ok((true, owner)) if owner == uid => path,
        _ => panic!(
            "{} is not a folder of ours; remove it or set TMPDIR",
            path.display()
        ),
    }
}

/// A folder that `build` fills once per machine and key; `build` gets an empty folder. Later calls, also of
/// other processes, find it ready.
pub fn cached(key: &str, build: impl FnOnce(&Path)) -> PathBuf {
    let root = cache_dir();
    let ready = root.join(key);
    let lock =
        fs::File::create(root.join(format!("{key}.lock"))).expect("the cache folder is ours");
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive)
        .unwrap_or_else(|(_, error)| panic!("lock of {}: {error}", ready.display()));
    if !ready.is_dir() {
        let half = root.join(format!("{key}.half"));
        let _ = fs::remove_dir_all(&half);
        fs::create_dir_all(&half).expect("the cache folder is ours");
        build(&half);
        fs::rename(&half, &ready).expect("both names lie in the cache folder");
    }
    ready
}

/// Copies a whole tree with owners and modes (`cp -a`).
pub fn copy_tree(from: &Path, to: &Path) {
    let mut command = std::process::Command::new("cp");
    command
        .args(["-a", "--reflink=auto", "--sparse=always"])
        .arg(from)
        .arg(to);
    crate::process::run(&mut command);
}
