//! PVH: an ELF file with Xen's 32-bit entry note (docs/misc/pvh.pandoc,
//! xen/include/public/arch-x86/hvm/start_info.h).

use linux_loader::loader::{Elf as ElfLoader, KernelLoader};
use linux_loader::start_info::{
    XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED,
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress};

use super::elf::{Elf, Segment};
use super::entry::Protocol;
use super::{BootError, Plan, place};
use crate::memory::layout::{BIOS_AREA, EXTENDED_START, MapEntry, MapKind};

/// The version with a memory map.
const VERSION: u32 = 1;
const MODULE: u64 = place::PVH_START_INFO + size_of::<hvm_start_info>() as u64;
const MEMORY_MAP: u64 = MODULE + 64;

/// Loads the file and writes the start info.
pub fn load(plan: &Plan) -> Result<Protocol, BootError> {
    let kernel = plan.images.kernel();
    let elf = Elf::read(kernel)?;
    let entry = elf.pvh_entry.ok_or_else(|| {
        kernel.unbootable(
            "is an ELF file without a PVH entry note (Linux makes one with CONFIG_PVH=y); give the bzImage",
        )
    })?;
    let mut end = EXTENDED_START;
    for segment in &elf.segments {
        end = end.max(check(plan, segment)?);
    }
    let loaded = ElfLoader::load(plan.ram, None, &mut kernel.rewound()?, None);
    loaded.map_err(|source| BootError::Loader {
        path: kernel.path(),
        source,
    })?;
    for segment in &elf.segments {
        clear(plan, segment)?;
    }

    let initrd = place::initrd(plan, end, plan.layout.low_ram)?;
    let cmdline = place::cmdline(plan, place::CMDLINE_ROOM - 1)?;
    let map = plan.layout.memory_map();
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        flags: 0,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { MODULE } else { 0 },
        cmdline_paddr: cmdline,
        rsdp_paddr: plan.rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        reserved: 0,
    };
    plan.ram
        .write_slice(&start_info(&info), GuestAddress(place::PVH_START_INFO))?;
    if let Some(initrd) = initrd {
        let module = module(&hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.size,
            ..Default::default()
        });
        plan.ram.write_slice(&module, GuestAddress(MODULE))?;
    }
    let map: Vec<u8> = map.iter().flat_map(memory_map_entry).collect();
    plan.ram.write_slice(&map, GuestAddress(MEMORY_MAP))?;
    Ok(Protocol::Pvh {
        rip: u64::from(entry),
        rbx: place::PVH_START_INFO,
    })
}

/// Checks that a segment lies in low RAM and over nothing of ours; gives its end.
fn check(plan: &Plan, segment: &Segment) -> Result<u64, BootError> {
    let start = segment.start;
    let end = start.saturating_add(segment.memory_size.max(segment.file_size));
    let path = || plan.images.kernel().path();
    let over = |range: &std::ops::Range<u64>| start < range.end && range.start < end;
    if end > plan.layout.low_ram {
        Err(BootError::KernelTooLarge { path: path(), end })
    } else if over(&place::BOOT_DATA) {
        let what = "boot data goes";
        Err(BootError::Overlap {
            path: path(),
            start,
            what,
        })
    } else if over(&(BIOS_AREA..EXTENDED_START)) {
        let what = "the ACPI tables go";
        Err(BootError::Overlap {
            path: path(),
            start,
            what,
        })
    } else {
        Ok(end)
    }
}

/// Clears what the segment has in memory and the file has not.
fn clear(plan: &Plan, segment: &Segment) -> Result<(), BootError> {
    static ZEROS: [u8; 0x1_0000] = [0; 0x1_0000];
    let mut at = segment.start.saturating_add(segment.file_size);
    let mut left = segment.memory_size.saturating_sub(segment.file_size);
    while left != 0 {
        let len = left.min(ZEROS.len() as u64);
        plan.ram
            .write_slice(&ZEROS[..len as usize], GuestAddress(at))?;
        at += len;
        left -= len;
    }
    Ok(())
}

// The structures as bytes, in the order of start_info.h.

fn start_info(info: &hvm_start_info) -> Vec<u8> {
    let words = [info.magic, info.version, info.flags, info.nr_modules];
    let addresses = [
        info.modlist_paddr,
        info.cmdline_paddr,
        info.rsdp_paddr,
        info.memmap_paddr,
    ];
    let last = [info.memmap_entries, info.reserved];
    let words = words.iter().flat_map(|w| w.to_le_bytes());
    let addresses = addresses.iter().flat_map(|a| a.to_le_bytes());
    let last = last.iter().flat_map(|w| w.to_le_bytes());
    words.chain(addresses).chain(last).collect()
}

fn module(m: &hvm_modlist_entry) -> Vec<u8> {
    let fields = [m.paddr, m.size, m.cmdline_paddr, m.reserved];
    fields.iter().flat_map(|f| f.to_le_bytes()).collect()
}

fn memory_map_entry(entry: &MapEntry) -> Vec<u8> {
    let entry = hvm_memmap_table_entry {
        addr: entry.start,
        size: entry.size,
        type_: match entry.kind {
            MapKind::Ram => XEN_HVM_MEMMAP_TYPE_RAM,
            MapKind::Reserved => XEN_HVM_MEMMAP_TYPE_RESERVED,
            MapKind::Acpi => XEN_HVM_MEMMAP_TYPE_ACPI,
        },
        reserved: 0,
    };
    let addresses = [entry.addr, entry.size];
    let words = [entry.type_, entry.reserved];
    let addresses = addresses.iter().flat_map(|a| a.to_le_bytes());
    addresses
        .chain(words.iter().flat_map(|w| w.to_le_bytes()))
        .collect()
}
