//! VT-d 4.1 §11.4.7: fault status and the fault recording registers.

use bitfield::bitfield;

bitfield! {
    /// FSTS, without what advanced fault logging and page requests would set.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct FaultStatus(pub u32);
    impl Debug;
    /// PFO: a fault found no free record.
    pub overflow, set_overflow: 0;
    /// PPF: a record has its F bit set.
    pub pending, set_pending: 1;
    /// IQE: the invalidation queue stopped at an error.
    pub queue_error, set_queue_error: 4;
    /// FRI: the record of the first pending fault, valid while PPF is set.
    pub u8, first, set_first: 15, 8;
}

impl FaultStatus {
    /// PFO, IQE, ICE and ITE: written with one, cleared. The last two are never set here,
    /// as no Device-TLB is asked, and so none answers wrongly (ICE) or too late (ITE).
    pub const CLEARED_BY_ONE: u32 = 0x71;

    /// Bits that are a condition of the fault event.
    const CONDITIONS: u32 = Self::CLEARED_BY_ONE | 1 << 1;

    /// Some condition of the fault event is there.
    pub fn is_any(self) -> bool {
        self.0 & Self::CONDITIONS != 0
    }
}

bitfield! {
    /// FRCD, without what requests with PASID would set.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct FaultRecord(pub u128);
    impl Debug;
    /// FI: page of the address, or bits 63:48 the interrupt index.
    pub u64, info, set_info: 63, 0;
    /// SID: who asked.
    pub u16, source, set_source: 79, 64;
    /// FR: why it was blocked.
    pub u8, reason, set_reason: 103, 96;
    /// T1: a read. With T2 clear, no T1 is a write.
    pub read, set_read: 126;
    /// F: there is a fault here. Written with one, cleared.
    pub fault, set_fault: 127;
}
