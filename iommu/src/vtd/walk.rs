//! From a requester to its domain in legacy mode, and from an address in the domain to memory by
//! second-stage tables (VT-d 4.1 §3.4, §3.7). Each walk reads at most one entry for each level.

use pci::Bdf;

use super::config::{VtdConfig, Width};
use super::memory::{GuestRam, read_entry, read_wide_entry};
use super::reason::{Chapter, FaultReason};
use super::registers::{RootTable, TableMode};
use super::scalable::{self, First};
use super::tables::{ContextEntry, PageEntry, RootEntry, level_shift};

/// How a requester's addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// They are guest-physical.
    PassThrough,
    /// By second-stage tables.
    Tables(Tables),
    /// By first-stage tables.
    First(First),
    /// By first-stage tables, whose own addresses and what comes out of them go through
    /// second-stage tables.
    Nested(First, Tables),
}

/// Second-stage tables: the topmost, and how many levels there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tables {
    pub root: u64,
    pub levels: u8,
}

impl Tables {
    /// The address has no bit above those that the tables are about.
    pub fn take(self, address: u64) -> bool {
        address >> (12 + 9 * self.levels) == 0
    }
}

/// A valid context entry, with the PASID entry below it in scalable mode, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Context {
    pub requester: Bdf,
    pub domain: u16,
    /// Of requests without PASID; zero in legacy mode.
    pub pasid: u32,
    pub chapter: Chapter,
    pub stage: Stage,
    /// Bits of address it may use: the lesser of MGAW and AGAW. With a first stage, bits of a
    /// canonical address.
    pub width: u8,
    pub fault_disable: bool,
}

impl Context {
    /// The address has no bit above those it may use, or is canonical.
    pub fn takes(&self, iova: u64) -> bool {
        let above = iova >> (self.width - 1);
        match self.stage {
            Stage::PassThrough | Stage::Tables(_) => above >> 1 == 0,
            Stage::First(_) | Stage::Nested(..) => {
                above == 0 || above == u64::MAX >> (self.width - 1)
            }
        }
    }

    /// A walk marks entries as used.
    pub fn marks(&self) -> bool {
        matches!(self.stage, Stage::First(_) | Stage::Nested(..))
    }

    /// The fault of an address that it does not take.
    pub fn beyond(&self) -> Denied {
        self.denies(match self.stage {
            Stage::PassThrough | Stage::Tables(_) => self.chapter.too_wide(),
            Stage::First(_) | Stage::Nested(..) => FaultReason::NotCanonical,
        })
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
    /// FPD of the context entry, or of one that the PASID leads to: it keeps the fault from
    /// being recorded. Clear if none was got so far, as only faults from there on are
    /// *qualified* (VT-d 4.1 §7.1.3).
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
    /// First I/O virtual address, without the copies of its sign that a canonical one has.
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
    /// An entry cannot be read; of the topmost table or of another one.
    Access {
        top: bool,
    },
    Reserved,
}

/// Reads the root and context entries of a requester.
pub(super) fn find_context(
    memory: &GuestRam,
    root: RootTable,
    config: &VtdConfig,
    requester: Bdf,
) -> Result<Context, Denied> {
    match root.mode() {
        TableMode::Legacy => find_legacy_context(memory, root, config, requester),
        TableMode::Scalable if config.scalable => {
            scalable::find_context(memory, root.address(), config, requester)
        }
        _ => Err(FaultReason::TableModeInvalid.into()),
    }
}

fn find_legacy_context(
    memory: &GuestRam,
    root: RootTable,
    config: &VtdConfig,
    requester: Bdf,
) -> Result<Context, Denied> {
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
        0 => Stage::Tables(tables(entry, width)),
        1 if config.device_tlb => Stage::Tables(tables(entry, width)),
        _ => return Err(FaultReason::ContextInvalid),
    };
    Ok(Context {
        requester,
        domain: entry.domain(),
        pasid: 0,
        chapter: Chapter::Legacy,
        stage,
        width: width.bits(),
        fault_disable: entry.fault_disable(),
    })
}

fn tables(entry: ContextEntry, width: Width) -> Tables {
    Tables {
        root: entry.table(),
        levels: width.levels(),
    }
}

/// Walks second-stage tables down to the page of `iova`. Access is allowed if every entry on the
/// way allows it.
pub(super) fn find_page(
    memory: &GuestRam,
    config: &VtdConfig,
    tables: Tables,
    iova: u64,
) -> Result<Page, NoPage> {
    let (mut read, mut write) = (true, true);
    let mut table = tables.root;
    for level in (1..=tables.levels).rev() {
        let shift = level_shift(level);
        let at = table.wrapping_add((iova >> shift & 0x1ff) * 8);
        let entry = PageEntry(read_entry(memory, at).ok_or(NoPage::Access {
            top: level == tables.levels,
        })?);
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
pub(super) fn index(table: u64, number: u8, size: u64) -> u64 {
    table.wrapping_add(u64::from(number) * size)
}
