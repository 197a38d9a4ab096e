//! A message that is being received can be read, and another text be committed in its place.

use postroom_queue::{Envelope, Incoming, Options, Recipient, Spool};

async fn read(incoming: &Incoming, from: u64) -> Vec<u8> {
    let mut pieces = incoming.pieces(from);
    let mut text = Vec::new();
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece.expect("the file is there"));
    }
    text
}

#[tokio::test]
async fn small_and_large_messages_are_read_and_replaced() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = Options {
        memory_limit: 1000,
        ..Options::default()
    };
    let (spool, _) = Spool::open(dir.path(), options).expect("an empty folder");
    let line = b"0123456789\n";
    for (first, second, hold) in [
        (10, 10, false),
        (500, 10, false),
        (10, 500, true),
        (500, 500, true),
        (20_000, 300, false),
    ] {
        let mut incoming = spool.incoming().expect("there is room");
        for _ in 0..first {
            incoming.append(line).await.expect("it is writable");
        }
        let text = line.repeat(first);
        for from in [0, 5, 999, 1001, text.len() as u64, u64::MAX] {
            let expected = usize::try_from(from).ok().and_then(|from| text.get(from..));
            assert_eq!(read(&incoming, from).await, expected.unwrap_or_default());
        }
        // Two in a row, the second of which stays.
        let mut between = incoming.successor();
        between.append(&text).await.expect("it is writable");
        let mut last = between.successor();
        assert_eq!(last.id(), incoming.id());
        for _ in 0..second {
            last.append(b"other\n").await.expect("it is writable");
        }
        drop((incoming, between));
        let mut envelope = Envelope::new(
            "a@b.example",
            vec![Recipient::new("c@d.example", "")],
            std::time::SystemTime::now(),
        );
        envelope.hold = hold;
        let message = spool.commit(last, envelope).await.expect("it is writable");
        let loaded = spool.load(message.id).await.expect("it is whole");
        let mut found = Vec::new();
        std::io::copy(
            &mut loaded.content.reader().expect("it is there"),
            &mut found,
        )
        .expect("it is whole");
        assert_eq!(found, b"other\n".repeat(second));
        assert_eq!(loaded.envelope.size, found.len() as u64);
    }
    // Files of those that were dropped are removed by the spool's workers.
    let folder = dir.path().join("postroom/incoming");
    for _ in 0..500 {
        let left = std::fs::read_dir(&folder).expect("the folder is there");
        if left.count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("something is left in {}", folder.display());
}
