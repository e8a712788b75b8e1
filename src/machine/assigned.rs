//! Devices of the host that the guest owns, each behind a root port.

use std::sync::Arc;

use devices::bus::PciDevice;
use devices::vfio::{AssignedDevice, KernelDevice};
use iommu::host::{HostMapper, HypervisorVfio, PinnedMemory, Type1, pin_memory};
use pci::{BusAt, FunctionId, RootPort, RootPortConfig, Topology};

use super::Error;
use super::fabric::Fabric;
use super::vm::Vm;
use crate::cli::Progress;
use crate::config;
use crate::host::Host;

/// Root port *n* (from 1) is a function of the devices from this number on, eight to a
/// device.
pub const FIRST_PORT_DEVICE: u8 = 0x10;
const FUNCTIONS: u8 = 8;

/// Devices assigned through VFIO, and the guest's memory pinned for them.
///
/// At the end a device is reset first, so that no memory is unmapped from under its DMA;
/// then memory is unmapped, while the open devices still hold the container's IOMMU; then
/// they are closed.
pub struct Assigned {
    _pinned: PinnedMemory,
    devices: Vec<Arc<AssignedDevice>>,
}

impl Drop for Assigned {
    fn drop(&mut self) {
        self.devices.iter().for_each(|device| device.release());
    }
}

impl Assigned {
    /// Takes the devices, if there are any, pins the guest's RAM for them, and puts each
    /// behind its root port.
    pub fn attach(
        wanted: &[config::Assign],
        vm: &Vm,
        fabric: &Fabric,
        topology: &mut Topology<dyn PciDevice>,
    ) -> Result<Option<Self>, Error> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let assigned = Self::open(wanted, vm, fabric)?;
        assigned.plug(wanted, topology)?;
        Ok(Some(assigned))
    }

    fn open(wanted: &[config::Assign], vm: &Vm, fabric: &Fabric) -> Result<Self, Error> {
        let host = Host::this_machine();
        let ready = wanted
            .iter()
            .map(|assign| host.check_assignable(assign.device))
            .collect::<Result<Vec<_>, _>>()?;
        let hypervisor = Arc::new(HypervisorVfio::new_from_kvm(vm.vfio_device()?));
        let container = Arc::new(Type1::open(Some(hypervisor))?);
        let kernel = ready
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
        // `kernel` is kept to the end: if one device fails, all stay open until memory is
        // unmapped.
        let devices = wanted
            .iter()
            .zip(&kernel)
            .map(|(assign, kernel)| {
                let name = assign.device.to_string();
                AssignedDevice::new(&name, kernel.clone(), fabric.routes.clone()).map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            _pinned: pinned,
            devices,
        })
    }

    fn plug(
        &self,
        wanted: &[config::Assign],
        topology: &mut Topology<dyn PciDevice>,
    ) -> Result<(), Error> {
        for (assign, device) in wanted.iter().zip(&self.devices) {
            let port = attach_port(topology, assign.port)?;
            topology.attach(
                BusAt::Behind(port),
                0,
                0,
                device.name(),
                device.clone() as _,
            )?;
        }
        let ports: Vec<_> = wanted.iter().map(|assign| assign.port).collect();
        fill_functions_zero(&ports, topology)
    }
}

fn attach_port(topology: &mut Topology<dyn PciDevice>, port: u8) -> Result<FunctionId, Error> {
    attach_root_port(topology, port, RootPortConfig::occupied(port.into()))
}

/// A guest looks at functions 1 to 7 of a device only if there is a function 0: where ports
/// are used but the first of their device is not, that one is an empty slot.
fn fill_functions_zero(ports: &[u8], topology: &mut Topology<dyn PciDevice>) -> Result<(), Error> {
    for first in (1..=config::MAX_PORT).step_by(FUNCTIONS.into()) {
        let siblings = first + 1..first + FUNCTIONS;
        if !ports.contains(&first) && ports.iter().any(|port| siblings.contains(port)) {
            let empty = RootPortConfig {
                occupied: false,
                ..RootPortConfig::occupied(first.into())
            };
            attach_root_port(topology, first, empty)?;
        }
    }
    Ok(())
}

fn attach_root_port(
    topology: &mut Topology<dyn PciDevice>,
    port: u8,
    config: RootPortConfig,
) -> Result<FunctionId, Error> {
    let index = port.saturating_sub(1);
    let (device, function) = (FIRST_PORT_DEVICE + index / FUNCTIONS, index % FUNCTIONS);
    let root_port = Arc::new(RootPort::new(config)?);
    Ok(topology.attach(
        BusAt::Root,
        device,
        function,
        &format!("root port {port}"),
        root_port as _,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Device and function numbers of the root ports there are when `ports` are used.
    fn root_ports(ports: &[u8]) -> Vec<(u8, u8)> {
        let mut topology = Topology::new();
        for &port in ports {
            attach_port(&mut topology, port).unwrap();
        }
        fill_functions_zero(ports, &mut topology).unwrap();
        topology.check().unwrap();
        let mut all: Vec<_> = topology
            .functions()
            .filter_map(|at| at.bdf)
            .map(|bdf| (bdf.device(), bdf.function()))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn ports_are_functions_and_each_device_has_a_function_zero() {
        assert_eq!(root_ports(&[]), []);
        assert_eq!(root_ports(&[1, 2]), [(0x10, 0), (0x10, 1)]);
        assert_eq!(root_ports(&[3]), [(0x10, 0), (0x10, 2)]);
        assert_eq!(
            root_ports(&[8, 9, 32]),
            [(0x10, 0), (0x10, 7), (0x11, 0), (0x13, 0), (0x13, 7)]
        );
    }
}
