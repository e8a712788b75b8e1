//! VT-d 4.1 §9.1, §9.3 and §9.8: the entries of root, context and second-stage page tables
//! in legacy mode, and which of their bits are reserved.

use bitfield::bitfield;

use super::config::VtdConfig;

bitfield! {
    /// A root entry: one for each bus.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct RootEntry(pub u128);
    impl Debug;
    /// P.
    pub present, _: 0;
}

impl RootEntry {
    /// CTP: the context table.
    pub fn table(self) -> u64 {
        self.0 as u64 & !0xfff
    }

    /// A reserved bit is set.
    pub fn is_reserved(self, config: &VtdConfig) -> bool {
        let low = 0xffe | config.beyond_address();
        self.0 >> 64 != 0 || self.0 as u64 & low != 0
    }
}

bitfield! {
    /// A context entry: one for each device and function.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct ContextEntry(pub u128);
    impl Debug;
    /// P.
    pub present, _: 0;
    /// FPD: qualified faults are not recorded. Means something in an absent entry too.
    pub fault_disable, _: 1;
    /// TT: 0 translated, 1 translated and with a Device-TLB, 2 pass-through.
    pub u8, translation_type, _: 3, 2;
    /// AW: 1 is 39 bits, 2 is 48, 3 is 57.
    pub u8, width, _: 66, 64;
    /// DID.
    pub u16, domain, _: 87, 72;
}

impl ContextEntry {
    /// Pass-through.
    pub const PASS_THROUGH: u8 = 2;

    /// SSPTPTR: the topmost page table.
    pub fn table(self) -> u64 {
        self.0 as u64 & !0xfff
    }

    /// A reserved bit is set. The table of a pass-through entry is ignored.
    pub fn is_reserved(self, config: &VtdConfig) -> bool {
        let pointer = match self.translation_type() {
            Self::PASS_THROUGH => 0,
            _ => config.beyond_address(),
        };
        let high = 0xffff_ffff_ff00_0080;
        self.0 as u64 & (0xff0 | pointer) != 0 || (self.0 >> 64) as u64 & high != 0
    }
}

bitfield! {
    /// An entry of a second-stage page table.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct PageEntry(pub u64);
    impl Debug;
    /// R.
    pub read, _: 0;
    /// W.
    pub write, _: 1;
    /// PS: a leaf at levels 2 and 3.
    pub large, _: 7;
}

impl PageEntry {
    /// Some access is allowed; if none is, no other bit means anything.
    pub fn present(self) -> bool {
        self.0 & 3 != 0
    }

    /// Maps memory, not a further table. Level 1 holds 4 KiB pages.
    pub fn is_leaf(self, level: u8) -> bool {
        level == 1 || matches!(level, 2 | 3) && self.large()
    }

    /// ADDR, of a page `1 << shift` bytes long or of a table if that is 12.
    pub fn address(self, shift: u8) -> u64 {
        self.0 & 0x000f_ffff_ffff_ffff & u64::MAX << shift
    }

    /// A reserved bit is set: SNP without snoop control, or at all where there is no page;
    /// PS above level 3; address bits below a large page or beyond HAW; TM.
    pub fn is_reserved(self, level: u8, config: &VtdConfig) -> bool {
        const SNP: u64 = 1 << 11;
        const PS: u64 = 1 << 7;
        const TM: u64 = 1 << 62;
        let beyond = config.beyond_address() & 0x000f_ffff_ffff_ffff;
        let own = if self.is_leaf(level) {
            let snoop = if config.snoop_control { 0 } else { SNP };
            snoop | below_page(level)
        } else {
            SNP | PS
        };
        self.0 & (beyond | TM | own) != 0
    }
}

/// Where in an address the index into a table of this level begins.
pub(super) const fn level_shift(level: u8) -> u8 {
    12 + 9 * (level.saturating_sub(1))
}

/// ADDR bits that are below a page of this level.
fn below_page(level: u8) -> u64 {
    ((1 << level_shift(level)) - 1) & !0xfff
}
