//! NVIDIA's display adapters. BAR 0 has all registers, config space among them at 88000h
//! (NV_PCFG, which began with PCI Express) and on the early ones at 1800h (NV_PBUS); BAR 5,
//! where there is one, has ports that lead to all of it.

use super::mirror::Mirror;
use super::window::{AddressWindow, Behind};
use super::{Identity, Quirk};

pub(super) const VENDOR: u16 = 0x10de;

const VGA: u16 = 0x0300;

const EXPRESS: Behind = Behind {
    start: 0x8_8000,
    len: 0x1000,
};
const CONVENTIONAL: Behind = Behind {
    start: 0x1800,
    len: 0x100,
};

/// Doors in BAR 0. Early adapters, which are those without the ports, have the second one; on
/// the others its place is in a page that is much used.
pub(super) fn registers(identity: &Identity<'_>) -> Vec<Box<dyn Quirk>> {
    if !identity.is_display() {
        return Vec::new();
    }
    let express = Mirror {
        name: "nvidia config mirror at 88000h",
        start: EXPRESS.start.into(),
        len: EXPRESS.len.into(),
        acknowledges_msi: true,
    };
    let mut doors: Vec<Box<dyn Quirk>> = vec![Box::new(express)];
    if identity.class == VGA && identity.bar(5).is_none() {
        doors.push(Box::new(Mirror {
            name: "nvidia config mirror at 1800h",
            start: CONVENTIONAL.start.into(),
            len: CONVENTIONAL.len.into(),
            acknowledges_msi: true,
        }));
    }
    doors
}

/// The ports of BAR 5: two enables, then the address and the data.
pub(super) fn ports(identity: &Identity<'_>) -> Vec<Box<dyn Quirk>> {
    const ENABLES: &[u64] = &[0x0, 0x4];
    const ADDRESS: u64 = 0x8;
    if !identity.is_display() || !identity.bar(5).is_some_and(|bar| bar.is_io()) {
        return Vec::new();
    }
    vec![Box::new(AddressWindow::new(
        "nvidia register ports",
        0..0x10,
        ADDRESS,
        &[CONVENTIONAL, EXPRESS],
        ENABLES,
    ))]
}
