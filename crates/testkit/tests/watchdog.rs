//! A test process that dies leaves no server and no folder behind.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::{TempDir, process::Process, wait_for};

/// Run by the test below in a process of its own, which dies without any destructor.
#[test]
#[ignore = "is started by the_watchdog_cleans_up_after_an_abort"]
fn abort_with_a_running_server() {
    let dir = TempDir::new();
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & sleep 600"]);
    let process = Process::spawn(command, &dir.join("log"), dir.path(), Signal::SIGTERM);
    println!("\nstarted {} {}", process.id(), dir.str());
    std::process::abort();
}

#[test]
fn the_watchdog_cleans_up_after_an_abort() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--ignored",
        "--exact",
        "--nocapture",
        "abort_with_a_running_server",
    ]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("started "))
        .unwrap();
    let (group, folder) = line.split_once(' ').unwrap();
    let group = nix::unistd::Pid::from_raw(group.parse().unwrap());
    wait_for("the end of the server", Duration::from_secs(20), || {
        let gone = nix::sys::signal::killpg(group, None).is_err();
        (gone && !std::path::Path::new(folder).exists()).then_some(())
    });
}
