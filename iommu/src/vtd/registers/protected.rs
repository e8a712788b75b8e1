//! VT-d 4.1 §11.4.8: protected memory.

use bitfield::bitfield;

bitfield! {
    /// PMEN.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct ProtectedEnable(pub u32);
    impl Debug;
    /// PRS: the regions are protected.
    pub status, set_status: 0;
    /// EPM: protect the regions.
    pub enable, set_enable: 31;
}

impl ProtectedEnable {
    /// Bits of the base and limit registers that software may write: 1 MiB granularity.
    /// Low bits of a limit count as ones.
    pub const GRANULE: u64 = 1 << 20;
}
