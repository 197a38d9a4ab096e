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

#[test]
fn error_transports_and_relocated_users_are_refused_as_by_postfix() {
    if !testkit::peers() {
        return;
    }
    Suite::read("transports").compare();
}
