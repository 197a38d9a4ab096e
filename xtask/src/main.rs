//! Chores of the repository: `cargo xtask bench smtp` measures Postroom beside Postfix, `cargo xtask crash` kills it, `cargo xtask table-load` crowds it.

mod bench;
mod crash;
mod load;
mod options;
mod process_group;
mod table_load;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask bench smtp [OPTION…] | cargo xtask crash [OPTION…] | cargo xtask table-load [OPTION…]; `--help` after each";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["bench", "smtp", options @ ..] => bench::run(options),
        ["crash", options @ ..] => crash::run(options),
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
