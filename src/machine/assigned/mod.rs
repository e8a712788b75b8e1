//! Devices of the host that the guest owns, behind root ports: each alone, or with the other
//! functions of its device.

mod open;
mod ports;

use std::collections::BTreeMap;
use std::sync::Arc;

use devices::bus::PciDevice;
use devices::vfio::{AssignError, AssignedDevice, KernelDevice, ResetSet};
use pci::{BusAt, FunctionId, Topology};

use super::Error;
use super::fabric::Fabric;
use super::vm::Vm;
use crate::config;
use crate::host::Host;

pub use open::HostSide;

pub use ports::FIRST_PORT_DEVICE;

/// Devices assigned through VFIO, and the guest's memory pinned for them.
///
/// At the end a device is reset first, so that no memory is unmapped from under its DMA;
/// then memory is unmapped, while the open devices still hold the container's IOMMU; then
/// they are closed.
pub struct Assigned {
    _host: HostSide,
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
        let mut host = HostSide::new(vm, fabric.ram.clone());
        let opened = host.open(wanted)?;
        let assigned = Self::take(wanted, &opened, host, fabric)?;
        assigned.plug(wanted, fabric, topology)?;
        Ok(Some(assigned))
    }

    fn take(
        wanted: &[config::Assign],
        opened: &[Arc<KernelDevice>],
        host: HostSide,
        fabric: &Fabric,
    ) -> Result<Self, Error> {
        let resets = ResetSet::new();
        let enter = |(assign, kernel): (&config::Assign, &Arc<KernelDevice>)| {
            let address = assign.device;
            resets.enter(&address.to_string(), Some(address), kernel.clone())
        };
        // All of them before the first is taken and reset.
        let seats: Vec<_> = wanted.iter().zip(opened).map(enter).collect();
        // If one device fails, all stay open until `host` has unmapped memory.
        let devices = seats
            .into_iter()
            .zip(wanted)
            .map(|(seat, assign)| {
                let taken = AssignedDevice::new(seat, fabric.routes.clone(), &assign.presentation);
                taken.map_err(|error| AssignError {
                    name: Host::this_machine().describe(assign.device),
                    ..error
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            _host: host,
            devices,
        })
    }

    fn plug(
        &self,
        wanted: &[config::Assign],
        fabric: &Fabric,
        topology: &mut Topology<dyn PciDevice>,
    ) -> Result<(), Error> {
        let mut roots: BTreeMap<u8, FunctionId> = BTreeMap::new();
        for (assign, device) in wanted.iter().zip(&self.devices) {
            let port = match roots.get(&assign.port) {
                Some(&port) => port,
                None => ports::attach_port(topology, assign.port)?,
            };
            roots.insert(assign.port, port);
            let function = topology.attach(
                BusAt::Behind(port),
                0,
                assign.function,
                device.name(),
                device.clone() as _,
            )?;
            wire_intx(device, function, fabric, topology);
        }
        let ports: Vec<_> = wanted.iter().map(|assign| assign.port).collect();
        ports::fill_functions_zero(&ports, topology)
    }
}

/// Solders the device's interrupt pin, if it has one, to the input that it comes out at.
fn wire_intx(
    device: &AssignedDevice,
    function: FunctionId,
    fabric: &Fabric,
    topology: &Topology<dyn PciDevice>,
) {
    let pin = device.interrupt_pin();
    if let Some((slot, pin)) = pin.and_then(|pin| topology.root_interrupt(function, pin)) {
        device.wire_intx(fabric.levels.input(slot, pin));
    }
}
