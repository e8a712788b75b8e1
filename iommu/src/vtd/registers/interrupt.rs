//! VT-d 4.1 §11.4.10: the interrupt remapping table's address.

use bitfield::bitfield;

bitfield! {
    /// IRTA.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct InterruptTable(pub u64);
    impl Debug;
    u8, s, _: 3, 0;
    /// EIME: 32-bit APIC ids, and no compatibility format.
    pub extended, set_extended: 11;
}

impl InterruptTable {
    /// IRTA, EIME and S, the bits software may write.
    pub const WRITABLE: u64 = !0x7f0;

    /// IRTA: where the table is.
    pub fn address(self) -> u64 {
        self.0 & !0xfff
    }

    /// Entries in the table.
    pub fn entries(self) -> u32 {
        2 << self.s()
    }
}
