//! Config cycles: a dword register and byte enables (PCI 3.0 §3.2.2.3, PCIe 6.0 §2.2.7).
//!
//! Every access, however narrow or crooked, is turned into these before it reaches a
//! function, so no function can get an 8- or 16-bit write wrong.

/// A dword-aligned register of a function's 4 KiB config space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Register(u16);

impl Register {
    /// The register that holds byte `offset`; offsets wrap at 4 KiB.
    pub const fn containing(offset: u16) -> Self {
        Self(offset & 0xffc)
    }

    /// Byte offset, a multiple of four below 4096.
    pub const fn offset(self) -> u16 {
        self.0
    }
}

/// A write of up to four bytes to one register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigWrite {
    register: Register,
    value: u32,
    mask: u32,
}

impl ConfigWrite {
    /// A write of the bytes of `value` whose bits are set in `enables` (bit 0 for byte 0).
    pub const fn new(register: Register, value: u32, enables: u8) -> Self {
        let mut mask = 0;
        let mut byte = 0;
        while byte < 4 {
            if enables & 1 << byte != 0 {
                mask |= 0xff << (8 * byte);
            }
            byte += 1;
        }
        Self {
            register,
            value: value & mask,
            mask,
        }
    }

    /// The register written.
    pub const fn register(&self) -> Register {
        self.register
    }

    /// The bits written, zero where a byte is not enabled.
    pub const fn value(&self) -> u32 {
        self.value
    }

    /// All ones in every enabled byte.
    pub const fn mask(&self) -> u32 {
        self.mask
    }

    /// `old` with the enabled bytes replaced.
    pub const fn merge(&self, old: u32) -> u32 {
        old & !self.mask | self.value
    }
}
