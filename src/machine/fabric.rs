//! What a device that is plugged in is connected to: memory, interrupts, address spaces.

use std::sync::Arc;

use devices::bus::Deferred;
use devices::dma::{Dma, GuestRam};
use devices::irq::{MsiRoutes, MsiSink};
use devices::platform::intx::IntxRouter;
use iommu::Remapper;

use super::assigned::{Behind, Peers};
use super::installer::Installer;
use crate::interrupt::Levels;
use crate::memory::HugePages;

/// The machine, from a device's side.
pub struct Fabric {
    /// Guest RAM.
    pub ram: Arc<GuestRam>,
    /// What it is made of.
    pub pages: HugePages,
    /// The IOMMU in front of devices.
    pub remapper: Arc<dyn Remapper>,
    /// What assigned devices are behind, if there is one.
    pub behind: Option<Behind>,
    /// Messages of emulated devices.
    pub msi: Arc<dyn MsiSink>,
    /// Message routes for assigned devices.
    pub routes: Arc<dyn MsiRoutes>,
    /// Interrupt wires.
    pub wires: Arc<IntxRouter>,
    /// Their ends for assigned devices.
    pub levels: Arc<Levels>,
    /// Writes that the kernel has queued.
    pub deferred: Arc<dyn Deferred>,
    /// What assigned devices reach of each other.
    pub peers: Arc<Peers>,
    /// The guest's address spaces.
    pub installer: Installer,
}

impl Fabric {
    /// A DMA engine and message source of its own for a new function.
    pub fn dma(&self) -> Dma {
        let (ram, remapper, msi) = (self.ram.clone(), self.remapper.clone(), self.msi.clone());
        match &self.behind {
            Some(behind) => Dma::drained(ram, remapper, msi, &behind.drain),
            None => Dma::new(ram, remapper, msi),
        }
    }
}
