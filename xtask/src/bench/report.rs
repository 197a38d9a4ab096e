//! Medians, ratios and the table.

use std::fmt::Write;

use super::scenario::TARGETS;
use super::{Results, Sample};
use crate::options::Server;

type Figure = (&'static str, fn(&Sample) -> f64);

const FIGURES: &[Figure] = &[
    ("accepted/s", |sample| sample.accepted),
    ("delivered/s", |sample| sample.delivered),
    ("server CPU ms", |sample| sample.server_cpu),
    ("MariaDB CPU ms", |sample| sample.mariadb_cpu),
    ("Dovecot CPU ms", |sample| sample.dovecot_cpu),
    ("client CPU ms", |sample| sample.client_cpu),
    ("SQL a message", |sample| sample.queries),
    ("SQL connections", |sample| sample.connections),
    ("processes", |sample| sample.processes),
    ("memory MB", |sample| sample.memory),
    ("wrong answers", |sample| sample.wrong),
    ("not delivered", |sample| sample.missing),
];

pub fn add(results: &mut Results, scenario: &str, server: Server, sample: Sample) {
    match results
        .iter_mut()
        .find(|row| row.0 == scenario && row.1 == server)
    {
        Some(row) => row.2.push(sample),
        None => results.push((scenario.to_owned(), server, vec![sample])),
    }
}

/// A run in one line.
pub fn line(sample: &Sample) -> String {
    let figures = FIGURES.iter().filter(|(_, get)| get(sample) != 0.0);
    let figures: Vec<String> = figures
        .map(|(name, get)| format!("{name} {}", number(get(sample))))
        .collect();
    figures.join(", ")
}

/// Every figure of every scenario: Postfix, Postroom, their ratio, the target.
pub fn table(results: &Results) -> String {
    let mut text = format!(
        "\n{:28} {:16} {:>10} {:>10} {:>8}  {}\n",
        "scenario (medians)", "figure", "postfix", "postroom", "ratio", "target"
    );
    let mut seen: Vec<&str> = Vec::new();
    for (scenario, _, _) in results {
        if seen.contains(&scenario.as_str()) {
            continue;
        }
        seen.push(scenario);
        for (name, get) in FIGURES {
            row(&mut text, results, scenario, name, *get);
        }
    }
    text
}

fn row(text: &mut String, results: &Results, scenario: &str, name: &str, get: fn(&Sample) -> f64) {
    let of = |server: Server| {
        let row = results
            .iter()
            .find(|row| row.0 == scenario && row.1 == server)?;
        Some(median(row.2.iter().map(get).collect()))
    };
    let (postfix, postroom) = (of(Server::Postfix), of(Server::Postroom));
    if postfix.unwrap_or(0.0) == 0.0 && postroom.unwrap_or(0.0) == 0.0 {
        return;
    }
    let name = match (scenario.split([',', ' ']).next(), name) {
        (Some("refused"), "accepted/s") => "refused/s",
        (Some("postmap"), "accepted/s") => "keys/s",
        _ => name,
    };
    let ratio = match (postfix, postroom) {
        (Some(postfix), Some(postroom)) if postfix != 0.0 => format!("{:.2}", postroom / postfix),
        _ => String::new(),
    };
    let show = |value: Option<f64>| value.map_or(String::new(), number);
    let target = TARGETS
        .iter()
        .find(|target| target.0 == scenario && target.1 == name);
    let target = target.map_or("", |target| target.2);
    let line = format!(
        "{scenario:28} {name:16} {:>10} {:>10} {ratio:>8}  {target}",
        show(postfix),
        show(postroom)
    );
    let _ = writeln!(text, "{}", line.trim_end());
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
    }

    #[test]
    fn the_table_shows_the_ratio_beside_the_target() {
        let mut results = Results::new();
        let sample = |delivered| Sample {
            delivered,
            ..Default::default()
        };
        add(
            &mut results,
            "maildir, 10 sessions",
            Server::Postfix,
            sample(300.0),
        );
        add(
            &mut results,
            "maildir, 10 sessions",
            Server::Postroom,
            sample(2400.0),
        );
        let table = table(&results);
        let line = table.lines().last().unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[3..], ["delivered/s", "300", "2400", "8.00", "8", "x"]);
    }
}
