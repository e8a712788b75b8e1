//! What a vCPU exits for, counted by the vCPU's own thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why KVM_RUN returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ExitKind {
    /// A port was read.
    IoIn,
    /// A port was written.
    IoOut,
    /// Memory that is no RAM was read.
    MmioRead,
    /// Memory that is no RAM was written.
    MmioWrite,
    /// A level-triggered interrupt ended.
    IoapicEoi,
    /// The guest can take the 8259's interrupt now.
    IrqWindow,
    /// A signal of ours: pause, reset, or an 8259 interrupt.
    Signal,
    /// Anything else.
    Other,
}

const NAMES: [&str; 8] = [
    "io_in",
    "io_out",
    "mmio_read",
    "mmio_write",
    "ioapic_eoi",
    "irq_window",
    "signal",
    "other",
];

/// One vCPU's counters. Only its own thread counts; anyone may look.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ExitCounts([AtomicU64; NAMES.len()]);

impl ExitCounts {
    /// Counts one exit. Not for two threads at once.
    pub fn count(&self, kind: ExitKind) {
        let counter = &self.0[kind as usize];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Name and count of every kind.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NAMES
            .into_iter()
            .zip(self.0.iter().map(|counter| counter.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_counter() {
        let counts = ExitCounts::default();
        counts.count(ExitKind::Other);
        counts.count(ExitKind::IoIn);
        counts.count(ExitKind::IoIn);
        let nonzero: Vec<_> = counts.all().filter(|&(_, n)| n > 0).collect();
        assert_eq!(nonzero, [("io_in", 2), ("other", 1)]);
    }
}
