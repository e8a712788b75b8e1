//! VT-d 4.1 §11.4.4–11.4.5: global command and status, and the root table's address.

use bitfield::bitfield;

bitfield! {
    /// GCMD and GSTS, which have the same bits: in GCMD what software wants, in GSTS what is.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct Global(pub u32);
    impl Debug;
    /// CFI, CFIS: compatibility format interrupts pass.
    pub compatibility, set_compatibility: 23;
    /// SIRTP, IRTPS: the interrupt table pointer is set.
    pub interrupt_table, set_interrupt_table: 24;
    /// IRE, IRES: interrupts are remapped.
    pub interrupts, set_interrupts: 25;
    /// QIE, QIES: the invalidation queue runs.
    pub queue, set_queue: 26;
    /// SRTP, RTPS: the root table pointer is set.
    pub root_table, set_root_table: 30;
    /// TE, TES: DMA is translated.
    pub translation, set_translation: 31;
}

/// RTADDR.TTM: what kind of root table there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableMode {
    /// 00b: legacy root and context tables.
    Legacy,
    /// 01b: scalable-mode root, context and PASID tables.
    Scalable,
    /// Abort-DMA mode (11b) and what is reserved (10b): not offered.
    Unsupported,
}

bitfield! {
    /// RTADDR.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct RootTable(pub u64);
    impl Debug;
    u8, ttm, _: 11, 10;
}

impl RootTable {
    /// RTA and TTM, the bits software may write.
    pub const WRITABLE: u64 = !0x3ff;

    /// RTA: the root table's address.
    pub fn address(self) -> u64 {
        self.0 & !0xfff
    }

    /// TTM.
    pub fn mode(self) -> TableMode {
        match self.ttm() {
            0 => TableMode::Legacy,
            1 => TableMode::Scalable,
            _ => TableMode::Unsupported,
        }
    }
}
