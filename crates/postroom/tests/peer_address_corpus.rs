//! Replays the recorded answers of Postfix to recipients against ours, with a real MariaDB: replies, expanded
//! recipients, deliveries and mailboxes.
//!
//! The recordings are `corpus/address/given.jsonl` (Debian's Postfix 3.7.11 as `expect`, Postfix 3.12 as `expect_alt`
//! where it differs). `ADDRESS_CASE=substring` runs the cases whose id contains it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use testkit::{MailServer, corpus};

#[path = "corpus/address/replay.rs"]
mod replay;

/// Cases in which we differ from Postfix, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// Instances that run at the same time.
const WORKERS: usize = 8;

#[test]
fn recipients_are_answered_as_recorded() {
    if !testkit::peers() {
        return;
    }
    let only = std::env::var("ADDRESS_CASE").unwrap_or_default();
    let mut cases = corpus::load(&replay::corpus_dir().join("given.jsonl"));
    cases.retain(|case| id(case).contains(&only));
    // One instance per configuration, its cases in the file's order; the fullest first, as it takes longest.
    let mut groups: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for case in &cases {
        let config = case["config"].to_string();
        groups.entry(config).or_default().push(case);
    }
    let mut groups: Vec<Vec<&Value>> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));

    let database = replay::database();
    let binary = Path::new(env!("CARGO_BIN_EXE_postroom"));
    let outcomes = replay::in_parallel(&groups, WORKERS, |group| {
        let site = replay::site(&group[0]["config"], replay::POSTROOM_MAIN_CF, &database);
        let server = MailServer::postroom(binary, site);
        let outcomes = group
            .iter()
            .map(|case| (*case, replay::replay(&server, case)));
        outcomes.collect::<Vec<_>>()
    });

    let exceptions: BTreeMap<&str, &str> = EXCEPTIONS.iter().copied().collect();
    let (mut agree, mut wrong) = (0, Vec::new());
    for (case, got) in outcomes.iter().flatten() {
        let same = agrees(got, &case["expect"]) || agrees(got, &case["expect_alt"]);
        agree += usize::from(same);
        match (same, exceptions.get(id(case))) {
            (true, None) | (false, Some(_)) => {}
            (true, Some(reason)) => wrong.push(format!(
                "{} agrees now; take it off the list ({reason})",
                id(case)
            )),
            (false, None) => wrong.push(format!(
                "{}: expected {}\n  got {got}",
                id(case),
                case["expect"]
            )),
        }
    }
    println!("{} cases, {agree} agree", cases.len());
    assert!(!cases.is_empty(), "no case is named so: {only}");
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

fn id(case: &Value) -> &str {
    case["id"].as_str().expect("every case has an id")
}

/// Whether what came of a case is what was recorded; a recording that is not there agrees with nothing.
fn agrees(got: &Value, recorded: &Value) -> bool {
    let mut recorded = recorded.clone();
    strip_classes(&mut recorded);
    let deliveries = recorded.get_mut("deliveries").and_then(Value::as_array_mut);
    if let Some(list) = deliveries {
        list.sort_by_key(Value::to_string);
    }
    recorded == *got
}

/// `class` follows from the text of a reply, which is compared.
fn strip_classes(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("class");
            fields.values_mut().for_each(strip_classes);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_classes),
        _ => {}
    }
}
