//! The processors, and how they idle.

use acpi_tables::Aml;
use acpi_tables::aml::{BufferData, Device, Method, Name, Package, Path, Return};

/// What an idle processor may do, the same for all of them.
const IDLE_STATES: &str = "CSTS";
/// A Generic Register Descriptor (ACPI 6.5 §6.4.3.7) of 12 bytes, fixed hardware with no fields, and the end tag.
/// `acpi_tables` 0.2 gives its `Register` a wrong length.
const HLT: [u8; 17] = [0x82, 12, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x79, 0];
/// Microseconds to come back from C1. With any more than none Linux spins now and then, before a timer that is close,
/// on a processor that others could use.
const C1_LATENCY: u8 = 0;

/// Adds devices `C000` and so on, each with the idle states.
pub fn build(processors: usize, aml: &mut Vec<u8>) {
    idle_states(aml);
    for uid in 0..processors {
        let name = format!("C{uid:03X}");
        let states = Path::new(IDLE_STATES);
        Device::new(
            name.as_str().into(),
            vec![
                &Name::new("_HID".into(), &"ACPI0007"),
                &Name::new("_UID".into(), &uid),
                &Method::new("_CST".into(), 0, false, vec![&Return::new(&states)]),
            ],
        )
        .to_aml_bytes(aml);
    }
}

/// What each `_CST` returns (ACPI 6.5 §8.4.1.1): C1, entered by HLT, which is all that fixed hardware with no fields
/// can mean.
///
/// Every processor has that much without being told. But with a `_CST` Linux has its idle governor at work, which
/// stops the tick of a processor that goes idle for long; without one Linux (6.12.117 was watched) lets it tick once
/// more, that is, wakes up twice where once would do.
fn idle_states(aml: &mut Vec<u8>) {
    let register = BufferData::new(HLT.into());
    let (count, c_state_type, latency, power) = (1u8, 1u8, C1_LATENCY, 0u8);
    let c1 = Package::new(vec![&register, &c_state_type, &latency, &power]);
    Name::new(IDLE_STATES.into(), &Package::new(vec![&count, &c1])).to_aml_bytes(aml);
}
