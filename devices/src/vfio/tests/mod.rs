//! The assigned device as a guest drives it, over a fake of the hardware.

mod config;
mod dumps;
mod events;
mod hostile;
mod interrupts;
mod intx;
mod lifecycle;
mod memory;
mod presentation;
mod quirks;
mod reset;
mod resizable;
mod translation_services;

use std::sync::Arc;

use pci::{BarIndex, Bdf, Changes, ConfigWrite, Function, MsiMessage, Register};

use crate::bus::PciDevice;
use crate::vfio::backend::IrqInfo;
use crate::vfio::device::AssignedDevice;
use crate::vfio::fake::{FakeBackend, FakeRoutes};
use crate::vfio::presentation::Presentation;
use crate::vfio::reset::{ResetSet, Seat};

const IGBVF: &str = include_str!("dumps/82576-vf.txt");
const NVME: &str = include_str!("dumps/qemu-nvme.txt");
const E1000E: &str = include_str!("dumps/82574.txt");

/// An assigned device and what is on either side of it.
struct Rig {
    hardware: Arc<FakeBackend>,
    routes: FakeRoutes,
    device: Arc<AssignedDevice>,
}

impl Rig {
    fn new(hardware: FakeBackend) -> Self {
        Self::presented(hardware, &Presentation::default())
    }

    fn presented(hardware: FakeBackend, presentation: &Presentation) -> Self {
        let hardware = Arc::new(hardware);
        let routes = FakeRoutes::default();
        let kernel = Arc::new(routes.clone());
        let seat = seat("0000:02:10.0", hardware.clone());
        let device = AssignedDevice::new(seat, kernel, presentation).unwrap();
        device.set_bdf(Bdf::new(1, 0, 0));
        hardware.calls();
        Self {
            hardware,
            routes,
            device,
        }
    }

    fn igbvf() -> Self {
        Self::new(igbvf())
    }

    fn nvme() -> Self {
        Self::new(nvme())
    }

    fn e1000e() -> Self {
        Self::new(e1000e())
    }

    fn read(&self, offset: u16) -> u32 {
        self.device.read_config(Register::containing(offset))
    }

    fn write(&self, offset: u16, value: u32) -> Changes {
        let write = ConfigWrite::new(Register::containing(offset), value, 0xf);
        self.device.write_config(write)
    }

    fn write_u16(&self, offset: u16, value: u16) -> Changes {
        let shift = 8 * u32::from(offset & 2);
        let enables = 0b11 << (offset & 2);
        let write = ConfigWrite::new(
            Register::containing(offset),
            u32::from(value) << shift,
            enables,
        );
        self.device.write_config(write)
    }

    fn bar_write(&self, bar: u8, offset: u64, value: u32) {
        let region = self.device.region(BarIndex(bar)).unwrap();
        region.write(offset, &value.to_le_bytes());
    }

    fn bar_read(&self, bar: u8, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        let region = self.device.region(BarIndex(bar)).unwrap();
        region.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}

/// A device alone in its set.
fn seat(name: &str, hardware: Arc<FakeBackend>) -> Arc<Seat> {
    ResetSet::new().enter(name, name.parse().ok(), hardware)
}

fn message(n: u32) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_0000,
        data: n,
    }
}

fn igbvf() -> FakeBackend {
    let mut hardware = FakeBackend::new(IGBVF, &[(0, 0x4000, true), (3, 0x4000, true)]);
    hardware.msix = IrqInfo {
        count: 3,
        growable: true,
    };
    hardware
}

fn nvme() -> FakeBackend {
    let mut hardware = FakeBackend::new(NVME, &[(0, 0x4000, true)]);
    hardware.msix = IrqInfo {
        count: 65,
        growable: true,
    };
    hardware
}

fn e1000e() -> FakeBackend {
    let bars = [
        (0, 0x20000, true),
        (1, 0x20000, true),
        (2, 32, false),
        (3, 0x4000, true),
    ];
    let mut hardware = FakeBackend::new(E1000E, &bars);
    hardware.msix = IrqInfo {
        count: 5,
        growable: false,
    };
    hardware.msi = IrqInfo {
        count: 1,
        growable: false,
    };
    hardware.intx.count = 1;
    hardware
}
