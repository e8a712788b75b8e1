//! Counters of a drive, bumped without a lock and read by whoever looks.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a drive has done since it was made. Resets do not clear it.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Commands taken, failed ones too.
    pub commands: Counter,
    /// Commands ended in error.
    pub errors: Counter,
    /// Transfers from the medium.
    pub reads: Counter,
    /// Bytes from the medium.
    pub bytes_read: Counter,
    /// Transfers to the medium.
    pub writes: Counter,
    /// Bytes to the medium.
    pub bytes_written: Counter,
    /// Times the medium was made to keep what was written.
    pub flushes: Counter,
    /// Bytes discarded.
    pub bytes_discarded: Counter,
}

/// What a drive had done at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct StatisticsSnapshot {
    pub commands: u64,
    pub errors: u64,
    pub reads: u64,
    pub bytes_read: u64,
    pub writes: u64,
    pub bytes_written: u64,
    pub flushes: u64,
    pub bytes_discarded: u64,
}

impl Statistics {
    /// The counters now.
    pub fn snapshot(&self) -> StatisticsSnapshot {
        StatisticsSnapshot {
            commands: self.commands.get(),
            errors: self.errors.get(),
            reads: self.reads.get(),
            bytes_read: self.bytes_read.get(),
            writes: self.writes.get(),
            bytes_written: self.bytes_written.get(),
            flushes: self.flushes.get(),
            bytes_discarded: self.bytes_discarded.get(),
        }
    }
}
