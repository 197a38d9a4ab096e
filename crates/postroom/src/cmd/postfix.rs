//! `postroom postfix COMMAND`, or a link named `postfix`: control of the running server, as postfix(1).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use chrono::format::{Item, StrftimeItems};
use config::{Config, Environment};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use server::Generation;

use super::pid_file;
use super::queue_tool::{Fatal, fatal, finish, parse};

const NAME: &str = "postroom postfix";

const COMMANDS: &str = "start-fg, stop, abort, reload, status, check, flush, logrotate";

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    let parsed = match parse(args, "c:D:v") {
        Ok(parsed) => parsed,
        Err(problem) => return finish(NAME, Err(fatal(problem))),
    };
    let given = parsed.value('c').map(PathBuf::from);
    let dir = given.unwrap_or_else(super::options::default_config_dir);
    let command = match parsed.others.as_slice() {
        [command] => command.as_str(),
        _ => {
            let usage =
                format!("usage: {NAME} [-c config_dir] COMMAND, which is one of: {COMMANDS}");
            return finish(NAME, Err(fatal(usage)));
        }
    };
    match command {
        "start-fg" => super::serve::run(&["-c".into(), dir.into_os_string()]),
        "flush" => super::postqueue::run(&["-c".into(), dir.into_os_string(), "-f".into()]),
        _ => finish(NAME, control(command, &dir)),
    }
}

fn control(command: &str, dir: &Path) -> Result<(), Fatal> {
    let environment = Environment::of_this_machine();
    let config = Config::load(dir, &environment).map_err(|error| fatal(error.to_string()))?;
    match command {
        "check" => check(config, &environment),
        "status" => status(&config),
        "reload" => {
            let pid = running(&config)?;
            // What the server would refuse is told to whoever asks, not to the log alone.
            check(config, &environment)?;
            signal(pid, Signal::SIGHUP)?;
            say("the mail server reads its configuration anew");
            Ok(())
        }
        "stop" => stop(&config, Signal::SIGTERM),
        "abort" => stop(&config, Signal::SIGKILL),
        "logrotate" => rotate(&config),
        "start" => Err(fatal(
            "Postroom runs in the foreground: use start-fg, or let systemd start it (docs/serve.md)",
        )),
        other => Err(fatal(format!(
            "unknown command: '{other}'; use one of: {COMMANDS}"
        ))),
    }
}

fn say(text: &str) {
    eprintln!("{NAME}: {text}");
}

fn running(config: &Config) -> Result<Pid, Fatal> {
    let found = pid_file::running(config).map_err(fatal)?;
    found.ok_or_else(|| fatal("the mail server is not running"))
}

fn status(config: &Config) -> Result<(), Fatal> {
    let pid = running(config)?;
    say(&format!("the mail server is running: PID: {pid}"));
    Ok(())
}

/// What `serve` would say at its start.
fn check(config: Config, environment: &Environment) -> Result<(), Fatal> {
    let generation = Generation::build(config, environment).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        fatal(lines.join("\n"))
    })?;
    for warning in generation.warnings() {
        say(&format!("warning: {warning}"));
    }
    for problem in generation.broken_tables() {
        say(&format!("warning: {problem}"));
    }
    Ok(())
}

fn signal(pid: Pid, which: Signal) -> Result<(), Fatal> {
    kill(pid, which).map_err(|errno| fatal(format!("process {pid}: {errno}")))
}

/// Stops the server and waits for its end.
fn stop(config: &Config, how: Signal) -> Result<(), Fatal> {
    let pid = running(config)?;
    let patience = config
        .time("postroom_shutdown_timeout")
        .map_err(|error| fatal(error.to_string()))?;
    signal(pid, how)?;
    say("stopping the mail server");
    let end = Instant::now() + patience + Duration::from_secs(10);
    while pid_file::running(config).map_err(fatal)?.is_some() {
        if Instant::now() > end {
            return Err(fatal(format!(
                "process {pid} is still running; {NAME} abort ends it at once"
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Renames the log file and packs it. The server makes a new file at its next line.
fn rotate(config: &Config) -> Result<(), Fatal> {
    let text = |name: &str| match config.string(name) {
        Ok(value) if value.is_empty() => Err(fatal(format!(
            "{name} is empty: there is no log file to rotate"
        ))),
        Ok(value) => Ok(value),
        Err(error) => Err(fatal(error.to_string())),
    };
    let file = text("maillog_file")?;
    let compressor = text("maillog_file_compressor")?;
    let suffix = text("maillog_file_rotate_suffix")?;
    if file.starts_with("/dev/") {
        return Err(fatal(format!(
            "maillog_file = {file}: not a file to rotate"
        )));
    }
    let rotated = format!("{file}.{}", suffix_now(&suffix)?);
    if Path::new(&rotated).exists() {
        return Err(fatal(format!("{rotated}: exists already; try again later")));
    }
    std::fs::rename(&file, &rotated)
        .map_err(|error| fatal(format!("cannot rename {file} to {rotated}: {error}")))?;
    // A line may be on its way into the old file, under whatever name.
    std::thread::sleep(Duration::from_secs(1));
    let done = Command::new(&compressor).arg(&rotated).status();
    match done {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(fatal(format!("{compressor} {rotated}: {status}"))),
        Err(error) => Err(fatal(format!(
            "maillog_file_compressor = {compressor}: {error}; {rotated} is left as it is"
        ))),
    }
}

fn suffix_now(format: &str) -> Result<String, Fatal> {
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(fatal(format!(
            "maillog_file_rotate_suffix = {format}: not a format of strftime(3)"
        )));
    }
    Ok(chrono::Local::now()
        .format_with_items(items.iter())
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_times() {
        let suffix = suffix_now("%Y%m%d-%H%M%S").unwrap_or_default();
        assert_eq!(suffix.len(), "20261125-172043".len());
        assert!(suffix.starts_with("20"));
        assert!(suffix_now("%Q").is_err());
    }
}
