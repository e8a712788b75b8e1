//! The LPC bridge (`ISA`, 00:1f.0) with its PIRQ registers and the devices behind it.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO,
    Memory32Fixed, Name, OpRegion, OpRegionSpace, ResourceTemplate,
};
use devices::platform::{acpi_pm, lpc};

use super::super::PM_BASE;
use super::resources::IsaIrq;
use super::{Raw, raw};
use crate::memory::layout::{RCBA_BASE, RCBA_SIZE};

/// Its device number; function 0.
const ADDRESS: u32 = (lpc::DEVICE as u32) << 16;
/// PIRQA–D_ROUT at 0x60 and PIRQE–H_ROUT at 0x68 (ICH9 §13.1.9, §13.1.11).
const PIRQ_REGISTERS: (u8, u8) = (0x60, 0x0c);

/// The field that is the routing register of PIRQA (0) to PIRQH (7).
pub fn pirq_field(link: u8) -> String {
    format!("PRQ{}", char::from(b'A' + (link & 7)))
}

/// The device.
pub fn build(aml: &mut Vec<u8>) {
    let devices = [
        device(
            "PIC_",
            "PNP0000",
            &[
                &ports(0x20, 2),
                &ports(0xa0, 2),
                &ports(0x4d0, 2),
                &IsaIrq(2),
            ],
        ),
        device("TMR_", "PNP0100", &[&ports(0x40, 4), &IsaIrq(0)]),
        device("RTC_", "PNP0B00", &[&ports(0x70, 8), &IsaIrq(8)]),
        device("COM1", "PNP0501", &[&ports(0x3f8, 8), &IsaIrq(4)]),
        motherboard(),
    ];
    let registers = OpRegion::new(
        "PIRQ".into(),
        OpRegionSpace::PCIConfig,
        &PIRQ_REGISTERS.0,
        &PIRQ_REGISTERS.1,
    );
    let address = Name::new("_ADR".into(), &ADDRESS);
    let fields = pirq_fields();
    let mut children: Vec<&dyn Aml> = vec![&address, &registers, &fields];
    children.extend(devices.iter().map(|d| d as &dyn Aml));
    Device::new("ISA_".into(), children).to_aml_bytes(aml);
}

fn pirq_fields() -> Field {
    let field = |link| {
        let mut name = [0; 4];
        name.copy_from_slice(pirq_field(link).as_bytes());
        FieldEntry::Named(name, 8)
    };
    let mut entries: Vec<_> = (0..4).map(field).collect();
    entries.push(FieldEntry::Reserved(32));
    entries.extend((4..8).map(field));
    Field::new(
        "PIRQ".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        entries,
    )
}

fn ports(first: u16, count: u8) -> IO {
    IO::new(first, first, 1, count)
}

fn device(name: &str, id: &str, resources: &[&dyn Aml]) -> Raw {
    raw(&Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new("_UID".into(), &1u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec())),
        ],
    ))
}

/// What no device above claims and nothing else may: NMI status and speaker, fast reset,
/// APM and power management ports, the root complex registers.
fn motherboard() -> Raw {
    let power = IO::new(PM_BASE, PM_BASE, 1, acpi_pm::LEN as u8);
    let rcba = Memory32Fixed::new(true, RCBA_BASE as u32, RCBA_SIZE as u32);
    device(
        "MBRD",
        "PNP0C02",
        &[
            &ports(0x61, 1),
            &ports(0x92, 1),
            &ports(0xb2, 2),
            &power,
            &rcba,
        ],
    )
}
