//! `postroom demo`: a whole small mail server in one folder, which sends itself a few messages and
//! shows where each of them went, and why.

mod folder;
mod letters;
mod show;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use config::{Config, Environment};
use policy::explain::Explainer;
use server::ServerError;
use server::log::{MailLog, Target};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinHandle};

use super::options::{EX_CONFIG, EX_USAGE};
use folder::Folder;
use letters::{LETTERS, Letter, SENDER};

const USAGE: &str = "usage: postroom demo [--dir DIR] [--once]
Sets up a whole small mail server in DIR (default: a fresh folder for temporary files), sends itself a
few messages, shows each one's way to its Maildir, and stays up until Ctrl-C. --once: ends then, with
status 0 when every message went where it should. A folder of an earlier demo is used again: its database
and its mail are kept, its configuration files are written anew.
";

/// How long all of a letter's copies may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);

struct Options {
    dir: Option<PathBuf>,
    once: bool,
}

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    let options = match parse(args) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprint!("postroom demo: {problem}\n{USAGE}");
            return ExitCode::from(EX_USAGE);
        }
    };
    match start(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("postroom demo: {problem}");
            ExitCode::from(EX_CONFIG)
        }
    }
}

fn parse(args: &[OsString]) -> Result<Option<Options>, String> {
    let mut options = Options {
        dir: None,
        once: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--dir") => {
                let dir = args.next().ok_or("--dir needs a folder")?;
                options.dir = Some(PathBuf::from(dir));
            }
            Some("--once") => options.once = true,
            Some("-h" | "--help") => return Ok(None),
            _ => return Err(format!("unknown argument {}", arg.display())),
        }
    }
    Ok(Some(options))
}

/// Whether every letter went where it should.
fn start(options: &Options) -> Result<bool, String> {
    let folder = Folder::prepare(options.dir.as_deref())?;
    let target = Target::File {
        path: folder.log(),
        mode: 0o644,
    };
    let (log, flusher) = MailLog::start(target, folder::HOST, "postfix")
        .map_err(|error| format!("{}: {error}", folder.log().display()))?;
    tracing::subscriber::set_global_default(log).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let result = runtime.block_on(show_all(&folder, options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    flusher.flush();
    result
}

async fn show_all(folder: &Folder, options: &Options) -> Result<bool, String> {
    let hook = |kind| signal(kind).map_err(|error| format!("cannot handle signals: {error}"));
    let mut interrupt = hook(SignalKind::interrupt())?;
    let mut terminate = hook(SignalKind::terminate())?;
    let environment = Environment::of_this_machine();
    let mut server = Server::start(folder.root(), &environment).await?;
    let work = async {
        let all_well = show_letters(folder, server.address, &environment).await?;
        show::say(&show::more(folder, options.dir.is_some(), options.once));
        if !options.once {
            let ended = (&mut server.running).await;
            return Err(ended_early(ended));
        }
        Ok(all_well)
    };
    let result = tokio::select! {
        result = work => result,
        _ = interrupt.recv() => Ok(!options.once),
        _ = terminate.recv() => Ok(!options.once),
    };
    if !server.running.is_finished() {
        server.stop().await?;
    }
    result
}

/// Shows what there is, and each letter's way; tells whether all went where they should.
async fn show_letters(
    folder: &Folder,
    server: SocketAddr,
    environment: &Environment,
) -> Result<bool, String> {
    let config = Config::load(folder.root(), environment).map_err(|error| error.to_string())?;
    let explainer = Explainer::new(&config, environment).map_err(|error| error.to_string())?;
    show::say(&show::setup(folder)?);
    let mut all_well = true;
    for letter in LETTERS {
        let (text, well) = deliver(letter, folder, server, &explainer).await?;
        show::say(&text);
        all_well &= well;
    }
    Ok(all_well)
}

/// Sends a letter and waits for its copies; tells what happened, and whether it is what should happen.
async fn deliver(
    letter: &'static Letter,
    folder: &Folder,
    server: SocketAddr,
    explainer: &Explainer,
) -> Result<(String, bool), String> {
    let client = server.ip();
    let explained = explainer.explain(letter.to, SENDER, client).await;
    let token = letters::token();
    let sent = {
        let token = token.clone();
        tokio::task::spawn_blocking(move || letters::send(server, letter, &token))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("{}: sending to {server}: {error}", letter.to))?
    };
    let begin = std::time::Instant::now();
    let mut copies = Vec::new();
    while sent.accepted && begin.elapsed() < PATIENCE {
        copies = folder
            .find(&token)
            .map_err(|error| format!("{}: {error}", folder.root().display()))?;
        if copies.len() >= letter.mailboxes.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let place = |copy: &folder::Copy| {
        let mut places = letter.mailboxes.iter();
        places.position(|mailbox| *mailbox == copy.mailbox)
    };
    copies.sort_by_key(|copy| place(copy).unwrap_or(usize::MAX));
    let reached = copies.iter().map(|copy| copy.mailbox.as_str());
    let as_wanted = reached.eq(letter.mailboxes.iter().copied());
    let well = as_wanted && sent.accepted != letter.mailboxes.is_empty();
    Ok((show::letter(letter, &sent, &explained, &copies, well), well))
}

/// The server, running in this process.
struct Server {
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    /// Kept open: without it the server would take the reload channel for closed.
    _reload: watch::Sender<u64>,
    running: JoinHandle<Result<(), ServerError>>,
}

impl Server {
    /// Starts it and waits until it listens.
    async fn start(config_dir: &Path, environment: &Environment) -> Result<Server, String> {
        let (shutdown, stopped) = watch::channel(false);
        let (reload, reloads) = watch::channel(0);
        let (ready, listening) = oneshot::channel();
        let options = server::Options {
            config_dir: config_dir.to_owned(),
            environment: environment.clone(),
            on_ready: Some(Box::new(move |addresses| {
                // Nobody waits any more only when this command is ending.
                let _ = ready.send(addresses);
            })),
        };
        let running = tokio::spawn(server::run(options, stopped, reloads));
        let Some(address) = listening
            .await
            .ok()
            .and_then(|addresses| addresses.into_iter().next())
        else {
            return Err(ended_early(running.await));
        };
        Ok(Server {
            address,
            shutdown,
            _reload: reload,
            running,
        })
    }

    async fn stop(self) -> Result<(), String> {
        // Nobody listens any more when the server has ended by itself.
        let _ = self.shutdown.send(true);
        match self.running.await {
            Ok(Ok(())) => Ok(()),
            other => Err(ended_early(other)),
        }
    }
}

/// Why a server that should run does not.
fn ended_early(ended: Result<Result<(), ServerError>, JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "the server has stopped; its log says why".into(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => format!("the server broke off: {error}"),
    }
}
