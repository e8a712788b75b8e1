//! Base address registers: kinds, sizing and where they decode (PCIe 6.0 §7.5.1.2.1).

use super::image::Image;
use crate::{BarIndex, Command, Register, Space, Window};

/// What a base address register claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub enum BarKind {
    /// Ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects and writes may be merged.
        prefetchable: bool,
    },
    /// Memory anywhere; takes two registers.
    Memory64 {
        /// Reads have no side effects and writes may be merged.
        prefetchable: bool,
    },
}

/// A base address register that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BarError {
    /// No such register in this type of header.
    #[error("this function has no BAR {0}")]
    NoSuchBar(u8),
    /// The register is taken, perhaps as the upper half of a 64-bit one.
    #[error("BAR {0} is in use")]
    InUse(u8),
    /// Sizes are powers of two within the kind's limits.
    #[error("BAR {index} cannot be {size:#x} bytes long")]
    Size {
        /// Which.
        index: u8,
        /// The size asked for.
        size: u64,
    },
    /// An expansion ROM is 32-bit memory.
    #[error("an expansion ROM is 32-bit memory that is not prefetchable")]
    RomKind,
}

/// One base address register, or pair of them, of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bar {
    pub index: BarIndex,
    pub kind: BarKind,
    pub size: u64,
    pub register: Register,
}

impl Bar {
    pub fn new(
        index: BarIndex,
        kind: BarKind,
        size: u64,
        register: Register,
    ) -> Result<Self, BarError> {
        let (least, most) = match kind {
            _ if index == BarIndex::ROM => (1 << 11, 1 << 24),
            // More than the 256 bytes that are allowed, as real devices took more.
            BarKind::Io => (4, 1 << 16),
            BarKind::Memory32 { .. } => (16, 1 << 31),
            BarKind::Memory64 { .. } => (16, 1 << 62),
        };
        if !size.is_power_of_two() || !(least..=most).contains(&size) {
            let index = index.0;
            return Err(BarError::Size { index, size });
        }
        if index == BarIndex::ROM
            && kind
                != (BarKind::Memory32 {
                    prefetchable: false,
                })
        {
            return Err(BarError::RomKind);
        }
        Ok(Self {
            index,
            kind,
            size,
            register,
        })
    }

    pub fn is_wide(&self) -> bool {
        matches!(self.kind, BarKind::Memory64 { .. })
    }

    fn upper(&self) -> Register {
        Register::containing(self.register.offset() + 4)
    }

    /// The read-only low bits that say the kind.
    fn flags(&self) -> u32 {
        match self.kind {
            _ if self.index == BarIndex::ROM => 0,
            BarKind::Io => 1,
            BarKind::Memory32 { prefetchable } => u32::from(prefetchable) << 3,
            BarKind::Memory64 { prefetchable } => u32::from(prefetchable) << 3 | 0b100,
        }
    }

    /// The address bits that software can write; sizing reads these back.
    fn address_mask(&self) -> u64 {
        let mask = !(self.size - 1);
        if self.is_wide() {
            mask
        } else {
            mask & 0xffff_ffff
        }
    }

    /// Lays the register into `image`.
    pub fn define(&self, image: &mut Image) {
        let mask = self.address_mask();
        let enable = u32::from(self.index == BarIndex::ROM);
        image.define(self.register, self.flags(), mask as u32 | enable, 0);
        if self.is_wide() {
            image.define(self.upper(), 0, (mask >> 32) as u32, 0);
        }
    }

    /// Lays the register anew where it was already, after its size changed: of the address in
    /// it remain the bits that it still has.
    pub fn resize(&self, image: &mut Image) {
        let mask = self.address_mask();
        let low = mask as u32;
        image.set_writable(self.register, u32::MAX, low);
        image.put(
            self.register,
            image.get(self.register) & (low | self.flags()),
        );
        if self.is_wide() {
            let high = (mask >> 32) as u32;
            image.set_writable(self.upper(), u32::MAX, high);
            image.put(self.upper(), image.get(self.upper()) & high);
        }
    }

    /// The range decoded now, if any.
    pub fn window(&self, image: &Image, command: Command) -> Option<Window> {
        let low = image.get(self.register);
        let (space, enabled) = match self.kind {
            BarKind::Io => (Space::Io, command.io_space()),
            _ => (Space::Memory, command.memory_space()),
        };
        let rom_off = self.index == BarIndex::ROM && low & 1 == 0;
        if !enabled || rom_off {
            return None;
        }
        let mask = self.address_mask();
        let high = if self.is_wide() {
            image.get(self.upper())
        } else {
            0
        };
        let base = (u64::from(high) << 32 | u64::from(low)) & mask;
        (base != 0 && !self.is_being_sized(base)).then_some(Window {
            bar: self.index,
            space,
            base,
            size: self.size,
        })
    }

    /// All ones in the address bits of either half: the guest asks for the size. Nothing
    /// is ever placed there: it is the very end of the 32-bit or 64-bit space.
    fn is_being_sized(&self, base: u64) -> bool {
        let mask = self.address_mask();
        let (low, high) = (mask & 0xffff_ffff, mask >> 32);
        if !self.is_wide() {
            return base == mask;
        }
        base >> 32 == high || (base >> 32 == 0 && low != 0 && base == low)
    }
}
