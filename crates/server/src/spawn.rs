//! Services of master.cf that run a command for each connection, as spawn(8) does: policy services, mostly. The
//! command has the connection as its standard input, output and error.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use config::master::{Service, ServiceKind};
use config::{Config, ConfigError};
use delivery::command::{self, Identity};
use delivery::pipe::spec::identity;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::{TcpListener, UnixListener};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::listen::{addresses, bind_tcp};
use crate::remarks::Remarks;

/// One such service.
pub(crate) struct Spawn {
    id: String,
    places: Vec<Place>,
    argv: Vec<String>,
    user: Identity,
    environment: Vec<(String, String)>,
    queue_directory: PathBuf,
    /// Who owns the socket's folder.
    owner: String,
    /// `NAME_time_limit`.
    time_limit: Duration,
    /// The process limit.
    room: Arc<Semaphore>,
}

/// The `spawn` services of master.cf; those that cannot run are remarked.
pub(crate) fn services(config: &Config, remarks: &mut Remarks) -> Vec<Arc<Spawn>> {
    let reached = [ServiceKind::Unix, ServiceKind::Inet];
    let mut services = Vec::new();
    for service in config.services() {
        if service.command != "spawn" || !reached.contains(&service.kind) {
            continue;
        }
        match Spawn::of(config, service) {
            Ok(spawn) => services.push(Arc::new(spawn)),
            Err(problem) => {
                remarks.add(&service.id(), format!("nothing listens there: {problem}"));
            }
        }
    }
    services
}

/// Where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Spawn {
    /// Reads the service's line. The error says what is wrong with it.
    pub fn of(config: &Config, service: &Service) -> Result<Spawn, String> {
        let text = |error: ConfigError| error.to_string();
        let config = config.for_service(service);
        let owner = config.string("mail_owner").map_err(text)?;
        let queue_directory = PathBuf::from(config.string("queue_directory").map_err(text)?);
        let (mut user, mut argv) = (None, Vec::new());
        let mut words = service.args.iter();
        while let Some(word) = words.next() {
            match word.split_once('=') {
                Some(("user", value)) => user = Some(identity(value, &owner)?),
                Some(("argv", command)) => {
                    argv = vec![command.to_owned()];
                    argv.extend(words.by_ref().cloned());
                }
                _ => {
                    return Err(format!(
                        "bad attribute: {word}; write user=NAME argv=COMMAND"
                    ));
                }
            }
        }
        if argv.first().is_none_or(String::is_empty) {
            return Err("missing argv= command-line attribute".to_owned());
        }
        let folder = if service.private { "private" } else { "public" };
        let places = match service.kind {
            ServiceKind::Inet => addresses(&config, &service.name, service.line)
                .map_err(|error| error.to_string())?
                .into_iter()
                .map(Place::Tcp)
                .collect(),
            _ => vec![Place::Unix(
                queue_directory.join(folder).join(&service.name),
            )],
        };
        let limit = match service.max_processes {
            Some(0) => Semaphore::MAX_PERMITS,
            Some(limit) => limit as usize,
            None => {
                let limit = config.int("default_process_limit").map_err(text)?;
                usize::try_from(limit).unwrap_or(0)
            }
        };
        Ok(Spawn {
            id: service.id(),
            places,
            argv,
            user: user.ok_or("missing user= command-line attribute")?,
            environment: command::environment(&config).map_err(text)?,
            queue_directory,
            owner,
            time_limit: config
                .time(&format!("{}_time_limit", service.name))
                .map_err(text)?,
            room: Arc::new(Semaphore::new(limit.clamp(1, Semaphore::MAX_PERMITS))),
        })
    }

    /// Runs the command for one connection, to its end.
    async fn run(&self, connection: OwnedFd) {
        let name = &self.argv[0];
        let mut child = match self.start(connection) {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(
                    prog = "spawn",
                    "service {}: cannot run {name}: {error}",
                    self.id
                );
                return;
            }
        };
        match tokio::time::timeout(self.time_limit, child.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => tracing::warn!(prog = "spawn", "command {name}: {status}"),
            Ok(Err(error)) => tracing::warn!(prog = "spawn", "command {name}: {error}"),
            Err(_) => {
                let seconds = self.time_limit.as_secs();
                tracing::warn!(
                    prog = "spawn",
                    "command {name}: time limit of {seconds} s exceeded"
                );
                kill(&mut child).await;
            }
        }
    }

    fn start(&self, connection: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(&self.argv[0]);
        command
            .args(&self.argv[1..])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.queue_directory)
            .stdin(Stdio::from(connection.try_clone()?))
            .stdout(Stdio::from(connection.try_clone()?))
            .stderr(Stdio::from(connection))
            .process_group(0)
            .kill_on_drop(true);
        if nix::unistd::geteuid().is_root() {
            // With an uid set by root, the standard library also drops supplementary groups.
            command.uid(self.user.uid).gid(self.user.gid);
        } else if nix::unistd::geteuid().as_raw() != self.user.uid {
            let user = &self.user.name;
            return Err(io::Error::other(format!(
                "user={user} needs a server that runs as root"
            )));
        }
        command.spawn()
    }
}

/// Kills the command and what it has started.
async fn kill(child: &mut Child) {
    if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.kill().await;
}

/// The sockets of these services. Those whose place stays are kept over a reload.
#[derive(Default)]
pub(crate) struct Spawners(HashMap<Place, Open>);

struct Open {
    accepting: JoinHandle<()>,
    service: watch::Sender<Arc<Spawn>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Spawners {
    /// Opens and closes sockets as the services want it. Mail flows without one that cannot be had, so that is
    /// logged and no more.
    pub fn bind(&mut self, services: &[Arc<Spawn>]) {
        self.0.retain(|place, _| {
            let wanted = services
                .iter()
                .any(|service| service.places.contains(place));
            if let (Place::Unix(path), false) = (place, wanted) {
                let _ = std::fs::remove_file(path);
            }
            wanted
        });
        for service in services {
            for place in &service.places {
                if let Some(open) = self.0.get(place) {
                    open.service.send_replace(Arc::clone(service));
                    continue;
                }
                match open(place, service) {
                    Ok(open) => {
                        self.0.insert(place.clone(), open);
                    }
                    Err(error) => tracing::warn!(
                        prog = "master",
                        "service {}: cannot listen on {place}: {error}",
                        service.id
                    ),
                }
            }
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Unix(path) => write!(f, "{}", path.display()),
            Place::Tcp(address) => write!(f, "{address}"),
        }
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// The next connection, as the command is to have it: blocking.
    async fn accept(&self) -> io::Result<OwnedFd> {
        Ok(match self {
            Listener::Unix(listener) => {
                let stream = listener.accept().await?.0.into_std()?;
                stream.set_nonblocking(false)?;
                stream.into()
            }
            Listener::Tcp(listener) => {
                let stream = listener.accept().await?.0.into_std()?;
                stream.set_nonblocking(false)?;
                stream.into()
            }
        })
    }
}

fn open(place: &Place, service: &Arc<Spawn>) -> io::Result<Open> {
    let listener = match place {
        Place::Tcp(address) => Listener::Tcp(bind_tcp(*address)?),
        Place::Unix(path) => Listener::Unix(bind_unix(path, &service.owner)?),
    };
    let (service, settings) = watch::channel(Arc::clone(service));
    Ok(Open {
        accepting: tokio::spawn(accept_loop(listener, settings)),
        service,
    })
}

/// A socket for everybody who may look into its folder, as Postfix's are.
fn bind_unix(path: &Path, owner: &str) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        let private = folder.ends_with("private");
        std::fs::DirBuilder::new()
            .mode(if private { 0o700 } else { 0o755 })
            .create(folder)?;
        if let Ok(Some(owner)) = nix::unistd::User::from_name(owner)
            && nix::unistd::geteuid().is_root()
        {
            chown(folder, Some(owner.uid.as_raw()), None)?;
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

async fn accept_loop(listener: Listener, settings: watch::Receiver<Arc<Spawn>>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                // Beyond the process limit, clients wait.
                let service = Arc::clone(&settings.borrow());
                let Ok(permit) = Arc::clone(&service.room).acquire_owned().await else {
                    return;
                };
                tokio::spawn(async move {
                    service.run(connection).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(prog = "master", "accept connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
