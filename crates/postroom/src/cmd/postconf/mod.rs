//! `postroom postconf`: reads and edits main.cf and master.cf. Options, output, messages and exit statuses are postconf(1)'s.

mod edit;
mod options;
mod show;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use config::ConfigError;

use options::Options;

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    let words: Vec<String> = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let mut output = String::new();
    let result = Options::parse(&words).and_then(|options| options.run(&mut output));
    match result {
        Ok(()) => {
            // A reader that closes early (`postconf | head`) is no mistake of ours.
            let _ = std::io::stdout().write_all(output.as_bytes());
            ExitCode::SUCCESS
        }
        // As in Postfix, what was to be printed before the mistake is not.
        Err(Fatal(text)) => {
            if let Some(text) = text {
                eprintln!("postconf: fatal: {}", printable(&text));
            }
            ExitCode::from(1)
        }
    }
}

/// Ends the command with `postconf: fatal: TEXT` and status 1.
struct Fatal(Option<String>);

impl Fatal {
    /// What is wrong has been said.
    fn silent() -> Fatal {
        Fatal(None)
    }
}

impl From<ConfigError> for Fatal {
    fn from(error: ConfigError) -> Fatal {
        Fatal(Some(error.postfix_text()))
    }
}

fn fatal<T>(text: impl Into<String>) -> Result<T, Fatal> {
    Err(Fatal(Some(text.into())))
}

fn warn(text: &str) {
    eprintln!("postconf: warning: {}", printable(text));
}

/// Control characters as question marks.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_ascii_control(), "?")
}

impl Options {
    fn run(&self, out: &mut String) -> Result<(), Fatal> {
        if let Some(flag) = "aAlmbtT".chars().find(|flag| self.has(*flag)) {
            return self.list(flag, out);
        }
        let editing = ['e', 'X', '#'].into_iter().find(|flag| self.has(*flag));
        if let Some(flag) = editing {
            return self.edit(flag);
        }
        if ['M', 'F', 'P'].into_iter().any(|flag| self.has(flag)) {
            self.show_master(out)
        } else {
            self.show_main(out)
        }
    }

    fn list(&self, flag: char, out: &mut String) -> Result<(), Fatal> {
        let names: &[&str] = match flag {
            'a' => &["dovecot"],
            'A' => &[],
            'l' => &["flock", "fcntl", "dotlock"],
            'm' => tables::TYPES,
            'T' => match self.tls.as_str() {
                "compile-version" | "run-version" => &["rustls"],
                "public-key-algorithms" => &["ed25519", "ecdsa", "rsa"],
                mode => {
                    warn(&format!("unknown 'postconf -T' mode: {mode}"));
                    return Err(Fatal::silent());
                }
            },
            other => return fatal(format!("option -{other} is not available in Postroom")),
        };
        names
            .iter()
            .for_each(|name| out.push_str(&format!("{name}\n")));
        Ok(())
    }
}

/// The program's name as it was called, or `postconf` when it was called through `postroom`.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    match Path::new(&called).file_name() {
        Some(name) if name == "postconf" => called,
        _ => "postconf".to_owned(),
    }
}
