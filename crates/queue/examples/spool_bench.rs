//! Accepts and finishes messages in each candidate for the spool's store, and prints what that costs.
//!
//! `cargo run --release -p postroom-queue --features bench --example spool_bench [-- FOLDER [MESSAGES [PART OF A NAME]]]`
//!
//! A session commits a message (durable), then removes it, and begins again. docs/decisions/0001-spool-store.md
//! has the figures that decided.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use nix::fcntl::AtFlags;
use nix::sys::resource::{UsageWho, getrusage};
use postroom_queue::{Envelope, Options, Recipient, Spool};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "/tmp/spool-bench".into()));
    let messages: usize = args.next().map_or(Ok(4000), |text| text.parse())?;
    let only = args.next().unwrap_or_default();
    println!(
        "{:<28}{:>8}{:>10}{:>12}{:>10}",
        "store", "KiB", "sessions", "messages/s", "CPU µs"
    );
    for size in [2048, 100 * 1024] {
        let count = if size > 10_000 {
            messages / 4
        } else {
            messages
        };
        for sessions in [1, 10, 50] {
            let run = Run {
                folder: &folder,
                size,
                sessions,
                count,
                only: &only,
            };
            run.files("file, in place", Naming::InPlace)?;
            run.files("file, in place, no dir sync", Naming::InPlaceUnsynced)?;
            run.files("file, rename", Naming::Rename)?;
            run.files("file, O_TMPFILE + link", Naming::Link)?;
            run.fjall("fjall, values inside", false)?;
            run.fjall("fjall, values separated", true)?;
            run.spawn_blocking("file, in place, tokio pool")?;
            for threads in [2, 4, 8, 16] {
                run.spool(&format!("Spool, {threads} threads"), threads)?;
            }
        }
    }
    Ok(())
}

/// One measurement: so many messages of a size through so many sessions.
struct Run<'a> {
    folder: &'a Path,
    size: usize,
    sessions: usize,
    count: usize,
    only: &'a str,
}

impl Run<'_> {
    fn fresh(&self) -> Result<(), Failure> {
        if self.folder.exists() {
            fs::remove_dir_all(self.folder)?;
        }
        fs::create_dir_all(self.folder.join("incoming"))?;
        fs::create_dir_all(self.folder.join("queue"))?;
        Ok(())
    }

    fn report(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if !name.contains(self.only) {
            return Ok(());
        }
        let (cpu, start) = (cpu_time(), Instant::now());
        work()?;
        let (cpu, wall) = (cpu_time() - cpu, start.elapsed());
        println!(
            "{name:<28}{:>8}{:>10}{:>12.0}{:>10.1}",
            self.size / 1024,
            self.sessions,
            self.count as f64 / wall.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / self.count as f64
        );
        Ok(())
    }

    /// Every session is a thread that does its own file work.
    fn threads(
        &self,
        name: &str,
        message: impl Fn(u64) -> Result<(), Failure> + Sync,
    ) -> Result<(), Failure> {
        self.report(name, || {
            let taken = AtomicUsize::new(0);
            thread::scope(|scope| {
                let session = || -> Result<(), Failure> {
                    loop {
                        let number = taken.fetch_add(1, Ordering::Relaxed);
                        if number >= self.count {
                            return Ok(());
                        }
                        message(number as u64)?;
                    }
                };
                let all: Vec<_> = (0..self.sessions).map(|_| scope.spawn(session)).collect();
                all.into_iter()
                    .try_for_each(|one| one.join().map_err(|_| "a session panicked")?)
            })
        })
    }

    fn files(&self, name: &str, naming: Naming) -> Result<(), Failure> {
        self.fresh()?;
        let store = Files::new(self.folder, naming)?;
        let content = vec![b'x'; self.size];
        self.threads(name, |number| store.message(number, &content))
    }

    fn fjall(&self, name: &str, separate: bool) -> Result<(), Failure> {
        self.fresh()?;
        let database = Database::builder(self.folder.join("fjall")).open()?;
        let separation = separate.then(KvSeparationOptions::default);
        let options = KeyspaceCreateOptions::default().with_kv_separation(separation);
        let keyspace = database.keyspace("messages", || options)?;
        let content = Arc::new(vec![b'x'; self.size]);
        thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            scope.spawn(|| write_batches(&database, &keyspace, receive));
            let result = self.threads(name, |number| {
                ask(&send, number, Some(Arc::clone(&content)))?;
                ask(&send, number, None)
            });
            drop(send);
            result
        })
    }

    fn spawn_blocking(&self, name: &str) -> Result<(), Failure> {
        self.fresh()?;
        let store = Arc::new(Files::new(self.folder, Naming::InPlace)?);
        let content = Arc::new(vec![b'x'; self.size]);
        self.asynchronous(name, 32, async |number| {
            let (store, content) = (Arc::clone(&store), Arc::clone(&content));
            let again = Arc::clone(&store);
            tokio::task::spawn_blocking(move || store.accept(number, &content)).await??;
            tokio::task::spawn_blocking(move || again.finish(number)).await?
        })
    }

    fn spool(&self, name: &str, threads: usize) -> Result<(), Failure> {
        self.fresh()?;
        let options = Options {
            threads,
            ..Options::default()
        };
        let (spool, _) = Spool::open(self.folder, options)?;
        let content = vec![b'x'; self.size];
        self.asynchronous(name, 1, async |_| {
            let mut incoming = spool.incoming()?;
            incoming.append(&content).await?;
            let recipients = vec![Recipient::new("john@example.org", "info@example.org")];
            let envelope = Envelope::new("sender@example.com", recipients, SystemTime::now());
            let message = spool.commit(incoming, envelope).await?;
            Ok(spool.remove(message.id).await?)
        })
    }

    /// Every session is a future; two threads poll them, as in the server.
    fn asynchronous(
        &self,
        name: &str,
        blocking: usize,
        message: impl AsyncFn(u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(blocking)
            .enable_all()
            .build()?;
        self.report(name, || {
            let taken = AtomicU64::new(0);
            let session = async || -> Result<(), Failure> {
                loop {
                    let number = taken.fetch_add(1, Ordering::Relaxed);
                    if number >= self.count as u64 {
                        return Ok(());
                    }
                    message(number).await?;
                }
            };
            runtime.block_on(async {
                let all = (0..self.sessions).map(|_| Box::pin(session()));
                join_all(all.collect()).await
            })
        })
    }
}

/// Polls all futures in one task until they are done.
async fn join_all<F: Future<Output = Result<(), Failure>>>(
    mut futures: Vec<std::pin::Pin<Box<F>>>,
) -> Result<(), Failure> {
    std::future::poll_fn(move |context| {
        let mut failed = None;
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(Ok(())) => false,
            std::task::Poll::Ready(Err(error)) => {
                failed = Some(error);
                false
            }
        });
        match failed {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if futures.is_empty() => std::task::Poll::Ready(Ok(())),
            None => std::task::Poll::Pending,
        }
    })
    .await
}

fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the call has no bad arguments");
    let of = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000)
    };
    of(usage.user_time()) + of(usage.system_time())
}

/// How a file of its own gets its name.
#[derive(Clone, Copy, PartialEq)]
enum Naming {
    InPlace,
    InPlaceUnsynced,
    Rename,
    Link,
}

/// A file per message.
struct Files {
    root: PathBuf,
    naming: Naming,
    folder: File,
    sync: Mutex<(bool, u64, u64)>,
    synced: Condvar,
}

impl Files {
    fn new(root: &Path, naming: Naming) -> Result<Files, Failure> {
        Ok(Files {
            root: root.to_owned(),
            naming,
            folder: File::open(root.join("queue"))?,
            sync: Mutex::default(),
            synced: Condvar::new(),
        })
    }

    fn message(&self, number: u64, content: &[u8]) -> Result<(), Failure> {
        self.accept(number, content)?;
        self.finish(number)
    }

    fn name(&self, number: u64) -> PathBuf {
        self.root.join("queue").join(format!("{number:012X}"))
    }

    fn accept(&self, number: u64, content: &[u8]) -> Result<(), Failure> {
        let name = self.name(number);
        let new = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
        match self.naming {
            Naming::InPlace | Naming::InPlaceUnsynced => {
                let mut file = new(&name)?;
                file.write_all(content)?;
                file.sync_data()?;
            }
            Naming::Rename => {
                let temporary = self.root.join("incoming").join(format!("{number:012X}"));
                let mut file = new(&temporary)?;
                file.write_all(content)?;
                file.sync_data()?;
                fs::rename(temporary, name)?;
            }
            Naming::Link => {
                let mut file = OpenOptions::new()
                    .write(true)
                    .custom_flags(nix::libc::O_TMPFILE)
                    .open(self.root.join("queue"))?;
                file.write_all(content)?;
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                nix::unistd::linkat(
                    nix::fcntl::AT_FDCWD,
                    path.as_str(),
                    nix::fcntl::AT_FDCWD,
                    &name,
                    AtFlags::AT_SYMLINK_FOLLOW,
                )?;
                file.sync_data()?;
            }
        }
        if self.naming != Naming::InPlaceUnsynced {
            self.sync_folder()?;
        }
        Ok(())
    }

    fn finish(&self, number: u64) -> Result<(), Failure> {
        Ok(fs::remove_file(self.name(number))?)
    }

    /// Shared by all who arrive before it begins.
    fn sync_folder(&self) -> Result<(), Failure> {
        let mut state = self.sync.lock().map_err(|_| "poisoned")?;
        let wanted = state.1;
        while state.2 <= wanted {
            if state.0 {
                state = self.synced.wait(state).map_err(|_| "poisoned")?;
                continue;
            }
            let number = state.1;
            *state = (true, number + 1, state.2);
            drop(state);
            self.folder.sync_all()?;
            state = self.sync.lock().map_err(|_| "poisoned")?;
            *state = (false, state.1, number + 1);
            self.synced.notify_all();
        }
        Ok(())
    }
}

/// A change for the log-structured store, and where to say that it is done.
struct Change {
    key: u64,
    value: Option<Arc<Vec<u8>>>,
    done: mpsc::SyncSender<()>,
}

fn ask(to: &mpsc::Sender<Change>, key: u64, value: Option<Arc<Vec<u8>>>) -> Result<(), Failure> {
    let (done, wait) = mpsc::sync_channel(1);
    let change = Change { key, value, done };
    to.send(change).map_err(|_| "the writer stopped")?;
    Ok(wait.recv()?)
}

/// Group commit: all changes that wait go into one batch with one fdatasync; removals alone need none.
fn write_batches(
    database: &Database,
    keyspace: &Keyspace,
    changes: mpsc::Receiver<Change>,
) -> Result<(), Failure> {
    while let Ok(first) = changes.recv() {
        let mut waiting = vec![first];
        waiting.extend(changes.try_iter().take(255));
        let durable = waiting.iter().any(|change| change.value.is_some());
        let mode = if durable {
            PersistMode::SyncData
        } else {
            PersistMode::Buffer
        };
        let mut batch = database.batch().durability(Some(mode));
        for change in &waiting {
            match &change.value {
                Some(value) => batch.insert(keyspace, change.key.to_be_bytes(), value.as_slice()),
                None => batch.remove(keyspace, change.key.to_be_bytes()),
            }
        }
        batch.commit()?;
        for change in waiting {
            // The session waits for this.
            let _ = change.done.send(());
        }
    }
    Ok(())
}
