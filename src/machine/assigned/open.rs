//! Opening the host's devices: who may be had, through which IOMMU interface, and the
//! guest's memory pinned for them.

use std::sync::Arc;

use devices::dma::GuestRam;
use devices::vfio::{Candidate, KernelDevice};
use iommu::host::{HostMapper, PinnedMemory, check_lock_limit, pin_memory};
use kvm_ioctls::VmFd;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::interface::{self, Interface, Kernel};
use super::kvm_vfio::KvmVfio;
use super::shadows::{Behind, Member, Shadows};
use crate::cli::Progress;
use crate::config;
use crate::host::{Assignable, Host, HostDevice, Inherited};
use crate::machine::Error;
use crate::machine::vm::Vm;
use crate::memory::{HugePages, populate};

/// The machine's side of the host's IOMMU: devices are opened into it, at the start or later.
/// They reach all of guest memory, or, behind a VT-d of the guest's, what that lets them reach.
///
/// It is to be dropped, or [left](Self::left), before the last device that was opened is
/// closed: with type1, an open device holds the IOMMU that memory is mapped in.
pub struct HostSide {
    vm: Arc<VmFd>,
    memory: Memory,
    /// KVM has one such device only: made when it is first needed, and kept.
    kvm: Option<Arc<KvmVfio>>,
    spaces: Spaces,
}

/// The guest's memory.
pub(super) struct Memory {
    pub ram: Arc<GuestRam>,
    pub pages: HugePages,
}

/// Address spaces of the host's IOMMU.
enum Spaces {
    /// One for all devices, while there are some.
    One(Option<Occupied>),
    /// One for each group.
    Each(Shadows),
}

/// Memory is unmapped first: fields are dropped in this order.
struct Occupied {
    _pinned: PinnedMemory,
    interface: Interface,
}

/// A device that there is on the host.
pub(super) struct Prospect {
    pub candidate: Candidate,
    /// Its own file, if this process was given it.
    pub file: Option<Inherited>,
    /// A PCI function that nobody uses.
    pub function: Option<Assignable>,
}

/// A device that is open. It leaves its space before it is closed.
pub(super) struct Opened {
    pub member: Option<Arc<Member>>,
    pub kernel: Arc<KernelDevice>,
}

impl HostSide {
    /// A side with no devices: nothing of the host's is opened yet. RAM is made of `pages`.
    /// Devices are behind the guest's unit, if there is one.
    pub fn new(vm: &Vm, ram: Arc<GuestRam>, pages: HugePages, behind: Option<Behind>) -> Self {
        Self {
            vm: vm.fd.clone(),
            memory: Memory { ram, pages },
            kvm: None,
            spaces: match behind {
                None => Spaces::One(None),
                Some(behind) => Spaces::Each(Shadows::new(behind)),
            },
        }
    }

    /// Opens devices, in the order asked for. When it returns they reach the guest's memory.
    /// If one cannot be opened, none is. The first to come choose the interface.
    pub fn open(&mut self, wanted: &[config::Assign]) -> Result<Vec<Opened>, Error> {
        let host = Host::this_machine();
        // All are looked at before the first is opened.
        let prospects = wanted
            .iter()
            .map(|assign| find(&host, assign))
            .collect::<Result<Vec<_>, _>>()?;
        let kvm = self.kvm()?;
        let devices = match &mut self.spaces {
            Spaces::Each(shadows) => {
                let kernel = Kernel {
                    host: &host,
                    wanted,
                    prospects: &prospects,
                    kvm: &kvm,
                };
                let entered = shadows.open(&kernel, &prospects, &self.memory)?;
                let opened = |(member, kernel)| Opened {
                    member: Some(member),
                    kernel,
                };
                return Ok(entered.into_iter().map(opened).collect());
            }
            Spaces::One(Some(occupied)) => {
                occupied.interface.check_wishes(wanted)?;
                occupied.interface.open(&prospects, &kvm)?
            }
            Spaces::One(vacant) => {
                let interface = interface::choose(&host, wanted, &prospects, &kvm)?;
                let devices = interface.open(&prospects, &kvm)?;
                *vacant = Some(Occupied {
                    _pinned: self.memory.pin(&interface)?,
                    interface,
                });
                devices
            }
        };
        let opened = |kernel| Opened {
            member: None,
            kernel,
        };
        Ok(devices.into_iter().map(opened).collect())
    }

    /// What maps memory for all devices, while there are some and they share it.
    pub fn mapper(&self) -> Option<Arc<dyn HostMapper>> {
        match &self.spaces {
            Spaces::One(occupied) => Some(occupied.as_ref()?.interface.mapper()),
            Spaces::Each(_) => None,
        }
    }

    /// Unmaps the guest's memory. To be called before the last open device is closed, with
    /// which a type1 IOMMU goes; the next [`Self::open`] starts anew.
    pub fn left(&mut self) {
        match &mut self.spaces {
            Spaces::One(occupied) => *occupied = None,
            Spaces::Each(shadows) => shadows.end(),
        }
    }

    /// A device has left, and others stay.
    pub fn fewer(&mut self) {
        if let Spaces::Each(shadows) = &mut self.spaces {
            shadows.tidy();
        }
    }

    fn kvm(&mut self) -> Result<Arc<KvmVfio>, Error> {
        let made = match self.kvm.take() {
            Some(made) => made,
            None => Arc::new(KvmVfio::new(&self.vm)?),
        };
        Ok(self.kvm.insert(made).clone())
    }
}

impl Memory {
    fn pin(&self, interface: &Interface) -> Result<PinnedMemory, Error> {
        check_lock_limit(&self.ram, 1)?;
        self.populate()?;
        let mut bar: Option<Progress> = None;
        let pinned = pin_memory(interface.mapper(), self.ram.clone(), &mut |done, total| {
            bar.get_or_insert_with(|| Progress::start("pinning guest memory", total))
                .at(done);
        })?;
        Ok(pinned)
    }

    /// Finds all of memory: with several threads, where the IOMMU would do it page by page.
    /// What is left for it then is a twentieth of the time (in the lab), not worth doing at once.
    pub fn populate(&self) -> Result<(), Error> {
        if self.pages.pool().is_some() {
            // That was done when it was made.
            return Ok(());
        }
        let total = self.ram.iter().map(|region| region.len()).sum();
        let mut bar = Progress::start("populating guest memory", total);
        populate(&self.ram, self.pages, |done| bar.at(done))?;
        Ok(())
    }
}

/// Looks at a device without opening anything. One whose file this process was given is open
/// in whoever gave it as well, so whether it is free shows when it is bound.
fn find(host: &Host, assign: &config::Assign) -> Result<Prospect, Error> {
    let (sysfs, function) = match assign.device {
        HostDevice::Pci(address) if assign.file.is_some() => (host.sysfs_path(address), None),
        HostDevice::Pci(address) => {
            let free = host.check_free(address)?;
            (free.sysfs.clone(), Some(free))
        }
        HostDevice::Mediated(uuid) => (host.mediated(uuid)?, None),
    };
    Ok(Prospect {
        candidate: Candidate {
            name: assign.device.to_string(),
            address: assign.device.pci(),
            sysfs,
        },
        file: assign.file.clone(),
        function,
    })
}
