//! The bytes of a config space, and which of their bits answer to a write.

use crate::registers::offset;
use crate::{ConfigWrite, Register};

const DWORDS: usize = 1024;

type Dwords = Box<[u32; DWORDS]>;

/// 4 KiB as dwords: what they hold, what they hold after a reset, which bits software
/// writes and which it clears by writing ones.
#[derive(Clone)]
pub(crate) struct Image {
    values: Dwords,
    at_reset: Dwords,
    writable: Dwords,
    clearable: Dwords,
    /// Dwords that mean something, so that capabilities are not laid over them.
    defined: [u64; DWORDS / 64],
}

fn index(register: Register) -> usize {
    usize::from(register.offset() >> 2) % DWORDS
}

impl Image {
    pub fn new() -> Self {
        let zeros = || Box::new([0; DWORDS]);
        Self {
            values: zeros(),
            at_reset: zeros(),
            writable: zeros(),
            clearable: zeros(),
            defined: [0; DWORDS / 64],
        }
    }

    /// Says what a register is: its value now and after reset, and its masks.
    pub fn define(&mut self, register: Register, value: u32, writable: u32, clearable: u32) {
        let i = index(register);
        self.values[i] = value;
        self.at_reset[i] = value;
        self.writable[i] = writable;
        self.clearable[i] = clearable;
        self.defined[i / 64] |= 1 << (i % 64);
    }

    /// Changes bits of a register, now and after reset, and leaves its masks.
    pub fn define_bits(&mut self, register: Register, mask: u32, value: u32) {
        let i = index(register);
        self.values[i] = self.values[i] & !mask | value & mask;
        self.at_reset[i] = self.at_reset[i] & !mask | value & mask;
        self.defined[i / 64] |= 1 << (i % 64);
    }

    /// Replaces the writable bits among `mask`.
    pub fn set_writable(&mut self, register: Register, mask: u32, writable: u32) {
        let i = index(register);
        self.writable[i] = self.writable[i] & !mask | writable & mask;
    }

    pub fn get(&self, register: Register) -> u32 {
        self.values[index(register)]
    }

    /// The device's own hand: no masks.
    pub fn put(&mut self, register: Register, value: u32) {
        self.values[index(register)] = value;
    }

    /// The guest's hand.
    pub fn write(&mut self, write: ConfigWrite) {
        let i = index(write.register());
        let writable = self.writable[i] & write.mask();
        let merged = self.values[i] & !writable | write.value() & writable;
        self.values[i] = merged & !(write.value() & self.clearable[i]);
    }

    pub fn reset(&mut self) {
        *self.values = *self.at_reset;
    }

    pub fn get_u8(&self, offset: u16) -> u8 {
        (self.get(Register::containing(offset)) >> (8 * (offset & 3))) as u8
    }

    pub fn get_u16(&self, offset: u16) -> u16 {
        u16::from_le_bytes([self.get_u8(offset), self.get_u8(offset.wrapping_add(1))])
    }

    pub fn put_u8(&mut self, offset: u16, value: u8) {
        let register = Register::containing(offset);
        let write = ConfigWrite::new(
            register,
            u32::from(value) << (8 * (offset & 3)),
            1 << (offset & 3),
        );
        self.put(register, write.merge(self.get(register)));
    }

    pub fn put_u16(&mut self, offset: u16, value: u16) {
        let [low, high] = value.to_le_bytes();
        self.put_u8(offset, low);
        self.put_u8(offset.wrapping_add(1), high);
    }

    fn is_defined(&self, dword: usize) -> bool {
        self.defined[dword / 64 % self.defined.len()] & 1 << (dword % 64) != 0
    }

    /// True if `dwords` registers from `start` lie below `end` and none is defined.
    pub fn is_free(&self, start: u16, dwords: usize, end: u16) -> bool {
        let first = usize::from(start / 4);
        let last = first + dwords;
        last <= usize::from(end / 4) && !(first..last).any(|i| self.is_defined(i))
    }

    /// The first free run of `dwords` registers in `start..end`.
    pub fn find_free(&self, dwords: usize, start: u16, end: u16) -> Option<u16> {
        (start..end)
            .step_by(4)
            .find(|&at| self.is_free(at, dwords, end))
    }

    /// The registers up to the last one that is defined, at least 256 bytes.
    pub fn dump(&self) -> Vec<u32> {
        let last = (0..DWORDS).rev().find(|&i| self.is_defined(i)).unwrap_or(0);
        let len = (last + 1).max(usize::from(offset::EXTENDED / 4));
        self.values[..len].to_vec()
    }
}
