//! The DMA Remapping table (VT-d 4.1 §8): one unit, which everything is behind.
//!
//! There is an ATSR if the unit knows of Device-TLBs; no RHSA, as there is one node, and no RMRR.

use acpi_tables::sdt::Sdt;
use pci::Bdf;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};

const HEADER: u32 = 36;
const REVISION: u8 = 1;
/// Flags of the table: bit 1, with which firmware opts out of x2APIC, is clear.
const INTR_REMAP: u8 = 1;
/// The structure of a unit (§8.3).
const DRHD: u16 = 0;
const DRHD_LEN: u16 = 16;
const INCLUDE_PCI_ALL: u8 = 1;
/// A device scope (§8.3.1) with a path of one step.
const SCOPE_IOAPIC: u8 = 3;
const SCOPE_LEN: u8 = 8;

/// The structure of root ports that pass address translation services on (§8.5). All do here,
/// also those with nothing behind them yet: what a device behind one asks is asked, and answered,
/// at the host's root port.
const ATSR: u16 = 2;
const ATSR_LEN: u16 = 8;
const ALL_PORTS: u8 = 1;

/// A VT-d unit.
#[derive(Clone, Copy, Debug)]
pub struct Dmar {
    /// Where its registers are.
    pub registers: u64,
    /// Bits of a guest-physical address.
    pub address_bits: u8,
    /// It remaps interrupts.
    pub interrupt_remapping: bool,
    /// It knows of Device-TLBs.
    pub device_tlb: bool,
    /// Who the I/O APIC's messages come from.
    pub ioapic: Bdf,
}

/// The table.
pub fn build(dmar: &Dmar, ioapic_id: u8) -> Sdt {
    let mut table = Sdt::new(
        *b"DMAR",
        HEADER,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    let flags = if dmar.interrupt_remapping {
        INTR_REMAP
    } else {
        0
    };
    table.append_slice(&[dmar.address_bits.saturating_sub(1), flags]);
    table.append_slice(&[0; 10]);

    table.append_slice(&DRHD.to_le_bytes());
    table.append_slice(&(DRHD_LEN + u16::from(SCOPE_LEN)).to_le_bytes());
    // Its size is one page, its segment 0.
    table.append_slice(&[INCLUDE_PCI_ALL, 0, 0, 0]);
    table.append_slice(&dmar.registers.to_le_bytes());

    let Dmar { ioapic, .. } = dmar;
    table.append_slice(&[SCOPE_IOAPIC, SCOPE_LEN, 0, 0, ioapic_id]);
    table.append_slice(&[ioapic.bus(), ioapic.device(), ioapic.function()]);

    if dmar.device_tlb {
        table.append_slice(&ATSR.to_le_bytes());
        table.append_slice(&ATSR_LEN.to_le_bytes());
        // Of segment 0.
        table.append_slice(&[ALL_PORTS, 0, 0, 0]);
    }
    table
}
