//! What particular devices need beyond what the PCI specifications say of them: doors in
//! their BARs to registers that the guest must see as ours.
//!
//! Many a device shows its config space a second time in a BAR, or lets it be reached through
//! a pair of registers there. A driver that looked through such a door would see the host's
//! addresses and interrupt messages, and write over them. So the door is trapped, and what
//! goes through it is answered by the config space that the guest has ([`Surroundings`]),
//! the MSI-X table likewise. The rest of the page, trapped with it, goes to the device.
//!
//! [`TABLE`] says which device has which door. Left out: the doors in the legacy VGA ports,
//! which no assigned device decodes here, and Intel's integrated graphics.

mod ati;
pub(super) mod clique;
mod mirror;
mod nvidia;
mod rtl8168;
#[cfg(test)]
mod tests;
mod window;

use std::ops::Range;

use pci::{BarIndex, ConfigWrite, Register};

use super::bars::Bar;

/// What is around a door: what the guest should find behind it, and the device itself.
pub(super) trait Surroundings {
    /// A register of the guest's config space.
    fn read_config(&self, register: Register) -> u32;

    /// Writes to the guest's config space. What would move the BAR under the door, or reset
    /// the device, is dropped.
    fn write_config(&self, write: ConfigWrite);

    /// Where the guest sees the MSI capability.
    fn msi(&self) -> Option<u16>;

    /// Reads from the MSI-X table that the guest has; false if it has none.
    fn read_msix_table(&self, offset: u64, data: &mut [u8]) -> bool;

    /// Writes to the MSI-X table that the guest has; false if it has none.
    fn write_msix_table(&self, offset: u64, data: &[u8]) -> bool;

    /// Reads from this BAR of the device itself.
    fn read_device(&self, offset: u64, data: &mut [u8]);

    /// Writes to this BAR of the device itself.
    fn write_device(&self, offset: u64, data: &[u8]);
}

/// A door in a BAR. Accesses lie wholly in its range; offsets are in the BAR.
pub(super) trait Quirk: Send + Sync {
    /// What it is, for people.
    fn name(&self) -> &'static str;

    /// The part of the BAR that is trapped for it.
    fn range(&self) -> Range<u64>;

    /// Fills `data` with what the guest reads.
    fn read(&self, around: &dyn Surroundings, offset: u64, data: &mut [u8]);

    /// Takes what the guest writes.
    fn write(&self, around: &dyn Surroundings, offset: u64, data: &[u8]);

    /// The device has been reset.
    fn reset(&self) {}
}

/// Which device this is, and what BARs it has.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub vendor: u16,
    pub device: u16,
    /// Base class and sub-class.
    pub class: u16,
    pub bars: &'a [Bar],
}

impl Identity<'_> {
    fn bar(&self, index: u8) -> Option<&Bar> {
        self.bars.iter().find(|bar| bar.index == BarIndex(index))
    }

    fn is_display(&self) -> bool {
        self.class >> 8 == DISPLAY
    }
}

const DISPLAY: u16 = 0x03;

/// Doors that some devices have.
struct Row {
    vendor: u16,
    /// Any device of the vendor's, if not given.
    device: Option<u16>,
    bar: u8,
    /// The doors, if this device has this BAR and them in it.
    doors: fn(&Identity<'_>) -> Vec<Box<dyn Quirk>>,
}

const TABLE: &[Row] = &[
    Row {
        vendor: nvidia::VENDOR,
        device: None,
        bar: 0,
        doors: nvidia::registers,
    },
    Row {
        vendor: nvidia::VENDOR,
        device: None,
        bar: 5,
        doors: nvidia::ports,
    },
    Row {
        vendor: ati::VENDOR,
        device: None,
        bar: 2,
        doors: ati::registers,
    },
    Row {
        vendor: ati::VENDOR,
        device: None,
        bar: 4,
        doors: ati::ports,
    },
    Row {
        vendor: rtl8168::VENDOR,
        device: Some(rtl8168::DEVICE),
        bar: 2,
        doors: rtl8168::registers,
    },
];

/// The doors that a device has in one of its BARs: each within it, and no two in one place.
pub(super) fn in_bar(identity: &Identity<'_>, bar: BarIndex) -> Vec<Box<dyn Quirk>> {
    let Some(size) = identity.bar(bar.0).map(|bar| bar.info.size) else {
        return Vec::new();
    };
    let rows = TABLE.iter().filter(|row| {
        row.vendor == identity.vendor
            && row.device.is_none_or(|device| device == identity.device)
            && row.bar == bar.0
    });
    rows.flat_map(|row| (row.doors)(identity))
        .filter(|quirk| quirk.range().end <= size)
        .collect()
}
