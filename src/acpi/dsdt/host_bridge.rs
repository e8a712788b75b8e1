//! The host bridge: `_SB.PCI0` (PCI Firmware 3.3 §4).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal,
    IO, If, Local, Method, Name, NotEqual, ONE, Or, Path, ResourceTemplate, Return, Store, Uuid,
    ZERO,
};

use super::super::{Native, Platform};
use super::{Raw, interrupts, isa, raw};

/// What `_OSC` on a host bridge is asked with (PCI Firmware 3.3 §4.5.1).
const OSC_PCI: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// Bits of its first dword, the status.
const OSC_UNKNOWN_UUID: u32 = 1 << 2;
const OSC_UNKNOWN_REVISION: u32 = 1 << 3;
const OSC_MASKED: u32 = 1 << 4;
/// Bits of its third dword, control.
const CONTROL_HOTPLUG: u32 = 1 << 0;
const CONTROL_PME: u32 = 1 << 2;
const CONTROL_AER: u32 = 1 << 3;
const CONTROL_CAPABILITY_STRUCTURE: u32 = 1 << 4;

/// The device, with the LPC bridge in it.
pub fn build(platform: &Platform, aml: &mut Vec<u8>) {
    let mut lpc = Vec::new();
    isa::build(&mut lpc);
    let mut routing = Vec::new();
    interrupts::routing(platform.pirq, &mut routing);
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            // Every DMA is coherent.
            &Name::new("_CCA".into(), &ONE),
            &Name::new("_CRS".into(), &windows(platform)),
            &osc(platform.native),
            &Raw(routing),
            &Raw(lpc),
        ],
    )
    .to_aml_bytes(aml);
}

/// What the bridge takes for itself and hands down: buses, ports around the config
/// mechanism, and the two BAR windows.
fn windows(platform: &Platform) -> Raw {
    let (low, high) = (platform.layout.pci32, platform.layout.pci64);
    let memory = AddressSpaceCacheable::NotCacheable;
    raw(&ResourceTemplate::new(vec![
        &AddressSpace::<u16>::new_bus_number(0, platform.last_bus.into()),
        &IO::new(0xcf8, 0xcf8, 1, 8),
        &AddressSpace::<u16>::new_io(0, 0xcf7, None),
        &AddressSpace::<u16>::new_io(0xd00, 0xffff, None),
        &AddressSpace::<u32>::new_memory(memory, true, low.first as u32, low.last as u32, None),
        &AddressSpace::<u64>::new_memory(memory, true, high.first, high.last, None),
    ]))
}

/// `_OSC`: which features the OS may run itself. Support (the second dword) is not looked
/// at; of control (the third) what we have is granted and the rest masked.
fn osc(native: Native) -> Raw {
    let mut granted = CONTROL_CAPABILITY_STRUCTURE;
    for (on, bit) in [
        (native.hotplug, CONTROL_HOTPLUG),
        (native.pme, CONTROL_PME),
        (native.aer, CONTROL_AER),
    ] {
        granted |= if on { bit } else { 0 };
    }
    let [uuid, revision, buffer] = [Arg(0), Arg(1), Arg(3)];
    let status = Path::new("CDW1");
    let control = Path::new("CDW3");
    let grant = Local(0);
    let flag = |bit: &dyn Aml| raw(&Or::new(&status, &status, bit));
    raw(&Method::new(
        "_OSC".into(),
        4,
        true,
        vec![
            &CreateDWordField::new(&status, &buffer, &ZERO),
            &If::new(
                &Equal::new(&uuid, &Uuid::new(OSC_PCI)),
                vec![
                    &CreateDWordField::new(&control, &buffer, &8u8),
                    &And::new(&grant, &control, &granted),
                    &If::new(
                        &NotEqual::new(&revision, &ONE),
                        vec![&flag(&OSC_UNKNOWN_REVISION)],
                    ),
                    &If::new(&NotEqual::new(&control, &grant), vec![&flag(&OSC_MASKED)]),
                    &Store::new(&control, &grant),
                ],
            ),
            &Else::new(vec![&flag(&OSC_UNKNOWN_UUID)]),
            &Return::new(&buffer),
        ],
    ))
}
