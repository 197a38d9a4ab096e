//! What the queue's tools have in common: options, where the queue is, how they fail.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use config::{Config, Environment};

/// Ends a tool with `NAME: fatal: TEXT` and this status.
pub struct Fatal {
    pub status: u8,
    pub text: String,
}

/// The failure with status 1.
pub fn fatal(text: impl Into<String>) -> Fatal {
    Fatal {
        status: 1,
        text: text.into(),
    }
}

/// Turns a tool's result into its exit status; the message goes to standard error.
pub fn finish(name: &str, result: Result<(), Fatal>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal { status, text }) => {
            eprintln!("{name}: fatal: {text}");
            ExitCode::from(status)
        }
    }
}

/// Options in their order, as getopt(3) reads them, and the other arguments.
#[derive(Debug, Default, PartialEq)]
pub struct Parsed {
    pub options: Vec<(char, String)>,
    pub others: Vec<String>,
}

impl Parsed {
    /// Whether the option was given.
    pub fn has(&self, letter: char) -> bool {
        self.options.iter().any(|(given, _)| *given == letter)
    }

    /// The option's last value.
    pub fn value(&self, letter: char) -> Option<&str> {
        let mut found = self.options.iter().rev();
        found
            .find(|(given, _)| *given == letter)
            .map(|(_, value)| value.as_str())
    }
}

/// Reads the arguments. `letters` is getopt's: `:` behind a letter that has a value.
/// The error is getopt's message, without the program's name.
pub fn parse(args: &[OsString], letters: &str) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        if arg == "--" || !arg.starts_with('-') || arg == "-" {
            if arg != "--" {
                parsed.others.push(arg);
            }
            parsed.others.extend(args.by_ref());
            break;
        }
        let mut rest = arg[1..].chars();
        while let Some(letter) = rest.next() {
            let at = letters.find(letter).filter(|_| letter != ':');
            let at = at.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
            let mut value = String::new();
            if letters[at + letter.len_utf8()..].starts_with(':') {
                value = rest.by_ref().collect();
                if value.is_empty() {
                    let missing = || format!("option requires an argument -- '{letter}'");
                    value = args.next().ok_or_else(missing)?;
                }
            }
            parsed.options.push((letter, value));
        }
    }
    Ok(parsed)
}

/// `queue_directory` of the configuration in `-c`, `$MAIL_CONFIG` or /etc/postfix.
pub fn queue_directory(given: Option<&str>) -> Result<PathBuf, Fatal> {
    let dir = match given {
        Some(dir) => dir.to_owned(),
        None => std::env::var("MAIL_CONFIG").unwrap_or_else(|_| "/etc/postfix".to_owned()),
    };
    let config = Config::load_main(Path::new(&dir), &Environment::of_this_machine())
        .and_then(|config| config.string("queue_directory"))
        .map_err(|error| fatal(error.to_string()))?;
    Ok(PathBuf::from(config))
}

/// A time as ctime(3) prints it, in the local zone: `Sun Nov 22 16:03:58 2026`.
pub fn ctime(time: SystemTime) -> String {
    let text = mail::date::rfc5322(time);
    let words: Vec<&str> = text
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect();
    match words[..] {
        [weekday, day, month, year, clock, ..] => {
            format!("{weekday} {month} {day:>2} {clock} {year}")
        }
        // rfc5322 always has these words.
        _ => text,
    }
}

/// Text for a terminal: control characters become `?`.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_as_getopt_does() {
        let parse = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            super::parse(&args, "c:eq:h")
        };
        let parsed = parse(&["-eqABC", "-c", "/x", "one", "-h"]).unwrap();
        assert!(parsed.has('e') && !parsed.has('h'));
        assert_eq!(parsed.value('q'), Some("ABC"));
        assert_eq!(parsed.value('c'), Some("/x"));
        assert_eq!(parsed.others, ["one", "-h"]);
        assert_eq!(parse(&["-z"]).unwrap_err(), "invalid option -- 'z'");
        assert_eq!(
            parse(&["-q"]).unwrap_err(),
            "option requires an argument -- 'q'"
        );
    }

    #[test]
    fn times_read_as_ctime_does() {
        let text = ctime(SystemTime::UNIX_EPOCH);
        assert_eq!(text.len(), 24, "{text}");
        assert!(text.ends_with("1970") || text.ends_with("1969"), "{text}");
    }
}
