//! Restrictions, access(5), XCLIENT and XFORWARD: the dialogues of the suites under real Postfix and under Postroom.

#[path = "support/side_by_side.rs"]
mod side_by_side;
mod support;

use side_by_side::Suite;

#[test]
fn access_actions_are_postfixs() {
    if !testkit::peers() {
        return;
    }
    Suite::read("access").compare();
}

#[test]
fn xclient_and_xforward_are_postfixs() {
    if !testkit::peers() {
        return;
    }
    Suite::read("xclient").compare();
}

#[test]
fn restrictions_decide_as_postfixs() {
    if !testkit::peers() {
        return;
    }
    Suite::read("restrictions").compare();
}

/// Issue 4 wants 150 of them.
#[test]
fn the_suites_have_enough_dialogues() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/side_by_side");
    let mut all = 0;
    for entry in std::fs::read_dir(folder).expect("the folder of suites") {
        let path = entry.expect("an entry of the folder").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "suite")
        {
            let name = path.file_stem().expect("a suite has a name");
            let suite = Suite::read(&name.to_string_lossy());
            let differing = suite.dialogues.iter();
            let differing = differing.filter(|dialogue| !dialogue.differences.is_empty());
            let (count, differing) = (suite.dialogues.len(), differing.count());
            println!(
                "{}: {count} dialogues, {differing} with a named difference",
                suite.name
            );
            all += count;
        }
    }
    println!("{all} dialogues in all");
    assert!(all >= 150, "{all}");
}

#[test]
fn error_transports_and_relocated_users_are_refused_as_by_postfix() {
    if !testkit::peers() {
        return;
    }
    Suite::read("transports").compare();
}
