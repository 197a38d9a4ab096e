//! Delivery to a real Dovecot, over LMTP and through its LDA.

mod common;

use common::{agents, message, request};
use postroom_delivery::Status;
use testkit::Dovecot;

const USERS: [(&str, &str); 2] = [
    ("john@example.org", "secret-1"),
    ("jane@example.org", "secret-2"),
];

fn text(subject: &str) -> String {
    format!(
        "From: s@x.example\nSubject: {subject}\nMessage-Id: <{subject}@x.example>\n\nhello\n.dot\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn lmtp_over_both_kinds_of_socket() {
    if !testkit::peers() {
        return;
    }
    let dovecot = Dovecot::start(&USERS);
    let dir = common::folder();
    let agents = agents(dir.path(), "", "");
    for (subject, nexthop) in [
        ("by-unix", format!("unix:{}", dovecot.lmtp_socket.display())),
        ("by-tcp", format!("inet:127.0.0.1:{}", dovecot.lmtp_port)),
    ] {
        let names = ["john@example.org", "jane@example.org", "nobody@example.org"];
        let outcomes = agents
            .deliver(&request(
                "lmtp",
                &nexthop,
                &names,
                message("s@x.example", &text(subject)),
            ))
            .await;
        assert_eq!(outcomes[0].status, Status::Sent, "{outcomes:?}");
        assert!(
            outcomes[0]
                .text
                .starts_with("250 2.0.0 <john@example.org> "),
            "{outcomes:?}"
        );
        assert!(outcomes[0].text.ends_with(" Saved"), "{outcomes:?}");
        assert_eq!(outcomes[1].status, Status::Sent, "{outcomes:?}");
        assert_eq!(outcomes[2].status, Status::Bounced, "{outcomes:?}");
        assert_eq!(outcomes[2].dsn.to_string(), "5.1.1", "{outcomes:?}");
    }
    agents.close().await;
    for (user, password) in USERS {
        let inbox = dovecot.inbox(user, password);
        assert_eq!(inbox.len(), 2, "{user}: {inbox:?}");
        assert!(inbox[0].contains(".dot") && !inbox[0].contains("..dot"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_dovecot_defers_and_gets_the_mail_later() {
    if !testkit::peers() {
        return;
    }
    let mut dovecot = Dovecot::start(&USERS);
    let dir = common::folder();
    let agents = agents(dir.path(), "", "");
    let nexthop = format!("unix:{}", dovecot.lmtp_socket.display());
    let deliver = |subject: &'static str| {
        let request = request(
            "lmtp",
            &nexthop,
            &["john@example.org"],
            message("s@x.example", &text(subject)),
        );
        let agents = agents.clone();
        async move { agents.deliver(&request).await.remove(0) }
    };
    assert_eq!(deliver("before").await.status, Status::Sent);
    dovecot.kill();
    let outcome = deliver("meanwhile").await;
    assert_eq!(outcome.status, Status::Deferred, "{outcome:?}");
    assert!(
        outcome.text.starts_with("connect to mail.host.example["),
        "{outcome:?}"
    );
    dovecot.start_again();
    assert_eq!(deliver("after").await.status, Status::Sent);
    assert_eq!(dovecot.inbox("john@example.org", "secret-1").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lda_behind_a_pipe_service() {
    if !testkit::peers() {
        return;
    }
    let dovecot = Dovecot::start(&USERS);
    let dir = common::folder();
    let user = &dovecot.owner.name;
    let master_cf = format!(
        "dovecot unix - n n - - pipe\n  flags=DRhu user={user} argv={} -f ${{sender}} -d ${{recipient}}\n",
        dovecot.lda_command()
    );
    let agents = agents(dir.path(), "", &master_cf);
    let names = ["John@Example.org", "jane@example.org", "nobody@example.org"];
    let outcomes = agents
        .deliver(&request(
            "dovecot",
            "",
            &names,
            message("s@x.example", &text("by-lda")),
        ))
        .await;
    assert_eq!(
        common::line(&outcomes[0]),
        "sent 2.0.0 dovecot (delivered via dovecot service)",
        "{}",
        dovecot.log()
    );
    assert_eq!(outcomes[1].status, Status::Sent, "{outcomes:?}");
    assert_eq!(
        (outcomes[2].status, outcomes[2].dsn.to_string()),
        (Status::Bounced, "5.1.1".to_owned())
    );
    let inbox = dovecot.inbox("john@example.org", "secret-1");
    assert_eq!(inbox.len(), 1);
    assert!(
        inbox[0].contains("Return-Path: <s@x.example>"),
        "{}",
        inbox[0]
    );
    assert!(
        inbox[0].contains("Delivered-To: John@Example.org"),
        "{}",
        inbox[0]
    );
}
