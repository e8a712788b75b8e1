//! What the guest sees of the device's own registers: a table of dwords, each with the bits
//! that come from the device, the value of the others, and the bits that a write reaches.

use super::capabilities::{Found, Snapshot};

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
    /// Bits that the guest writes and reads back, of which the device knows nothing; after a
    /// reset they are as in `value`.
    pub own: u32,
    /// A one written to any of these orders a function-level reset, which is ours to carry
    /// out.
    pub order: u32,
}

const fn shown(offset: u16, device: u32) -> Patch {
    Patch {
        offset,
        device,
        value: 0,
        write: 0,
        zero: 0,
        own: 0,
        order: 0,
    }
}

const fn open(offset: u16, device: u32, write: u32) -> Patch {
    Patch {
        write,
        ..shown(offset, device)
    }
}

/// Status, over Command: the error bits are the device's, and cleared in it; so is Interrupt
/// Status, which is the pin before anything masks it. The rest, the capability list among it,
/// is ours.
pub(super) const STATUS: Patch = open(0x04, 0xf908_0000, 0xf900_0000);

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
        zero: 0x00f0_8000,
        ..open(0x08, 0x003f_79ff, 0x000f_79ff)
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

/// Initiate Function Level Reset, in Device Control.
const INITIATE_RESET: u32 = 1 << 15;
/// Function Level Reset Capability, in Device Capabilities.
const RESET_CAPABLE: u32 = 1 << 28;

/// A capability to make a table for.
pub(super) struct Source<'a> {
    pub found: Found,
    pub device: &'a Snapshot,
    /// The kernel can reset the device.
    pub can_reset: bool,
    /// The guest has an IOMMU for functions that keep translations.
    pub device_tlb: bool,
}

impl Source<'_> {
    /// A dword of the capability, as the device has it.
    fn dword(&self, offset: u16) -> u32 {
        self.device.u32(self.found.offset.saturating_add(offset))
    }
}

/// PCI Express. Without room for what an endpoint must have, it is hidden.
pub(super) fn express(source: &Source<'_>) -> Vec<Patch> {
    const LEGACY_ENDPOINT: u32 = 1;
    const ROOT_COMPLEX_ENDPOINT: u32 = 9;
    if source.found.room < EXPRESS_V1 {
        return Vec::new();
    }
    let capabilities = source.dword(0x00);
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
            0x04 if source.can_reset => patch.value = source.dword(0x04) & RESET_CAPABLE,
            0x08 if source.can_reset && source.dword(0x04) & RESET_CAPABLE != 0 => {
                patch.order = INITIATE_RESET;
            }
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

pub(super) fn vpd(_: &Source<'_>) -> Vec<Patch> {
    VPD.to_vec()
}

/// Vendor-specific (PCIe 6.0 §7.9.4): the third byte is the length of it all.
pub(super) fn vendor(source: &Source<'_>) -> Vec<Patch> {
    let len = source.dword(0) >> 16 & 0xff;
    let len = (len as u16).clamp(4, source.found.room);
    vendor_registers(open(0, 0xffff_0000, 0xff00_0000), 4, len)
}

/// SATA (AHCI 1.3.1 §2.4): where the index and data registers are, which is read-only.
pub(super) fn sata(_: &Source<'_>) -> Vec<Patch> {
    vec![shown(0, 0xffff_0000), shown(4, u32::MAX)]
}

/// Advanced Features (PCI ECN "Advanced Capabilities for Conventional PCI"): a function-level
/// reset for devices without PCI Express, carried out by us, and Transactions Pending.
pub(super) fn advanced_features(source: &Source<'_>) -> Vec<Patch> {
    const LENGTH: u32 = 6 << 16;
    const RESET_AND_PENDING: u32 = 0b11 << 24;
    if !source.can_reset || source.dword(0) & RESET_AND_PENDING != RESET_AND_PENDING {
        return Vec::new();
    }
    let capabilities = Patch {
        value: LENGTH | RESET_AND_PENDING,
        ..shown(0, 0)
    };
    let control = Patch {
        order: 1 << 0,
        ..shown(4, 1 << 8)
    };
    vec![capabilities, control]
}

/// Errors that an endpoint may log: uncorrectable and correctable ones (PCIe 6.0 §7.8.4.2,
/// §7.8.4.5).
const UNCORRECTABLE: u32 = 0x07ff_f030;
const CORRECTABLE: u32 = 0x0000_f1c1;

const fn logged(offset: u16, errors: u32) -> Patch {
    Patch {
        zero: !errors,
        ..open(offset, errors, errors)
    }
}

const fn own(offset: u16, own: u32, at_reset: u32) -> Patch {
    Patch {
        value: at_reset,
        own,
        ..shown(offset, 0)
    }
}

/// Advanced Error Reporting (PCIe 6.0 §7.8.4). The logs are the device's. What is masked and
/// what is severe the guest says for itself: in the device these decide what the host hears
/// of, and must stay as the host set them. No ECRC, which the whole path would have to
/// check, and no TLP prefixes.
const ERROR_REPORTING: &[Patch] = &[
    shown(0x00, 0),
    logged(0x04, UNCORRECTABLE),
    own(0x08, UNCORRECTABLE, 0x0040_0000),
    own(0x0c, UNCORRECTABLE, 0x0046_2030),
    logged(0x10, CORRECTABLE),
    own(0x14, CORRECTABLE, 0x0000_e000),
    // First Error Pointer, and the header log.
    shown(0x18, 0x1f),
    shown(0x1c, u32::MAX),
    shown(0x20, u32::MAX),
    shown(0x24, u32::MAX),
    shown(0x28, u32::MAX),
];

/// Its bytes, for an endpoint.
const ERROR_REPORTING_LEN: u16 = 0x2c;

pub(super) fn error_reporting(source: &Source<'_>) -> Vec<Patch> {
    if source.found.room < ERROR_REPORTING_LEN {
        return Vec::new();
    }
    ERROR_REPORTING.to_vec()
}

/// Device Serial Number (PCIe 6.0 §7.9.3).
pub(super) fn serial_number(source: &Source<'_>) -> Vec<Patch> {
    if source.found.room < 12 {
        return Vec::new();
    }
    vec![shown(0, 0), shown(4, u32::MAX), shown(8, u32::MAX)]
}

/// Access Control Services (PCIe 6.0 §7.7.11): how the host keeps the functions of the device
/// apart, to be read. Egress control would need its vector, and is not shown.
pub(super) fn access_control(_: &Source<'_>) -> Vec<Patch> {
    vec![shown(0, 0), shown(4, 0x00df_00df)]
}

/// Address Translation Services (PCIe 6.0 §10.5.1), over Device-TLBs that the host's IOMMU
/// driver fills and flushes: it turned ATS on in the device, or did not, and that stays. What
/// the guest enables is its own book-keeping, and off after a reset. By it the guest's driver
/// also asks for Device-TLBs to be invalidated, which the host has done by then.
///
/// Of the capability register, Invalidate Queue Depth and Page Aligned Request are shown. Global
/// Invalidate Supported is zero where there are no PASIDs (§10.5.1.2), and the guest sees none.
///
/// Nor does it see that a virtual function is one, of which queue depth and Smallest Translation
/// Unit are hardwired to zero, as the physical function's count. To the guest a depth of zero is
/// one of 32, which does no harm, as nothing that it sends goes into that queue; and it writes
/// the unit and reads it back, as of any function that is its own master.
const TRANSLATION_SERVICES: &[Patch] = &[
    shown(0x00, 0),
    // The capability register, and over it Smallest Translation Unit and Enable.
    Patch {
        own: 0x801f_0000,
        ..shown(0x04, 0x0000_003f)
    },
];

/// Its bytes.
const TRANSLATION_SERVICES_LEN: u16 = 8;

/// Hidden where the guest's IOMMU, if it has one, knows no Device-TLBs.
pub(super) fn translation_services(source: &Source<'_>) -> Vec<Patch> {
    if !source.device_tlb || source.found.room < TRANSLATION_SERVICES_LEN {
        return Vec::new();
    }
    TRANSLATION_SERVICES.to_vec()
}

/// Readiness Time Reporting (PCIe 6.0 §7.9.16), all of it read-only.
pub(super) fn readiness(_: &Source<'_>) -> Vec<Patch> {
    vec![shown(0, 0), shown(4, u32::MAX), shown(8, u32::MAX)]
}

/// Vendor-specific, extended (PCIe 6.0 §7.9.5): the length of it all in the upper bits of the
/// second dword, which is read-only.
pub(super) fn extended_vendor(source: &Source<'_>) -> Vec<Patch> {
    let len = (source.dword(4) >> 20) as u16;
    if source.found.room < 8 {
        return Vec::new();
    }
    let mut table = vec![shown(0, 0)];
    let header = shown(4, u32::MAX);
    table.extend(vendor_registers(header, 8, len.clamp(8, source.found.room)));
    table
}

/// Designated vendor-specific (PCIe 6.0 §7.9.6): as above, but for those of Compute Express
/// Link, which say what of the host's memory the device decodes.
pub(super) fn designated_vendor(source: &Source<'_>) -> Vec<Patch> {
    const COMPUTE_EXPRESS_LINK: u32 = 0x1e98;
    if source.dword(4) & 0xffff == COMPUTE_EXPRESS_LINK {
        return Vec::new();
    }
    extended_vendor(source)
}

/// A vendor's own registers are between its driver and the device: all of them from `start`
/// on, after a header.
fn vendor_registers(header: Patch, start: u16, len: u16) -> Vec<Patch> {
    let registers = (start..len).step_by(4);
    std::iter::once(header)
        .chain(registers.map(|at| open(at, u32::MAX, u32::MAX)))
        .collect()
}

/// A dword that belongs to no capability, in the first 256 bytes: the device's own register,
/// which the kernel lets through as well.
pub(super) const fn device_specific(offset: u16) -> Patch {
    open(offset, u32::MAX, u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A capability at 40h with these first dwords.
    fn table(make: fn(&Source<'_>) -> Vec<Patch>, dwords: &[u32], room: u16) -> Vec<Patch> {
        let mut bytes = vec![0; 0x40];
        bytes.extend(dwords.iter().flat_map(|dword| dword.to_le_bytes()));
        make(&Source {
            found: Found {
                id: 0,
                offset: 0x40,
                room,
            },
            device: &Snapshot(bytes),
            can_reset: true,
            device_tlb: true,
        })
    }

    #[test]
    fn a_bit_has_one_owner() {
        let tables = [
            EXPRESS.to_vec(),
            VPD.to_vec(),
            ERROR_REPORTING.to_vec(),
            TRANSLATION_SERVICES.to_vec(),
            vec![STATUS],
            table(express, &[0x0092_0000], 0xc0),
            table(express, &[0x0012_0000, u32::MAX], 0xc0),
            table(advanced_features, &[0x0306_0013], 0xc0),
            table(vendor, &[0x0010_0009], 0xc0),
        ];
        for patch in tables.iter().flatten() {
            assert_eq!(patch.device & patch.value, 0, "{patch:?}");
            assert_eq!(patch.device & patch.own, 0, "{patch:?}");
            assert_eq!(patch.write & !patch.device, 0, "{patch:?}");
            assert_eq!(patch.write & patch.zero, 0, "{patch:?}");
        }
    }

    #[test]
    fn a_root_complex_endpoint_gets_a_link() {
        let table = table(express, &[0x0092_0000], 0xc0);
        let link = table.iter().find(|p| p.offset == 0x0c).unwrap();
        assert_eq!((link.device, link.value), (0, 0x0040_0011));
        assert_eq!(table[0].value, 0);
    }

    #[test]
    fn a_first_version_is_shorter() {
        let first = table(express, &[0x0001_0000], 0xc0);
        assert!(first.iter().all(|p| p.offset < 0x14));
        assert_eq!(table(express, &[0x0002_0000], 0xc0).len(), EXPRESS.len());
    }

    #[test]
    fn what_has_no_room_is_hidden() {
        assert_eq!(table(express, &[0x0002_0000], 0x10), []);
        assert_eq!(table(error_reporting, &[], 0x28), []);
        assert_eq!(table(translation_services, &[], 4), []);
        assert_eq!(table(extended_vendor, &[0, 0xfff0_0000], 4), []);
        assert_eq!(table(advanced_features, &[0x0106_0013], 0x10), []);
    }

    #[test]
    fn a_vendors_length_stays_in_its_room() {
        for (first, dwords) in [(0x00ff_0009, 4), (0x0000_0009, 1), (0x0008_0009, 2)] {
            assert_eq!(table(vendor, &[first], 0x10).len(), dwords);
        }
        for (second, dwords) in [(0xfff0_0000, 4), (0, 2), (0x00c0_0000, 3)] {
            assert_eq!(
                table(extended_vendor, &[0, second], 0x10).len(),
                dwords,
                "{second:#x}"
            );
        }
        // That of CXL is hidden.
        assert_eq!(table(designated_vendor, &[0, 0x0380_1e98], 0x40), []);
        assert_eq!(table(designated_vendor, &[0, 0x0100_8086], 0x40).len(), 4);
    }
}
