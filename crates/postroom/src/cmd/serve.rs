//! `postroom serve`: the mail server in the foreground.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::{Config, Environment};

use super::daemon;
use super::options::{self, EX_CONFIG, EX_USAGE};
use super::pid_file::PidFile;

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
    // `serve` below lists all that is wrong; the log is set up with what can be read.
    let (config, _) = Config::load_whole(config_dir, &environment);
    let all = |problem| with_the_others(problem, config_dir, &environment);
    let _running = PidFile::take(&config).map_err(all)?;
    let flusher = daemon::start_log(&config, "smtpd").map_err(all)?;
    daemon::raise_file_limit();
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

/// A log, or a place of its own, that cannot be had is told together with everything else that is wrong.
fn with_the_others(problem: String, config_dir: &Path, environment: &Environment) -> String {
    let mut all = vec![problem];
    if let Err(others) = server::Generation::read(config_dir, environment) {
        all.extend(others.iter().map(ToString::to_string));
        all.dedup();
    }
    all.join("\n")
}

async fn serve(config_dir: PathBuf, environment: Environment) -> Result<(), String> {
    let (shutdown, reload) = daemon::signals()?;
    let options = server::Options {
        config_dir,
        environment,
        on_ready: None,
    };
    server::run(options, shutdown, reload)
        .await
        .map_err(|error| error.to_string())
}
