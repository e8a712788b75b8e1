//! Protected memory regions (VT-d 4.1 §11.4.8): DMA that no table translates stays out of
//! them. It is blocked and not recorded.

use super::registers::ProtectedEnable;

/// The regions in force: first and last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Protected {
    regions: [Option<(u64, u64)>; 2],
}

impl Protected {
    /// The regions that the base and limit registers name. One whose limit is below its base
    /// is none.
    pub fn new(low: (u32, u32), high: (u64, u64)) -> Self {
        let region = |(base, limit): (u64, u64)| {
            let last = limit | (ProtectedEnable::GRANULE - 1);
            (limit >= base).then_some((base, last))
        };
        Self {
            regions: [region((low.0.into(), low.1.into())), region(high)],
        }
    }

    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// How many of `len` bytes at `address` may be reached; none if the first may not.
    pub fn allowed(&self, address: u64, len: u64) -> Option<u64> {
        let mut len = len;
        for &(first, last) in self.regions.iter().flatten() {
            if (first..=last).contains(&address) {
                return None;
            }
            if address < first {
                len = len.min(first - address);
            }
        }
        Some(len)
    }
}
