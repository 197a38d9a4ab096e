//! Waiting for something that another process does.

use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Calls `ready` every few milliseconds until it returns something; panics after `limit`, saying `what` did not come.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(
            Instant::now() < end,
            "waited {} s in vain for {what}",
            limit.as_secs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits up to 30 s until 127.0.0.1:`port` accepts connections.
pub fn wait_for_port(port: u16) {
    wait_for(
        &format!("a server on 127.0.0.1:{port}"),
        Duration::from_secs(30),
        || TcpStream::connect(("127.0.0.1", port)).ok(),
    );
}
