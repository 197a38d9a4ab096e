//! `postmap`: looks up keys in tables, and checks the source of text tables (postmap(1)).
//!
//! Text tables are read as they are, so nothing is built. Many keys from standard input are looked
//! up side by side; output and messages keep the order of the keys.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use config::{Config, Environment};
use tables::{Open, Table, TableError, Tables, TextTable};

use super::tool_log::{self, holding, printable};

const USAGE: &str =
    "usage: postmap [-bfFhimnNoprsuUvw] [-c config_dir] [-d key] [-q key] [map_type:]file...";
/// How many lookups of `-q -` are under way at a time; the pool bounds the connections.
const AHEAD: usize = 64;

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    match Options::parse(args).and_then(|options| execute(&options)) {
        Ok(code) => code,
        Err(Fatal(text)) => {
            eprintln!("postmap: fatal: {}", printable(&text));
            ExitCode::FAILURE
        }
    }
}

/// An error that ends the command, in Postfix's words.
struct Fatal(String);

impl From<TableError> for Fatal {
    fn from(error: TableError) -> Fatal {
        Fatal(error.to_string())
    }
}

#[derive(Default)]
struct Options {
    config_dir: Option<PathBuf>,
    query: Option<Vec<u8>>,
    delete: Option<Vec<u8>>,
    list: bool,
    change: bool,
    keep_case: bool,
    base64: bool,
    ascii_only: bool,
    verbose: bool,
    tables: Vec<String>,
}

impl Options {
    fn parse(args: &[OsString]) -> Result<Options, Fatal> {
        let mut options = Options::default();
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
                if matches!(letter, b'c' | b'd' | b'q') {
                    let value = match after {
                        [] => rest.next().map(|next| next.as_bytes().to_vec()),
                        _ => Some(std::mem::take(&mut letters).to_vec()),
                    };
                    let Some(value) = value else {
                        eprintln!(
                            "postmap: option requires an argument -- '{}'",
                            letter as char
                        );
                        return Err(Fatal(USAGE.to_string()));
                    };
                    options.value(letter, value)?;
                } else {
                    options.flag(letter)?;
                }
            }
        }
        for arg in rest {
            options.table(arg)?;
        }
        if options.tables.is_empty() {
            return Err(Fatal(USAGE.to_string()));
        }
        Ok(options)
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
        self.only_one()?;
        match letter {
            b'd' => self.delete = Some(value),
            _ => self.query = Some(value),
        }
        Ok(())
    }

    fn flag(&mut self, letter: u8) -> Result<(), Fatal> {
        match letter {
            b's' => {
                self.only_one()?;
                self.list = true;
            }
            b'i' | b'r' => self.change = true,
            b'f' => self.keep_case = true,
            b'F' => self.base64 = true,
            b'U' => self.ascii_only = true,
            b'v' => self.verbose = true,
            b'b' | b'h' | b'm' => {
                return Err(Fatal(format!("-{} is not supported yet", letter as char)));
            }
            b'n' | b'N' | b'o' | b'p' | b'u' | b'w' => {}
            _ => {
                eprintln!("postmap: invalid option -- '{}'", letter as char);
                return Err(Fatal(USAGE.to_string()));
            }
        }
        Ok(())
    }

    fn only_one(&self) -> Result<(), Fatal> {
        if self.list || self.query.is_some() || self.delete.is_some() {
            return Err(Fatal("specify only one of -s -q or -d".to_string()));
        }
        Ok(())
    }
}

fn execute(options: &Options) -> Result<ExitCode, Fatal> {
    tool_log::install("postmap", options.verbose);
    let mut config = load_config(options)?;
    if options.ascii_only {
        config = config.with_overrides(&[("smtputf8_enable".to_string(), "no".to_string())]);
    }
    let mut specs = Vec::new();
    for name in &options.tables {
        specs.push(match name.contains(':') {
            true => name.clone(),
            false => {
                let kind = config
                    .string("default_database_type")
                    .map_err(|error| Fatal(error.postfix_text()))?;
                format!("{kind}:{name}")
            }
        });
    }
    let maps = Arc::new(Maps::new(&config, specs, options));
    if let Some(key) = &options.query {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Fatal(format!("cannot start: {error}")))?;
        return match key.as_slice() {
            b"-" => runtime.block_on(query_stdin(&maps)),
            key => runtime.block_on(query_one(&maps, key)),
        };
    }
    match &maps.specs[0] {
        spec if options.delete.is_some() || options.change => Err(read_only(spec, options)),
        spec if options.list => list(&maps, spec),
        _ => check_sources(&maps),
    }
}

fn load_config(options: &Options) -> Result<Config, Fatal> {
    let dir = match (&options.config_dir, std::env::var_os("MAIL_CONFIG")) {
        (Some(dir), _) => dir.clone(),
        (None, Some(dir)) => PathBuf::from(dir),
        (None, None) => PathBuf::from("/etc/postfix"),
    };
    let config = Config::load_main(&dir, &Environment::of_this_machine())
        .map_err(|error| Fatal(error.postfix_text()))?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// The tables of the command line, each opened when a key gets to it.
struct Maps {
    tables: Tables,
    specs: Vec<String>,
    open: Mutex<Vec<Table>>,
    how: Open,
    base64: bool,
}

impl Maps {
    fn new(config: &Config, specs: Vec<String>, options: &Options) -> Maps {
        Maps {
            tables: Tables::without_cache(config),
            specs,
            open: Mutex::default(),
            how: Open {
                fold: !options.keep_case,
            },
            base64: options.base64,
        }
    }

    fn table(&self, index: usize) -> Result<Table, TableError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Tables are asked in order, so that all before this one are open.
        while open.len() <= index {
            let next = open.len();
            open.push(self.tables.open_with(&self.specs[next], self.how)?);
        }
        Ok(open[index].clone())
    }

    async fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        for index in 0..self.specs.len() {
            let table = self.table(index)?;
            if let Some(value) = table.lookup_bytes(key).await? {
                return self.decode(&table, key, value).map(Some);
            }
        }
        Ok(None)
    }

    fn decode(&self, table: &Table, key: &[u8], value: String) -> Result<Vec<u8>, Fatal> {
        if !self.base64 {
            return Ok(value.into_bytes());
        }
        base64_decoded(&value).ok_or_else(|| {
            let key = String::from_utf8_lossy(key);
            tracing::warn!(
                "table {}: key {key}: malformed BASE64 value: {value}",
                table.spec()
            );
            Fatal(format!("table {}: query error", table.spec()))
        })
    }
}

async fn query_one(maps: &Maps, key: &[u8]) -> Result<ExitCode, Fatal> {
    let Some(mut value) = maps.lookup(key).await? else {
        return Ok(ExitCode::FAILURE);
    };
    value.push(b'\n');
    print_all(&value)?;
    Ok(ExitCode::SUCCESS)
}

type Running = tokio::task::JoinHandle<(Vec<u8>, (Result<Option<Vec<u8>>, Fatal>, String))>;

async fn query_stdin(maps: &Arc<Maps>) -> Result<ExitCode, Fatal> {
    let mut input = BufReader::with_capacity(1 << 16, std::io::stdin().lock());
    let mut output = Output::default();
    let mut running: VecDeque<Running> = VecDeque::new();
    let mut found = false;
    loop {
        // Reading may block: nothing may be under way then.
        let full = if input.buffer().is_empty() {
            0
        } else {
            AHEAD - 1
        };
        while running.len() > full {
            let Some(next) = running.pop_front() else {
                break;
            };
            match tell(next, &mut output).await {
                Ok(hit) => found |= hit,
                // What was not written yet is lost, as with Postfix.
                Err(fatal) => return Err(fatal),
            }
        }
        let mut key = Vec::new();
        let size = input
            .read_until(b'\n', &mut key)
            .map_err(|error| Fatal(format!("read standard input: {error}")))?;
        if size == 0 {
            break;
        }
        if key.last() == Some(&b'\n') {
            key.pop();
        }
        let maps = maps.clone();
        running.push_back(tokio::spawn(async move {
            let outcome = holding(maps.lookup(&key)).await;
            (key, outcome)
        }));
    }
    output.finish()?;
    Ok(if found {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Standard output in blocks of 4 KiB, as Postfix's streams write it: when an error ends the run,
/// what has not filled a block stays unwritten.
#[derive(Default)]
struct Output {
    waiting: Vec<u8>,
}

impl Output {
    const BLOCK: usize = 4096;

    fn push(&mut self, line: &[u8]) -> Result<(), Fatal> {
        self.waiting.extend_from_slice(line);
        let full = self.waiting.len() / Output::BLOCK * Output::BLOCK;
        if full > 0 {
            print_all(&self.waiting[..full])?;
            self.waiting.drain(..full);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fatal> {
        print_all(&self.waiting)
    }
}

/// Waits for a lookup and writes what came of it. True for a hit.
async fn tell(running: Running, output: &mut Output) -> Result<bool, Fatal> {
    let (key, (outcome, log)) = running
        .await
        .map_err(|error| Fatal(format!("lookup ended early: {error}")))?;
    if !log.is_empty() {
        eprint!("{log}");
    }
    let Some(value) = outcome? else {
        return Ok(false);
    };
    let line = [&key[..], b"\t", &value, b"\n"].concat();
    output.push(&line)?;
    Ok(true)
}

fn list(maps: &Maps, spec: &str) -> Result<ExitCode, Fatal> {
    let table = maps.table(0)?;
    let Some(entries) = table.entries() else {
        return Err(Fatal(format!(
            "{spec}: sequence operation is not supported"
        )));
    };
    let text: String = entries
        .iter()
        .map(|(key, value)| format!("{key}\t{value}\n"))
        .collect();
    print_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What `postmap TYPE:FILE` comes to: the source is checked; there is no index to be built.
fn check_sources(maps: &Maps) -> Result<ExitCode, Fatal> {
    for spec in &maps.specs {
        let (kind, path) = spec.split_once(':').unwrap_or(("", spec));
        if !matches!(kind, "hash" | "btree" | "texthash") {
            // Unknown types have their own error; known ones cannot be written.
            maps.tables.open(spec)?;
            return Err(Fatal(format!(
                "no 'map create' support for this type: {kind}"
            )));
        }
        let table = TextTable::load(spec, path.as_ref(), maps.how.fold)
            .map_err(|error| Fatal(error.to_string().replace("open database", "open")))?;
        for problem in table.problems() {
            tracing::warn!("{path}, {problem}");
        }
        // Scripts see what Postfix's postmap says: nothing.
        if std::io::stderr().is_terminal() {
            tracing::info!(
                "{spec}: {} entries; read as it is, no index is needed",
                table.iter().count()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read_only(spec: &str, options: &Options) -> Fatal {
    let kind = spec.split(':').next().unwrap_or_default();
    match kind {
        "hash" | "btree" | "texthash" => {
            Fatal(format!("{spec}: edit the source text; it is read as it is"))
        }
        _ if options.delete.is_some() => Fatal(format!("{spec} map requires O_RDONLY access mode")),
        _ => Fatal(format!("no 'map create' support for this type: {kind}")),
    }
}

fn print_all(bytes: &[u8]) -> Result<(), Fatal> {
    let mut output = std::io::stdout().lock();
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .map_err(|error| Fatal(format!("write standard output: {error}")))
}

/// RFC 4648 4, with padding.
fn base64_decoded(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in digits.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64() {
        for (text, expected) in [
            ("aGVsbG8=", Some(&b"hello"[..])),
            ("", Some(b"")),
            ("aGVsbG8", None),
            ("***=", None),
        ] {
            assert_eq!(base64_decoded(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn options() {
        let parse =
            |args: &[&str]| Options::parse(&args.iter().map(OsString::from).collect::<Vec<_>>());
        let options = parse(&["-fvq", "key", "-c/dir", "hash:/a", "hash:/b"])
            .ok()
            .expect("valid options");
        assert!(options.keep_case && options.verbose);
        assert_eq!(options.query.as_deref(), Some(&b"key"[..]));
        assert_eq!(options.config_dir.as_deref(), Some("/dir".as_ref()));
        assert_eq!(options.tables, ["hash:/a", "hash:/b"]);
        for bad in [
            &["-q"][..],
            &["-q", "a"],
            &["-Z", "x"],
            &["-q", "a", "-q", "b", "x"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
