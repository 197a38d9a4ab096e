//! Ports of 127.0.0.1 that nobody else will take while the test runs.

use std::fs::File;
use std::net::TcpListener;
use std::sync::Mutex;

use nix::fcntl::{Flock, FlockArg};

/// Reservations of this process; the locks go when it ends.
static HELD: Mutex<Vec<Flock<File>>> = Mutex::new(Vec::new());

/// Below Linux' range for outgoing connections (32768…), so that no client socket takes the port by chance.
const FIRST: u16 = 11_000;
const COUNT: u16 = 20_000;

/// A TCP port of 127.0.0.1 on which nothing listens. It is reserved for this process by a lock file:
/// other test processes that ask here get other ports, also while the server behind it is down.
pub fn free_port() -> u16 {
    let folder = crate::tempdir::cache_dir().join("ports");
    std::fs::create_dir_all(&folder).expect("the cache folder is ours");
    for _ in 0..2000 {
        let port = FIRST + random() % COUNT;
        let Ok(file) = File::create(folder.join(port.to_string())) else {
            continue;
        };
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            HELD.lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .push(lock);
            return port;
        }
    }
    panic!(
        "no free port between {FIRST} and {} on 127.0.0.1",
        FIRST + COUNT
    );
}

/// A port on which nothing will listen: connections are refused.
pub fn dead_port() -> u16 {
    free_port()
}

fn random() -> u16 {
    use std::hash::{BuildHasher, Hasher};
    // RandomState is seeded by the system; good enough to keep parallel tests apart.
    (std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
        & 0xffff) as u16
}
