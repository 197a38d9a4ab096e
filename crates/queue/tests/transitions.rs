//! One crash test for each row of the table of states in `lib.rs`.

mod common;

use common::*;
use postroom_queue::*;
use tempfile::TempDir;

const SMALL: &[u8] = b"Subject: x\n\nhello\n";

fn large() -> Vec<u8> {
    b"0123456789abcdef\n".repeat(2000)
}

#[tokio::test]
async fn incoming_dies_with_the_server() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let mut incoming = spool.incoming().unwrap();
    incoming.append(&large()).await.unwrap();
    assert_eq!(files_in(dir.path(), "incoming").len(), 1);

    let after = crash(dir.path());
    let (_, recovery) = open(after.path());
    assert_eq!((recovery.uncommitted, recovery.messages.len()), (1, 0));
    assert!(files_in(after.path(), "incoming").is_empty());
}

#[tokio::test]
async fn incoming_dropped_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    for content in [SMALL.to_vec(), large()] {
        let mut incoming = spool.incoming().unwrap();
        incoming.append(&content).await.unwrap();
    }
    drop(spool);
    // The workers finish what is in their line, then the lock is free.
    while Spool::open(dir.path(), options()).is_err() {
        tokio::task::yield_now().await;
    }
    assert!(files_in(dir.path(), "incoming").is_empty());
    assert!(files_in(dir.path(), "queue").is_empty());
}

#[tokio::test]
async fn committed_survives() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    for content in [Vec::new(), SMALL.to_vec(), large()] {
        let message = send(&spool, &content, envelope(&["a@x", "b@x"]))
            .await
            .unwrap();
        assert_eq!(content_of(&message), content);
        assert_eq!(message.envelope.size, content.len() as u64);

        let after = crash(dir.path());
        let (again, recovery) = open(after.path());
        assert_eq!(ids(&recovery), [message.id]);
        let loaded = again.load(message.id).await.unwrap();
        assert_eq!(loaded.envelope, message.envelope);
        assert_eq!(content_of(&loaded), content);
        spool.remove(message.id).await.unwrap();
    }
}

#[tokio::test]
async fn finished_is_gone() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let message = send(&spool, SMALL, envelope(&["a@x"])).await.unwrap();
    spool.remove(message.id).await.unwrap();
    let (_, recovery) = open(crash(dir.path()).path());
    assert_eq!(recovery, Recovery::default());
    let again = spool.remove(message.id).await;
    assert!(matches!(again, Err(QueueError::NotFound(_))));
}

#[tokio::test]
async fn killed_between_the_last_recipient_and_removal() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let message = send(&spool, SMALL, envelope(&["a@x"])).await.unwrap();
    let sent = Update {
        recipients: vec![(0, RecipientState::Sent)],
        ..Update::default()
    };
    spool.update(message.id, sent).await.unwrap();
    let (_, recovery) = open(crash(dir.path()).path());
    assert_eq!((recovery.finished, recovery.messages.len()), (1, 0));
}

#[tokio::test]
async fn deferred_keeps_its_finished_recipients() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let message = send(&spool, SMALL, envelope(&["a@x", "b@x"]))
        .await
        .unwrap();
    let later = arrival() + std::time::Duration::from_secs(300);
    let deferred = RecipientState::Deferred {
        dsn: "4.4.1".into(),
        text: "down".into(),
        at: arrival(),
    };
    let update = Update {
        recipients: vec![(0, RecipientState::Sent), (1, deferred.clone())],
        attempts: Some(1),
        next_attempt: Some(later),
        ..Update::default()
    };
    spool.update(message.id, update).await.unwrap();

    let after = crash(dir.path());
    let (again, recovery) = open(after.path());
    assert_eq!(recovery.messages[0].next_attempt, Some(later));
    let loaded = again.load(message.id).await.unwrap();
    assert_eq!(loaded.envelope.unfinished().collect::<Vec<_>>(), [1]);
    assert_eq!(loaded.envelope.recipients[1].state, deferred);
    assert_eq!(content_of(&loaded), SMALL);
    again.remove(message.id).await.unwrap();
    assert!(again.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn hold_release_and_requeue_survive() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let mut held = envelope(&["a@x"]);
    held.hold = true;
    let message = send(&spool, SMALL, held).await.unwrap();
    let is_held = || open(crash(dir.path()).path()).1.messages[0].hold;
    assert!(is_held());
    spool.release(message.id).await.unwrap();
    assert!(!is_held());
    spool.hold(message.id).await.unwrap();
    assert!(is_held());
    spool.requeue(message.id).await.unwrap();
    assert!(!is_held());
    assert!(!spool.list().await.unwrap()[0].envelope.hold);
}

#[tokio::test]
async fn deleted_is_gone() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let message = send(&spool, &large(), envelope(&["a@x"])).await.unwrap();
    spool.delete(message.id).await.unwrap();
    assert_eq!(open(crash(dir.path()).path()).1, Recovery::default());
    assert!(message.content.reader().is_err());
}

#[tokio::test]
async fn damaged_is_set_aside_when_it_is_loaded() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let message = send(&spool, SMALL, envelope(&["a@x"])).await.unwrap();
    let path = spool.reader().message_path(message.id);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let loaded = spool.load(message.id).await;
    assert!(
        matches!(loaded, Err(QueueError::Corrupt { .. })),
        "{loaded:?}"
    );
    assert_eq!(
        spool.reader().set_aside().unwrap(),
        [message.id.to_string()]
    );
    assert!(spool.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_server_owns_the_spool() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let second = Spool::open(dir.path(), options());
    assert!(matches!(second, Err(QueueError::Locked { .. })));
    drop(spool);
}

/// Messages that arrive together, some of which finish, defer or wait when the server is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commits() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let tasks: Vec<_> = (0..60_usize)
        .map(|number| {
            let spool = spool.clone();
            tokio::spawn(async move {
                let content = format!("Subject: {number}\n\n").repeat(1 + number);
                let message = send(&spool, content.as_bytes(), envelope(&["a@x", "b@x"]))
                    .await
                    .unwrap();
                match number % 3 {
                    0 => spool.remove(message.id).await.unwrap(),
                    1 => {
                        let update = Update {
                            recipients: vec![(1, RecipientState::Sent)],
                            ..Update::default()
                        };
                        spool.update(message.id, update).await.unwrap();
                    }
                    _ => {}
                }
                (number, message.id, content)
            })
        })
        .collect();
    let mut expected = Vec::new();
    for task in tasks {
        expected.push(task.await.unwrap());
    }
    expected.retain(|(number, ..)| number % 3 != 0);
    for dir in [crash(dir.path()), crash(dir.path())] {
        let (again, recovery) = open(dir.path());
        let mut kept = ids(&recovery);
        kept.sort();
        let mut wanted: Vec<_> = expected.iter().map(|(_, id, _)| *id).collect();
        wanted.sort();
        assert_eq!(kept, wanted);
        for (number, id, content) in &expected {
            let loaded = again.load(*id).await.unwrap();
            assert_eq!(content_of(&loaded), content.as_bytes());
            let unfinished = if number % 3 == 1 { 1 } else { 2 };
            assert_eq!(loaded.envelope.unfinished().count(), unfinished, "{number}");
        }
        assert_eq!(again.list().await.unwrap().len(), expected.len());
    }
    assert_eq!(spool.list().await.unwrap().len(), expected.len());
    for (_, id, content) in &expected {
        assert_eq!(
            content_of(&spool.load(*id).await.unwrap()),
            content.as_bytes()
        );
        spool.delete(*id).await.unwrap();
    }
    assert!(files_in(dir.path(), "queue").is_empty());
}

/// A message that another one was forwarded as counts when that one has recorded it, or is gone.
#[tokio::test]
async fn forwarded_counts_when_it_is_recorded() {
    for (recorded, removed, withdrawn) in [(false, false, 1), (true, false, 0), (false, true, 0)] {
        let dir = TempDir::new().unwrap();
        let (spool, _) = open(dir.path());
        let parent = send(&spool, SMALL, envelope(&["a@x", "b@x"]))
            .await
            .unwrap();
        let child = Envelope {
            forwarded_from: Some(parent.id.to_string()),
            ..envelope(&["c@y"])
        };
        let child = send(&spool, SMALL, child).await.unwrap();
        if recorded {
            let update = Update {
                recipients: vec![(0, RecipientState::Sent)],
                attributes: [Envelope::forwarded_as(&child.id.to_string())].into(),
                ..Update::default()
            };
            spool.update(parent.id, update).await.unwrap();
        }
        if removed {
            spool.remove(parent.id).await.unwrap();
        }
        let after = crash(dir.path());
        let (_, recovery) = open(after.path());
        let mut expected = vec![parent.id, child.id];
        if withdrawn == 1 {
            expected.retain(|id| *id != child.id);
        }
        if removed {
            expected.retain(|id| *id != parent.id);
        }
        assert_eq!((ids(&recovery), recovery.withdrawn), (expected, withdrawn));
    }
}
