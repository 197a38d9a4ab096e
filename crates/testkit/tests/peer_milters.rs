//! The milters that tests use, behind a real Postfix.

use testkit::{GTUBE, OpenDkim, OpenDkimRole, Postfix, PythonMilter, Rspamd, Site, peers};

const MAIN: &str = "virtual_mailbox_domains = example.org
virtual_mailbox_maps = inline:{john@example.org=john/}
smtpd_milters = ";

fn server(milters: &str) -> testkit::MailServer {
    Postfix::on(Site::new(&format!("{MAIN}{milters}\n"), "", &[]))
}

/// Sends a message of example.org to John; the reply to its end.
fn send(server: &testkit::MailServer, body: &str) -> String {
    let message = format!(
        "From: jane@example.org\nTo: john@example.org\nSubject: s\nMessage-Id: <1@example.org>\nDate: Wed, 25 Nov 2026 12:00:00 +0000\n\n{body}\n"
    );
    let mut smtp = server.smtp();
    let (_, end) = smtp.message("jane@example.org", &["john@example.org"], &message);
    let end = end.expect("the recipient is known");
    format!("{} {}", end.code, end.text)
}

fn delivered(server: &testkit::MailServer) -> String {
    server.wait_log("status=sent");
    server.site.maildir("john").pop().expect("it was delivered")
}

#[test]
fn rspamd_refuses_gtube_and_signs() {
    if !peers() {
        return;
    }
    let rspamd = Rspamd::start(&["example.org"]);
    let record = rspamd.dkim_record("example.org");
    assert!(record.starts_with("v=DKIM1; k=rsa; p=MII"), "{record}");
    let server = server(&rspamd.endpoint());
    let reply = send(&server, GTUBE);
    assert!(reply.starts_with("554 "), "{reply}\n{}", rspamd.log());
    let reply = send(&server, "a good message");
    assert!(reply.starts_with("250 "), "{reply}");
    let message = delivered(&server);
    assert!(
        message.contains(
            "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=mail;"
        ),
        "{message}\n{}",
        rspamd.log()
    );
    assert!(message.contains("X-Spamd-Bar: "), "{message}");
}

#[test]
fn opendkim_signs_and_verifies() {
    if !peers() {
        return;
    }
    let domain = "example.org".to_owned();
    let signer = OpenDkim::start(&OpenDkimRole::Sign { domain });
    let keys = signer.public_key("example.org");
    let verifier = OpenDkim::start(&OpenDkimRole::Verify { keys });
    let server = server(&format!("{} {}", signer.endpoint(), verifier.endpoint()));
    assert!(send(&server, "text").starts_with("250 "));
    let message = delivered(&server);
    assert!(message.contains("DKIM-Signature: "), "{message}");
    assert!(message.contains("dkim=pass"), "{message}");
}

#[test]
fn a_python_milter_runs() {
    if !peers() {
        return;
    }
    let milter = PythonMilter::start(SCRIPT, &["X-Told"]);
    let server = server(&milter.endpoint());
    assert!(send(&server, "text").starts_with("250 "));
    assert!(delivered(&server).contains("X-Told: yes"));
    assert_eq!(milter.events(), "jane\n");
}

const SCRIPT: &str = r#"
import os, sys, Milter
class M(Milter.Base):
    def envfrom(self, sender, *options):
        open(os.environ["EVENTS"], "a").write(sender.strip("<>").split("@")[0] + "\n")
        return Milter.CONTINUE
    def eom(self):
        self.addheader(sys.argv[2], "yes")
        return Milter.CONTINUE
Milter.factory = M
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("m", sys.argv[1], 0)
"#;
