//! Opening the host's devices: who may be had, through which IOMMU interface, and the
//! guest's memory pinned for them.

use std::sync::Arc;

use devices::vfio::KernelDevice;
use iommu::host::{HostMapper, HypervisorVfio, PinnedMemory, Type1, pin_memory};

use crate::cli::Progress;
use crate::config;
use crate::host::Host;
use crate::machine::Error;
use crate::machine::fabric::Fabric;
use crate::machine::vm::Vm;

/// Open devices, in the order asked for, that reach the guest's memory.
///
/// Memory is unmapped first (fields are dropped in this order): an open device holds the
/// container's IOMMU.
pub struct Opened {
    pub pinned: PinnedMemory,
    pub devices: Vec<Arc<KernelDevice>>,
}

impl Opened {
    pub fn open(wanted: &[config::Assign], vm: &Vm, fabric: &Fabric) -> Result<Self, Error> {
        let host = Host::this_machine();
        let ready = wanted
            .iter()
            .map(|assign| host.check_assignable(assign.device))
            .collect::<Result<Vec<_>, _>>()?;
        let hypervisor = Arc::new(HypervisorVfio::new_from_kvm(vm.vfio_device()?));
        let container = Arc::new(Type1::open(Some(hypervisor))?);
        let devices = ready
            .iter()
            .map(|device| {
                KernelDevice::open(
                    container.container(),
                    device.function.address,
                    &device.sysfs,
                )
                .map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut bar: Option<Progress> = None;
        let pinned = pin_memory(
            container as Arc<dyn HostMapper>,
            fabric.ram.clone(),
            &mut |done, total| {
                bar.get_or_insert_with(|| Progress::start("pinning guest memory", total))
                    .at(done);
            },
        )?;
        Ok(Self { pinned, devices })
    }
}
