//! What the tests of `postroom check` share: running it, and doing what its findings say.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Runs `postroom check` on a folder: output and exit status.
pub fn check(dir: &Path, arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_postroom"))
        .arg("check")
        .arg("-c")
        .arg(dir)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("postroom runs: {error}"));
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (text, output.status.code())
}

/// The report as JSON.
pub fn report(dir: &Path) -> Value {
    let (output, _) = check(dir, &["--json"]);
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// The codes of all findings, in order.
pub fn codes(report: &Value) -> Vec<String> {
    findings(report)
        .iter()
        .map(|finding| finding["code"].as_str().unwrap_or_default().to_owned())
        .collect()
}

pub fn findings(report: &Value) -> &[Value] {
    report["findings"].as_array().map_or(&[], Vec::as_slice)
}

/// Does what the findings of a code say: commands by the shell, statements by `sql`.
pub fn mend(report: &Value, code: &str, sql: &dyn Fn(&str)) {
    let mut done = 0;
    for finding in findings(report)
        .iter()
        .filter(|finding| finding["code"] == code)
    {
        for fix in finding["fix"].as_array().into_iter().flatten() {
            match (fix["shell"].as_str(), fix["sql"].as_str()) {
                (Some(command), _) => shell(command),
                (_, Some(statement)) => sql(statement),
                _ => panic!("a fix of an unknown kind: {fix}"),
            }
            done += 1;
        }
    }
    assert!(done > 0, "{code} says nothing that can be done: {report:#}");
}

/// Runs a command of a remedy. `postconf` is ours there.
fn shell(command: &str) {
    let links = testkit::TempDir::new();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postroom"), links.join("postconf"))
        .unwrap_or_else(|error| panic!("a link: {error}"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        std::iter::once(PathBuf::from(links.str())).chain(std::env::split_paths(&path)),
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new("sh")
        .args(["-e", "-c", command])
        .env("PATH", path)
        .output()
        .unwrap_or_else(|error| panic!("sh runs: {error}"));
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Compares with `tests/check/NAME.txt`, and that with docs/check.md, which shows some of the files.
/// `POSTROOM_BLESS=1` writes the file anew.
pub fn snapshot(name: &str, text: &str, in_manual: bool) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = here.join("tests/check").join(format!("{name}.txt"));
    let bless = std::env::var_os("POSTROOM_BLESS").is_some();
    if bless {
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, expected, "{}", file.display());
    let manual = std::fs::read_to_string(here.join("../../docs/check.md")).unwrap_or_default();
    assert!(
        bless || !in_manual || manual.contains(&expected),
        "docs/check.md does not show {}",
        file.display()
    );
}
