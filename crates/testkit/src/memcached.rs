//! A private memcached.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::Process;
use crate::{TempDir, free_port, require};

/// A running memcached on 127.0.0.1.
#[derive(Debug)]
pub struct Memcached {
    pub port: u16,
    process: Option<Process>,
    dir: TempDir,
}

impl Memcached {
    pub fn start() -> Memcached {
        let mut server = Memcached {
            port: free_port(),
            process: None,
            dir: TempDir::new(),
        };
        server.start_again();
        server
    }

    /// Starts it on the same port, with nothing in it.
    pub fn start_again(&mut self) {
        let port = self.port;
        let mut command = Command::new(require("memcached"));
        command
            .args(["-l", "127.0.0.1", "-U", "0", "-m", "8", "-u", "nobody"])
            .args(["-p", &port.to_string()]);
        let log = self.dir.path().join("memcached.log");
        let mut process = Process::spawn(command, &log, self.dir.path(), Signal::SIGTERM);
        process.wait_ready("memcached", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        self.process = Some(process);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Stores a value.
    pub fn set(&self, key: &str, value: &[u8]) {
        let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        let reply = self.ask(&request, "\r\n");
        assert_eq!(reply, "STORED\r\n", "memcached: {key}");
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<String> {
        let reply = self.ask(format!("get {key}\r\n").as_bytes(), "END\r\n");
        let (_, data) = reply.split_once("\r\n")?;
        Some(data.strip_suffix("\r\nEND\r\n")?.to_owned())
    }

    fn ask(&self, request: &[u8], end: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("memcached answers");
        stream.write_all(request).expect("memcached reads");
        let mut input = BufReader::new(stream);
        let mut reply = String::new();
        while !reply.ends_with(end) {
            let size = input.read_line(&mut reply).expect("memcached writes text");
            assert!(size > 0, "memcached closed the connection after {reply:?}");
        }
        reply
    }
}
