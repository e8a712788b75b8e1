//! Primary fault logging (VT-d 4.1 §7.2).

use pci::{Bdf, MsiMessage};

use super::event::Event;
use super::reason::FaultReason;
use super::registers::{FaultRecord, FaultStatus};

/// How many fault recording registers there are.
pub const RECORDS: usize = 8;

/// A fault to be recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Blocked {
    pub reason: FaultReason,
    pub source: Bdf,
    /// FRCD.FI: the page, or the interrupt index in bits 63:48.
    pub info: u64,
    pub read: bool,
}

/// FSTS, the FRCDs and the fault event.
pub(super) struct Faults {
    pub status: FaultStatus,
    pub event: Event,
    records: [FaultRecord; RECORDS],
    /// Where the next fault goes.
    next: usize,
}

impl Faults {
    pub fn new() -> Self {
        Self {
            status: FaultStatus::default(),
            event: Event::RESET,
            records: [FaultRecord::default(); RECORDS],
            next: 0,
        }
    }

    /// Records a fault if there is room (§7.2.1). The message is the fault event, due if this
    /// is the first condition.
    #[must_use]
    pub fn record(&mut self, fault: Blocked) -> Option<MsiMessage> {
        let record = record_of(fault);
        // Faults of a requester with one pending may be left out: those that are the same.
        if self.status.overflow() || self.records.contains(&record) {
            return None;
        }
        if self.records[self.next].fault() {
            self.status.set_overflow(true);
            return None;
        }
        let first = !self.status.is_any();
        if !self.status.pending() {
            self.status.set_first(self.next as u8);
        }
        self.records[self.next] = record;
        self.next = (self.next + 1) % RECORDS;
        self.status.set_pending(true);
        first.then(|| self.event.raise()).flatten()
    }

    /// The invalidation queue has stopped.
    #[must_use]
    pub fn queue_error(&mut self) -> Option<MsiMessage> {
        let first = !self.status.is_any();
        self.status.set_queue_error(true);
        first.then(|| self.event.raise()).flatten()
    }

    /// Software writes FSTS. True if that lets the invalidation queue go on.
    pub fn write_status(&mut self, value: u32) -> bool {
        let stopped = self.status.queue_error();
        self.status.0 &= !(value & FaultStatus::CLEARED_BY_ONE);
        self.acknowledged();
        stopped && !self.status.queue_error()
    }

    /// Software writes the high half of FRCD number `index`.
    pub fn write_record(&mut self, index: usize, value: u64) {
        let Some(record) = self.records.get_mut(index) else {
            return;
        };
        if value >> 63 != 0 {
            record.set_fault(false);
        }
        self.status
            .set_pending(self.records.iter().any(|r| r.fault()));
        self.acknowledged();
    }

    /// FRCD number `index`.
    pub fn read_record(&self, index: usize) -> FaultRecord {
        self.records.get(index).copied().unwrap_or_default()
    }

    /// Once every condition is acknowledged, a message not yet sent is not sent (FECTL.IP).
    fn acknowledged(&mut self) {
        if !self.status.is_any() {
            self.event.withdraw();
        }
    }
}

fn record_of(fault: Blocked) -> FaultRecord {
    let mut record = FaultRecord::default();
    record.set_info(fault.info & !0xfff);
    record.set_source(fault.source.requester_id());
    record.set_reason(fault.reason.code());
    record.set_read(fault.read);
    record.set_fault(true);
    record
}
