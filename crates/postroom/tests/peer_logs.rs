//! The same traffic through real Postfix and through Postroom: the lines of each message and of the sessions are the same,
//! Debian's pflogsumm counts the same, and fail2ban with Debian's filters finds the same.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::*;
use testkit::tls::{Dialogue, talk};
use testkit::{
    Certificates, Dovecot, DovecotOptions, MailServer, Postfix, Site, TempDir, dead_port,
    free_port, wait_for,
};

const MAIN: &str = "\
virtual_mailbox_domains = example.org, lmtp.example
virtual_mailbox_maps = inline:{john@example.org=example.org/john/,jane@example.org=example.org/jane/,held@example.org=example.org/john/,warned@example.org=example.org/john/,gone@example.org=example.org/john/,jim@lmtp.example=x,big@lmtp.example=x}
virtual_alias_maps = inline:{{team@example.org=john@example.org, jane@example.org},{out@example.org=x@there.example}}
transport_maps = inline:{{lmtp.example=lmtp:unix:@LMTP@},{there.example=relay:[127.0.0.1]:@SINK@},{never.example=smtp:[127.0.0.1]:@REFUSING@},{later.example=smtp:[127.0.0.1]:@TEMPFAILING@},{dead.example=smtp:[127.0.0.1]:@DEAD@},{void.example=discard:thrown away},{error.example=error:5.1.1 nobody there},{retry.example=retry:4.3.2 not today}}
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
bounce_queue_lifetime = 0
message_size_limit = 20000
smtpd_helo_restrictions = reject_invalid_helo_hostname
smtpd_sender_restrictions = reject_non_fqdn_sender, check_sender_access inline:{bad@sender.example=REJECT}
smtpd_recipient_restrictions = check_recipient_access inline:{{spam@example.org=REJECT we know you},{soft@example.org=DEFER come again},{held@example.org=HOLD look at this},{warned@example.org=WARN what is that},{gone@example.org=DISCARD nobody wants it}}, warn_if_reject reject_non_fqdn_recipient
smtpd_hard_error_limit = 5
smtpd_error_sleep_time = 0
smtpd_tls_security_level = may
smtpd_tls_cert_file = @CERTS@/mail.pem
smtpd_tls_key_file = @CERTS@/mail.key
smtpd_tls_loglevel = 1
smtpd_sasl_type = dovecot
smtpd_sasl_path = @AUTH@
smtpd_client_port_logging = no
";

/// What each service adds. `relay` is the stock master.cf's.
const SERVICES: &[(&str, &str)] = &[
    ("mx", "mynetworks=10.0.0.0/8"),
    ("slow", "smtpd_timeout=1s mynetworks=10.0.0.0/8"),
    (
        "submission",
        "syslog_name=postfix/submission smtpd_tls_security_level=encrypt smtpd_sasl_auth_enable=yes smtpd_tls_auth_only=yes smtpd_relay_restrictions=permit_sasl_authenticated,reject mynetworks=10.0.0.0/8",
    ),
    (
        "ported",
        "syslog_name=postfix/ported smtpd_client_port_logging=yes mynetworks=10.0.0.0/8",
    ),
];

const TLSMGR: &str = "tlsmgr unix - - n 1000? 1 tlsmgr\n";

/// base64 of NUL, john's address, NUL, a password.
const JOHN: &str = "AGpvaG5AZXhhbXBsZS5vcmcAc2VjcmV0";
const WRONG: &str = "AGpvaG5AZXhhbXBsZS5vcmcAd3Jvbmc=";

/// One session a line; its beginning says how to read it.
const TRAFFIC: &str = include_str!("logs/traffic.txt");

/// Sinks of Postfix's own making, and what both servers need besides.
struct Peers {
    certificates: Certificates,
    dovecot: Dovecot,
    sinks: Vec<(u16, Child)>,
    dead: u16,
}

impl Drop for Peers {
    fn drop(&mut self) {
        for (_, sink) in &mut self.sinks {
            // They have no state to lose.
            let _ = sink.kill();
            let _ = sink.wait();
        }
    }
}

fn sink(options: &[&str]) -> (u16, Child) {
    let port = free_port();
    let mut command = Command::new(testkit::require("smtp-sink"));
    command.args(["-h", "sink.example", "-u", "nobody"]);
    command.args(options).arg(format!("127.0.0.1:{port}"));
    let child = command.arg("100").stdout(Stdio::null()).spawn();
    let child = child.expect("smtp-sink starts");
    wait_for("smtp-sink", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (port, child)
}

impl Peers {
    fn start() -> Peers {
        let certificates = Certificates::new();
        certificates.self_signed("mail", "prime256v1", "/CN=mail.host.example");
        let user = |name: &str| (name.to_owned(), "secret".to_owned());
        let dovecot = Dovecot::with(DovecotOptions {
            users: ["john@example.org", "jim@lmtp.example", "big@lmtp.example"]
                .map(user)
                .to_vec(),
            extra: PROMPT_AUTH.to_owned(),
            ..DovecotOptions::default()
        });
        Peers {
            certificates,
            dovecot,
            sinks: vec![sink(&[]), sink(&["-f", "RCPT"]), sink(&["-r", "RCPT"])],
            dead: dead_port(),
        }
    }

    fn site(&self) -> (Site, BTreeMap<&'static str, u16>) {
        let certificate = self.certificates.certificate("mail");
        let folder = certificate.parent().expect("a file lies in a folder");
        let main = MAIN
            .replace("@CERTS@", &folder.display().to_string())
            .replace("@AUTH@", &self.dovecot.auth_socket.display().to_string())
            .replace("@LMTP@", &self.dovecot.lmtp_socket.display().to_string())
            .replace("@SINK@", &self.sinks[0].0.to_string())
            .replace("@REFUSING@", &self.sinks[1].0.to_string())
            .replace("@TEMPFAILING@", &self.sinks[2].0.to_string())
            .replace("@DEAD@", &self.dead.to_string());
        let mut master = TLSMGR.to_owned();
        let mut ports = BTreeMap::new();
        for (name, settings) in SERVICES {
            let port = free_port();
            ports.insert(*name, port);
            master += &format!("127.0.0.1:{port} inet n - n - - smtpd\n");
            for setting in settings.split(' ') {
                master += &format!("  -o {setting}\n");
            }
        }
        let site = Site::new(&main, &master, &[]);
        // The stock master.cf's relay has a name of its own.
        let stock = std::fs::read_to_string(site.conf().join("master.cf")).expect("just written");
        let named = "relay unix - - n - - smtp\n -o syslog_name=postfix/$service_name\n";
        site.write(
            "master.cf",
            &stock.replace("relay unix - - n - - smtp\n", named),
        );
        ports.insert("smtp", site.smtp_port);
        (site, ports)
    }
}

fn content(name: &str) -> String {
    format!(
        "From: Sender <s@sender.example>\r\nTo: somebody@example.org\r\nSubject: {name}\r\n\
         Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-Id: <{name}@test>\r\n\r\nThis is {name}.\r\n."
    )
}

fn spoken(lines: &[&str]) -> Vec<String> {
    let mut spoken = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["TLS"] => spoken.extend(["STARTTLS", "@TLS", "EHLO c.example"].map(str::to_owned)),
            ["MAIL", name, sender, recipients @ ..] => {
                let sender = sender.trim_matches(['<', '>']);
                spoken.push(format!("MAIL FROM:<{sender}>"));
                let rcpt = |to: &&str| format!("RCPT TO:<{to}>");
                spoken.extend(recipients.iter().map(rcpt));
                spoken.extend(["DATA".to_owned(), content(name)]);
            }
            ["TEXT", name] => spoken.push(content(name)),
            ["HUGE"] => {
                let line = "x".repeat(70) + "\r\n";
                spoken.push(format!(
                    "Subject: huge\r\nMessage-Id: <huge@test>\r\n\r\n{}.",
                    line.repeat(400)
                ));
            }
            // The reply to nothing: a time limit's.
            ["WAIT"] => spoken.push("@WAIT".to_owned()),
            ["RAW"] => spoken.push("this is no handshake".to_owned()),
            _ => spoken.push(line.replace("JOHN", JOHN).replace("WRONG", WRONG)),
        }
    }
    spoken
}

/// Lets the traffic through; the log when all is quiet.
fn run(server: &MailServer, ports: &BTreeMap<&str, u16>) -> String {
    let sessions = TRAFFIC
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let dialogues = sessions.map(|session| {
        let (service, lines) = session.split_once(':').expect("a service");
        let lines = lines.split(" | ").map(str::trim);
        let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        Dialogue {
            port: ports[service],
            lines: spoken(&lines),
            ..Dialogue::default()
        }
    });
    for dialogue in dialogues {
        let before = server.log().matches(": disconnect from").count();
        talk(&[dialogue]);
        // One session after the other, so that the lines of two do not mix.
        wait_for("the end of the session", PATIENCE, || {
            (server.log().matches(": disconnect from").count() > before).then_some(())
        });
    }
    wait_for("an end of all deliveries", PATIENCE, || {
        let log = server.log();
        let begun = log.matches("(queue active)").count();
        let removed = log.matches(": removed\n").count();
        keep(&log);
        let waiting = DEFERRED.iter().all(|name| log.contains(name));
        // Those that were deferred stay; everything else is removed.
        (waiting && begun > 20 && begun == removed + DEFERRED.len()).then_some(())
    });
    let log = server.site.log();
    let held = log
        .lines()
        .find(|line| line.contains("message-id=<later@test>"));
    let held = held.and_then(|line| line.split("]: ").nth(1)).and_then(id);
    let held = held.expect("the deferred message has an id");
    server.run_tool("postsuper", &["-h", held]);
    server.run_tool("postsuper", &["-d", "ALL"]);
    // Postfix's tools log through another process.
    server.wait_log("postsuper[");
    server.wait_log("]: Deleted: ");
    server.site.log()
}

/// For whoever wants to look: `POSTROOM_KEEP_LOG=FILE` has the last log.
fn keep(log: &str) {
    if let Ok(file) = std::env::var("POSTROOM_KEEP_LOG") {
        std::fs::write(file, log).expect("it can be written");
    }
}

/// Messages that stay in the queue: what names them in the log.
const DEFERRED: &[&str] = &["<later@test>", "<dead@test>"];

/// Programs of which one of the two alone has lines, and why.
const OTHERS: &[&str] = &[
    // Its start and its own affairs.
    "master",
    "postfix-script",
    "postlog",
    "postlogd",
    // Statistics of processes that Postroom does not have.
    "anvil",
    "scache",
    "tlsmgr",
];

/// `program: text` of each line.
fn lines(log: &str) -> Vec<(String, String)> {
    let of = |line: &str| {
        let rest = line.split_once("postfix/")?.1;
        let (program, text) = rest.split_once("]: ")?;
        let program = program.split('[').next()?.to_owned();
        let counts = !OTHERS.contains(&program.as_str()) && !is_excepted(text);
        counts.then(|| (program, text.to_owned()))
    };
    log.lines().filter_map(of).collect()
}

/// The queue id at the beginning of a line.
fn id(text: &str) -> Option<&str> {
    let (id, _) = text.split_once(':')?;
    let all = id
        .chars()
        .all(|c| c.is_ascii_hexdigit() && !c.is_ascii_lowercase());
    (all && id.len() > 6).then_some(id)
}

/// `conn_use=2` where a connection was used again: Postroom keeps more of them.
fn without_use(text: &str) -> String {
    match text.split_once(" conn_use=") {
        Some((head, rest)) => {
            let rest = rest.split_once(", ").map_or(rest, |(_, rest)| rest);
            format!("{head} {rest}")
        }
        None => text.to_owned(),
    }
}

/// Lines that only one of the two has, and why.
const EXCEPTIONS: &[&str] = &[
    // Postfix says it three times, and that its queue file is too small; Postroom names client and limit.
    "queue file size limit exceeded",
    "mail_stream_cleanup: close error",
    "message size exceeds message_size_limit",
    // The words of OpenSSL and of rustls.
    "TLS library problem",
];

fn is_excepted(line: &str) -> bool {
    EXCEPTIONS.iter().any(|words| line.contains(words))
}

/// A line without what differs each time.
fn masked(program: &str, text: &str, names: &BTreeMap<String, String>) -> String {
    let mut text = without_use(text);
    if let Some(id) = id(&text).map(str::to_owned) {
        // `Received: … id ID`: the longer the id, the larger the message. A report has our own words.
        if let Some((head, rest)) = text.clone().split_once(", size=") {
            let (size, tail) = rest.split_once(',').unwrap_or((rest, ""));
            let size: usize = size.parse().expect("a size is a number");
            let size = match text.contains("from=<>") && !names[&id].starts_with(['n', 'e']) {
                true => "OF-REPORT".to_owned(),
                false => (size - id.len()).to_string(),
            };
            text = format!("{head}, size={size},{tail}");
        }
    }
    for (id, name) in names {
        text = text.replace(id.as_str(), &format!("({name})"));
    }
    let text = mask_between(&text, " delay=", ", dsn=");
    // Dovecot's session; the time in a report's Message-Id, which Postfix writes as a date and we in seconds; a port.
    let text = mask_between(&text, "> ", " Saved)");
    let text = mask_between(&text, "message-id=<2", ">");
    let text = mask_between(&text, "message-id=<1", ">").replace("id=<1", "id=<2");
    format!("{program}: {}", mask_port(&text))
}

/// What stands between two texts becomes `…`.
fn mask_between(text: &str, from: &str, to: &str) -> String {
    let found = text.split_once(from).and_then(|(head, rest)| {
        let until = rest.find(to)?;
        Some(format!("{head}{from}…{}", &rest[until..]))
    });
    found.unwrap_or_else(|| text.to_owned())
}

/// The client's port, where it is shown.
fn mask_port(text: &str) -> String {
    let client = "unknown[127.0.0.1]:";
    match text.split_once(client) {
        Some((head, rest)) if rest.starts_with(|c: char| c.is_ascii_digit()) => {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{head}{client}…{rest}")
        }
        _ => text.to_owned(),
    }
}

/// The name of each message by its queue id: from its Message-Id, or that of the message it reports on.
fn names(lines: &[(String, String)]) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut nameless = 0;
    for (_, text) in lines {
        let Some(id) = id(text) else { continue };
        if let Some((_, rest)) = text.split_once("message-id=<")
            && let Some((name, _)) = rest.split_once("@test>")
        {
            names.insert(id.to_owned(), name.to_owned());
        }
        for kind in [
            "non-delivery notification: ",
            "delivery status notification: ",
        ] {
            if let (Some((_, report)), Some(name)) = (text.split_once(kind), names.get(id).cloned())
            {
                names.insert(report.to_owned(), format!("report on {name}"));
            }
        }
    }
    for (_, text) in lines {
        if let Some(id) = id(text)
            && !names.contains_key(id)
        {
            nameless += 1;
            names.insert(id.to_owned(), format!("nameless {nameless}"));
        }
    }
    names
}

/// What a log says: the lines of each message in their order (deliveries to several, which run at once, sorted), and all others, sorted.
fn story(log: &str) -> BTreeMap<String, Vec<String>> {
    let lines = lines(log);
    let names = names(&lines);
    let mut story: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (program, text) in &lines {
        let name = id(text).map_or("(no message)", |id| &names[id]);
        let line = masked(program, text, &names);
        story.entry(name.to_owned()).or_default().push(line);
    }
    for (name, lines) in &mut story {
        if name == "(no message)" {
            lines.sort();
        } else {
            let is_delivery = |line: &String| line.contains(": to=<");
            let mut deliveries: Vec<String> = lines
                .iter()
                .filter(|line| is_delivery(line))
                .cloned()
                .collect();
            deliveries.sort();
            let mut deliveries = deliveries.into_iter();
            for line in lines.iter_mut().filter(|line| is_delivery(line)) {
                *line = deliveries.next().expect("as many as before");
            }
        }
    }
    story
}

fn differences(
    theirs: &BTreeMap<String, Vec<String>>,
    ours: &BTreeMap<String, Vec<String>>,
) -> String {
    let mut text = String::new();
    let all: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    for name in all {
        let (none, none_too) = (Vec::new(), Vec::new());
        let theirs = theirs.get(name).unwrap_or(&none);
        let ours = ours.get(name).unwrap_or(&none_too);
        if theirs == ours {
            continue;
        }
        text += &format!("{name}\n");
        for line in theirs {
            let mark = if ours.contains(line) { ' ' } else { '-' };
            if mark == '-' || name != "(no message)" {
                text += &format!("  {mark} {line}\n");
            }
        }
        for line in ours.iter().filter(|line| !theirs.contains(line)) {
            text += &format!("  + {line}\n");
        }
    }
    text
}

/// The log as a log reader gets it, without what differs in each run: times, delays, the length of ids.
fn for_readers(log: &str) -> String {
    let lines = log.lines().filter(|line| {
        let program = line.split_once("postfix/").map_or("", |(_, rest)| rest);
        !OTHERS.contains(&program.split('[').next().unwrap_or("")) && !is_excepted(line)
    });
    let mut text = String::new();
    for line in lines {
        let line = format!("Nov 25 12:00:00{}", line.get(15..).unwrap_or(""));
        let mut line = match (line.split_once(" delay="), line.split_once(", delays=")) {
            (Some((head, _)), Some((_, tail))) => format!("{head} delay=1, delays={tail}"),
            _ => line,
        };
        if let Some((head, rest)) = line.clone().split_once(", size=") {
            let (size, tail) = rest.split_once(',').unwrap_or((rest, ""));
            let id = head.split("]: ").nth(1).and_then(id).unwrap_or("");
            let size: usize = size.parse().expect("a size is a number");
            let report = head.ends_with("from=<>") && size > 1000;
            let size = if report { 1000 } else { size - id.len() };
            line = format!("{head}, size={size},{tail}");
        }
        text += &format!("{line}\n");
    }
    text
}

fn output(command: &mut Command) -> String {
    let output = command
        .env("LC_ALL", "C")
        .output()
        .expect("it is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// What pflogsumm tells, sorted: the order of equal counts is that of Perl's hashes.
fn pflogsumm(log: &Path) -> Vec<String> {
    let mut command = Command::new(testkit::require("pflogsumm"));
    let told = output(
        command
            .args(["--verbose_msg_detail", "--detail", "100"])
            .arg(log),
    );
    // The first line has today's date.
    let mut lines: Vec<String> = told.lines().skip(1).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Lines that a filter of fail2ban finds, without times and process ids.
fn found_by(filter: &str, log: &Path) -> Vec<String> {
    let mut command = Command::new(testkit::require("fail2ban-regex"));
    let told = output(command.args(["--print-all-matched"]).arg(log).arg(filter));
    let lines = told
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("|  Nov "));
    let mut lines: Vec<String> = lines
        .filter_map(|line| Some(line.split_once("postfix/")?.1.to_owned()))
        .map(|line| {
            let program = line.split('[').next().unwrap_or("").to_owned();
            let text = line.split_once("]: ").map_or("", |(_, text)| text);
            let text = match id(text) {
                Some(id) => text.replace(id, "ID"),
                None => text.to_owned(),
            };
            mask_port(&format!("{program}: {text}"))
        })
        .collect();
    lines.sort();
    lines
}

const FILTERS: &[&str] = &[
    "postfix",
    "postfix[mode=normal]",
    "postfix[mode=more]",
    "postfix[mode=auth]",
    "postfix[mode=rbl]",
    "postfix[mode=ddos]",
    "postfix[mode=extra]",
    "postfix[mode=aggressive]",
    "postfix[mode=errors]",
];

#[test]
fn log_readers_find_the_same_as_in_postfixs_log() {
    if !testkit::peers() {
        return;
    }
    let peers = Peers::start();
    let (site, ports) = peers.site();
    let postfix = Postfix::on(site);
    let theirs = run(&postfix, &ports);
    let mode = |server: &MailServer| {
        let file = server.site.dir().join("maillog");
        let metadata = std::fs::metadata(file).expect("the log was written");
        metadata.permissions().mode() & 0o777
    };
    let their_mode = mode(&postfix);
    drop(postfix);
    let (site, ports) = peers.site();
    let postroom = MailServer::postroom(Path::new(BINARY), site);
    let ours = run(&postroom, &ports);

    let told = differences(&story(&theirs), &story(&ours));
    assert!(
        told.is_empty(),
        "-: Postfix alone, +: Postroom alone\n{told}"
    );
    assert_eq!(their_mode, mode(&postroom));

    let folder = TempDir::new();
    let theirs = folder.write("theirs", for_readers(&theirs));
    let ours = folder.write("ours", for_readers(&ours));
    assert_eq!(pflogsumm(&theirs), pflogsumm(&ours));
    let mut most = 0;
    for filter in FILTERS {
        let (theirs, ours) = (found_by(filter, &theirs), found_by(filter, &ours));
        most = most.max(theirs.len());
        assert_eq!(theirs, ours, "{filter}");
    }
    assert!(most > 10, "the filters found {most} lines at most");
}
