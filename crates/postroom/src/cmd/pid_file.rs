//! `queue_directory/pid/master.pid`, as Postfix's master keeps it: the process id, locked as long as the server runs.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use config::Config;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;

/// The file of a server that runs; dropped, it is unlocked and empty.
#[derive(Debug)]
pub struct PidFile(Flock<File>);

impl PidFile {
    /// Makes and locks the file. A running Postfix holds the same lock: two servers with one queue
    /// folder would take each other's sockets and port.
    pub fn take(config: &Config) -> Result<PidFile, String> {
        let path = path(config)?;
        let shown = path.display();
        let complain = |error: &dyn std::fmt::Display| {
            format!(
                "{shown}: {error}; make its folder writable for the server, or change queue_directory"
            )
        };
        make_folder(&path).map_err(|error| complain(&error))?;
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).mode(0o600);
        let file = options.open(&path).map_err(|error| complain(&error))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let who = read(&mut file).map_or(String::new(), |pid| format!(" (process {pid})"));
                return Err(format!(
                    "{shown}: a mail server with this queue_directory is running already{who}; stop it, or change queue_directory"
                ));
            }
            Err((_, errno)) => return Err(complain(&errno)),
        };
        let line = format!("{:>20}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all(line.as_bytes()))
            .map_err(|error| complain(&error))?;
        Ok(PidFile(file))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // The lock is what counts; a number that stays behind misleads nobody.
        let _ = self.0.set_len(0);
    }
}

/// The process that holds the lock, if one does.
pub fn running(config: &Config) -> Result<Option<Pid>, String> {
    let path = path(config)?;
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let pid = read(&mut file);
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_unlocked_when_dropped) => Ok(None),
        Err((_, Errno::EWOULDBLOCK)) => match pid {
            Some(pid) => Ok(Some(pid)),
            None => Err(format!("{}: locked, but without a number", path.display())),
        },
        Err((_, errno)) => Err(format!("{}: {errno}", path.display())),
    }
}

fn path(config: &Config) -> Result<PathBuf, String> {
    let queue = config
        .string("queue_directory")
        .map_err(|error| error.to_string())?;
    Ok(Path::new(&queue).join("pid/master.pid"))
}

/// The folder is for everybody to look into, whatever the umask.
fn make_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.exists() => {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        }
        _ => Ok(()),
    }
}

fn read(file: &mut File) -> Option<Pid> {
    let mut text = String::new();
    file.take(100).read_to_string(&mut text).ok()?;
    let number: i32 = text.trim().parse().ok()?;
    (number > 1).then(|| Pid::from_raw(number))
}
