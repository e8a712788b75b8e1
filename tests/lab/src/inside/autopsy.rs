//! What the host's kernel sees of a monitor whose guest does not answer: which threads run or sleep, where,
//! and what its processors leave the guest for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// KVM's counters (Documentation/virt/kvm, `kvm_stat`) that tell a halted processor from a busy one.
const COUNTERS: [&str; 4] = ["exits", "halt_exits", "halt_wakeup", "irq_injections"];
const BETWEEN: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(200);
const LINES: usize = 60;

/// A few lines about a monitor's process.
pub fn of(pid: u32) -> String {
    let before = (threads(pid), counters());
    std::thread::sleep(BETWEEN);
    let after = (threads(pid), counters());
    let mut text = String::new();
    for ((name, ticks, wait), (_, later, _)) in before.0.iter().zip(&after.0) {
        let spent = later.saturating_sub(*ticks);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}: {spent} ticks in a second, {wait}");
    }
    for ((name, count), later) in COUNTERS.iter().zip(before.1).zip(after.1) {
        let _ = writeln!(text, "{name}: {} in a second", later.saturating_sub(count));
    }
    text + &traced()
}

/// What KVM did in a moment: where its processors are, and which interrupts they send, take and end.
fn traced() -> String {
    let tracing = Path::new("/sys/kernel/tracing");
    let set = |file: &str, value: &str| fs::write(tracing.join(file), value);
    // Events are turned on and off one by one: what is recorded meanwhile lacks some.
    let recording = [
        ("tracing_on", "0"),
        ("trace", ""),
        ("events/kvm/enable", "1"),
        ("tracing_on", "1"),
    ];
    if recording
        .iter()
        .try_for_each(|(file, value)| set(file, value))
        .is_err()
    {
        return String::new();
    }
    std::thread::sleep(MOMENT);
    let _ = set("tracing_on", "0");
    let trace = fs::read_to_string(tracing.join("trace")).unwrap_or_default();
    for (file, value) in [
        ("events/kvm/enable", "0"),
        ("trace", ""),
        ("tracing_on", "1"),
    ] {
        let _ = set(file, value);
    }
    let lines: Vec<&str> = trace
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let from = lines.len().saturating_sub(LINES);
    let shown: Vec<&str> = lines[from..].iter().map(|line| line.trim()).collect();
    format!("{}{}", counted(&lines), shown.join("\n"))
}

/// How often each thread had each event.
fn counted(lines: &[&str]) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in lines {
        // `  vcpu0-257   [001] d..1.   273.347886: kvm_exit: …`
        let mut words = line.split_whitespace();
        if let (Some(thread), Some(event)) = (words.next(), words.nth(3)) {
            *counts.entry((thread, event)).or_default() += 1;
        }
    }
    let told = |((thread, event), count)| format!("{thread} {event} {count}\n");
    counts.into_iter().map(told).collect()
}

/// Name, processor time in ticks, and what each thread waits for.
fn threads(pid: u32) -> Vec<(String, u64, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let mut threads: Vec<_> = tasks
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let wait = read("wchan");
            (read("comm").trim().to_owned(), ticks(&read("stat")), wait)
        })
        .collect();
    threads.sort();
    threads
}

/// utime and stime of `/proc/PID/stat` (proc(5)); the name before them may hold spaces.
fn ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let times = after_name.split_whitespace().skip(11).take(2);
    times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn counters() -> [u64; COUNTERS.len()] {
    COUNTERS.map(|name| {
        let path = Path::new("/sys/kernel/debug/kvm").join(name);
        let count = fs::read_to_string(path).unwrap_or_default();
        count.trim().parse().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_processor_time_past_any_name() {
        let stat = "304 (vcpu 0) x) S 1 304 304 0 -1 4194560 1 0 0 0 27 15 0 0 20 0 5 0 88";
        assert_eq!(ticks(stat), 42);
        assert_eq!(ticks(""), 0);
    }

    #[test]
    fn events_are_counted_by_thread() {
        let lines = [
            "  vcpu0-257     [001] d..1.   273.347886: kvm_exit: vcpu 0 reason hlt",
            "  vcpu0-257     [001] d..1.   273.347996: kvm_entry: vcpu 0",
            "  vcpu0-257     [001] d..1.   273.348886: kvm_exit: vcpu 0 reason msr",
        ];
        assert_eq!(
            counted(&lines),
            "vcpu0-257 kvm_entry: 1\nvcpu0-257 kvm_exit: 2\n"
        );
    }

    #[test]
    fn this_process_has_threads() {
        assert!(!threads(std::process::id()).is_empty());
        assert!(of(std::process::id()).contains("ticks in a second"));
    }
}
