//! Root ports, and which of them a device is behind.

use std::sync::Arc;

use devices::bus::PciDevice;
use pci::{BusAt, FunctionId, RootPort, RootPortConfig, Topology};

use crate::config;
use crate::machine::Error;

/// Root port *n* (from 1) is a function of the devices from this number on, eight to a
/// device.
pub const FIRST_PORT_DEVICE: u8 = 0x10;
const FUNCTIONS: u8 = 8;

pub fn attach_port(topology: &mut Topology<dyn PciDevice>, port: u8) -> Result<FunctionId, Error> {
    attach_root_port(topology, port, RootPortConfig::occupied(port.into()))
}

/// A guest looks at functions 1 to 7 of a device only if there is a function 0: where ports
/// are used but the first of their device is not, that one is an empty slot.
pub fn fill_functions_zero(
    ports: &[u8],
    topology: &mut Topology<dyn PciDevice>,
) -> Result<(), Error> {
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
