//! Interrupt remapping table entries in remapped mode, and requests that name them
//! (VT-d 4.1 §9.10, §5.1.2.2).

use bitfield::bitfield;
use pci::{Bdf, MsiMessage};

bitfield! {
    /// An interrupt remapping table entry.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct InterruptEntry(pub u128);
    impl Debug;
    /// P.
    pub present, _: 0;
    /// FPD: qualified faults are not recorded. Means something in an absent entry too.
    pub fault_disable, _: 1;
    /// DM: logical, not physical.
    logical, _: 2;
    /// RH: to one of the destinations.
    redirection_hint, _: 3;
    /// TM: level, not edge.
    level, _: 4;
    /// DLM.
    u8, delivery_mode, _: 7, 5;
    /// V.
    u8, vector, _: 23, 16;
    /// DST.
    u32, destination, _: 63, 32;
    /// SID.
    u16, source, _: 79, 64;
    /// SQ.
    u8, source_qualifier, _: 81, 80;
    /// SVT.
    u8, validation, _: 83, 82;
}

impl InterruptEntry {
    /// A reserved bit is set, posted mode (bit 15) among them; or a field has a reserved
    /// value: DLM 011b and 110b, SVT 11b. Without 32-bit APIC ids most of DST is reserved.
    pub fn is_reserved(self, extended: bool) -> bool {
        let destination = if extended { 0 } else { 0xffff_00ff };
        let reserved =
            0xffff_ffff_fff0_0000_u128 << 64 | destination << 32 | 0xff00_0000 | 0b1111 << 12;
        self.0 & reserved != 0 || matches!(self.delivery_mode(), 3 | 6) || self.validation() == 3
    }

    /// `requester` may use the entry: any may (SVT 00b), or SID names it (01b) but for the
    /// function bits that SQ leaves out, or SID names a range of buses that it is on (10b).
    pub fn admits(self, requester: Bdf) -> bool {
        let ignored = match self.source_qualifier() {
            0 => 0,
            1 => 0b100,
            2 => 0b110,
            _ => 0b111_u16,
        };
        match self.validation() {
            0 => true,
            1 => (self.source() ^ requester.requester_id()) & !ignored == 0,
            _ => {
                let [last, first] = self.source().to_le_bytes();
                (first..=last).contains(&requester.bus())
            }
        }
    }

    /// The interrupt in the compatibility format, as KVM takes it: bits 31:8 of a 32-bit
    /// APIC id are address bits 63:40.
    pub fn message(self, extended: bool) -> MsiMessage {
        let destination = match extended {
            true => u64::from(self.destination()),
            false => u64::from(self.destination() >> 8 & 0xff),
        };
        let level = u32::from(self.level());
        MsiMessage {
            address: (destination & 0xffff_ff00) << 32
                | 0xfee0_0000
                | (destination & 0xff) << 12
                | u64::from(self.redirection_hint()) << 3
                | u64::from(self.logical()) << 2,
            data: u32::from(self.vector())
                | u32::from(self.delivery_mode()) << 8
                | level << 14
                | level << 15,
        }
    }
}

bitfield! {
    /// Address of an interrupt request.
    #[derive(Clone, Copy)]
    struct RequestAddress(u64);
    handle_high, _: 2;
    subhandle_valid, _: 3;
    remappable, _: 4;
    u16, handle_low, _: 19, 5;
}

/// An interrupt request as the unit sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// In the compatibility format: it says itself where it goes.
    Compatibility,
    /// It names an entry by index, which may be past the largest table.
    Remappable(u32),
    /// It is neither.
    Malformed,
}

impl From<MsiMessage> for Request {
    fn from(message: MsiMessage) -> Self {
        let address = RequestAddress(message.address);
        if message.address >> 20 != 0xfee {
            return Self::Malformed;
        }
        if !address.remappable() {
            return Self::Compatibility;
        }
        let handle = u32::from(address.handle_low()) | u32::from(address.handle_high()) << 15;
        if !address.subhandle_valid() {
            return Self::Remappable(handle);
        }
        match message.data {
            subhandle @ ..=0xffff => Self::Remappable(handle + subhandle),
            _ => Self::Malformed,
        }
    }
}
