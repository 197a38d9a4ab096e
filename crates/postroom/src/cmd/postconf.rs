//! `postroom postconf`: reads and edits main.cf and master.cf. Options, output, messages and exit statuses are postconf(1)'s.

use config::audit::{Audit, Class, audit};
use config::edit::{Change, edit_main};
use config::master::Entry;
use config::master_edit::{Action, Pattern, Request, edit_master};
use config::show::{self, Parts, Style};
use config::{Config, ConfigError, Environment};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    let words: Vec<String> = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let mut output = String::new();
    let result = Options::parse(&words).and_then(|options| options.run(&mut output));
    // A reader that closes early (`postconf | head`) is no mistake of ours.
    let _ = std::io::stdout().write_all(output.as_bytes());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal(text)) => {
            eprintln!("postconf: fatal: {text}");
            ExitCode::from(1)
        }
    }
}

/// Ends the command with `postconf: fatal: TEXT` and status 1.
struct Fatal(String);

impl From<ConfigError> for Fatal {
    fn from(error: ConfigError) -> Fatal {
        Fatal(error.postfix_text())
    }
}

fn fatal<T>(text: impl Into<String>) -> Result<T, Fatal> {
    Err(Fatal(text.into()))
}

fn warn(text: &str) {
    eprintln!("postconf: warning: {text}");
}

/// The command line after getopt.
#[derive(Default)]
struct Options {
    /// Letters given, each once, without those that take a value.
    flags: String,
    dir: Option<PathBuf>,
    classes: Vec<Class>,
    overrides: Vec<(String, String)>,
    arguments: Vec<String>,
}

const WITH_VALUE: &str = "cCoT";
const WITHOUT_VALUE: &str = "aAbdeEfFhHlmMnpPtvxX#";

impl Options {
    fn parse(words: &[String]) -> Result<Options, Fatal> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                options.arguments.extend(words.by_ref().cloned());
                break;
            }
            let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                // As getopt(3) does in Postfix: the first argument ends the options.
                options.arguments.push(word.clone());
                options.arguments.extend(words.by_ref().cloned());
                break;
            };
            for (at, letter) in letters.char_indices() {
                if WITHOUT_VALUE.contains(letter) {
                    options.flags.push(letter);
                    continue;
                }
                if !WITH_VALUE.contains(letter) {
                    eprintln!("postconf: invalid option -- '{letter}'");
                    return fatal(usage());
                }
                let attached = &letters[at + letter.len_utf8()..];
                let value = if attached.is_empty() {
                    words.next().map(String::as_str)
                } else {
                    Some(attached)
                };
                let Some(value) = value else {
                    eprintln!("postconf: option requires an argument -- '{letter}'");
                    return fatal(usage());
                };
                options.with_value(letter, value)?;
                break;
            }
        }
        options.check()?;
        Ok(options)
    }

    fn with_value(&mut self, letter: char, value: &str) -> Result<(), Fatal> {
        match letter {
            'c' => self.dir = Some(PathBuf::from(value)),
            'o' => {
                self.flags.push('o');
                self.overrides.push(override_of(value)?);
            }
            'C' => {
                for class in config::split_list(value) {
                    match class.to_ascii_lowercase().as_str() {
                        "builtin" => self.classes.push(Class::Builtin),
                        "service" => self.classes.push(Class::Service),
                        "user" => self.classes.push(Class::User),
                        "all" => self
                            .classes
                            .extend([Class::Builtin, Class::Service, Class::User]),
                        _ => {
                            return fatal(format!(
                                "unknown -C option value \"{class}\" in \"{value}\""
                            ));
                        }
                    }
                }
            }
            _ => self.flags.push(letter),
        }
        Ok(())
    }

    fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    /// Refuses options that exclude each other; a value means `-e`.
    fn check(&mut self) -> Result<(), Fatal> {
        let reads = "aAblmtT".contains(|flag| self.has(flag));
        if !reads && !self.has('e') && self.arguments.iter().any(|argument| argument.contains('='))
        {
            self.flags.push('e');
        }
        for group in [
            "denX#",
            "exX#",
            "ef",
            "eh",
            "eH",
            "eo",
            "MPF",
            "hH",
            "aAblmtTMPF",
        ] {
            let mut given: Vec<String> = group
                .chars()
                .filter(|flag| self.has(*flag))
                .map(|f| format!("-{f}"))
                .collect();
            given.dedup();
            if given.len() > 1 {
                return fatal(format!("specify one of {}", given.join(" ")));
            }
        }
        for (mode, excluded) in [('F', "X#dnC"), ('P', "#dnC"), ('M', "dnChH")] {
            if let Some(flag) = excluded
                .chars()
                .find(|flag| self.has(mode) && self.has(*flag))
            {
                return fatal(format!("with option -{mode}, do not specify -{flag}"));
            }
        }
        Ok(())
    }

    fn run(&self, out: &mut String) -> Result<(), Fatal> {
        if let Some(flag) = self.flags.chars().find(|flag| "aAlmbtT".contains(*flag)) {
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
            other => return fatal(format!("option -{other} is not available in Postroom")),
        };
        names
            .iter()
            .for_each(|name| out.push_str(&format!("{name}\n")));
        Ok(())
    }

    /// `-c`, then the environment's MAIL_CONFIG; the default is not shown by `-n`.
    fn explicit_dir(&self) -> Option<PathBuf> {
        self.dir
            .clone()
            .or_else(|| std::env::var_os("MAIL_CONFIG").map(PathBuf::from))
    }

    fn directory(&self) -> PathBuf {
        self.explicit_dir()
            .unwrap_or_else(|| PathBuf::from("/etc/postfix"))
    }

    fn style(&self) -> Style {
        let parts = match (self.has('h'), self.has('H')) {
            (true, _) => Parts::Value,
            (_, true) => Parts::Name,
            _ => Parts::Both,
        };
        Style {
            parts,
            fold: self.has('f'),
        }
    }
}

// Showing

impl Options {
    fn show_main(&self, out: &mut String) -> Result<(), Fatal> {
        let environment = environment();
        let loaded = Config::load(&self.directory(), &environment);
        // -d needs no main.cf, but service names come from master.cf where there is one.
        let config = match (loaded, self.has('d')) {
            (Ok(config), _) => config.with_overrides(&self.overrides),
            (Err(_), true) => Config::defaults(&self.directory(), &environment),
            (Err(error), false) => return Err(error.into()),
        };
        if self.has('d') {
            let found = audit(&config).unwrap_or_default();
            return self.print_parameters(&config.without_settings(), &found, out);
        }
        config.warnings().iter().for_each(|text| warn(text));
        let found = audit_or_fail(&config)?;
        self.print_parameters(&config, &found, out)?;
        found
            .unused
            .iter()
            .chain(&found.unused_in_master)
            .for_each(|text| warn(text));
        Ok(())
    }

    fn print_parameters(
        &self,
        config: &Config,
        found: &Audit,
        out: &mut String,
    ) -> Result<(), Fatal> {
        let wanted = |class: Class| self.classes.is_empty() || self.classes.contains(&class);
        let explicit_dir = self.explicit_dir().is_some();
        let is_set =
            |name: &str| config.raw(name).is_some() || (name == "config_directory" && explicit_dir);
        if self.arguments.is_empty() {
            for (name, _) in found.known.iter().filter(|(_, class)| wanted(**class)) {
                if !self.has('n') || is_set(name) {
                    self.print_parameter(config, name, out)?;
                }
            }
            return Ok(());
        }
        for name in &self.arguments {
            match found.known.get(name.as_str()) {
                Some(class) if wanted(*class) => {
                    if !self.has('n') || is_set(name) {
                        self.print_parameter(config, name, out)?;
                    }
                }
                _ => warn(&format!("{name}: unknown parameter")),
            }
        }
        Ok(())
    }

    fn print_parameter(&self, config: &Config, name: &str, out: &mut String) -> Result<(), Fatal> {
        let value = if self.has('d') && name == "config_directory" {
            "/etc/postfix".to_owned()
        } else if self.has('x') {
            expanded(config.string(name))?
        } else {
            config.unexpanded(name)?
        };
        out.push_str(&show::parameter(name, &value, self.style()));
        Ok(())
    }

    fn show_master(&self, out: &mut String) -> Result<(), Fatal> {
        let dir = self.directory();
        let entries: Vec<Entry> = config::master::load_entries(&dir)?
            .iter()
            .map(show::normalized)
            .collect();
        let config = Config::load(&dir, &environment())?.with_overrides(&self.overrides);
        let found = audit_or_fail(&config)?;
        let everything = vec!["*".to_owned()];
        let requests = if self.arguments.is_empty() {
            &everything
        } else {
            &self.arguments
        };
        for request in requests {
            let shown = out.len();
            let mut matched = false;
            let (pattern, item) = self.service_pattern(request)?;
            for entry in entries.iter().filter(|entry| pattern.matches(entry)) {
                matched |= self.print_entry(entry, item.as_deref(), &config, out)?;
            }
            if out.len() == shown && !matched {
                warn(&format!("unmatched request: \"{request}\""));
            }
        }
        found.unused_in_master.iter().for_each(|text| warn(text));
        Ok(())
    }

    fn print_command(&self, entry: &Entry, name: &str, out: &mut String) {
        let label = match self.style().parts {
            Parts::Name => return out.push_str(&format!("{name}\n")),
            Parts::Value => String::new(),
            Parts::Both => format!("{name} = "),
        };
        out.push_str(&format!(
            "{label}{}\n",
            show::command(entry, label.len(), self.has('f'))
        ));
    }

    /// `name[/type[/item]]`; what is left out matches everything.
    fn service_pattern(&self, request: &str) -> Result<(Pattern, Option<String>), Fatal> {
        let (limit, shape) = match (self.has('M'), self.has('F')) {
            (true, _) => (2, "-M option requires service_name[/type]"),
            (_, true) => (3, "-F option requires service_name[/type[/field]]"),
            _ => (3, "-P option requires service_name[/type[/parameter]]"),
        };
        let parts = split_request(request);
        if parts.len() > limit {
            return fatal(shape);
        }
        let part = |at: usize| parts.get(at).cloned().unwrap_or_else(|| "*".to_owned());
        let item = Some(part(2)).filter(|item| item != "*");
        if let Some(item) = item.as_ref().filter(|_| self.has('F')) {
            field_position(item)?;
        }
        Ok((
            Pattern {
                name: part(0),
                kind: part(1),
            },
            item,
        ))
    }

    /// Prints what the mode asks of one entry; false when nothing of it matches `item`.
    fn print_entry(
        &self,
        entry: &Entry,
        item: Option<&str>,
        config: &Config,
        out: &mut String,
    ) -> Result<bool, Fatal> {
        let entry = if self.has('x') && !self.has('P') {
            &with_expanded_overrides(entry, config)?
        } else {
            entry
        };
        if self.has('M') {
            out.push_str(&show::entry(entry, self.has('f')));
            return Ok(true);
        }
        let prefix = format!("{}/{}", entry.fields[0], entry.fields[1]);
        let mut matched = false;
        if self.has('F') {
            for (at, field) in show::FIELD_NAMES.iter().enumerate() {
                if item.is_none_or(|item| item == *field) {
                    let name = format!("{prefix}/{field}");
                    if *field == "command" {
                        self.print_command(entry, &name, out);
                    } else {
                        out.push_str(&show::parameter(&name, &entry.fields[at], self.style()));
                    }
                    matched = true;
                }
            }
            return Ok(matched);
        }
        let mut settings = show::overrides(entry);
        settings.sort_by_key(|(_, name, _)| *name);
        let all: Vec<(String, String)> = settings
            .iter()
            .map(|(_, name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let own = config.with_overrides(&all);
        for (name, value) in all
            .iter()
            .filter(|(name, _)| item.is_none_or(|item| item == name))
        {
            let value = if self.has('x') {
                expanded(own.expand(value))?
            } else {
                value.clone()
            };
            out.push_str(&show::parameter(
                &format!("{prefix}/{name}"),
                &value,
                self.style(),
            ));
            matched = true;
        }
        // A service without settings is no mistake unless one was asked for by name.
        Ok(matched || item.is_none())
    }
}

/// The entry with `$name` in its `-o` settings replaced (`-Mx`).
fn with_expanded_overrides(entry: &Entry, config: &Config) -> Result<Entry, Fatal> {
    let mut new = entry.clone();
    let settings = show::overrides(entry);
    let own: Vec<(String, String)> = settings
        .iter()
        .map(|(_, name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let config = config.with_overrides(&own);
    for (at, name, value) in settings {
        new.fields[at] = format!("{name}={}", expanded(config.expand(value))?);
    }
    Ok(new)
}

/// The names known to the configuration; mistakes in expressions end the command as they do in Postfix.
fn audit_or_fail(config: &Config) -> Result<Audit, Fatal> {
    for text in config::audit::undefined(config) {
        warn(&text);
    }
    expanded(audit(config))
}

fn expanded<T>(result: Result<T, ConfigError>) -> Result<T, Fatal> {
    result.map_err(|error| {
        warn(&error.postfix_text());
        Fatal("macro processing error".to_owned())
    })
}

// Editing

impl Options {
    fn edit(&self, flag: char) -> Result<(), Fatal> {
        if self.arguments.is_empty() {
            return fatal(if flag == 'e' {
                "-e requires name=value argument"
            } else {
                "missing service argument"
            });
        }
        if let Some(bad) = self
            .arguments
            .iter()
            .find_map(|argument| unfit_for_edit(argument))
        {
            return fatal(bad);
        }
        let warnings = if ['M', 'F', 'P'].into_iter().any(|mode| self.has(mode)) {
            let requests = self
                .arguments
                .iter()
                .map(|a| self.master_request(flag, a))
                .collect::<Result<Vec<_>, _>>()?;
            edit_master(&self.directory().join("master.cf"), &requests)?
        } else {
            edit_main(&self.directory().join("main.cf"), &self.main_change(flag)?)?
        };
        warnings.iter().for_each(|text| warn(text));
        Ok(())
    }

    fn main_change(&self, flag: char) -> Result<Change, Fatal> {
        if flag == 'e' {
            return Ok(Change::Set(
                self.arguments
                    .iter()
                    .map(|a| setting(a))
                    .collect::<Result<_, _>>()?,
            ));
        }
        if self.arguments.iter().any(|name| name.trim().is_empty()) {
            return fatal("-X or -# requires non-blank parameter names");
        }
        let names = self
            .arguments
            .iter()
            .map(|name| name.trim().to_owned())
            .collect();
        Ok(if flag == 'X' {
            Change::Remove(names)
        } else {
            Change::CommentOut(names)
        })
    }

    fn master_request(&self, flag: char, argument: &str) -> Result<Request, Fatal> {
        let (target, value) = match flag {
            'e' => setting(argument)?,
            _ => (argument.to_owned(), String::new()),
        };
        let parts = split_request(&target);
        let (wanted, shape) = match (self.has('M'), self.has('F')) {
            (true, _) => (2, "-Me, -MX or -M# requires service_name/type"),
            (_, true) => (3, "-Fe or -FX requires service_name/type/field_name"),
            _ => (3, "-Pe or -PX requires service_name/type/parameter"),
        };
        if parts.len() != wanted {
            return fatal(shape);
        }
        let action = if self.has('M') {
            match flag {
                'e' => Action::Replace(value),
                'X' => Action::Remove,
                _ => Action::CommentOut,
            }
        } else if self.has('F') {
            Action::Field(field_position(&parts[2])?, value)
        } else {
            parameter_action(flag, &parts[2], value)?
        };
        let pattern = Pattern {
            name: parts[0].clone(),
            kind: parts[1].clone(),
        };
        Ok(Request {
            text: argument.to_owned(),
            pattern,
            action,
        })
    }
}

fn parameter_action(flag: char, name: &str, value: String) -> Result<Action, Fatal> {
    if name == "*" {
        return fatal("-Pe does not accept wild-card parameter name");
    }
    if flag == 'X' {
        return Ok(Action::RemoveOverride(name.to_owned()));
    }
    if value.contains([' ', '\t']) {
        return fatal("-Pe does not accept whitespace in parameter value");
    }
    Ok(Action::SetOverride(name.to_owned(), value))
}

fn unfit_for_edit(argument: &str) -> Option<&'static str> {
    if argument.contains('\n') {
        Some("-e, -X, or -# accepts no multi-line input")
    } else if argument.trim_start().starts_with('#') {
        Some("-e, -X, or -# accepts no comment input")
    } else {
        None
    }
}

fn field_position(name: &str) -> Result<usize, Fatal> {
    match show::FIELD_NAMES.iter().position(|field| *field == name) {
        Some(at) => Ok(at),
        None => fatal(format!("invalid service attribute name: \"{name}\"")),
    }
}

/// Splits at `/`, but the name of a unix service may contain slashes before its type.
fn split_request(request: &str) -> Vec<String> {
    request.split('/').map(str::to_owned).collect()
}

fn setting(text: &str) -> Result<(String, String), Fatal> {
    match config::split_name_value(text) {
        Ok((name, value)) => Ok((name.to_owned(), value.to_owned())),
        Err(problem) => fatal(format!("{problem}: \"{text}\"")),
    }
}

fn override_of(text: &str) -> Result<(String, String), Fatal> {
    match config::split_name_value(text) {
        Ok((name, value)) => Ok((name.to_owned(), value.to_owned())),
        Err(problem) => fatal(format!("invalid parameter override: {text}: {problem}")),
    }
}

fn environment() -> Environment {
    let mut environment = Environment::of_this_machine();
    environment.process_name = "postconf".to_owned();
    environment
}

/// The program's name as it was called, or `postconf` when it was called through `postroom`.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    match Path::new(&called).file_name() {
        Some(name) if name == "postconf" => called,
        _ => "postconf".to_owned(),
    }
}

fn usage() -> String {
    format!(
        "usage: {} [-a (server SASL types)] [-A (client SASL types)] [-b (bounce templates)] [-c config_dir] \
         [-c param_class] [-d (parameter defaults)] [-e (edit configuration)] [-f (fold lines)] [-F (master.cf fields)] \
         [-h (no names)] [-H (no values)] [-l (lock types)] [-m (map types)] [-M (master.cf)] [-n (non-default parameters)] \
         [-o name=value (override parameter value)] [-p (main.cf, default)] [-P (master.cf parameters)] \
         [-t (bounce templates)] [-T compile-version|run-version|public-key-algorithms] [-v (verbose)] \
         [-x (expand parameter values)] [-X (exclude)] [-# (comment-out)] [name...]",
        program()
    )
}
