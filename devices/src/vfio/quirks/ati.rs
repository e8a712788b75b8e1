//! AMD's (ATI's) display adapters. Their registers, with config space from 4000h on, are
//! reached through a pair of ports at the start of BAR 4, and, in the generations that have
//! them there, in BAR 2. Later ones have their registers in BAR 5, and doorbells in BAR 2.

use pci::BarKind;

use super::mirror::Mirror;
use super::window::{AddressWindow, Behind};
use super::{Identity, Quirk};

pub(super) const VENDOR: u16 = 0x1002;

const CONFIG: Behind = Behind {
    start: 0x4000,
    len: 0x100,
};

/// The door in BAR 2, where that has the registers: it is a 64-bit one, and there is no BAR 5.
pub(super) fn registers(identity: &Identity<'_>) -> Vec<Box<dyn Quirk>> {
    let wide = identity
        .bar(2)
        .is_some_and(|bar| matches!(bar.kind, BarKind::Memory64 { .. }));
    if !identity.is_display() || !wide || identity.bar(5).is_some() {
        return Vec::new();
    }
    vec![Box::new(Mirror {
        name: "ati config mirror at 4000h",
        start: CONFIG.start.into(),
        len: CONFIG.len.into(),
        acknowledges_msi: false,
    })]
}

/// The ports of BAR 4: the address, then the data.
pub(super) fn ports(identity: &Identity<'_>) -> Vec<Box<dyn Quirk>> {
    if !identity.is_display() || !identity.bar(4).is_some_and(|bar| bar.is_io()) {
        return Vec::new();
    }
    vec![Box::new(AddressWindow::new(
        "ati register ports",
        0..8,
        0,
        &[CONFIG],
        &[],
    ))]
}
