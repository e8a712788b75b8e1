//! Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst and zero-page.rst).

use linux_loader::bootparam::{XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::entry::Protocol;
use super::{BootError, Plan, place};
use crate::memory::layout::{EXTENDED_START, MapKind};

/// The 64-bit entry is this far into the loaded kernel.
const ENTRY_64: u64 = 0x200;
/// "Undefined" boot loader.
const LOADER_UNDEFINED: u8 = 0xff;
/// Normal video mode.
const VIDEO_NORMAL: u16 = 0xffff;
/// Protocol 2.12 says in `xloadflags` whether there is a 64-bit entry.
const PROTOCOL_2_12: u16 = 0x020c;
/// Where the header starts in the file and in the zero page, and where the byte is that
/// says how long it is: it ends 0x202 plus that byte.
const HEADER_START: usize = 0x1f1;
const HEADER_LENGTH_BASE: usize = 0x202;

/// Address range types of the memory map (ACPI 6.5 §15).
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const E820_ACPI: u32 = 3;

/// Loads the kernel and writes the zero page.
pub fn load(plan: &Plan) -> Result<Protocol, BootError> {
    let header = header(plan)?;
    let (start, end) = span(plan, &header)?;
    let kernel = plan.images.kernel();
    let loaded = BzImage::load(
        plan.ram,
        Some(GuestAddress(start)),
        &mut kernel.rewound()?,
        Some(GuestAddress(EXTENDED_START)),
    );
    let loaded = loaded.map_err(|source| BootError::Loader {
        path: kernel.path(),
        source,
    })?;

    let initrd_limit = u64::from(header.initrd_addr_max) + 1;
    let initrd = place::initrd(plan, end.max(loaded.kernel_end), initrd_limit)?;
    let cmdline = place::cmdline(plan, header.cmdline_size as usize)?;

    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: plan.rsdp,
        ..Default::default()
    };
    // Everything is below 4 GiB, so the upper halves stay zero.
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.vid_mode = VIDEO_NORMAL;
    params.hdr.code32_start = start as u32;
    params.hdr.cmd_line_ptr = cmdline as u32;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.start as u32;
        params.hdr.ramdisk_size = initrd.size as u32;
    }
    memory_map(plan, &mut params);
    plan.ram
        .write_slice(params.as_slice(), GuestAddress(place::ZERO_PAGE))?;
    Ok(Protocol::Long64 {
        rip: start + ENTRY_64,
        rsi: place::ZERO_PAGE,
    })
}

/// The kernel's setup header, with fields it does not have as zeros.
fn header(plan: &Plan) -> Result<setup_header, BootError> {
    let kernel = plan.images.kernel();
    let mut header = setup_header::default();
    let bytes = header.as_mut_slice();
    kernel.read_at(bytes, HEADER_START as u64)?;
    // The second byte of the jump at 0x200 is its distance: to the end of the header.
    let distance = bytes[HEADER_LENGTH_BASE - 1 - HEADER_START];
    let length = HEADER_LENGTH_BASE + usize::from(distance) - HEADER_START;
    if let Some(beyond) = bytes.get_mut(length..) {
        beyond.fill(0);
    }
    let (version, flags) = (header.version, header.xloadflags);
    if version < PROTOCOL_2_12 || flags & XLF_KERNEL_64 == 0 {
        return Err(
            kernel.unbootable("has no 64-bit entry; give a 64-bit kernel of Linux 3.8 or later")
        );
    }
    Ok(header)
}

/// Where the kernel goes and where the memory it needs to start ends: where it prefers to
/// be, or, when RAM does not reach there and it can be moved, as low as its alignment
/// allows.
fn span(plan: &Plan, header: &setup_header) -> Result<(u64, u64), BootError> {
    let (prefers, size) = (header.pref_address, u64::from(header.init_size));
    let (align, movable) = (
        u64::from(header.kernel_alignment),
        header.relocatable_kernel,
    );
    let end = |start: u64| start.saturating_add(size);
    let prefers = prefers.max(EXTENDED_START);
    let fits = |start| end(start) <= plan.layout.low_ram;
    if fits(prefers) {
        return Ok((prefers, end(prefers)));
    }
    let lowest = EXTENDED_START.checked_next_multiple_of(align.max(1));
    match lowest {
        Some(start) if movable != 0 && fits(start) => Ok((start, end(start))),
        _ => Err(BootError::KernelTooLarge {
            path: plan.images.kernel().path(),
            end: end(prefers),
        }),
    }
}

fn memory_map(plan: &Plan, params: &mut boot_params) {
    let map = plan.layout.memory_map();
    let mut table = params.e820_table;
    for (slot, entry) in table.iter_mut().zip(&map) {
        *slot = boot_e820_entry {
            addr: entry.start,
            size: entry.size,
            r#type: match entry.kind {
                MapKind::Ram => E820_RAM,
                MapKind::Reserved => E820_RESERVED,
                MapKind::Acpi => E820_ACPI,
            },
        };
    }
    params.e820_entries = map.len().min(table.len()) as u8;
    params.e820_table = table;
}
