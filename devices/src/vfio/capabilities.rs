//! The capabilities of a real device (PCIe 6.0 §7.5.3 on, §7.6): found by walking its lists,
//! which a broken or hostile device may have bent into anything.

use std::collections::BTreeSet;

/// The device's config space as it was when it was taken. Beyond its end all is zero.
pub(super) struct Snapshot(pub Vec<u8>);

impl Snapshot {
    pub fn u8(&self, offset: u16) -> u8 {
        self.0.get(usize::from(offset)).copied().unwrap_or(0)
    }

    pub fn u16(&self, offset: u16) -> u16 {
        let next = offset.saturating_add(1);
        u16::from_le_bytes([self.u8(offset), self.u8(next)])
    }

    pub fn u32(&self, offset: u16) -> u32 {
        let next = offset.saturating_add(2);
        u32::from(self.u16(next)) << 16 | u32::from(self.u16(offset))
    }
}

/// Capability IDs whose length is known (PCI Code and ID Assignment 1.15 §2).
pub(super) mod id {
    pub const POWER_MANAGEMENT: u16 = 0x01;
    pub const VPD: u16 = 0x03;
    pub const MSI: u16 = 0x05;
    pub const MSIX: u16 = 0x11;
    pub const SATA: u16 = 0x12;
    pub const ADVANCED_FEATURES: u16 = 0x13;
}

/// The first byte of the capabilities, and of the extended ones.
pub(super) const FIRST: u16 = 0x40;
pub(super) const EXTENDED: u16 = 0x100;
const END: u16 = 0x1000;

/// A capability in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub id: u16,
    pub offset: u16,
    /// Bytes up to the next capability or the end of the space.
    pub room: u16,
}

/// The capabilities of the first 256 bytes, in the order of the list.
pub(super) fn capabilities(config: &Snapshot) -> Vec<Found> {
    const STATUS: u16 = 0x06;
    const HAS_LIST: u16 = 1 << 4;
    const POINTER: u16 = 0x34;
    if config.u16(STATUS) & HAS_LIST == 0 {
        return Vec::new();
    }
    let next = |at: u16| u16::from(config.u8(at) & 0xfc);
    let places = follow(next(POINTER), FIRST, EXTENDED, |at| next(at + 1));
    let id = |at| u16::from(config.u8(at));
    measure(places, EXTENDED, id)
}

/// The extended capabilities, in the order of the list.
pub(super) fn extended_capabilities(config: &Snapshot) -> Vec<Found> {
    // A header of all zeros at 100h says that there are none; all ones, that there is no
    // extended space.
    if config.0.len() <= usize::from(EXTENDED) || matches!(config.u32(EXTENDED), 0 | u32::MAX) {
        return Vec::new();
    }
    let next = |at: u16| (config.u32(at) >> 20) as u16 & 0xffc;
    let places = follow(EXTENDED, EXTENDED, END, next);
    measure(places, END, |at| config.u16(at))
}

/// Follows links from `first` while they lie in `low..high` and lead somewhere new.
fn follow(first: u16, low: u16, high: u16, next: impl Fn(u16) -> u16) -> Vec<u16> {
    let mut places = Vec::new();
    let mut at = first;
    while (low..high).contains(&at) && !places.contains(&at) {
        places.push(at);
        at = next(at);
    }
    places
}

fn measure(places: Vec<u16>, end: u16, id: impl Fn(u16) -> u16) -> Vec<Found> {
    let sorted: BTreeSet<u16> = places.iter().copied().collect();
    let found = places.into_iter().map(|offset| {
        let after = sorted.range(offset + 1..).next().copied().unwrap_or(end);
        Found {
            id: id(offset),
            offset,
            room: after - offset,
        }
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(bytes: &[(usize, u8)]) -> Snapshot {
        let mut config = vec![0; 4096];
        config[6] = 0x10;
        for &(at, byte) in bytes {
            config[at] = byte;
        }
        Snapshot(config)
    }

    #[test]
    fn finds_the_list_in_its_order() {
        let config = with(&[(0x34, 0x80), (0x80, 0x11), (0x81, 0x40), (0x40, 0x01)]);
        let found = capabilities(&config);
        assert_eq!(
            found,
            [
                Found {
                    id: 0x11,
                    offset: 0x80,
                    room: 0x80
                },
                Found {
                    id: 0x01,
                    offset: 0x40,
                    room: 0x40
                },
            ]
        );
    }

    #[test]
    fn ends_where_the_list_loops_or_points_into_the_header() {
        let looped = with(&[
            (0x34, 0x40),
            (0x40, 1),
            (0x41, 0x50),
            (0x50, 5),
            (0x51, 0x40),
        ]);
        assert_eq!(capabilities(&looped).len(), 2);
        let header = with(&[(0x34, 0x40), (0x40, 1), (0x41, 0x10)]);
        assert_eq!(capabilities(&header).len(), 1);
        let own = with(&[(0x34, 0x40), (0x40, 1), (0x41, 0x43)]);
        assert_eq!(capabilities(&own).len(), 1);
    }

    #[test]
    fn no_list_without_its_status_bit() {
        let mut config = with(&[(0x34, 0x40), (0x40, 1)]);
        config.0[6] = 0;
        assert!(capabilities(&config).is_empty());
    }

    proptest! {
        #[test]
        fn any_config_space_ends(bytes in prop::collection::vec(any::<u8>(), 0..=4096)) {
            let config = Snapshot(bytes);
            for (found, low, high) in [
                (capabilities(&config), FIRST, EXTENDED),
                (extended_capabilities(&config), EXTENDED, END),
            ] {
                for cap in found {
                    prop_assert!(cap.offset >= low && cap.offset % 4 == 0);
                    prop_assert!(cap.room >= 4 && cap.offset + cap.room <= high);
                }
            }
        }
    }
}
