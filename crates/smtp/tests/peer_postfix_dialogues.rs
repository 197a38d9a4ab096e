//! The dialogues in `tests/dialogues/` against a real Postfix: what the machine is held to is what Postfix says.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::Line;
use testkit::{Postfix, Site};

const MAIN: &str = "\
compatibility_level = 3.6
myhostname = mail.host.example
mydomain = host.example
myorigin = host.example
mydestination = mail.host.example, host.example, localhost
mynetworks = 192.0.2.254/32
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
queue_directory = @DIR@/spool
data_directory = @DIR@/data
maillog_file = @DIR@/maillog
maillog_file_prefixes = /tmp, /var/tmp, @DIR@
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = example.org
virtual_mailbox_maps =
recipient_delimiter = +
smtpd_relay_restrictions = permit_auth_destination, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
disable_dns_lookups = yes
notify_classes =
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
smtpd_banner = $myhostname ESMTP test
smtpd_discard_ehlo_keywords = chunking
message_size_limit = 20000
local_transport = discard:
virtual_transport = discard:
";

const MASTER: &str = "\
127.0.0.1:@SMTP_PORT@ inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(port: u16) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("Postfix listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        Connection(BufReader::new(stream))
    }

    /// The next line, the queue id left out; `(closed)` at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) | Err(_) => "(closed)".to_owned(),
            Ok(_) => {
                let line = line.trim_end_matches(['\r', '\n']);
                match line.split_once("queued as ") {
                    Some((head, _)) => format!("{head}queued as QUEUEID"),
                    None => line.to_owned(),
                }
            }
        }
    }
}

/// The differences between what Postfix says and the dialogue.
fn differences(text: &str) -> Vec<String> {
    let lines = common::parse(text);
    let settings: String = lines
        .iter()
        .filter_map(|line| match line {
            Line::Set(name, value) => Some(format!("{name} = {value}\n")),
            _ => None,
        })
        .collect();
    let server = Postfix::on(Site::bare(&format!("{MAIN}{settings}"), MASTER, &[]));
    let mut connection = Connection::open(server.port());
    let mut last = "(connect)".to_owned();
    let mut differences = Vec::new();
    for line in &lines {
        match line {
            Line::Set(..) => {}
            Line::Connect => connection = Connection::open(server.port()),
            Line::Client(bytes) => {
                last = String::from_utf8_lossy(bytes).into_owned();
                connection
                    .0
                    .get_mut()
                    .write_all(bytes)
                    .expect("Postfix still listens");
            }
            Line::Server(expected) => {
                let said = connection.line();
                if said != *expected {
                    differences.push(format!(
                        "after {last:?}\n  expected {expected:?}\n  got      {said:?}"
                    ));
                }
            }
            Line::Closed => assert_eq!(connection.line(), "(closed)", "after {last:?}"),
        }
    }
    differences
}

#[test]
fn postfix_says_what_was_recorded() {
    if !testkit::peers() {
        return;
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder of dialogues") {
        let path = entry.expect("a folder entry").path();
        let found = differences(&std::fs::read_to_string(&path).expect("a dialogue"));
        all.extend(
            found
                .into_iter()
                .map(|d| format!("{}: {d}", path.display())),
        );
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}
