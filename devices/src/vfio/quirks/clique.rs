//! GPUDirect cliques: a vendor-specific capability, made by the monitor, that tells NVIDIA's
//! driver in a guest which of its GPUs may reach each other's memory directly. The driver does
//! not try it otherwise, as it cannot see what the host's bridges do.

use std::fmt;
use std::str::FromStr;

/// The number of a clique: GPUs with the same one may reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Clique(u8);

/// No number of a clique.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is no clique; write a number from 0 to 15")]
pub struct NoClique(String);

impl FromStr for Clique {
    type Err = NoClique;

    fn from_str(text: &str) -> Result<Self, NoClique> {
        match text.parse() {
            Ok(number @ 0..=15) => Ok(Self(number)),
            _ => Err(NoClique(text.to_owned())),
        }
    }
}

impl fmt::Display for Clique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes of the capability.
pub(in crate::vfio) const LEN: u16 = 8;

/// The places at which the driver looks for it, in that order: C8h, and D4h for generations
/// with another capability there.
const PLACES: [u16; 2] = [0xc8, 0xd4];

impl Clique {
    /// The two dwords of the capability, its list pointer left zero: ID and length, then the
    /// signature "P2P" across both, the version (0) and, from bit 19, the number.
    pub(in crate::vfio) fn dwords(self) -> [u32; 2] {
        const VENDOR_SPECIFIC: u32 = 0x09;
        let signature = u32::from_le_bytes(*b"P2P\0");
        let first = VENDOR_SPECIFIC | u32::from(LEN) << 16 | signature << 24;
        let second = signature >> 8 & 0xffff | u32::from(self.0) << 19;
        [first, second]
    }
}

/// The first place that is free, as `is_free` says of a range of bytes.
pub(in crate::vfio) fn place(is_free: impl Fn(std::ops::Range<u16>) -> bool) -> Option<u16> {
    PLACES.into_iter().find(|&at| is_free(at..at + LEN))
}

/// True for devices whose driver looks for it.
pub(in crate::vfio) fn applies_to(vendor: u16, base_class: u8) -> bool {
    vendor == super::nvidia::VENDOR && u16::from(base_class) == super::DISPLAY
}
