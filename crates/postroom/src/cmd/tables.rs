//! `postroom tables serve`: the table server in the foreground, for a real Postfix.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::{Config, Environment};
use server::table_server::{self, Options};

use super::daemon;
use super::options::{self, EX_CONFIG, EX_USAGE};

const USAGE: &str = "usage: postroom tables serve [-c config_dir] [--listen LIST] [--metrics HOST:PORT] [--print-postconf]
Answers a real Postfix over socketmap (unix:PATH, inet:HOST:PORT) and tcp_table (tcp:HOST:PORT:NAME) from
the tables that main.cf names. --print-postconf prints the commands that plug it in, and how to go back; it
changes nothing. SIGTERM and SIGINT stop it, SIGHUP makes it read its configuration anew (it also notices
changed files by itself).
";

/// What the arguments ask for.
struct Request {
    config_dir: PathBuf,
    /// `-c` or `MAIL_CONFIG` named the folder.
    explicit_dir: bool,
    listen: Option<String>,
    metrics: Option<String>,
    print_postconf: bool,
}

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    let request = match parse(args) {
        Ok(Some(request)) => request,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprint!("postroom tables: {problem}\n{USAGE}");
            return ExitCode::from(EX_USAGE);
        }
    };
    let done = match request.print_postconf {
        true => print_postconf(&request),
        false => start(request),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            for line in problem.lines() {
                eprintln!("postroom: fatal: {line}");
            }
            ExitCode::from(EX_CONFIG)
        }
    }
}

fn parse(args: &[OsString]) -> Result<Option<Request>, String> {
    let mut request = Request {
        config_dir: options::default_config_dir(),
        explicit_dir: std::env::var_os("MAIL_CONFIG").is_some(),
        listen: None,
        metrics: None,
        print_postconf: false,
    };
    let mut args = args.iter();
    match args.next().and_then(|verb| verb.to_str()) {
        Some("serve") => {}
        Some("-h" | "--help") => return Ok(None),
        Some(verb) => return Err(format!("unknown command {verb:?}")),
        None => return Err("a command is missing".into()),
    }
    while let Some(arg) = args.next() {
        let mut value = |what: &str| {
            let next = args.next().and_then(|value| value.to_str());
            next.map(str::to_owned)
                .ok_or_else(|| format!("{} needs {what}", arg.display()))
        };
        match arg.to_str() {
            Some("-c") => {
                request.config_dir = PathBuf::from(value("a folder")?);
                request.explicit_dir = true;
            }
            Some("--listen") => request.listen = Some(value("a list of places")?),
            Some("--metrics") => request.metrics = Some(value("HOST:PORT")?),
            Some("--print-postconf") => request.print_postconf = true,
            Some("-h" | "--help") => return Ok(None),
            _ => return Err(format!("unknown argument {arg:?}")),
        }
    }
    Ok(Some(request))
}

fn load(config_dir: &Path, environment: &Environment) -> Result<Config, String> {
    Config::load(config_dir, environment).map_err(|error| error.to_string())
}

fn print_postconf(request: &Request) -> Result<(), String> {
    let config = load(&request.config_dir, &Environment::of_this_machine())?;
    let endpoints = table_server::endpoints(&config, request.listen.as_deref());
    let plan = endpoints.and_then(|endpoints| table_server::plan(&config, &endpoints));
    let plan = plan.map_err(|error| error.to_string())?;
    let dir = request.config_dir.display().to_string();
    print!("{}", plan.script(request.explicit_dir.then_some(&dir)));
    Ok(())
}

fn start(request: Request) -> Result<(), String> {
    let environment = Environment::of_this_machine();
    let config = load(&request.config_dir, &environment)?;
    let flusher = daemon::start_log(&config, "tables")?;
    daemon::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let options = Options {
        config_dir: request.config_dir,
        environment,
        listen: request.listen,
        metrics: request.metrics,
    };
    let result = runtime.block_on(async {
        let (shutdown, reload) = daemon::signals()?;
        table_server::run(options, shutdown, reload)
            .await
            .map_err(|error| error.to_string())
    });
    flusher.flush();
    result
}
