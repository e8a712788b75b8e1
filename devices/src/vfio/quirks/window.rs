//! A pair of registers, an address and the data there, through which a device's own registers
//! are reached, its config space among them.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Quirk, Surroundings};

/// Addresses behind the pair at which there is config space.
#[derive(Clone, Copy)]
pub(super) struct Behind {
    pub start: u32,
    /// 256 or 4096 bytes.
    pub len: u32,
}

/// The pair. What is reached through it that is not config space goes to the device.
pub(super) struct AddressWindow {
    name: &'static str,
    /// The range in the BAR of both registers, and of others that go to the device.
    range: Range<u64>,
    address_at: u64,
    data_at: u64,
    behind: &'static [Behind],
    /// Registers whose lowest bits must all be set for the pair to work.
    enables: &'static [u64],
    address: AtomicU32,
    /// A bit for each of `enables` that is set.
    enabled: AtomicU32,
}

impl AddressWindow {
    pub fn new(
        name: &'static str,
        range: Range<u64>,
        address_at: u64,
        behind: &'static [Behind],
        enables: &'static [u64],
    ) -> Self {
        Self {
            name,
            range,
            address_at,
            data_at: address_at + 4,
            behind,
            enables,
            address: AtomicU32::new(0),
            enabled: AtomicU32::new(0),
        }
    }

    /// Where in config space the access to the data register goes, if there.
    fn config(&self, offset: u64, len: usize) -> Option<u16> {
        let lane = offset.checked_sub(self.data_at).filter(|lane| *lane < 4)?;
        let all = (1u32 << self.enables.len()) - 1;
        let works = self.enabled.load(Ordering::Relaxed) == all;
        let address = self
            .address
            .load(Ordering::Relaxed)
            .wrapping_add(lane as u32);
        let at = self.behind.iter().find_map(|behind| {
            let at = address.checked_sub(behind.start)?;
            (at < behind.len).then_some(at as u16)
        })?;
        (works && lane as usize + len <= 4).then_some(at)
    }

    fn remember(&self, offset: u64, data: &[u8]) {
        let mut word = [0; 4];
        let len = data.len().min(4);
        for (to, from) in word.iter_mut().zip(data) {
            *to = *from;
        }
        let value = u32::from_le_bytes(word);
        if offset == self.address_at && len == 4 {
            self.address.store(value, Ordering::Relaxed);
        }
        for (bit, _) in (0..).zip(self.enables).filter(|(_, at)| **at == offset) {
            if value & 1 != 0 {
                self.enabled.fetch_or(1 << bit, Ordering::Relaxed);
            } else {
                self.enabled.fetch_and(!(1 << bit), Ordering::Relaxed);
            }
        }
    }
}

impl Quirk for AddressWindow {
    fn name(&self) -> &'static str {
        self.name
    }

    fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    fn read(&self, around: &dyn Surroundings, offset: u64, data: &mut [u8]) {
        match self.config(offset, data.len()) {
            Some(at) => pci::read_bytes(at, data, |register| around.read_config(register)),
            None => around.read_device(offset, data),
        }
    }

    fn write(&self, around: &dyn Surroundings, offset: u64, data: &[u8]) {
        match self.config(offset, data.len()) {
            Some(at) => pci::write_bytes(at, data, |write| around.write_config(write)),
            None => {
                self.remember(offset, data);
                around.write_device(offset, data);
            }
        }
    }

    fn reset(&self) {
        self.address.store(0, Ordering::Relaxed);
        self.enabled.store(0, Ordering::Relaxed);
    }
}
