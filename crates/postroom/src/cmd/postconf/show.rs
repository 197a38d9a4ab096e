//! `postconf` prints: parameters of main.cf, services of master.cf, and what is unused or unknown in them.

use config::audit::{self, Audit, Class, audit};
use config::master::Entry;
use config::master_edit::Pattern;
use config::show::{self, Parts};
use config::{Config, ConfigError, Environment};

use super::edit::{field_position, split_request};
use super::options::Options;
use super::{Fatal, fatal, warn};

impl Options {
    pub fn show_main(&self, out: &mut String) -> Result<(), Fatal> {
        let dir = self.directory();
        let defaults = Config::defaults(&dir, &environment());
        let mut config = match self.has('d') {
            true => defaults,
            false => Config::load_main(&dir, &environment())?.with_overrides(&self.overrides),
        };
        config.warnings().iter().for_each(|text| warn(text));
        check_first(&config)?;
        let told = config.warnings().len();
        // Names of services come from master.cf where there is one.
        if !dir.join("master.cf").exists() {
            let file = dir.join("master.cf");
            warn(&format!(
                "open {}: No such file or directory",
                file.display()
            ));
        } else {
            config.add_services()?;
        }
        config.warnings()[told..].iter().for_each(|text| warn(text));
        if self.has('d') {
            let mut found = audit(&config.without_settings()).unwrap_or_default();
            found.known.retain(|_, class| *class != Class::User);
            return self.print_parameters(&config, &found, out);
        }
        let found = audit_or_fail(&config)?;
        found.unused.iter().for_each(|text| warn(text));
        self.print_parameters(&config, &found, out)?;
        found.unused_in_master.iter().for_each(|text| warn(text));
        Ok(())
    }

    fn print_parameters(
        &self,
        config: &Config,
        found: &Audit,
        out: &mut String,
    ) -> Result<(), Fatal> {
        let explicit_dir = self.explicit_dir().is_some();
        let is_set =
            |name: &str| config.raw(name).is_some() || (name == "config_directory" && explicit_dir);
        if self.arguments.is_empty() {
            for (name, _) in found.known.iter().filter(|(_, class)| self.shows(**class)) {
                if !self.has('n') || is_set(name) {
                    self.print_parameter(config, name, out)?;
                }
            }
            return Ok(());
        }
        for name in &self.arguments {
            if !found.known.contains_key(name.as_str()) {
                warn(&format!("{name}: unknown parameter"));
            } else if !self.has('n') || is_set(name) {
                self.print_parameter(config, name, out)?;
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

    pub fn show_master(&self, out: &mut String) -> Result<(), Fatal> {
        let dir = self.directory();
        let entries: Vec<Entry> = config::master::load_entries(&dir)?
            .iter()
            .map(show::normalized)
            .collect();
        let mut config = Config::load_main(&dir, &environment())?.with_overrides(&self.overrides);
        config.add_services()?;
        config.warnings().iter().for_each(|text| warn(text));
        check_first(&config)?;
        let found = audit_or_fail(&config)?;
        let of_tables = |text: &&String| !is_of_main(&dir, text);
        let unused = found.unused.iter().filter(of_tables);
        unused.for_each(|text| warn(text));
        if self.arguments.is_empty() {
            let (pattern, item) = self.service_pattern("*")?;
            for (at, entry) in matching(&entries, &pattern) {
                self.print_entry(at, entry, item.as_deref(), &config, out)?;
            }
        }
        for request in &self.arguments {
            let mut matched = false;
            let (pattern, item) = self.service_pattern(request)?;
            for (at, entry) in matching(&entries, &pattern) {
                matched |= self.print_entry(at, entry, item.as_deref(), &config, out)?;
            }
            if !matched {
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
        if parts.is_empty() || parts.len() > limit {
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
        at: usize,
        entry: &Entry,
        item: Option<&str>,
        config: &Config,
        out: &mut String,
    ) -> Result<bool, Fatal> {
        let entry = if self.has('x') && !self.has('P') {
            &with_expanded_overrides(at, entry, config)?
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
        let settings = audit::settings_of(config, at);
        let own = with_settings(at, entry, config);
        for (name, value) in settings {
            if item.is_some_and(|item| item != name) {
                continue;
            }
            let value = if self.has('x') {
                expanded(own.expand(value))?
            } else {
                value.to_owned()
            };
            out.push_str(&show::parameter(
                &format!("{prefix}/{name}"),
                &value,
                self.style(),
            ));
            matched = true;
        }
        Ok(matched)
    }
}

/// The entries that match, each with its position.
fn matching<'e>(
    entries: &'e [Entry],
    pattern: &'e Pattern,
) -> impl Iterator<Item = (usize, &'e Entry)> {
    let numbered = entries.iter().enumerate();
    numbered.filter(|(_, entry)| pattern.matches(entry))
}

/// The configuration as the service sees it, `$service_name` included.
fn with_settings(at: usize, entry: &Entry, config: &Config) -> Config {
    let mut all = vec![("service_name".to_owned(), entry.fields[0].clone())];
    for (name, value) in audit::settings_of(config, at) {
        all.push((name.to_owned(), value.to_owned()));
    }
    config.with_overrides(&all)
}

/// A warning about main.cf, which `-M` and its like do not repeat.
fn is_of_main(dir: &std::path::Path, text: &str) -> bool {
    text.starts_with(&format!("{}: unused", dir.join("main.cf").display()))
}

/// The entry with `$name` in its `-o` settings replaced (`-Mx`).
fn with_expanded_overrides(at: usize, entry: &Entry, config: &Config) -> Result<Entry, Fatal> {
    let mut new = entry.clone();
    let config = with_settings(at, entry, config);
    for (place, name, value) in show::overrides(entry) {
        new.fields[place] = format!("{name}={}", expanded(config.expand(value))?);
    }
    Ok(new)
}

/// What Postfix's postconf reads before all else, since defaults depend on it.
fn check_first(config: &Config) -> Result<(), Fatal> {
    let named = match config.raw("mydomain") {
        Some(_) => "mydomain",
        None => "myhostname",
    };
    for name in [
        named,
        "inet_protocols",
        "mynetworks_style",
        "inet_interfaces",
    ] {
        if let Err(error) = config.string(name) {
            warn(&error.postfix_text());
            return fatal("dictionary mail_dict: macro processing error");
        }
    }
    Ok(())
}

/// The names known to the configuration; mistakes in expressions end the command as they do in Postfix.
fn audit_or_fail(config: &Config) -> Result<Audit, Fatal> {
    for text in audit::undefined(config) {
        warn(&text);
    }
    match audit(config) {
        // Not an expression, but a table file that cannot be read.
        Err(error) if error.origin.is_some() && error.parameter.is_none() => Err(error.into()),
        result => expanded(result),
    }
}

fn expanded<T>(result: Result<T, ConfigError>) -> Result<T, Fatal> {
    result.map_err(|error| {
        warn(&error.postfix_text());
        Fatal(Some("macro processing error".to_owned()))
    })
}

fn environment() -> Environment {
    let mut environment = Environment::of_this_machine();
    environment.process_name = "postconf".to_owned();
    environment
}
