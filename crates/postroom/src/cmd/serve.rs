//! `postroom serve`: the mail server in the foreground.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::{Config, Environment};
use server::log::{Flusher, MailLog, Target};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::options::{self, EX_CONFIG, EX_USAGE};

const USAGE: &str = "usage: postroom serve [-c config_dir]
Runs the mail server in the foreground. SIGTERM and SIGINT stop it in an orderly way, SIGHUP makes
it read its configuration anew (it also notices changed files by itself).
";

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    let mut config_dir = options::default_config_dir();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match (arg.to_str(), &mut args) {
            (Some("-c"), rest) => match rest.next() {
                Some(dir) => config_dir = PathBuf::from(dir),
                None => return usage_error("-c needs a folder"),
            },
            // What Postfix's master takes; in the foreground is where we are anyway.
            (Some("-d" | "-i" | "-v"), _) => {}
            (Some("-h" | "--help"), _) => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => return usage_error(&format!("unknown argument {arg:?}")),
        }
    }
    match start(&config_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            for line in problem.lines() {
                eprintln!("postroom: fatal: {line}");
            }
            ExitCode::from(EX_CONFIG)
        }
    }
}

fn usage_error(problem: &str) -> ExitCode {
    eprint!("postroom serve: {problem}\n{USAGE}");
    ExitCode::from(EX_USAGE)
}

fn start(config_dir: &Path) -> Result<(), String> {
    let environment = Environment::of_this_machine();
    let config = Config::load(config_dir, &environment).map_err(|error| error.to_string())?;
    let flusher = start_log(&config)?;
    raise_file_limit();
    // The umask of Postfix's daemons: what is not asked for is nobody else's.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // Deliveries take on their users' rights thread by thread; root's groups must not come along.
    if nix::unistd::geteuid().is_root() {
        nix::unistd::setgroups(&[])
            .map_err(|error| format!("cannot give up supplementary groups: {error}"))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let result = runtime.block_on(serve(config_dir.to_owned(), environment));
    // Lookups that hang must not keep a stopped server alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    flusher.flush();
    result
}

async fn serve(config_dir: PathBuf, environment: Environment) -> Result<(), String> {
    let (stop, shutdown) = watch::channel(false);
    let (ask_reload, reload) = watch::channel(0);
    let hook = |kind| signal(kind).map_err(|error| format!("cannot handle signals: {error}"));
    let mut terminate = hook(SignalKind::terminate())?;
    let mut interrupt = hook(SignalKind::interrupt())?;
    let mut hang_up = hook(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hang_up.recv() => ask_reload.send_modify(|count| *count += 1),
            }
        }
        // Nobody listens any more when the server has ended by itself.
        let _ = stop.send(true);
        std::future::pending::<()>().await;
    });
    let options = server::Options {
        config_dir,
        environment,
        on_ready: None,
    };
    server::run(options, shutdown, reload)
        .await
        .map_err(|error| error.to_string())
}

/// Every connection is a file; systemd and shells start us with a soft limit of 1,024 and let us raise it.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(
            prog = "master",
            "cannot raise the limit of open files: {error}"
        );
    }
}

/// The log goes to `maillog_file`, or to standard error.
fn start_log(config: &Config) -> Result<Flusher, String> {
    let text = |name: &str| config.string(name).map_err(|error| error.to_string());
    let file = text("maillog_file")?;
    let target = match file.as_str() {
        "" => Target::StandardError,
        "/dev/stdout" | "/dev/stderr" => Target::StandardError,
        path => {
            let prefixes = config
                .list("maillog_file_prefixes")
                .map_err(|e| e.to_string())?;
            if !prefixes
                .iter()
                .any(|prefix| path.starts_with(prefix.as_str()))
            {
                return Err(format!(
                    "maillog_file = {path}: not below one of maillog_file_prefixes ({}); add its folder there",
                    prefixes.join(", ")
                ));
            }
            Target::File(PathBuf::from(path))
        }
    };
    let host = text("myhostname")?;
    let (log, flusher) = MailLog::start(target, &host, &text("syslog_name")?).map_err(|error| {
        format!("maillog_file = {file}: {error}; create its folder, or unset it")
    })?;
    tracing::subscriber::set_global_default(log).map_err(|error| error.to_string())?;
    Ok(flusher)
}
