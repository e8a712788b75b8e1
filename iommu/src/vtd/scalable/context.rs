//! From a requester to its PASID entry (VT-d 4.1 §3.4.3, §9.2, §9.4 to §9.6).

use pci::Bdf;

use super::super::config::{VtdConfig, Width};
use super::super::memory::{GuestRam, read_entry, read_quads};
use super::super::reason::{Chapter, FaultReason};
use super::super::walk::{Context, Denied, Stage, Tables, index};
use super::first::First;
use super::tables::{ContextEntry, DirectoryEntry, HalfRootEntry, PasidEntry, TranslationType};

/// Reads the entries that a requester's requests without PASID lead to.
pub(in super::super) fn find_context(
    memory: &GuestRam,
    root: u64,
    config: &VtdConfig,
    requester: Bdf,
) -> Result<Context, Denied> {
    let table = context_table(memory, root, config, requester)?;
    let entry = read_quads(memory, index(table, requester.devfn() & 0x7f, 32))
        .map(ContextEntry::new)
        .ok_or(FaultReason::ScalableContextAccess)?;
    let mut quiet = entry.fault_disable();
    check_context(entry, config).map_err(|reason| qualified(reason, quiet))?;
    let table = pasid_table(memory, config, entry, &mut quiet)?;
    let number = (entry.rid_pasid() & 0x3f) as u8;
    let pasid = read_quads(memory, index(table, number, 64))
        .map(PasidEntry::new)
        .ok_or(FaultReason::PasidAccess)?;
    quiet |= pasid.fault_disable();
    let (stage, width) =
        stage(pasid, config, entry.supervisor()).map_err(|reason| qualified(reason, quiet))?;
    Ok(Context {
        requester,
        domain: pasid.domain(),
        pasid: entry.rid_pasid(),
        chapter: Chapter::Scalable,
        stage,
        width,
        fault_disable: quiet,
    })
}

/// A fault that FPD keeps from being recorded. Those of entries that cannot be read are not
/// (VT-d 4.1 §7.1.3), but for page tables.
fn qualified(reason: FaultReason, fault_disable: bool) -> Denied {
    Denied {
        reason,
        fault_disable,
    }
}

/// The context table of the half of a bus that the requester is in.
fn context_table(
    memory: &GuestRam,
    root: u64,
    config: &VtdConfig,
    requester: Bdf,
) -> Result<u64, FaultReason> {
    let half = u64::from(requester.devfn() >> 7) * 8;
    let at = index(root, requester.bus(), 16).wrapping_add(half);
    let entry = read_entry(memory, at)
        .map(HalfRootEntry)
        .ok_or(FaultReason::ScalableRootAccess)?;
    if !entry.present() {
        return Err(FaultReason::ScalableRootNotPresent);
    }
    if entry.is_reserved(config) {
        return Err(FaultReason::ScalableRootReserved);
    }
    Ok(entry.table())
}

fn check_context(entry: ContextEntry, config: &VtdConfig) -> Result<(), FaultReason> {
    if !entry.present() {
        return Err(FaultReason::ScalableContextNotPresent);
    }
    if entry.is_reserved(config) {
        return Err(FaultReason::ScalableContextReserved);
    }
    if entry.rid_pasid() >= entry.pasids() {
        return Err(FaultReason::RidPasidTooLarge);
    }
    Ok(())
}

/// The PASID table that RID_PASID is in. FPD of the directory entry adds to `quiet`.
fn pasid_table(
    memory: &GuestRam,
    config: &VtdConfig,
    context: ContextEntry,
    quiet: &mut bool,
) -> Result<u64, Denied> {
    let number = u64::from(context.rid_pasid() >> 6);
    let at = context.directory().wrapping_add(number * 8);
    let entry = read_entry(memory, at)
        .map(DirectoryEntry)
        .ok_or(FaultReason::DirectoryAccess)?;
    *quiet |= entry.fault_disable();
    if !entry.present() {
        return Err(qualified(FaultReason::DirectoryNotPresent, *quiet));
    }
    if entry.is_reserved(config) {
        return Err(qualified(FaultReason::DirectoryReserved, *quiet));
    }
    Ok(entry.table())
}

/// How a PASID's addresses are translated, and bits of address it may use.
fn stage(
    entry: PasidEntry,
    config: &VtdConfig,
    supervisor: bool,
) -> Result<(Stage, u8), FaultReason> {
    if !entry.present() {
        return Err(FaultReason::PasidNotPresent);
    }
    if entry.is_reserved(config) {
        return Err(FaultReason::PasidReserved);
    }
    let width = || {
        Width::from_field(entry.width())
            .filter(|&width| width <= config.width)
            .ok_or(FaultReason::PasidInvalid)
    };
    let tables = |width: Width| Tables {
        root: entry.second_table(),
        levels: width.levels(),
    };
    let kind = entry.translation_type().ok_or(FaultReason::PasidInvalid)?;
    let stage = match kind {
        TranslationType::PassThrough => (Stage::PassThrough, width()?.bits()),
        TranslationType::SecondStage => {
            let width = width()?;
            (Stage::Tables(tables(width)), width.bits())
        }
        TranslationType::FirstStage => {
            let first = first(entry, config, supervisor)?;
            (Stage::First(first), first.width())
        }
        TranslationType::Nested => {
            let first = first(entry, config, supervisor)?;
            (Stage::Nested(first, tables(width()?)), first.width())
        }
    };
    match supervisor && !entry.takes_supervisors() {
        true => Err(FaultReason::SupervisorDisabled),
        false => Ok(stage),
    }
}

fn first(entry: PasidEntry, config: &VtdConfig, supervisor: bool) -> Result<First, FaultReason> {
    let levels = entry
        .first_levels()
        .filter(|&levels| config.has_first_stage() && levels <= config.width.levels())
        .ok_or(FaultReason::PasidInvalid)?;
    Ok(First {
        root: entry.first_table(),
        levels,
        supervisor,
        write_protect: entry.protects_from_supervisors(),
    })
}
