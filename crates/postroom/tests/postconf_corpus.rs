//! Replays `corpus/postconf.jsonl`: what real Postfix 3.7 (`expect`) and 3.12 (`expect_alt`) printed and wrote.
//!
//! A case agrees when exit statuses, standard output, standard error (lines sorted) and the files afterwards
//! equal either of them. Differences that we want are listed in [`DIFFERS`]; the test fails when a case that
//! is not listed differs, and when a listed one agrees.

use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const CORPUS: &str = include_str!("corpus/postconf.jsonl");

/// Cases that differ on purpose, with the reason.
const DIFFERS: &[(&str, &str)] = &[(
    "pc-edit-mode",
    "the mode of an edited file is kept; Postfix resets it to 0644, which would open a 0640 main.cf to everyone",
)];

#[test]
fn agrees_with_recorded_postfix() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postconf-corpus");
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(&root).unwrap();
    let program = root.join("postconf");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postroom"), &program).unwrap();

    let mut wrong = Vec::new();
    let mut agreeing = 0;
    let cases: Vec<Value> = CORPUS
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for case in &cases {
        let id = text(&case["id"]);
        let result = Replay::new(&root.join("case"), &program).run(case);
        let agrees = accepted(case).any(|expected| result.equals(case, expected));
        agreeing += usize::from(agrees);
        match (agrees, DIFFERS.iter().any(|(listed, _)| *listed == id)) {
            (true, true) => wrong.push(format!("{id}: listed in DIFFERS but agrees")),
            (false, false) => {
                wrong.push(format!("{id}: want {}\n   got {result:?}", case["expect"]))
            }
            _ => {}
        }
    }
    println!("{agreeing} of {} cases agree", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every recorded result that counts as right.
fn accepted(case: &Value) -> impl Iterator<Item = &Value> {
    let variants = case["expect_variants"].as_array().into_iter().flatten();
    let single = case
        .get("expect")
        .into_iter()
        .filter(|_| case.get("expect_variants").is_none());
    variants.chain(single).chain(case.get("expect_alt"))
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .expect("the corpus of this group has no binary strings")
}

/// What our program did: per step exit status, output and sorted errors; then the files and their modes.
#[derive(Debug)]
struct Outcome {
    steps: Vec<(i64, String, String)>,
    files: Vec<(String, String)>,
    modes: Vec<(String, String)>,
}

impl Outcome {
    fn equals(&self, case: &Value, expected: &Value) -> bool {
        let steps = expected["steps"].as_array().expect("every case has steps");
        let same_steps = steps.len() == self.steps.len()
            && steps
                .iter()
                .zip(&self.steps)
                .all(|(want, (exit, stdout, stderr))| {
                    want["exit"] == *exit
                        && want["stdout"] == *stdout
                        && want["stderr_raw"] == *stderr
                });
        let same = |want: &Value, got: &[(String, String)]| {
            let want = want.as_object().expect("a map of names");
            want.len() == got.len()
                && got
                    .iter()
                    .all(|(name, value)| want.get(name).is_some_and(|w| w == value))
        };
        same_steps
            && same(&expected["files_after"], &self.files)
            && (case["record_mode"] != true || same(&expected["modes_after"], &self.modes))
    }
}

/// The folder of one case and the program under test.
struct Replay {
    dir: PathBuf,
    conf: PathBuf,
    program: PathBuf,
}

impl Replay {
    fn new(dir: &Path, program: &Path) -> Replay {
        let _ = std::fs::remove_dir_all(dir);
        let conf = dir.join("conf");
        std::fs::create_dir_all(&conf).unwrap();
        Replay {
            dir: dir.to_owned(),
            conf,
            program: program.to_owned(),
        }
    }

    fn run(&self, case: &Value) -> Outcome {
        for (name, content) in case["files"].as_object().expect("every case has files") {
            let path = self.conf.join(name);
            std::fs::write(&path, self.filled_in(text(content))).unwrap();
            let mode = case["modes"][name].as_str().unwrap_or("0644");
            let mode = u32::from_str_radix(mode, 8).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let steps = case["steps"].as_array().expect("every case has steps");
        let steps = steps.iter().map(|step| self.step(step)).collect();
        let mut outcome = Outcome {
            steps,
            files: Vec::new(),
            modes: Vec::new(),
        };
        for entry in std::fs::read_dir(&self.conf).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            outcome.modes.push((name.clone(), format!("{mode:04o}")));
            if !name.ends_with(".cf") || name == "main.cf" || name == "master.cf" {
                let content = std::fs::read_to_string(entry.path()).unwrap();
                outcome.files.push((name, self.generalized(&content)));
            }
        }
        outcome
    }

    fn step(&self, step: &Value) -> (i64, String, String) {
        let words: Vec<String> = step
            .as_array()
            .expect("a command line")
            .iter()
            .map(|word| self.filled_in(text(word)))
            .collect();
        assert_eq!(words[0], "postconf");
        let output = Command::new(&self.program)
            .args(&words[1..])
            .env_clear()
            .envs([
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
                ("LC_ALL", "C"),
                ("TZ", "UTC"),
                ("HOME", "/root"),
            ])
            .current_dir("/")
            .output()
            .unwrap();
        let stderr = self.generalized(&String::from_utf8_lossy(&output.stderr));
        // The usage text names the program as it was called.
        let stderr = stderr.replace(&self.program.display().to_string(), "/usr/sbin/postconf");
        let mut lines: Vec<&str> = stderr.lines().filter(|line| !line.is_empty()).collect();
        lines.sort_unstable();
        let stderr = lines.iter().map(|line| format!("{line}\n")).collect();
        let exit = output.status.code().map_or(-1, i64::from);
        (
            exit,
            self.generalized(&String::from_utf8_lossy(&output.stdout)),
            stderr,
        )
    }

    fn filled_in(&self, text: &str) -> String {
        text.replace("@CONF@", &self.conf.display().to_string())
            .replace("@DIR@", &self.dir.display().to_string())
    }

    fn generalized(&self, text: &str) -> String {
        text.replace(&self.conf.display().to_string(), "@CONF@")
            .replace(&self.dir.display().to_string(), "@DIR@")
    }
}
