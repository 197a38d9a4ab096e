//! Real Postfix runs privately: to Maildir, and to Dovecot over LMTP, with the tutorial's tables.

use std::time::Duration;
use testkit::{
    Dovecot, DovecotOptions, IspMail, MailServer, MariaDb, Postfix, Site, queue_id, swaks, wait_for,
};

fn site_with_tables(server: &MariaDb, db: &str, main_cf: &str) -> Site {
    server.create_db(db);
    server.create_user("reader", "secret", db);
    server.run_sql(db, &IspMail::sample().sql());
    let files = IspMail::table_files(&server.host(), "reader", "secret", db);
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    Site::new(
        &format!("{}{main_cf}", IspMail::main_cf("mysql", "@CONF@")),
        "",
        &files,
    )
}

#[test]
fn postfix_refuses_holds_and_tells() {
    if !testkit::peers() {
        return;
    }
    let main_cf = "smtpd_data_restrictions = check_client_access static:HOLD";
    let mut postfix: MailServer = Postfix::on(site_with_tables(MariaDb::shared(), "hold", main_cf));
    let mut smtp = postfix.smtp();
    let (replies, end) = smtp.message(
        "a@sender.example",
        &["nobody@example.org", "team@example.org"],
        "Subject: x\n\ny\n",
    );
    assert_eq!((replies[0].code, replies[1].code), (550, 250));
    let end = end.unwrap();
    let mut recipients = postfix.recipients(queue_id(&end.text).unwrap());
    recipients.sort();
    assert_eq!(
        recipients,
        ["jane@example.org", "jim@example.org", "john@example.org"]
    );
    smtp.command("QUIT", 221);
    postfix.stop();
    assert!(std::net::TcpStream::connect(("127.0.0.1", postfix.port())).is_err());
}

#[test]
fn postfix_delivers_to_dovecot() {
    if !testkit::peers() {
        return;
    }
    let main_cf = "virtual_transport = lmtp:unix:private/dovecot-lmtp";
    let site = site_with_tables(MariaDb::shared(), "lmtp", main_cf);
    let options = DovecotOptions {
        users: IspMail::sample().users,
        lmtp_socket: Some(site.spool().join("private/dovecot-lmtp")),
        ..Default::default()
    };
    let dovecot = Dovecot::with(options);
    let postfix = Postfix::on(site);
    let server = format!("127.0.0.1:{}", postfix.port());
    let output = swaks(&[
        "--server",
        &server,
        "--from",
        "a@sender.example",
        "--to",
        "team@example.org",
    ]);
    assert!(output.status.success(), "{output:?}");
    for user in ["john@example.org", "jane@example.org", "jim@example.org"] {
        wait_for(user, Duration::from_secs(20), || {
            (dovecot.inbox_by_imaplib(user, "secret").len() == 1).then_some(())
        });
    }
    postfix.wait_log("status=sent");
}
