//! `postmap` and `postalias`: look up keys in tables, build tables, change and list them (postmap(1), postalias(1)).
//!
//! | module | option |
//! |---|---|
//! | `options` | the command line |
//! | `query`, `message` | `-q`; `-q -` with `-b`, `-h`, `-m` |
//! | `list` | `-s` |
//! | `delete` | `-d` |
//! | `build` | none of these, and `-i` |
//! | `maps` | the tables that are asked |

mod build;
mod delete;
mod list;
mod maps;
mod message;
mod options;
mod query;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use config::{Config, Environment};
use nix::sys::stat::{Mode, umask};
use tables::{BAD_KEY_SIZE, Nulls, TableError};

use self::maps::Maps;
use self::options::{Options, Tool};
use super::tool_log::{self, printable};

/// Runs `postmap` with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    told(Tool::Postmap.name(), parse_and_execute(Tool::Postmap, args))
}

/// Runs `postalias`.
pub fn postalias(args: &[OsString]) -> ExitCode {
    told(
        Tool::Postalias.name(),
        parse_and_execute(Tool::Postalias, args),
    )
}

/// Runs `newaliases`: `postalias` for every table of `alias_database`.
pub fn newaliases(args: &[OsString]) -> ExitCode {
    let mut options = Options::new(Tool::Postalias);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            Some("-v") => options.verbose = true,
            Some("-C" | "-c") => options.config_dir = rest.next().map(PathBuf::from),
            Some(option) if option.starts_with('-') => {
                eprintln!("newaliases: fatal: usage: newaliases [-v] [-C config_dir]");
                return ExitCode::from(super::options::EX_USAGE);
            }
            _ => {
                eprintln!("newaliases: fatal: alias initialization mode requires no recipient");
                return ExitCode::from(super::options::EX_TEMPFAIL);
            }
        }
    }
    told(
        Tool::Postalias.name(),
        Context::open(&options).and_then(|mut context| {
            let database = context
                .config
                .string("alias_database")
                .map_err(|error| Fatal(error.postfix_text()))?;
            context.specs = tables::split_specs(&database)
                .iter()
                .map(|name| context.spec(name))
                .collect::<Result<_, _>>()?;
            build::build(&context)
        }),
    )
}

fn told(program: &str, outcome: Result<ExitCode, Fatal>) -> ExitCode {
    outcome.unwrap_or_else(|Fatal(text)| {
        eprintln!("{program}: fatal: {}", printable(&text));
        ExitCode::FAILURE
    })
}

/// An error that ends the command, in Postfix's words.
#[derive(Debug)]
struct Fatal(String);

impl From<TableError> for Fatal {
    fn from(error: TableError) -> Fatal {
        Fatal(error.to_string())
    }
}

/// What the parts of the command work with.
struct Context<'a> {
    options: &'a Options,
    config: Config,
    /// `smtputf8_enable`.
    smtputf8: bool,
    /// The tables as `type:name`.
    specs: Vec<String>,
}

impl Context<'_> {
    fn open(options: &Options) -> Result<Context<'_>, Fatal> {
        tool_log::install(options.tool.name(), options.verbose);
        umask(Mode::from_bits_truncate(0o022));
        let config = load_config(options)?;
        let smtputf8 = config
            .bool("smtputf8_enable")
            .map_err(|error| Fatal(error.postfix_text()))?;
        let mut context = Context {
            options,
            config,
            smtputf8,
            specs: Vec::new(),
        };
        for name in &options.tables {
            context.specs.push(context.spec(name)?);
        }
        Ok(context)
    }

    /// `name` with its type, which `default_database_type` is where there is none.
    fn spec(&self, name: &str) -> Result<String, Fatal> {
        if name.contains(':') {
            return Ok(name.to_string());
        }
        let kind = self
            .config
            .string("default_database_type")
            .map_err(|error| Fatal(error.postfix_text()))?;
        Ok(format!("{kind}:{name}"))
    }
}

fn parse_and_execute(tool: Tool, args: &[OsString]) -> Result<ExitCode, Fatal> {
    let options = Options::parse(tool, args)?;
    let context = Context::open(&options)?;
    check_message_options(&options)?;
    if options.list && options.tables.is_empty() {
        // Postfix says nothing either.
        return Ok(ExitCode::FAILURE);
    }
    if options.tables.is_empty() {
        return Err(tool.usage());
    }
    if let Some(key) = &options.query {
        return query(&context, key);
    }
    if let Some(key) = &options.delete {
        return delete::delete(&context, key);
    }
    if options.list {
        return list::list(&Maps::new(&context.config, context.specs.clone(), &options));
    }
    build::build(&context)
}

/// `-b`, `-h`, `-m` and `-U` are for messages on standard input.
fn check_message_options(options: &Options) -> Result<(), Fatal> {
    let message = options.headers || options.body;
    if (message || options.mime) && options.query.as_deref() != Some(b"-") {
        let text = "specify -b -h or -m only with \"-q -\"";
        return Err(Fatal(text.to_string()));
    }
    if options.mime && !message {
        tracing::warn!("ignoring -m option without -b or -h");
    }
    Ok(())
}

fn query(context: &Context, key: &[u8]) -> Result<ExitCode, Fatal> {
    let options = context.options;
    if key.is_empty()
        && options.nulls != Nulls::With
        && let Some(spec) = context.specs.first()
        && spec.starts_with("lmdb:")
    {
        return Err(Fatal(format!("error reading {spec}: {BAD_KEY_SIZE}")));
    }
    let maps = Arc::new(Maps::new(&context.config, context.specs.clone(), options));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fatal(format!("cannot start: {error}")))?;
    match key {
        b"-" if options.headers || options.body => {
            runtime.block_on(message::query_message(&maps, options))
        }
        b"-" => runtime.block_on(query::query_stdin(&maps)),
        key => runtime.block_on(query::query_one(&maps, key)),
    }
}

fn load_config(options: &Options) -> Result<Config, Fatal> {
    let dir = match (&options.config_dir, std::env::var_os("MAIL_CONFIG")) {
        (Some(dir), _) => dir.clone(),
        (None, Some(dir)) => PathBuf::from(dir),
        (None, None) => PathBuf::from(OsStr::new("/etc/postfix")),
    };
    let config = Config::load_main(&dir, &Environment::of_this_machine())
        .map_err(|error| Fatal(error.postfix_text()))?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// `-i` and `-d` on a table that has no file but its source, which is not ours to edit.
fn edit_the_text(spec: &str) -> Fatal {
    Fatal(format!(
        "{spec}: edit the source text; it is read as it is, and a change counts at once"
    ))
}

fn print_all(bytes: &[u8]) -> Result<(), Fatal> {
    let mut output = std::io::stdout().lock();
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .map_err(|error| Fatal(format!("write standard output: {error}")))
}
