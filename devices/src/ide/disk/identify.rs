//! IDENTIFY DEVICE data (ATA/ATAPI-7 vol. 1 §6.17, ACS-2 §7.13) and what IDENTIFY PACKET
//! DEVICE shares with it.

use super::{Disk, TransferMode};
use crate::ide::task_file::Geometry;

/// 256 words of identity.
pub struct IdentityData([u16; 256]);

impl IdentityData {
    /// All zero.
    pub fn new() -> Self {
        Self([0; 256])
    }

    /// Sets a word.
    pub fn word(&mut self, index: usize, value: u16) -> &mut Self {
        self.0[index] = value;
        self
    }

    /// Sets two words, low first.
    pub fn long(&mut self, index: usize, value: u32) -> &mut Self {
        self.word(index, value as u16)
            .word(index + 1, (value >> 16) as u16)
    }

    /// Sets a text: padded with spaces, the first character of each pair in the upper byte.
    pub fn text(&mut self, index: usize, words: usize, text: &str) -> &mut Self {
        let printable = |b: u8| if (0x20..0x7f).contains(&b) { b } else { b' ' };
        let mut bytes = text.bytes().map(printable).chain(std::iter::repeat(b' '));
        for word in &mut self.0[index..index + words] {
            let pair = [bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' ')];
            *word = u16::from_be_bytes(pair);
        }
        self
    }

    /// Transfer modes supported and selected: words 49, 53, 62 to 68 and 88.
    pub fn transfer_modes(&mut self, selected: TransferMode) -> &mut Self {
        let chosen = |mode: Option<u8>| mode.map_or(0, |n| 1u16 << (8 + n));
        let (multiword, ultra) = match selected {
            TransferMode::Pio => (None, None),
            TransferMode::Multiword(n) => (Some(n), None),
            TransferMode::Ultra(n) => (None, Some(n)),
        };
        self.word(49, 1 << 11 | 1 << 10 | 1 << 9 | 1 << 8)
            .word(53, 1 << 2 | 1 << 1)
            .word(63, 0x0007 | chosen(multiword))
            .word(64, 0x0003);
        for cycle_time in 65..=68 {
            self.word(cycle_time, 120);
        }
        self.word(88, 0x003f | chosen(ultra))
    }

    /// The bytes as they go over the bus, with the integrity word (word 255).
    pub fn finish(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes[510] = 0xa5;
        let sum = bytes[..511].iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
        bytes[511] = sum.wrapping_neg();
        bytes
    }
}

impl Disk {
    /// The 512 bytes of IDENTIFY DEVICE.
    pub(super) fn identify(&self, can_discard: bool) -> Vec<u8> {
        let default = Geometry::DEFAULT;
        let cylinders = default.cylinders(self.capacity);
        let current = self.settings.geometry;
        let current_cylinders = current.cylinders(self.capacity);
        let chs_capacity =
            u32::from(current_cylinders) * u32::from(current.heads) * u32::from(current.sectors);
        // NOP, look-ahead, write cache, power management; then FLUSH CACHE (EXT) and 48-bit
        // addresses; then FUA writes. Bit 14 of word 83 and 84 says that they are valid.
        let (set_1, set_2, set_3) = (0x4068, 0x7400, 0x4040);
        let mut enabled_1 = set_1;
        if !self.settings.write_cache {
            enabled_1 &= !(1 << 5);
        }
        if !self.settings.look_ahead {
            enabled_1 &= !(1 << 6);
        }
        let multiple = match self.settings.multiple {
            0 => 0,
            n => 1 << 8 | u16::from(n),
        };
        let mut data = IdentityData::new();
        data.word(0, 0x0040)
            .word(1, cylinders)
            .word(3, u16::from(default.heads))
            .word(6, u16::from(default.sectors))
            .text(10, 10, &self.identity.serial)
            .text(23, 4, &self.identity.firmware)
            .text(27, 20, &self.identity.model)
            .word(47, 0x8000 | u16::from(Self::MOST_MULTIPLE))
            .transfer_modes(self.settings.transfer_mode)
            .word(50, 1 << 14)
            .word(51, 0x0200)
            .word(53, 0x0007)
            .word(54, current_cylinders)
            .word(55, u16::from(current.heads))
            .word(56, u16::from(current.sectors))
            .long(57, chs_capacity)
            .word(59, multiple)
            .long(60, self.capacity.min(0x0fff_ffff) as u32)
            // ATA-4 to ATA/ATAPI-7.
            .word(80, 0x00f0)
            .word(82, set_1)
            .word(83, set_2)
            .word(84, set_3)
            .word(85, enabled_1)
            .word(86, 0x3400)
            .word(87, set_3)
            // Device 0, jumpers, diagnostics passed, 80-wire cable.
            .word(93, 0x6001 | if self.second { 0x0200 } else { 0x0008 })
            .long(100, self.capacity as u32)
            .long(102, (self.capacity >> 32) as u32)
            // No seek penalty.
            .word(217, 1);
        if can_discard {
            data.word(105, u16::from(Self::MOST_TRIM_BLOCKS))
                .word(169, 1);
        }
        data.finish()
    }
}
