//! The local(8) agent without a peer: expansion, rights and what is remembered from one attempt to the next.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use postroom_delivery::{Message, Outcome};

const TEXT: &str = "Subject: t\n\nFrom here\nbody\n";

/// The lines of a recipient, then its forwards: `FROM->TO,TO (Delivered-To)`.
fn told(outcome: &Outcome) -> Vec<String> {
    let Some(expanded) = &outcome.expanded else {
        return vec![line(outcome)];
    };
    let lines = expanded.lines.iter().map(|part| {
        let to = part.address.split('@').next().unwrap_or_default();
        format!("{to}: {}", line(&part.outcome))
    });
    let forwards = expanded.forwards.iter().map(|forward| {
        let to = forward.recipients.join(",");
        let delivered_to = forward.delivered_to.as_deref().unwrap_or("none");
        format!("{}->{to} ({delivered_to})", forward.sender)
    });
    lines.chain(forwards).collect()
}

async fn deliver(agents: &Agents, name: &str, message: Message) -> Outcome {
    let address = format!("{name}@host.example");
    let request = request("local", "host.example", &[&address], message);
    agents.deliver(&request).await.remove(0)
}

fn user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(owner().0));
    user.ok()
        .flatten()
        .map(|user| user.name)
        .unwrap_or_default()
}

/// Aliases that belong to the user who delivers.
fn local(dir: &Path, aliases: &str, settings: &str) -> Agents {
    let file = dir.join("aliases");
    fs::write(&file, aliases).unwrap();
    let (uid, gid) = owner();
    std::os::unix::fs::chown(&file, Some(uid), Some(gid)).unwrap();
    let main_cf = format!(
        "alias_maps = texthash:{}\nmail_spool_directory = {}/mail\n{settings}",
        file.display(),
        dir.display()
    );
    agents(dir, &main_cf, "")
}

#[tokio::test]
async fn destinations_of_aliases() {
    let dir = folder();
    let (path, user) = (dir.path().display(), user());
    let aliases = format!(
        "far x@away.example, y@away.example\n\
         me {user}\n\
         file {path}/mail/box\n\
         folder {path}/mail/dir/\n\
         null /dev/null\n\
         cmd \"|grep -q '^Delivered-To: cmd@host.example' && exit 0; exit 1\"\n\
         list {user}, x@away.example\n\
         owner-list boss\n\
         self self\n\
         loop pool\n\
         pool loop\n"
    );
    let agents = local(dir.path(), &aliases, "");
    let cmd = "|grep -q '^Delivered-To: cmd@host.example' && exit 0; exit 1";
    for (name, expected) in [
        (
            "far",
            vec!["s@x->x@away.example,y@away.example (far@host.example)".to_owned()],
        ),
        (
            "me",
            vec![format!("{user}: sent 2.0.0 local (delivered to mailbox)")],
        ),
        (
            "file",
            vec![format!(
                "file: sent 2.0.0 local (delivered to file: {path}/mail/box)"
            )],
        ),
        (
            "folder",
            vec!["folder: sent 2.0.0 local (delivered to maildir)".into()],
        ),
        (
            "null",
            vec!["null: sent 2.0.0 local (delivered to file: /dev/null)".into()],
        ),
        (
            "cmd",
            vec![format!(
                "cmd: sent 2.0.0 local (delivered to command: {})",
                &cmd[1..]
            )],
        ),
        (
            "list",
            vec![format!(
                "owner-list@host.example->{user}@host.example,x@away.example (list@host.example)"
            )],
        ),
        (
            "self",
            vec!["self: bounced 5.1.1 local (unknown user: \"self\")".into()],
        ),
        (
            "loop",
            vec!["pool: bounced 5.4.6 local (alias database loop for pool)".into()],
        ),
        (
            "nosuch+x",
            vec!["nosuch+x: bounced 5.1.1 local (unknown user: \"nosuch+x\")".into()],
        ),
        (
            "postmaster",
            vec!["postmaster: sent 2.0.0 local (discarded)".into()],
        ),
    ] {
        let outcome = deliver(&agents, name, message("s@x", TEXT)).await;
        assert_eq!(told(&outcome), expected, "{name}");
    }
    let mailbox = fs::read_to_string(dir.path().join("mail").join(&user)).unwrap();
    let head = format!(
        "Return-Path: <s@x>\nX-Original-To: me@host.example\nDelivered-To: me@host.example\n{}\n",
        TEXT.replace("\nFrom ", "\n>From ")
    );
    assert!(
        mailbox.starts_with("From s@x  ") && mailbox.ends_with(&head),
        "{mailbox}"
    );
}

#[tokio::test]
async fn a_loop_through_other_hosts_ends() {
    let dir = folder();
    let agents = local(dir.path(), "a x@away.example\n", "");
    let looping = message("s@x", &format!("Delivered-To: a@host.example\n{TEXT}"));
    let outcome = deliver(&agents, "a", looping).await;
    let expected = "a: bounced 5.4.6 local (mail forwarding loop for a@host.example)";
    assert_eq!(told(&outcome), [expected]);
}

#[tokio::test]
async fn what_is_done_is_not_done_again() {
    let dir = folder();
    let path = dir.path().display();
    let aliases =
        format!("a {path}/mail/box, \"|test -e {path}/mail/ready || exit 75\", x@away.example\n");
    let agents = local(dir.path(), &aliases, "");
    let address = "a@host.example";
    let mut request = request("local", "host.example", &[address], message("s@x", TEXT));
    let first = agents.deliver(&request).await.remove(0);
    assert_eq!(line(&first), "deferred 4.3.0 local (temporary failure)");
    let expanded = first.expanded.unwrap();
    assert!(expanded.forwards.is_empty());

    fs::write(dir.path().join("mail/ready"), "").unwrap();
    request.recipients[0].done = expanded.done;
    let second = agents.deliver(&request).await.remove(0);
    assert_eq!(
        told(&second).len(),
        2,
        "the command and the forward: {:?}",
        told(&second)
    );
    let mailbox = fs::read_to_string(dir.path().join("mail/box")).unwrap();
    assert_eq!(mailbox.matches("Subject: t").count(), 1);
}

#[tokio::test]
async fn settings_for_users_and_for_nobody() {
    let dir = folder();
    let user = user();
    for (settings, name, expected) in [
        (
            "mailbox_transport = discard:kept",
            user.as_str(),
            "sent 2.0.0 none (kept)",
        ),
        (
            "fallback_transport = discard:other",
            "nosuch",
            "sent 2.0.0 none (other)",
        ),
        (
            "fallback_transport = local",
            "nosuch",
            "deferred 4.3.5 none (mail system configuration error: local delivers to itself)",
        ),
        (
            "fallback_transport_maps = inline:{{nosuch = error:5.1.6 moved}}",
            "nosuch",
            "bounced 5.1.6 none (moved)",
        ),
        (
            "mailbox_transport = nosuch:x",
            user.as_str(),
            "deferred 4.3.0 none (mail transport unavailable)",
        ),
        (
            "luser_relay = nobody.else.here",
            "nosuch",
            "bounced 5.4.6 local (alias database loop for nobody.else.here)",
        ),
        (
            "alias_maps = fail:x",
            user.as_str(),
            "deferred 4.3.0 local (alias database unavailable)",
        ),
        (
            "mailbox_command = test \"$LOCAL/$EXTENSION/$SENDER\" = \"$USER+x_/x_/s@x\"",
            &format!("{user}+x;"),
            "sent 2.0.0 local (delivered to command: test",
        ),
    ] {
        let agents = local(dir.path(), "", &format!("{settings}\n"));
        let outcome = deliver(&agents, name, message("s@x", TEXT)).await;
        let shown = line(&outcome);
        assert!(shown.starts_with(expected), "{settings}: {shown}");
    }
    let agents = local(dir.path(), "", "luser_relay = $local@away.example\n");
    let outcome = deliver(&agents, "who", message("s@x", TEXT)).await;
    assert_eq!(told(&outcome), ["s@x->who@away.example (who@host.example)"]);
}
