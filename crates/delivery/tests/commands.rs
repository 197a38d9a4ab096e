//! The pipe agent with shell scripts for commands, with the outcomes of real pipe(8).

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Agents, agents, folder, lines, message, request};
use postroom_delivery::Outcome;

const TEXT: &str = "Subject: t\n\nhello\n.dot\nFrom me\nlast\n";

/// Agents with one service `p`: these attributes, and a script for a command with these arguments.
fn service(dir: &Path, attributes: &str, script: &str, arguments: &str) -> Agents {
    let path = dir.join("command");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let user = match nix::unistd::geteuid() {
        uid if uid.is_root() => "nobody".to_owned(),
        uid => nix::unistd::User::from_uid(uid).unwrap().unwrap().name,
    };
    let line = format!(
        "p unix - n n - - pipe {attributes} user={user} argv={} {arguments}\n",
        path.display()
    );
    agents(
        dir,
        "command_time_limit = 20s\nquick_time_limit = 1s\n",
        &line,
    )
}

async fn run(agents: &Agents, sender: &str, recipients: &[&str]) -> Vec<Outcome> {
    agents
        .deliver(&request(
            "p",
            "NextHop.Example",
            recipients,
            message(sender, TEXT),
        ))
        .await
}

#[tokio::test]
async fn every_flag_and_macro() {
    let dir = folder();
    let out = dir.path().join("mail/out");
    let script = format!(
        "{{ for a in \"$@\"; do echo \"[$a]\"; done; echo; cat; }} > {}",
        out.display()
    );
    let arguments = "s=${sender} r=$recipient u=$(user) d=${domain} e=${extension} m=${mailbox} n=${nexthop} \
                     q=${queue_id} o=${original_recipient} z=${size} x$$y {two words} end";
    let agents = service(dir.path(), "flags=BDFORXhqu.>", &script, arguments);
    let outcomes = run(&agents, "S p@X.example", &["Joe+Ext@P.example"]).await;
    assert_eq!(lines(&outcomes), ["sent 2.0.0 p (delivered via p service)"]);
    assert!(outcomes[0].is_final);
    let text = fs::read_to_string(&out).unwrap();
    let (argv, input) = text.split_once("\n\n").unwrap();
    let expected = "[s=\"S p\"@X.example]\n[r=joe+ext@p.example]\n[u=joe]\n[d=p.example]\n[e=ext]\n[m=joe+ext]\n\
                    [n=nexthop.example]\n[q=4ABCD]\n[o=joe+ext@p.example]\n[z=36]\n[x$y]\n[two words]\n[end]";
    assert_eq!(argv, expected);
    let (from, rest) = input.split_once('\n').unwrap();
    assert!(from.starts_with("From \"S p\"@X.example  "), "{from}");
    assert_eq!(
        rest,
        "Return-Path: <\"S p\"@X.example>\nX-Original-To: Joe+Ext@P.example\nDelivered-To: Joe+Ext@P.example\n\
         Subject: t\n\nhello\n..dot\n>From me\nlast\n\n"
    );
}

#[tokio::test]
async fn several_recipients_and_the_null_sender() {
    let dir = folder();
    let out = dir.path().join("mail/out");
    let script = format!(
        "{{ for a in \"$@\"; do echo \"[$a]\"; done; head -1; }} > {}",
        out.display()
    );
    for (attributes, sender, expected) in [
        ("", "s@x", "[s@x]\n[A+b@p]\n[d e@p]\n[b]\n[]\nSubject: t\n"),
        (
            "flags=R",
            "",
            "[MAILER-DAEMON]\n[A+b@p]\n[d e@p]\n[b]\n[]\nReturn-Path: <MAILER-DAEMON>\n",
        ),
        (
            "flags=R null_sender=",
            "",
            "[]\n[A+b@p]\n[d e@p]\n[b]\n[]\nReturn-Path: <>\n",
        ),
        (
            "eol=\\r\\n",
            "s@x",
            "[s@x]\n[A+b@p]\n[d e@p]\n[b]\n[]\nSubject: t\r\n",
        ),
    ] {
        let agents = service(
            dir.path(),
            attributes,
            &script,
            "${sender} ${recipient} ${extension}",
        );
        let outcomes = run(&agents, sender, &["A+b@p", "d e@p"]).await;
        assert_eq!(
            lines(&outcomes),
            ["sent 2.0.0 p (delivered via p service)"; 2]
        );
        assert_eq!(fs::read_to_string(&out).unwrap(), expected, "{attributes}");
        fs::remove_file(&out).unwrap();
    }
}

#[tokio::test]
async fn ends_of_commands() {
    let dir = folder();
    let command = dir.path().join("command").display().to_string();
    for (script, expected) in [
        ("exit 67", "bounced 5.1.1 p (user unknown)"),
        (
            "cat >/dev/null; exit 75",
            "deferred 4.3.0 p (temporary failure)",
        ),
        (
            "echo out; echo err >&2; exit 69",
            "bounced 5.3.0 p (service unavailable. Command output: out err )",
        ),
        ("echo 4.2.9 wait; exit 67", "deferred 4.2.9 p (wait )"),
        ("echo fine", "sent 2.0.0 p (delivered via p service (fine))"),
        (
            "kill -9 $$",
            "deferred 4.3.0 p (Command died with signal 9: \"COMMAND\")",
        ),
        (
            "exit 3",
            "bounced 5.3.0 p (Command died with status 3: \"COMMAND\")",
        ),
    ] {
        let agents = service(dir.path(), "", script, "");
        let outcomes = run(&agents, "s@x", &["a@e"]).await;
        assert_eq!(
            lines(&outcomes),
            [expected.replace("COMMAND", &command)],
            "{script}"
        );
    }
}

#[tokio::test]
async fn refusals_without_a_run() {
    let dir = folder();
    let agents = service(dir.path(), "size=10", "exit 0", "");
    assert_eq!(
        lines(&run(&agents, "s@x", &["a@e"]).await),
        ["bounced 5.2.3 p (message too large)"]
    );

    let agents = service(dir.path(), "flags=D", "cat >/dev/null", "");
    let looping = message("s@x", "Delivered-To: A@E\n\nhello\n");
    let outcomes = agents
        .deliver(&request("p", "e", &["a@e", "b@e"], looping))
        .await;
    assert_eq!(
        lines(&outcomes),
        [
            "bounced 5.4.6 p (mail forwarding loop for a@e)",
            "sent 2.0.0 p (delivered via p service)"
        ]
    );

    let agents = service(dir.path(), "directory=/nonexistent", "exit 0", "");
    let text = &lines(&run(&agents, "s@x", &["a@e"]).await)[0];
    assert!(
        text.starts_with("deferred 4.3.0 p (temporary failure. Command output: pipe: fatal: "),
        "{text}"
    );
}

#[tokio::test]
async fn a_command_that_hangs_is_killed() {
    let dir = folder();
    let line = "quick unix - n n - - pipe user=nobody argv=/bin/sleep 300\n";
    let line = match nix::unistd::geteuid() {
        uid if uid.is_root() => line.to_owned(),
        uid => line.replace(
            "nobody",
            &nix::unistd::User::from_uid(uid).unwrap().unwrap().name,
        ),
    };
    let agents = agents(dir.path(), "quick_time_limit = 1s\n", &line);
    let outcomes = agents
        .deliver(&request("quick", "e", &["a@e"], message("s@x", TEXT)))
        .await;
    assert_eq!(
        lines(&outcomes),
        ["bounced 5.3.0 quick (Command time limit exceeded: \"/bin/sleep\")"]
    );
}
