//! SQLite files, made by the `sqlite3` program.

use std::path::Path;
use std::process::Command;

use crate::process::run_with_input;
use crate::require;

/// Runs statements on the database file (made when missing, mode 0644). Rows come back as lines, columns
/// separated by `|`. Panics on an error.
pub fn sqlite(file: &Path, sql: &str) -> String {
    let mut command = Command::new(require("sqlite3"));
    command.args(["-bail", "-batch"]).arg(file);
    let output = run_with_input(&mut command, sql.as_bytes());
    if !output.status.success() {
        panic!(
            "{}: {}\nin: {sql}",
            file.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    if file.exists() {
        crate::tempdir::set_mode(file, 0o644);
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}
