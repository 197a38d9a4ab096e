//! What checks do with messages, piece by piece.

use super::*;

const CONTEXT: Context<'static> = Context {
    id: "ID",
    client: "unknown[127.0.0.1]",
    sender: "a@b.example",
    recipient: Some("john@example.org"),
    protocol: "ESMTP",
    helo: "c.example",
};

/// Each parameter with the lines of its regexp table.
fn lists(tables: &[(&str, &str)], more: &str) -> Arc<CheckLists> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut main_cf = more.to_owned();
    for (name, lines) in tables {
        let file = dir.path().join(name);
        std::fs::write(&file, lines).expect("the folder is ours");
        main_cf.push_str(&format!("{name} = regexp:{}\n", file.display()));
    }
    let config = Config::from_text(&main_cf, "").expect("it is well formed");
    let tables = Tables::new(&config);
    let lists = CheckLists::of(&config, &tables, Lists::Message);
    Arc::new(lists.expect("it is well formed").expect("there are checks"))
}

async fn run(lists: &Arc<CheckLists>, text: &[u8], size: usize) -> (Vec<u8>, Findings) {
    let mut checker = Checker::new(Arc::clone(lists));
    let mut out = Vec::new();
    for piece in text.chunks(size) {
        for step in checker.feed(piece, &CONTEXT).await {
            out.extend_from_slice(&step.text);
        }
    }
    for step in checker.finish(&CONTEXT).await {
        out.extend_from_slice(&step.text);
    }
    (out, checker.into_findings())
}

#[tokio::test]
async fn each_kind_of_line_has_its_tables() {
    let lists = lists(
        &[
            (
                "header_checks",
                "/^Subject: one/ REPLACE Subject: two\n/^X-Drop/ IGNORE\n/^X-Pre/ PREPEND X-New: 1\n",
            ),
            (
                "mime_header_checks",
                "/^Content-Type: text/ REPLACE Content-Type: text/x\n",
            ),
            ("nested_header_checks", "/^Subject:/ STRIP\n"),
            ("body_checks", "/secret/ REPLACE [gone]\n/^gone/ IGNORE\n"),
        ],
        "",
    );
    let text = b"Subject: one\n more\nX-Drop: a\n b\nX-Pre: 1\nContent-Type: multipart/mixed; boundary=b\n\nsecret\n--b\nContent-Type: text/plain\nSubject: part\n\ngone\ngo on\n--b\nContent-Type: message/rfc822\n\nSubject: inner\nTo: x\n\na secret\n--b--\n";
    let expected = b"Subject: two\nX-New: 1\nX-Pre: 1\nContent-Type: multipart/mixed; boundary=b\n\n[gone]\n--b\nContent-Type: text/x\nSubject: part\n\ngo on\n--b\nContent-Type: message/rfc822\n\nTo: x\n\n[gone]\n--b--\n";
    for size in [1, 2, 7, 1000] {
        let (out, findings) = run(&lists, text, size).await;
        assert_eq!(
            String::from_utf8_lossy(&out),
            String::from_utf8_lossy(expected)
        );
        assert_eq!(findings, Findings::default());
    }
}

#[tokio::test]
async fn what_nothing_is_said_of_stays_as_it_is() {
    let lists = lists(
        &[
            ("header_checks", "/^Nothing:/ REJECT\n"),
            ("body_checks", "/^nothing$/ REJECT\n"),
        ],
        "",
    );
    let long = "x".repeat(10_000);
    let text =
        format!("From here to there\nA: b\n c\nno header\n{long}\n.\n\u{e9}\n{long}{long}\nend\n");
    let expected = text.replace("no header", "\nno header");
    for size in [1, 100, 5000, 100_000] {
        let (out, findings) = run(&lists, text.as_bytes(), size).await;
        assert_eq!(String::from_utf8_lossy(&out), expected, "{size}");
        assert_eq!(findings, Findings::default());
    }
}

#[tokio::test]
async fn findings_are_kept() {
    let lists = lists(
        &[
            (
                "header_checks",
                "/^Hold/ HOLD why\n/^Bcc-To/ BCC x@y.example\n/^Route/ FILTER smtp:h\n/^Bad/ REJECT 5.7.9 no\n",
            ),
            ("body_checks", "/./ DISCARD\n"),
        ],
        "body_checks_size_limit = 4\n",
    );
    let (_, found) = run(&lists, b"Hold: 1\nBcc-To: 1\nRoute: 1\n\n\n\n\n\nlate\n", 9).await;
    assert_eq!(found.hold.as_deref(), Some("why"));
    assert_eq!(found.bcc, ["x@y.example"]);
    assert_eq!(found.filter.as_deref(), Some("smtp:h"));
    assert_eq!(found.discard, None);
    let (_, found) = run(&lists, b"Bad: 1\nHold: 1\n\nbody\n", 9).await;
    let code = EnhancedCode::new(5, 7, 9);
    assert_eq!(found.reject, Some((code, "no".to_owned())));
    assert_eq!((found.hold, found.discard), (None, None));
    let (_, found) = run(&lists, b"A: 1\n\nbody\n", 9).await;
    assert_eq!(found.discard.as_deref(), Some(""));
}

#[tokio::test]
async fn characters_are_refused_or_stripped() {
    let lists = lists(
        &[],
        "message_strip_characters = \\0\\033\nmessage_reject_characters = \\a\n",
    );
    let (out, found) = run(&lists, b"A: \0b\n\nx\x1by\n", 4).await;
    assert_eq!(out, b"A: b\n\nxy\n");
    assert_eq!(found, Findings::default());
    let (_, found) = run(&lists, b"A: b\n\nx\x07\n", 100).await;
    assert!(found.reject.is_some());
    assert_eq!(unescaped(r"\0a\n\\\1774"), b"\0a\n\\\x7f4");
}

#[tokio::test]
async fn a_table_that_fails_is_no_answer() {
    let lists = lists(&[], "body_checks = fail:now\n");
    let (out, found) = run(&lists, b"A: b\n\nx\n", 100).await;
    assert!(found.failed);
    assert_eq!(out, b"A: b\n\nx\n");
}
