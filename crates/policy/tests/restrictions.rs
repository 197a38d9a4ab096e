//! The decision at RCPT over tables in memory: who may send what to whom.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use config::Config;
use postroom_policy::{Effects, Facts, Policy, Stage};
use route::{Router, Walk};
use tables::Tables;

const MAIN_CF: &str = "
myhostname = mail.host.example
mydestination = mail.host.example
myorigin = mail.host.example
inet_interfaces = 127.0.0.1
mynetworks = 192.0.2.0/24
virtual_mailbox_domains = example.org
virtual_mailbox_maps = inline:{{john@example.org=x}}
virtual_alias_maps = inline:{{ghost@example.org=nobody@example.org},
  {some@example.org=nobody@example.org,john@example.org},
  {loop@example.org=pool@example.org}, {pool@example.org=loop@example.org}}
virtual_alias_recursion_limit = 5
local_recipient_maps = inline:{root=x}
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
";

fn policy(extra: &str) -> Policy {
    let config = Config::from_text(&format!("{MAIN_CF}{extra}\n"), "").expect("a configuration");
    let tables = Tables::new(&config);
    let own = vec![IpAddr::from([127, 0, 0, 1])];
    let router = Router::new(&config, &tables, own.clone()).expect("a router");
    Policy::new(&config, &tables, Arc::new(router), own).expect("a policy")
}

/// The reply to RCPT for a client at this address.
async fn rcpt(policy: &Policy, client: [u8; 4], sender: &str, recipient: &str) -> String {
    let facts = Facts {
        client_name: "unknown",
        client_address: IpAddr::from(client),
        socket_address: IpAddr::from(client),
        helo: "client.example",
        sender: Some(sender),
        recipient: Some(recipient),
        recipients_so_far: 0,
        smtputf8: false,
        login: None,
        has_logins: false,
        encrypted: false,
        certificate: None,
        connection: None,
        pipelined: false,
    };
    let mut walk = Walk::new(Instant::now());
    match policy
        .recipient(&mut walk, facts, &mut Effects::default())
        .await
    {
        Ok(_) => "ok".into(),
        Err(refusal) => refusal.reply.to_string(),
    }
}

const STRANGER: [u8; 4] = [198, 51, 100, 7];
const FRIEND: [u8; 4] = [192, 0, 2, 7];

#[tokio::test]
async fn strangers_reach_our_users_and_nobody_else() {
    let policy = policy("");
    let unknown = |user: &str, table: &str| {
        format!("550 5.1.1 <{user}>: Recipient address rejected: User unknown in {table} table")
    };
    for (client, recipient, reply) in [
        (STRANGER, "john@example.org", "ok".into()),
        (
            STRANGER,
            "john@else.example",
            "554 5.7.1 <john@else.example>: Relay access denied".into(),
        ),
        (FRIEND, "john@else.example", "ok".into()),
        (
            STRANGER,
            "joe@example.org",
            unknown("joe@example.org", "virtual mailbox"),
        ),
        (STRANGER, "joe", unknown("joe", "local recipient")),
        (STRANGER, "postmaster", "ok".into()),
        (
            STRANGER,
            "a%b@example.org",
            "554 5.7.1 <a%b@example.org>: Relay access denied".into(),
        ),
        (
            STRANGER,
            "x@1.2.3.4",
            "501 5.1.3 Bad recipient address syntax".into(),
        ),
        // The leaves decide (DESIGN invariant 5).
        (
            STRANGER,
            "ghost@example.org",
            unknown("ghost@example.org", "virtual mailbox"),
        ),
        (STRANGER, "some@example.org", "ok".into()),
        (
            STRANGER,
            "loop@example.org",
            "451 4.6.0 <loop@example.org>: Alias expansion error".into(),
        ),
    ] {
        assert_eq!(
            rcpt(&policy, client, "s@x.example", recipient).await,
            reply,
            "{recipient}"
        );
    }
}

#[tokio::test]
async fn postfix_leaves_the_leaves_for_later() {
    let policy = policy("postroom_resolve_at_rcpt = no");
    for recipient in ["ghost@example.org", "loop@example.org"] {
        assert_eq!(
            rcpt(&policy, STRANGER, "s@x.example", recipient).await,
            "ok"
        );
    }
}

#[tokio::test]
async fn restrictions_decide_in_order() {
    for (settings, sender, reply) in [
        (
            "smtpd_sender_restrictions = check_sender_access inline:{x.example=REJECT}",
            "s@x.example",
            "554 5.7.1 <s@x.example>: Sender address rejected: Access denied",
        ),
        (
            "smtpd_sender_restrictions = check_sender_access inline:{{s@x.example=OK}, {x.example=REJECT}}",
            "s@x.example",
            "ok",
        ),
        (
            "smtpd_recipient_restrictions = check_recipient_access inline:{{john@example.org=450 4.2.0 later}}",
            "s@x.example",
            "450 4.2.0 <john@example.org>: Recipient address rejected: later",
        ),
        (
            "smtpd_recipient_restrictions = warn_if_reject reject, permit",
            "s@x.example",
            "ok",
        ),
        (
            "smtpd_recipient_restrictions = defer_if_permit",
            "s@x.example",
            "450 4.7.0 <john@example.org>: Recipient address rejected: defer_if_permit requested",
        ),
        (
            "smtpd_recipient_restrictions = reject_non_fqdn_sender",
            "s",
            "504 5.5.2 <s>: Sender address rejected: need fully-qualified address",
        ),
        (
            "smtpd_restriction_classes = mine\nmine = reject\nsmtpd_recipient_restrictions = check_client_access inline:{{198.51.100=mine}}",
            "s@x.example",
            "554 5.7.1 <unknown[198.51.100.7]>: Client host rejected: Access denied",
        ),
        (
            "smtpd_reject_unlisted_sender = yes",
            "nobody@example.org",
            "550 5.1.0 <nobody@example.org>: Sender address rejected: User unknown in virtual mailbox table",
        ),
        (
            "smtpd_recipient_restrictions = check_client_access fail:x",
            "s@x.example",
            "451 4.3.5 <unknown[198.51.100.7]>: Client host rejected: Server configuration error",
        ),
    ] {
        let policy = policy(settings);
        assert_eq!(
            rcpt(&policy, STRANGER, sender, "john@example.org").await,
            reply,
            "{settings}"
        );
    }
}

#[tokio::test]
async fn an_access_table_can_hold_a_message() {
    let policy = policy("smtpd_data_restrictions = check_client_access static:HOLD");
    let facts = Facts {
        client_name: "unknown",
        client_address: IpAddr::from(STRANGER),
        socket_address: IpAddr::from(STRANGER),
        helo: "client.example",
        sender: Some("s@x.example"),
        recipient: None,
        recipients_so_far: 1,
        smtputf8: false,
        login: None,
        has_logins: false,
        encrypted: false,
        certificate: None,
        connection: None,
        pipelined: false,
    };
    let mut effects = Effects::default();
    let mut walk = Walk::new(Instant::now());
    policy
        .decide(Stage::Data, &mut walk, facts, &mut effects)
        .await
        .expect("it goes on");
    assert!(effects.hold.is_some());
}

#[test]
fn mistakes_name_their_place() {
    let text = format!("{MAIN_CF}smtpd_recipient_restrictions = reject_unauth_destinaton\n");
    let config = Config::from_text(&text, "").expect("a configuration");
    let tables = Tables::new(&config);
    let router = Arc::new(Router::new(&config, &tables, Vec::new()).expect("a router"));
    let error = Policy::new(&config, &tables, router, Vec::new())
        .err()
        .expect("a mistake")
        .to_string();
    for part in [
        "main.cf",
        "smtpd_recipient_restrictions",
        "reject_unauth_destinaton",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

const FINGERPRINTS: [&str; 2] = ["AA:BB", "CC:DD"];

/// The reply to RCPT for a stranger who is logged in, or has a certificate with the first of [`FINGERPRINTS`].
async fn known(
    policy: &Policy,
    login: Option<&str>,
    trusted: Option<bool>,
    sender: &str,
) -> String {
    let certificate = trusted.map(|trusted| postroom_policy::Certificate {
        subject: "client one".into(),
        trusted,
        fingerprint: FINGERPRINTS[0].into(),
        public_key: FINGERPRINTS[1].into(),
    });
    let facts = Facts {
        client_name: "unknown",
        client_address: IpAddr::from(STRANGER),
        socket_address: IpAddr::from(STRANGER),
        helo: "client.example",
        sender: Some(sender),
        recipient: Some("john@else.example"),
        recipients_so_far: 0,
        smtputf8: false,
        login,
        has_logins: true,
        encrypted: certificate.is_some(),
        certificate: certificate.as_ref(),
        connection: None,
        pipelined: false,
    };
    let mut walk = Walk::new(Instant::now());
    let decided = policy
        .recipient(&mut walk, facts, &mut Effects::default())
        .await;
    decided.map_or_else(|refusal| refusal.reply.to_string(), |_| "ok".into())
}

#[tokio::test]
async fn logins_and_certificates_permit() {
    let relay = |first: &str| {
        let maps = "relay_clientcerts = inline:{cc:dd=key, ee:ff=other}";
        policy(&format!(
            "smtpd_relay_restrictions = {first}, reject_unauth_destination\n{maps}"
        ))
    };
    let denied = "554 5.7.1 <john@else.example>: Relay access denied";
    for (first, login, trusted, reply) in [
        ("permit_sasl_authenticated", Some("john"), None, "ok"),
        ("permit_sasl_authenticated", None, Some(true), denied),
        ("permit_tls_all_clientcerts", None, Some(true), "ok"),
        ("permit_tls_all_clientcerts", None, Some(false), denied),
        ("permit_tls_all_clientcerts", Some("john"), None, denied),
        ("permit_tls_clientcerts", None, Some(false), "ok"),
        ("permit_tls_clientcerts", None, None, denied),
        (
            "check_ccert_access inline:{aa:bb=OK}",
            None,
            Some(false),
            "ok",
        ),
        (
            "check_ccert_access inline:{cc:dd=OK}",
            None,
            Some(false),
            "ok",
        ),
        (
            "check_ccert_access inline:{aa:bb=REJECT}",
            None,
            Some(true),
            "554 5.7.1 <client one>: Client certificate rejected: Access denied",
        ),
        (
            "check_sasl_access inline:{john=OK}",
            Some("john"),
            None,
            "ok",
        ),
        ("reject_plaintext_session, permit", None, Some(false), "ok"),
        (
            "reject_plaintext_session, permit",
            None,
            None,
            "450 4.7.1 Session encryption is required",
        ),
    ] {
        let policy = relay(first);
        let found = known(&policy, login, trusted, "a@b.example").await;
        assert_eq!(found, reply, "{first} {login:?} {trusted:?}");
    }
}

#[tokio::test]
async fn a_login_may_use_the_senders_that_it_owns() {
    let owned = "554 5.7.1 <john@else.example>: Relay access denied";
    let not = "553 5.7.1 <s@b.example>: Sender address rejected: not owned by user john";
    let out = "553 5.7.1 <s@b.example>: Sender address rejected: not logged in";
    for (restriction, owners, login, reply) in [
        (
            "reject_sender_login_mismatch",
            "jane JOHN",
            Some("john"),
            owned,
        ),
        ("reject_sender_login_mismatch", "jane", Some("john"), not),
        ("reject_sender_login_mismatch", "jane", None, out),
        (
            "reject_authenticated_sender_login_mismatch",
            "jane",
            None,
            owned,
        ),
        (
            "reject_unauthenticated_sender_login_mismatch",
            "jane",
            Some("john"),
            owned,
        ),
        (
            "reject_unauthenticated_sender_login_mismatch",
            "jane",
            None,
            out,
        ),
    ] {
        let policy = policy(&format!(
            "smtpd_sender_restrictions = {restriction}\nsmtpd_sender_login_maps = inline:{{{{s@b.example={owners}}}}}"
        ));
        let found = known(&policy, login, None, "s@b.example").await;
        assert_eq!(found, reply, "{restriction} {owners} {login:?}");
    }
    for (restriction, reply) in [
        ("reject_sender_login_mismatch", not),
        ("reject_known_sender_login_mismatch", owned),
    ] {
        let policy = policy(&format!(
            "smtpd_sender_restrictions = {restriction}\nsmtpd_sender_login_maps = inline:{{x@b.example=x}}"
        ));
        assert_eq!(
            known(&policy, Some("john"), None, "s@b.example").await,
            reply,
            "{restriction}"
        );
    }
    // A table that fails is not one without the sender.
    let policy = policy(
        "smtpd_sender_restrictions = reject_sender_login_mismatch\nsmtpd_sender_login_maps = fail:x",
    );
    assert_eq!(
        known(&policy, None, None, "s@b.example").await,
        "451 4.3.0 <s@b.example>: Temporary lookup failure"
    );
}
