//! The BARs of an assigned device: which parts the guest reaches directly and which are
//! trapped (PCIe 6.0 §7.5.1.2.1).
//!
//! A page is mapped unless it holds part of the MSI-X table or of the pending bits, or is not
//! wholly the BAR's. Everything else is trapped: the MSI-X structures go to our model, the
//! rest to the device through the kernel. I/O ports are always trapped. So is what a quirk of
//! the device asks for.
//!
//! A BAR smaller than a page is shown as one page where the kernel lets that page be mapped,
//! that is where the rest of it is nobody else's on the host: a function may claim more
//! addresses than it has registers (§7.5.1.2.1), and no other BAR can then share the page in
//! the guest. Otherwise the BAR has its own size, and is trapped wherever it lies.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use pci::{BarIndex, BarKind, ConfigWrite, Register};

use super::backend::{PAGE, RegionId, RegionInfo, VfioBackend};
use super::capabilities::Snapshot;
use super::msix::Msix;
use super::quirks::{Quirk, Surroundings};
use crate::bus::{FastPath, Mapping, Region};
use crate::guest_error;

/// A BAR as the guest sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bar {
    pub index: BarIndex,
    pub kind: BarKind,
    /// A power of two, at least what the device has.
    pub size: u64,
    /// What the kernel says of it.
    pub info: RegionInfo,
}

impl Bar {
    pub fn is_io(&self) -> bool {
        self.kind == BarKind::Io
    }
}

/// The BARs that the device has; with `no_mmap`, as if nothing could be mapped.
pub(super) fn find(backend: &dyn VfioBackend, device: &Snapshot, no_mmap: bool) -> Vec<Bar> {
    let bars = (0..6u8).filter_map(|n| {
        let index = BarIndex(n);
        let mut info = backend.region(RegionId::Bar(index));
        if info.size == 0 {
            return None;
        }
        if no_mmap {
            info.mappable.clear();
        }
        // The kernel keeps the type bits here, for virtual functions too.
        let flags = device.u32(0x10 + 4 * u16::from(n));
        let prefetchable = flags & 0b1000 != 0;
        let kind = match flags & 0b111 {
            0b001 | 0b011 | 0b101 | 0b111 => BarKind::Io,
            0b100 => BarKind::Memory64 { prefetchable },
            _ => BarKind::Memory32 { prefetchable },
        };
        let least = match kind {
            BarKind::Io => 4,
            _ if info.mappable.is_empty() => 16,
            _ => PAGE,
        };
        Some(Bar {
            index,
            kind,
            size: info.size.checked_next_power_of_two()?.max(least),
            info,
        })
    });
    bars.collect()
}

/// The parts of `info.mappable` that touch none of `holes`, in whole pages.
fn direct_areas(info: &RegionInfo, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut areas = info.mappable.clone();
    for hole in holes.iter().filter(|hole| !hole.is_empty()) {
        let from = hole.start - hole.start % PAGE;
        let to = hole.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        areas = areas
            .into_iter()
            .flat_map(|area| {
                let before = area.start..area.end.min(from);
                let after = area.start.max(to)..area.end;
                [before, after]
            })
            .filter(|area| area.start < area.end)
            .collect();
    }
    areas
}

/// What is behind a BAR.
pub(super) struct BarRegion {
    name: Arc<str>,
    backend: Arc<dyn VfioBackend>,
    bar: Bar,
    msix: Option<Arc<Mutex<Msix>>>,
    /// Where the MSI-X table and the pending bits are, if in this BAR.
    table: Range<u64>,
    pending: Range<u64>,
    quirks: Vec<Box<dyn Quirk>>,
    /// The device that the BAR is of.
    config: OnceLock<Weak<dyn GuestConfig>>,
    mappings: Mutex<Option<Vec<Direct>>>,
}

/// The guest's config space, for the doors to it that a BAR has.
pub(super) trait GuestConfig: Send + Sync {
    /// Reads a register.
    fn read(&self, register: Register) -> u32;

    /// Writes to a register, if that moves no BAR and resets nothing.
    fn write(&self, write: ConfigWrite);

    /// Where the MSI capability is.
    fn msi(&self) -> Option<u16>;
}

/// A part of the BAR that is mapped.
#[derive(Clone)]
struct Direct {
    offset: u64,
    memory: Arc<dyn Mapping>,
}

/// Who answers for a part of a BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Device,
    /// The quirk with this index.
    Quirk(usize),
    Table,
    Pending,
    /// Beyond what the device has.
    Nobody,
}

impl BarRegion {
    pub fn new(
        name: Arc<str>,
        backend: Arc<dyn VfioBackend>,
        bar: Bar,
        msix: Option<Arc<Mutex<Msix>>>,
        quirks: Vec<Box<dyn Quirk>>,
    ) -> Self {
        let (table, pending) = msix
            .as_ref()
            .map(|msix| {
                let msix = msix.lock().unwrap_or_else(PoisonError::into_inner);
                (msix.table_in(bar.index), msix.pending_in(bar.index))
            })
            .unwrap_or_default();
        Self {
            name,
            backend,
            bar,
            msix,
            table,
            pending,
            quirks,
            config: OnceLock::new(),
            mappings: Mutex::new(None),
        }
    }

    /// The device that it belongs to, told once.
    pub fn belongs_to(&self, device: Weak<dyn GuestConfig>) {
        let _ = self.config.set(device);
    }

    /// The names of the doors in it.
    pub fn quirks(&self) -> impl Iterator<Item = &'static str> {
        self.quirks.iter().map(|quirk| quirk.name())
    }

    /// The device has been reset.
    pub fn reset(&self) {
        self.quirks.iter().for_each(|quirk| quirk.reset());
    }

    /// The parts that the guest may reach directly, mapped when first asked for. What cannot
    /// be mapped is trapped: slow, and right.
    pub fn fast_paths(&self) -> Vec<FastPath> {
        let mut mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        let direct = mappings.get_or_insert_with(|| self.map());
        direct
            .iter()
            .map(|Direct { offset, memory }| FastPath::Mapped {
                offset: *offset,
                memory: Arc::clone(memory),
            })
            .collect()
    }

    fn map(&self) -> Vec<Direct> {
        if self.bar.is_io() || self.bar.size < PAGE {
            return Vec::new();
        }
        let mut holes = vec![self.table.clone(), self.pending.clone()];
        holes.extend(self.quirks.iter().map(|quirk| quirk.range()));
        let areas = direct_areas(&self.bar.info, &holes).into_iter();
        areas
            .filter_map(|area| {
                let offset = area.start;
                let region = RegionId::Bar(self.bar.index);
                match self.backend.map(region, area.clone()) {
                    Ok(memory) => Some(Direct { offset, memory }),
                    Err(error) => {
                        tracing::warn!(
                            device = &*self.name, bar = self.bar.index.0, ?area, %error,
                            "part of a BAR cannot be mapped and is trapped instead"
                        );
                        None
                    }
                }
            })
            .collect()
    }

    /// Lets go of the mappings; whoever still has them mapped holds on to them.
    pub fn unmap(&self) {
        let mut mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        *mappings = Some(Vec::new());
    }

    /// Who owns the byte at `offset`, and where the next owner begins.
    fn owner(&self, offset: u64) -> (Owner, u64) {
        let parts = [(Owner::Table, &self.table), (Owner::Pending, &self.pending)];
        for (owner, range) in parts {
            if range.contains(&offset) {
                return (owner, range.end);
            }
        }
        let size = self.bar.info.size;
        if offset >= size {
            return (Owner::Nobody, u64::MAX);
        }
        let doors = || self.quirks.iter().map(|quirk| quirk.range());
        let starts = [self.table.start, self.pending.start].into_iter();
        let next = starts.chain(doors().map(|door| door.start));
        let next = next.filter(|&start| start > offset).min();
        let next = next.unwrap_or(size).min(size);
        match doors().enumerate().find(|(_, door)| door.contains(&offset)) {
            Some((index, door)) => (Owner::Quirk(index), door.end.min(next)),
            None => (Owner::Device, next),
        }
    }

    /// Cuts an access by owners: for each, the range in the access.
    fn pieces(&self, offset: u64, len: usize) -> impl Iterator<Item = (Owner, Range<usize>)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= len {
                return None;
            }
            // What would wrap belongs to nobody.
            let here = offset.saturating_add(at as u64);
            let (owner, next) = self.owner(here);
            let run = usize::try_from(next.wrapping_sub(here)).unwrap_or(usize::MAX);
            let end = at.saturating_add(run).min(len);
            let piece = at..end.max(at + 1);
            at = piece.end;
            Some((owner, piece))
        })
    }

    fn with_msix<T>(&self, act: impl FnOnce(&mut Msix) -> T) -> Option<T> {
        let msix = self.msix.as_ref()?;
        let mut msix = msix.lock().unwrap_or_else(PoisonError::into_inner);
        Some(act(&mut msix))
    }

    fn guest_config(&self) -> Option<Arc<dyn GuestConfig>> {
        self.config.get()?.upgrade()
    }

    fn read_piece(&self, owner: Owner, offset: u64, data: &mut [u8]) {
        match owner {
            Owner::Device => self.read_device(offset, data),
            Owner::Quirk(index) => match self.quirks.get(index) {
                Some(quirk) => quirk.read(self, offset, data),
                None => data.fill(0xff),
            },
            Owner::Nobody => data.fill(0xff),
            Owner::Table => {
                let offset = offset - self.table.start;
                self.with_msix(|msix| msix.read_table(offset, data));
            }
            Owner::Pending => {
                // Vectors that were never armed wait in the device's own bits.
                self.read_device(offset, data);
                let mut held = vec![0; data.len()];
                let offset = offset - self.pending.start;
                self.with_msix(|msix| msix.read_pending(offset, &mut held));
                for (byte, held) in data.iter_mut().zip(held) {
                    *byte |= held;
                }
            }
        }
    }

    fn write_piece(&self, owner: Owner, offset: u64, data: &[u8]) {
        match owner {
            Owner::Device => self.write_device(offset, data),
            Owner::Quirk(index) => {
                if let Some(quirk) = self.quirks.get(index) {
                    quirk.write(self, offset, data);
                }
            }
            Owner::Table => {
                let offset = offset - self.table.start;
                self.with_msix(|msix| msix.write_table(offset, data));
            }
            // The pending bits are read-only.
            Owner::Pending | Owner::Nobody => (),
        }
    }
}

impl Surroundings for BarRegion {
    fn read_config(&self, register: Register) -> u32 {
        self.guest_config()
            .map_or(u32::MAX, |config| config.read(register))
    }

    fn write_config(&self, write: ConfigWrite) {
        if let Some(config) = self.guest_config() {
            config.write(write);
        }
    }

    fn msi(&self) -> Option<u16> {
        self.guest_config()?.msi()
    }

    fn read_msix_table(&self, offset: u64, data: &mut [u8]) -> bool {
        self.with_msix(|msix| msix.read_table(offset, data))
            .is_some()
    }

    fn write_msix_table(&self, offset: u64, data: &[u8]) -> bool {
        self.with_msix(|msix| msix.write_table(offset, data))
            .is_some()
    }

    fn read_device(&self, offset: u64, data: &mut [u8]) {
        let region = RegionId::Bar(self.bar.index);
        if let Err(error) = self.backend.read(region, offset, data) {
            // As a read that nobody answers.
            data.fill(0xff);
            guest_error!(device = &*self.name, bar = self.bar.index.0, offset, %error, "a read failed");
        }
    }

    fn write_device(&self, offset: u64, data: &[u8]) {
        let region = RegionId::Bar(self.bar.index);
        if let Err(error) = self.backend.write(region, offset, data) {
            guest_error!(device = &*self.name, bar = self.bar.index.0, offset, %error, "a write failed");
        }
    }
}

impl Region for BarRegion {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (owner, piece) in self.pieces(offset, data.len()) {
            let at = offset.wrapping_add(piece.start as u64);
            if let Some(data) = data.get_mut(piece) {
                self.read_piece(owner, at, data);
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (owner, piece) in self.pieces(offset, data.len()) {
            let at = offset.wrapping_add(piece.start as u64);
            if let Some(data) = data.get(piece) {
                self.write_piece(owner, at, data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_mapped_is_whole_pages_without_the_holes(
            parts in prop::collection::vec((0u64..64, 1u64..16), 0..4),
            holes in prop::collection::vec((0u64..0x40000, 0u64..0x9000), 0..3),
        ) {
            let info = RegionInfo {
                size: 0x40000,
                mappable: parts
                    .iter()
                    .map(|&(at, len)| at * PAGE..(at + len).min(64) * PAGE)
                    .filter(|part| !part.is_empty())
                    .collect(),
                ..Default::default()
            };
            let holes: Vec<_> = holes.iter().map(|&(at, len)| at..at + len).collect();
            let areas = direct_areas(&info, &holes);
            for page in (0..0x40000).step_by(PAGE as usize) {
                let touched = |r: &Range<u64>| !r.is_empty() && r.start < page + PAGE && page < r.end;
                let expected = info.mappable.iter().filter(|r| r.contains(&page)).count();
                let expected = if holes.iter().any(touched) { 0 } else { expected };
                prop_assert_eq!(areas.iter().filter(|r| r.contains(&page)).count(), expected);
            }
            prop_assert!(areas.iter().all(|a| a.start % PAGE == 0 && a.end % PAGE == 0));
        }
    }
}
