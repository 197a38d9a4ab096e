//! What the servers in the foreground have in common: signals, the log, the limit of open files.

use std::path::PathBuf;

use config::Config;
use server::log::{Flusher, MailLog, Target};
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

/// The log, in which an event that names no program is `program`'s. It goes to `maillog_file`, or to standard error.
pub fn start_log(config: &Config, program: &'static str) -> Result<Flusher, String> {
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
    tracing::subscriber::set_global_default(log.of_program(program))
        .map_err(|error| error.to_string())?;
    Ok(flusher)
}
