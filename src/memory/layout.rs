//! The guest-physical address map of a Q35 machine.
//!
//! Below 4 GiB every address is fixed (the constants here); above it lie the rest of the
//! RAM and then one window for 64-bit BARs, as large as the BARs and the guest's physical
//! address width ask and allow.

use super::size::display_size;

/// End of conventional memory; the last KiB of it is where a BIOS keeps its data area.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// Where a BIOS and its tables are looked for: RSDP and the ACPI tables (ACPI 6.5 §5.2.5.1).
pub const BIOS_AREA: u64 = 0xe_0000;
/// End of the BIOS area, start of extended memory.
pub const EXTENDED_START: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest.
pub const LOW_RAM_END: u64 = 0x8000_0000;
/// PCI Express config space (PCIEXBAR) after reset of the machine.
pub const ECAM_BASE: u64 = 0xb000_0000;
/// Buses that ECAM covers.
pub const ECAM_BUSES: u64 = 256;
/// Length of ECAM: 1 MiB a bus (PCIe 6.0 §7.2.2).
pub const ECAM_SIZE: u64 = ECAM_BUSES << 20;
/// First address of the window for 32-bit BARs.
pub const PCI32_START: u64 = 0xc000_0000;
/// Last address of the window for 32-bit BARs.
pub const PCI32_LAST: u64 = 0xfebf_ffff;
/// The IOAPIC's registers.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Length of the IOAPIC's page.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// The HPET's registers.
pub const HPET_BASE: u64 = 0xfed0_0000;
/// Root complex register block of the ICH9 (RCBA), 16 KiB.
pub const RCBA_BASE: u64 = 0xfed1_c000;
/// Length of the root complex register block.
pub const RCBA_SIZE: u64 = 0x4000;
/// The VT-d unit's registers.
pub const VTD_BASE: u64 = 0xfed9_0000;
/// The local APICs' registers.
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// Three pages below the firmware that KVM needs on Intel for real-mode guests (the TSS).
pub const KVM_TSS: u64 = 0xfffb_d000;
/// The page that KVM needs on Intel for an identity map, right below the TSS.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// RAM above the hole starts here.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;

/// The 64-bit window's alignment at the least.
const PCI64_ALIGN: u64 = 1 << 30;
/// The 64-bit window's length where nothing asks for more and the address width allows:
/// room to plug in a device with large BARs later.
const PCI64_DEFAULT: u64 = 64 << 30;
/// The 64-bit window's length at the least.
const PCI64_MIN: u64 = 1 << 30;

/// An inclusive range of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Range {
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
}

impl Range {
    /// The range of `size` bytes (at least one) from `first`.
    pub const fn sized(first: u64, size: u64) -> Self {
        Self {
            first,
            last: first.saturating_add(size.saturating_sub(1)),
        }
    }

    /// Length in bytes.
    pub const fn size(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// True if `address` is in the range.
    pub const fn contains(&self, address: u64) -> bool {
        self.first <= address && address <= self.last
    }
}

/// What the 64-bit window must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BarDemand {
    /// The sizes of all 64-bit BARs, summed.
    pub total: u64,
    /// The size of the largest.
    pub largest: u64,
}

impl BarDemand {
    /// Adds a BAR of `size` bytes.
    pub fn add(&mut self, size: u64) {
        self.total = self.total.saturating_add(size);
        self.largest = self.largest.max(size);
    }
}

/// Why a machine cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// RAM and BARs need more addresses than the guest's CPUs have.
    #[error(
        "--memory {} and {} of device memory do not fit in the {phys_bits}-bit physical address space of this machine's CPUs; {}",
        display_size(*.memory), display_size(*.bars), remedy(*.bars)
    )]
    AddressSpace {
        /// Bytes of RAM.
        memory: u64,
        /// Bytes of 64-bit BARs.
        bars: u64,
        /// Guest-physical address width.
        phys_bits: u8,
    },
}

/// What to do about BARs of so many bytes that do not fit.
fn remedy(bars: u64) -> &'static str {
    if bars < PCI64_DEFAULT / 4 {
        "use less --memory"
    } else {
        "use less --memory, assign fewer devices, or make their BARs smaller where they can be \
         resized (resourceN_resize in sysfs)"
    }
}

/// What a range of guest-physical memory is, for the guest's memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub enum MapKind {
    /// Usable RAM.
    Ram,
    /// Not to be used.
    Reserved,
    /// ACPI tables.
    Acpi,
}

/// An entry of the guest's memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct MapEntry {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// What it is.
    pub kind: MapKind,
}

/// A machine's address map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Layout {
    /// RAM from address 0.
    pub low_ram: u64,
    /// RAM from [`HIGH_RAM_START`]; may be zero.
    pub high_ram: u64,
    /// The 32-bit BAR window.
    pub pci32: Range,
    /// The 64-bit BAR window.
    pub pci64: Range,
    /// Guest-physical address width.
    pub phys_bits: u8,
}

impl Layout {
    /// All RAM, in bytes.
    pub fn memory_size(&self) -> u64 {
        self.low_ram + self.high_ram
    }

    /// The guest's memory map, ordered, without overlaps. The BIOS area holds the ACPI
    /// tables; ECAM is reserved, for an OS trusts MCFG only where memory is reserved.
    pub fn memory_map(&self) -> Vec<MapEntry> {
        let entry = |start: u64, end: u64, kind| MapEntry {
            start,
            size: end.saturating_sub(start),
            kind,
        };
        let mut map = vec![
            entry(0, CONVENTIONAL_END, MapKind::Ram),
            entry(CONVENTIONAL_END, 0xa_0000, MapKind::Reserved),
            entry(BIOS_AREA, EXTENDED_START, MapKind::Acpi),
            entry(EXTENDED_START, self.low_ram, MapKind::Ram),
            entry(ECAM_BASE, ECAM_BASE + ECAM_SIZE, MapKind::Reserved),
            entry(KVM_IDENTITY_MAP, HIGH_RAM_START, MapKind::Reserved),
        ];
        if self.high_ram != 0 {
            let end = HIGH_RAM_START.saturating_add(self.high_ram);
            map.push(entry(HIGH_RAM_START, end, MapKind::Ram));
        }
        map
    }
}

/// Lays out a machine of `memory_size` bytes of RAM whose CPUs have `phys_bits` physical
/// address bits, with room for the 64-bit BARs in `demand`.
///
/// The window follows RAM as closely as alignment allows (host IOMMUs may have fewer address
/// bits than CPUs), aligned to the largest BAR. It is twice the BARs, as bridges and
/// alignment waste some, and 64 GiB at least; where that does not fit, as much as there is,
/// down to the BARs themselves.
pub fn layout(memory_size: u64, phys_bits: u8, demand: &BarDemand) -> Result<Layout, LayoutError> {
    let error = || LayoutError::AddressSpace {
        memory: memory_size,
        bars: demand.total,
        phys_bits,
    };
    let low_ram = memory_size.min(LOW_RAM_END);
    let high_ram = memory_size - low_ram;
    let limit = 1u64 << phys_bits.clamp(32, 52);

    let align = demand.largest.checked_next_power_of_two();
    let align = align.ok_or_else(error)?.max(PCI64_ALIGN);
    let first = HIGH_RAM_START
        .checked_add(high_ram)
        .and_then(|end| end.checked_next_multiple_of(align))
        .ok_or_else(error)?;
    let room = limit.checked_sub(first).ok_or_else(error)?;
    let needed = demand
        .total
        .checked_next_multiple_of(PCI64_ALIGN)
        .ok_or_else(error)?
        .max(PCI64_MIN);
    if room < needed {
        return Err(error());
    }
    let wished = needed.saturating_mul(2).max(PCI64_DEFAULT);
    Ok(Layout {
        low_ram,
        high_ram,
        pci32: Range {
            first: PCI32_START,
            last: PCI32_LAST,
        },
        pci64: Range::sized(first, wished.min(room)),
        phys_bits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn small_memory_lies_below_the_hole() {
        let l = layout(512 << 20, 40, &BarDemand::default()).unwrap();
        assert_eq!((l.low_ram, l.high_ram), (512 << 20, 0));
        assert_eq!(l.pci64, Range::sized(4 * GIB, 64 * GIB));
        assert_eq!(l.memory_size(), 512 << 20);
    }

    #[test]
    fn large_memory_is_split_and_the_window_follows() {
        let l = layout(7 * GIB, 40, &BarDemand::default()).unwrap();
        assert_eq!((l.low_ram, l.high_ram), (2 * GIB, 5 * GIB));
        assert_eq!(l.pci64.first, 9 * GIB);
    }

    #[test]
    fn a_gpu_gets_an_aligned_window_of_its_size() {
        let mut demand = BarDemand::default();
        demand.add(256 * GIB);
        demand.add(64 << 20);
        let l = layout(4 * GIB, 46, &demand).unwrap();
        assert_eq!(l.pci64.first % (256 * GIB), 0);
        assert!(l.pci64.size() >= 2 * 256 * GIB);
    }

    #[test]
    fn the_window_shrinks_to_what_the_address_width_leaves() {
        let l = layout(4 * GIB, 36, &BarDemand::default()).unwrap();
        assert_eq!(l.pci64.last, 64 * GIB - 1);
        assert_eq!(l.pci64.first, 6 * GIB);
    }

    #[test]
    fn what_does_not_fit_is_said_in_one_line_naming_memory() {
        let mut demand = BarDemand::default();
        demand.add(64 * GIB);
        for (memory, demand) in [(64 * GIB, BarDemand::default()), (4 * GIB, demand)] {
            let error = layout(memory, 36, &demand).unwrap_err().to_string();
            assert!(
                error.contains("--memory") && error.contains("36-bit"),
                "{error}"
            );
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn the_map_tells_ram_truly() {
        let l = layout(5 * GIB, 40, &BarDemand::default()).unwrap();
        let ram: u64 = l
            .memory_map()
            .iter()
            .filter(|e| e.kind == MapKind::Ram)
            .map(|e| e.size)
            .sum();
        let hidden = EXTENDED_START - CONVENTIONAL_END;
        assert_eq!(ram + hidden, 5 * GIB);
    }

    proptest! {
        #[test]
        fn nothing_overlaps(
            mib in 16u64..(8 << 20),
            bits in 32u8..=52,
            bars in proptest::collection::vec(20u32..40, 0..8),
        ) {
            let mut demand = BarDemand::default();
            bars.iter().for_each(|b| demand.add(1 << b));
            let Ok(l) = layout(mib << 20, bits, &demand) else { return Ok(()) };
            prop_assert_eq!(l.memory_size(), mib << 20);
            prop_assert!(l.pci64.last < 1 << bits);
            prop_assert!(l.pci64.size() >= demand.total);
            prop_assert!(l.pci64.first >= HIGH_RAM_START + l.high_ram);
            let map = l.memory_map();
            for pair in map.windows(2) {
                prop_assert!(pair[0].start + pair[0].size <= pair[1].start);
            }
            for e in &map {
                prop_assert!(e.size > 0);
                prop_assert!(!l.pci32.contains(e.start) && !l.pci64.contains(e.start));
            }
        }

        #[test]
        fn no_input_panics(memory: u64, bits: u8, total: u64, largest: u64) {
            let _ = layout(memory, bits, &BarDemand { total, largest });
        }
    }
}
