//! Accesses of any length and alignment, cut into dwords.

use crate::{ConfigWrite, Register};

/// The part of an access that falls in one dword.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Offset of the dword, a multiple of four.
    pub base: u64,
    /// Where the part starts in the access.
    at: usize,
    /// Bytes, 1 to 4.
    len: usize,
    /// The first byte of the dword that is accessed, 0 to 3.
    lane: usize,
}

/// Cuts an access of `len` bytes at `offset`; offsets wrap.
pub(crate) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = len.checked_sub(at).filter(|&left| left > 0)?;
        let here = offset.wrapping_add(at as u64);
        let lane = (here & 3) as usize;
        let piece = Piece {
            base: here & !3,
            at,
            len: left.min(4 - lane),
            lane,
        };
        at += piece.len;
        Some(piece)
    })
}

impl Piece {
    /// Copies the part of `value` that is accessed to its place in `data`.
    pub fn fill(&self, value: u32, data: &mut [u8]) {
        let bytes = value.to_le_bytes();
        let from = bytes.iter().skip(self.lane).take(self.len);
        for (to, byte) in data.iter_mut().skip(self.at).zip(from) {
            *to = *byte;
        }
    }

    /// The bytes of `data` that go to this dword, as a config write.
    pub fn write(&self, register: Register, data: &[u8]) -> ConfigWrite {
        let mut bytes = [0; 4];
        let from = data.iter().skip(self.at).take(self.len);
        for (to, byte) in bytes.iter_mut().skip(self.lane).zip(from) {
            *to = *byte;
        }
        let enables = ((1u8 << self.len) - 1) << self.lane;
        ConfigWrite::new(register, u32::from_le_bytes(bytes), enables)
    }

    /// `old` with the bytes of `data` that go to this dword.
    pub fn merge(&self, old: u32, data: &[u8]) -> u32 {
        self.write(Register::containing(0), data).merge(old)
    }
}

/// Reads any bytes of a function's config space through its registers. Offsets wrap at
/// 4 KiB.
pub fn read_bytes(offset: u16, data: &mut [u8], mut read: impl FnMut(Register) -> u32) {
    for piece in pieces(u64::from(offset), data.len()) {
        let value = read(Register::containing(piece.base as u16));
        piece.fill(value, data);
    }
}

/// Writes any bytes of a function's config space through its registers, in ascending
/// order. Offsets wrap at 4 KiB.
pub fn write_bytes(offset: u16, data: &[u8], mut write: impl FnMut(ConfigWrite)) {
    for piece in pieces(u64::from(offset), data.len()) {
        write(piece.write(Register::containing(piece.base as u16), data));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_word_across_dwords_is_two_writes() {
        let mut writes = Vec::new();
        write_bytes(0x13, &[0xaa, 0xbb], |w| writes.push(w));
        let write = |at, value, enables| ConfigWrite::new(Register::containing(at), value, enables);
        assert_eq!(
            writes,
            [write(0x10, 0xaa00_0000, 0b1000), write(0x14, 0xbb, 0b0001)]
        );
    }

    #[test]
    fn nothing_is_no_access() {
        read_bytes(0xfff, &mut [], |_| panic!("read"));
        write_bytes(0xfff, &[], |_| panic!("write"));
    }

    proptest! {
        #[test]
        fn every_byte_goes_where_it_should(offset in 0u16..0x1000, data in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut memory = vec![0u8; 0x1000];
            let mut expected = memory.clone();
            for (i, byte) in data.iter().enumerate() {
                expected[(usize::from(offset) + i) % 0x1000] = *byte;
            }
            write_bytes(offset, &data, |w| {
                let at = usize::from(w.register().offset());
                let old = u32::from_le_bytes(memory[at..at + 4].try_into().unwrap());
                memory[at..at + 4].copy_from_slice(&w.merge(old).to_le_bytes());
            });
            prop_assert!(memory == expected);
            let mut seen = vec![0; data.len()];
            read_bytes(offset, &mut seen, |r| {
                let at = usize::from(r.offset());
                u32::from_le_bytes(memory[at..at + 4].try_into().unwrap())
            });
            prop_assert_eq!(seen, data);
        }
    }
}
