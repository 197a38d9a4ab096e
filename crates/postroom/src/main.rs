//! Postroom, the command line: finds the command by the program's name or the first argument, and runs it.

mod cmd;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let invoked_as = args
        .first()
        .and_then(|program| Path::new(program).file_name())
        .and_then(|name| name.to_str())
        .unwrap_or("postroom");
    // A link named `postmap` to this binary is `postroom postmap`.
    if let Some(command) = cmd::find(invoked_as) {
        return (command.run)(&args[1..]);
    }
    match args.get(1).and_then(|verb| verb.to_str()) {
        None | Some("help" | "--help" | "-h") => {
            print!("{}", cmd::usage());
            ExitCode::SUCCESS
        }
        Some("--version" | "-V") => {
            println!("postroom {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(verb) => match cmd::find(verb) {
            Some(command) => (command.run)(&args[2..]),
            None => {
                eprintln!("postroom: unknown command {verb:?}; `postroom help` lists the commands");
                ExitCode::from(64)
            }
        },
    }
}
