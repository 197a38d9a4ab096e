//! The dialogues in `tests/dialogues/`, recorded with real Postfix 3.7, against the server machine.

mod common;

use std::time::Duration;

use common::{Driver, Line};
use postroom_smtp::Reply;
use postroom_smtp::server::{Answer, Privileges, Question, Settings};

#[derive(Default)]
struct Site {
    refuse_connect: bool,
    privileges: Privileges,
}

fn set(settings: &mut Settings, site: &mut Site, name: &str, value: &str) {
    let number = || value.parse().expect("a number");
    let yes = value == "yes";
    match name {
        "smtpd_soft_error_limit" => settings.soft_error_limit = number(),
        "smtpd_hard_error_limit" => settings.hard_error_limit = number(),
        "smtpd_recipient_limit" => settings.recipient_limit = number(),
        "smtpd_recipient_overshoot_limit" => settings.recipient_overshoot_limit = number(),
        "smtpd_junk_command_limit" => settings.junk_command_limit = number(),
        "smtpd_helo_required" => settings.helo_required = yes,
        "strict_rfc821_envelopes" => settings.strict_rfc821_envelopes = yes,
        "strict_smtputf8" => settings.strict_smtputf8 = yes,
        "disable_vrfy_command" => settings.disable_vrfy_command = yes,
        "smtpd_client_restrictions" => site.refuse_connect = true,
        "smtpd_authorized_xclient_hosts" => site.privileges.xclient = true,
        "smtpd_authorized_xforward_hosts" => site.privileges.xforward = true,
        // We ask when the client connects; when to refuse is the policy's affair.
        "smtpd_delay_reject" => {}
        _ => panic!("no setting {name}"),
    }
}

/// The differences between what the machine says and the dialogue.
fn differences(text: &str) -> Vec<String> {
    let lines = common::parse(text);
    let (mut settings, mut site) = (common::settings(), Site::default());
    for line in &lines {
        if let Line::Set(name, value) = line {
            set(&mut settings, &mut site, name, value);
        }
    }
    let refusal =
        Reply::parse("554 5.7.1 <unknown[127.0.0.1]>: Client host rejected: Access denied")
            .unwrap();
    let policy = |question: &Question| match question {
        Question::Connect if site.refuse_connect => Answer::Reply(refusal.clone()),
        other => common::policy(other),
    };
    settings.error_sleep_time = Duration::from_secs(1);
    let connect = || {
        let mut driver = Driver::new(settings.clone(), policy);
        driver.session.change_privileges(|_| site.privileges);
        driver.run();
        driver
    };
    let mut driver = connect();
    let mut expected = String::new();
    let mut last = String::from("(connect)");
    let mut differences = Vec::new();
    let mut compare = |driver: &mut Driver<_>, expected: &mut String, last: &str| {
        let sent = String::from_utf8_lossy(&std::mem::take(&mut driver.sent)).into_owned();
        let expected = std::mem::take(expected);
        if sent != expected {
            differences.push(format!(
                "after {last:?}\n  expected {expected:?}\n  got      {sent:?}"
            ));
        }
    };
    for line in &lines {
        match line {
            Line::Set(..) => {}
            Line::Server(reply) => expected.push_str(&format!("{reply}\r\n")),
            Line::Closed => assert!(driver.closed.is_some(), "not closed after {last}"),
            Line::Connect => {
                compare(&mut driver, &mut expected, &last);
                driver = connect();
            }
            Line::Client(bytes) => {
                compare(&mut driver, &mut expected, &last);
                last = String::from_utf8_lossy(bytes).into_owned();
                driver.session.receive(bytes);
                driver.run();
            }
        }
    }
    compare(&mut driver, &mut expected, &last);
    differences
}

#[test]
fn every_dialogue_is_as_recorded() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let (mut found, mut all) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).expect("the folder of dialogues") {
        let path = entry.expect("a folder entry").path();
        let name = path.display();
        let found_here = differences(&std::fs::read_to_string(&path).expect("a dialogue"));
        all.extend(found_here.into_iter().map(|d| format!("{name}: {d}")));
        found += 1;
    }
    assert!(found > 3);
    assert!(all.is_empty(), "{}", all.join("\n"));
}
