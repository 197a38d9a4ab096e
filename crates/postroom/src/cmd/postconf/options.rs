//! The command line of postconf: letters, which of them exclude each other, and the usage text.

use std::path::PathBuf;

use config::audit::Class;
use config::show::{Parts, Style};

use super::{Fatal, fatal, program};

/// The command line after getopt.
#[derive(Default)]
pub(super) struct Options {
    /// Letters given, each once, without `-c`, `-C` and `-v`.
    flags: String,
    dir: Option<PathBuf>,
    /// `-C`; `None`: all.
    classes: Option<Vec<Class>>,
    pub overrides: Vec<(String, String)>,
    /// `-T`.
    pub tls: String,
    pub arguments: Vec<String>,
}

const WITH_VALUE: &str = "cCoT";
const WITHOUT_VALUE: &str = "aAbdeEfFhHlmMnpPtvxX#";
/// In which order messages name them.
const ORDER: &str = "aAbdeEfFhHlmMnopPtTxX#";
/// Of each group one at most.
const EXCLUSIVE: [&str; 8] = [
    "aAbFlmMpPT",
    "aAFlmMpPtT",
    "denX#",
    "efX#",
    "ehX#",
    "eHX#",
    "eoX#",
    "exX#",
];
/// What excludes each other pair by pair.
const PAIRS: [&str; 2] = ["do", "hH"];
/// What a mode does not go with.
const UNFIT: [(&str, &str); 4] = [
    ("aAblmtT", "defhHnoxX#"),
    ("F", "dnX#"),
    ("M", "dhHn"),
    ("P", "dn#"),
];

impl Options {
    pub fn parse(words: &[String]) -> Result<Options, Fatal> {
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
                let classes = self.classes.get_or_insert_default();
                for class in config::split_list(value) {
                    match class.to_ascii_lowercase().as_str() {
                        "builtin" => classes.push(Class::Builtin),
                        "service" => classes.push(Class::Service),
                        "user" => classes.push(Class::User),
                        "all" => classes.extend([Class::Builtin, Class::Service, Class::User]),
                        _ => {
                            return fatal(format!(
                                "unknown -C option value \"{class}\" in \"{value}\""
                            ));
                        }
                    }
                }
            }
            'T' => {
                self.flags.push('T');
                value.clone_into(&mut self.tls);
            }
            _ => self.flags.push(letter),
        }
        Ok(())
    }

    pub fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    /// Refuses options that exclude each other; a value as the first argument means `-e`.
    fn check(&mut self) -> Result<(), Fatal> {
        let reads = "aAblmtT".contains(|flag| self.has(flag));
        let first = self.arguments.first();
        if !reads && !self.has('e') && first.is_some_and(|argument| argument.contains('=')) {
            self.flags.push('e');
        }
        if self.has('b') && self.has('t') {
            return fatal("specify one of -b and -t");
        }
        for group in EXCLUSIVE.iter().chain(&PAIRS) {
            let given: Vec<String> = ORDER
                .chars()
                .filter(|flag| group.contains(*flag) && self.has(*flag))
                .map(|flag| format!("-{flag}"))
                .collect();
            if given.len() > 1 {
                return fatal(format!("specify one of {}", given.join(" ")));
            }
        }
        for (modes, excluded) in UNFIT {
            let mode = modes.chars().find(|mode| self.has(*mode));
            let flag = excluded.chars().find(|flag| self.has(*flag));
            if let (Some(mode), Some(flag)) = (mode, flag) {
                return fatal(format!("with option -{mode}, do not specify -{flag}"));
            }
        }
        Ok(())
    }

    pub fn shows(&self, class: Class) -> bool {
        let classes = self.classes.as_ref();
        classes.is_none_or(|classes| classes.contains(&class))
    }

    /// `-c`, then the environment's MAIL_CONFIG; the default is not shown by `-n`.
    pub fn explicit_dir(&self) -> Option<PathBuf> {
        self.dir
            .clone()
            .or_else(|| std::env::var_os("MAIL_CONFIG").map(PathBuf::from))
    }

    pub fn directory(&self) -> PathBuf {
        self.explicit_dir()
            .unwrap_or_else(|| PathBuf::from("/etc/postfix"))
    }

    pub fn style(&self) -> Style {
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

fn override_of(text: &str) -> Result<(String, String), Fatal> {
    match config::split_name_value(text) {
        Ok((name, value)) => Ok((name.to_owned(), value.to_owned())),
        Err(problem) => fatal(format!("invalid parameter override: {text}: {problem}")),
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
