//! Opening the host's devices: who may be had, through which IOMMU interface, and the
//! guest's memory pinned for them.

use std::sync::Arc;

use devices::dma::GuestRam;
use devices::vfio::KernelDevice;
use iommu::host::{HostMapper, HypervisorVfio, PinnedMemory, Type1, pin_memory};
use kvm_ioctls::VmFd;

use crate::cli::Progress;
use crate::config;
use crate::host::Host;
use crate::machine::Error;
use crate::machine::vm::{Vm, vfio_device};

/// The machine's side of the host's IOMMU: devices are opened into it, at the start or later,
/// and all of guest memory is mapped for them.
///
/// It is to be dropped, or [left](Self::left), before the last device that was opened is
/// closed: an open device holds the IOMMU that memory is mapped in.
pub struct HostSide {
    vm: Arc<VmFd>,
    ram: Arc<GuestRam>,
    /// KVM has one such device only: made when it is first needed, and kept.
    hypervisor: Option<Arc<HypervisorVfio>>,
    /// While there are devices.
    occupied: Option<Occupied>,
}

/// Memory is unmapped first: fields are dropped in this order.
struct Occupied {
    _pinned: PinnedMemory,
    container: Arc<Type1>,
}

impl HostSide {
    /// A side with no devices: nothing of the host's is opened yet.
    pub fn new(vm: &Vm, ram: Arc<GuestRam>) -> Self {
        Self {
            vm: vm.fd.clone(),
            ram,
            hypervisor: None,
            occupied: None,
        }
    }

    /// Opens devices, in the order asked for. When it returns they reach the guest's memory.
    /// If one cannot be opened, none is.
    pub fn open(&mut self, wanted: &[config::Assign]) -> Result<Vec<Arc<KernelDevice>>, Error> {
        match &self.occupied {
            Some(occupied) => open_into(&occupied.container, wanted),
            None => {
                let container = Arc::new(Type1::open(Some(self.hypervisor()?))?);
                let devices = open_into(&container, wanted)?;
                let pinned = self.pin(container.clone())?;
                self.occupied = Some(Occupied {
                    _pinned: pinned,
                    container,
                });
                Ok(devices)
            }
        }
    }

    /// Unmaps the guest's memory. To be called before the last open device is closed, with
    /// which the IOMMU goes; the next [`Self::open`] starts anew.
    pub fn left(&mut self) {
        self.occupied = None;
    }

    fn hypervisor(&mut self) -> Result<Arc<HypervisorVfio>, Error> {
        let made = match self.hypervisor.take() {
            Some(made) => made,
            None => Arc::new(HypervisorVfio::new_from_kvm(vfio_device(&self.vm)?)),
        };
        Ok(self.hypervisor.insert(made).clone())
    }

    fn pin(&self, mapper: Arc<dyn HostMapper>) -> Result<PinnedMemory, Error> {
        let mut bar: Option<Progress> = None;
        let pinned = pin_memory(mapper, self.ram.clone(), &mut |done, total| {
            bar.get_or_insert_with(|| Progress::start("pinning guest memory", total))
                .at(done);
        })?;
        Ok(pinned)
    }
}

fn open_into(
    container: &Type1,
    wanted: &[config::Assign],
) -> Result<Vec<Arc<KernelDevice>>, Error> {
    let host = Host::this_machine();
    // All are looked at before the first is opened.
    let ready = wanted
        .iter()
        .map(|assign| host.check_assignable(assign.device))
        .collect::<Result<Vec<_>, _>>()?;
    let open = |device: &crate::host::Assignable| {
        let address = device.function.address;
        let opened = KernelDevice::open(container.container(), address, &device.sysfs);
        Ok(Arc::new(opened?))
    };
    ready.iter().map(open).collect()
}
