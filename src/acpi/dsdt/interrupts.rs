//! INTx routing (ACPI 6.5 §6.2.13): pins to PIRQA–PIRQH, those to IOAPIC pins 16–23, or
//! through link devices to inputs of the 8259 pair.

use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Arg, CreateDWordField, Device, EISAName, Else, If, LessThan, Local, Method, Name, Or,
    Package, PackageBuilder, Path, ResourceTemplate, Return, Store, ZERO,
};

use super::super::PIRQ_GSI_BASE;
use super::resources::SharedIrqs;
use super::{Raw, isa, raw};

/// Inputs of the 8259 pair that a link may be set to: those no ISA device of ours has.
const LINK_IRQS: [u32; 3] = [5, 10, 11];
/// A PIRQ register's bit 7: not routed to the 8259 pair (ICH9 §13.1.9).
const NOT_ROUTED: u8 = 0x80;
/// Present, enabled, shown, working (§6.3.7), and present but disabled.
const STATUS_ON: u8 = 0xb;
const STATUS_OFF: u8 = 0x9;

/// `\PICF` and `\_PIC`: the OS says which interrupt model it uses (§5.8.1): 0 for the 8259
/// pair, which is the model until it says otherwise.
pub fn model(aml: &mut Vec<u8>) {
    Name::new("PICF".into(), &ZERO).to_aml_bytes(aml);
    Method::new(
        "_PIC".into(),
        1,
        false,
        vec![&Store::new(&Path::new("PICF"), &Arg(0))],
    )
    .to_aml_bytes(aml);
}

/// `_PRT` of the root bus. Buses behind root ports need none: their pins are swizzled at
/// each bridge (PCI-to-PCI Bridge 1.2 §9.1).
pub fn routing(pirq: fn(u8, u8) -> u8, aml: &mut Vec<u8>) {
    let (mut apic, mut pic) = (PackageBuilder::new(), PackageBuilder::new());
    for (device, pin) in (0..32u8).flat_map(|device| (0..4u8).map(move |pin| (device, pin))) {
        let address = u32::from(device) << 16 | 0xffff;
        let link = pirq(device, pin) & 7;
        let gsi = PIRQ_GSI_BASE + u32::from(link);
        apic.add_element(&Package::new(vec![&address, &pin, &ZERO, &gsi]));
        let source = Path::new(&format!("\\_SB_.{}", link_name(link)));
        pic.add_element(&Package::new(vec![&address, &pin, &source, &ZERO]));
    }
    Name::new("PRTA".into(), &apic).to_aml_bytes(aml);
    Name::new("PRTP".into(), &pic).to_aml_bytes(aml);
    Method::new(
        "_PRT".into(),
        0,
        false,
        vec![
            &If::new(&Path::new("PICF"), vec![&Return::new(&Path::new("PRTA"))]),
            &Else::new(vec![&Return::new(&Path::new("PRTP"))]),
        ],
    )
    .to_aml_bytes(aml);
}

/// The name of the link device of PIRQA (0) to PIRQH (7).
fn link_name(link: u8) -> String {
    format!("LNK{}", char::from(b'A' + link))
}

/// The link devices, over the LPC bridge's PIRQ registers.
pub fn links(aml: &mut Vec<u8>) {
    for link in 0..8 {
        let register = format!("\\_SB_.PCI0.ISA_.{}", isa::pirq_field(link));
        let register = Path::new(&register);
        let possible = SharedIrqs(&LINK_IRQS);
        Device::new(
            link_name(link).as_str().into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C0F")),
                &Name::new("_UID".into(), &(link + 1)),
                &Name::new("_PRS".into(), &ResourceTemplate::new(vec![&possible])),
                &status(&register),
                &disable(&register),
                &current(&register),
                &set(&register),
            ],
        )
        .to_aml_bytes(aml);
    }
}

fn status(register: &Path) -> Raw {
    raw(&Method::new(
        "_STA".into(),
        0,
        false,
        vec![
            &If::new(
                &And::new(&ZERO, register, &NOT_ROUTED),
                vec![&Return::new(&STATUS_OFF)],
            ),
            &Return::new(&STATUS_ON),
        ],
    ))
}

fn disable(register: &Path) -> Raw {
    raw(&Method::new(
        "_DIS".into(),
        0,
        false,
        vec![&Or::new(register, register, &NOT_ROUTED)],
    ))
}

/// The interrupt set now; 0 while there is none.
fn current(register: &Path) -> Raw {
    let (resources, number) = (Local(0), Path::new("IRQN"));
    let template = SharedIrqs(&[0]);
    raw(&Method::new(
        "_CRS".into(),
        0,
        true,
        vec![
            &Store::new(&resources, &ResourceTemplate::new(vec![&template])),
            &CreateDWordField::new(&number, &resources, &SharedIrqs::FIRST),
            &If::new(
                &LessThan::new(register, &NOT_ROUTED),
                vec![&And::new(&number, register, &0xfu8)],
            ),
            &Return::new(&resources),
        ],
    ))
}

fn set(register: &Path) -> Raw {
    let number = Path::new("IRQN");
    raw(&Method::new(
        "_SRS".into(),
        1,
        true,
        vec![
            &CreateDWordField::new(&number, &Arg(0), &SharedIrqs::FIRST),
            &Store::new(register, &number),
        ],
    ))
}
