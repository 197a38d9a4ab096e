//! A milter in Python (python3-milter, which is libmilter), for tests that need one that does as it is told.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::Process;
use crate::{TempDir, free_port};

/// A running (or stopped) milter program. `smtpd_milters = inet:127.0.0.1:PORT`.
#[derive(Debug)]
pub struct PythonMilter {
    pub port: u16,
    process: Option<Process>,
    dir: TempDir,
}

impl PythonMilter {
    /// Runs `script` with the argument `inet:PORT@127.0.0.1` and these ones. The file `events` in its folder, named in the
    /// environment as `EVENTS`, is what [`PythonMilter::events`] reads.
    pub fn start(script: &str, arguments: &[&str]) -> PythonMilter {
        let dir = TempDir::new();
        dir.write("program.py", script);
        dir.write("events", "");
        let port = free_port();
        // Debian's own interpreter: that is the one which has the module.
        let mut command = Command::new("/usr/bin/python3");
        command
            .arg(dir.join("program.py"))
            .arg(format!("inet:{port}@127.0.0.1"))
            .args(arguments)
            .env("EVENTS", dir.join("events"))
            .current_dir("/");
        let log = dir.join("milter.log");
        let mut process = Process::spawn(command, &log, dir.path(), Signal::SIGTERM);
        process.wait_ready("the Python milter", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        PythonMilter {
            port,
            process: Some(process),
            dir,
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// `inet:127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("inet:127.0.0.1:{}", self.port)
    }

    /// What the program has written to its `EVENTS` file.
    pub fn events(&self) -> String {
        crate::process::read_lossy(&self.dir.join("events"))
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
