//! `cargo xtask bench smtp`: Postfix and Postroom in turn, never at once, with the same configuration, the same
//! MariaDB and the same Dovecot, fsync on in both. Rounds are interleaved; medians and ratios are printed.

mod lookups;
mod report;
mod rig;
mod scenario;
pub mod tables;

use std::process::ExitCode;
use std::time::Duration;

use crate::options::{self, Options, Server};
use lookups::LOOKUPS;
use rig::Rig;
use scenario::{IDLE, SCENARIOS};

const HELP: &str = "usage: cargo xtask bench smtp [OPTION VALUE]…
  --seconds N         length of the load of one run (default 4)
  --rounds N          rounds over all scenarios and servers (default 3)
  --only TEXT         only scenarios whose name contains TEXT
  --servers LIST      postfix,postroom (default both)
  --postroom PATH     the binary (default: a release build of this workspace)
  --config LINE       a further main.cf line for both servers";

/// What one run of one scenario showed.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Messages answered 250, or refused where that is wanted, a second.
    pub accepted: f64,
    /// Copies that reached mailboxes (an alias of five makes five), a second, until the last one had; 0 for refusals.
    pub delivered: f64,
    /// Milliseconds of CPU a message.
    pub server_cpu: f64,
    pub mariadb_cpu: f64,
    pub dovecot_cpu: f64,
    pub client_cpu: f64,
    /// SQL statements a message.
    pub queries: f64,
    /// The largest number of database connections.
    pub connections: f64,
    pub processes: f64,
    /// Megabytes (PSS).
    pub memory: f64,
    /// Messages that were answered otherwise than expected, or lost connections.
    pub wrong: f64,
    /// Answered 250 and not delivered in time.
    pub missing: f64,
}

/// All runs: scenario, server, samples of the rounds.
pub type Results = Vec<(String, Server, Vec<Sample>)>;

pub fn run(words: &[&str]) -> Result<ExitCode, String> {
    let known = ["seconds", "rounds", "only", "servers", "postroom", "config"];
    let options = Options::parse(words, &known, HELP)?;
    let duration = Duration::from_secs_f64(options.number("seconds", 4.0)?);
    let rounds: usize = options.number("rounds", 3)?;
    let servers = Server::list(options.get("servers").unwrap_or("postfix,postroom"))?;
    let only = options.get("only").unwrap_or("");
    let binary = match servers.contains(&Server::Postroom) {
        true => options::postroom(&options)?,
        false => Default::default(),
    };
    let rig = Rig::start(binary, options.get("config").unwrap_or(""));
    let mut results: Results = Vec::new();
    for round in 0..rounds {
        for scenario in SCENARIOS
            .iter()
            .filter(|scenario| scenario.name.contains(only))
        {
            // The order changes, so that neither always profits from what the other left warm.
            let mut order = servers.clone();
            if round % 2 == 1 {
                order.reverse();
            }
            for server in order {
                let sample = rig.measure(server, scenario, duration);
                eprintln!(
                    "round {} {:9} {:28} {}",
                    round + 1,
                    server.name(),
                    scenario.name,
                    report::line(&sample)
                );
                report::add(&mut results, scenario.name, server, sample);
            }
        }
    }
    for _ in 0..rounds {
        for (name, processes) in LOOKUPS.iter().filter(|(name, _)| name.contains(only)) {
            for server in &servers {
                let sample = lookups::measure(&rig, *server, *processes);
                eprintln!(
                    "        {:9} {name:28} {}",
                    server.name(),
                    report::line(&sample)
                );
                report::add(&mut results, name, *server, sample);
            }
        }
    }
    for server in servers.iter().filter(|_| IDLE.contains(only)) {
        let sample = rig.idle_sessions(*server, 1000);
        eprintln!(
            "        {:9} {IDLE:28} {}",
            server.name(),
            report::line(&sample)
        );
        report::add(&mut results, IDLE, *server, sample);
    }
    print!("{}", report::table(&results));
    Ok(ExitCode::SUCCESS)
}
