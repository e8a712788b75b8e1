//! Extended capabilities (PCIe 6.0 §7.6.2 on): serial number, ACS, AER, ARI.

use super::Dword;

/// Offsets in Advanced Error Reporting.
pub(crate) mod aer_offset {
    pub const UNCORRECTABLE_STATUS: u16 = 0x04;
    pub const UNCORRECTABLE_MASK: u16 = 0x08;
    pub const UNCORRECTABLE_SEVERITY: u16 = 0x0c;
    pub const ROOT_COMMAND: u16 = 0x2c;
    pub const ROOT_STATUS: u16 = 0x30;
    pub const ERROR_SOURCE: u16 = 0x34;
}

/// A capability from 100h on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExtendedCapability {
    /// Advanced Error Reporting (§7.8.4).
    Aer(Aer),
    /// Device Serial Number (§7.9.3): an EUI-64.
    SerialNumber(u64),
    /// Access Control Services (§7.7.11).
    Acs(Acs),
    /// Alternative Routing-ID Interpretation (§7.8.8).
    Ari(Ari),
}

/// Access Control Services: which the port has. Their controls are kept and read back;
/// the fabric is in truth always as with all of them on, as no request of one function
/// reaches another but through the IOMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Acs {
    /// The low byte of ACS Capability.
    pub services: u8,
}

impl Acs {
    /// What isolates a root port: source validation, translation blocking, request and
    /// completion redirect, upstream forwarding, direct translated.
    pub const ISOLATING: Self = Self { services: 0x5f };
}

/// Advanced Error Reporting, of a port or an endpoint. The registers are there and keep
/// what is written; a root port reports errors in them, an endpoint here has none.
///
/// Its statuses are sticky on hardware; here a reset is a cold reset and clears them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Aer {
    /// With the root error registers of a root port.
    pub root: bool,
}

/// ARI: the next function of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Ari {
    /// Next Function Number, 0 for none.
    pub next_function: u8,
}

impl ExtendedCapability {
    fn id_and_version(&self) -> (u16, u8) {
        match self {
            Self::Aer(_) => (0x0001, 2),
            Self::SerialNumber(_) => (0x0003, 1),
            Self::Acs(_) => (0x000d, 1),
            Self::Ari(_) => (0x000e, 1),
        }
    }

    /// The registers, with the ID and no link.
    pub(crate) fn dwords(&self) -> Vec<Dword> {
        let (id, version) = self.id_and_version();
        let mut dwords = vec![Dword::fixed(u32::from(version) << 16 | u32::from(id))];
        match self {
            Self::Aer(aer) => dwords.extend(aer.dwords()),
            Self::SerialNumber(serial) => {
                dwords.push(Dword::fixed(*serial as u32));
                dwords.push(Dword::fixed((*serial >> 32) as u32));
            }
            Self::Acs(acs) => {
                // Control in the upper half; egress control has no vector here.
                let services = u32::from(acs.services) & !(1 << 5);
                dwords.push(Dword::new(services, services << 16, 0));
            }
            Self::Ari(ari) => dwords.push(Dword::fixed(u32::from(ari.next_function) << 8)),
        }
        dwords
    }
}

/// The uncorrectable errors that have bits: from Data Link Protocol to Uncorrectable
/// Internal (§7.8.4.2).
const UNCORRECTABLE: u32 = 0x007f_f030;
/// Which of them are fatal unless software says otherwise (§7.8.4.4).
const FATAL: u32 = 0x0046_2030;
/// The correctable errors that have bits (§7.8.4.5).
const CORRECTABLE: u32 = 0x0000_f1c1;
/// Advisory Non-Fatal and the two after it start out masked (§7.8.4.6).
const CORRECTABLE_MASKED: u32 = 0x0000_e000;

impl Aer {
    fn dwords(self) -> Vec<Dword> {
        let mut dwords = vec![
            Dword::new(0, 0, UNCORRECTABLE),
            // Uncorrectable Internal Error starts out masked.
            Dword::new(1 << 22, UNCORRECTABLE, 0),
            Dword::new(FATAL, UNCORRECTABLE, 0),
            Dword::new(0, 0, CORRECTABLE),
            Dword::new(CORRECTABLE_MASKED, CORRECTABLE, 0),
            // Capabilities and Control: no ECRC.
            Dword::default(),
        ];
        // The header log.
        dwords.extend([Dword::default(); 4]);
        if self.root {
            // Root Error Command, Root Error Status, Error Source Identification.
            dwords.push(Dword::new(0, 0b111, 0));
            dwords.push(Dword::new(0, 0, 0x7f));
            dwords.push(Dword::default());
        }
        dwords
    }
}
