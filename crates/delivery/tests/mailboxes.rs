//! The virtual agent on temporary folders, with the outcomes of real virtual(8).

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{agents, folder, line, lines, message, owners, request};

const TEXT: &str = "Subject: t\n\nhello\n.dot\nFrom me\nlast\n";

fn files(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn a_message_reaches_its_maildir() {
    let dir = folder();
    let main_cf = format!(
        "virtual_mailbox_maps = inline:{{john@example.org=example.org/john/}}\n{}",
        owners()
    );
    let agents = agents(dir.path(), &main_cf, "");
    let mut request = request(
        "virtual",
        "example.org",
        &["John+Ext@example.org"],
        message("s p@x.example", TEXT),
    );
    request.recipients[0].original = "jack@example.org".into();
    let outcomes = agents.deliver(&request).await;
    assert_eq!(
        lines(&outcomes),
        ["sent 2.0.0 virtual (delivered to maildir)"]
    );

    let maildir = dir.path().join("mail/example.org/john");
    let new = files(&maildir.join("new"));
    assert_eq!(new.len(), 1);
    assert_eq!(
        fs::read_to_string(&new[0]).unwrap(),
        format!(
            "Return-Path: <\"s p\"@x.example>\nX-Original-To: jack@example.org\nDelivered-To: John+Ext@example.org\n{TEXT}"
        )
    );
    assert!(files(&maildir.join("tmp")).is_empty() && maildir.join("cur").is_dir());
    use std::os::unix::fs::MetadataExt;
    let facts = fs::metadata(&new[0]).unwrap();
    assert_eq!((facts.uid(), facts.gid()), common::owner());
    assert_eq!(facts.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_attempt_after_a_crash_finds_the_first() {
    let dir = folder();
    let main_cf = format!("virtual_mailbox_maps = inline:{{a@e.org=a/}}\n{}", owners());
    let agents = agents(dir.path(), &main_cf, "");
    let mut request = request(
        "virtual",
        "e.org",
        &["a@e.org", "a@e.org"],
        message("s@x", TEXT),
    );
    agents.deliver(&request).await;
    let (new, cur) = (dir.path().join("mail/a/new"), dir.path().join("mail/a/cur"));
    let delivered = files(&new);
    assert_eq!(
        delivered.len(),
        2,
        "one file a recipient, also in one mailbox"
    );
    // One was read meanwhile.
    let read = delivered[0].file_name().unwrap().to_str().unwrap();
    fs::rename(&delivered[0], cur.join(format!("{read}:2,S"))).unwrap();
    request.recovered = true;
    let outcomes = agents.deliver(&request).await;
    assert_eq!(
        lines(&outcomes),
        ["sent 2.0.0 virtual (delivered to maildir)"; 2]
    );
    assert_eq!((files(&new).len(), files(&cur).len()), (1, 1));
}

#[tokio::test]
async fn mbox_has_from_lines_and_quotes_them() {
    let dir = folder();
    let main_cf = format!("virtual_mailbox_maps = inline:{{@e.org=box}}\n{}", owners());
    let agents = agents(dir.path(), &main_cf, "");
    for sender in ["", "s@x"] {
        let outcomes = agents
            .deliver(&request(
                "virtual",
                "e.org",
                &["b@e.org"],
                message(sender, TEXT),
            ))
            .await;
        assert_eq!(
            lines(&outcomes),
            ["sent 2.0.0 virtual (delivered to mailbox)"]
        );
    }
    let text = fs::read_to_string(dir.path().join("mail/box")).unwrap();
    let body = "Subject: t\n\nhello\n.dot\n>From me\nlast\n\n";
    assert_eq!(text.matches(body).count(), 2);
    assert!(text.starts_with("From MAILER-DAEMON  "), "{text}");
    assert!(text.contains("\n\nFrom s@x  "), "{text}");
    assert!(text.contains(
        "\nReturn-Path: <>\nX-Original-To: b@e.org\nDelivered-To: b@e.org\nSubject: t\n"
    ));
    assert!(!dir.path().join("mail/box.lock").exists());
}

#[tokio::test]
async fn failures_are_those_of_virtual() {
    let dir = folder();
    let mail = dir.path().join("mail");
    fs::create_dir(mail.join("isdir")).unwrap();
    fs::write(mail.join("hard"), "").unwrap();
    fs::hard_link(mail.join("hard"), mail.join("hard2")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(mail.join("hard"), fs::Permissions::from_mode(0o666)).unwrap();
    std::os::unix::fs::symlink("/nonexistent/x", mail.join("link")).unwrap();
    fs::write(mail.join("file"), "").unwrap();
    fs::write(mail.join("held.lock"), "").unwrap();
    let boxes = "virtual_mailbox_maps = inline:{dir@e=isdir, hard@e=hard, link@e=link, file@e=file/, nouid@e=n/, \
                 baduid@e=n/, low@e=n/, big@e=big, bigdir@e=bigdir/, held@e=held, nopar@e=no/par}\n";
    let (uid, gid) = common::owner();
    let uids: Vec<String> = [
        "dir", "hard", "link", "file", "big", "bigdir", "held", "nopar",
    ]
    .iter()
    .map(|name| format!("{name}@e={uid}"))
    .collect();
    let main_cf = format!(
        "{boxes}virtual_uid_maps = inline:{{baduid@e=abc, low@e=50, {}}}\nvirtual_gid_maps = static:{gid}\n\
         virtual_minimum_uid = 100\nvirtual_mailbox_limit = 4000\ndeliver_lock_attempts = 2\ndeliver_lock_delay = 0s\n",
        uids.join(", ")
    );
    let agents = agents(dir.path(), &main_cf, "");
    let large = "x".repeat(5000);
    for (user, expected) in [
        ("Nosuch@E", "bounced 5.1.1 virtual (unknown user: \"nosuch@e\")".to_owned()),
        ("nosuch+Ext@e", "bounced 5.1.1 virtual (unknown user: \"nosuch+ext@e\")".to_owned()),
        ("nouid@e", "deferred 4.3.5 virtual (mail system configuration error)".to_owned()),
        ("baduid@e", "deferred 4.3.5 virtual (mail system configuration error)".to_owned()),
        ("low@e", "deferred 4.3.5 virtual (mail system configuration error)".to_owned()),
        ("dir@e", "deferred 4.2.0 virtual (delivery failed to mailbox MAIL/isdir: cannot open file: Is a directory)".to_owned()),
        ("hard@e", "deferred 4.2.0 virtual (delivery failed to mailbox MAIL/hard: file has 2 hard links)".to_owned()),
        ("link@e", "deferred 4.2.0 virtual (delivery failed to mailbox MAIL/link: file is a symbolic link)".to_owned()),
        ("file@e", "deferred 4.2.0 virtual (maildir delivery failed: create maildir file MAIL/file/tmp/NAME: Not a directory)".to_owned()),
        ("big@e", "bounced 5.2.2 virtual (delivery failed to mailbox MAIL/big: error writing message: File too large)".to_owned()),
        ("bigdir@e", "bounced 5.2.2 virtual (maildir delivery failed: error writing message: File too large)".to_owned()),
        ("held@e", "deferred 4.2.0 virtual (delivery failed to mailbox MAIL/held: unable to create lock file MAIL/held.lock: File exists)".to_owned()),
        ("nopar@e", "deferred 4.2.0 virtual (delivery failed to mailbox MAIL/no/par: unable to create lock file MAIL/no/par.lock: No such file or directory)".to_owned()),
    ] {
        let text = if user.starts_with("big") { &large } else { TEXT };
        let outcomes = agents.deliver(&request("virtual", "e", &[user], message("s@x", text))).await;
        let text = line(&outcomes[0]).replace(mail.to_str().unwrap(), "MAIL");
        let text = text.replace("1795361297.M42Q4ABCDR0.mail.host.example", "NAME");
        assert_eq!(text, expected, "{user}");
    }
    assert_eq!(fs::read(mail.join("big")).unwrap().len(), 0, "cut back");
}

#[tokio::test]
async fn a_dead_table_defers_and_a_template_replaces_the_path() {
    let dir = folder();
    let dead = agents(
        dir.path(),
        &format!("virtual_mailbox_maps = fail:x\n{}", owners()),
        "",
    );
    let outcomes = dead
        .deliver(&request("virtual", "e", &["a@e"], message("s@x", TEXT)))
        .await;
    assert_eq!(
        lines(&outcomes),
        ["deferred 4.3.5 virtual (mail system configuration error)"]
    );

    let main_cf = format!(
        "virtual_mailbox_maps = inline:{{a@e.org=1}}\npostroom_virtual_mailbox_path = %d/%u/Maildir/\n{}",
        owners()
    );
    let template = agents(dir.path(), &main_cf, "");
    let outcomes = template
        .deliver(&request(
            "virtual",
            "e.org",
            &["A+x@E.org", "b@e.org"],
            message("s@x", TEXT),
        ))
        .await;
    assert_eq!(
        lines(&outcomes),
        [
            "sent 2.0.0 virtual (delivered to maildir)",
            "bounced 5.1.1 virtual (unknown user: \"b@e.org\")"
        ]
    );
    assert_eq!(files(&dir.path().join("mail/e.org/a/Maildir/new")).len(), 1);
}

#[tokio::test]
async fn content_in_a_file_is_streamed() {
    let dir = folder();
    let main_cf = format!(
        "virtual_mailbox_maps = inline:{{a@e=a/, b@e=b}}\n{}",
        owners()
    );
    let agents = agents(dir.path(), &main_cf, "");
    let text = format!("Subject: t\n\n{}", "From line\n".repeat(30_000));
    let path = dir.path().join("content");
    fs::write(&path, format!("head{text}")).unwrap();
    let mut message = message("s@x", "");
    message.content = queue::Content::File {
        path,
        offset: 4,
        len: text.len() as u64,
    };
    let outcomes = agents
        .deliver(&request("virtual", "e", &["a@e", "b@e"], message))
        .await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.status == postroom_delivery::Status::Sent),
        "{outcomes:?}"
    );
    let new = files(&dir.path().join("mail/a/new"));
    assert!(fs::read_to_string(&new[0]).unwrap().ends_with(&text));
    let mbox = fs::read_to_string(dir.path().join("mail/b")).unwrap();
    assert_eq!(mbox.matches("\n>From line").count(), 30_000);
}

#[tokio::test]
async fn transports_that_deliver_nowhere() {
    let dir = folder();
    let agents = agents(dir.path(), "", "bad unix - n n - - pipe user=nobody\n");
    for (transport, nexthop, expected) in [
        ("error", "5.7.9 go away", "bounced 5.7.9 none (go away)"),
        ("retry", "text", "deferred 4.0.0 none (text)"),
        ("discard", "external", "sent 2.0.0 none (external)"),
        (
            "bad",
            "",
            "deferred 4.3.0 none (mail transport unavailable)",
        ),
        (
            "nosuch",
            "",
            "deferred 4.3.0 none (mail transport unavailable)",
        ),
    ] {
        let outcomes = agents
            .deliver(&request(transport, nexthop, &["a@e"], message("s@x", TEXT)))
            .await;
        assert_eq!(lines(&outcomes), [expected]);
    }
    assert_eq!(agents.problems().len(), 1);
}
