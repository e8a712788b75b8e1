//! The model at the hands of a hostile guest: functions of arbitrary bytes that must neither
//! panic nor hang, for property tests here and for fuzz targets. They check what must hold
//! whatever the bytes are.

pub use crate::topology::fuzz::config;

/// Hands out bytes until there are no more, then zeros.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of these.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Those not yet handed out.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// There are no more.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `N`.
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let n = N.min(self.0.len());
        let (now, later) = self.0.split_at(n);
        bytes[..n].copy_from_slice(now);
        self.0 = later;
        bytes
    }

    /// The next one.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    /// The next two.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// The next four.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// The next eight.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
