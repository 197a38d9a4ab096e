//! `postroom postfix`: status, reload, check, logrotate and stop of a running server, and where its log goes.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use support::*;
use testkit::{MailServer, wait_for};

/// `postroom postfix COMMAND` for this server: exit status and what it told.
fn control(server: &MailServer, command: &str) -> (i32, String) {
    let conf = server.site.conf().display().to_string();
    told(postroom(&["postfix", "-c", &conf, command]))
}

fn told(output: Output) -> (i32, String) {
    let status = output.status.code().unwrap_or(-1);
    (status, text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn a_running_server_is_asked_reloaded_and_stopped() {
    let mut server = plain("");
    let pid = server.pid().expect("it runs");
    let running = format!("postroom postfix: the mail server is running: PID: {pid}\n");
    assert_eq!(control(&server, "status"), (0, running));
    assert_eq!(control(&server, "check"), (0, String::new()));

    // A second server on the same queue is refused, and says by whom.
    let conf = server.site.conf().display().to_string();
    let (status, words) = told(postroom(&["serve", "-c", &conf]));
    assert_eq!(status, 78, "{words}");
    assert!(
        words.contains("is running already") && words.contains(&pid.to_string()),
        "{words}"
    );

    let (status, words) = control(&server, "reload");
    assert_eq!(status, 0, "{words}");
    server.wait_log("reload -- configuration");

    let main = server.site.conf().join("main.cf");
    let good = std::fs::read_to_string(&main).expect("main.cf");
    std::fs::write(&main, format!("{good}smtpd_recipient_limit = lots\n")).expect("main.cf");
    let (status, words) = control(&server, "reload");
    assert_eq!(status, 1);
    assert!(words.contains("smtpd_recipient_limit = lots"), "{words}");
    std::fs::write(&main, good).expect("main.cf");

    let (status, words) = control(&server, "stop");
    assert_eq!(status, 0, "{words}");
    server.stop();
    for command in ["status", "stop", "reload"] {
        let nothing = "postroom postfix: fatal: the mail server is not running\n";
        assert_eq!(
            control(&server, command),
            (1, nothing.to_owned()),
            "{command}"
        );
    }
    server.start_again();
    submit(&server, &["john@example.org"], "again");
    wait_mail(&server, "john", "again");
}

#[test]
fn a_log_is_rotated_and_packed_while_lines_come() {
    let server = plain("maillog_file_rotate_suffix = %Y-old\nmaillog_file_permissions = 0640\n");
    submit(&server, &["john@example.org"], "before");
    wait_mail(&server, "john", "before");
    let id_before = server.wait_log("message-id=<before@sender.example>");
    let (status, words) = control(&server, "logrotate");
    assert_eq!((status, words.as_str()), (0, ""));
    submit(&server, &["john@example.org"], "after");
    wait_mail(&server, "john", "after");
    let folder = server.site.dir();
    let packed = wait_for("the packed log", PATIENCE, || {
        let entries = std::fs::read_dir(folder).ok()?.flatten();
        let mut names = entries.map(|entry| entry.path());
        names.find(|path| path.to_string_lossy().ends_with("-old.gz"))
    });
    let output = std::process::Command::new("gzip")
        .arg("-dc")
        .arg(packed)
        .output();
    let old = text(&output.expect("gzip").stdout);
    assert!(old.contains(&id_before), "{old}");
    let new = server.site.log();
    assert!(
        new.contains("<after@sender.example>") && !new.contains("<before@sender.example>"),
        "{new}"
    );
    let log = std::fs::metadata(folder.join("maillog")).expect("the new log");
    assert_eq!(log.permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_log_that_cannot_be_ends_the_start_with_the_parameter() {
    for (setting, words) in [
        (
            "maillog_file = /nowhere/maillog\nmaillog_file_prefixes = /var\n",
            "maillog_file = /nowhere/maillog: not below one of maillog_file_prefixes (/var)",
        ),
        (
            "maillog_file = @DIR@x/maillog\nmaillog_file_prefixes = @DIR@\n",
            "not below one of maillog_file_prefixes",
        ),
        (
            "maillog_file =\nsyslog_facility = post\n",
            "syslog_facility = post: no such facility",
        ),
        (
            "maillog_file_permissions = 0666\n",
            "maillog_file_permissions = 0666",
        ),
    ] {
        let site = plain_site(setting);
        let conf = site.conf().display().to_string();
        let (status, told) = told(postroom(&["serve", "-c", &conf]));
        assert_eq!(status, 78, "{told}");
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn services_log_under_their_own_names_and_show_ports() {
    let port = testkit::free_port();
    let site = testkit::Site::new(
        &format!("{PLAIN}smtpd_client_port_logging = yes\n"),
        &format!(
            "127.0.0.1:{port} inet n - n - - smtpd\n -o syslog_name=postfix/submission\n -o smtpd_client_port_logging=no\n"
        ),
        &[("users", USERS), ("aliases", ALIASES)],
    );
    let server = start(site);
    for (port, subject) in [(port, "one"), (server.port(), "two")] {
        testkit::send_mail(port, SENDER, &["john@example.org"], &message(subject));
        wait_mail(&server, "john", subject);
    }
    let line = server.wait_log("postfix/submission/smtpd");
    assert!(
        line.ends_with(": connect from unknown[127.0.0.1]"),
        "{line}"
    );
    let log = server.log();
    let first = log.lines().find(|line| line.contains("message-id=<one@"));
    assert!(
        first.is_some_and(|line| line.contains(" postfix/cleanup[")),
        "{log}"
    );
    let mut disconnects = log.lines().filter(|line| line.contains(" postfix/smtpd["));
    let shown = disconnects.any(|line| line.contains("disconnect from unknown[127.0.0.1]:"));
    assert!(shown, "{log}");
}

#[test]
fn a_table_that_was_broken_at_the_start_does_not_hold_up_changes() {
    // The default of alias_maps has a `nis:` table where no NIS is.
    let server = plain("local_recipient_maps = nis:mail.aliases\n");
    let main = server.site.conf().join("main.cf");
    let good = std::fs::read_to_string(&main).expect("main.cf");
    std::fs::write(&main, format!("{good}smtpd_recipient_limit = 7\n")).expect("main.cf");
    server.wait_log("reload -- configuration");
    std::fs::write(&main, format!("{good}transport_maps = nis:more\n")).expect("main.cf");
    let line = server.wait_log("error: transport_maps: ");
    assert!(line.contains("nis"), "{line}");
    server.wait_log("the new configuration is not taken over");
}

#[test]
fn in_a_container_the_log_is_standard_output() {
    use std::io::BufRead;
    let site = plain_site("maillog_file = /dev/stdout\nmaillog_file_prefixes = /dev/stdout\n");
    let mut server = std::process::Command::new(BINARY)
        .args(["serve", "-c"])
        .arg(site.conf())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let stdout = server.stdout.take().expect("it is piped");
    let mut lines = std::io::BufReader::new(stdout).lines();
    let started = lines.any(|line| line.is_ok_and(|line| line.contains("daemon started")));
    server.kill().expect("it runs");
    let output = server.wait_with_output().expect("it has ended");
    assert!(started, "{}", text(&output.stderr));
    assert!(!site.dir().join("maillog").exists());
}
