//! What a command's end means: sysexits.h, signals, and an enhanced status code in its output.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use mail::status::EnhancedCode;

pub use crate::command::End;
use crate::request::{Outcome, Remote};

/// The exit statuses of sysexits.h: number, code, meaning.
const SYSEXITS: [(i32, EnhancedCode, &str); 15] = [
    (64, EnhancedCode::new(5, 3, 0), "command line usage error"),
    (65, EnhancedCode::new(5, 6, 0), "data format error"),
    (66, EnhancedCode::new(5, 3, 0), "cannot open input"),
    (67, EnhancedCode::new(5, 1, 1), "user unknown"),
    (68, EnhancedCode::new(5, 1, 2), "host name unknown"),
    (69, EnhancedCode::new(5, 3, 0), "service unavailable"),
    (70, EnhancedCode::new(5, 3, 0), "internal software error"),
    (71, EnhancedCode::new(4, 3, 0), "system resource problem"),
    (72, EnhancedCode::new(5, 3, 0), "critical OS file missing"),
    (
        73,
        EnhancedCode::new(5, 2, 0),
        "can't create user output file",
    ),
    (74, EnhancedCode::new(5, 3, 0), "input/output error"),
    (75, EnhancedCode::new(4, 3, 0), "temporary failure"),
    (76, EnhancedCode::new(5, 5, 0), "remote error in protocol"),
    (77, EnhancedCode::new(5, 7, 0), "permission denied"),
    (78, EnhancedCode::new(5, 3, 5), "local configuration error"),
];

/// The outcome of a command that agent `prog` ran. `success` is what a good end is called, `output` what the
/// command wrote.
pub fn outcome(
    prog: &'static str,
    success: String,
    command: &str,
    end: End,
    output: &[u8],
) -> Outcome {
    let failure = |code, text| failure(prog, code, text);
    let output = printable(output);
    let status = match end {
        End::TimedOut => {
            let text = format!("Command time limit exceeded: \"{command}\"");
            return failure(EnhancedCode::new(5, 3, 0), with_output(text, &output));
        }
        End::Exited(status) => status,
    };
    if status.success() {
        return Outcome::sent(prog, EnhancedCode::new(2, 0, 0), success);
    }
    if let Some((code, text)) = EnhancedCode::split_prefix(&output) {
        return match code.class {
            2 => failure(EnhancedCode::new(5, 0, 0), text.to_owned()),
            _ => failure(code, text.to_owned()),
        };
    }
    let (code, text) = meaning(command, status);
    failure(code, with_output(text, &output))
}

fn meaning(command: &str, status: ExitStatus) -> (EnhancedCode, String) {
    if let Some(signal) = status.signal() {
        let text = format!("Command died with signal {signal}: \"{command}\"");
        return (EnhancedCode::new(4, 3, 0), text);
    }
    let number = status.code().unwrap_or(-1);
    match SYSEXITS.iter().find(|(known, ..)| *known == number) {
        Some((_, code, text)) => (*code, (*text).to_owned()),
        None => {
            let text = format!("Command died with status {number}: \"{command}\"");
            (EnhancedCode::new(5, 3, 0), text)
        }
    }
}

fn failure(prog: &'static str, code: EnhancedCode, text: String) -> Outcome {
    let remote = Remote {
        mta: None,
        kind: "x-unix",
        diagnostic: text.clone(),
    };
    Outcome::failed(prog, code, text).said_by(remote)
}

fn with_output(text: String, output: &str) -> String {
    if output.is_empty() {
        text
    } else {
        format!("{text}. Command output: {output}")
    }
}

/// One line: line ends become blanks, bytes that are no text `?`.
pub fn printable(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let plain = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        char::REPLACEMENT_CHARACTER => '?',
        c if c.is_control() => '?',
        c => c,
    };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_mean_what_they_mean_to_postfix() {
        let exit = |number: i32| End::Exited(ExitStatus::from_raw(number << 8));
        for (end, output, expected) in [
            (exit(0), "some words\nmore\n", "sent 2.0.0 well done"),
            (exit(67), "", "bounced 5.1.1 user unknown"),
            (
                exit(75),
                "some words\n",
                "deferred 4.3.0 temporary failure. Command output: some words ",
            ),
            (
                exit(1),
                "",
                "bounced 5.3.0 Command died with status 1: \"/c\"",
            ),
            (
                exit(67),
                "4.2.9 please wait\n",
                "deferred 4.2.9 please wait ",
            ),
            (exit(75), "5.2.9 no way\n", "bounced 5.2.9 no way "),
            (exit(70), "2.2.9 odd\n", "bounced 5.0.0 odd "),
            (
                End::Exited(ExitStatus::from_raw(9)),
                "",
                "deferred 4.3.0 Command died with signal 9: \"/c\"",
            ),
            (
                End::TimedOut,
                "",
                "bounced 5.3.0 Command time limit exceeded: \"/c\"",
            ),
        ] {
            let made = outcome("pipe", "well done".into(), "/c", end, output.as_bytes());
            assert_eq!(
                format!("{} {} {}", made.status.name(), made.dsn, made.text),
                expected
            );
        }
    }
}
