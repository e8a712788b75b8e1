//! What the guest sees of the device's own registers: a table of dwords, each with the bits
//! that come from the device, the value of the others, and the bits that a write reaches.

use super::capabilities::{Found, extended_id, id};

/// One dword.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Patch {
    /// Byte offset: in the capability, or in config space where there is none.
    pub offset: u16,
    /// Bits that are read from the device.
    pub device: u32,
    /// The bits that are not.
    pub value: u32,
    /// Bits of the guest's write that reach the device, as written. The other bits of the
    /// bytes written keep what the device has.
    pub write: u32,
    /// Bits that are always written as zero: orders, and what a one would clear.
    pub zero: u32,
}

const fn shown(offset: u16, device: u32) -> Patch {
    Patch {
        offset,
        device,
        value: 0,
        write: 0,
        zero: 0,
    }
}

const fn open(offset: u16, device: u32, write: u32) -> Patch {
    Patch {
        write,
        ..shown(offset, device)
    }
}

/// Status, over Command: the error bits are the device's, and cleared in it. The rest, the
/// capability list among it, is ours.
pub(super) const STATUS: Patch = open(0x04, 0xf900_0000, 0xf900_0000);

/// PCI Express (PCIe 6.0 §7.5.3), under a root port of ours. The link and its control belong
/// to the host. What needs the root complex's consent is not offered: ARI, AtomicOps, LTR,
/// OBFF, 10-bit tags and TLP prefixes. The port type is added by [`express`].
const EXPRESS: &[Patch] = &[
    shown(0x00, 0x3e0f_0000),
    // Device Capabilities; function-level reset is added by `express`.
    shown(0x04, 0x0fff_ffe7),
    // Device Control but Phantom Functions and Aux Power, and the errors of Device Status.
    // The order to reset is ours to carry out.
    Patch {
        offset: 0x08,
        device: 0x003f_79ff,
        value: 0,
        write: 0x000f_79ff,
        zero: 0x00f0_8000,
    },
    // Link Capabilities without ASPM and clock power management, which the link's owner alone
    // can turn on: ASPM Support is none, as ASPM Optionality Compliance allows.
    Patch {
        value: 1 << 22,
        ..shown(0x0c, 0xffbb_f3ff)
    },
    shown(0x10, u32::MAX),
    // Slot and root registers: not of an endpoint.
    shown(0x14, 0),
    shown(0x18, 0),
    shown(0x1c, 0),
    shown(0x20, 0),
    // Device Capabilities 2 and Device Control 2: completion timeouts.
    shown(0x24, 0x0000_001f),
    open(0x28, 0x0000_001f, 0x0000_001f),
    shown(0x2c, u32::MAX),
    shown(0x30, u32::MAX),
    shown(0x34, 0),
    shown(0x38, 0),
];

/// Bytes of the capability in its first version, for an endpoint.
const EXPRESS_V1: u16 = 0x14;

/// Where Device Control is, in the capability.
pub(super) const DEVICE_CONTROL: u16 = 0x08;
/// Initiate Function Level Reset.
pub(super) const INITIATE_RESET: u32 = 1 << 15;
const RESET_CAPABLE: u32 = 1 << 28;

/// The table of a PCI Express capability. `capabilities` is its first dword as the device has
/// it, and `device` the next one.
pub(super) fn express(capabilities: u32, device: u32, can_reset: bool) -> Vec<Patch> {
    const LEGACY_ENDPOINT: u32 = 1;
    const ROOT_COMPLEX_ENDPOINT: u32 = 9;
    let version = capabilities >> 16 & 0xf;
    let kind = capabilities >> 20 & 0xf;
    let mut table: Vec<_> = EXPRESS
        .iter()
        .copied()
        .filter(|patch| version >= 2 || patch.offset < EXPRESS_V1)
        .collect();
    for patch in &mut table {
        match patch.offset {
            // Whatever it is to its host, here it is an endpoint behind a root port.
            0x00 if kind == LEGACY_ENDPOINT => patch.value = LEGACY_ENDPOINT << 20,
            0x04 if can_reset => patch.value = device & RESET_CAPABLE,
            // Those of the root complex have no link; an endpoint has: 2.5 GT/s, one lane.
            0x0c | 0x2c if kind == ROOT_COMPLEX_ENDPOINT => {
                patch.device = 0;
                patch.value |= if patch.offset == 0x0c { 0x11 } else { 0x02 };
            }
            0x10 | 0x30 if kind == ROOT_COMPLEX_ENDPOINT => {
                patch.device = 0;
                patch.value = if patch.offset == 0x10 {
                    0x0011_0000
                } else {
                    0x01
                };
            }
            _ => (),
        }
    }
    table
}

/// Vital product data (PCIe 6.0 §7.9.18) can be read. The flag that makes an address a write
/// is never set, and the data register is not written.
const VPD: &[Patch] = &[
    Patch {
        zero: 0x8000_0000,
        ..open(0x00, 0xffff_0000, 0x7fff_0000)
    },
    shown(0x04, u32::MAX),
];

/// The table of a capability that the guest may have and that no model of ours stands for;
/// `None` for one it may not have. `first` is its first dword, as the device has it.
pub(super) fn capability(found: Found, first: u32) -> Option<Vec<Patch>> {
    match found.id {
        id::VPD => Some(VPD.to_vec()),
        // §7.9.4: the third byte is the length of it all.
        id::VENDOR => Some(vendor(
            ((first >> 16) as u16 & 0xff).clamp(4, found.room),
            0xffff_0000,
            0xff00_0000,
        )),
        _ => None,
    }
}

/// As [`capability`], of an extended one. `second` is its second dword.
pub(super) fn extended_capability(found: Found, second: u32) -> Option<Vec<Patch>> {
    match found.id {
        // §7.9.3.
        extended_id::SERIAL_NUMBER => {
            Some(vec![shown(0, 0), shown(4, u32::MAX), shown(8, u32::MAX)])
        }
        // §7.9.5: the length of it all in the upper bits of the second dword, which is
        // read-only.
        extended_id::VENDOR => {
            let len = ((second >> 20) as u16).clamp(8, found.room.max(8));
            let mut table = vendor(len, 0, 0);
            if let Some(header) = table.get_mut(1) {
                header.write = 0;
            }
            Some(table)
        }
        _ => None,
    }
}

/// A vendor's own registers are between its driver and the device: all of them, after a
/// header of which `device` and `write` say the same.
fn vendor(len: u16, device: u32, write: u32) -> Vec<Patch> {
    let mut table = vec![open(0, device, write)];
    table.extend((4..len).step_by(4).map(|at| open(at, u32::MAX, u32::MAX)));
    table
}

/// A dword that belongs to no capability, in the first 256 bytes: the device's own register,
/// which the kernel lets through as well.
pub(super) const fn device_specific(offset: u16) -> Patch {
    open(offset, u32::MAX, u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_both_ours_and_the_devices() {
        for patch in EXPRESS.iter().chain(VPD).chain([&STATUS]) {
            assert_eq!(patch.device & patch.value, 0, "{patch:?}");
            assert_eq!(patch.write & !patch.device, 0, "{patch:?}");
            assert_eq!(patch.write & patch.zero, 0, "{patch:?}");
        }
        for table in [
            express(0x0092_0000, 0, true),
            express(0x0012_0000, u32::MAX, true),
        ] {
            assert!(table.iter().all(|p| p.device & p.value == 0));
        }
    }

    #[test]
    fn a_root_complex_endpoint_gets_a_link() {
        let table = express(0x0092_0000, 0, false);
        let link = table.iter().find(|p| p.offset == 0x0c).unwrap();
        assert_eq!((link.device, link.value), (0, 0x0040_0011));
        assert_eq!(table[0].value, 0);
    }

    #[test]
    fn a_first_version_is_shorter() {
        assert!(
            express(0x0001_0000, 0, false)
                .iter()
                .all(|p| p.offset < 0x14)
        );
        assert_eq!(express(0x0002_0000, 0, false).len(), EXPRESS.len());
    }

    #[test]
    fn a_vendors_length_stays_in_its_room() {
        let found = Found {
            id: id::VENDOR,
            offset: 0x40,
            room: 0x10,
        };
        for (first, dwords) in [(0x00ff_0009, 4), (0x0000_0009, 1), (0x0008_0009, 2)] {
            assert_eq!(capability(found, first).unwrap().len(), dwords);
        }
    }
}
