//! The configuration that Debian's package brings, and that of an ISPmail setup: what the server says at its start is short.

mod support;

use std::path::Path;

use support::*;
use testkit::{MailServer, Site};

/// The warnings of the start, without time and process.
fn warnings(server: &MailServer) -> Vec<String> {
    server.wait_log("daemon started");
    let log = server.log();
    let lines = log
        .lines()
        .take_while(|line| !line.contains("daemon started"));
    let warnings = lines.filter_map(|line| line.split_once(": warning: "));
    warnings.map(|(_, text)| text.to_owned()).collect()
}

fn stock(file: &str) -> String {
    let path = Path::new("/usr/share/postfix").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What Debian's files set, at the test's places.
fn debian(main_cf: &str) -> MailServer {
    let master =
        stock("master.cf.dist").replacen("smtp      inet", "127.0.0.1:@SMTP_PORT@ inet", 1);
    let main = format!(
        "{}\nmyhostname = mail.host.example\nqueue_directory = @DIR@/spool\nmaillog_file = @DIR@/maillog\n\
         maillog_file_prefixes = /\nalias_maps =\n{main_cf}",
        stock("main.cf.debian")
    );
    start(Site::bare(
        &main,
        &master,
        &[("users", USERS), ("aliases", ALIASES)],
    ))
}

#[test]
fn debian_configuration_yields_a_short_list() {
    if !testkit::peers() {
        return;
    }
    let server = debian("");
    let told = warnings(&server);
    assert!(told.len() <= 5, "{told:#?}");
    // The transports of programs that are not installed are told in one line.
    let transports = told.iter().filter(|line| line.contains("unknown username"));
    assert!(transports.count() <= 1, "{told:#?}");
    assert!(
        !told
            .iter()
            .any(|line| line.contains("biff") || line.contains("no such parameter")),
        "{told:#?}"
    );
    assert!(
        server
            .log()
            .contains("and harmless (`postroom check --settings` says why): ")
    );
}

#[test]
fn an_ispmail_configuration_yields_a_short_list() {
    if !testkit::peers() {
        return;
    }
    let server = debian(
        "mydestination = localhost\nmynetworks = 127.0.0.0/8 [::1]/128\nmailbox_size_limit = 0\n\
         recipient_delimiter = +\ninet_interfaces = loopback-only\n\
         virtual_mailbox_domains = inline:{example.org=1}\nvirtual_mailbox_maps = texthash:@CONF@/users\n\
         virtual_alias_maps = texthash:@CONF@/aliases\nvirtual_transport = lmtp:unix:private/dovecot-lmtp\n\
         smtpd_sasl_type = dovecot\nsmtpd_sasl_path = private/auth\nsmtpd_sasl_auth_enable = yes\n\
         smtpd_tls_security_level = none\nsmtpd_tls_auth_only = yes\nmessage_size_limit = 41943040\n\
         smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service unix:private/quota-status\n\
         smtpd_milters = inet:127.0.0.1:11332\nnon_smtpd_milters = inet:127.0.0.1:11332\n\
         milter_mail_macros = i {mail_addr} {client_addr} {client_name} {auth_authen}\n\
         smtpd_tls_session_cache_database = btree:${data_directory}/smtpd_scache\n",
    );
    let told = warnings(&server);
    assert!(told.len() <= 6, "{told:#?}");
    for name in [
        "check_policy_service",
        "milter",
        "smtpd_sasl",
        "smtpd_tls",
        "mailbox_size_limit",
    ] {
        assert!(
            !told.iter().any(|line| line.contains(name)),
            "{name}: {told:#?}"
        );
    }
}
