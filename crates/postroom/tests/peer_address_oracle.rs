//! Real Postfix and Postroom side by side: every alias, every user and a list of odd addresses, under ten
//! configurations, must get the same replies and expand to the same recipients.
//!
//! The cases are made with a fixed seed (`ORACLE_SEED=number` for another). The first configurations get
//! every address, the others a third of them, so that the test is quick; `ORACLE_ALL=1` runs all. `ADDRESS_CASE=substring`
//! runs the cases whose id (`CONFIGURATION-address` or `CONFIGURATION-multi-NUMBER`) contains it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use testkit::{MailServer, Postfix};

#[path = "corpus/address/replay.rs"]
mod replay;

/// Cases in which we differ from Postfix, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// What is appended to the base main.cf; a case's id begins with the index.
const CONFIGURATIONS: &[&str] = &[
    "",
    "virtual_alias_maps = mysql:@CONF@/aliases.cf\n",
    "recipient_delimiter = +-\n",
    "virtual_alias_domains =\n",
    "virtual_alias_domains = va.example, old.example, old2.example, old3.example, sub.example.org, relay.example\n\
     append_dot_mydomain = yes\n",
    "relay_domains = relay.example, nowhere.example\n\
     enable_original_recipient = no\n\
     mydestination = localhost, mail.host.example\n",
    "mynetworks = 127.0.0.0/8\n\
     smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n\
     swap_bangpath = no\n\
     allow_percent_hack = no\n",
    "propagate_unmatched_extensions =\n\
     append_at_myorigin = no\n\
     myorigin = example.org\n",
    "resolve_dequoted_address = no\n\
     mynetworks = 127.0.0.0/8\n\
     smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n\
     strict_rfc821_envelopes = yes\n",
    "recipient_canonical_maps = inline:{{jack@example.org=jane+c@example.org},{@old.example=@example.org},{bare=team@example.org}}\n\
     canonical_maps = inline:{{jane@example.org=\"j x\"@example.org}, {sender@sender.example=root}}\n\
     recipient_bcc_maps = inline:{{john@example.org=team},{@catch.example=b@external.example}}\n\
     sender_bcc_maps = inline:{{root=sbcc}}\n\
     always_bcc = all\n",
];

/// The configurations that get every address.
const WHOLE: usize = 3;

/// Messages with several recipients per configuration.
const MULTIPLE: usize = 15;

/// Addresses that no table names: quoting, source routes, literals, long and malformed ones, extensions.
const ODD: &[&str] = &[
    "\"quoted alias\"@example.org",
    "\"a@b\"@example.org",
    "\"john\"@EXAMPLE.org",
    "\"john@example.org\"@mail.host.example",
    "john@mail.host.example",
    "john%example.org",
    "example.org!john",
    "\"john%example.net\"@mail.host.example",
    "postmaster",
    "POSTMASTER",
    "MAILER-DAEMON@host.example",
    "double-bounce",
    "john@localhost",
    "john@localhost.localdomain",
    "\"\"@example.org",
    "\"+x\"@example.org",
    "+x@example.org",
    "john+",
    "root+x",
    "bare+y@host.example",
    "abuse",
    "a.b@[127.0.0.1]",
    "john@[IPv6:::1]",
    "john@[127.0.0.1",
    "(c)john@example.org",
    "john@example.org (c)",
    "john @example.org",
    "john@ example.org",
    "\"j\\ohn\"@example.org",
    "jo\\hn@example.org",
    "@old.example",
    "x+y@old.example",
    "x+y@old3.example",
    "xn@BÜCHER.example",
    "user@bücher.example",
    "jörg@bücher.example",
    "o'brien+x@example.org",
    "team+a+b@example.org",
    "big+x@example.org",
    "loopa+x@example.org",
    "ldup+e@example.org",
    "lgroup+z@example.org",
    "lqpipe+z@example.org",
    "null+z@example.org",
    "todomain+q@example.org",
    "*@example.org",
    "john@*",
    "john@example.org\u{1}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@example.org",
    "john@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example",
    "john@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example",
    "john@-x.example",
    "john@x-.example",
    "john@x_y.example",
    "john@1.2.3",
    "john@0x7f.1",
    "john@example..org",
    "john@.example.org",
    "john!x@example.org",
    "x!y!john",
    "a%b%c@mail.host.example",
    "a%b@c%d",
    "john@host.example",
    "user@hostonly.example",
    "dave+t@catch.example",
    "\"dave t\"@catch.example",
    "selfonly+q@example.org",
    "selfcase+q@example.org",
];

/// Instances that run at the same time.
const WORKERS: usize = 6;

#[test]
fn postfix_and_postroom_agree_on_recipients() {
    if !testkit::peers() {
        return;
    }
    let groups = cases();
    let database = replay::database();
    let binary = Path::new(env!("CARGO_BIN_EXE_postroom"));
    let mut runs: Vec<(usize, bool)> = Vec::new();
    for number in (0..groups.len()).filter(|number| !groups[*number].is_empty()) {
        runs.extend([(number, true), (number, false)]);
    }
    let outcomes = replay::in_parallel(&runs, WORKERS, |(number, real)| {
        let config = json!({ "main_cf": CONFIGURATIONS[*number] });
        let server = match real {
            true => Postfix::on(replay::site(&config, "", &database)),
            false => {
                let site = replay::site(&config, replay::POSTROOM_MAIN_CF, &database);
                MailServer::postroom(binary, site)
            }
        };
        let group = groups[*number].iter();
        group
            .map(|case| replay::replay(&server, case))
            .collect::<Vec<Value>>()
    });

    let exceptions: BTreeMap<&str, &str> = EXCEPTIONS.iter().copied().collect();
    let (mut count, mut agree, mut wrong) = (0, 0, Vec::new());
    for (pair, sides) in runs.chunks(2).zip(outcomes.chunks(2)) {
        let cases = &groups[pair[0].0];
        for (case, (real, ours)) in cases.iter().zip(sides[0].iter().zip(&sides[1])) {
            count += 1;
            agree += usize::from(real == ours);
            let id = case["id"].as_str().expect("made below");
            match (real == ours, exceptions.get(id)) {
                (true, None) | (false, Some(_)) => {}
                (true, Some(reason)) => {
                    wrong.push(format!("{id} agrees now; take it off the list ({reason})"));
                }
                (false, None) => wrong.push(format!(
                    "{id} ({case}):\n  Postfix  {real}\n  Postroom {ours}"
                )),
            }
        }
    }
    println!("{count} cases, {agree} agree");
    assert!(count > 0, "no case is named so");
    assert!(
        wrong.is_empty(),
        "{} of {count} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The cases of each configuration.
fn cases() -> Vec<Vec<Value>> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (all, only) = (!variable("ORACLE_ALL").is_empty(), variable("ADDRESS_CASE"));
    let mut random = Random(variable("ORACLE_SEED").parse().unwrap_or(1));
    let known = known_addresses();
    let addresses: Vec<&str> = known
        .iter()
        .map(String::as_str)
        .chain(ODD.iter().copied())
        .collect();
    let mut groups = Vec::new();
    for number in 0..CONFIGURATIONS.len() {
        let mut group = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            // Drawn for those left out too, so that a case is the same whichever run.
            let smtputf8 = random.below(10) < 3;
            if all || number < WHOLE || (index + number).is_multiple_of(3) {
                group.push(case(&format!("{number}-{address}"), &[address], smtputf8));
            }
        }
        for index in 0..MULTIPLE {
            let count = 2 + random.below(4);
            let recipients: Vec<&str> = (0..count)
                .map(|_| known[random.below(known.len())].as_str())
                .collect();
            group.push(case(&format!("{number}-multi-{index}"), &recipients, false));
        }
        group.retain(|case| case["id"].as_str().is_some_and(|id| id.contains(&only)));
        groups.push(group);
    }
    groups
}

fn case(id: &str, recipients: &[&str], smtputf8: bool) -> Value {
    json!({"id": id, "mail_from": "sender@sender.example", "rcpts": recipients, "smtputf8": smtputf8})
}

/// The sources of all aliases, then all users, each sorted, as the fixture's statements name them.
fn known_addresses() -> Vec<String> {
    let sql = replay::fixture("address.sql");
    let mut addresses = Vec::new();
    for table in ["virtual_aliases", "virtual_users"] {
        let start = format!("INSERT INTO {table} VALUES (");
        let rows = sql.split(start.as_str()).skip(1);
        let names: BTreeSet<String> = rows.map(first_text).collect();
        assert!(names.len() > 20, "the fixture has rows in {table}");
        addresses.extend(names);
    }
    addresses
}

/// The first text of `1,'o''brien@example.org',…`.
fn first_text(row: &str) -> String {
    let rest = row.split_once('\'').expect("a row has a text").1;
    let marked = rest.replace("''", "\0");
    let text = marked.split('\'').next().expect("split yields one piece");
    text.replace('\0', "'")
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^= number >> 31;
        (number % limit as u64) as usize
    }
}
