//! Counts the exits that reach a monitor, as the host's kernel sees them: the same count for every monitor.
//!
//! KVM's tracepoints feed the kernel's own histograms, so counting costs no read per event.

use crate::error::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

const EVENTS: &str = "/sys/kernel/tracing/events/kvm";

/// One tracepoint counted by one of its fields.
struct Histogram {
    event: PathBuf,
    keys: &'static str,
}

/// Exits being counted from now on.
pub struct ExitCounter {
    reasons: Histogram,
    ports: Histogram,
}

/// Exits counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// To user space, by KVM's number for the reason.
    pub by_reason: BTreeMap<u64, u64>,
    /// Port accesses, by port (they need not have reached user space).
    pub by_port: BTreeMap<u64, u64>,
}

impl ExitCounter {
    /// Begins to count.
    pub fn start() -> Result<Self> {
        let counter = Self {
            reasons: Histogram {
                event: Path::new(EVENTS).join("kvm_userspace_exit"),
                keys: "reason",
            },
            ports: Histogram {
                event: Path::new(EVENTS).join("kvm_pio"),
                keys: "port",
            },
        };
        for histogram in [&counter.reasons, &counter.ports] {
            // Left by someone who was killed while counting.
            let _ = histogram.trigger("!");
            histogram.trigger("")?;
        }
        Ok(counter)
    }

    /// What has been counted so far.
    pub fn read(&self) -> Result<Exits> {
        Ok(Exits {
            by_reason: self.reasons.read()?,
            by_port: self.ports.read()?,
        })
    }
}

impl Drop for ExitCounter {
    fn drop(&mut self) {
        let _ = self.reasons.trigger("!");
        let _ = self.ports.trigger("!");
    }
}

impl Histogram {
    fn trigger(&self, prefix: &str) -> Result<()> {
        let path = self.event.join("trigger");
        fs::write(&path, format!("{prefix}hist:keys={}:size=4096", self.keys)).path(&path)
    }

    fn read(&self) -> Result<BTreeMap<u64, u64>> {
        let path = self.event.join("hist");
        Ok(parse(&fs::read_to_string(&path).path(&path)?))
    }
}

/// KVM's reasons, as linux/kvm.h numbers them.
const REASONS: [(u64, &str); 10] = [
    (2, "port I/O"),
    (4, "debug"),
    (5, "HLT"),
    (6, "MMIO"),
    (7, "IRQ window"),
    (8, "shutdown"),
    (10, "signal"),
    (17, "internal error"),
    (24, "system event"),
    (26, "IOAPIC EOI"),
];
const SIGNAL: u64 = 10;
/// The first serial port, where guests are asked and answer. KVM answers at none of its ports itself.
const CONSOLE: RangeInclusive<u64> = 0x3f8..=0x3ff;

impl Exits {
    /// All of them, but for those the monitor itself provoked with a signal.
    pub fn total(&self) -> u64 {
        self.by_reason
            .iter()
            .filter(|(reason, _)| **reason != SIGNAL)
            .map(|(_, count)| count)
            .sum()
    }

    /// Without those of asking the guest for something over its console, which depend on how long the question is.
    pub fn but_console(&self) -> u64 {
        let console: u64 = self.by_port.range(CONSOLE).map(|(_, count)| count).sum();
        self.total().saturating_sub(console)
    }

    /// What came after an earlier count.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            by_reason: difference(&self.by_reason, &earlier.by_reason),
            by_port: difference(&self.by_port, &earlier.by_port),
        }
    }

    /// The reasons by name, the most frequent first.
    pub fn named(&self) -> Vec<(String, u64)> {
        let mut named: Vec<_> = self
            .by_reason
            .iter()
            .map(|(reason, count)| (reason_name(*reason), *count))
            .collect();
        named.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        named
    }
}

fn reason_name(reason: u64) -> String {
    match REASONS.iter().find(|(number, _)| *number == reason) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("reason {reason}"),
    }
}

fn difference(now: &BTreeMap<u64, u64>, earlier: &BTreeMap<u64, u64>) -> BTreeMap<u64, u64> {
    now.iter()
        .map(|(key, count)| {
            (
                *key,
                count - earlier.get(key).copied().unwrap_or(0).min(*count),
            )
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Lines such as `{ reason:          2 } hitcount:       1234`.
fn parse(text: &str) -> BTreeMap<u64, u64> {
    let number = |word: &str| match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    };
    text.lines()
        .filter_map(|line| {
            let (key, count) = line.strip_prefix('{')?.split_once("} hitcount:")?;
            Some((
                number(key.split_once(':')?.1.trim())?,
                number(count.trim())?,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTOGRAM: &str = "# event histogram\n#\n# trigger info: hist:keys=reason:vals=hitcount\n#\n\n\
        { reason:          6 } hitcount:         12\n{ reason:          2 } hitcount:       3400\n{ reason:         10 } hitcount:          5\n\n\
        Totals:\n    Hits: 3417\n    Entries: 3\n    Dropped: 0\n";

    #[test]
    fn a_histogram_is_read() {
        let exits = Exits {
            by_reason: parse(HISTOGRAM),
            by_port: BTreeMap::new(),
        };
        assert_eq!(exits.total(), 3412);
        let asked = Exits {
            by_port: [(0x3f7, 1), (0x3f8, 400), (0x3ff, 12), (0x400, 1)].into(),
            ..exits.clone()
        };
        assert_eq!(asked.but_console(), 3000);
        assert_eq!(exits.named()[0], ("port I/O".to_owned(), 3400));
    }

    #[test]
    fn only_what_came_since_is_counted() {
        let earlier = Exits {
            by_reason: [(2, 3000)].into(),
            by_port: BTreeMap::new(),
        };
        let now = Exits {
            by_reason: parse(HISTOGRAM),
            by_port: BTreeMap::new(),
        };
        assert_eq!(
            now.since(&earlier).by_reason,
            [(2, 400), (6, 12), (10, 5)].into()
        );
    }
}
