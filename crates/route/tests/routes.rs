//! Classes, routes and aliases over tables in memory. The same rules against a real Postfix are in
//! `crates/postroom/tests/peer_address_*.rs`.

use std::time::Instant;

use config::Config;
use postroom_route::{Class, ExpandError, Limit, Router, Verdict, Walk};
use tables::Tables;

const MAIN_CF: &str = "
myhostname = mail.host.example
mydomain = host.example
myorigin = host.example
mydestination = mail.host.example, host.example, localhost
inet_interfaces = 127.0.0.1
virtual_mailbox_domains = inline:{example.org=1, catch.example=1}
virtual_mailbox_maps = inline:{{john@example.org=john/}, {jane@example.org=jane/}, {carol@catch.example=c/}}
virtual_alias_domains = va.example
local_recipient_maps = inline:{root=x}
relay_domains = relay.example
recipient_delimiter = +
virtual_transport = lmtp:unix:private/dovecot-lmtp
virtual_alias_recursion_limit = 10
virtual_alias_expansion_limit = 4
virtual_alias_maps = inline:{
  {team@example.org = john@example.org, jane@example.org, out@external.example},
  {chain@example.org = team@example.org},
  {loopa@example.org = loopb@example.org},
  {loopb@example.org = loopa@example.org},
  {ghost@example.org = nobody@example.org},
  {bare = john@example.org},
  {@catch.example = carol@catch.example},
  {@va.example = @example.org},
  {many@example.org = a@x.example, b@x.example, c@x.example, d@x.example, e@x.example}
  }, inline:{{john@example.org=john@example.org}, {carol@catch.example=carol@catch.example}}
";

fn router(extra: &str) -> Router {
    let config = Config::from_text(&format!("{MAIN_CF}{extra}\n"), "").expect("a configuration");
    let own = vec![std::net::IpAddr::from([127, 0, 0, 1])];
    Router::new(&config, &Tables::new(&config), own).expect("a router")
}

#[tokio::test]
async fn addresses_have_a_class_and_a_route() {
    let router = router("transport_maps = inline:{x.example=smtp:[192.0.2.1]:26, .x.example=:y}");
    let lmtp = ("lmtp", "unix:private/dovecot-lmtp");
    for (address, class, (transport, nexthop)) in [
        (
            "root@host.example",
            Class::Local,
            ("local", "mail.host.example"),
        ),
        (
            "root@[127.0.0.1]",
            Class::Local,
            ("local", "mail.host.example"),
        ),
        (
            "x@va.example",
            Class::VirtualAlias,
            ("error", "5.1.1 User unknown in virtual alias table"),
        ),
        ("x@example.org", Class::VirtualMailbox, lmtp),
        ("x@EXAMPLE.org", Class::VirtualMailbox, lmtp),
        ("x@relay.example", Class::Relay, ("relay", "relay.example")),
        (
            "x@sub.relay.example",
            Class::Relay,
            ("relay", "sub.relay.example"),
        ),
        ("x@else.example", Class::Default, ("smtp", "else.example")),
        ("x@x.example", Class::Default, ("smtp", "[192.0.2.1]:26")),
        ("x%example.org@host.example", Class::VirtualMailbox, lmtp),
    ] {
        let mut walk = Walk::new(Instant::now());
        let resolved = router
            .resolve(&mut walk, address)
            .await
            .expect("no table fails");
        assert_eq!(resolved.class, class, "{address}");
        assert_eq!(
            (&*resolved.route.transport, &*resolved.route.nexthop),
            (transport, nexthop),
            "{address}"
        );
        assert!(!resolved.malformed, "{address}");
    }
}

#[tokio::test]
async fn undeliverable_addresses_are_told() {
    let router = router("");
    for (address, malformed) in [
        ("x@example.org", false),
        ("x@exa mple.org", true),
        ("x@127.0.0.1", true),
        ("x@[example.org]", true),
        ("x@", true),
        ("-x@example.org", true),
    ] {
        let mut walk = Walk::new(Instant::now());
        let told = router
            .is_malformed(&mut walk, address)
            .await
            .expect("no table fails");
        assert_eq!(told, malformed, "{address}");
    }
}

#[tokio::test]
async fn aliases_lead_to_their_leaves() {
    let router = router("");
    for (address, leaves) in [
        ("john@example.org", &["john@example.org"][..]),
        (
            "team@example.org",
            &[
                "john@example.org",
                "jane@example.org",
                "out@external.example",
            ],
        ),
        (
            "chain+x@example.org",
            &[
                "john+x@example.org",
                "jane+x@example.org",
                "out+x@external.example",
            ],
        ),
        ("bare@host.example", &["john@example.org"]),
        ("any+x@catch.example", &["carol@catch.example"]),
        ("carol@catch.example", &["carol@catch.example"]),
        ("john+x@va.example", &["john+x@example.org"]),
        ("nobody@example.org", &["nobody@example.org"]),
    ] {
        let mut walk = Walk::new(Instant::now());
        let tree = router
            .recipients_of(&mut walk, address)
            .await
            .expect("a tree");
        assert_eq!(
            tree.leaf_addresses().collect::<Vec<_>>(),
            leaves,
            "{address}"
        );
    }
}

#[tokio::test]
async fn loops_and_crowds_are_errors() {
    let router = router("");
    for (address, expected) in [
        ("loopa@example.org", Limit::Nesting),
        ("many@example.org", Limit::Expansion),
    ] {
        let mut walk = Walk::new(Instant::now());
        match router.recipients_of(&mut walk, address).await {
            Err(ExpandError::Unreasonable { limit, .. }) => {
                assert_eq!(limit, expected, "{address}")
            }
            other => panic!("{address}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn leaves_are_checked_against_the_table_of_their_class() {
    let router = router("");
    let mut walk = Walk::traced(Instant::now());
    let tree = router
        .recipients_of(&mut walk, "ghost@example.org")
        .await
        .expect("a tree");
    let leaves = router
        .leaves(&mut walk, &tree)
        .await
        .expect("no table fails");
    assert!(matches!(leaves[0].verdict, Verdict::Dangling(_)));
    assert_eq!(
        tree.path(leaves[0].node),
        ["ghost@example.org", "nobody@example.org"]
    );

    let tree = router
        .recipients_of(&mut walk, "team@example.org")
        .await
        .expect("a tree");
    let leaves = router
        .leaves(&mut walk, &tree)
        .await
        .expect("no table fails");
    assert_eq!(leaves[0].verdict, Verdict::Mailbox("john/".into()));
    assert_eq!(leaves[2].verdict, Verdict::Deliverable);
    let asked = walk.lookups();
    assert!(
        asked
            .iter()
            .any(|lookup| lookup.key == "nobody@example.org" && lookup.found.is_none())
    );
}

#[tokio::test]
async fn a_table_that_fails_is_never_an_answer() {
    let router = router("virtual_mailbox_domains = fail:x");
    let mut walk = Walk::new(Instant::now());
    let failure = router
        .resolve(&mut walk, "x@example.org")
        .await
        .expect_err("a failure");
    assert_eq!(
        (failure.parameter, &*failure.table),
        ("virtual_mailbox_domains", "fail:x")
    );
}

#[tokio::test]
async fn one_walk_asks_a_table_once_for_a_key() {
    let router = router("");
    let mut walk = Walk::traced(Instant::now());
    for _ in 0..2 {
        router
            .recipients_of(&mut walk, "team@example.org")
            .await
            .expect("a tree");
    }
    let mut questions: Vec<_> = walk
        .lookups()
        .iter()
        .map(|asked| (asked.parameter, &asked.table, &asked.key))
        .collect();
    let asked = questions.len();
    questions.sort();
    questions.dedup();
    assert_eq!(questions.len(), asked);
}
