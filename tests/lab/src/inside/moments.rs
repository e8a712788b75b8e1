//! When a monitor began and when its guest did, as the host's kernel saw it: by one clock for both, and the same for
//! every monitor.

use super::sysfs;
use crate::error::{Context, Result, fail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A place of its own for these events: nobody else's buffer, clock and switches.
const INSTANCE: &str = "/sys/kernel/tracing/instances/lab-moments";
const EVENTS: [&str; 2] = ["sched/sched_process_exec", "kvm/kvm_entry"];
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Programs and guests that begin are being written down.
pub struct Moments(PathBuf);

impl Moments {
    /// Begins to write down.
    pub fn record() -> Result<Self> {
        let place = PathBuf::from(INSTANCE);
        // Left by someone who was killed.
        let _ = fs::remove_dir(&place);
        fs::create_dir(&place).path(&place)?;
        let moments = Self(place);
        sysfs::write(moments.0.join("trace_clock"), "mono")?;
        // A guest that runs enters again and again: what came first is to be kept.
        sysfs::write(moments.0.join("options/overwrite"), "0")?;
        sysfs::write(moments.0.join("buffer_size_kb"), "256")?;
        for event in EVENTS {
            sysfs::write(moments.0.join("events").join(event).join("enable"), "1")?;
        }
        Ok(moments)
    }

    /// Waits for the first guest and tells how long before this process became the program that it is.
    pub fn to_first_entry(&self, pid: u32, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        let trace = self.0.join("trace");
        loop {
            let text = fs::read_to_string(&trace).path(&trace)?;
            if let Some(time) = exec_to_entry(&text, pid) {
                return Ok(time);
            }
            if start.elapsed() > patience {
                return fail(format!("no guest begins within {} s", patience.as_secs()));
            }
            if !Path::new("/proc")
                .join(pid.to_string())
                .join("exe")
                .exists()
            {
                return fail("the monitor ended before its guest began");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Moments {
    fn drop(&mut self) {
        let _ = sysfs::write(self.0.join("tracing_on"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

/// From the last program that process `pid` became before the first guest began, for it may first be a script.
fn exec_to_entry(trace: &str, pid: u32) -> Option<Duration> {
    let (_, entry) = events(trace, "kvm_entry").next()?;
    let same = format!("pid={pid}");
    let (_, exec) = events(trace, "sched_process_exec")
        .filter(|(what, at)| at <= &entry && what.split(' ').any(|word| word == same))
        .last()?;
    entry.checked_sub(exec)
}

/// Lines such as `  monitor-17  [001] d..1.  12.345678: kvm_entry: vcpu 0, rip 0xfff0`: what it says, and when.
fn events<'a>(trace: &'a str, name: &str) -> impl Iterator<Item = (&'a str, Duration)> {
    let mark = format!(": {name}: ");
    trace.lines().filter_map(move |line| {
        let (before, what) = line.split_once(&mark)?;
        let (seconds, fraction) = before.split_whitespace().last()?.split_once('.')?;
        let microseconds = (fraction.len() == 6).then(|| fraction.parse::<u64>().ok())??;
        let seconds = Duration::from_secs(seconds.parse().ok()?);
        Some((what, seconds + Duration::from_micros(microseconds)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "# tracer: nop\n#\n\
        \x20              sh-70      [001] .....    99.000000: sched_process_exec: filename=/bin/sh pid=71 old_pid=71\n\
        \x20           other-9       [000] .....    99.100000: sched_process_exec: filename=/bin/ls pid=9 old_pid=9\n\
        \x20         monitor-71      [001] .....   100.250000: sched_process_exec: filename=/m on pid=71 old_pid=71\n\
        \x20          CPU 0-74      [000] d..1.   103.500001: kvm_entry: vcpu 0, rip 0xfff0\n\
        \x20          CPU 0-74      [000] d..1.   103.600000: kvm_entry: vcpu 0, rip 0xe05b\n";

    #[test]
    fn the_last_exec_and_the_first_entry_count() {
        let time = Duration::from_micros(3_250_001);
        assert_eq!(exec_to_entry(TRACE, 71), Some(time));
        assert_eq!(exec_to_entry(TRACE, 7), None);
        assert_eq!(exec_to_entry("", 71), None);
    }
}
