//! The table server and clients that misbehave; reload, metrics and sockets. No peer is needed.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use support::*;
use testkit::{Site, Socketmap, TableServer, free_port, wait_for};

struct Rig {
    port: u16,
    tcp: u16,
    metrics: u16,
    site: Site,
    server: TableServer,
}

fn rig(main_cf: &str) -> Rig {
    let (port, tcp, metrics) = (free_port(), free_port(), free_port());
    let listen =
        format!("inet:127.0.0.1:{port}, tcp:127.0.0.1:{tcp}:virtual_alias_maps, unix:@DIR@/socket");
    let site = plain_site(&format!(
        "postroom_tables_listen = {listen}\npostroom_metrics_listen = 127.0.0.1:{metrics}\n\
         postroom_tables_broken = texthash:/nonesuch\npostroom_tables_long = texthash:@CONF@/long\n{main_cf}"
    ));
    site.write(
        "long",
        &format!(
            "long {}\nfits {}\n",
            "x".repeat(100_000),
            "y".repeat(99_000)
        ),
    );
    let server = TableServer::start(Path::new(BINARY), &site, &[]);
    Rig {
        port,
        tcp,
        metrics,
        site,
        server,
    }
}

impl Rig {
    fn client(&self) -> Socketmap {
        Socketmap::tcp(self.port)
    }

    fn scrape(&self, request: &str) -> String {
        let mut stream =
            TcpStream::connect(("127.0.0.1", self.metrics)).expect("metrics are served");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    }
}

fn tcp_dialogue(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the table server listens");
    stream.write_all(request).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

#[test]
fn answers_of_socketmap() {
    let rig = rig("");
    let mut client = rig.client();
    for (name, key, reply) in [
        (
            "virtual_alias_maps",
            "team@example.org",
            "OK john@example.org, jane@example.org, jim@example.org",
        ),
        (
            "virtual_alias_maps",
            "TEAM@example.org",
            "OK john@example.org, jane@example.org, jim@example.org",
        ),
        (
            "virtual_mailbox_maps",
            "john@example.org",
            "OK example.org/john/",
        ),
        ("virtual_mailbox_maps", "nobody@example.org", "NOTFOUND "),
        ("virtual_mailbox_maps", "", "NOTFOUND "),
        ("myhostname", "x", "PERM unknown table myhostname"),
        ("/etc/passwd", "root", "PERM unknown table /etc/passwd"),
        ("long", "long", "PERM the value is longer than 100000 bytes"),
    ] {
        assert_eq!(client.ask(name, key), reply, "{name} {key}");
    }
    assert_eq!(client.ask("long", "fits").len(), 99_003);
    let failed = client.ask("broken", "x");
    assert!(
        failed.starts_with("TEMP ") && failed.contains("/nonesuch"),
        "{failed}"
    );
    // Understood as a frame, not as a request: the next one is answered.
    client.write_all(b"7:no-name,0:,").expect("sent");
    for _ in 0..2 {
        let reply = client.receive().expect("a reply");
        assert!(reply.starts_with("PERM malformed request: "), "{reply}");
    }
    let mut key = b"25:virtual_mailbox_maps j\xffhn".to_vec();
    key.insert(key.len(), b',');
    client.write_all(&key).expect("sent");
    assert_eq!(client.receive().expect("a reply"), "NOTFOUND ");
    // Several at once, and one in pieces.
    client
        .send("virtual_mailbox_maps", "jim@example.org")
        .expect("sent");
    client
        .send("virtual_mailbox_maps", "jane@example.org")
        .expect("sent");
    for byte in b"37:virtual_mailbox_maps john@example.org," {
        client.write_all(&[*byte]).expect("sent");
    }
    for user in ["jim", "jane", "john"] {
        assert_eq!(
            client.receive().expect("a reply"),
            format!("OK example.org/{user}/")
        );
    }
}

#[test]
fn garbage_is_refused_and_the_connection_closed() {
    let rig = rig("");
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "malformed netstring length"),
        (b"5:hello;", "netstring without a comma at its end"),
        (b"10001:", "netstring longer than 10000 bytes"),
        (
            b"99999999999999999999999999",
            "netstring longer than 10000 bytes",
        ),
        (b"-1:x,", "malformed netstring length"),
        (b"\0\xff\xfe", "malformed netstring length"),
    ] {
        let mut client = rig.client();
        client.write_all(bytes).expect("sent");
        assert_eq!(client.receive().expect("a reply"), format!("PERM {reason}"));
        assert_eq!(client.read(&mut [0]).expect("closed in order"), 0);
    }
    // Who sends on for a while still gets to see the reason.
    let mut client = rig.client();
    client.write_all(b"200000:").expect("sent");
    client.write_all(&[b'x'; 200_000]).expect("taken");
    assert_eq!(
        client.receive().expect("a reply"),
        "PERM netstring longer than 10000 bytes"
    );
    wait_for("the log", PATIENCE, || {
        let log = rig.server.log();
        let said = log.contains("is refused: malformed netstring length");
        said.then_some(())
    });
    assert_eq!(
        rig.client().ask("virtual_mailbox_maps", "john@example.org"),
        "OK example.org/john/"
    );
}

#[test]
fn the_slow_the_vanished_and_the_deaf_cost_little() {
    let rig = rig("postroom_tables_idle_timeout = 2s\n");
    let mut slow = rig.client();
    slow.write_all(b"37:virtual_mailbox_maps jo").expect("sent");
    let mut idle = rig.client();
    for _ in 0..50 {
        let mut gone = rig.client();
        gone.write_all(b"9000:half a request").expect("sent");
    }
    for _ in 0..50 {
        let mut gone = rig.client();
        gone.send("long", "fits").expect("sent");
    }
    let before = rig.server.memory();
    let mut deaf: Vec<Socketmap> = (0..20).map(|_| rig.client()).collect();
    let requests = b"9:long fits,".repeat(10_000);
    for client in &mut deaf {
        let Socketmap::Tcp(stream) = client else {
            continue;
        };
        stream.set_nonblocking(true).expect("an open socket");
        // As much as the kernel takes: replies of 99 KB each are due for every 12 bytes.
        while client.write(&requests).is_ok_and(|sent| sent > 0) {}
    }
    std::thread::sleep(Duration::from_millis(500));
    let growth = rig.server.memory().saturating_sub(before);
    assert!(
        growth < 20 << 20,
        "{growth} bytes for 20 clients that do not read"
    );
    assert_eq!(
        rig.client().ask("virtual_mailbox_maps", "john@example.org"),
        "OK example.org/john/"
    );
    // All of them are hung up on in the end.
    assert_eq!(slow.read(&mut [0]).expect("closed in order"), 0);
    assert_eq!(idle.read(&mut [0]).expect("closed in order"), 0);
    wait_for("the end of the others", PATIENCE, || {
        let page = rig.scrape("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        page.contains("\npostroom_connections 0\n").then_some(())
    });
}

#[test]
fn answers_of_tcp_table() {
    let rig = rig("");
    for (request, answer) in [
        (
            "get team@example.org\n",
            "200 john@example.org,%20jane@example.org,%20jim@example.org\n",
        ),
        (
            "get nobody@example.org\nGET team%40example.org\r\n",
            "500 not%20found\n200 john@example.org,%20jane@example.org,%20jim@example.org\n",
        ),
        (
            "put a b\n",
            "400 malformed%20request:%20put%20is%20not%20supported\n",
        ),
        (
            "get\n",
            "400 malformed%20request:%20expected:%20get%20KEY\n",
        ),
        ("get half", ""),
    ] {
        assert_eq!(
            tcp_dialogue(rig.tcp, request.as_bytes()),
            answer,
            "{request:?}"
        );
    }
    let long = "get ".to_owned() + &"x".repeat(5000);
    let answer = tcp_dialogue(rig.tcp, long.as_bytes());
    assert_eq!(answer, "400 line%20longer%20than%204096%20bytes\n");
}

#[test]
fn prometheus_gets_its_page() {
    let rig = rig("");
    let mut client = rig.client();
    for key in ["team@example.org", "nobody@example.org"] {
        client.ask("virtual_alias_maps", key);
    }
    client.ask("nonesuch", "x");
    let page = rig.scrape("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(
        page.contains("content-type: text/plain; version=0.0.4"),
        "{page}"
    );
    let table = format!("texthash:{}/aliases", rig.site.conf().display());
    for line in [
        "postroom_connections 1".to_owned(),
        "postroom_connections_accepted_total 1".to_owned(),
        r#"postroom_requests_total{name="virtual_alias_maps",result="found"} 1"#.to_owned(),
        r#"postroom_requests_total{name="virtual_alias_maps",result="not_found"} 1"#.to_owned(),
        r#"postroom_requests_refused_total{reason="unknown_table"} 1"#.to_owned(),
        r#"postroom_request_duration_seconds_count{name="virtual_alias_maps"} 2"#.to_owned(),
        // nobody@example.org, and then @example.org.
        format!(r#"postroom_lookups_total{{table="{table}",result="not_found"}} 2"#),
        format!(r#"postroom_lookups_total{{table="{table}",result="found"}} 1"#),
        format!(r#"postroom_lookup_duration_seconds_bucket{{table="{table}",le="+Inf"}} 3"#),
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "405",
        ),
        ("GARBAGE\r\n\r\n", "400"),
    ] {
        let answer = rig.scrape(request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
}

#[test]
fn changed_files_are_taken_over_and_broken_ones_are_not() {
    let rig = rig("");
    // A table that was missing at the start is a mistake at a reload.
    shell_postconf(&rig.site, "postroom_tables_broken = static:mended");
    let mut client = rig.client();
    wait_for("the mended table", PATIENCE, || {
        (client.ask("broken", "x") == "OK mended").then_some(())
    });
    std::fs::write(
        rig.site.conf().join("aliases"),
        "team@example.org john@example.org\n",
    )
    .expect("written");
    wait_for("the new aliases", PATIENCE, || {
        (client.ask("virtual_alias_maps", "team@example.org") == "OK john@example.org")
            .then_some(())
    });
    let new_port = free_port();
    let places = format!("inet:127.0.0.1:{}, inet:127.0.0.1:{new_port}", rig.port);
    shell_postconf(&rig.site, &format!("postroom_tables_listen = {places}"));
    wait_for("the new listener", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", new_port)).ok()
    });
    wait_for("the end of the old listener", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", rig.tcp))
            .is_err()
            .then_some(())
    });
    assert_eq!(
        client.ask("broken", "x"),
        "OK mended",
        "the connection has outlived it"
    );

    std::fs::remove_file(rig.site.conf().join("aliases")).expect("removed");
    wait_for("the refusal", PATIENCE, || {
        let refused = "postfix/tables[";
        let log = rig.server.log();
        let said = log.contains("not taken over; the old tables stay") && log.contains(refused);
        said.then_some(())
    });
    assert_eq!(
        client.ask("virtual_alias_maps", "team@example.org"),
        "OK john@example.org"
    );
}

fn shell_postconf(site: &Site, setting: &str) {
    let conf = site.conf().display().to_string();
    let output = postroom(&["postconf", "-c", &conf, "-e", setting]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_second_server_does_not_take_the_socket_and_a_stale_one_is_replaced() {
    let mut rig = rig("");
    let socket = rig.site.dir().join("socket");
    assert!(
        std::fs::metadata(&socket)
            .expect("the socket")
            .file_type()
            .is_socket()
    );
    let conf = rig.site.conf().display().to_string();
    let listen = format!("unix:{}", socket.display());
    let arguments = [
        "tables",
        "serve",
        "-c",
        &conf,
        "--listen",
        &listen,
        "--metrics",
        "",
    ];
    let second = postroom(&arguments);
    let complaint = text(&second.stderr);
    assert_eq!(second.status.code(), Some(78), "{complaint}");
    assert!(
        complaint.contains("cannot listen on unix:")
            && complaint.contains("another server listens there"),
        "{complaint}"
    );
    rig.server.kill();
    assert!(socket.exists(), "nobody was left to remove it");
    rig.server.start_again();
    let mut client = Socketmap::unix(&socket);
    assert_eq!(
        client.ask("virtual_mailbox_maps", "john@example.org"),
        "OK example.org/john/"
    );
    assert!(rig.server.stop(), "{}", rig.server.log());
    assert!(!socket.exists());
    let log = rig.server.log();
    assert!(log.contains("terminating"));
    // Those of the tables too: nothing else runs in this process.
    let foreign = log.lines().find(|line| !line.contains(" postfix/tables["));
    assert_eq!(foreign, None);
}

#[test]
fn what_cannot_be_started_is_told_with_its_remedy() {
    let site = plain_site("postroom_tables_listen = 10300\n");
    let conf = site.conf().display().to_string();
    for (arguments, status, complaint) in [
        (vec!["tables"], 64, "a command is missing"),
        (vec!["tables", "stop"], 64, "unknown command \"stop\""),
        (
            vec!["tables", "serve", "--listen"],
            64,
            "--listen needs a list of places",
        ),
        (
            vec!["tables", "serve", "-c", &conf],
            78,
            "write unix:PATH, inet:HOST:PORT, or tcp:HOST:PORT:NAME",
        ),
        (
            vec!["tables", "serve", "-c", "/nonesuch"],
            78,
            "/nonesuch/main.cf",
        ),
    ] {
        let output = postroom(&arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(complaint), "{said}");
    }
}
