//! A full or failing disk: the operation fails as a whole, and works again once the disk does.

mod common;

use common::*;
use postroom_queue::*;
use std::io::ErrorKind;
use tempfile::TempDir;

#[tokio::test]
async fn nothing_is_half_accepted() {
    let operations = [
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::SyncFolder,
        Operation::Rename,
    ];
    for operation in operations {
        for size in [100, 50_000] {
            let dir = TempDir::new().unwrap();
            let (spool, files) = open_failing(dir.path(), options());
            let content = vec![b'x'; size];
            files.set(Some((operation, ErrorKind::StorageFull)));
            let refused = send(&spool, &content, envelope(&["a@x"])).await;
            let error = refused.map(|_| ()).unwrap_err();
            assert!(error.is_full(), "{operation:?} {size}: {error}");
            assert!(
                files_in(dir.path(), "queue").is_empty(),
                "{operation:?} {size}"
            );
            assert!(
                files_in(dir.path(), "incoming").is_empty(),
                "{operation:?} {size}"
            );
            assert!(spool.list().await.unwrap().is_empty());
            files.set(None);
            send(&spool, &content, envelope(&["a@x"])).await.unwrap();
        }
    }
}

#[tokio::test]
async fn other_errors_are_not_a_full_disk() {
    let dir = TempDir::new().unwrap();
    let (spool, files) = open_failing(dir.path(), options());
    files.set(Some((Operation::Sync, ErrorKind::Other)));
    let refused = send(&spool, b"x\n", envelope(&["a@x"])).await;
    assert!(matches!(refused, Err(QueueError::Io { .. })));
}

#[tokio::test]
async fn a_torn_update_is_taken_back() {
    let dir = TempDir::new().unwrap();
    let (spool, files) = open_failing(dir.path(), options());
    let message = send(&spool, b"x\n", envelope(&["a@x"])).await.unwrap();
    files.set(Some((Operation::Write, ErrorKind::StorageFull)));
    assert!(spool.hold(message.id).await.is_err());
    files.set(None);
    let sent = Update {
        recipients: vec![(0, RecipientState::Sent)],
        ..Update::default()
    };
    spool.update(message.id, sent).await.unwrap();
    let envelope = spool.load(message.id).await.unwrap().envelope;
    assert!(envelope.is_finished() && !envelope.hold);
}

#[tokio::test]
async fn minimal_free_space_is_kept() {
    let dir = TempDir::new().unwrap();
    let options = Options {
        min_free: 1_000_000,
        ..options()
    };
    let (spool, files) = open_failing(dir.path(), options);
    *files.free.lock().unwrap() = Some(1_500_000);
    assert!(spool.check_room(500_000).is_ok());
    assert!(
        spool
            .check_room(500_001)
            .is_err_and(|error| error.is_full())
    );
    let (spool, files) = open_failing(
        TempDir::new().unwrap().path(),
        Options {
            min_free: 1_000_000,
            ..Options::default()
        },
    );
    *files.free.lock().unwrap() = Some(999_999);
    assert!(spool.incoming().is_err_and(|error| error.is_full()));
}
