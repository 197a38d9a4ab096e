//! A parameter counts as honoured when, and only when, code outside this crate reads it by its name.
//!
//! `UPDATE_HONOURED=1 cargo test -p postroom-config --test honoured` corrects the rows.

use std::path::{Path, PathBuf};

#[test]
fn honoured_rows_are_those_that_code_reads() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = here.parent().expect("the crate lies in crates/");
    let code = Code {
        all: code_of(crates, |_| true),
        // A table file has parameters of its own, some named as what follows `smtp_`.
        composing: code_of(crates, |name| name != "tables"),
    };
    let mut wrong = Vec::new();
    for file in rust_files(&here.join("src/params")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let corrected: Vec<String> = text.lines().map(|line| corrected(line, &code)).collect();
        let differing = text.lines().zip(&corrected).filter(|(old, new)| old != new);
        wrong.extend(differing.map(|(_, new)| new.trim().to_owned()));
        if std::env::var_os("UPDATE_HONOURED").is_some() {
            std::fs::write(&file, corrected.join("\n") + "\n").unwrap();
        }
    }
    assert!(
        wrong.is_empty() || std::env::var_os("UPDATE_HONOURED").is_some(),
        "rows that should read as follows (UPDATE_HONOURED=1 corrects them):\n{}",
        wrong.join("\n")
    );
}

struct Code {
    all: String,
    /// Of the crates that compose names of parameters.
    composing: String,
}

/// The row with the right one of the two words; other lines as they are.
fn corrected(line: &str, code: &Code) -> String {
    let words: Vec<&str> = line.split_whitespace().take(3).collect();
    let [word @ ("honoured" | "accepted"), _, quoted_name] = words[..] else {
        return line.to_owned();
    };
    if !quoted_name.starts_with('"') {
        return line.to_owned();
    }
    let name = quoted_name.trim_matches(['"', ',']);
    let right = if is_read(name, code) {
        "honoured"
    } else {
        "accepted"
    };
    line.replacen(word, right, 1)
}

/// The name stands in the code, or its part behind `smtp_`, `lmtp_`, `local_`, `smtpd_` or `default_`, which clients, TLS and queues put together.
fn is_read(name: &str, code: &Code) -> bool {
    let composed = ["smtp_", "lmtp_", "local_", "smtpd_", "default_"]
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix))
        .any(|rest| {
            postroom_config::params::find(rest).is_none()
                && (code.composing.contains(&format!("\"{rest}\""))
                    || code.composing.contains(&format!("}}{rest}\"")))
        });
    composed || code.all.contains(&format!("\"{name}\""))
}

/// The sources of every crate that reads the configuration; `postconf` shows and edits every name alike.
fn code_of(crates: &Path, wanted: impl Fn(&str) -> bool) -> String {
    let mut code = String::new();
    for entry in std::fs::read_dir(crates).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let source = folder.join("src");
        // `directory` judges settings; it does not act on them.
        if name == "config" || name == "directory" || !wanted(&name) || !source.is_dir() {
            continue;
        }
        for file in rust_files(&source) {
            // A name that the table server serves to Postfix is Postfix' to act on.
            let passed_on = file.ends_with("table_server/parameters.rs");
            if !passed_on && !file.to_string_lossy().contains("cmd/postconf/") {
                code.push_str(&std::fs::read_to_string(file).unwrap());
            }
        }
    }
    // The parameters that a configuration reads for itself, and those that the clients compose of a
    // prefix and what is a parameter too.
    code + r#""smtp_line_length_limit" "lmtp_line_length_limit" "compatibility_level" "config_directory" "inet_protocols" "mynetworks_style" "mydomain""#
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
