//! The guest's VT-d unit on the board: its registers on the bus, and who hears of what.

use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};

use devices::irq::MsiSink;
use devices::platform::vtd::VtdRegisters;
use iommu::vtd::{PAGE_SIZE, TranslationChange, Vtd, VtdConfig, VtdSink};
use pci::{MsiMessage, Space};

use devices::dma::{Drain, GuestRam};

use super::Error;
use super::assigned::{Behind, Followers};
use super::installer::{Installed, Installer, Placement};
use crate::config;
use crate::interrupt::{Controllers, Routes};
use crate::memory::layout::VTD_BASE;

/// What the unit is put together from.
pub struct Parts<'a> {
    /// What it offers.
    pub config: &'a config::Iommu,
    /// Bits of a guest-physical address.
    pub phys_bits: u8,
    /// Guest RAM.
    pub ram: Arc<GuestRam>,
    /// Where its own interrupts go: they are not remapped.
    pub msi: Arc<dyn MsiSink>,
    /// Address spaces.
    pub installer: &'a Installer,
}

/// The unit.
pub struct Unit {
    /// The model.
    pub vtd: Arc<Vtd>,
    listener: Arc<Listener>,
    _registers: Installed,
}

impl Unit {
    /// A unit as after power-on, at its place. [`Self::wire`] must follow.
    pub fn new(parts: Parts<'_>) -> Result<Self, Error> {
        let config = offered(parts.config, parts.phys_bits);
        let listener = Arc::new(Listener {
            msi: parts.msi,
            followers: Arc::default(),
            drain: Arc::default(),
            vtd: OnceLock::new(),
            interrupts: OnceLock::new(),
        });
        let vtd = Arc::new(Vtd::new(config, parts.ram, listener.clone()));
        let _ = listener.vtd.set(Arc::downgrade(&vtd));
        let registers = parts.installer.install(Placement {
            space: Space::Memory,
            base: VTD_BASE,
            size: PAGE_SIZE,
            name: "vtd",
            region: Arc::new(VtdRegisters(vtd.clone())),
            fast_paths: Vec::new(),
        })?;
        Ok(Self {
            vtd,
            listener,
            _registers: registers,
        })
    }

    /// Says who has made something of the guest's interrupt entries.
    pub fn wire(&self, controllers: &Arc<Controllers>, routes: &Arc<Routes>) {
        let interrupts = (Arc::downgrade(controllers), Arc::downgrade(routes));
        let _ = self.listener.interrupts.set(interrupts);
    }

    /// What assigned devices need to know of it.
    pub fn behind(&self) -> Behind {
        Behind {
            vtd: self.vtd.clone(),
            followers: self.listener.followers.clone(),
            drain: self.listener.drain.clone(),
        }
    }

    /// Power-on values. Devices must do no DMA any more: what was an address of theirs is now
    /// guest-physical.
    pub fn reset(&self) {
        self.vtd.reset();
    }
}

/// What the model is to offer for a configuration.
fn offered(config: &config::Iommu, phys_bits: u8) -> VtdConfig {
    let config::Iommu {
        width,
        interrupt_remapping,
        eim,
        caching_mode,
        snoop_control,
        scalable,
        device_tlb,
    } = *config;
    VtdConfig {
        width,
        host_width: phys_bits,
        interrupt_remapping,
        eim,
        caching_mode,
        snoop_control,
        device_tlb,
        draining: true,
        wide_descriptors: false,
        scalable,
        // Linux takes first-stage tables wherever they are offered, with caching mode too, and
        // assigned devices cannot follow them.
        first_stage: scalable && !caching_mode,
    }
}

/// Holds weakly who holds the unit.
struct Listener {
    msi: Arc<dyn MsiSink>,
    followers: Arc<Followers>,
    drain: Arc<Drain>,
    vtd: OnceLock<Weak<Vtd>>,
    interrupts: OnceLock<(Weak<Controllers>, Weak<Routes>)>,
}

impl VtdSink for Listener {
    fn message(&self, message: MsiMessage) {
        self.msi.send(message);
    }

    fn translations_changed(&self, change: TranslationChange) {
        self.followers.follow(change);
        let vtd = self.vtd.get().and_then(Weak::upgrade);
        self.drain.wait(|requester| match &vtd {
            Some(vtd) => vtd.may_concern(change, requester),
            None => true,
        });
    }

    /// All are resolved anew whichever changed: those that stay what they were cost a look into
    /// the unit's cache each.
    fn interrupts_changed(&self, _: Option<Range<u32>>) {
        let Some((controllers, routes)) = self.interrupts.get() else {
            return;
        };
        if let Some(controllers) = controllers.upgrade() {
            controllers.interrupts_changed();
        }
        if let Some(routes) = routes.upgrade() {
            routes.follow();
        }
    }
}

#[cfg(test)]
mod tests {
    use iommu::vtd::Width;

    use super::*;

    const CONFIG: config::Iommu = config::Iommu {
        width: Width::Bits48,
        interrupt_remapping: true,
        eim: true,
        caching_mode: true,
        snoop_control: false,
        scalable: false,
        device_tlb: false,
    };

    fn capabilities(scalable: bool, caching_mode: bool) -> [bool; 3] {
        let config = config::Iommu {
            caching_mode,
            scalable,
            ..CONFIG
        };
        let ecap = offered(&config, 46).extended_capability();
        [ecap.scalable(), ecap.second_stage(), ecap.first_stage()]
    }

    #[test]
    fn first_stage_tables_are_offered_where_no_device_is_assigned() {
        assert_eq!(capabilities(false, false), [false; 3]);
        assert_eq!(capabilities(false, true), [false; 3]);
        assert_eq!(capabilities(true, true), [true, true, false]);
        assert_eq!(capabilities(true, false), [true, true, true]);
    }

    #[test]
    fn device_tlbs_are_offered_in_either_mode_where_they_are_asked_for() {
        for (scalable, device_tlb) in [(false, false), (false, true), (true, false), (true, true)] {
            let config = config::Iommu {
                scalable,
                device_tlb,
                ..CONFIG
            };
            let ecap = offered(&config, 46).extended_capability();
            assert_eq!((ecap.scalable(), ecap.device_tlb()), (scalable, device_tlb));
        }
    }
}
