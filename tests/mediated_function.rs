//! A mediated device of the host through VFIO, with no guest: mtty, the kernel's sample, a PCI
//! card with two 16550s that each lead back to themselves. It can send messages, but has no MSI
//! capability for a guest to find, so they are tried here.
//!
//! Needs such a device, named by `SLUICE_MEDIATED`. In the lab, on its tailored kernel:
//! `cargo lab run --host-kernel tailored -- 'SLUICE_MEDIATED=UUID TEST-BINARY --ignored'`.

use std::sync::Arc;

use devices::vfio::backend::{IrqKind, RegionId, VfioBackend};
use devices::vfio::{Candidate, KernelDevice};
use iommu::host::{HostMapper, Iommufd, Type1, pin_memory};
use pci::BarIndex;
use sluice::host::{Host, HostDevice};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

// 16550 registers, and bits of them.
const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const FIFO_CONTROL: u64 = 2;
const WHEN_RECEIVED: u8 = 1;
const FIFO_ON: u8 = 1;
const FIFO_CLEAR: u8 = 2;

const MESSAGES: u32 = 10_000;

fn candidate() -> Option<Candidate> {
    let uuid = std::env::var("SLUICE_MEDIATED").ok()?.parse().unwrap();
    let sysfs = Host::this_machine().mediated(uuid);
    Some(Candidate {
        name: HostDevice::Mediated(uuid).to_string(),
        address: None,
        sysfs: sysfs.unwrap_or_else(|e| panic!("{e}")),
    })
}

/// Each byte that goes out comes in, and says so once.
fn every_message_arrives(device: &KernelDevice) {
    let port = RegionId::Bar(BarIndex(0));
    let write = |register, value: u8| device.write(port, register, &[value]).unwrap();
    let arrived = EventFd::new(EFD_NONBLOCK).unwrap();
    device
        .set_triggers(IrqKind::Msi, 0, &[Some(&arrived)])
        .unwrap();
    // A reset would not clear it: mtty has none.
    write(FIFO_CONTROL, FIFO_ON | FIFO_CLEAR);
    write(INTERRUPT_ENABLE, WHEN_RECEIVED);
    for number in 0..MESSAGES {
        write(DATA, number as u8);
        assert_eq!(arrived.read().unwrap(), 1, "message {number}");
        let mut byte = [0];
        device.read(port, DATA, &mut byte).unwrap();
        assert_eq!(byte, [number as u8]);
    }
    assert!(arrived.read().is_err(), "one too many");
    device.disable_irqs(IrqKind::Msi).unwrap();
    write(DATA, 0);
    assert!(arrived.read().is_err(), "not disabled");
}

/// It does no DMA, but memory must be mapped for it as for any other.
fn with_memory(mapper: Arc<dyn HostMapper>, device: &KernelDevice) {
    let ranges = [
        (GuestAddress(0), 64 << 20),
        (GuestAddress(1 << 32), 16 << 20),
    ];
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
    let pinned = pin_memory(mapper, memory, &mut |_, _| ()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(pinned.len(), 80 << 20);
    every_message_arrives(device);
}

/// One after the other: a device is had once.
#[test]
#[ignore = "needs a mediated device"]
fn messages_by_either_interface() {
    let Some(candidate) = candidate() else { return };
    by_type1(&candidate);
    by_iommufd(&candidate);
}

fn by_type1(candidate: &Candidate) {
    let type1 = Arc::new(Type1::open(None).unwrap_or_else(|e| panic!("{e}")));
    let device = KernelDevice::open(&type1, candidate).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(device.irq(IrqKind::Intx).count, 1);
    with_memory(type1, &device);
}

fn by_iommufd(candidate: &Candidate) {
    let iommufd = Arc::new(Iommufd::open().unwrap_or_else(|e| panic!("{e}")));
    let open = || KernelDevice::open_file(&iommufd, None, candidate, None);
    let device = open().unwrap_or_else(|e| panic!("{e}"));
    let again = open().err().expect("opened twice").to_string();
    assert!(again.contains("is in use"), "{again}");
    with_memory(iommufd.clone(), &device);
    drop(device);
    open().unwrap_or_else(|e| panic!("given back, but {e}"));
}
