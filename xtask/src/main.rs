//! Chores of the repository: `cargo xtask bench smtp` and `bench tables` measure Postroom beside Postfix,
//! `cargo xtask crash` kills it, `cargo xtask failover` kills its database,
//! `cargo xtask table-load` crowds the table server.

mod bench;
mod crash;
mod failover;
mod load;
mod options;
mod process_group;
mod table_load;
mod wire;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask bench smtp | bench tables | crash | failover | table-load [OPTION…]; `--help` after each";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["bench", "smtp", options @ ..] => bench::run(options),
        ["bench", "tables", options @ ..] => bench::tables::run(options),
        ["crash", options @ ..] => crash::run(options),
        ["failover", options @ ..] => failover::run(options),
        ["table-load", options @ ..] => table_load::run(options),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
