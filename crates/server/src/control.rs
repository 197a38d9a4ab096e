//! The control socket: postsuper and postqueue ask the running server.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use queue::Spool;
use queue::control::{LINE_LIMIT, Request, Response, apply, socket_path};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::scheduler::Scheduler;

/// Listens until the task is aborted. Without the socket mail flows all the same, so a failure is
/// logged and no more.
pub(crate) fn serve(
    queue_directory: &Path,
    spool: Spool,
    scheduler: Scheduler,
) -> Option<JoinHandle<()>> {
    let path = socket_path(queue_directory);
    let listener = match open(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                prog = "master",
                "cannot listen on {}: {error}; postsuper and postqueue will not reach this server",
                path.display()
            );
            return None;
        }
    };
    Some(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (spool, scheduler) = (spool.clone(), scheduler.clone());
            tokio::spawn(async move {
                if let Err(error) = answer(stream, &spool, &scheduler).await {
                    tracing::warn!(prog = "master", "control request: {error}");
                }
            });
        }
    }))
}

fn open(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Whoever may change the queue may ask: root and the owner.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(stream: UnixStream, spool: &Spool, scheduler: &Scheduler) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LINE_LIMIT))
        .read_line(&mut line)
        .await?;
    let response = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            let response = apply(spool, &request).await;
            if let Response::Done { changed } = &response {
                scheduler.changed(&request, changed);
            }
            response
        }
        Err(error) => Response::Failed {
            message: format!("not a request: {error}"),
        },
    };
    let mut reply = serde_json::to_vec(&response).map_err(io::Error::other)?;
    reply.push(b'\n');
    write.write_all(&reply).await
}
