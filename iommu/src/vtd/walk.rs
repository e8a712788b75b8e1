//! From a requester to its domain, and from an address in the domain to memory
//! (VT-d 4.1 §3.4, §3.7). Each walk reads at most one entry for each level.

use pci::Bdf;

use super::config::{VtdConfig, Width};
use super::faults::FaultReason;
use super::memory::{GuestRam, read_entry, read_wide_entry};
use super::registers::{RootTable, TableMode};
use super::tables::{ContextEntry, PageEntry, RootEntry, level_shift};

/// How a requester's addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// They are guest-physical.
    PassThrough,
    /// By page tables: the topmost, and how many levels there are.
    Tables { root: u64, levels: u8 },
}

/// A valid context entry, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Context {
    pub requester: Bdf,
    pub domain: u16,
    pub stage: Stage,
    /// Bits of address it may use: the lesser of MGAW and AGAW.
    pub width: u8,
    pub fault_disable: bool,
}

impl Context {
    /// The address has no bit above those it may use.
    pub fn takes(&self, iova: u64) -> bool {
        iova >> self.width == 0
    }

    /// A fault of a request in this context.
    pub fn denies(&self, reason: FaultReason) -> Denied {
        Denied {
            reason,
            fault_disable: self.fault_disable,
        }
    }
}

/// Why there is no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Denied {
    pub reason: FaultReason,
    /// FPD of the context entry: it keeps the fault from being recorded. Clear if it was not
    /// got so far, as only faults from there on are *qualified* (VT-d 4.1 §7.1.3).
    pub fault_disable: bool,
}

impl From<FaultReason> for Denied {
    fn from(reason: FaultReason) -> Self {
        Self {
            reason,
            fault_disable: false,
        }
    }
}

/// What a device may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    /// First I/O virtual address.
    pub iova: u64,
    /// First guest-physical address.
    pub gpa: u64,
    /// Length, as a power of two: 12, 21 or 30.
    pub shift: u8,
    pub read: bool,
    pub write: bool,
}

/// Why a walk of page tables found no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoPage {
    NotPresent,
    Access,
    Reserved,
}

/// Reads the root and context entries of a requester.
pub(super) fn find_context(
    memory: &GuestRam,
    root: RootTable,
    config: &VtdConfig,
    requester: Bdf,
) -> Result<Context, Denied> {
    if root.mode() != TableMode::Legacy {
        return Err(FaultReason::TableModeInvalid.into());
    }
    let entry = read_wide_entry(memory, index(root.address(), requester.bus(), 16))
        .map(RootEntry)
        .ok_or(FaultReason::RootAccess)?;
    if !entry.present() {
        return Err(FaultReason::RootNotPresent.into());
    }
    if entry.is_reserved(config) {
        return Err(FaultReason::RootReserved.into());
    }
    let entry = read_wide_entry(memory, index(entry.table(), requester.devfn(), 16))
        .map(ContextEntry)
        .ok_or(FaultReason::ContextAccess)?;
    check_context(entry, config, requester).map_err(|reason| Denied {
        reason,
        fault_disable: entry.fault_disable(),
    })
}

fn check_context(
    entry: ContextEntry,
    config: &VtdConfig,
    requester: Bdf,
) -> Result<Context, FaultReason> {
    if !entry.present() {
        return Err(FaultReason::ContextNotPresent);
    }
    if entry.is_reserved(config) {
        return Err(FaultReason::ContextReserved);
    }
    let width = Width::from_field(entry.width())
        .filter(|&width| width <= config.width)
        .ok_or(FaultReason::ContextInvalid)?;
    let stage = match entry.translation_type() {
        ContextEntry::PASS_THROUGH => Stage::PassThrough,
        // Device-TLBs change nothing for requests that are not translated yet.
        0 => tables(entry, width),
        1 if config.device_tlb => tables(entry, width),
        _ => return Err(FaultReason::ContextInvalid),
    };
    Ok(Context {
        requester,
        domain: entry.domain(),
        stage,
        width: width.bits(),
        fault_disable: entry.fault_disable(),
    })
}

fn tables(entry: ContextEntry, width: Width) -> Stage {
    Stage::Tables {
        root: entry.table(),
        levels: width.levels(),
    }
}

/// Walks `levels` page tables from `table` down to the page of `iova`. Access is allowed if
/// every entry on the way allows it.
pub(super) fn find_page(
    memory: &GuestRam,
    config: &VtdConfig,
    mut table: u64,
    levels: u8,
    iova: u64,
) -> Result<Page, NoPage> {
    let (mut read, mut write) = (true, true);
    for level in (1..=levels).rev() {
        let shift = level_shift(level);
        let at = table.wrapping_add((iova >> shift & 0x1ff) * 8);
        let entry = PageEntry(read_entry(memory, at).ok_or(NoPage::Access)?);
        if !entry.present() {
            return Err(NoPage::NotPresent);
        }
        if entry.is_reserved(level, config) {
            return Err(NoPage::Reserved);
        }
        read &= entry.read();
        write &= entry.write();
        if entry.is_leaf(level) {
            return Ok(Page {
                iova: iova & u64::MAX << shift,
                gpa: entry.address(shift),
                shift,
                read,
                write,
            });
        }
        table = entry.address(12);
    }
    Err(NoPage::NotPresent)
}

/// The address of an entry. Tables are aligned, so this stays within one.
fn index(table: u64, number: u8, size: u64) -> u64 {
    table.wrapping_add(u64::from(number) * size)
}
