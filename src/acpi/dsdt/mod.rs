//! The DSDT: the machine as the guest's ACPI interpreter sees it.
//!
//! ```text
//! \_PIC, \PICF      interrupt model in use
//! \_S5              soft-off
//! \_SB
//!   PCI0            host bridge: windows, _OSC, _PRT
//!     ISA           LPC bridge: PIRQ registers, ISA devices
//!   ECAM            reserves the config window
//!   LNKA .. LNKH    PCI interrupt links for the 8259 pair
//!   CSTS            how processors idle
//!   C000 ..         processors
//! ```

mod host_bridge;
mod interrupts;
mod isa;
mod processors;
mod resources;

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, Memory32Fixed, Name, Package, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;
use devices::platform::acpi_pm::SLEEP_TYPE_S5;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, Platform};
use crate::memory::layout::{ECAM_BASE, ECAM_SIZE};

const HEADER: u32 = 36;
/// 64-bit integers.
const REVISION: u8 = 2;

/// The table.
pub fn build(platform: &Platform) -> Sdt {
    let mut aml = Vec::new();
    interrupts::model(&mut aml);
    Name::new(
        "_S5_".into(),
        &Package::new(vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]),
    )
    .to_aml_bytes(&mut aml);

    let mut bus = Vec::new();
    host_bridge::build(platform, &mut bus);
    ecam(&mut bus);
    interrupts::links(&mut bus);
    processors::build(platform.apic_ids.len(), &mut bus);
    aml.extend(Scope::raw("\\_SB_".into(), bus));

    let mut dsdt = Sdt::new(
        *b"DSDT",
        HEADER,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    dsdt.append_slice(&aml);
    dsdt
}

/// Reserves ECAM: an OS believes MCFG only where a motherboard resource says the same (PCI
/// Firmware 3.3 §4.1.2).
fn ecam(aml: &mut Vec<u8>) {
    let window = Memory32Fixed::new(true, ECAM_BASE as u32, ECAM_SIZE as u32);
    Device::new(
        "ECAM".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &"ECAM"),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&window])),
        ],
    )
    .to_aml_bytes(aml);
}

/// AML that has been built already.
struct Raw(Vec<u8>);

fn raw(aml: &dyn Aml) -> Raw {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    Raw(bytes)
}

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}
