//! Dovecot takes a message by LMTP and by its LDA, and gives it back over IMAP.

use std::process::Command;
use testkit::{Dovecot, Smtp};

#[test]
fn what_lmtp_and_lda_deliver_imap_reads() {
    if !testkit::peers() {
        return;
    }
    let mut dovecot = Dovecot::start(&[("john@example.org", "secret")]);
    deliver(&dovecot, "by lmtp");
    dovecot.stop();
    assert!(!dovecot.lmtp_socket.exists());
    dovecot.start_again();

    let lda = dovecot.lda_command();
    let mut words = lda.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .args(["-f", "a@sender.example", "-d", "john@example.org"]);
    dovecot.owner.apply(&mut command);
    let output = testkit::process::run_with_input(&mut command, b"Subject: by lda\n\nbody\n");
    assert!(output.status.success(), "{output:?} {}", dovecot.log());

    let inbox = dovecot.inbox("john@example.org", "secret");
    assert_eq!(inbox.len(), 2);
    assert!(inbox[0].contains("Subject: by lmtp\r\n"), "{inbox:?}");
    assert!(inbox[1].contains("Subject: by lda\r\n"), "{inbox:?}");
    assert_eq!(
        dovecot.inbox_by_imaplib("john@example.org", "secret"),
        inbox
    );
    assert!(dovecot.maildir("john@example.org").join("cur").exists());
}

fn deliver(dovecot: &Dovecot, subject: &str) {
    let mut lmtp = Smtp::connect_unix(&dovecot.lmtp_socket);
    lmtp.expect(220);
    lmtp.command("LHLO client.example", 250);
    lmtp.command("MAIL FROM:<a@sender.example>", 250);
    lmtp.command("RCPT TO:<nobody@example.org>", 550);
    lmtp.command("RCPT TO:<john@example.org>", 250);
    lmtp.command("DATA", 354);
    lmtp.command(&format!("Subject: {subject}\r\n\r\nbody\r\n."), 250);
    lmtp.command("QUIT", 221);
}
