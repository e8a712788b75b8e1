//! An Intel VT-d remapping unit for the guest (VT-d specification 4.1), in legacy mode and, if
//! offered, in scalable mode. Pure over guest memory: no KVM, no files, no threads.
//!
//! Three sides, and what each may do:
//!
//! - The guest's processors read and write the register page ([`Vtd::read`], [`Vtd::write`]).
//!   Commands and the invalidation queue are carried out on the thread that writes, one at a
//!   time; the status that software waits for comes when all is done.
//! - Devices ask [`Remapper::translate`] and [`Remapper::remap`], on any thread. With
//!   translation off that is one load. A hit in the caches takes one shared lock of a shard
//!   that few devices have, and allocates nothing.
//! - The machine hears through [`VtdSink`]: the unit's own interrupts, and what the guest
//!   announces to have changed, *before* the guest is told that it took effect.
//!
//! A DMA's way: [`Vtd`] asks the caches, then walks root and context table, in scalable mode the
//! PASID tables, and the page tables of one stage or of both, and keeps what it found. Stale
//! entries are served until they are invalidated, and not after. An access that has its
//! translation when the invalidation comes is not waited for here: that is for the sink, and
//! [`VtdConfig::draining`] says whether it does.
//!
//! Not modelled: requests with PASID, page requests, second-stage A/D bits, posted interrupts,
//! advanced fault logging, write-buffer flushing, performance monitoring. None is offered.
//! Device-TLBs can be offered, but no function here makes translation requests: they are the
//! host's IOMMU's to answer.
//!
//! Reset: everything goes back to power-on values, caches are empty.

mod cache;
mod commands;
mod config;
mod descriptor;
mod entry;
mod event;
mod faults;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod interrupts;
mod live;
mod memory;
mod page;
mod protected;
mod queue;
mod reason;
mod registers;
mod scalable;
mod sink;
mod space;
mod state;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
mod translate;
mod walk;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pci::{Bdf, MsiMessage};
use vm_memory::GuestMemoryMmap;

use self::cache::Cache;
use self::commands::Commands;
use self::faults::Blocked;
use self::interrupts::EntryCache;
use self::live::Live;
use self::page::Registers;
use crate::{Access, Fault, Remapper, Translation};

pub use self::config::{VtdConfig, Width};
pub use self::faults::RECORDS;
pub use self::reason::FaultReason;
pub use self::registers::{Capability, ExtendedCapability, offset};
pub use self::sink::{Deaf, TranslationChange, VtdSink};
pub(crate) use self::space::{AddressSpace, TooManyTables, UNTRANSLATED};
pub use self::state::VtdState;

/// Bytes of the register page.
pub const PAGE_SIZE: u64 = 0x1000;

/// A remapping unit.
pub struct Vtd {
    config: VtdConfig,
    memory: Arc<GuestMemoryMmap<()>>,
    sink: Arc<dyn VtdSink>,
    /// Held while a command is carried out, the sink's part included.
    commands: Mutex<()>,
    /// Held for moments, never while the sink is called.
    registers: Mutex<Registers>,
    live: Live,
    cache: Cache,
    entries: EntryCache,
}

impl Vtd {
    /// A unit as after power-on, whose tables are in `memory`.
    pub fn new(
        config: VtdConfig,
        memory: Arc<GuestMemoryMmap<()>>,
        sink: Arc<dyn VtdSink>,
    ) -> Self {
        Self {
            config,
            memory,
            sink,
            commands: Mutex::new(()),
            registers: Mutex::new(Registers::new()),
            live: Live::new(),
            cache: Cache::new(),
            entries: EntryCache::new(),
        }
    }

    /// What it offers.
    pub fn config(&self) -> &VtdConfig {
        &self.config
    }

    /// Power-on values, and empty caches.
    pub fn reset(&self) {
        let _commands = self.commands();
        {
            let regs = &mut *self.registers();
            *regs = Registers::new();
            self.live.reset();
        }
        self.cache.clear();
        self.entries.invalidate(None);
        self.sink.translations_changed(TranslationChange::All);
        self.sink.interrupts_changed(None);
    }

    /// Its state.
    pub fn state(&self) -> VtdState {
        VtdState::of(self)
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn commands(&self) -> Commands<'_> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, fault: Blocked) {
        tracing::debug!(
            reason = ?fault.reason,
            requester = %fault.source,
            info = format_args!("{:#x}", fault.info),
            "VT-d fault"
        );
        let message = self.registers().faults.record(fault);
        self.send(message);
    }

    fn send(&self, message: Option<MsiMessage>) {
        if let Some(message) = message {
            self.sink.message(message);
        }
    }
}

impl Remapper for Vtd {
    fn translate(
        &self,
        requester: Bdf,
        iova: u64,
        len: u64,
        access: Access,
    ) -> Result<Translation, Fault> {
        self.translate_request(requester, iova, len, access)
    }

    fn remap(&self, requester: Bdf, message: MsiMessage) -> Result<MsiMessage, Fault> {
        self.remap_request(requester, message)
    }

    fn route(&self, requester: Bdf, message: MsiMessage) -> Option<MsiMessage> {
        self.remap_checked(requester, message).ok()
    }

    fn illegal(&self, requester: Bdf) {
        self.illegal_request(requester);
    }
}
