//! Files cut off at every length and with flipped bits never stop the spool, and never pass for sound.

mod common;

use common::*;
use postroom_queue::*;
use std::fs;
use tempfile::TempDir;

/// A message with one update behind it: its bytes, its id and where the update begins.
async fn sample(dir: &std::path::Path) -> (Vec<u8>, QueueId, usize) {
    let (spool, _) = open(dir);
    let message = send(&spool, b"Subject: x\n\nhello\n", envelope(&["a@x", "b@x"]))
        .await
        .unwrap();
    let path = spool.reader().message_path(message.id);
    let before = fs::read(&path).unwrap().len();
    let update = Update {
        recipients: vec![(0, RecipientState::Sent)],
        ..Update::default()
    };
    spool.update(message.id, update).await.unwrap();
    (fs::read(&path).unwrap(), message.id, before)
}

/// Opens a spool that holds just this file.
fn recover(bytes: &[u8], id: QueueId) -> (TempDir, Spool, Recovery) {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("postroom/queue");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(id.as_str()), bytes).unwrap();
    let (spool, recovery) = open(dir.path());
    (dir, spool, recovery)
}

#[tokio::test]
async fn cut_off_at_every_length() {
    let dir = TempDir::new().unwrap();
    let (bytes, id, accepted) = sample(dir.path()).await;
    for length in 0..bytes.len() {
        let (dir, spool, recovery) = recover(&bytes[..length], id);
        if length < accepted {
            assert_eq!(recovery.set_aside.len(), 1, "{length}");
            assert!(recovery.messages.is_empty(), "{length}");
            let kept = files_in(dir.path(), "corrupt");
            assert_eq!(fs::read(&kept[0]).unwrap(), &bytes[..length]);
            continue;
        }
        // The message is whole; only the update is lost.
        assert_eq!(ids(&recovery), [id], "{length}");
        assert_eq!(recovery.repaired.is_empty(), length == accepted, "{length}");
        spool.hold(id).await.unwrap();
        let envelope = spool.load(id).await.unwrap().envelope;
        assert!(
            envelope.hold && envelope.unfinished().count() == 2,
            "{length}"
        );
    }
}

#[tokio::test]
async fn every_flipped_bit_is_seen() {
    let dir = TempDir::new().unwrap();
    let (bytes, id, accepted) = sample(dir.path()).await;
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        let (_dir, _spool, recovery) = recover(&damaged, id);
        match place < accepted {
            true => assert_eq!(recovery.set_aside.len(), 1, "{place}"),
            false => assert_eq!(recovery.repaired, [id], "{place}"),
        }
    }
}

#[tokio::test]
async fn a_damaged_message_leaves_the_others_alone() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path());
    let good = send(&spool, b"good\n", envelope(&["a@x"]))
        .await
        .unwrap()
        .id;
    drop(spool);
    let folder = dir.path().join("postroom/queue");
    fs::write(folder.join("000000000001"), "").unwrap();
    fs::write(folder.join("0000000000AB"), "no message").unwrap();
    fs::write(folder.join("core.1234"), "what is this").unwrap();
    let again = crash(dir.path());
    let (spool, recovery) = open(again.path());
    assert_eq!(ids(&recovery), [good]);
    assert_eq!(recovery.set_aside.len(), 3);
    assert_eq!(spool.reader().set_aside().unwrap().len(), 3);
}

/// A batch of several messages, of which the first is done; the ids in the order of the file.
async fn sample_batch() -> (Vec<u8>, String, Vec<QueueId>) {
    loop {
        let dir = TempDir::new().unwrap();
        let (spool, _) = open(dir.path());
        let tasks: Vec<_> = (0..12)
            .map(|number| {
                let spool = spool.clone();
                let content = format!("Subject: {number}\n\nhello\n");
                tokio::spawn(async move {
                    send(&spool, content.as_bytes(), envelope(&["a@x"]))
                        .await
                        .unwrap()
                        .id
                })
            })
            .collect();
        let mut sent = Vec::new();
        for task in tasks {
            sent.push(task.await.unwrap());
        }
        let files = files_in(dir.path(), "queue");
        let own: Vec<QueueId> = files
            .iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect();
        sent.retain(|id| !own.contains(id));
        sent.sort();
        let batches: Vec<_> = files
            .iter()
            .filter(|path| path.extension().is_some())
            .collect();
        // Whether the messages meet is up to the disk; nearly always they do.
        let ([path], true) = (&batches[..], sent.len() >= 3) else {
            continue;
        };
        spool.remove(sent[0]).await.unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        return (fs::read(path).unwrap(), name, sent);
    }
}

fn recover_batch(bytes: &[u8], name: &str) -> (TempDir, Spool, Recovery) {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("postroom/queue");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
    let (spool, recovery) = open(dir.path());
    (dir, spool, recovery)
}

#[tokio::test]
async fn a_batch_comes_apart_at_recovery() {
    let (bytes, name, sent) = sample_batch().await;
    let (dir, spool, recovery) = recover_batch(&bytes, &name);
    assert_eq!(ids(&recovery), sent[1..]);
    assert!(recovery.set_aside.is_empty());
    assert_eq!(files_in(dir.path(), "queue").len(), sent.len() - 1);
    assert!(spool.load(sent[1]).await.is_ok());
    // As after a crash between the taking apart and the removal.
    fs::write(dir.path().join("postroom/queue").join(&name), &bytes).unwrap();
    spool.hold(sent[1]).await.unwrap();
    let (_, recovery) = open(crash(dir.path()).path());
    assert_eq!(ids(&recovery), sent[1..]);
    assert!(recovery.messages[0].hold);
}

#[tokio::test]
async fn damage_in_a_batch_hits_one_message() {
    let (bytes, name, sent) = sample_batch().await;
    for place in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        let (_dir, _spool, recovery) = recover_batch(&damaged, &name);
        // At worst one message is missing, and then the file is kept; damage to the finished one is no matter.
        let left = sent[1..]
            .iter()
            .filter(|id| ids(&recovery).contains(id))
            .count();
        assert!(left >= sent.len() - 2, "{place}");
        assert!(
            left == sent.len() - 1 || recovery.set_aside.len() == 1,
            "{place}"
        );
    }
}

#[tokio::test]
async fn a_batch_cut_off_keeps_its_whole_messages() {
    let (bytes, name, _) = sample_batch().await;
    let mut whole = 0;
    for length in (0..bytes.len()).step_by(97) {
        let (_dir, _spool, recovery) = recover_batch(&bytes[..length], &name);
        assert!(recovery.messages.len() >= whole, "{length}");
        whole = recovery.messages.len();
    }
}
