//! CPU time and memory of a server: all processes of its process group, and the children they have waited for.

use std::fs;

/// Clock ticks a second in /proc (USER_HZ): 100 on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// CPU seconds, user and system, that the group's living processes and their waited-for children have used.
/// A child of a child counts as soon as its parent has waited for it, so sums before and after a run compare.
pub fn cpu_seconds(group: u32) -> f64 {
    let ticks: u64 = members(group).iter().map(|member| member.ticks).sum();
    ticks as f64 / TICKS
}

/// CPU seconds of this process.
pub fn own_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    parse(&stat).map_or(0.0, |member| member.ticks as f64 / TICKS)
}

/// Number of processes and memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub processes: usize,
    /// Proportional set size, shared pages divided among their users; bytes.
    pub pss: u64,
}

/// The memory that the group uses now.
pub fn memory(group: u32) -> Memory {
    let members = members(group);
    let pss = members.iter().map(|member| pss(member.pid)).sum();
    Memory {
        processes: members.len(),
        pss,
    }
}

fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

struct Member {
    pid: u32,
    group: u32,
    ticks: u64,
}

fn members(group: u32) -> Vec<Member> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(|c: char| c.is_ascii_digit())
        })
        .filter_map(|entry| parse(&fs::read_to_string(entry.path().join("stat")).ok()?))
        .filter(|member| member.group == group)
        .collect()
}

/// A line of /proc/PID/stat, proc(5): fields 1 pid, 5 pgrp, 14 utime, 15 stime, 16 cutime, 17 cstime.
fn parse(stat: &str) -> Option<Member> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let pid = head.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // `rest` begins with field 3.
    let ticks = fields
        .get(11..15)?
        .iter()
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Some(Member {
        pid,
        group: fields.get(2)?.parse().ok()?,
        ticks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_from_behind_the_name() {
        let line = "42 (a ) b) S 1 41 41 0 -1 0 0 0 0 0 10 20 3 4 20 0 1 0 5 6 7";
        let member = parse(line).unwrap();
        assert_eq!((member.pid, member.group, member.ticks), (42, 41, 37));
    }
}
