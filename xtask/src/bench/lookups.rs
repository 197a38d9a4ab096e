//! `postmap -q -` over MariaDB: keys a second, one process and several at once.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::Sample;
use super::rig::Rig;
use crate::options::Server;

/// Name and number of processes.
pub const LOOKUPS: &[(&str, usize)] = &[("postmap, 1 process", 1), ("postmap, 8 processes", 8)];

const KEYS: usize = 20_000;

/// Each process asks for all keys, every second of them known.
pub fn measure(rig: &Rig, server: Server, processes: usize) -> Sample {
    let (folder, table) = rig.table_folder();
    let conf = folder.write("conf/main.cf", "compatibility_level = 3.6\n");
    let conf = conf.parent().expect("it lies in conf");
    let keys: Vec<String> = (0..KEYS)
        .map(|n| format!("user{}@example.org\n", n % 200))
        .collect();
    let keys_file = folder.write("keys", keys.concat());
    let postmap = || {
        let mut command = rig.tool(server, "postmap");
        command
            .arg("-c")
            .arg(conf)
            .args(["-q", "-", &table])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        command.stdin(std::fs::File::open(&keys_file).expect("it was just written"));
        command
    };
    let run = |mut command: Command| {
        std::thread::spawn(move || {
            let output = command.output().expect("postmap runs");
            output.stdout.iter().filter(|byte| **byte == b'\n').count()
        })
    };
    let begin = Instant::now();
    let threads: Vec<_> = (0..processes).map(|_| run(postmap())).collect();
    let found: usize = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or(0))
        .sum();
    Sample {
        // Half of the keys are known: a run that ends early does not count as fast.
        accepted: (2 * found) as f64 / begin.elapsed().as_secs_f64(),
        wrong: (KEYS * processes / 2).abs_diff(found) as f64,
        ..Default::default()
    }
}
