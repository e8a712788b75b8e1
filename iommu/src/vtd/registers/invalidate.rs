//! VT-d 4.1 §11.4.6: invalidation by registers.

use bitfield::bitfield;

bitfield! {
    /// CCMD.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct ContextCommand(pub u64);
    impl Debug;
    /// DID.
    pub u16, domain, set_domain: 15, 0;
    /// SID.
    pub u16, source, set_source: 31, 16;
    /// FM: how many high bits of the function number do not count.
    pub u8, function_mask, set_function_mask: 33, 32;
    /// CAIG: what was done; zero if nothing.
    pub u8, actual, set_actual: 60, 59;
    /// CIRG: 1 global, 2 domain, 3 device.
    pub u8, granularity, set_granularity: 62, 61;
    /// ICC: do it.
    pub start, set_start: 63;
}

impl ContextCommand {
    /// What software may write.
    pub const WRITABLE: u64 = 0xe000_0003_ffff_ffff;
}

bitfield! {
    /// IOTLB.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct IotlbInvalidate(pub u64);
    impl Debug;
    /// DID.
    pub u16, domain, set_domain: 47, 32;
    /// IAIG: what was done; zero if nothing.
    pub u8, actual, set_actual: 58, 57;
    /// IIRG: 1 global, 2 domain, 3 pages.
    pub u8, granularity, set_granularity: 61, 60;
    /// IVT: do it.
    pub start, set_start: 63;
}

impl IotlbInvalidate {
    /// What software may write: with the drain bits, which ask for what always happens.
    pub const WRITABLE: u64 = 0xb003_ffff_0000_0000;
}

bitfield! {
    /// IVA, and the second half of an IOTLB invalidate descriptor.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct InvalidateAddress(pub u64);
    impl Debug;
    /// AM: 2 to this many pages.
    pub u8, mask, set_mask: 5, 0;
    /// IH: only leaf entries changed.
    pub leaf_only, set_leaf_only: 6;
}

impl InvalidateAddress {
    /// What software may write.
    pub const WRITABLE: u64 = !0xf80;

    /// ADDR: the first page, before the mask.
    pub fn address(self) -> u64 {
        self.0 & !0xfff
    }
}
