//! A hierarchy to try things on: ports, ports behind ports, and endpoints of no use.

use std::sync::Arc;

use super::{BusAt, FunctionId, NotConfig, Topology, Written};
use crate::fakes::{Endpoint, ids};
use crate::{
    BarIndex, BarKind, Bdf, Capability, Changes, ConfigSpace, ConfigWrite, Express, Function,
    HostBridge, PowerManagement, Register, RootPort, RootPortConfig,
};

/// An endpoint with a memory and an I/O BAR, known by its device ID.
pub fn mock(device: u16) -> Arc<dyn Function> {
    let mut space = ConfigSpace::endpoint(ids(device));
    let wide = BarKind::Memory64 { prefetchable: true };
    space.set_bar(BarIndex(0), wide, 0x20_0000).unwrap();
    space.set_bar(BarIndex(2), BarKind::Io, 0x100).unwrap();
    let power = PowerManagement {
        no_soft_reset: device & 1 != 0,
    };
    let express = Express::endpoint().function_level_reset();
    space
        .add_capability(Capability::PowerManagement(power))
        .unwrap();
    space.add_capability(Capability::Express(express)).unwrap();
    Endpoint::shared(space)
}

fn root_port(slot: u16) -> Arc<dyn Function> {
    Arc::new(RootPort::new(RootPortConfig::occupied(slot)).unwrap())
}

/// 00:00.0 host bridge, 00:02.0 and .1 endpoints, 00:03.0 and 00:04.0 root ports; behind
/// 03.0 endpoints 00.0 and 08.2 (seen with ARI only); behind 04.0 another port with an
/// endpoint behind it.
pub struct Machine {
    pub topology: Topology<dyn Function>,
    pub near: FunctionId,
    pub ari: FunctionId,
    pub port: FunctionId,
    pub inner: FunctionId,
    pub far: FunctionId,
}

impl Machine {
    pub fn new() -> Self {
        let mut topology: Topology<dyn Function> = Topology::new();
        let mut attach = |at, device, function, name, what| {
            topology.attach(at, device, function, name, what).unwrap()
        };
        let root = BusAt::Root;
        attach(root, 0, 0, "host", Arc::new(HostBridge::new(None)));
        attach(root, 2, 0, "two", mock(0x20));
        attach(root, 2, 1, "two-one", mock(0x21));
        let port = attach(root, 3, 0, "port3", root_port(3));
        let near = attach(BusAt::Behind(port), 0, 0, "near", mock(0x30));
        let ari = attach(BusAt::Behind(port), 8, 2, "ari", mock(0x31));
        let outer = attach(root, 4, 0, "port4", root_port(4));
        let inner = attach(BusAt::Behind(outer), 0, 0, "inner", root_port(5));
        let far = attach(BusAt::Behind(inner), 0, 0, "far", mock(0x41));
        Self {
            topology,
            near,
            ari,
            port,
            inner,
            far,
        }
    }

    pub fn numbered() -> Self {
        let machine = Self::new();
        machine.write(PORT, 0x18, 0x0001_0100);
        machine.write(OUTER, 0x18, 0x0003_0200);
        machine.write(INNER, 0x18, 0x0003_0302);
        machine
    }

    pub fn write(&self, bdf: Bdf, offset: u16, value: u32) -> Option<Changes> {
        let write = ConfigWrite::new(Register::containing(offset), value, 0xf);
        Some(self.topology.config_write(bdf, write)?.changes)
    }

    pub fn read(&self, bdf: Bdf, offset: u16) -> u32 {
        self.topology.config_read(bdf, Register::containing(offset))
    }

    pub fn port_out(&self, port: u16, data: &[u8]) -> Result<Option<Written>, NotConfig> {
        self.topology.port_write(port, data)
    }

    pub fn port_in<const N: usize>(&self, port: u16) -> [u8; N] {
        let mut data = [0xa5; N];
        self.topology.port_read(port, &mut data).unwrap();
        data
    }

    pub fn forward_everything(&self, bdf: Bdf) {
        self.write(bdf, 0x1c, 0xf000);
        self.write(bdf, 0x20, 0xfff0_0000);
        self.write(bdf, 0x24, 0xfff0_0000);
        self.write(bdf, 0x2c, 0xffff_ffff);
        self.write(bdf, 4, 7);
    }
}

pub const HOST: Bdf = Bdf::new(0, 0, 0);
pub const PORT: Bdf = Bdf::new(0, 3, 0);
pub const OUTER: Bdf = Bdf::new(0, 4, 0);
pub const NEAR: Bdf = Bdf::new(1, 0, 0);
pub const INNER: Bdf = Bdf::new(2, 0, 0);
pub const FAR: Bdf = Bdf::new(3, 0, 0);
