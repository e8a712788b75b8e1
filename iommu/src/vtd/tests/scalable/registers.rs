//! What the capability registers say of scalable mode.

use super::*;

fn registers(config: VtdConfig) -> (Capability, ExtendedCapability, u32) {
    let rig = Rig::with(config);
    (
        Capability(rig.r64(offset::CAP)),
        ExtendedCapability(rig.r64(offset::ECAP)),
        rig.r32(offset::VER),
    )
}

#[test]
fn everything_is_offered_as_far_as_it_is_there() {
    let (cap, ecap, version) = registers(SCALABLE);
    assert_eq!(version, 0x30);
    assert!(cap.first_stage_giant() && cap.first_stage_five());
    assert!(ecap.scalable() && ecap.second_stage() && ecap.scalable_coherent());
    assert!(ecap.first_stage() && ecap.nested());
    assert!(ecap.rid_pasid() && ecap.supervisor() && ecap.rid_privilege());
    let not_there = [
        25, // MTS
        28, // Reserved.
        29, // PRS
        30, // ERS
        33, // NWFS
        34, // EAFS
        40, // PASID
        42, // PDS
        44, // VCS
        45, // SSADS
        51, // PMS
        52, // ADMS
    ];
    for bit in not_there {
        assert_eq!(ecap.0 >> bit & 1, 0, "{bit}");
    }
    assert_eq!(ecap.0 >> 35 & 0x1f, 0, "PSS");
}

#[test]
fn the_first_stage_needs_addresses_of_its_width() {
    let (cap, ecap, _) = registers(VtdConfig {
        width: Width::Bits48,
        ..SCALABLE
    });
    assert!(cap.first_stage_giant() && !cap.first_stage_five() && ecap.first_stage());
    let (cap, ecap, _) = registers(VtdConfig {
        width: Width::Bits39,
        ..SCALABLE
    });
    assert!(ecap.scalable() && ecap.second_stage());
    assert!(!ecap.first_stage() && !ecap.nested() && !cap.first_stage_giant());
}

#[test]
fn the_first_stage_may_be_left_out() {
    let (cap, ecap, version) = registers(VtdConfig {
        first_stage: false,
        caching_mode: true,
        ..SCALABLE
    });
    assert_eq!(version, 0x30);
    assert!(ecap.scalable() && ecap.second_stage() && ecap.rid_pasid());
    assert!(!ecap.first_stage() && !ecap.nested() && !ecap.supervisor());
    assert!(!ecap.rid_privilege() && !cap.first_stage_giant() && !cap.first_stage_five());
}

#[test]
fn without_scalable_mode_nothing_of_it_shows() {
    let plain = registers(CONFIG);
    let first_alone = registers(VtdConfig {
        first_stage: true,
        ..CONFIG
    });
    assert_eq!(plain, first_alone);
    let (cap, ecap, version) = plain;
    assert_eq!((version, cap.0 >> 56 & 0x1f, ecap.0 >> 24), (0x10, 0, 0));
}

#[test]
fn legacy_tables_are_taken_as_ever() {
    let rig = Rig::with(SCALABLE);
    rig.enable();
    let top = rig.domain(NIC, 5);
    rig.map(top, 0x4000, 0x8000, RW);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    assert_eq!(rig.read(NIC, 0x5000), None);
    assert_eq!(rig.take_faults()[0].reason, 0x6);
}
