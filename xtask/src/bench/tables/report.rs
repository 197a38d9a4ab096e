//! Medians, their spread, ratios, and the targets.

use std::fmt::Write;

use super::ways::Way;
use super::{Row, Sample};
use crate::bench::report::median;

/// How many times as fast a way is to be as another one of a scenario, which need not be its own.
const TARGETS: &[(&str, Way, (&str, Way), f64)] = &[
    (
        "mysql, 1 process",
        Way::Postroom,
        ("mysql, 1 process", Way::Postfix),
        2.5,
    ),
    (
        "mysql, 1 process",
        Way::Postroom,
        ("mysql, 8 processes", Way::Postfix),
        0.8,
    ),
    (
        "sqlite, 1 process",
        Way::PostroomSqlite,
        ("sqlite, 1 process", Way::PostfixSqlite),
        2.0,
    ),
    (
        "a Postfix, 1 client",
        Way::Socketmap,
        ("a Postfix, 1 client", Way::Proxymap),
        1.3,
    ),
    (
        "a Postfix, 1 client",
        Way::SocketmapCached,
        ("a Postfix, 1 client", Way::Proxymap),
        3.0,
    ),
    (
        "a Postfix, 8 clients",
        Way::Socketmap,
        ("a Postfix, 8 clients", Way::Proxymap),
        1.3,
    ),
    (
        "a Postfix, 8 clients",
        Way::SocketmapCached,
        ("a Postfix, 8 clients", Way::Proxymap),
        3.0,
    ),
];

pub fn add(rows: &mut Vec<Row>, scenario: &'static str, way: Way, sample: Sample) {
    match rows
        .iter_mut()
        .find(|row| row.scenario == scenario && row.way == way)
    {
        Some(row) => row.samples.push(sample),
        None => rows.push(Row {
            scenario,
            way,
            samples: vec![sample],
        }),
    }
}

/// A run in one line.
pub fn line(sample: &Sample) -> String {
    let Sample {
        rate,
        cpu,
        mariadb,
        wrong,
    } = sample;
    format!("{rate:7.0} keys/s, CPU µs a key {cpu:5.1} + {mariadb:5.1} MariaDB, wrong {wrong}")
}

/// Every way of every scenario, then the ratios that have a target.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{:22} {:28} {:>9} {:>17} {:>7} {:>9} {:>6}\n",
        "scenario (medians)", "way", "keys/s", "lowest–highest", "CPU µs", "MariaDB", "wrong"
    );
    for row in rows {
        let of = |get: fn(&Sample) -> f64| -> Vec<f64> { row.samples.iter().map(get).collect() };
        let rates = of(|sample| sample.rate);
        let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = rates.iter().copied().fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "{:22} {:28} {:>9.0} {:>17} {:>7.1} {:>9.1} {:>6.0}",
            row.scenario,
            row.way.name(),
            median(rates),
            format!("{lowest:.0}–{highest:.0}"),
            median(of(|sample| sample.cpu)),
            median(of(|sample| sample.mariadb)),
            of(|sample| sample.wrong).iter().sum::<f64>(),
        );
    }
    text.push('\n');
    for (scenario, way, (other_scenario, other), target) in TARGETS {
        ratio(
            &mut text,
            rows,
            (scenario, *way),
            (other_scenario, *other),
            *target,
        );
    }
    text
}

fn ratio(text: &mut String, rows: &[Row], ours: (&str, Way), theirs: (&str, Way), target: f64) {
    let samples = |(scenario, way): (&str, Way)| {
        let mut rows = rows.iter();
        let row = rows.find(|row| row.scenario == scenario && row.way == way)?;
        Some(&row.samples)
    };
    let (Some(our), Some(their)) = (samples(ours), samples(theirs)) else {
        return;
    };
    // Round by round: what disturbs one round disturbs both.
    let each = our.iter().zip(their).map(|(a, b)| a.rate / b.rate);
    let cpu = our.iter().zip(their).map(|(a, b)| b.cpu / a.cpu);
    let _ = writeln!(
        text,
        "{}: {} to {} ({}): {:.2} x, target {target} x; by CPU {:.2} x",
        ours.0,
        ours.1.name(),
        theirs.1.name(),
        theirs.0,
        median(each.collect()),
        median(cpu.collect()),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_rounds() {
        let mut rows = Vec::new();
        let sample = |rate, cpu| Sample {
            rate,
            cpu,
            ..Default::default()
        };
        for (postfix, postroom) in [(10.0, 30.0), (100.0, 200.0), (10.0, 40.0)] {
            add(
                &mut rows,
                "mysql, 1 process",
                Way::Postfix,
                sample(postfix, 20.0),
            );
            add(
                &mut rows,
                "mysql, 1 process",
                Way::Postroom,
                sample(postroom, 10.0),
            );
        }
        let text = table(&rows);
        assert!(
            text.contains("3.00 x, target 2.5 x; by CPU 2.00 x"),
            "{text}"
        );
    }
}
