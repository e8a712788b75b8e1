//! What requests look at while registers are written: a few words, each read at once.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::protected::Protected;
use super::registers::{Global, InterruptTable, RootTable};

/// GSTS and the pointers, as they are in use.
pub(super) struct Live {
    /// GSTS, with bit 0 for protected memory.
    mode: AtomicU32,
    root: AtomicU64,
    interrupts: AtomicU64,
    protected: RwLock<Protected>,
}

/// What is turned on.
#[derive(Clone, Copy)]
pub(super) struct Mode(u32);

const PROTECTED: u32 = 1;

impl Mode {
    /// Some DMA may go elsewhere, or nowhere.
    pub fn checks_dma(self) -> bool {
        self.translates() || self.protects()
    }

    /// TES.
    pub fn translates(self) -> bool {
        Global(self.0).translation()
    }

    /// PMEN.PRS.
    pub fn protects(self) -> bool {
        self.0 & PROTECTED != 0
    }

    /// IRES.
    pub fn remaps(self) -> bool {
        Global(self.0).interrupts()
    }

    /// CFIS.
    pub fn passes_compatibility(self) -> bool {
        Global(self.0).compatibility()
    }
}

impl Live {
    pub fn new() -> Self {
        Self {
            mode: AtomicU32::new(0),
            root: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            protected: RwLock::default(),
        }
    }

    pub fn mode(&self) -> Mode {
        Mode(self.mode.load(Ordering::Acquire))
    }

    pub fn root(&self) -> RootTable {
        RootTable(self.root.load(Ordering::Acquire))
    }

    pub fn interrupts(&self) -> InterruptTable {
        InterruptTable(self.interrupts.load(Ordering::Acquire))
    }

    pub fn protected(&self) -> Protected {
        *self
            .protected
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// As after power-on.
    pub fn reset(&self) {
        self.set_status(Global::default());
        self.set_root(RootTable::default());
        self.set_interrupts(InterruptTable::default());
        self.set_protected(Protected::default());
    }

    /// Takes GSTS. Called with the registers locked, like the setters below.
    pub fn set_status(&self, status: Global) {
        let protected = self.mode.load(Ordering::Relaxed) & PROTECTED;
        self.mode.store(status.0 | protected, Ordering::Release);
    }

    pub fn set_root(&self, root: RootTable) {
        self.root.store(root.0, Ordering::Release);
    }

    pub fn set_interrupts(&self, table: InterruptTable) {
        self.interrupts.store(table.0, Ordering::Release);
    }

    pub fn set_protected(&self, protected: Protected) {
        *self
            .protected
            .write()
            .unwrap_or_else(PoisonError::into_inner) = protected;
        let status = self.mode.load(Ordering::Relaxed) & !PROTECTED;
        let on = if protected.is_none() { 0 } else { PROTECTED };
        self.mode.store(status | on, Ordering::Release);
    }
}
