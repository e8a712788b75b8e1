//! ATS, for a guest whose IOMMU knows of Device-TLBs (PCIe 6.0 §10.5.1).

use super::config::extended_list;
use super::*;
use crate::vfio::rules::CapabilityName;

const HEADER: u16 = 0x200;
const REGISTERS: u16 = 0x204;
const CONTROL: u16 = 0x206;
const DEVICE_CONTROL: u16 = 0xa8;

/// A virtual function with ATS that the host has turned on: a queue of 3, page aligned, with
/// global invalidation and a bit that is none of these; units of 8 KiB. Page requests and
/// PASIDs come after it.
fn hardware() -> FakeBackend {
    let dump = format!(
        "{IGBVF}152: 01 20\n200: 0f 00 01 21 e3 00 01 80\n\
         210: 13 00 01 22 ff ff ff ff\n220: 1b 00 01 00 ff ff ff ff\n"
    );
    FakeBackend::new(&dump, &[(0, 0x4000, true)])
}

fn presentation() -> Presentation {
    Presentation {
        device_tlb: true,
        ..Default::default()
    }
}

fn rig() -> Rig {
    Rig::presented(hardware(), &presentation())
}

#[test]
fn the_guest_sees_what_the_device_has_and_nothing_enabled() {
    let rig = rig();
    assert_eq!(extended_list(&rig), [(0x0001, 0x100), (0x000f, HEADER)]);
    assert_eq!(rig.read(HEADER), 0x0001_000f);
    assert_eq!(rig.read(REGISTERS), 0x0000_0023);
    rig.hardware.poke_config(REGISTERS.into(), &[0x05]);
    assert_eq!(rig.read(REGISTERS), 0x0000_0005);
}

/// As Linux does: `pci_enable_ats` for units of a page, and `pci_disable_ats`.
#[test]
fn the_guest_enables_it_for_itself() {
    let rig = rig();
    rig.write_u16(CONTROL, 0x8000);
    assert_eq!(rig.read(REGISTERS), 0x8000_0023);
    rig.write_u16(CONTROL, 0x0000);
    assert_eq!(rig.read(REGISTERS), 0x0000_0023);
    // Every unit can be had, and no other bit.
    for unit in 0..32 {
        rig.write_u16(CONTROL, 0x8000 | unit);
        assert_eq!(rig.read(REGISTERS) >> 16, 0x8000 | u32::from(unit));
    }
    for at in (HEADER..HEADER + 0x30).step_by(4) {
        rig.write(at, u32::MAX);
    }
    assert_eq!(rig.read(REGISTERS), 0x801f_0023);
    assert_eq!(rig.read(HEADER), 0x0001_000f);
    assert_eq!(rig.hardware.calls(), [], "the device's is the host's");
    assert_eq!(rig.hardware.config_u16(CONTROL.into()), 0x8001);
}

#[test]
fn a_reset_turns_it_off() {
    let rig = rig();
    rig.write_u16(CONTROL, 0x8003);
    let changes = rig.write_u16(DEVICE_CONTROL, 0x8000);
    assert!(changes.contains(Changes::FUNCTION_RESET));
    assert_eq!(rig.read(REGISTERS), 0x0000_0023);
    rig.write_u16(CONTROL, 0x8003);
    rig.device.reset();
    assert_eq!(rig.read(REGISTERS), 0x0000_0023);
}

/// QEMU's virtio functions have it alone, at the start of the list.
#[test]
fn it_may_be_all_that_there_is() {
    let dump = format!("{IGBVF}100: 0f 00 01 00 20 00 00 00\n");
    let rig = Rig::presented(FakeBackend::new(&dump, &[]), &presentation());
    assert_eq!(extended_list(&rig), [(0x000f, 0x100)]);
    rig.write_u16(0x106, 0x8000);
    assert_eq!(rig.read(0x104), 0x8000_0020);
}

fn expect_hidden(rig: &Rig) {
    assert_eq!(extended_list(rig), [(0x0001, 0x100)]);
    rig.write(REGISTERS, u32::MAX);
    assert_eq!((rig.read(HEADER), rig.read(REGISTERS)), (0, 0));
    assert_eq!(rig.hardware.calls(), []);
}

#[test]
fn it_is_hidden_without_an_iommu_for_it_or_at_the_operators_word() {
    expect_hidden(&Rig::new(hardware()));
    let ats: CapabilityName = "ats".parse().unwrap();
    let hidden = Presentation {
        hide: vec![ats],
        ..presentation()
    };
    expect_hidden(&Rig::presented(hardware(), &hidden));
}
