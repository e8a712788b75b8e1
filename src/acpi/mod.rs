//! The ACPI tables of a Q35 machine (ACPI 6.5), built from a plain description.
//!
//! RSDP, XSDT, FACS, FADT, MADT, MCFG, a DMAR table if there is a VT-d, and a DSDT with the host bridge, its windows and
//! interrupt routing, the LPC bridge's ISA devices, the CPUs and soft-off. There is no SMM
//! and no embedded controller: ACPI is always on. There is no HPET table as there is no
//! HPET.

mod dmar;
mod dsdt;
mod fadt;
mod madt;

use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, facs::FACS};
use devices::dma::GuestRam;
use vm_memory::{Bytes, GuestAddress};

pub use self::dmar::Dmar;
use crate::memory::Layout;
use crate::memory::layout::{BIOS_AREA, ECAM_BASE, EXTENDED_START};

/// Who made the tables.
const OEM_ID: [u8; 6] = *b"SLUICE";
const OEM_TABLE_ID: [u8; 8] = *b"SLUICEVM";
const OEM_REVISION: u32 = 1;

/// Base of the ICH9's power management ports (PMBASE), as the tables promise it.
pub const PM_BASE: u16 = 0x600;
/// System reset and CPU reset: the hard reset.
pub const RESET_VALUE: u8 = 0x06;
/// The first pin of the IOAPIC that PIRQA is wired to; PIRQH is the seventh after it.
pub const PIRQ_GSI_BASE: u32 = 16;

/// What the tables describe.
#[derive(Clone, Copy, Debug)]
pub struct Platform<'a> {
    /// The vCPUs' APIC ids, boot processor first. A vCPU's processor UID is its place here.
    pub apic_ids: &'a [u32],
    /// The IOAPIC's id.
    pub ioapic_id: u8,
    /// The address map.
    pub layout: &'a Layout,
    /// Which of PIRQA to PIRQH (0 to 7) pin 0 to 3 (INTA to INTD) of a device number on bus
    /// 0 is wired to.
    pub pirq: fn(device: u8, pin: u8) -> u8,
    /// The last bus that there is. No more are promised, for Linux looks for root buses on
    /// every one: 32 config reads each, which are 64 exits.
    pub last_bus: u8,
    /// The VT-d unit, if there is one.
    pub dmar: Option<Dmar>,
    /// What the guest's kernel may run natively.
    pub native: Native,
}

/// PCI Express features that the guest's kernel is given control of (PCI Firmware 3.3
/// §4.5.1). True only where the root ports have them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Native {
    /// Hot-plug of PCI Express slots.
    pub hotplug: bool,
    /// Power management events.
    pub pme: bool,
    /// Advanced error reporting.
    pub aer: bool,
}

/// Finished tables, placed.
#[derive(Clone, Debug)]
pub struct Tables {
    image: Vec<u8>,
}

/// The tables are larger than the place for them.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// Too many CPUs, in effect.
    #[error("the ACPI tables need {0} bytes and there are {room}", room = EXTENDED_START - BIOS_AREA)]
    TooLarge(usize),
    /// Guest memory refused them.
    #[error("the ACPI tables do not fit in guest memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// Builds the tables of a machine.
pub fn build(platform: &Platform) -> Tables {
    let mut place = Placer(vec![0; Rsdp::len()]);
    let facs = place.table(&FACS::new());
    let dsdt = place.table(&dsdt::build(platform));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM_BASE, 0, 0, platform.last_bus);
    let tables: [&dyn Aml; 3] = [&fadt::build(facs, dsdt), &madt::build(platform), &mcfg];
    for table in tables {
        xsdt.add_entry(place.table(table));
    }
    if let Some(dmar) = &platform.dmar {
        xsdt.add_entry(place.table(&dmar::build(dmar, platform.ioapic_id)));
    }
    let xsdt = place.table(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    let mut image = place.0;
    image.splice(..rsdp.len(), rsdp);
    Tables { image }
}

impl Tables {
    /// Where the RSDP is, once written: at the start of the BIOS area, where it is also
    /// found by those who are not told (ACPI 6.5 §5.2.5.1).
    pub const RSDP: u64 = BIOS_AREA;

    /// Writes the tables. To be done again at every reset, for the guest may have changed
    /// or reclaimed them.
    pub fn write(&self, ram: &GuestRam) -> Result<(), TablesError> {
        if self.image.len() as u64 > EXTENDED_START - BIOS_AREA {
            return Err(TablesError::TooLarge(self.image.len()));
        }
        Ok(ram.write_slice(&self.image, GuestAddress(Self::RSDP))?)
    }

    /// The bytes from [`Tables::RSDP`] on.
    pub fn image(&self) -> &[u8] {
        &self.image
    }
}

/// Puts tables one after the other into the BIOS area.
struct Placer(Vec<u8>);

impl Placer {
    /// The FACS must lie on 64 bytes (ACPI 6.5 §5.2.10); so may all.
    const ALIGN: usize = 64;

    fn table(&mut self, table: &dyn Aml) -> u64 {
        let offset = self.0.len().next_multiple_of(Self::ALIGN);
        self.0.resize(offset, 0);
        table.to_aml_bytes(&mut self.0);
        BIOS_AREA + offset as u64
    }
}

#[cfg(test)]
mod tests;
