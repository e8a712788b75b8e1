//! 82093AA §3.1–3.2 and ICH9 §13.5: the I/O APIC's registers.

use bitfield::bitfield;

/// Memory offsets of the directly addressed registers.
pub mod offset {
    /// I/O register select (8 bits).
    pub const IOREGSEL: u64 = 0x00;
    /// I/O window onto the selected register (32 bits).
    pub const IOWIN: u64 = 0x10;
    /// EOI: a vector written here ends that level interrupt (version 0x20 and later).
    pub const EOI: u64 = 0x40;
}

/// Indices for IOREGSEL.
pub mod index {
    /// Identification.
    pub const ID: u8 = 0x00;
    /// Version and highest redirection entry.
    pub const VERSION: u8 = 0x01;
    /// Arbitration identification.
    pub const ARBITRATION: u8 = 0x02;
    /// First half of the first redirection entry.
    pub const REDIRECTION: u8 = 0x10;
}

/// Version 0x20, which has the EOI register, and 24 entries.
pub const VERSION: u32 = 0x20 | 23 << 16;

bitfield! {
    /// A redirection table entry (82093AA §3.2.4). Bits 63:48 are kept raw: in the
    /// remappable format of VT-d §5.1.5.1 they are the interrupt index and format.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct RedirectionEntry(pub u64);
    impl Debug;
    /// Interrupt vector.
    pub u8, vector, set_vector: 7, 0;
    /// How the local APIC takes it.
    pub u8, delivery_mode, set_delivery_mode: 10, 8;
    /// Logical, not physical; bit 15 of the interrupt index in the remappable format.
    pub destination_mode, set_destination_mode: 11;
    /// On its way; ours arrive at once, so never set.
    pub delivery_status, _: 12;
    /// Active low. Lines are modelled as asserted or not, so nothing depends on it.
    pub active_low, set_active_low: 13;
    /// A level interrupt was accepted and its EOI has not come.
    pub remote_irr, set_remote_irr: 14;
    /// Level, not edge.
    pub level_triggered, set_level_triggered: 15;
    /// Masked.
    pub masked, set_masked: 16;
    /// Destination and what the remappable format makes of it.
    pub u16, destination, set_destination: 63, 48;
}

impl RedirectionEntry {
    /// What software may write: all but delivery status, remote IRR and the reserved bits.
    pub const WRITABLE: u64 = 0xffff_0000_0001_afff;

    /// Masked, everything else zero (ICH9 §13.5.7).
    pub const RESET: Self = Self(1 << 16);

    /// Takes a write of one half; bits that are not software's stay.
    pub fn write_half(&mut self, high: bool, value: u32) {
        let shift = if high { 32 } else { 0 };
        let mask = Self::WRITABLE & 0xffff_ffff << shift;
        self.0 = self.0 & !mask | u64::from(value) << shift & mask;
        if !self.is_level() {
            self.set_remote_irr(false);
        }
    }

    /// Follows the level of its input and waits for EOIs. Only fixed and lowest-priority
    /// interrupts do; SMI, NMI, INIT and ExtINT are edges whatever the trigger mode says.
    pub fn is_level(&self) -> bool {
        self.level_triggered() && self.has_end()
    }

    /// Fixed or lowest priority: the processor ends it with an EOI.
    pub fn has_end(&self) -> bool {
        self.delivery_mode() <= 1
    }

    /// The message it sends, in the compatibility and the remappable format alike: address
    /// bits 19:4 are entry bits 63:48, and address bit 2 is entry bit 11 (VT-d §5.1.5.1).
    pub fn message(&self) -> pci::MsiMessage {
        let level = u32::from(self.level_triggered());
        pci::MsiMessage {
            address: 0xfee0_0000
                | u64::from(self.destination()) << 4
                | u64::from(self.destination_mode()) << 2,
            data: u32::from(self.vector())
                | u32::from(self.delivery_mode()) << 8
                | level << 14
                | level << 15,
        }
    }
}
