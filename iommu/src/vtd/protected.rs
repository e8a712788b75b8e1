//! Protected memory regions (VT-d 4.1 §11.4.8): DMA that no table translates stays out of
//! them. It is blocked and not recorded.

use std::ops::Range;

use super::registers::ProtectedEnable;

/// The regions in force: first and last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Protected {
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

    /// The parts of `range` that may be reached, in order.
    pub fn allowed_parts(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        // Four edges at most, where a part may begin or end.
        let mut edges = vec![range.start, range.end];
        for &(first, last) in self.regions.iter().flatten() {
            edges.extend([first, last.saturating_add(1)]);
        }
        edges.retain(|edge| (range.start..=range.end).contains(edge));
        edges.sort_unstable();
        let this = *self;
        let parts: Vec<_> = edges.windows(2).map(|edge| edge[0]..edge[1]).collect();
        parts
            .into_iter()
            .filter(move |part| !part.is_empty() && this.allowed(part.start, 1).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_is_between_the_regions() {
        let protected = Protected::new((0x20_0000, 0x20_0000), (0x50_0000, 0x60_0000));
        let parts = |range| protected.allowed_parts(range).collect::<Vec<_>>();
        let all = [0..0x20_0000, 0x30_0000..0x50_0000, 0x70_0000..0x100_0000];
        assert_eq!(parts(0..0x100_0000), all);
        assert_eq!(parts(0x20_0000..0x30_0000), []);
        assert_eq!(
            parts(0x28_0000..0x31_0000).first(),
            Some(&(0x30_0000..0x31_0000))
        );
        let overlapping = Protected::new((0x20_0000, 0x40_0000), (0x30_0000, 0x60_0000));
        let parts: Vec<_> = overlapping.allowed_parts(0..0x100_0000).collect();
        assert_eq!(parts, [0..0x20_0000, 0x70_0000..0x100_0000]);
        let none = Protected::default();
        assert_eq!(none.allowed_parts(5..9).next(), Some(5..9));
    }
}
