//! The ISPmail reference: Debian's stock main.cf and master.cf, changed by `postconf` commands in a row as an Ansible playbook
//! would, with a real MariaDB, Dovecot (LMTP, IMAP, SASL, quota-status) and rspamd. The same playbook, run by Postfix's own
//! postconf for a real Postfix, gives the same files, and what the two servers answer and store is compared.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use support::*;
use testkit::dovecot::SqlUsers;
use testkit::{
    Certificates, Dovecot, DovecotOptions, GTUBE, IspMail, MailServer, MariaDb, Postfix, Rspamd,
    Site, free_port,
};

const PASSWORD: &str = "db-secret";

/// The database of the guide, with a mailbox that gets full and an alias to it.
fn database() -> IspMail {
    let mut mail = IspMail::sample();
    let full = "full@example.org".to_owned();
    mail.users.push((full.clone(), "secret".to_owned()));
    mail.aliases.push(("stuffed@example.org".to_owned(), full));
    mail
}

/// What quota-status and the mailboxes go by; the sockets where the mail server looks for them.
fn dovecot_settings(spool: &str) -> String {
    let listener = |name: &str| {
        format!(
            "unix_listener {spool}/private/{name} {{\n mode = 0660\n user = postfix\n group = postfix\n}}\n"
        )
    };
    format!(
        "auth_mechanisms = plain login\nauth_failure_delay = 0\nmail_plugins = quota\n\
         plugin {{\n quota = maildir:User quota\n quota_rule = *:storage=200K\n quota_status_success = DUNNO\n \
         quota_status_nouser = DUNNO\n \
         quota_status_overquota = \"552 5.2.2 Mailbox is full and cannot receive any more emails\"\n}}\n\
         service auth {{\n{}}}\n\
         service quota-status {{\n executable = quota-status -p postfix\n{}}}\n",
        listener("auth"),
        listener("quota-status")
    )
}

/// The machine's own part, which a test needs and no guide has: free ports, private folders, a stranger's address. One command a line.
const MACHINE: &str = "\
-e queue_directory=@DIR@/spool
-e data_directory=@DIR@/data
-e maillog_file=@DIR@/maillog
-e maillog_file_prefixes=/
-e myhostname=mail.host.example
-e mynetworks=10.0.0.0/8
-e inet_interfaces=127.0.0.1
-e inet_protocols=ipv4
-e recipient_delimiter=+
-e smtpd_peername_lookup=no
-e disable_dns_lookups=yes
-e notify_classes=
-e smtpd_client_connection_count_limit=0
-MX smtp/inet
-M 127.0.0.1:@SMTP_PORT@/inet=127.0.0.1:@SMTP_PORT@ inet n - y - - smtpd
";

/// The guide's part.
const PLAYBOOK: &str = "\
-e mydestination=localhost
-e virtual_mailbox_domains=mysql:@CONF@/domains.cf
-e virtual_mailbox_maps=mysql:@CONF@/users.cf
-e virtual_alias_maps=mysql:@CONF@/aliases.cf,mysql:@CONF@/email2email.cf
-e virtual_transport=lmtp:unix:private/dovecot-lmtp
-e smtpd_sasl_type=dovecot
-e smtpd_sasl_path=private/auth
-e smtpd_sasl_auth_enable=yes
-e smtpd_tls_security_level=may
-e smtpd_tls_auth_only=yes
-e smtpd_tls_cert_file=@CERTS@/mail.pem
-e smtpd_tls_key_file=@CERTS@/mail.key
-e smtp_tls_security_level=may
-e message_size_limit=41943040
-e smtpd_recipient_restrictions=reject_unauth_destination check_policy_service unix:private/quota-status
-e smtpd_milters=inet:127.0.0.1:@RSPAMD@
-e non_smtpd_milters=inet:127.0.0.1:@RSPAMD@
-e milter_protocol=6
-e milter_mail_macros=i {mail_addr} {client_addr} {client_name} {auth_authen}
-M @SUBMISSION@/inet=@SUBMISSION@ inet n - y - - smtpd
-P @SUBMISSION@/inet/syslog_name=postfix/submission
-P @SUBMISSION@/inet/smtpd_tls_security_level=encrypt
-P @SUBMISSION@/inet/smtpd_sasl_auth_enable=yes
-P @SUBMISSION@/inet/smtpd_sasl_type=dovecot
-P @SUBMISSION@/inet/smtpd_sasl_path=private/auth
-P @SUBMISSION@/inet/smtpd_sasl_security_options=noanonymous
-P @SUBMISSION@/inet/smtpd_sender_login_maps=mysql:@CONF@/email2email.cf
-P @SUBMISSION@/inet/smtpd_sender_restrictions=reject_sender_login_mismatch
-P @SUBMISSION@/inet/smtpd_recipient_restrictions=permit_sasl_authenticated,reject
";

/// One mail system: its own Dovecot and rspamd beside the common database.
struct System {
    server: MailServer,
    submission: u16,
    dovecot: Dovecot,
    rspamd: Rspamd,
    certificates: Certificates,
}

#[derive(Clone, Copy, PartialEq)]
enum Program {
    Postfix,
    Postroom,
}

impl System {
    fn start(program: Program, mariadb: &MariaDb) -> System {
        let stock = |name: &str| {
            let file = Path::new("/usr/share/postfix").join(name);
            std::fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        };
        let files = IspMail::table_files(&mariadb.host(), "mailuser", PASSWORD, "mailserver");
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let site = Site::bare(&stock("main.cf.debian"), &stock("master.cf.dist"), &files);
        let spool = site.spool().display().to_string();
        let dovecot = Dovecot::with(DovecotOptions {
            sql: Some(SqlUsers {
                driver: "mysql".to_owned(),
                connect: format!(
                    "host=127.0.0.1 port={} dbname=mailserver user=mailuser password={PASSWORD}",
                    mariadb.port
                ),
                password_query:
                    "SELECT email AS user, password FROM virtual_users WHERE email = '%u'"
                        .to_owned(),
            }),
            lmtp_socket: Some(site.spool().join("private/dovecot-lmtp")),
            socket_owner: Some(("postfix".to_owned(), "postfix".to_owned())),
            extra: dovecot_settings(&spool),
            ..DovecotOptions::default()
        });
        let certificates = Certificates::new();
        certificates.self_signed("mail", "rsa:2048", "/CN=mail.host.example");
        let system = (free_port(), Rspamd::start(&["example.org"]));
        let (submission, rspamd) = system;
        for line in MACHINE.lines().chain(PLAYBOOK.lines()) {
            let folder = certificates.certificate("mail");
            let folder = folder.parent().expect("a file lies in a folder");
            let line = site
                .expand(line)
                .replace("@CERTS@", &folder.display().to_string())
                .replace("@RSPAMD@", &rspamd.port.to_string())
                .replace("@SUBMISSION@", &format!("127.0.0.1:{submission}"));
            let mut command = match program {
                Program::Postfix => Command::new(testkit::require("postconf")),
                Program::Postroom => {
                    let mut command = Command::new(BINARY);
                    command.arg("postconf");
                    command
                }
            };
            // One setting a command: of several new ones at once Postfix's order is that of its hash.
            let (option, setting) = line.split_once(' ').expect("an option and one argument");
            command.arg("-c").arg(site.conf()).args([option, setting]);
            let output = command.output().expect("postconf runs");
            assert!(
                output.status.success(),
                "{command:?}: {}",
                text(&output.stderr)
            );
        }
        let server = match program {
            Program::Postfix => Postfix::on(site),
            Program::Postroom => MailServer::postroom(Path::new(BINARY), site),
        };
        System {
            server,
            submission,
            dovecot,
            rspamd,
            certificates,
        }
    }

    /// A configuration file without what differs between two systems.
    fn file(&self, name: &str) -> String {
        let file = self.server.site.conf().join(name);
        let folder = self.certificates.certificate("mail");
        let folder = folder.parent().expect("a file lies in a folder");
        std::fs::read_to_string(file)
            .expect("a file of the site")
            .replace(&self.server.site.dir().display().to_string(), "@DIR@")
            .replace(&folder.display().to_string(), "@CERTS@")
            .replace(&format!("127.0.0.1:{}", self.rspamd.port), "@RSPAMD@")
            .replace(&format!("127.0.0.1:{}", self.submission), "@SUBMISSION@")
            .replace(&format!("127.0.0.1:{}", self.server.port()), "@SMTP@")
    }

    /// swaks on port 25: the last line that the server said about the message.
    fn swaks(&self, to: &str, subject: &str, body: &str) -> String {
        let server = format!("127.0.0.1:{}", self.server.port());
        let header = format!("Subject: {subject}");
        let output = testkit::swaks(&[
            "--server",
            &server,
            "--helo",
            "client.example",
            "--from",
            SENDER,
            "--to",
            to,
            "--header",
            &header,
            "--body",
            body,
        ]);
        let told = text(&output.stdout);
        let mut replies = told
            .lines()
            .filter_map(|line| line.strip_prefix("<** ").or(line.strip_prefix("<-  ")));
        let last = replies.rfind(|reply| !reply.starts_with("221"));
        mask_reply(last.unwrap_or(&told))
    }

    /// A session of Python's smtplib on the submission port; what each step was answered.
    fn smtplib(&self, steps: &[&str]) -> Vec<String> {
        let mut command = Command::new(testkit::require("python3"));
        let ca = self.certificates.certificate("mail");
        command
            .args(["-c", SMTPLIB, &self.submission.to_string()])
            .arg(ca)
            .args(steps);
        let output = command.output().expect("python3 runs");
        assert!(
            output.status.success(),
            "{steps:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout).lines().map(mask_reply).collect()
    }

    /// The message with this subject in the user's INBOX, over IMAP.
    fn wait_message(&self, user: &str, subject: &str) -> String {
        let wanted = format!("Subject: {subject}");
        testkit::wait_for(&format!("{subject} for {user}"), PATIENCE, || {
            let inbox = self.dovecot.inbox(user, "secret");
            inbox
                .into_iter()
                .find(|mail| mail.lines().any(|line| line.trim_end() == wanted))
        })
    }
}

/// Each step is one argument; each answer one line.
const SMTPLIB: &str = r#"
import smtplib, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
context.check_hostname = False
s = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), local_hostname="client.example")
def show(reply):
    code, text = reply
    print(code, text.decode().replace("\n", " | "))
for step in sys.argv[3:]:
    verb, _, rest = step.partition(" ")
    if verb == "starttls":
        show(s.starttls(context=context))
        s.ehlo()
        print(sorted(s.esmtp_features["auth"].split()))
    elif verb == "login":
        user, password = rest.split()
        try:
            show(s.login(user, password))
        except smtplib.SMTPAuthenticationError as error:
            show((error.smtp_code, error.smtp_error))
        except smtplib.SMTPNotSupportedError as error:
            print(error)
    elif verb == "send":
        sender, to, subject = rest.split()
        text = "From: %s\r\nTo: %s\r\nSubject: %s\r\n\r\ntext\r\n" % (sender, to, subject)
        show(s.mail(sender))
        reply = s.rcpt(to)
        show(reply)
        if reply[0] == 250:
            show(s.data(text))
        s.rset()
s.quit()
"#;

/// Python's dkimpy finds rspamd's signature valid for the message as it arrived; `record` is what DNS would have.
fn verify_signature(mail: &str, record: &str) {
    let folder = testkit::TempDir::new();
    let file = folder.write("mail", mail);
    // The one that Debian's packages belong to.
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", DKIM]).arg(file).arg(record);
    let output = command.output().expect("python3 runs");
    let told = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(told, "mail._domainkey.example.org. True\n", "{mail}");
}

const DKIM: &str = r#"
import dkim, sys
def answer(name, timeout=5):
    print(name.decode(), end=" ")
    return sys.argv[2].encode()
print(dkim.verify(open(sys.argv[1], "rb").read(), dnsfunc=answer))
"#;

fn mask_reply(reply: &str) -> String {
    match reply.split_once("queued as ") {
        Some((head, _)) => format!("{head}queued as ID"),
        None => reply.trim_end().to_owned(),
    }
}

/// The names of the header lines, in their order; those of rspamd, whose order is that of its Lua table, sorted behind the others.
fn header_names(mail: &str) -> Vec<String> {
    let header = mail.lines().take_while(|line| !line.trim_end().is_empty());
    let fields = header.filter(|line| !line.starts_with([' ', '\t']));
    let names = fields.filter_map(|line| Some(line.split_once(':')?.0.to_owned()));
    let (mut spam, mut names): (Vec<String>, Vec<String>) =
        names.partition(|name| name.starts_with("X-Spam"));
    spam.sort();
    names.append(&mut spam);
    names
}

/// The Received header that the mail server wrote, without what differs each time.
fn received(mail: &str) -> String {
    let unfolded = mail.replace("\r\n", "\n").replace("\n\t", " ");
    let line = unfolded.lines().find(|line| {
        line.starts_with("Received:") && line.contains("by mail.host.example (Postfix)")
    });
    let line = line.unwrap_or_else(|| panic!("no Received header in {mail}"));
    let head = line.split(" id ").next().unwrap_or(line);
    let rest = line
        .split_once(" for ")
        .map_or("", |(_, rest)| rest.split(';').next().unwrap_or(rest));
    format!("{head} for {rest}")
}

/// What one system did with the traffic.
#[derive(Debug, PartialEq)]
struct Outcome {
    replies: Vec<(String, String)>,
    headers: BTreeMap<String, Vec<String>>,
    received: BTreeMap<String, String>,
}

const USERS_OF_TEAM: [&str; 3] = ["john@example.org", "jane@example.org", "jim@example.org"];

fn traffic(system: &System) -> Outcome {
    let mut replies: Vec<(String, String)> = Vec::new();
    let mut mails: BTreeMap<String, String> = BTreeMap::new();
    let mut told = |what: &str, reply: String| replies.push((what.to_owned(), reply));

    // Port 25.
    for (to, subject) in [
        ("john@example.org", "plain"),
        ("team@example.org", "team"),
        ("any@catch.example", "catch"),
        ("jane+x@example.org", "extension"),
    ] {
        told(to, system.swaks(to, subject, "hello"));
    }
    for to in ["nobody@example.org", "x@elsewhere.example"] {
        told(to, system.swaks(to, "refused", "hello"));
    }
    mails.insert(
        "plain".into(),
        system.wait_message("john@example.org", "plain"),
    );
    mails.insert(
        "catch".into(),
        system.wait_message("carol@catch.example", "catch"),
    );
    mails.insert(
        "extension".into(),
        system.wait_message("jane@example.org", "extension"),
    );
    for user in USERS_OF_TEAM {
        mails.insert(format!("team {user}"), system.wait_message(user, "team"));
    }

    // rspamd.
    told("GTUBE", system.swaks("john@example.org", "gtube", GTUBE));

    // A full mailbox: filled to just below the limit, then told at RCPT.
    let filler = "x".repeat(70) + "\n";
    let filler = format!("{}{}", message("filler"), filler.repeat(2_700));
    let reply = testkit::send_mail(system.server.port(), SENDER, &["full@example.org"], &filler);
    told("filling", mask_reply(&reply));
    mails.insert(
        "filler".into(),
        system.wait_message("full@example.org", "filler"),
    );
    let mut smtp = system.server.smtp();
    for to in [
        "full@example.org",
        "stuffed@example.org",
        "john@example.org",
    ] {
        smtp.command(&format!("MAIL FROM:<{SENDER}> SIZE=60000"), 250);
        let reply = smtp.ask(&format!("RCPT TO:<{to}>"));
        told(
            &format!("60,000 bytes for {to}"),
            format!("{} {}", reply.code, reply.text),
        );
        smtp.command("RSET", 250);
    }
    smtp.command("QUIT", 221);

    // Submission.
    let login = "login john@example.org secret";
    for (what, steps) in [
        (
            "submission",
            &[
                "starttls",
                login,
                "send john@example.org jane@example.org submitted",
                "send john@example.org team@example.org submitted-team",
            ][..],
        ),
        (
            "another's sender",
            &[
                "starttls",
                login,
                "send jane@example.org jim@example.org forged",
            ],
        ),
        (
            "an alias of his own is not his login",
            &[
                "starttls",
                login,
                "send jack@example.org jim@example.org forged",
            ],
        ),
        (
            "his address without AUTH",
            &["starttls", "send john@example.org jane@example.org his"],
        ),
        (
            "without AUTH",
            &[
                "starttls",
                "send x@elsewhere.example jane@example.org anonymous",
            ],
        ),
        (
            "without TLS",
            &["send john@example.org jane@example.org clear", login],
        ),
        (
            "a wrong password",
            &[
                "starttls",
                "login john@example.org wrong",
                "send john@example.org jane@example.org wrong",
            ],
        ),
    ] {
        for reply in system.smtplib(steps) {
            told(what, reply);
        }
    }
    mails.insert(
        "submitted".into(),
        system.wait_message("jane@example.org", "submitted"),
    );
    mails.insert(
        "submitted-team".into(),
        system.wait_message("jim@example.org", "submitted-team"),
    );

    for name in ["submitted", "submitted-team"] {
        verify_signature(&mails[name], &system.rspamd.dkim_record("example.org"));
    }

    Outcome {
        replies,
        headers: mails
            .iter()
            .map(|(name, mail)| (name.clone(), header_names(mail)))
            .collect(),
        received: mails
            .iter()
            .map(|(name, mail)| (name.clone(), received(mail)))
            .collect(),
    }
}

#[test]
fn the_guides_server_runs_unchanged() {
    if !testkit::peers() {
        return;
    }
    let mariadb = MariaDb::start();
    mariadb.create_db("mailserver");
    mariadb.run_sql("mailserver", &database().sql());
    mariadb.create_user("mailuser", PASSWORD, "mailserver");

    let postfix = System::start(Program::Postfix, &mariadb);
    let theirs = traffic(&postfix);
    let postroom = System::start(Program::Postroom, &mariadb);
    for name in ["main.cf", "master.cf"] {
        assert_eq!(postfix.file(name), postroom.file(name), "{name}");
    }
    let ours = traffic(&postroom);

    let reply = |outcome: &Outcome, what: &str| -> Vec<String> {
        let found = outcome.replies.iter().filter(|(name, _)| name == what);
        found.map(|(_, reply)| reply.clone()).collect()
    };
    let pairs = theirs.replies.iter().zip(&ours.replies);
    let differing: Vec<_> = pairs.filter(|(theirs, ours)| theirs != ours).collect();
    assert!(differing.is_empty(), "Postfix, Postroom: {differing:#?}");
    assert_eq!(theirs.replies.len(), ours.replies.len());
    assert_eq!(theirs.headers, ours.headers);
    assert_eq!(theirs.received, ours.received);
    a_full_mailbox_behind_an_alias_is_refused(&postroom);

    // What the guide promises, whoever runs it.
    for outcome in [&theirs, &ours] {
        assert_eq!(reply(outcome, "GTUBE"), ["554 5.7.1 Gtube pattern"]);
        let full = reply(outcome, "60,000 bytes for full@example.org");
        assert!(
            full[0].starts_with(
                "552 5.2.2 <full@example.org>: Recipient address rejected: Mailbox is full"
            ),
            "{full:?}"
        );
        assert!(
            reply(outcome, "without AUTH")
                .iter()
                .any(|reply| reply.starts_with("554 5.7.1"))
        );
        assert!(
            reply(outcome, "without TLS")[0]
                .starts_with("530 5.7.0 Must issue a STARTTLS command first")
        );
        assert!(
            reply(outcome, "a wrong password")
                .iter()
                .any(|reply| reply.starts_with("535 5.7.8"))
        );
        assert!(
            reply(outcome, "another's sender")
                .iter()
                .any(|reply| reply.starts_with("553 5.7.1"))
        );
        assert!(outcome.headers["submitted"].contains(&"DKIM-Signature".to_owned()));
        assert!(!outcome.headers["plain"].contains(&"DKIM-Signature".to_owned()));
        assert!(
            outcome.received["submitted"].contains("with ESMTPSA"),
            "{:?}",
            outcome.received
        );
    }
    for system in [&postfix, &postroom] {
        let line = system.server.wait_log("sasl_method=PLAIN");
        assert!(
            line.contains(" postfix/submission/smtpd[")
                && line.contains("sasl_username=john@example.org"),
            "{line}"
        );
        let log = system.server.log();
        for secret in [PASSWORD, "AGpvaG5AZXhhbXBsZS5vcmcAc2VjcmV0"] {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    }
}

/// Postfix, and we by default, ask the policy service for the alias, of which quota-status knows nothing, and the mail bounces
/// later. One more line of main.cf has it asked for the mailbox that the alias leads to.
fn a_full_mailbox_behind_an_alias_is_refused(system: &System) {
    let setting = "postroom_policy_at_leaf=unix:private/quota-status";
    let conf = system.server.site.conf().display().to_string();
    let output = postroom(&["postconf", "-c", &conf, "-e", setting]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    system.server.wait_log("reload -- configuration");
    let mut smtp = system.server.smtp();
    smtp.command(&format!("MAIL FROM:<{SENDER}> SIZE=60000"), 250);
    let reply = smtp.command("RCPT TO:<stuffed@example.org>", 552);
    assert!(reply.text.contains("Mailbox is full"), "{reply:?}");
    smtp.command("RCPT TO:<jack@example.org>", 250);
}
