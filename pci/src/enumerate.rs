//! What firmware does to a PCI hierarchy before an operating system looks at it: number the
//! buses, size the BARs, give every one its place and open the bridges' windows
//! (PCI Firmware 3.3 §3.5; PCI-to-PCI Bridge 1.2 §3.2.5).
//!
//! It works through config cycles alone, as firmware must, and in two steps, because the
//! size of the 64-bit window may depend on what was found.

use std::ops::RangeInclusive;

use crate::registers::{ExpressCapabilities, SlotCapabilities};
use crate::{Bdf, ConfigWrite, Register};

const VENDOR_ID: Register = Register::containing(0x00);
const COMMAND: Register = Register::containing(0x04);
const HEADER_TYPE: Register = Register::containing(0x0c);
const FIRST_BAR: u16 = 0x10;
const ROM_ENDPOINT: Register = Register::containing(0x30);
const ROM_BRIDGE: Register = Register::containing(0x38);
/// The address bits of a ROM's base address register (PCIe 6.0 §7.5.1.2.4).
const ROM_ADDRESS: u32 = !0x7ff;
const BUS_NUMBERS: Register = Register::containing(0x18);
const IO_WINDOW: Register = Register::containing(0x1c);
const MEMORY_WINDOW: Register = Register::containing(0x20);
const PREFETCHABLE_WINDOW: Register = Register::containing(0x24);
const PREFETCHABLE_BASE_UPPER: Register = Register::containing(0x28);
const PREFETCHABLE_LIMIT_UPPER: Register = Register::containing(0x2c);
const IO_WINDOW_UPPER: Register = Register::containing(0x30);

const CAPABILITIES: u16 = 0x34;
/// The PCI Express capability's ID, and where in it Slot Capabilities is.
const EXPRESS: u8 = 0x10;
const SLOT_CAPABILITIES: u16 = 0x14;

const COMMAND_IO: u32 = 1 << 0;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_BUS_MASTER: u32 = 1 << 2;

/// Granularity of a bridge's windows.
const BRIDGE_MEMORY: u64 = 1 << 20;
const BRIDGE_IO: u64 = 1 << 12;
/// A 64-bit BAR of this size goes above 4 GiB even if not prefetchable; PCI Express lets it
/// lie in a prefetchable window (PCIe 6.0 §7.5.1.2.1, implementation note).
const TOO_BIG_FOR_32_BITS: u64 = 256 << 20;

/// What a bridge's windows have room for, at the least, if its slot is hot-plug capable: BARs
/// of what comes later. I/O ports are too few to keep any. Software that needs more finds it
/// in what no bridge has.
const HOT_PLUG_MEMORY32: u64 = 2 << 20;
const HOT_PLUG_MEMORY64: u64 = 1 << 30;

/// Config cycles into a hierarchy.
pub trait ConfigCycles {
    /// Reads a dword; all ones where nothing answers.
    fn read(&self, function: Bdf, register: Register) -> u32;
    /// Writes the enabled bytes of a dword.
    fn write(&self, function: Bdf, write: ConfigWrite);
}

/// The three pools that addresses come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pool {
    Io,
    Memory32,
    Memory64,
}

const POOLS: [Pool; 3] = [Pool::Io, Pool::Memory32, Pool::Memory64];

/// Address ranges to place BARs in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Windows {
    /// Ports.
    pub io: RangeInclusive<u64>,
    /// Memory below 4 GiB.
    pub memory32: RangeInclusive<u64>,
    /// Memory above 4 GiB.
    pub memory64: RangeInclusive<u64>,
}

impl Windows {
    fn of(&self, pool: Pool) -> &RangeInclusive<u64> {
        match pool {
            Pool::Io => &self.io,
            Pool::Memory32 => &self.memory32,
            Pool::Memory64 => &self.memory64,
        }
    }
}

/// A BAR that found no place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no room for {size:#x} bytes of BARs in the {window} window ({first:#x}-{last:#x})")]
pub struct NoRoom {
    /// Bytes asked for, alignment gaps included.
    pub size: u64,
    /// `I/O`, `32-bit memory` or `64-bit memory`.
    pub window: &'static str,
    /// First address of the window.
    pub first: u64,
    /// Last address of the window.
    pub last: u64,
}

struct BarFound {
    register: Register,
    wide: bool,
    pool: Pool,
    size: u64,
}

struct Found {
    bdf: Bdf,
    bars: Vec<BarFound>,
    /// What lies behind, if it is a bridge.
    behind: Option<Vec<Found>>,
    /// It has a slot that devices may come into later.
    hot_plug: bool,
}

/// A hierarchy whose buses are numbered and whose BARs are sized, but not placed.
pub struct Hierarchy<'a, C: ConfigCycles> {
    cycles: &'a C,
    root: Vec<Found>,
    last_bus: u8,
}

/// An extent that addresses are packed into: how much, and how aligned.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Extent {
    size: u64,
    align: u64,
}

impl<'a, C: ConfigCycles> Hierarchy<'a, C> {
    /// Numbers the buses from 1 and sizes every BAR. BARs are left zero and decode off.
    pub fn survey(cycles: &'a C) -> Self {
        let mut next_bus = 1;
        let root = scan_bus(cycles, 0, &mut next_bus);
        Self {
            cycles,
            root,
            last_bus: (next_bus - 1).min(0xff) as u8,
        }
    }

    /// The highest bus number given out.
    pub fn last_bus(&self) -> u8 {
        self.last_bus
    }

    /// Bytes that the 64-bit window must hold, and the largest alignment in it.
    pub fn demand64(&self) -> (u64, u64) {
        let extent = pack(&self.root, Pool::Memory64);
        (extent.size, extent.align)
    }

    /// Gives every BAR its place, opens the bridges and enables decode.
    pub fn place(&self, windows: &Windows) -> Result<(), NoRoom> {
        for pool in POOLS {
            let window = windows.of(pool);
            let need = pack(&self.root, pool);
            let first = align_up(*window.start(), need.align);
            let fits = need.size == 0
                || first
                    .checked_add(need.size - 1)
                    .is_some_and(|last| last <= *window.end());
            if !fits {
                return Err(NoRoom {
                    size: need.size,
                    window: pool.name(),
                    first: *window.start(),
                    last: *window.end(),
                });
            }
            self.place_bus(&self.root, pool, first);
        }
        self.enable(&self.root);
        Ok(())
    }

    fn place_bus(&self, functions: &[Found], pool: Pool, base: u64) {
        for (item, at) in layout(functions, pool, base) {
            match item {
                Item::Bar(function, bar) => self.place_bar(function, bar, at),
                Item::Behind(bridge, extent) => {
                    self.open_bridge(bridge.bdf, pool, at, at + (extent.size - 1));
                    let behind = bridge.behind.as_deref().unwrap_or(&[]);
                    self.place_bus(behind, pool, at);
                }
            }
        }
    }

    fn place_bar(&self, function: &Found, bar: &BarFound, address: u64) {
        self.put(function.bdf, bar.register, address as u32);
        if bar.wide {
            let upper = Register::containing(bar.register.offset() + 4);
            self.put(function.bdf, upper, (address >> 32) as u32);
        }
    }

    fn open_bridge(&self, bridge: Bdf, pool: Pool, first: u64, last: u64) {
        let pair = |first: u64, last: u64| (first as u32 & 0xfff0) | (last as u32 & 0xfff0) << 16;
        match pool {
            Pool::Io => {
                let low = (first >> 8 & 0xf0 | (last >> 8 & 0xf0) << 8) as u32;
                // Bytes 0 and 1 alone: above them is the secondary status.
                self.cycles
                    .write(bridge, ConfigWrite::new(IO_WINDOW, low, 0b0011));
                self.put(
                    bridge,
                    IO_WINDOW_UPPER,
                    (first >> 16 | last >> 16 << 16) as u32,
                );
            }
            Pool::Memory32 => self.put(bridge, MEMORY_WINDOW, pair(first >> 16, last >> 16)),
            Pool::Memory64 => {
                self.put(bridge, PREFETCHABLE_WINDOW, pair(first >> 16, last >> 16));
                self.put(bridge, PREFETCHABLE_BASE_UPPER, (first >> 32) as u32);
                self.put(bridge, PREFETCHABLE_LIMIT_UPPER, (last >> 32) as u32);
            }
        }
    }

    fn enable(&self, functions: &[Found]) {
        for function in functions {
            let mut command = 0;
            let used = |pool| function.bars.iter().any(|bar| bar.pool == pool);
            if used(Pool::Io) {
                command |= COMMAND_IO;
            }
            if used(Pool::Memory32) || used(Pool::Memory64) {
                command |= COMMAND_MEMORY;
            }
            if let Some(behind) = &function.behind {
                command |= COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER;
                self.enable(behind);
            }
            let now = self.cycles.read(function.bdf, COMMAND) | command;
            self.cycles
                .write(function.bdf, ConfigWrite::new(COMMAND, now, 0b0011));
        }
    }

    fn put(&self, function: Bdf, register: Register, value: u32) {
        self.cycles
            .write(function, ConfigWrite::new(register, value, 0b1111));
    }
}

impl Found {
    /// Bytes of a window that are kept for what comes later.
    fn kept(&self, pool: Pool) -> u64 {
        match pool {
            _ if !self.hot_plug => 0,
            Pool::Io => 0,
            Pool::Memory32 => HOT_PLUG_MEMORY32,
            Pool::Memory64 => HOT_PLUG_MEMORY64,
        }
    }
}

impl Pool {
    fn name(self) -> &'static str {
        match self {
            Self::Io => "I/O",
            Self::Memory32 => "32-bit memory",
            Self::Memory64 => "64-bit memory",
        }
    }
}

fn align_up(address: u64, align: u64) -> u64 {
    address
        .checked_next_multiple_of(align.max(1))
        .unwrap_or(u64::MAX)
}

enum Item<'f> {
    Bar(&'f Found, &'f BarFound),
    Behind(&'f Found, Extent),
}

impl Item<'_> {
    fn extent(&self) -> Extent {
        match self {
            Self::Bar(_, bar) => Extent {
                size: bar.size,
                align: bar.size,
            },
            Self::Behind(_, extent) => *extent,
        }
    }
}

/// Every BAR and bridge window of one bus in `pool` with its address, widest aligned first.
fn layout(functions: &[Found], pool: Pool, base: u64) -> Vec<(Item<'_>, u64)> {
    let mut items = Vec::new();
    for function in functions {
        let bars = function.bars.iter().filter(|bar| bar.pool == pool);
        items.extend(bars.map(|bar| Item::Bar(function, bar)));
        let behind = pack(function.behind.as_deref().unwrap_or(&[]), pool);
        let size = behind.size.max(function.kept(pool));
        if size > 0 {
            let grain = if pool == Pool::Io {
                BRIDGE_IO
            } else {
                BRIDGE_MEMORY
            };
            let extent = Extent {
                size: align_up(size, grain),
                align: behind.align.max(grain),
            };
            items.push(Item::Behind(function, extent));
        }
    }
    items.sort_by_key(|item| std::cmp::Reverse(item.extent().align));
    let mut next = base;
    items
        .into_iter()
        .map(|item| {
            let extent = item.extent();
            let at = align_up(next, extent.align);
            next = at.saturating_add(extent.size);
            (item, at)
        })
        .collect()
}

/// The extent of everything in `pool` on a bus and behind it.
fn pack(functions: &[Found], pool: Pool) -> Extent {
    let placed = layout(functions, pool, 0);
    let end = placed
        .last()
        .map_or(0, |(item, at)| at.saturating_add(item.extent().size));
    let align = placed.iter().map(|(item, _)| item.extent().align).max();
    Extent {
        size: end,
        align: align.unwrap_or(1),
    }
}

fn scan_bus<C: ConfigCycles>(cycles: &C, bus: u8, next_bus: &mut u16) -> Vec<Found> {
    let mut found = Vec::new();
    for device in 0..32 {
        for function in 0..8 {
            let bdf = Bdf::new(bus, device, function);
            if cycles.read(bdf, VENDOR_ID) as u16 != 0xffff {
                found.push(scan_function(cycles, bdf, next_bus));
            }
            let header_type = cycles.read(Bdf::new(bus, device, 0), HEADER_TYPE) >> 16;
            let absent = cycles.read(Bdf::new(bus, device, 0), VENDOR_ID) as u16 == 0xffff;
            if function == 0 && (absent || header_type & 0x80 == 0) {
                break;
            }
        }
    }
    found
}

fn scan_function<C: ConfigCycles>(cycles: &C, bdf: Bdf, next_bus: &mut u16) -> Found {
    let is_bridge = cycles.read(bdf, HEADER_TYPE) >> 16 & 0x7f == 1;
    let command = cycles.read(bdf, COMMAND) & !(COMMAND_IO | COMMAND_MEMORY);
    cycles.write(bdf, ConfigWrite::new(COMMAND, command, 0b0011));
    let (count, rom) = match is_bridge {
        true => (2, ROM_BRIDGE),
        false => (6, ROM_ENDPOINT),
    };
    let mut bars = size_bars(cycles, bdf, count);
    bars.extend(size_rom(cycles, bdf, rom));
    let behind = is_bridge.then(|| scan_bridge(cycles, bdf, next_bus));
    Found {
        bdf,
        bars,
        behind,
        hot_plug: is_bridge && has_hot_plug_slot(cycles, bdf),
    }
}

/// Slot Implemented, and Hot-Plug Capable in Slot Capabilities (PCIe 6.0 §7.5.3.2, §7.5.3.9).
fn has_hot_plug_slot<C: ConfigCycles>(cycles: &C, bdf: Bdf) -> bool {
    let dword = |offset: u16| cycles.read(bdf, Register::containing(offset));
    let mut at = dword(CAPABILITIES) as u16 & 0xfc;
    // A list has at most as many entries as there is room for.
    for _ in 0..48 {
        let header = dword(at);
        match (at, header as u8) {
            (0, _) => return false,
            (_, EXPRESS) => {
                let slot = ExpressCapabilities((header >> 16) as u16).slot();
                return slot && SlotCapabilities(dword(at + SLOT_CAPABILITIES)).hot_plug();
            }
            _ => at = (header >> 8) as u16 & 0xfc,
        }
    }
    false
}

fn scan_bridge<C: ConfigCycles>(cycles: &C, bridge: Bdf, next_bus: &mut u16) -> Vec<Found> {
    for (register, closed) in [
        (MEMORY_WINDOW, 0x0000_fff0),
        (PREFETCHABLE_WINDOW, 0x0000_fff0),
        (PREFETCHABLE_BASE_UPPER, 0),
        (PREFETCHABLE_LIMIT_UPPER, 0),
    ] {
        cycles.write(bridge, ConfigWrite::new(register, closed, 0b1111));
    }
    cycles.write(bridge, ConfigWrite::new(IO_WINDOW, 0x00f0, 0b0011));
    let Ok(secondary) = u8::try_from(*next_bus) else {
        return Vec::new(); // More than 256 buses: the rest stays unnumbered.
    };
    *next_bus += 1;
    let number = |subordinate: u8| {
        let value =
            u32::from(bridge.bus()) | u32::from(secondary) << 8 | u32::from(subordinate) << 16;
        cycles.write(bridge, ConfigWrite::new(BUS_NUMBERS, value, 0b0111));
    };
    number(0xff);
    let behind = scan_bus(cycles, secondary, next_bus);
    number((*next_bus - 1).min(0xff) as u8);
    behind
}

/// An expansion ROM has its place as a BAR has, and is left disabled.
fn size_rom<C: ConfigCycles>(cycles: &C, bdf: Bdf, register: Register) -> Option<BarFound> {
    let put = |value| cycles.write(bdf, ConfigWrite::new(register, value, 0b1111));
    put(ROM_ADDRESS);
    let mask = cycles.read(bdf, register) & ROM_ADDRESS;
    put(0);
    let size = u64::from(mask.wrapping_neg());
    size.is_power_of_two().then_some(BarFound {
        register,
        wide: false,
        pool: Pool::Memory32,
        size,
    })
}

fn size_bars<C: ConfigCycles>(cycles: &C, bdf: Bdf, count: u16) -> Vec<BarFound> {
    let probe = |register: Register| {
        cycles.write(bdf, ConfigWrite::new(register, 0xffff_ffff, 0b1111));
        let mask = cycles.read(bdf, register);
        cycles.write(bdf, ConfigWrite::new(register, 0, 0b1111));
        mask
    };
    let mut bars = Vec::new();
    let mut index = 0;
    while index < count {
        let register = Register::containing(FIRST_BAR + 4 * index);
        let mask = probe(register);
        index += 1;
        if mask == 0 {
            continue;
        }
        if mask & 1 != 0 {
            // The upper half may be hard-wired to zero.
            let size = (mask & 0xfffc).wrapping_neg() & 0xffff;
            let size = u64::from(size);
            bars.push(BarFound {
                register,
                wide: false,
                pool: Pool::Io,
                size,
            });
            continue;
        }
        let wide = mask >> 1 & 3 == 2;
        let prefetchable = mask & 8 != 0;
        let mut bits = u64::from(mask & !0xf) | 0xffff_ffff_0000_0000;
        if wide {
            let upper = Register::containing(FIRST_BAR + 4 * index);
            bits = bits & 0xffff_ffff | u64::from(probe(upper)) << 32;
            index += 1;
        }
        let size = bits.wrapping_neg();
        let above = wide && (prefetchable || size >= TOO_BIG_FOR_32_BITS);
        let pool = if above {
            Pool::Memory64
        } else {
            Pool::Memory32
        };
        bars.push(BarFound {
            register,
            wide,
            pool,
            size,
        });
    }
    bars.retain(|bar| bar.size.is_power_of_two());
    bars
}

#[cfg(test)]
mod tests;
