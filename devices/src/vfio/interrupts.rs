//! Which kind of interrupts an assigned device uses, and the moves between them.
//!
//! The kernel has one kind enabled at a time, and so has the device (PCIe 6.0 §6.1.4): MSI-X
//! if the guest has enabled it, else MSI if it has, else INTx. A guest must not enable MSI
//! and MSI-X at once; if it does, MSI-X it is.
//!
//! **Order.** The kinds that are not wanted are disabled before the wanted one is enabled.
//! What the device sends in between stays in the device: INTx is a level, which is looked at
//! when it is armed, and drivers change kinds with the device's interrupts off.
//!
//! **Failure.** A kind that the kernel failed to disable is tried again whenever the guest
//! touches its interrupts; the wanted one stays dead until then, and is tried again too.

use std::sync::{Arc, Mutex, PoisonError};

use pci::{Bdf, ConfigSpace};

use super::backend::{IrqKind, VfioBackend};
use super::intx::Intx;
use super::msi;
use super::msix::Msix;
use super::vectors::Vectors;
use crate::irq::MsiRoutes;

/// All of a device's interrupts.
pub(super) struct Interrupts {
    pub intx: Intx,
    pub msi: Vectors,
    /// Shared with the BAR that the table is in.
    msix: Option<Arc<Mutex<Msix>>>,
}

impl Interrupts {
    pub fn new(
        name: &Arc<str>,
        backend: &Arc<dyn VfioBackend>,
        routes: &Arc<dyn MsiRoutes>,
        space: &ConfigSpace,
    ) -> Self {
        let vectors =
            |kind| Vectors::new(name.clone(), kind, Arc::clone(backend), Arc::clone(routes));
        let msix = space.msix().map(|capability| {
            let msix = Msix::new(capability, vectors(IrqKind::Msix));
            Arc::new(Mutex::new(msix))
        });
        Self {
            intx: Intx::new(name.clone(), Arc::clone(backend)),
            msi: vectors(IrqKind::Msi),
            msix,
        }
    }

    /// The MSI-X table, for the BAR that it is in.
    pub fn msix(&self) -> Option<Arc<Mutex<Msix>>> {
        self.msix.clone()
    }

    pub fn with_msix<T>(&self, act: impl FnOnce(&mut Msix) -> T) -> Option<T> {
        let msix = self.msix.as_ref()?;
        Some(act(&mut msix
            .lock()
            .unwrap_or_else(PoisonError::into_inner)))
    }

    /// Brings everything to what the guest's config space says. `muted`: it lets the pin do
    /// nothing.
    pub fn follow(&mut self, space: &ConfigSpace, muted: bool, requester: Bdf) {
        match wanted(space) {
            Some(IrqKind::Msix) => {
                self.intx.disarm();
                self.msi.disable();
                self.follow_msix(space);
            }
            Some(IrqKind::Msi) => {
                self.follow_msix(space);
                self.intx.disarm();
                msi::follow(&mut self.msi, space, requester);
            }
            _ => {
                self.follow_msix(space);
                self.msi.disable();
                if space.interrupt_pin().is_some() {
                    self.intx.arm(muted);
                }
            }
        }
    }

    fn follow_msix(&self, space: &ConfigSpace) {
        if let Some(capability) = space.msix() {
            self.with_msix(|msix| msix.follow(capability));
        }
    }

    pub fn set_requester(&mut self, requester: Bdf) {
        self.msi.set_requester(requester);
        self.with_msix(|msix| msix.set_requester(requester));
    }

    /// Disables everything: the device has been reset, or is about to be.
    pub fn reset(&mut self) {
        self.intx.disarm();
        self.msi.disable();
        self.with_msix(Msix::reset);
    }
}

fn wanted(space: &ConfigSpace) -> Option<IrqKind> {
    if space.msix().is_some_and(pci::Msix::enabled) {
        Some(IrqKind::Msix)
    } else if space.msi().is_some_and(pci::Msi::enabled) {
        Some(IrqKind::Msi)
    } else {
        None
    }
}
