//! A range of a BAR in which a device shows its config space once more.

use std::ops::Range;

use super::{Quirk, Surroundings};

/// A copy of config space.
#[derive(Clone, Copy)]
pub(super) struct Mirror {
    pub name: &'static str,
    /// Where it starts in the BAR.
    pub start: u64,
    /// As much of config space as is shown: 256 or 4096 bytes.
    pub len: u64,
    /// A write to the first byte of the MSI capability, which is read-only in config space,
    /// tells the device that an interrupt has been served.
    pub acknowledges_msi: bool,
}

impl Quirk for Mirror {
    fn name(&self) -> &'static str {
        self.name
    }

    fn range(&self) -> Range<u64> {
        self.start..self.start + self.len
    }

    fn read(&self, around: &dyn Surroundings, offset: u64, data: &mut [u8]) {
        let at = (offset - self.start) as u16;
        pci::read_bytes(at, data, |register| around.read_config(register));
    }

    fn write(&self, around: &dyn Surroundings, offset: u64, data: &[u8]) {
        let at = (offset - self.start) as u16;
        pci::write_bytes(at, data, |write| around.write_config(write));
        let msi = around.msi().filter(|_| self.acknowledges_msi);
        let byte = msi.and_then(|msi| data.get(usize::from(msi.checked_sub(at)?)));
        if let (Some(msi), Some(byte)) = (msi, byte) {
            // That byte alone: what follows it is the real message control.
            around.write_device(self.start + u64::from(msi), &[*byte]);
        }
    }
}
