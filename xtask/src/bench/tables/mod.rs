//! `cargo xtask bench tables`: lookups over one MariaDB and one SQLite file, by Postfix's postmap and ours, and by a
//! real Postfix through its own proxymap and through our table server. Rounds are interleaved; medians and ratios
//! are printed beside the targets.

mod report;
mod ways;

use std::process::ExitCode;

use crate::options::{self, Options};
use ways::{Rig, SCENARIOS, Way};

const HELP: &str = "usage: cargo xtask bench tables [OPTION VALUE]…
  --rounds N          rounds over all scenarios (default 5)
  --only TEXT         only scenarios whose name contains TEXT
  --lookups N         lookups before the last look at the table server's memory; 0: none (default 1000000)
  --postroom PATH     the binary (default: a release build of this workspace)";

/// What one run showed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Keys a second.
    pub rate: f64,
    /// Microseconds of CPU a key: of the clients and what stands between them and the database; of MariaDB.
    pub cpu: f64,
    pub mariadb: f64,
    /// Keys that should have been found and were not, or the other way round.
    pub wrong: f64,
}

/// The samples of one way in one scenario.
pub struct Row {
    pub scenario: &'static str,
    pub way: Way,
    pub samples: Vec<Sample>,
}

pub fn run(words: &[&str]) -> Result<ExitCode, String> {
    let known = ["rounds", "only", "lookups", "postroom"];
    let options = Options::parse(words, &known, HELP)?;
    let rounds: usize = options.number("rounds", 5)?;
    let lookups: usize = options.number("lookups", 1_000_000)?;
    let only = options.get("only").unwrap_or("");
    let rig = Rig::start(options::postroom(&options)?);
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..rounds {
        for scenario in SCENARIOS.iter().filter(|one| one.name.contains(only)) {
            // The order changes, so that none always profits from what the one before left warm.
            let count = scenario.ways.len();
            for turn in 0..count {
                let way = scenario.ways[(turn + round) % count];
                let sample = rig.measure(way, scenario);
                eprintln!(
                    "round {} {:24} {:28} {}",
                    round + 1,
                    scenario.name,
                    way.name(),
                    report::line(&sample)
                );
                report::add(&mut rows, scenario.name, way, sample);
            }
        }
    }
    print!("{}", report::table(&rows));
    if lookups > 0 && "memory".contains(only) {
        println!("\nmemory of the table server (PSS), with its cache");
        for (done, megabytes) in rig.memory(lookups) {
            println!("{done:>10} lookups  {megabytes:>6.1} MB");
        }
        println!("target: flat, under 40 MB");
    }
    let wrong = rows.iter().flat_map(|row| &row.samples);
    Ok(match wrong.map(|sample| sample.wrong).sum::<f64>() {
        0.0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
