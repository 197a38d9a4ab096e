//! The table server, `postroom tables serve`: a real Postfix looks its tables up here over socketmap
//! or tcp_table(5), and shares our pool of database connections.
//!
//! | module | holds |
//! |---|---|
//! | `endpoint`, `socket` | where it listens |
//! | `connection` | one client: requests and replies |
//! | `catalog`, `parameters` | the names that are served, and what is under them |
//! | `plug` | what to change in main.cf so that Postfix asks here, and how to go back |
//! | `metrics`, `scrape` | counts, and their page for Prometheus |
//! | `complaints` | warnings, not more than one a second |
//!
//! Entry point: [`run`].

mod catalog;
mod complaints;
mod connection;
mod endpoint;
mod listen;
mod metrics;
mod parameters;
mod plug;
mod scrape;
mod socket;

pub use endpoint::{Endpoint, Place, Protocol};
pub use plug::{Plan, plan};

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use config::{Config, ConfigError, Environment};
use tokio::sync::watch;

use catalog::Catalog;
use complaints::Complaints;
use listen::Listeners;
use metrics::Metrics;

use crate::Shutdown;
use crate::generation::Problem;
use crate::reload::Changes;

/// Why the table server does not start.
#[derive(Debug, thiserror::Error)]
pub enum TableServerError {
    #[error("{}", crate::list(.0))]
    Configuration(Vec<Problem>),
    #[error(
        "main.cf names no table that could be served; set virtual_alias_maps and its like, or postroom_tables_NAME"
    )]
    NoTables,
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
}

impl From<ConfigError> for TableServerError {
    fn from(error: ConfigError) -> Self {
        TableServerError::Configuration(vec![Problem::from(error)])
    }
}

/// How a table server is run.
pub struct Options {
    /// The folder of main.cf.
    pub config_dir: PathBuf,
    pub environment: Environment,
    /// In place of `postroom_tables_listen`.
    pub listen: Option<String>,
    /// In place of `postroom_metrics_listen`.
    pub metrics: Option<String>,
}

/// What connections share.
pub(crate) struct Shared {
    current: RwLock<(Arc<Catalog>, Settings)>,
    pub metrics: Metrics,
    /// About lookups.
    pub complaints: Complaints,
    /// About clients, who must not be able to hide the others.
    pub refusals: Complaints,
}

/// The times by which clients and lookups are held.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub idle_timeout: Duration,
    pub lookup_timeout: Duration,
}

impl Settings {
    fn of(config: &Config) -> Result<Settings, ConfigError> {
        Ok(Settings {
            idle_timeout: config.time("postroom_tables_idle_timeout")?,
            lookup_timeout: config.time("postroom_tables_lookup_timeout")?,
        })
    }
}

impl Shared {
    fn new(catalog: Catalog, settings: Settings) -> Shared {
        Shared {
            current: RwLock::new((Arc::new(catalog), settings)),
            metrics: Metrics::default(),
            complaints: Complaints::default(),
            refusals: Complaints::default(),
        }
    }

    pub fn catalog(&self) -> Arc<Catalog> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current.0)
    }

    pub fn settings(&self) -> Settings {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .1
    }

    fn set(&self, catalog: Catalog, settings: Settings) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = (Arc::new(catalog), settings);
    }
}

/// The listeners that the options and main.cf ask for.
pub fn endpoints(config: &Config, listen: Option<&str>) -> Result<Vec<Endpoint>, ConfigError> {
    match listen {
        Some(text) => Endpoint::list(text, config),
        None => Endpoint::list(&config.string("postroom_tables_listen")?, config),
    }
}

/// Runs the table server until `shutdown`; lookups that are under way get their answer within
/// `postroom_shutdown_timeout`. A message on `reload` reads the configuration anew.
pub async fn run(
    options: Options,
    shutdown: Shutdown,
    reload: watch::Receiver<u64>,
) -> Result<(), TableServerError> {
    let config = Config::load_main(&options.config_dir, &options.environment)?;
    let catalog =
        Catalog::build(&config, &options.environment).map_err(TableServerError::Configuration)?;
    if catalog.is_empty() {
        return Err(TableServerError::NoTables);
    }
    let shared = Arc::new(Shared::new(catalog, Settings::of(&config)?));
    let mut listeners = Listeners::new(Arc::clone(&shared), shutdown.clone());
    let places = listeners.bind(&config, &options)?;
    let dir = options.config_dir.clone();
    tracing::info!(
        prog = "tables",
        "table server started -- version {}, configuration {}, {}",
        env!("CARGO_PKG_VERSION"),
        dir.display(),
        places.join(", ")
    );
    watch_files(&options, &shared, &mut listeners, reload, shutdown).await;
    let grace = shared.catalog().config().time("postroom_shutdown_timeout");
    listeners.finish(grace.unwrap_or_default()).await;
    tracing::info!(prog = "tables", "terminating");
    Ok(())
}

async fn watch_files(
    options: &Options,
    shared: &Arc<Shared>,
    listeners: &mut Listeners,
    mut reload: watch::Receiver<u64>,
    mut shutdown: Shutdown,
) {
    let mut changes = Changes::new(shared.catalog().files());
    while changes.next(&mut reload, &mut shutdown).await {
        match take_over(options, shared, listeners) {
            Ok(()) => report_reload(&options.config_dir),
            Err(error) => {
                for line in error.to_string().lines() {
                    tracing::error!(prog = "tables", "{line}");
                }
                tracing::error!(
                    prog = "tables",
                    "the new configuration is not taken over; the old tables stay"
                );
            }
        }
        changes.settle(shared.catalog().files());
    }
}

fn report_reload(config_dir: &Path) {
    tracing::info!(
        prog = "tables",
        "reload -- configuration {}",
        config_dir.display()
    );
}

/// Reads everything anew; with any mistake, all stays as it was.
fn take_over(
    options: &Options,
    shared: &Arc<Shared>,
    listeners: &mut Listeners,
) -> Result<(), TableServerError> {
    let config = Config::load_main(&options.config_dir, &options.environment)?;
    let catalog =
        Catalog::build(&config, &options.environment).map_err(TableServerError::Configuration)?;
    let broken = catalog.broken();
    if !broken.is_empty() {
        return Err(TableServerError::Configuration(broken));
    }
    if catalog.is_empty() {
        return Err(TableServerError::NoTables);
    }
    let settings = Settings::of(&config)?;
    listeners.bind(&config, options)?;
    shared.set(catalog, settings);
    Ok(())
}
