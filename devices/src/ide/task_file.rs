//! The task file: what the guest writes before a command, and the address it names.

use serde::Serialize;

use super::registers::{Device, ErrorBits, command_block};

/// A register that remembers its last two writes: 48-bit commands take both (ATA/ATAPI-7
/// vol. 1 §5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Deep {
    /// The last write.
    pub current: u8,
    /// The write before: the "high order byte".
    pub previous: u8,
}

impl Deep {
    fn push(&mut self, value: u8) {
        self.previous = std::mem::replace(&mut self.current, value);
    }

    /// Both, as 48-bit commands take them.
    pub fn wide(self) -> u16 {
        u16::from(self.previous) << 8 | u16::from(self.current)
    }
}

/// How a command names sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Addressing {
    /// Cylinder, head and sector.
    Chs,
    /// 28 bits, the upper four in the Device register.
    Lba28,
    /// 48 bits in registers written twice.
    Lba48,
}

/// Heads and sectors per track, as CHS addresses count them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Geometry {
    /// 1 to 16.
    pub heads: u8,
    /// 1 to 63 (255 by INITIALIZE DEVICE PARAMETERS).
    pub sectors: u8,
}

impl Geometry {
    /// What every drive beyond 528 MB says.
    pub const DEFAULT: Self = Self {
        heads: 16,
        sectors: 63,
    };

    /// Cylinders of a disk of so many sectors.
    pub fn cylinders(self, capacity: u64) -> u16 {
        let per_cylinder = u64::from(self.heads.max(1)) * u64::from(self.sectors.max(1));
        (capacity / per_cylinder).clamp(1, 16383) as u16
    }
}

/// The registers that carry a command's parameters, and its results.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct TaskFile {
    /// Features.
    pub features: Deep,
    /// Sector Count.
    pub count: Deep,
    /// LBA Low.
    pub lba_low: Deep,
    /// LBA Mid.
    pub lba_mid: Deep,
    /// LBA High.
    pub lba_high: Deep,
    /// Device.
    pub device: u8,
}

impl TaskFile {
    /// A write to Features through Device.
    pub fn write(&mut self, offset: u64, value: u8) {
        match offset {
            command_block::ERROR_FEATURES => self.features.push(value),
            command_block::COUNT => self.count.push(value),
            command_block::LBA_LOW => self.lba_low.push(value),
            command_block::LBA_MID => self.lba_mid.push(value),
            command_block::LBA_HIGH => self.lba_high.push(value),
            command_block::DEVICE => self.device = value,
            _ => {}
        }
    }

    /// A read of Sector Count through Device.
    pub fn read(&self, offset: u64, high_order: bool) -> u8 {
        let deep = match offset {
            command_block::COUNT => self.count,
            command_block::LBA_LOW => self.lba_low,
            command_block::LBA_MID => self.lba_mid,
            command_block::LBA_HIGH => self.lba_high,
            command_block::DEVICE => return self.device | 0xa0,
            _ => return 0,
        };
        if high_order {
            deep.previous
        } else {
            deep.current
        }
    }

    /// How a command that is not of the 48-bit set addresses sectors.
    pub fn short_addressing(&self) -> Addressing {
        if Device(self.device).lba() {
            Addressing::Lba28
        } else {
            Addressing::Chs
        }
    }

    /// The first sector addressed.
    pub fn lba(&self, addressing: Addressing, geometry: Geometry) -> Result<u64, ErrorBits> {
        let [low, mid, high] = [self.lba_low, self.lba_mid, self.lba_high];
        let of_three = |bytes: [u8; 3]| {
            u64::from(bytes[0]) | u64::from(bytes[1]) << 8 | u64::from(bytes[2]) << 16
        };
        let head = u64::from(Device(self.device).head());
        let current = of_three([low.current, mid.current, high.current]);
        match addressing {
            Addressing::Lba48 => {
                Ok(of_three([low.previous, mid.previous, high.previous]) << 24 | current)
            }
            Addressing::Lba28 => Ok(head << 24 | current),
            Addressing::Chs => {
                let (cylinder, sector) = (current >> 8, current & 0xff);
                let in_range = head < u64::from(geometry.heads)
                    && (1..=u64::from(geometry.sectors)).contains(&sector);
                if !in_range {
                    return Err(ErrorBits::NOT_FOUND);
                }
                let track = cylinder * u64::from(geometry.heads) + head;
                Ok(track * u64::from(geometry.sectors) + sector - 1)
            }
        }
    }

    /// Sectors asked for: zero means the most there can be.
    pub fn sectors(&self, addressing: Addressing) -> u64 {
        match addressing {
            Addressing::Lba48 => match self.count.wide() {
                0 => 65536,
                n => u64::from(n),
            },
            _ => match self.count.current {
                0 => 256,
                n => u64::from(n),
            },
        }
    }

    /// Shows an address: the last sector, or the one in error.
    pub fn set_lba(&mut self, addressing: Addressing, geometry: Geometry, lba: u64) {
        let bytes = lba.to_le_bytes();
        match addressing {
            Addressing::Lba48 => {
                let deep = |current, previous| Deep { current, previous };
                self.lba_low = deep(bytes[0], bytes[3]);
                self.lba_mid = deep(bytes[1], bytes[4]);
                self.lba_high = deep(bytes[2], bytes[5]);
            }
            Addressing::Lba28 => self.set_current([bytes[0], bytes[1], bytes[2]], bytes[3]),
            Addressing::Chs => {
                let sectors = u64::from(geometry.sectors.max(1));
                let heads = u64::from(geometry.heads.max(1));
                let (track, sector) = (lba / sectors, lba % sectors + 1);
                let (cylinder, head) = (track / heads, track % heads);
                let bytes = cylinder.to_le_bytes();
                self.set_current([sector as u8, bytes[0], bytes[1]], head as u8);
            }
        }
    }

    fn set_current(&mut self, lba: [u8; 3], head: u8) {
        [
            self.lba_low.current,
            self.lba_mid.current,
            self.lba_high.current,
        ] = lba;
        let mut device = Device(self.device);
        device.set_head(head & 0xf);
        self.device = device.0;
    }

    /// The signature that tells a disk from a packet device after a reset or a command the
    /// device has not (ATA/ATAPI-7 vol. 1 §5.15). `device` keeps its DEV bit.
    pub fn set_signature(&mut self, packet: bool) {
        let plain = |current| Deep {
            current,
            previous: 0,
        };
        let (mid, high) = if packet { (0x14, 0xeb) } else { (0, 0) };
        self.count = plain(1);
        self.lba_low = plain(1);
        self.lba_mid = plain(mid);
        self.lba_high = plain(high);
        self.device &= 0x10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_48_bit_address_takes_both_writes() {
        let mut regs = TaskFile::default();
        for (offset, first, second) in [(2, 0x12, 0x34), (3, 4, 1), (4, 5, 2), (5, 6, 3)] {
            regs.write(offset, first);
            regs.write(offset, second);
        }
        let lba = regs.lba(Addressing::Lba48, Geometry::DEFAULT);
        assert_eq!(lba, Ok(0x0605_0403_0201));
        assert_eq!(regs.sectors(Addressing::Lba48), 0x1234);
        assert_eq!(regs.sectors(Addressing::Lba28), 0x34);
        assert_eq!((regs.read(3, false), regs.read(3, true)), (1, 4));
    }

    #[test]
    fn zero_sectors_are_the_most() {
        let regs = TaskFile::default();
        assert_eq!(regs.sectors(Addressing::Lba28), 256);
        assert_eq!(regs.sectors(Addressing::Lba48), 65536);
    }

    #[test]
    fn there_is_no_sector_zero_and_no_seventeenth_head() {
        let mut regs = TaskFile::default();
        assert!(regs.lba(Addressing::Chs, Geometry::DEFAULT).is_err());
        regs.write(3, 1);
        assert_eq!(regs.lba(Addressing::Chs, Geometry::DEFAULT), Ok(0));
        let small = Geometry {
            heads: 4,
            sectors: 17,
        };
        regs.write(6, 0xa4);
        assert!(regs.lba(Addressing::Chs, small).is_err());
        regs.write(6, 0xa3);
        assert_eq!(regs.lba(Addressing::Chs, small), Ok(3 * 17));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_what_was_meant(lba in 0u64..1 << 48, heads in 1u8..=16, sectors in 1u8..=63) {
            let geometry = Geometry { heads, sectors };
            let limit = |a| match a {
                Addressing::Lba48 => 1 << 48,
                Addressing::Lba28 => 1 << 28,
                Addressing::Chs => 65536 * u64::from(heads) * u64::from(sectors),
            };
            for addressing in [Addressing::Chs, Addressing::Lba28, Addressing::Lba48] {
                let lba = lba % limit(addressing);
                let mut regs = TaskFile::default();
                regs.set_lba(addressing, geometry, lba);
                prop_assert_eq!(regs.lba(addressing, geometry), Ok(lba));
            }
        }
    }
}
