//! What the command registers do: GCMD (VT-d 4.1 §11.4.4), and invalidation by registers
//! (§6.5.1). Commands are carried out one after the other, and their status shows when they
//! are done.

use std::ops::Range;
use std::sync::MutexGuard;

use pci::Bdf;

use super::Vtd;
use super::cache::{ContextScope, PageScope};
use super::config::MAX_ADDRESS_MASK;
use super::protected::Protected;
use super::registers::{Global, QueuePointer, TableMode};
use super::sink::TranslationChange;

/// The right to carry out commands: one thread at a time has it.
pub(super) type Commands<'a> = MutexGuard<'a, ()>;

/// Granularities of an invalidation, in registers and descriptors alike; with PASIDs, the second
/// is the whole PASID.
const GLOBAL: u8 = 1;
pub(super) const DOMAIN: u8 = 2;
pub(super) const SELECTIVE: u8 = 3;

impl Vtd {
    /// Software writes GCMD: bits that set a pointer, and levels that differ from GSTS.
    /// Write buffers (WBF) and advanced fault logging (SFL, EAFL) are not there.
    pub(super) fn command(&self, wanted: Global) {
        let commands = self.commands();
        let is = self.registers().status;
        if wanted.root_table() {
            self.set_root_table(&commands);
        }
        if wanted.queue() != is.queue() {
            self.enable_queue(wanted.queue(), &commands);
        }
        if self.config.interrupt_remapping {
            self.command_interrupts(wanted, is, &commands);
        }
        if wanted.translation() != is.translation() {
            self.set_status(|status| status.set_translation(wanted.translation()));
            // Turned on again, it must not find what was cached under other tables.
            self.cache.clear();
            self.sink.translations_changed(TranslationChange::All);
        }
    }

    /// Takes RTADDR, and forgets what was cached (CAP.ESRTPS).
    fn set_root_table(&self, _: &Commands<'_>) {
        let root = self.registers().root;
        self.live.set_root(root);
        self.cache.clear();
        if self.live.mode().translates() {
            self.sink.translations_changed(TranslationChange::All);
        }
        self.set_status(|status| status.set_root_table(true));
    }

    /// Starts the queue at its beginning, or stops it.
    fn enable_queue(&self, on: bool, commands: &Commands<'_>) {
        self.registers().queue_head = QueuePointer(0);
        self.set_status(|status| status.set_queue(on));
        if on {
            self.run_queue(commands);
        }
    }

    /// SIRTP takes IRTA, and forgets what was cached (CAP.ESIRTPS); IRE and CFI are levels.
    fn command_interrupts(&self, wanted: Global, is: Global, _: &Commands<'_>) {
        if wanted.interrupt_table() {
            let table = self.registers().interrupts;
            self.live.set_interrupts(table);
            self.set_status(|status| status.set_interrupt_table(true));
        }
        self.set_status(|status| {
            status.set_interrupts(wanted.interrupts());
            status.set_compatibility(wanted.compatibility());
        });
        let differs = wanted.interrupt_table()
            || wanted.interrupts() != is.interrupts()
            || wanted.compatibility() != is.compatibility();
        if differs {
            self.entries.invalidate(None);
        }
        if differs && (wanted.interrupts() || is.interrupts()) {
            self.sink.interrupts_changed(None);
        }
    }

    /// Protects memory, or no longer. PMEN.PRS says so when it is done.
    pub(super) fn protect(&self, protected: Protected, _: &Commands<'_>) {
        if protected != self.live.protected() {
            {
                let _registers = self.registers();
                self.live.set_protected(protected);
            }
            self.sink.translations_changed(TranslationChange::All);
        }
        let regs = &mut *self.registers();
        let on = regs.protect.enable();
        regs.protect.set_status(on);
    }

    fn set_status(&self, change: impl FnOnce(&mut Global)) {
        let regs = &mut *self.registers();
        change(&mut regs.status);
        self.live.set_status(regs.status);
    }

    /// CCMD was started. While the queue runs, registers invalidate nothing (§6.5.1).
    pub(super) fn context_command(&self, _: &Commands<'_>) {
        let (command, queued) = {
            let regs = self.registers();
            (regs.context_command, regs.status.queue())
        };
        let source = Bdf::from_requester_id(command.source());
        let scope = context_scope(
            command.granularity(),
            command.domain(),
            source,
            command.function_mask(),
        );
        let actual = match scope.filter(|_| !queued) {
            Some(scope) => {
                self.invalidate_contexts(scope);
                command.granularity()
            }
            None => 0,
        };
        let command = &mut self.registers().context_command;
        command.set_actual(actual);
        command.set_start(false);
    }

    /// IOTLB was started.
    pub(super) fn iotlb_command(&self, _: &Commands<'_>) {
        let (command, address, queued) = {
            let regs = self.registers();
            (regs.iotlb, regs.invalidate_address, regs.status.queue())
        };
        let scope = page_scope(
            command.granularity(),
            command.domain(),
            address.address(),
            address.mask(),
        );
        let actual = match scope.filter(|_| !queued) {
            Some(scope) => {
                self.invalidate_pages(scope);
                command.granularity()
            }
            None => 0,
        };
        let command = &mut self.registers().iotlb;
        command.set_actual(actual);
        command.set_start(false);
    }

    /// Forgets contexts, here and in whoever shadows them.
    pub(super) fn invalidate_contexts(&self, scope: ContextScope) {
        self.cache.invalidate_contexts(scope);
        let scalable = self.live.root().mode() == TableMode::Scalable;
        self.sink.translations_changed(match scope {
            ContextScope::Global => TranslationChange::All,
            // Such context entries are in no domain.
            ContextScope::Domain(_) if scalable => TranslationChange::All,
            ContextScope::Domain(domain) | ContextScope::Pasids { domain, .. } => {
                TranslationChange::Domain(domain)
            }
            ContextScope::Device {
                source,
                function_mask,
            } => TranslationChange::Requesters {
                source,
                function_mask,
            },
        });
    }

    /// Forgets pages, here and in whoever shadows them.
    pub(super) fn invalidate_pages(&self, scope: PageScope) {
        self.cache.invalidate_pages(scope);
        self.sink.translations_changed(match scope {
            PageScope::Global => TranslationChange::All,
            PageScope::Domain(domain) => TranslationChange::Domain(domain),
            PageScope::Pages {
                domain,
                iova,
                order,
            } => TranslationChange::Pages {
                domain,
                iova,
                len: 0x1000 << order,
            },
            PageScope::Pasid { domain, pasid } | PageScope::PasidPages { domain, pasid, .. } => {
                TranslationChange::Pasid { domain, pasid }
            }
        });
    }

    /// Forgets interrupt entries, here and in whoever made routes of them.
    pub(super) fn invalidate_entries(&self, indices: Option<Range<u32>>) {
        self.entries.invalidate(indices.clone());
        self.sink.interrupts_changed(indices);
    }
}

/// What a context invalidation is about; nothing if its granularity is reserved.
pub(super) fn context_scope(
    granularity: u8,
    domain: u16,
    source: Bdf,
    function_mask: u8,
) -> Option<ContextScope> {
    match granularity {
        GLOBAL => Some(ContextScope::Global),
        DOMAIN => Some(ContextScope::Domain(domain)),
        SELECTIVE => Some(ContextScope::Device {
            source,
            function_mask,
        }),
        _ => None,
    }
}

/// What an IOTLB invalidation is about; nothing if its granularity is reserved or its mask
/// larger than CAP.MAMV.
pub(super) fn page_scope(
    granularity: u8,
    domain: u16,
    address: u64,
    mask: u8,
) -> Option<PageScope> {
    match granularity {
        GLOBAL => Some(PageScope::Global),
        DOMAIN => Some(PageScope::Domain(domain)),
        SELECTIVE if mask <= MAX_ADDRESS_MASK => Some(PageScope::Pages {
            domain,
            iova: address & u64::MAX << (12 + mask),
            order: mask,
        }),
        _ => None,
    }
}
