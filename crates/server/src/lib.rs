//! The running server: listeners, the loop that joins an SMTP session's questions to the answers
//! of the crates below, the delivery of what is in the queue, reload, and the log.
//!
//! | module | holds |
//! |---|---|
//! | `generation` | one state of the configuration, complete: routers, policies, agents |
//! | `remarks` | what the log says of services at the start |
//! | `limits` | how much happens at once |
//! | `listen` | sockets of the `inet … smtpd` services in master.cf |
//! | `session` | one connection: socket, state machine, questions |
//! | `stream` | the client's connection, in the clear or encrypted |
//! | `tls` | certificates, the handshake, what is known of an encrypted connection |
//! | `sasl` | AUTH: mechanisms, Dovecot's protocol |
//! | `secure` | how a session uses these two |
//! | `transaction` | one message on its way in: the answers, and the envelope that grows from them |
//! | `headers` | what cleanup(8) does to a message's header on the way in |
//! | `milter` | milters in a session: when they are asked, what they are told |
//! | `scheduler` | when what is tried, and by whom |
//! | `attempt` | one attempt to deliver one message |
//! | `control` | requests of postsuper and postqueue |
//! | `spawn` | services that run a command for each connection |
//! | `reload` | changed files |
//! | [`table_server`] | tables for a real Postfix, over socketmap |
//! | `log` | Postfix's log format |
//!
//! Entry points: [`run`], [`table_server::run`].

mod attempt;
mod audit;
mod control;
mod footer;
mod forward;
mod generation;
mod headers;
mod limits;
mod listen;
pub mod log;
mod milter;
mod peer_name;
mod rates;
mod reload;
mod remarks;
mod reports;
mod sasl;
mod scheduler;
mod secure;
mod session;
mod spawn;
mod stream;
pub mod table_server;
mod tls;
mod told;
mod transaction;

pub use generation::{Generation, Problem, own_addresses};
pub use listen::ListenError;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::Environment;
use tokio::sync::watch;

use crate::generation::Current;
use crate::scheduler::Scheduler;

/// Why the server does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{}", list(.0))]
    Configuration(Vec<Problem>),
    #[error(transparent)]
    Queue(#[from] queue::QueueError),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// What stops the server: `true` is sent once.
pub type Shutdown = watch::Receiver<bool>;

/// How a server is run.
pub struct Options {
    /// The folder of main.cf and master.cf.
    pub config_dir: PathBuf,
    pub environment: Environment,
    /// Told the addresses once the server listens.
    pub on_ready: Option<Box<dyn FnOnce(Vec<std::net::SocketAddr>) + Send>>,
}

/// Runs the mail server until `shutdown`; then running transactions and deliveries may finish
/// within `postroom_shutdown_timeout`. A message on `reload` reads the configuration anew.
pub async fn run(
    options: Options,
    shutdown: Shutdown,
    reload: watch::Receiver<u64>,
) -> Result<(), ServerError> {
    let generation = Generation::read(&options.config_dir, &options.environment)
        .map_err(ServerError::Configuration)?;
    generation.report(None);
    let spool_settings = generation.spool.clone();
    let (spool, recovery) = queue::Spool::open(&spool_settings.directory, spool_settings.options)?;
    let grace = generation.shutdown_timeout;
    let current = Arc::new(Current::new(generation));
    let scheduler = Scheduler::start(spool.clone(), Arc::clone(&current), shutdown.clone());
    scheduler.recover(recovery);
    let control = control::serve(&spool_settings.directory, spool.clone(), scheduler.clone());
    let shared = Arc::new(session::Shared {
        current: Arc::clone(&current),
        spool,
        scheduler: scheduler.clone(),
        rates: Arc::default(),
        names: peer_name::Names::default(),
        shutdown: shutdown.clone(),
    });
    let mut listeners = listen::Listeners::new(Arc::clone(&shared));
    let bound = listeners.bind(&current.get())?;
    tracing::info!(
        prog = "master",
        "daemon started -- version {}, configuration {}",
        env!("CARGO_PKG_VERSION"),
        options.config_dir.display()
    );
    if let Some(on_ready) = options.on_ready {
        on_ready(bound);
    }
    let watcher = reload::Watcher::new(options.config_dir, options.environment, current);
    watcher.run(&mut listeners, reload, shutdown).await;
    stop(listeners, scheduler, control, grace).await;
    Ok(())
}

/// The orderly end: no new connections, time for the running transactions, then for deliveries.
async fn stop(
    listeners: listen::Listeners,
    scheduler: Scheduler,
    control: Option<tokio::task::JoinHandle<()>>,
    grace: Duration,
) {
    if let Some(control) = control {
        control.abort();
    }
    let deadline = tokio::time::Instant::now() + grace;
    let drain = async {
        listeners.finish().await;
        scheduler.finish().await;
    };
    if tokio::time::timeout_at(deadline, drain).await.is_err() {
        tracing::warn!(
            prog = "master",
            "gave up waiting for running transactions after {} s (postroom_shutdown_timeout)",
            grace.as_secs()
        );
    }
    tracing::info!(prog = "master", "terminating");
}
