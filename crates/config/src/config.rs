//! The whole configuration of one instance: settings, services, and the typed getters that everything else uses.

use crate::environment::Environment;
use crate::error::{ConfigError, Origin};
use crate::expand::{self, SyntaxError, Wanted};
use crate::lines::Quote;
use crate::main_cf::{self, MainCf, Setting};
use crate::master::{self, Service};
use crate::params::{self, Kind};
use crate::values;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// main.cf, master.cf and `-o` overrides. Cheap to clone. Texts are kept unexpanded, with their origin.
#[derive(Debug, Clone)]
pub struct Config(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    dir: PathBuf,
    environment: Environment,
    main: MainCf,
    services: Vec<Service>,
    /// With those that a later entry of the same name and type replaces.
    written: Vec<Service>,
}

impl Config {
    /// Reads `dir/main.cf` and, where it exists, `dir/master.cf`.
    pub fn load(dir: &Path, environment: &Environment) -> Result<Config, ConfigError> {
        let mut config = Config::load_main(dir, environment)?;
        let path = dir.join("master.cf");
        if path.exists() {
            let bytes = std::fs::read(&path).map_err(|e| ConfigError::unreadable(&path, &e))?;
            let (written, warnings) = master::parse_all(&String::from_utf8_lossy(&bytes), &path)?;
            config.take_services(written, warnings);
        }
        Ok(config)
    }

    /// Reads the services of master.cf, which must be there, as `postconf` does: `-o` words that are no
    /// setting are passed over.
    pub fn add_services(&mut self) -> Result<(), ConfigError> {
        let path = self.dir().join("master.cf");
        let bytes = std::fs::read(&path).map_err(|e| ConfigError::unreadable(&path, &e))?;
        let (written, warnings) =
            master::parse_as_written(&String::from_utf8_lossy(&bytes), &path)?;
        self.take_services(written, warnings);
        Ok(())
    }

    fn take_services(&mut self, written: Vec<Service>, warnings: Vec<String>) {
        let inner = Arc::make_mut(&mut self.0);
        inner.services = master::effective(&written);
        inner.written = written;
        inner.main.warnings.extend(warnings);
    }

    /// Reads as much as can be read, and says what is wrong with the rest.
    pub fn load_whole(dir: &Path, environment: &Environment) -> (Config, Vec<ConfigError>) {
        let mut mistakes = Vec::new();
        let main_cf = dir.join("main.cf");
        let main = match std::fs::read(&main_cf) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let (main, wrong) = main_cf::parse_all(&text, &main_cf, Quote::Line);
                mistakes.extend(wrong);
                main
            }
            Err(error) => {
                mistakes.push(ConfigError::unreadable(&main_cf, &error));
                MainCf::default()
            }
        };
        let mut config = Config::new(dir, environment.clone(), main, Vec::new());
        let master_cf = dir.join("master.cf");
        match std::fs::read(&master_cf) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let (written, warnings, wrong) = master::parse_leniently(&text, &master_cf);
                mistakes.extend(wrong);
                config.take_services(written, warnings);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => mistakes.push(ConfigError::unreadable(&master_cf, &error)),
        }
        (config, mistakes)
    }

    /// The configuration without the setting that a mistake is about, so that what else is wrong can be found;
    /// `None` where the mistake names no setting. A list of restrictions becomes `reject`: an empty one would be
    /// a mistake of its own.
    pub fn without(&self, mistake: &ConfigError) -> Option<Config> {
        let name = mistake.parameter.as_deref()?;
        let mut config = self.clone();
        let inner = Arc::make_mut(&mut config.0);
        let is_it = |origin: &Origin| mistake.origin.as_ref().is_none_or(|at| at == origin);
        let master_cf = inner.dir.join("master.cf");
        let mut found = false;
        for service in &mut inner.services {
            let here = Origin::new(&master_cf, service.line);
            let before = service.overrides.len();
            if mistake.origin.as_ref() == Some(&here) {
                service.overrides.retain(|(set, _)| set != name);
                found |= service.overrides.len() < before;
            }
        }
        if inner
            .main
            .settings
            .get(name)
            .is_some_and(|set| is_it(&set.origin))
        {
            match inner.main.settings.get_mut(name) {
                Some(setting) if name.ends_with("_restrictions") && setting.value != "reject" => {
                    setting.value = "reject".to_owned();
                }
                _ => {
                    inner.main.settings.remove(name);
                }
            }
            found = true;
        }
        found.then_some(config)
    }

    /// Reads `dir/main.cf` alone, as commands do that have nothing to do with services.
    pub fn load_main(dir: &Path, environment: &Environment) -> Result<Config, ConfigError> {
        let path = dir.join("main.cf");
        let bytes = std::fs::read(&path).map_err(|e| ConfigError::unreadable(&path, &e))?;
        let main = main_cf::parse(&String::from_utf8_lossy(&bytes), &path)?;
        Ok(Config::new(dir, environment.clone(), main, Vec::new()))
    }

    /// A configuration without any settings and services.
    pub fn defaults(dir: &Path, environment: &Environment) -> Config {
        Config::new(dir, environment.clone(), MainCf::default(), Vec::new())
    }

    /// The same directory, environment and services with every parameter at its default.
    pub fn without_settings(&self) -> Config {
        let mut config = self.clone();
        Arc::make_mut(&mut config.0).main = MainCf::default();
        config
    }

    /// A configuration from texts, on a machine named `mail.example.com`; for tests and demonstrations.
    pub fn from_text(main_cf: &str, master_cf: &str) -> Result<Config, ConfigError> {
        let main = main_cf::parse(main_cf, Path::new("main.cf"))?;
        let services = master::parse(master_cf, Path::new("master.cf"))?;
        let environment = Environment::fixed("mail.example.com");
        Ok(Config::new(
            Path::new("/etc/postfix"),
            environment,
            main,
            services,
        ))
    }

    fn new(dir: &Path, environment: Environment, main: MainCf, services: Vec<Service>) -> Config {
        Config(Arc::new(Inner {
            dir: dir.to_owned(),
            environment,
            main,
            written: services.clone(),
            services,
        }))
    }

    /// The directory that was read: `$config_directory`.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    pub fn environment(&self) -> &Environment {
        &self.0.environment
    }

    /// The explicit setting, unexpanded.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0
            .main
            .settings
            .get(name)
            .map(|setting| setting.value.as_str())
    }

    /// File and line of the explicit setting.
    pub fn origin(&self, name: &str) -> Option<Origin> {
        self.0
            .main
            .settings
            .get(name)
            .map(|setting| setting.origin.clone())
    }

    /// The names of all explicit settings, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.main.settings.keys().map(String::as_str)
    }

    pub fn services(&self) -> &[Service] {
        &self.0.services
    }

    /// Every entry of master.cf, also those that a later one of the same name and type replaces.
    pub(crate) fn written_services(&self) -> &[Service] {
        &self.0.written
    }

    /// "overriding earlier entry" and the like, as Postfix words them after `warning: `.
    pub fn warnings(&self) -> &[String] {
        &self.0.main.warnings
    }

    /// This configuration with `-o name=value` settings on top.
    pub fn with_overrides(&self, overrides: &[(String, String)]) -> Config {
        self.overridden(overrides, &Origin::new(Path::new("-o"), 0))
    }

    /// This configuration as a service sees it; errors then name its line in master.cf.
    pub fn for_service(&self, service: &Service) -> Config {
        let mut overrides = service.overrides.clone();
        if overrides
            .iter()
            .any(|(_, value)| value.contains("service_name"))
        {
            // As in `-o syslog_name=postfix/$service_name`.
            overrides.push(("service_name".to_owned(), service.name.clone()));
        }
        self.overridden(
            &overrides,
            &Origin::new(&self.0.dir.join("master.cf"), service.line),
        )
    }

    fn overridden(&self, overrides: &[(String, String)], origin: &Origin) -> Config {
        let mut config = self.clone();
        if overrides.is_empty() {
            return config;
        }
        let settings = &mut Arc::make_mut(&mut config.0).main.settings;
        for (name, value) in overrides {
            let setting = Setting {
                value: value.clone(),
                origin: origin.clone(),
            };
            settings.insert(name.clone(), setting);
        }
        config
    }

    /// The expanded value: the explicit setting, else the default. User-defined names count too;
    /// a name that is neither set nor known is an error.
    pub fn string(&self, name: &str) -> Result<String, ConfigError> {
        let value = self.value_of(name, &mut Vec::new())?;
        let value = value.ok_or_else(|| {
            ConfigError::new(
                "there is no such parameter",
                "check the spelling, or set it in main.cf",
            )
            .parameter(name)
        })?;
        if name == "myorigin" && value.starts_with('/') {
            return self.first_line_of(&value, name);
        }
        Ok(value)
    }

    /// A boolean parameter.
    pub fn bool(&self, name: &str) -> Result<bool, ConfigError> {
        let value = self.string(name)?;
        values::parse_bool(&value).ok_or_else(|| {
            self.bad(name, &value, "not a boolean", "write yes or no")
                .like_postfix(format!("bad boolean configuration: {name} = {value}"))
        })
    }

    /// A number.
    pub fn int(&self, name: &str) -> Result<i64, ConfigError> {
        let value = self.string(name)?;
        values::parse_int(&value).ok_or_else(|| {
            self.bad(
                name,
                &value,
                "not a number",
                "write a decimal number, without a unit",
            )
            .like_postfix(format!("bad numerical configuration: {name} = {value}"))
        })
    }

    /// A time; a number without a unit counts in the unit of the parameter's default.
    pub fn time(&self, name: &str) -> Result<Duration, ConfigError> {
        let value = self.string(name)?;
        let unit = self.default_unit(name);
        values::parse_time(&value, unit).ok_or_else(|| {
            let remedy = format!(
                "write a number and a unit, s m h d or w, as in 30s or 5d; without a unit it counts in {unit}"
            );
            self.bad(name, &value, "not a time", &remedy)
                .like_postfix(format!("parameter {name}: bad time value or unit: {value}"))
        })
    }

    /// A list; see [`crate::split_list`].
    pub fn list(&self, name: &str) -> Result<Vec<String>, ConfigError> {
        Ok(values::split_list(&self.string(name)?))
    }

    /// Expands `$name` expressions of any text with this configuration's values. Unknown names are empty.
    pub fn expand(&self, text: &str) -> Result<String, ConfigError> {
        self.expand_nested(text, &mut Vec::new())
            .map_err(|failure| failure.into_error(None, text))
    }

    /// The unexpanded default: the parameter's row, or what the machine says, or the service's fallback.
    /// `None` for names that are neither known nor service-specific.
    pub fn default_text(&self, name: &str) -> Result<Option<String>, ConfigError> {
        self.default_of(name, &mut Vec::new())
    }

    /// The explicit setting or the default, unexpanded; empty for a name without either.
    pub fn unexpanded(&self, name: &str) -> Result<String, ConfigError> {
        match self.raw(name) {
            Some(value) => Ok(value.to_owned()),
            None if name == "config_directory" => Ok(self.dir().display().to_string()),
            None => Ok(self.default_text(name)?.unwrap_or_default()),
        }
    }

    fn value_of(
        &self,
        name: &str,
        within: &mut Vec<String>,
    ) -> Result<Option<String>, ConfigError> {
        if within.iter().any(|outer| outer == name) {
            let cycle = within
                .iter()
                .map(String::as_str)
                .chain([name])
                .collect::<Vec<_>>()
                .join(" -> ");
            let named = deepest(within, name);
            return Err(self
                .bad(
                    name,
                    self.raw(name).unwrap_or_default(),
                    "its value refers to itself",
                    "",
                )
                .remedy(format!("break the cycle {cycle}"))
                .like_postfix(format!("unreasonable macro call nesting: \"{named}\"")));
        }
        let text = match self.0.main.settings.get(name) {
            Some(setting) => setting.value.clone(),
            None if name == "config_directory" => {
                return Ok(Some(self.0.dir.display().to_string()));
            }
            None => match self.default_of(name, within)? {
                Some(text) => text,
                None => return Ok(None),
            },
        };
        let raw = params::find(name).is_some_and(|param| param.kind == Kind::Raw);
        if raw || !text.contains('$') {
            return Ok(Some(text));
        }
        within.push(name.to_owned());
        let expanded = self.expand_nested(&text, within);
        within.pop();
        let origin = self.origin(name);
        expanded
            .map(Some)
            .map_err(|failure| failure.into_error(Some((name, origin)), &text))
    }

    fn expand_nested(&self, text: &str, within: &mut Vec<String>) -> Result<String, Failure> {
        let mut lookup = |name: &str, wanted: Wanted| {
            let found = match wanted {
                Wanted::Value => self.value_of(name, within),
                Wanted::Text => match self.raw(name) {
                    Some(text) => Ok(Some(text.to_owned())),
                    None => self.default_of(name, within),
                },
            };
            found.map_err(Failure::Inner)
        };
        expand::expand(text, &mut lookup)
    }

    fn default_of(
        &self,
        name: &str,
        within: &mut Vec<String>,
    ) -> Result<Option<String>, ConfigError> {
        let environment = &self.0.environment;
        Ok(Some(match name {
            "myhostname" => self.default_hostname(within)?,
            // A host name that refers to it stands before it.
            "mydomain" if within.iter().any(|outer| outer == "myhostname") => String::new(),
            "mydomain" => match self
                .value_of("myhostname", within)?
                .as_deref()
                .and_then(|h| h.split_once('.'))
            {
                Some((_, domain)) => domain.to_owned(),
                None => "localdomain".to_owned(),
            },
            "mynetworks" => self.default_networks(within)?,
            "process_id" => environment.process_id.to_string(),
            "process_name" => environment.process_name.clone(),
            _ => match params::find(name) {
                Some(param) => param.default.to_owned(),
                None => return Ok(params::service_fallback(name)),
            },
        }))
    }

    fn default_hostname(&self, within: &mut Vec<String>) -> Result<String, ConfigError> {
        let hostname = &self.0.environment.hostname;
        if hostname.contains('.') {
            return Ok(hostname.clone());
        }
        let domain = match self.raw("mydomain") {
            // A domain that refers to the host name stands before it.
            _ if within.iter().any(|outer| outer == "mydomain") => String::new(),
            Some(_) => self.value_of("mydomain", within)?.unwrap_or_default(),
            None => "localdomain".to_owned(),
        };
        Ok(format!("{hostname}.{domain}"))
    }

    /// `mynetworks` by `mynetworks_style`: the machine itself, its networks, or their class A, B or C networks.
    fn default_networks(&self, within: &mut Vec<String>) -> Result<String, ConfigError> {
        let style = self
            .value_of("mynetworks_style", within)?
            .unwrap_or_default();
        let protocols = self.value_of("inet_protocols", within)?.unwrap_or_default();
        let wanted = values::split_list(&protocols);
        let has = |name: &str| wanted.iter().any(|p| p == "all" || p == name);
        let mut networks: Vec<String> = Vec::new();
        for interface in &self.0.environment.interfaces {
            let v4 = interface.address.is_ipv4();
            if !has(if v4 { "ipv4" } else { "ipv6" }) {
                continue;
            }
            let width = if v4 { 32 } else { 128 };
            let prefix = match (style.as_str(), interface.address) {
                ("host", _) => width,
                ("class", IpAddr::V4(address)) => match address.octets()[0] {
                    0..=127 => 8,
                    128..=191 => 16,
                    192..=223 => 24,
                    _ => 32,
                },
                _ => interface.prefix,
            };
            let network = network_text(interface.address, prefix);
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        Ok(networks.join(" "))
    }

    fn default_unit(&self, name: &str) -> char {
        let default = self.default_text(name).ok().flatten().unwrap_or_default();
        let expanded = self.expand(&default).unwrap_or_default();
        expanded
            .chars()
            .last()
            .filter(char::is_ascii_alphabetic)
            .unwrap_or('s')
    }

    /// Debian's rule for `myorigin = /etc/mailname`: the file's first line is the value.
    fn first_line_of(&self, file: &str, name: &str) -> Result<String, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            self.bad(
                name,
                file,
                &format!("the file cannot be read: {}", crate::error::os_text(&error)),
                "",
            )
            .remedy(
                "create the file with the domain name in it, or write the domain name here"
                    .to_owned(),
            )
        })?;
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    }

    fn bad(&self, name: &str, value: &str, problem: &str, remedy: &str) -> ConfigError {
        ConfigError::new(problem, remedy)
            .at(self.origin(name))
            .parameter(name)
            .value(value)
    }

    /// Values that do not fit the kind of their parameter in [`params::PARAMS`], in main.cf and in master.cf.
    pub fn check(&self) -> Vec<ConfigError> {
        let set_here = |param: &&params::Param| self.raw(param.name).is_some();
        let of_main = params::PARAMS.iter().filter(set_here);
        let mut mistakes: Vec<ConfigError> =
            of_main.filter_map(|param| self.mistake_in(param)).collect();
        for service in self.services() {
            let config = self.for_service(service);
            let set = service.overrides.iter().map(|(name, _)| name.as_str());
            let names: std::collections::BTreeSet<&str> = set.collect();
            let own = names.into_iter().filter_map(params::find);
            mistakes.extend(own.filter_map(|param| config.mistake_in(param)));
        }
        mistakes
    }

    fn mistake_in(&self, param: &params::Param) -> Option<ConfigError> {
        match param.kind {
            Kind::Bool => self.bool(param.name).err(),
            Kind::Int => self.int(param.name).map_or_else(Some, |value| {
                // The scores of postscreen's lists count down, too.
                let negative = value < 0 && !param.name.starts_with("postscreen_");
                negative.then(|| {
                    let value = value.to_string();
                    let remedy = "write 0 or more; 0 often means no limit";
                    self.bad(param.name, &value, "below zero", remedy)
                })
            }),
            Kind::Time => self.time(param.name).err(),
            Kind::Text | Kind::Raw => match self.string(param.name) {
                Ok(value) => self.unknown_word(param.name, &value),
                Err(mistake) => Some(mistake),
            },
        }
    }

    /// A word that a parameter with a fixed choice of words does not have.
    fn unknown_word(&self, name: &str, value: &str) -> Option<ConfigError> {
        const CHOICES: [(&str, &[&str]); 2] = [
            ("inet_protocols", &["all", "ipv4", "ipv6"]),
            ("mynetworks_style", &["host", "subnet", "class"]),
        ];
        let (_, words) = CHOICES.iter().find(|(choice, _)| *choice == name)?;
        let given = values::split_list(value);
        let unknown = given.iter().find(|word| !words.contains(&word.as_str()))?;
        let remedy = format!("write one of: {}", words.join(", "));
        Some(self.bad(name, value, &format!("unknown word \"{unknown}\""), &remedy))
    }
}

/// The name at which Postfix gives up a cycle: the one 101 levels down.
fn deepest<'a>(within: &'a [String], name: &'a str) -> &'a str {
    let start = within.iter().position(|outer| outer == name).unwrap_or(0);
    let cycle = &within[start..];
    let at = 100usize.saturating_sub(start) % cycle.len().max(1);
    cycle.get(at).map_or(name, String::as_str)
}

/// `192.0.2.0/24`, `[fd00::]/64`: the notation of `mynetworks`.
fn network_text(address: IpAddr, prefix: u8) -> String {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix.min(32)))
                .unwrap_or(0);
            let network = std::net::Ipv4Addr::from_bits(v4.to_bits() & mask);
            format!("{network}/{prefix}")
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix.min(128)))
                .unwrap_or(0);
            let network = std::net::Ipv6Addr::from_bits(v6.to_bits() & mask);
            format!("[{network}]/{prefix}")
        }
    }
}

/// An expansion fails by its own syntax, or inside a value that it refers to.
enum Failure {
    Syntax(SyntaxError),
    Inner(ConfigError),
}

impl From<SyntaxError> for Failure {
    fn from(error: SyntaxError) -> Failure {
        Failure::Syntax(error)
    }
}

impl Failure {
    fn into_error(self, owner: Option<(&str, Option<Origin>)>, text: &str) -> ConfigError {
        match self {
            Failure::Inner(error) => error,
            Failure::Syntax(SyntaxError(problem)) => {
                let remedy =
                    "write $name, ${name} or ${name?{then}:{else}}, and $$ for a dollar sign";
                let error = ConfigError::new(problem.clone(), remedy)
                    .value(text)
                    .like_postfix(problem);
                match owner {
                    Some((name, origin)) => error.parameter(name).at(origin),
                    None => error,
                }
            }
        }
    }
}
