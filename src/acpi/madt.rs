//! The Multiple APIC Description Table (ACPI 6.5 §5.2.12).

use acpi_tables::sdt::Sdt;
use devices::platform::acpi_pm::SCI_IRQ;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, Platform};
use crate::memory::layout::{IOAPIC_BASE, LAPIC_BASE};

const HEADER: u32 = 36;
const REVISION: u8 = 5;
/// The 8259 pair is there too.
const PCAT_COMPAT: u32 = 1;

/// Structure types (table 5.21).
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const INTERRUPT_SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
const LOCAL_X2APIC: u8 = 9;
const LOCAL_X2APIC_NMI: u8 = 10;

const ENABLED: u32 = 1;
/// MPS INTI flags (table 5.26): polarity in bits 1:0, trigger mode in bits 3:2.
const CONFORMS: u16 = 0;
const ACTIVE_HIGH: u16 = 1;
const LEVEL: u16 = 3 << 2;
/// ISA, the source of overrides.
const BUS_ISA: u8 = 0;
/// NMI is on LINT1 of every processor.
const LINT_NMI: u8 = 1;

/// The table.
pub fn build(platform: &Platform) -> Sdt {
    let mut madt = Sdt::new(
        *b"APIC",
        HEADER,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    madt.append_slice(&(LAPIC_BASE as u32).to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for (uid, &apic_id) in (0u32..).zip(platform.apic_ids) {
        madt.append_slice(&processor(uid, apic_id));
    }
    let mut io_apic = vec![IO_APIC, 12, platform.ioapic_id, 0];
    io_apic.extend((IOAPIC_BASE as u32).to_le_bytes());
    io_apic.extend(0u32.to_le_bytes());
    madt.append_slice(&io_apic);

    // The timer's IRQ 0 is on pin 2, where the 8259 pair would be (82093AA §1.1).
    madt.append_slice(&source_override(0, 2, CONFORMS));
    madt.append_slice(&source_override(
        SCI_IRQ,
        SCI_IRQ.into(),
        ACTIVE_HIGH | LEVEL,
    ));

    let [low, high] = CONFORMS.to_le_bytes();
    madt.append_slice(&[LOCAL_APIC_NMI, 6, 0xff, low, high, LINT_NMI]);
    if platform.apic_ids.iter().any(|&id| id >= 255) {
        let mut nmi = vec![LOCAL_X2APIC_NMI, 12, low, high];
        nmi.extend(u32::MAX.to_le_bytes());
        nmi.extend([LINT_NMI, 0, 0, 0]);
        madt.append_slice(&nmi);
    }
    madt
}

/// A processor: with an 8-bit id as a local APIC, else as an x2APIC.
fn processor(uid: u32, apic_id: u32) -> Vec<u8> {
    match (u8::try_from(uid), u8::try_from(apic_id)) {
        (Ok(uid), Ok(id @ 0..=254)) => {
            let mut bytes = vec![LOCAL_APIC, 8, uid, id];
            bytes.extend(ENABLED.to_le_bytes());
            bytes
        }
        _ => {
            let mut bytes = vec![LOCAL_X2APIC, 16, 0, 0];
            for word in [apic_id, ENABLED, uid] {
                bytes.extend(word.to_le_bytes());
            }
            bytes
        }
    }
}

fn source_override(irq: u8, gsi: u32, flags: u16) -> Vec<u8> {
    let mut bytes = vec![INTERRUPT_SOURCE_OVERRIDE, 10, BUS_ISA, irq];
    bytes.extend(gsi.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}
