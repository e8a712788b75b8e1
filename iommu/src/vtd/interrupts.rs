//! An interrupt request's way through the unit (VT-d 4.1 §5.1), and the interrupt entry
//! cache (§6.2.1).

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use pci::{Bdf, MsiMessage};

use super::Vtd;
use super::entry::{InterruptEntry, Request};
use super::faults::Blocked;
use super::memory::read_wide_entry;
use super::reason::FaultReason;
use super::registers::InterruptTable;
use crate::Fault;

/// Entries kept, each in the place that its index names.
const SLOTS: usize = 1024;

/// A request that is blocked.
pub(super) struct Refused {
    reason: FaultReason,
    /// The index, as far as there is one.
    index: u32,
    /// FPD of the entry, if it was got so far: it keeps the fault from being recorded.
    fault_disable: bool,
}

impl Vtd {
    pub(super) fn remap_request(
        &self,
        requester: Bdf,
        message: MsiMessage,
    ) -> Result<MsiMessage, Fault> {
        self.remap_checked(requester, message).map_err(|refused| {
            if !refused.fault_disable {
                self.record(Blocked {
                    reason: refused.reason,
                    source: requester,
                    info: u64::from(refused.index) << 48,
                    read: false,
                });
            }
            Fault {
                requester,
                address: message.address,
            }
        })
    }

    pub(super) fn remap_checked(
        &self,
        requester: Bdf,
        message: MsiMessage,
    ) -> Result<MsiMessage, Refused> {
        let mode = self.live.mode();
        if !mode.remaps() {
            return Ok(message);
        }
        let table = self.live.interrupts();
        match Request::from(message) {
            // 32-bit APIC ids have no room in this format (§5.1.2.1).
            Request::Compatibility if mode.passes_compatibility() && !table.extended() => {
                Ok(message)
            }
            Request::Compatibility => Err(refuse(FaultReason::CompatibilityBlocked, 0)),
            Request::Malformed => Err(refuse(FaultReason::RequestReserved, 0)),
            Request::Remappable(index) => self.resolve(table, requester, index),
        }
    }

    /// A request in the interrupt address range that is not made like an interrupt request. It
    /// is reported as an interrupt remapping fault (§3.15), so only where interrupts are
    /// remapped. The manual does not say with which reason: it is taken for a request that
    /// cannot be decoded, which has no index.
    pub(super) fn illegal_request(&self, requester: Bdf) {
        if self.live.mode().remaps() {
            self.record(Blocked {
                reason: FaultReason::RequestReserved,
                source: requester,
                info: 0,
                read: false,
            });
        }
    }

    fn resolve(
        &self,
        table: InterruptTable,
        requester: Bdf,
        index: u32,
    ) -> Result<MsiMessage, Refused> {
        if index >= table.entries() {
            return Err(refuse(FaultReason::IndexTooLarge, index));
        }
        let entry = self.interrupt_entry(table, index)?;
        if !entry.admits(requester) {
            return Err(Refused {
                fault_disable: entry.fault_disable(),
                ..refuse(FaultReason::SourceInvalid, index)
            });
        }
        Ok(entry.message(table.extended()))
    }

    /// The entry, from the cache or the table; present and valid.
    fn interrupt_entry(
        &self,
        table: InterruptTable,
        index: u32,
    ) -> Result<InterruptEntry, Refused> {
        let generation = match self.entries.find(index) {
            Ok(entry) => return Ok(entry),
            Err(generation) => generation,
        };
        let entry = table
            .address()
            .checked_add(u64::from(index) * 16)
            .and_then(|address| read_wide_entry(&self.memory, address))
            .map(InterruptEntry)
            .ok_or_else(|| refuse(FaultReason::EntryAccess, index))?;
        let reason = if !entry.present() {
            FaultReason::EntryNotPresent
        } else if entry.is_reserved(table.extended()) {
            FaultReason::EntryReserved
        } else {
            self.entries.keep(generation, index, entry);
            return Ok(entry);
        };
        Err(Refused {
            fault_disable: entry.fault_disable(),
            ..refuse(reason, index)
        })
    }
}

fn refuse(reason: FaultReason, index: u32) -> Refused {
    Refused {
        reason,
        index,
        fault_disable: false,
    }
}

/// The interrupt entry cache. As with translations, only what is present and valid is kept,
/// and not what an invalidation may have overtaken.
pub(super) struct EntryCache(RwLock<Entries>);

struct Entries {
    generation: u64,
    slots: Vec<Option<(u32, InterruptEntry)>>,
}

impl EntryCache {
    pub fn new() -> Self {
        Self(RwLock::new(Entries {
            generation: 0,
            slots: Vec::new(),
        }))
    }

    /// The entry, or the generation to keep it under once it is read.
    pub fn find(&self, index: u32) -> Result<InterruptEntry, u64> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match entries.slots.get(index as usize % SLOTS) {
            Some(&Some((at, entry))) if at == index => Ok(entry),
            _ => Err(entries.generation),
        }
    }

    /// Keeps an entry, unless something was invalidated since `generation`.
    pub fn keep(&self, generation: u64, index: u32, entry: InterruptEntry) {
        let entries = &mut *self.0.write().unwrap_or_else(PoisonError::into_inner);
        if entries.generation != generation {
            return;
        }
        if entries.slots.is_empty() {
            entries.slots = vec![None; SLOTS];
        }
        if let Some(slot) = entries.slots.get_mut(index as usize % SLOTS) {
            *slot = Some((index, entry));
        }
    }

    /// Forgets entries; all if `None`.
    pub fn invalidate(&self, indices: Option<Range<u32>>) {
        let entries = &mut *self.0.write().unwrap_or_else(PoisonError::into_inner);
        entries.generation = entries.generation.wrapping_add(1);
        match indices {
            Some(indices) if indices.len() < SLOTS => {
                for index in indices {
                    if let Some(slot) = entries.slots.get_mut(index as usize % SLOTS) {
                        slot.take_if(|(at, _)| *at == index);
                    }
                }
            }
            Some(indices) => {
                for slot in &mut entries.slots {
                    slot.take_if(|(at, _)| indices.contains(at));
                }
            }
            None => entries.slots.clear(),
        }
    }
}
