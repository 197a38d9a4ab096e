//! Where the lines of the log end up: a file, the system log, or a standard stream.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where lines go.
#[derive(Clone, Debug)]
pub enum Target {
    StandardError,
    /// `maillog_file = /dev/stdout`.
    StandardOutput,
    /// `maillog_file`, made with `maillog_file_permissions`.
    File {
        path: PathBuf,
        mode: u32,
    },
    /// A syslog socket (RFC 3164, in the form of syslog(3)) and `syslog_facility`.
    Syslog {
        socket: PathBuf,
        facility: u8,
    },
}

/// The socket of the system log.
pub const SYSLOG_SOCKET: &str = "/dev/log";

/// Names of syslog(3), as `syslog_facility` has them.
const FACILITIES: &[(&str, u8)] = &[
    ("auth", 4),
    ("authpriv", 10),
    ("cron", 9),
    ("daemon", 3),
    ("ftp", 11),
    ("kern", 0),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
    ("lpr", 6),
    ("mail", 2),
    ("news", 7),
    ("security", 4),
    ("syslog", 5),
    ("user", 1),
    ("uucp", 8),
];

/// The number of a facility.
pub fn facility(name: &str) -> Option<u8> {
    let known = FACILITIES.iter().find(|(known, _)| *known == name)?;
    Some(known.1)
}

/// All names that [`facility`] knows.
pub fn facility_names() -> String {
    let names: Vec<&str> = FACILITIES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// The opened target.
pub(super) struct Output {
    target: Target,
    file: Option<(File, u64)>,
    syslog: Option<UnixDatagram>,
}

/// A system log that takes nothing for this long is passed by.
const SYSLOG_PATIENCE: Duration = Duration::from_secs(1);

/// Longer lines do not fit into what common system loggers take.
const SYSLOG_LINE: usize = 8000;

impl Output {
    pub fn open(target: Target) -> io::Result<Output> {
        let mut output = Output {
            target,
            file: None,
            syslog: None,
        };
        match output.target.clone() {
            Target::File { path, mode } => output.open_file(&path, mode)?,
            Target::Syslog { socket, .. } => output.syslog = Some(connect(&socket)?),
            Target::StandardError | Target::StandardOutput => {}
        }
        Ok(output)
    }

    fn open_file(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        options.append(true).mode(mode);
        let file = match options.clone().create_new(true).open(path) {
            Ok(file) => {
                // Whatever the umask, which is that of mailboxes.
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
                file
            }
            Err(_) => options.create(true).open(path)?,
        };
        let inode = file.metadata()?.ino();
        self.file = Some((file, inode));
        Ok(())
    }

    /// Writes whole lines. A log that cannot be written must not stop the mail; standard error is
    /// what is left then.
    pub fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let written = match self.target.clone() {
            Target::File { path, mode } => self.write_file(&path, mode, lines),
            Target::Syslog { socket, .. } => return self.send(&socket, lines),
            Target::StandardOutput => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines).and_then(|()| stdout.flush())
            }
            Target::StandardError => Err(io::ErrorKind::Unsupported.into()),
        };
        if written.is_err() {
            let _ = io::stderr().write_all(lines);
        }
    }

    /// The file, opened anew when somebody has moved it away (log rotation).
    fn write_file(&mut self, path: &Path, mode: u32, lines: &[u8]) -> io::Result<()> {
        if let Some((_, inode)) = &self.file {
            let moved = std::fs::metadata(path).map_or(true, |now| now.ino() != *inode);
            if moved && self.open_file(path, mode).is_err() {
                self.file = None;
            }
        } else {
            self.open_file(path, mode)?;
        }
        match &mut self.file {
            Some((file, _)) => file.write_all(lines),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// One datagram a line. A logger that was started anew has another socket behind the same name.
    fn send(&mut self, socket: &Path, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            let line = &line[..line.len().min(SYSLOG_LINE)];
            if line.is_empty() {
                continue;
            }
            let sent = match &self.syslog {
                Some(open) => open.send(line).is_ok(),
                None => false,
            };
            if !sent {
                self.syslog = connect(socket).ok();
                let again = self.syslog.as_ref().map(|open| open.send(line));
                if !matches!(again, Some(Ok(_))) {
                    self.syslog = None;
                    let text = line.splitn(2, |byte| *byte == b'>').nth(1);
                    let _ = io::stderr().write_all(&[text.unwrap_or(line), b"\n"].concat());
                }
            }
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(SYSLOG_PATIENCE))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram_also_after_the_logger_was_started_anew() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let socket = dir.path().join("log");
        let logger = UnixDatagram::bind(&socket).expect("a socket");
        let mut output = Output::open(Target::Syslog {
            socket: socket.clone(),
            facility: 2,
        })
        .expect("the logger is there");
        output.write(b"<22>one\n<20>two\n");
        let next = |logger: &UnixDatagram| {
            let mut buffer = [0; 100];
            logger
                .set_read_timeout(Some(Duration::from_secs(30)))
                .expect("not zero");
            let length = logger.recv(&mut buffer).expect("a datagram");
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        assert_eq!([next(&logger), next(&logger)], ["<22>one", "<20>two"]);
        drop(logger);
        std::fs::remove_file(&socket).expect("it was bound");
        output.write(b"<22>to standard error\n");
        let logger = UnixDatagram::bind(&socket).expect("a socket");
        output.write(b"<22>three\n");
        assert_eq!(next(&logger), "<22>three");
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_with_its_mode() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("maillog");
        let mut output = Output::open(Target::File {
            path: path.clone(),
            mode: 0o640,
        })
        .expect("the folder is there");
        output.write(b"one\n");
        std::fs::rename(&path, dir.path().join("old")).expect("the file is there");
        output.write(b"two\n");
        assert_eq!(std::fs::read(&path).expect("the new file"), b"two\n");
        let mode = std::fs::metadata(&path)
            .expect("the new file")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o640);
        assert_eq!(facility("local3"), Some(19));
        assert_eq!(facility("nowhere"), None);
    }
}
