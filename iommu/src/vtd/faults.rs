//! Primary fault logging (VT-d 4.1 §7.2) and why a request is blocked (§7.1.3, §5.1.4.1).

use pci::{Bdf, MsiMessage};

use super::event::Event;
use super::registers::{FaultRecord, FaultStatus};

/// How many fault recording registers there are.
pub const RECORDS: usize = 8;

/// Why a request was blocked. The names in comments are the manual's. LCT.5 (0Dh) is left
/// out: it is about translation requests and translated requests, which devices here do not
/// make.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FaultReason {
    /// LRT.2: the root entry is not present.
    RootNotPresent = 0x01,
    /// LCT.2: the context entry is not present.
    ContextNotPresent = 0x02,
    /// LCT.4: the context entry has an address width or translation type that is not offered.
    ContextInvalid = 0x03,
    /// LGN.1: the address is wider than the domain or the unit.
    AddressTooWide = 0x04,
    /// LGN.2: a write, but some entry has W clear.
    WriteDenied = 0x05,
    /// LGN.3: a read, but some entry has R clear.
    ReadDenied = 0x06,
    /// LSS.1: a page-table entry cannot be read.
    PageTableAccess = 0x07,
    /// LRT.1: the root entry cannot be read.
    RootAccess = 0x08,
    /// LCT.1: the context entry cannot be read.
    ContextAccess = 0x09,
    /// LRT.3: reserved bits are set in a root entry.
    RootReserved = 0x0a,
    /// LCT.3: reserved bits are set in a context entry.
    ContextReserved = 0x0b,
    /// LSS.2: reserved bits are set in a page-table entry.
    PageTableReserved = 0x0c,
    /// LGN.4: the translated address is in the interrupt address range.
    OutputInterruptRange = 0x0e,
    /// Reserved bits are set in a remappable interrupt request.
    RequestReserved = 0x20,
    /// The interrupt index is past the end of the table.
    IndexTooLarge = 0x21,
    /// The interrupt entry is not present.
    EntryNotPresent = 0x22,
    /// The interrupt entry cannot be read.
    EntryAccess = 0x23,
    /// Reserved bits are set in an interrupt entry, or a field has a reserved value.
    EntryReserved = 0x24,
    /// Requests in the compatibility format are blocked.
    CompatibilityBlocked = 0x25,
    /// The requester is not the one the interrupt entry is for.
    SourceInvalid = 0x26,
    /// RTA.1: the root table is of a kind that is not offered.
    TableModeInvalid = 0x30,
}

impl FaultReason {
    /// The code in FRCD.FR.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

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
