//! Changed files: main.cf, master.cf and everything they name are watched and taken over.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::Environment;
use tokio::sync::watch;

use crate::Shutdown;
use crate::generation::{Current, Generation, Problem};
use crate::listen::Listeners;

/// How often the files' times are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches the configuration's files.
pub(crate) struct Watcher {
    config_dir: PathBuf,
    environment: Environment,
    current: Arc<Current>,
}

impl Watcher {
    pub fn new(config_dir: PathBuf, environment: Environment, current: Arc<Current>) -> Watcher {
        Watcher {
            config_dir,
            environment,
            current,
        }
    }

    /// Runs until the shutdown.
    pub async fn run(
        &self,
        listeners: &mut Listeners,
        mut reload: watch::Receiver<u64>,
        mut shutdown: Shutdown,
    ) {
        let mut changes = Changes::new(self.current.get().files());
        while changes.next(&mut reload, &mut shutdown).await {
            self.take_over(listeners);
            changes.settle(self.current.get().files());
        }
    }

    /// Reads everything anew; with any mistake, all stays as it was.
    fn take_over(&self, listeners: &mut Listeners) {
        let generation = match Generation::read(&self.config_dir, &self.environment) {
            Ok(generation) => generation,
            Err(problems) => return refuse(&problems),
        };
        let broken = self.newly_broken(&generation);
        if !broken.is_empty() {
            return refuse(&broken);
        }
        if let Err(error) = listeners.bind(&generation) {
            tracing::error!(prog = "master", "{error}; the old settings stay");
            return;
        }
        generation.report(Some(&self.current.get()));
        self.current.set(generation);
        tracing::info!(
            prog = "master",
            "reload -- configuration {}",
            self.config_dir.display()
        );
    }

    /// Tables that cannot be opened, and that are no older trouble: the server started with that, as
    /// with `nis:` in the default of alias_maps, and no change would ever be taken over.
    fn newly_broken(&self, generation: &Generation) -> Vec<Problem> {
        let broken = generation.broken_tables();
        if broken.is_empty() {
            return broken;
        }
        let known = self.current.get().broken_tables();
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        let is_new = |problem: &Problem| !known.contains(&problem.to_string());
        broken.into_iter().filter(is_new).collect()
    }
}

/// What tells one state of a file from another; `None` where there is no file.
type Stamp = Option<(SystemTime, u64)>;

/// The files of a configuration, and how they were when it was read.
pub(crate) struct Changes {
    files: Vec<PathBuf>,
    loaded: Vec<Stamp>,
    previous: Vec<Stamp>,
}

impl Changes {
    /// Files that have just been read.
    pub fn new(files: Vec<PathBuf>) -> Changes {
        let loaded = stamps(&files);
        Changes {
            previous: loaded.clone(),
            loaded,
            files,
        }
    }

    /// Waits until the configuration is to be read anew; false: until the shutdown. A change counts
    /// once the files have been quiet for one interval, so that an editor's half-written file is not
    /// read.
    pub async fn next(
        &mut self,
        reload: &mut watch::Receiver<u64>,
        shutdown: &mut Shutdown,
    ) -> bool {
        loop {
            let forced = tokio::select! {
                // Only the fact is kept: the guard would make this future one that cannot move between threads.
                () = async { drop(shutdown.wait_for(|stop| *stop).await) } => return false,
                changed = reload.changed() => {
                    if changed.is_err() {
                        // Nobody can ask any more; go on watching the files.
                        tokio::time::sleep(INTERVAL).await;
                    }
                    changed.is_ok()
                }
                () = tokio::time::sleep(INTERVAL) => false,
            };
            let now = stamps(&self.files);
            let quiet = now == self.previous;
            let changed = now != self.loaded;
            self.previous = now;
            if forced || (changed && quiet) {
                return true;
            }
        }
    }

    /// What the files are is settled, be they taken over or refused.
    pub fn settle(&mut self, files: Vec<PathBuf>) {
        *self = Changes::new(files);
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(stamp).collect()
}

fn refuse(problems: &[Problem]) {
    for problem in problems {
        tracing::error!(prog = "master", "{problem}");
    }
    tracing::error!(
        prog = "master",
        "the new configuration is not taken over; the old settings stay"
    );
}
