//! A table server (`postroom tables serve`) on a [`Site`], and a client for it that knows socketmap_table(5) by heart:
//! it shares no code with the server.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::Site;
use crate::process::Process;

/// A running (or stopped) table server.
#[derive(Debug)]
pub struct TableServer {
    process: Option<Process>,
    binary: PathBuf,
    arguments: Vec<String>,
    output: PathBuf,
    folder: PathBuf,
    log: PathBuf,
}

impl TableServer {
    /// `BINARY tables serve -c CONF ARGUMENTS`, when it listens. Its log is the site's.
    pub fn start(binary: &Path, site: &Site, arguments: &[&str]) -> TableServer {
        let conf = site.conf().display().to_string();
        let all = ["tables", "serve", "-c", &conf];
        let mut server = TableServer {
            process: None,
            binary: binary.to_owned(),
            arguments: all
                .iter()
                .chain(arguments)
                .map(|text| text.to_string())
                .collect(),
            output: site.dir().join("tables.log"),
            folder: site.dir().to_owned(),
            log: site.dir().join("maillog"),
        };
        server.start_again();
        server
    }

    /// Starts the stopped server.
    pub fn start_again(&mut self) {
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).current_dir("/");
        let started = || self.log().matches("table server started").count();
        let before = started();
        let mut process = Process::spawn(command, &self.output, &self.folder, Signal::SIGTERM);
        process.wait_ready("postroom tables serve", Duration::from_secs(30), || {
            started() > before
        });
        self.process = Some(process);
    }

    /// SIGTERM; whether it ended with status 0.
    pub fn stop(&mut self) -> bool {
        let Some(mut process) = self.process.take() else {
            return false;
        };
        process.signal(Signal::SIGTERM);
        let status = process.wait_exit(Duration::from_secs(20));
        status.is_some_and(|status| status.success())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    pub fn signal(&self, signal: Signal) {
        self.process
            .iter()
            .for_each(|process| process.signal(signal));
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The mail log, and what the server wrote to standard error.
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.log) + &crate::process::read_lossy(&self.output)
    }

    /// The memory of the server alone, shared pages counted in part (PSS), in bytes.
    pub fn memory(&self) -> u64 {
        let Some(pid) = self.pid() else { return 0 };
        let rollup =
            std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.expect("Linux tells the memory of our own processes") * 1024
    }
}

/// One connection. Blocking, with a time limit of 60 s on each step.
#[derive(Debug)]
pub enum Socketmap {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socketmap {
    /// To 127.0.0.1:`port`.
    pub fn tcp(port: u16) -> Socketmap {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the table server listens");
        let limit = Some(Duration::from_secs(60));
        stream.set_read_timeout(limit).expect("a time limit");
        stream.set_write_timeout(limit).expect("a time limit");
        stream.set_nodelay(true).expect("an open socket");
        Socketmap::Tcp(stream)
    }

    pub fn unix(path: &Path) -> Socketmap {
        let stream = UnixStream::connect(path).expect("the table server listens");
        let limit = Some(Duration::from_secs(60));
        stream.set_read_timeout(limit).expect("a time limit");
        stream.set_write_timeout(limit).expect("a time limit");
        Socketmap::Unix(stream)
    }

    /// The reply: `OK value`, `NOTFOUND `, …
    pub fn ask(&mut self, name: &str, key: &str) -> String {
        let asked = self.send(name, key).and_then(|()| self.receive());
        asked.unwrap_or_else(|error| panic!("{name} {key}: {error}"))
    }

    pub fn send(&mut self, name: &str, key: &str) -> io::Result<()> {
        let request = format!("{name} {key}");
        self.write_all(format!("{}:{request},", request.len()).as_bytes())
    }

    pub fn receive(&mut self) -> io::Result<String> {
        let mut length = 0usize;
        loop {
            match self.byte()? {
                b':' => break,
                digit @ b'0'..=b'9' => length = length * 10 + usize::from(digit - b'0'),
                other => {
                    return Err(io::Error::other(format!(
                        "byte {other} in a netstring's length"
                    )));
                }
            }
        }
        let mut content = vec![0; length];
        self.read_exact(&mut content)?;
        match self.byte()? {
            b',' => String::from_utf8(content).map_err(io::Error::other),
            other => Err(io::Error::other(format!(
                "byte {other} for a netstring's comma"
            ))),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

impl Read for Socketmap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socketmap::Tcp(stream) => stream.read(buffer),
            Socketmap::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socketmap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socketmap::Tcp(stream) => stream.write(bytes),
            Socketmap::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Many connections at once, each with one lookup under way, in rounds. `connect` makes the n-th of them; `question`
/// gives name, key and the right reply of the n-th request. Returns the wrong replies, the first ten of a thread at most.
pub fn crowd(
    connections: usize,
    rounds: usize,
    connect: impl Fn(usize) -> Socketmap + Sync,
    question: impl Fn(usize) -> (String, String, String) + Sync,
) -> Vec<String> {
    const THREADS: usize = 4;
    let barrier = std::sync::Barrier::new(THREADS);
    let work = |thread: usize| {
        let mine: Vec<usize> = (0..connections).filter(|n| n % THREADS == thread).collect();
        let mut clients: Vec<Socketmap> = mine.iter().map(|&n| connect(n)).collect();
        let mut wrong = Vec::new();
        // All of them are connected before the first asks.
        barrier.wait();
        for round in 0..rounds {
            let questions = mine.iter().map(|n| question(n + round * connections));
            let questions: Vec<_> = questions.collect();
            for (client, (name, key, _)) in clients.iter_mut().zip(&questions) {
                if let Err(error) = client.send(name, key) {
                    wrong.push(format!("{name} {key}: {error}"));
                }
            }
            for (client, (name, key, right)) in clients.iter_mut().zip(&questions) {
                let reply = client.receive().unwrap_or_else(|error| error.to_string());
                if reply != *right {
                    wrong.push(format!("{name} {key}: {reply:?} and not {right:?}"));
                }
            }
        }
        wrong.truncate(10);
        wrong
    };
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().expect("a client does not panic"));
        results.flatten().collect()
    })
}
