//! The two address spaces a vCPU exits into, ports and memory: who answers at an address.
//!
//! Looked up on every exit, changed when a BAR moves. A lookup takes no lock: it loads an
//! immutable sorted snapshot; a change makes a new one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use devices::bus::Region;

/// A region in its place.
struct Range {
    base: u64,
    last: u64,
    region: Arc<dyn Region>,
    usage: Arc<Usage>,
}

/// How often a named region was accessed through exits.
#[derive(Debug, Default)]
pub struct Usage {
    /// The region's name, such as `e1000/bar0`.
    pub name: String,
    /// Reads dispatched.
    pub reads: AtomicU64,
    /// Writes dispatched, deferred ones included.
    pub writes: AtomicU64,
}

/// A range that would overlap another.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name} at {base:#x}-{last:#x} overlaps {other}")]
pub struct Overlap {
    name: String,
    base: u64,
    last: u64,
    other: String,
}

/// An address space.
#[derive(Default)]
pub struct Bus {
    ranges: ArcSwap<Vec<Arc<Range>>>,
    edit: Mutex<Vec<Arc<Usage>>>,
}

impl Bus {
    /// Lets `region` answer at `base..base + size`. `size` is not zero.
    pub fn insert(
        &self,
        base: u64,
        size: u64,
        name: &str,
        region: Arc<dyn Region>,
    ) -> Result<(), Overlap> {
        let mut usages = self.edit.lock().unwrap_or_else(PoisonError::into_inner);
        let last = base.saturating_add(size - 1);
        let current = self.ranges.load();
        let at = current.partition_point(|range| range.last < base);
        if let Some(other) = current.get(at).filter(|range| range.base <= last) {
            return Err(Overlap {
                name: name.to_owned(),
                base,
                last,
                other: other.usage.name.clone(),
            });
        }
        let usage = usage_named(&mut usages, name);
        let mut ranges = Vec::clone(&current);
        ranges.insert(
            at,
            Arc::new(Range {
                base,
                last,
                region,
                usage,
            }),
        );
        self.ranges.store(Arc::new(ranges));
        Ok(())
    }

    /// Ends the range that starts at `base`.
    pub fn remove(&self, base: u64) {
        let _edit = self.edit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ranges = Vec::clone(&self.ranges.load());
        ranges.retain(|range| range.base != base);
        self.ranges.store(Arc::new(ranges));
    }

    /// Reads. Bytes that nothing answers read as ones, as on an undriven bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let ranges = self.ranges.load();
        match whole(&ranges, address, data.len()) {
            Some(range) => {
                range.usage.reads.fetch_add(1, Ordering::Relaxed);
                range.region.read(address - range.base, data);
            }
            None => {
                for (i, byte) in data.iter_mut().enumerate() {
                    let at = address.wrapping_add(i as u64);
                    *byte = 0xff;
                    if let Some(range) = whole(&ranges, at, 1) {
                        range.usage.reads.fetch_add(1, Ordering::Relaxed);
                        range
                            .region
                            .read(at - range.base, std::slice::from_mut(byte));
                    }
                }
            }
        }
    }

    /// Writes. Bytes that nothing takes are dropped.
    pub fn write(&self, address: u64, data: &[u8]) {
        let ranges = self.ranges.load();
        match whole(&ranges, address, data.len()) {
            Some(range) => {
                range.usage.writes.fetch_add(1, Ordering::Relaxed);
                range.region.write(address - range.base, data);
            }
            None => {
                for (i, byte) in data.iter().enumerate() {
                    let at = address.wrapping_add(i as u64);
                    if let Some(range) = whole(&ranges, at, 1) {
                        range.usage.writes.fetch_add(1, Ordering::Relaxed);
                        range
                            .region
                            .write(at - range.base, std::slice::from_ref(byte));
                    }
                }
            }
        }
    }

    /// Reads items of `width` bytes from one address, over and over. What one region answers
    /// it is given in one call.
    pub fn read_string(&self, address: u64, width: usize, data: &mut [u8]) {
        if data.len() <= width {
            return self.read(address, data);
        }
        match whole(&self.ranges.load(), address, width) {
            Some(range) => {
                range.usage.reads.fetch_add(1, Ordering::Relaxed);
                range.region.read_string(address - range.base, width, data);
            }
            None => {
                for item in data.chunks_mut(width.max(1)) {
                    self.read(address, item);
                }
            }
        }
    }

    /// Writes items of `width` bytes to one address, over and over.
    pub fn write_string(&self, address: u64, width: usize, data: &[u8]) {
        if data.len() <= width {
            return self.write(address, data);
        }
        match whole(&self.ranges.load(), address, width) {
            Some(range) => {
                range.usage.writes.fetch_add(1, Ordering::Relaxed);
                range.region.write_string(address - range.base, width, data);
            }
            None => {
                for item in data.chunks(width.max(1)) {
                    self.write(address, item);
                }
            }
        }
    }

    /// Every region that ever was on the bus, with its counts.
    pub fn usages(&self) -> Vec<Arc<Usage>> {
        self.edit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The range that answers all of `len` bytes at `address`.
fn whole(ranges: &[Arc<Range>], address: u64, len: usize) -> Option<&Range> {
    let range = ranges.get(ranges.partition_point(|range| range.last < address))?;
    let last = address.checked_add((len as u64).checked_sub(1)?)?;
    (range.base <= address && last <= range.last).then_some(range)
}

fn usage_named(usages: &mut Vec<Arc<Usage>>, name: &str) -> Arc<Usage> {
    if let Some(known) = usages.iter().find(|usage| usage.name == name) {
        return known.clone();
    }
    let usage = Arc::new(Usage {
        name: name.to_owned(),
        ..Usage::default()
    });
    usages.push(usage.clone());
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with its tag plus the offset and remembers the last write.
    struct Tagged(u8, Mutex<Vec<(u64, Vec<u8>)>>);

    impl Region for Tagged {
        fn read(&self, offset: u64, data: &mut [u8]) {
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = self.0 + offset as u8 + i as u8;
            }
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.1.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn tagged(tag: u8) -> Arc<Tagged> {
        Arc::new(Tagged(tag, Mutex::default()))
    }

    #[test]
    fn finds_the_region_and_the_offset() {
        let bus = Bus::default();
        bus.insert(0x100, 0x10, "a", tagged(0x40)).unwrap();
        bus.insert(0x110, 0x10, "b", tagged(0x80)).unwrap();
        let mut data = [0; 2];
        bus.read(0x102, &mut data);
        assert_eq!(data, [0x42, 0x43]);
        bus.read(0x110, &mut data);
        assert_eq!(data, [0x80, 0x81]);
        assert_eq!(bus.usages()[0].reads.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn splits_what_straddles_regions_and_holes() {
        let bus = Bus::default();
        let (a, b) = (tagged(0x40), tagged(0x80));
        bus.insert(0x100, 2, "a", a.clone()).unwrap();
        bus.insert(0x103, 2, "b", b.clone()).unwrap();
        let mut data = [0; 4];
        bus.read(0x101, &mut data);
        assert_eq!(data, [0x41, 0xff, 0x80, 0x81]);
        bus.write(0x101, &[1, 2, 3, 4]);
        assert_eq!(*a.1.lock().unwrap(), [(1, vec![1])]);
        assert_eq!(*b.1.lock().unwrap(), [(0, vec![3]), (1, vec![4])]);
    }

    #[test]
    fn a_string_is_one_call_to_its_region_and_split_over_two() {
        let bus = Bus::default();
        let (a, b) = (tagged(0x40), tagged(0x80));
        bus.insert(0x100, 2, "a", a.clone()).unwrap();
        bus.insert(0x102, 2, "b", b.clone()).unwrap();
        let mut data = [0; 6];
        bus.read_string(0x100, 2, &mut data);
        assert_eq!(data, [0x40, 0x41, 0x40, 0x41, 0x40, 0x41]);
        assert_eq!(bus.usages()[0].reads.load(Ordering::Relaxed), 1);
        bus.write_string(0x100, 1, &[1, 2, 3]);
        assert_eq!(
            *a.1.lock().unwrap(),
            [(0, vec![1]), (0, vec![2]), (0, vec![3])]
        );
        assert_eq!(bus.usages()[0].writes.load(Ordering::Relaxed), 1);
        bus.read_string(0x101, 2, &mut data);
        assert_eq!(data, [0x41, 0x80, 0x41, 0x80, 0x41, 0x80]);
        bus.write_string(0x103, 2, &[5, 6]);
        assert_eq!(*b.1.lock().unwrap(), [(1, vec![5])]);
    }

    #[test]
    fn refuses_overlaps_and_forgets_what_is_removed() {
        let bus = Bus::default();
        bus.insert(0x100, 0x10, "a", tagged(0)).unwrap();
        let error = bus.insert(0x10f, 4, "b", tagged(0)).unwrap_err();
        assert_eq!(error.to_string(), "b at 0x10f-0x112 overlaps a");
        assert!(bus.insert(0xff, 2, "b", tagged(0)).is_err());
        bus.remove(0x100);
        bus.insert(0x10f, 4, "b", tagged(7)).unwrap();
        let mut data = [0];
        bus.read(0x100, &mut data);
        assert_eq!(data, [0xff]);
    }

    #[test]
    fn the_top_of_the_address_space_is_no_trap() {
        let bus = Bus::default();
        bus.insert(u64::MAX - 3, 4, "top", tagged(0x10)).unwrap();
        let mut data = [0; 8];
        bus.read(u64::MAX - 1, &mut data);
        assert_eq!(data[..2], [0x12, 0x13]);
        bus.write(u64::MAX, &[1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
