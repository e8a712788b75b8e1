//! Power-off, resets of all kinds, and what a guest that sleeps costs.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

use crate::guest::{Guest, alone, in_company, passes};

#[test]
fn power_off_ends_with_success() {
    let _turn = in_company();
    passes("reset", "by=off boots=1", &[]);
}

#[test]
fn every_reset_starts_the_guest_anew() {
    let _turn = in_company();
    for by in ["cf9", "i8042", "triple"] {
        let cmdline = format!("by={by} boots=3");
        let Some(ended) = passes("reset", &cmdline, &[]) else {
            return;
        };
        let boots = ended.output.matches("BOOT").count();
        assert_eq!(boots, 3, "{by}: {}", ended.output);
    }
}

#[test]
fn a_reset_with_four_processors() {
    let _turn = in_company();
    passes("reset", "by=cf9 boots=5", &["--cpus", "4"]);
}

#[test]
fn no_reboot_ends_with_success_at_a_reset() {
    let _turn = in_company();
    for by in ["cf9", "i8042", "triple"] {
        let cmdline = format!("by={by} boots=9");
        let Some(guest) = Guest::start("reset", &cmdline, &["--no-reboot"]) else {
            return;
        };
        let ended = guest.wait();
        assert!(ended.status.success(), "{by}: {}", ended.errors);
        assert_eq!(ended.output, "BOOT 1\nRESET\n", "{by}");
        // A triple fault is how some reset and how more crash, so it is told.
        let lines = ended.errors.lines().count();
        assert_eq!(lines, usize::from(by == "triple"), "{by}: {}", ended.errors);
        assert_eq!(ended.errors.contains("triple fault at rip"), by == "triple");
    }
}

/// User and system time of the process, the guest's included.
fn cpu_time(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    // Fields after the name, which may hold blanks: state is the first, utime the 12th.
    let rest = stat.rsplit(')').next().expect("fields");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<u64>().expect("ticks");
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Resident memory that is the process's own: not guest RAM (shared memory).
fn own_memory_kib(pid: Pid) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let figure = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let text = line.and_then(|rest| rest.split_whitespace().next());
        text.and_then(|text| text.parse().ok()).expect("a figure")
    };
    (figure("RssAnon:"), figure("RssFile:"))
}

#[test]
fn a_sleeping_guest_costs_next_to_nothing() {
    let _turn = alone();
    let Some(guest) = Guest::start("idle", "ms=4000", &[]) else {
        return;
    };
    guest.expect("SLEEP\n");
    // It is still awake for 300 ms.
    std::thread::sleep(Duration::from_millis(600));
    let before = (guest.stats_now().exits(), cpu_time(guest.pid()));
    std::thread::sleep(Duration::from_secs(2));
    let after = (guest.stats_now().exits(), cpu_time(guest.pid()));
    let (anonymous, file) = own_memory_kib(guest.pid());
    let awake = guest.heard("AWAKE");
    guest.passes();
    assert!(
        !awake,
        "too slow a machine: the guest woke before the measurement ended"
    );
    let exits = after.0 - before.0;
    let spent = after.1 - before.1;
    eprintln!("{exits} exits, {spent:?} of CPU, {anonymous} + {file} KiB");
    assert!(exits <= 50, "{exits} exits in two seconds");
    assert!(
        spent <= Duration::from_millis(60),
        "{spent:?} of CPU in two seconds"
    );
    // The program's own pages are three times as large without optimization.
    assert!(anonymous <= 6 << 10, "{anonymous} KiB of anonymous memory");
    assert!(cfg!(debug_assertions) || anonymous + file < 10 << 10);
}
