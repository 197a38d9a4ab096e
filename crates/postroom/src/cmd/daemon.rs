//! What the servers in the foreground have in common: signals, the log, the limit of open files.

use std::path::{Path, PathBuf};

use config::Config;
use server::log::{self, Flusher, MailLog, SYSLOG_SOCKET, Target};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// SIGTERM and SIGINT as a shutdown, SIGHUP as a reload.
pub fn signals() -> Result<(server::Shutdown, watch::Receiver<u64>), String> {
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
    Ok((shutdown, reload))
}

/// Every connection is a file; systemd and shells start us with a soft limit of 1,024 and let us raise it.
pub fn raise_file_limit() {
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

/// The log, in which an event that names no program is `program`'s. It goes to `maillog_file`, else to the system log,
/// else to standard error.
pub fn start_log(config: &Config, program: &'static str) -> Result<Flusher, String> {
    let text = |name: &str| config.string(name).map_err(|error| error.to_string());
    let target = log_target(config)?;
    let (host, name) = (text("myhostname")?, text("syslog_name")?);
    let started = match MailLog::start(target.clone(), &host, &name) {
        Err(error) if matches!(target, Target::Syslog { .. }) => {
            eprintln!(
                "postroom: no system log at {SYSLOG_SOCKET} ({error}): the log goes to standard error; set maillog_file to have it elsewhere"
            );
            MailLog::start(Target::StandardError, &host, &name)
        }
        started => started,
    };
    let file = text("maillog_file")?;
    let (log, flusher) = started.map_err(|error| {
        format!("maillog_file = {file}: {error}; create its folder, or unset it")
    })?;
    tracing::subscriber::set_global_default(log.of_program(program))
        .map_err(|error| error.to_string())?;
    Ok(flusher)
}

/// What a tool has done to the queue stands in the mail log, too, where one can be reached.
pub fn log_lines(program: &'static str, config_dir: Option<&str>, lines: &[String]) {
    let dir = config_dir.map_or_else(super::options::default_config_dir, PathBuf::from);
    let Ok(config) = Config::load_main(&dir, &config::Environment::of_this_machine()) else {
        return;
    };
    let target = match log_target(&config) {
        Ok(target @ (Target::File { .. } | Target::Syslog { .. })) => target,
        // The lines are on standard error already.
        _ => return,
    };
    let text = |name: &str| config.string(name).unwrap_or_default();
    let started = MailLog::start(target, &text("myhostname"), &text("syslog_name"));
    if let Ok((log, flusher)) = started {
        tracing::subscriber::with_default(log.of_program(program), || {
            for line in lines {
                tracing::info!(prog = program, "{line}");
            }
        });
        flusher.flush();
    }
}

fn log_target(config: &Config) -> Result<Target, String> {
    let text = |name: &str| config.string(name).map_err(|error| error.to_string());
    let file = text("maillog_file")?;
    match file.as_str() {
        "" => {
            let name = text("syslog_facility")?;
            let facility = log::facility(&name).ok_or_else(|| {
                let known = log::facility_names();
                format!("syslog_facility = {name}: no such facility; use one of: {known}")
            })?;
            Ok(Target::Syslog {
                socket: PathBuf::from(SYSLOG_SOCKET),
                facility,
            })
        }
        // Ours alone, so that no prefix has to be set for it.
        "/dev/stderr" => Ok(Target::StandardError),
        path => {
            check_prefix(config, path)?;
            match path {
                "/dev/stdout" => Ok(Target::StandardOutput),
                path => Ok(Target::File {
                    path: PathBuf::from(path),
                    mode: log_permissions(config)?,
                }),
            }
        }
    }
}

/// `maillog_file_prefixes`: whole components, so that `/var` is not `/variable`.
fn check_prefix(config: &Config, path: &str) -> Result<(), String> {
    let prefixes = config
        .list("maillog_file_prefixes")
        .map_err(|error| error.to_string())?;
    match prefixes
        .iter()
        .any(|prefix| Path::new(path).starts_with(prefix))
    {
        true => Ok(()),
        false => Err(format!(
            "maillog_file = {path}: not below one of maillog_file_prefixes ({}); add its folder there",
            prefixes.join(", ")
        )),
    }
}

fn log_permissions(config: &Config) -> Result<u32, String> {
    let text = config
        .string("maillog_file_permissions")
        .map_err(|error| error.to_string())?;
    match text.as_str() {
        "0600" | "600" => Ok(0o600),
        "0640" | "640" => Ok(0o640),
        "0644" | "644" => Ok(0o644),
        other => Err(format!(
            "maillog_file_permissions = {other}: not possible; use 0600, 0640 or 0644"
        )),
    }
}
