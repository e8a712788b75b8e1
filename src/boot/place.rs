//! Where things go in low memory, and the parts both protocols share: command line and
//! initrd.

use vm_memory::{Bytes, GuestAddress};

use super::{BootError, Plan};

/// The GDT.
pub const GDT: u64 = 0x5000;
/// PVH start info, followed by the module list and the memory map.
pub const PVH_START_INFO: u64 = 0x6000;
/// Linux's zero page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Page tables for the 64-bit entry: PML4, PDPT, then four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// The command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the command line, its zero included.
pub const CMDLINE_ROOM: usize = 0x1_0000;
/// All of the above lies here; no kernel may.
pub const BOOT_DATA: std::ops::Range<u64> = GDT..CMDLINE + CMDLINE_ROOM as u64;

const PAGE: u64 = 0x1000;

/// Writes the command line, at most `max` bytes and its zero, and says where it is.
pub fn cmdline(plan: &Plan, max: usize) -> Result<u64, BootError> {
    let max = max.min(CMDLINE_ROOM - 1);
    let len = plan.cmdline.len();
    if len > max {
        return Err(BootError::CmdlineTooLong { len, max });
    }
    let mut bytes = plan.cmdline.as_bytes().to_vec();
    bytes.push(0);
    plan.ram.write_slice(&bytes, GuestAddress(CMDLINE))?;
    Ok(CMDLINE)
}

/// Where an initrd was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Initrd {
    pub start: u64,
    pub size: u64,
}

/// Reads the initrd to the highest whole pages that end below `limit` and the end of low
/// RAM and start above the kernel.
pub fn initrd(plan: &Plan, kernel_end: u64, limit: u64) -> Result<Option<Initrd>, BootError> {
    let Some(image) = plan.images.initrd() else {
        return Ok(None);
    };
    let size = image.size()?;
    let limit = limit.min(plan.layout.low_ram);
    let start = limit
        .checked_sub(size)
        .map(|start| start & !(PAGE - 1))
        .filter(|&start| start >= kernel_end);
    let Some(start) = start else {
        return Err(BootError::InitrdTooLarge {
            path: image.path(),
            size,
            kernel_end,
            limit,
        });
    };
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    plan.ram
        .read_exact_volatile_from(GuestAddress(start), &mut image.rewound()?, len)
        .map_err(|e| image.unreadable(std::io::Error::other(e)))?;
    Ok(Some(Initrd { start, size }))
}
