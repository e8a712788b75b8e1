//! Resizable BARs, as a guest sees and sizes them.

use pci::Space;

use super::*;

/// Resizable BARs at 200h: BAR 0 with 256 MiB of up to 8 GiB, BAR 2 with 2 MiB of 2 to 256.
fn gpu() -> FakeBackend {
    let dump = format!(
        "{IGBVF}152: 01 20\n18: 0c\n1c: 00\n\
         200: 15 00 01 00 00 f0 3f 00 40 08 00 00 e0 1f 00 00\n210: 02 01 00 00\n"
    );
    let mut hardware = FakeBackend::new(&dump, &[]);
    hardware.add_hollow_bar(0, 1 << 28);
    hardware.add_hollow_bar(2, 1 << 21);
    hardware
}

const CONTROL: u16 = 0x208;

fn set_size(rig: &Rig, control: u16, size: u32) -> Changes {
    rig.write(control, size << 8)
}

fn size_of(rig: &Rig, at: u16) -> u64 {
    let old = (rig.read(at), rig.read(at + 4));
    rig.write(at, u32::MAX);
    rig.write(at + 4, u32::MAX);
    let mask = u64::from(rig.read(at + 4)) << 32 | u64::from(rig.read(at) & !0xf);
    rig.write(at, old.0);
    rig.write(at + 4, old.1);
    mask.wrapping_neg()
}

#[test]
fn what_the_device_has_now_is_the_most_that_is_offered() {
    let rig = Rig::new(gpu());
    assert_eq!(rig.read(0x200), 0x0001_0015);
    // 256 MiB is 1 MiB << 8; from 256 MiB on is what the device says it supports.
    assert_eq!(rig.read(0x204), 0x0000_1000);
    assert_eq!(rig.read(CONTROL), 0x0000_0840, "two BARs, the first is 0");
    assert_eq!(rig.read(0x20c), 0x0000_0020);
    assert_eq!(rig.read(0x210), 0x0000_0102);
    assert_eq!(size_of(&rig, 0x10), 1 << 28);
}

#[test]
fn a_guest_makes_a_bar_smaller_and_larger_again() {
    let hardware = gpu();
    hardware.poke_config(0x204, &[0xf0, 0xff, 0x3f, 0]);
    let rig = Rig::new(hardware);
    rig.write(0x10, 0x1000_0000);
    rig.write(0x14, 0x10);
    rig.write_u16(0x04, 2);
    assert!(set_size(&rig, CONTROL, 4).contains(Changes::DECODE));
    assert_eq!(rig.read(CONTROL), 0x0000_0440);
    assert_eq!(size_of(&rig, 0x10), 16 << 20);
    let window = rig.device.windows()[0];
    assert_eq!(
        (window.space, window.base, window.size),
        (Space::Memory, 0x10_1000_0000, 16 << 20)
    );
    set_size(&rig, CONTROL, 8);
    assert_eq!(size_of(&rig, 0x10), 1 << 28);
    assert!(set_size(&rig, CONTROL, 8).is_empty(), "as it is");
    set_size(&rig, CONTROL, 0);
    assert_eq!(size_of(&rig, 0x10), 1 << 20);
    rig.device.reset();
    assert_eq!(rig.read(CONTROL), 0x0000_0840);
    assert_eq!(size_of(&rig, 0x10), 1 << 28);
    assert!(
        rig.hardware
            .calls()
            .iter()
            .all(|call| !format!("{call:?}").contains("520"))
    );
}

#[test]
fn a_size_that_is_not_offered_is_not_taken() {
    let rig = Rig::new(gpu());
    for size in [0, 7, 9, 0x1f, 0x20, 0x3f] {
        assert!(
            !set_size(&rig, CONTROL, size).contains(Changes::DECODE),
            "{size}"
        );
        assert_eq!(rig.read(CONTROL), 0x0000_0840);
        assert_eq!(size_of(&rig, 0x10), 1 << 28);
    }
}

#[test]
fn entries_for_bars_that_are_not_there_are_left_out() {
    let hardware = gpu();
    // The first is for a BAR that there is not.
    hardware.poke_config(0x208, &[0x44]);
    let rig = Rig::new(hardware);
    assert_eq!(rig.read(0x208), 0x0000_0122, "one, for BAR 2");
    assert_eq!((rig.read(0x20c), rig.read(0x210)), (0, 0));
    let hardware = gpu();
    hardware.poke_config(0x208, &[0x04]);
    assert_eq!(
        Rig::new(hardware).read(0x200),
        0,
        "none, and so no capability"
    );
}
