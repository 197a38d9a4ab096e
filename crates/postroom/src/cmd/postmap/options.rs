//! The options of postmap(1) and postalias(1).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use tables::{Format, Nulls, Open};

use super::Fatal;

/// Which of the two commands runs. They differ in the syntax of their sources and in few options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Postmap,
    Postalias,
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Tool::Postmap => "postmap",
            Tool::Postalias => "postalias",
        }
    }

    /// What stands between key and value in the output.
    pub(super) fn separator(self) -> &'static [u8] {
        match self {
            Tool::Postmap => b"\t",
            Tool::Postalias => b":\t",
        }
    }

    pub(super) fn usage(self) -> Fatal {
        let letters = match self {
            Tool::Postmap => "-bfFhimnNoprsuUvw",
            Tool::Postalias => "-Nfinoprsuvw",
        };
        let name = self.name();
        Fatal(format!(
            "usage: {name} [{letters}] [-c config_dir] [-d key] [-q key] [map_type:]file..."
        ))
    }

    fn has(self, letter: u8) -> bool {
        match self {
            Tool::Postmap => b"bfFhimnNoprsuUvwcdq".contains(&letter),
            Tool::Postalias => b"finNoprsuvwcdq".contains(&letter),
        }
    }
}

/// What to do about a key that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Duplicates {
    #[default]
    Warn,
    Replace,
    Ignore,
}

/// What the command line asks for.
#[derive(Debug)]
pub(super) struct Options {
    pub tool: Tool,
    pub config_dir: Option<PathBuf>,
    pub query: Option<Vec<u8>>,
    pub delete: Option<Vec<u8>>,
    pub list: bool,
    pub incremental: bool,
    pub keep_case: bool,
    pub files: bool,
    pub headers: bool,
    pub body: bool,
    pub mime: bool,
    pub no_utf8: bool,
    pub force_utf8: bool,
    pub nulls: Nulls,
    pub duplicates: Duplicates,
    pub as_owner: bool,
    pub source_mode: bool,
    pub verbose: bool,
    pub tables: Vec<String>,
}

impl Options {
    pub(super) fn new(tool: Tool) -> Options {
        Options {
            tool,
            config_dir: None,
            query: None,
            delete: None,
            list: false,
            incremental: false,
            keep_case: false,
            files: false,
            headers: false,
            body: false,
            mime: false,
            no_utf8: false,
            force_utf8: false,
            nulls: Nulls::Either,
            duplicates: Duplicates::Warn,
            as_owner: true,
            source_mode: true,
            verbose: std::env::var_os("MAIL_VERBOSE").is_some(),
            tables: Vec::new(),
        }
    }

    /// Reads the arguments as getopt(3) does; the first that is no option ends the options.
    pub(super) fn parse(tool: Tool, args: &[OsString]) -> Result<Options, Fatal> {
        let mut options = Options::new(tool);
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let bytes = arg.as_bytes();
            if bytes == b"--" {
                break;
            }
            if bytes.len() < 2 || bytes[0] != b'-' {
                options.table(arg)?;
                break;
            }
            let mut letters = &bytes[1..];
            while let Some((&letter, after)) = letters.split_first() {
                letters = after;
                let name = tool.name();
                if !tool.has(letter) {
                    eprintln!("{name}: invalid option -- '{}'", letter.escape_ascii());
                    return Err(tool.usage());
                }
                if !matches!(letter, b'c' | b'd' | b'q') {
                    options.flag(letter)?;
                    continue;
                }
                let value = match after {
                    [] => rest.next().map(|next| next.as_bytes().to_vec()),
                    _ => Some(std::mem::take(&mut letters).to_vec()),
                };
                let Some(value) = value else {
                    eprintln!(
                        "{name}: option requires an argument -- '{}'",
                        letter as char
                    );
                    return Err(tool.usage());
                };
                options.value(letter, value)?;
            }
        }
        for arg in rest {
            options.table(arg)?;
        }
        Ok(options)
    }

    /// What the tables are opened with.
    pub(super) fn open(&self) -> Open {
        let message = self.headers || self.body;
        Open {
            fold: !self.keep_case,
            utf8: !self.no_utf8 && (!message || self.force_utf8),
            files: self.files,
            nulls: self.nulls,
            format: match self.tool {
                Tool::Postmap => Format::Either,
                Tool::Postalias => Format::Aliases,
            },
        }
    }

    fn table(&mut self, arg: &OsStr) -> Result<(), Fatal> {
        match arg.to_str() {
            Some(name) => self.tables.push(name.to_string()),
            None => {
                return Err(Fatal(format!(
                    "the name of a table is not UTF-8: {}",
                    arg.display()
                )));
            }
        }
        Ok(())
    }

    fn value(&mut self, letter: u8, value: Vec<u8>) -> Result<(), Fatal> {
        if letter == b'c' {
            self.config_dir = Some(PathBuf::from(OsString::from_vec(value)));
            return Ok(());
        }
        if self.list || self.query.is_some() || self.delete.is_some() {
            return Err(Fatal("specify only one of -s -q or -d".to_string()));
        }
        match letter {
            b'd' => self.delete = Some(value),
            _ => self.query = Some(value),
        }
        Ok(())
    }

    fn flag(&mut self, letter: u8) -> Result<(), Fatal> {
        match letter {
            b's' if self.query.is_some() || self.delete.is_some() => {
                return Err(Fatal("specify only one of -s or -q or -d".to_string()));
            }
            b's' => self.list = true,
            b'i' => self.incremental = true,
            b'f' => self.keep_case = true,
            b'F' => self.files = true,
            b'h' => self.headers = true,
            b'b' => self.body = true,
            b'm' => self.mime = true,
            b'u' => self.no_utf8 = true,
            b'U' => self.force_utf8 = true,
            b'n' => self.nulls = Nulls::Without,
            b'N' => self.nulls = Nulls::With,
            b'r' => self.duplicates = Duplicates::Replace,
            b'w' => self.duplicates = Duplicates::Ignore,
            b'o' => self.as_owner = false,
            b'p' => self.source_mode = false,
            // `v`: the only letter left, see `Tool::has`.
            _ => self.verbose = true,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(tool: Tool, args: &[&str]) -> Result<Options, Fatal> {
        let args: Vec<_> = args.iter().map(OsString::from).collect();
        Options::parse(tool, &args)
    }

    #[test]
    fn letters_together_and_values_attached() {
        let options = parse(
            Tool::Postmap,
            &["-fvq", "key", "-nN", "-rw", "-c/dir", "hash:/a", "-r"],
        )
        .expect("valid options");
        assert!(options.keep_case && options.verbose);
        assert_eq!(options.query.as_deref(), Some(&b"key"[..]));
        assert_eq!(options.config_dir.as_deref(), Some("/dir".as_ref()));
        assert_eq!(options.tables, ["hash:/a", "-r"]);
        assert_eq!(options.nulls, Nulls::With);
        assert_eq!(options.duplicates, Duplicates::Ignore);
    }

    #[test]
    fn what_cannot_be() {
        for bad in [&["-q"][..], &["-Z", "x"], &["-q", "a", "-q", "b", "x"]] {
            assert!(parse(Tool::Postmap, bad).is_err(), "{bad:?}");
        }
        for letter in ["-b", "-h", "-m", "-F", "-U"] {
            assert!(parse(Tool::Postalias, &[letter, "x"]).is_err(), "{letter}");
        }
    }
}
