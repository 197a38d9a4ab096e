//! Command line options of the chores: `--name VALUE`, and the path of the Postroom to run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// The options as given; every one takes a value.
pub struct Options {
    pairs: Vec<(String, String)>,
}

impl Options {
    /// Accepts the `known` names alone. `--help` is an error whose text is `help`.
    pub fn parse(words: &[&str], known: &[&str], help: &str) -> Result<Options, String> {
        let mut pairs = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let name = word
                .strip_prefix("--")
                .filter(|name| known.contains(name))
                .ok_or(help)?;
            let value = words
                .next()
                .ok_or_else(|| format!("--{name} wants a value\n{help}"))?;
            pairs.push((name.to_owned(), value.to_string()));
        }
        Ok(Options { pairs })
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        text.parse()
            .map_err(|_| format!("--{name} {text}: not a number"))
    }
}

/// Which mail server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Postfix,
    Postroom,
}

impl Server {
    pub fn name(self) -> &'static str {
        match self {
            Server::Postfix => "postfix",
            Server::Postroom => "postroom",
        }
    }

    /// Reads `postfix`, `postroom` or a comma list of them.
    pub fn list(text: &str) -> Result<Vec<Server>, String> {
        text.split(',')
            .map(|name| match name {
                "postfix" => Ok(Server::Postfix),
                "postroom" => Ok(Server::Postroom),
                other => Err(format!("--servers {other}: either `postfix` or `postroom`")),
            })
            .collect()
    }
}

/// The binary named by `--postroom`, or a release build of this workspace.
pub fn postroom(options: &Options) -> Result<PathBuf, String> {
    if let Some(path) = options.get("postroom") {
        return std::fs::canonicalize(path).map_err(|error| format!("--postroom {path}: {error}"));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace");
    let status = Command::new("cargo")
        .args(["build", "--release", "-p", "postroom"])
        .current_dir(root)
        .status();
    if !status.is_ok_and(|status| status.success()) {
        return Err("postroom did not build".to_owned());
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/postroom"))
}
