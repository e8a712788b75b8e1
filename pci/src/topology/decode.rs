//! What the functions decode, seen from the processor: every window, cut by the windows
//! of the bridges above it.

use super::{FunctionId, Topology};
use crate::{Bdf, Forwarded, Function, Space, Window};

/// A range of guest addresses that reaches a function's BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Decoded {
    /// Whose.
    pub function: FunctionId,
    /// Where it is now; `None` while its bus has no number.
    pub bdf: Option<Bdf>,
    /// The range. A BAR that is only partly forwarded gives a part of it, or several.
    pub window: Window,
    /// Where in the BAR the range starts.
    pub offset: u64,
}

/// Ranges of one space, in order, that neither touch nor overlap.
#[derive(Clone, Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn new(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn of(forwarded: &[Forwarded], space: Space) -> Self {
        let of_space = forwarded.iter().filter(|range| range.space == space);
        Self::new(of_space.map(|range| (range.first, range.last)).collect())
    }

    /// The parts of `first..=last` that are in these ranges.
    fn clip(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
        self.0
            .iter()
            .map(move |&(a, b)| (a.max(first), b.min(last)))
            .filter(|(a, b)| a <= b)
    }

    fn intersect(&self, other: &Self) -> Self {
        let parts = other.0.iter().flat_map(|&(a, b)| self.clip(a, b));
        Self::new(parts.collect())
    }
}

/// What of the processor's addresses gets to a bus.
#[derive(Clone)]
struct Reach {
    io: Ranges,
    memory: Ranges,
}

impl Reach {
    /// The root bus sees everything there is; ports are 16 bits.
    fn root() -> Self {
        Self {
            io: Ranges(vec![(0, 0xffff)]),
            memory: Ranges(vec![(0, u64::MAX)]),
        }
    }

    fn behind(&self, forwarded: &[Forwarded]) -> Self {
        Self {
            io: self.io.intersect(&Ranges::of(forwarded, Space::Io)),
            memory: self.memory.intersect(&Ranges::of(forwarded, Space::Memory)),
        }
    }

    fn parts(&self, window: &Window) -> impl Iterator<Item = (u64, u64)> {
        let ranges = match window.space {
            Space::Io => &self.io,
            Space::Memory => &self.memory,
        };
        let last = window.base.saturating_add(window.size.saturating_sub(1));
        ranges.clip(window.base, last)
    }
}

impl<F: Function + ?Sized> Topology<F> {
    /// Everything that the functions decode now, as far as the bridges above forward it.
    /// Ranges may overlap each other, as the guest programmed them; those of one BAR do
    /// not.
    pub fn decoded(&self) -> Vec<Decoded> {
        let mut decoded = Vec::new();
        let mut buses = vec![(0, Reach::root())];
        while let Some((bus, reach)) = buses.pop() {
            for (id, place) in self.answering(bus) {
                self.push_windows(id, &place.function, &reach, &mut decoded);
                let bridge = place.function.as_bridge().filter(|b| !b.is_shut());
                if let (Some(bridge), Some(behind)) = (bridge, place.behind) {
                    buses.push((behind, reach.behind(&bridge.forwarded())));
                }
            }
        }
        decoded.sort_by_key(|d| (d.function, d.window.bar, d.window.base));
        decoded
    }

    fn push_windows(&self, id: FunctionId, function: &F, reach: &Reach, into: &mut Vec<Decoded>) {
        let bdf = self.bdf(id);
        for window in function.windows() {
            into.extend(reach.parts(&window).map(|(first, last)| Decoded {
                function: id,
                bdf,
                window: Window {
                    base: first,
                    // Never the whole 64-bit space: no BAR is that large.
                    size: (last - first).saturating_add(1),
                    ..window
                },
                offset: first - window.base,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let range = (0u64..60, 0u64..20).prop_map(|(first, len)| (first, first + len));
        prop::collection::vec(range, 0..6)
    }

    proptest! {
        #[test]
        fn ranges_hold_what_sets_would(a in ranges(), b in ranges(), window in (0u64..60, 0u64..20)) {
            let holds = |r: &[(u64, u64)], x| r.iter().any(|&(first, last)| (first..=last).contains(&x));
            let both = Ranges::new(a.clone()).intersect(&Ranges::new(b.clone()));
            let (first, last) = (window.0, window.0 + window.1);
            let parts: Vec<_> = both.clip(first, last).collect();
            for x in 0..100 {
                let expected = holds(&a, x) && holds(&b, x);
                prop_assert_eq!(holds(&both.0, x), expected);
                let inside = (first..=last).contains(&x);
                prop_assert_eq!(holds(&parts, x), expected && inside);
            }
            for pair in both.0.windows(2) {
                prop_assert!(pair[0].1 + 1 < pair[1].0, "neither touch nor overlap");
            }
        }
    }
}
