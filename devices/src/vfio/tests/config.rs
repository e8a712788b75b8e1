use pci::{BarIndex, Space, Window};

use super::*;
use crate::vfio::backend::RegionId;
use crate::vfio::fake::Call;
use crate::vfio::fuzz;

/// The capability list as a guest walks it: IDs and offsets.
pub(super) fn list(rig: &Rig) -> Vec<(u8, u16)> {
    fuzz::list(&rig.device)
}

pub(super) fn extended_list(rig: &Rig) -> Vec<(u16, u16)> {
    fuzz::extended_list(&rig.device)
}

#[test]
fn a_virtual_function_looks_whole() {
    let rig = Rig::igbvf();
    assert_eq!(rig.read(0x00), 0x10ca_8086);
    assert_eq!(rig.read(0x08), 0x0200_0001);
    assert_eq!(rig.read(0x2c), 0xa03c_8086);
    assert_eq!(rig.read(0x30), 0, "no ROM");
    assert_eq!(rig.read(0x3c) >> 8, 0, "no interrupt pin");
    // The host's command and addresses do not show.
    assert_eq!(rig.read(0x04), 0x0010_0000);
    assert_eq!(rig.read(0x10), 0x0000_000c);
    assert_eq!(rig.read(0x1c), 0x0000_000c);
    assert_eq!(list(&rig), [(0x11, 0x70), (0x10, 0xa0)]);
    assert_eq!(extended_list(&rig), [(0x0001, 0x100)]);
    assert_eq!(rig.read(0x100), 0x0002_0001, "AER leads nowhere");
    assert_eq!(rig.read(0x150), 0, "ARI is hidden whole");
    assert_eq!(rig.read(0x70) >> 16, 2, "three vectors");
    assert_eq!((rig.read(0x74), rig.read(0x78)), (0x3, 0x2003));
}

#[test]
fn an_nvme_controller_keeps_its_serial_number_and_loses_sriov() {
    let rig = Rig::nvme();
    assert_eq!(rig.read(0x08), 0x0108_0202);
    assert_eq!(list(&rig), [(0x11, 0x40), (0x10, 0x80), (0x01, 0x60)]);
    assert_eq!(extended_list(&rig), [(0x0003, 0x100)]);
    assert_eq!(rig.read(0x100), 0x0001_0003);
    assert_eq!(
        (rig.read(0x104), rig.read(0x108)),
        (0xdead_beef, 0x0403_0201)
    );
    assert_eq!(rig.read(0x120), 0);
    assert_eq!(rig.read(0x12c), 0);
}

#[test]
fn a_root_complex_endpoint_becomes_one_behind_a_port() {
    let rig = Rig::e1000e();
    assert_eq!(
        list(&rig),
        [(0x01, 0xc8), (0x05, 0xd0), (0x10, 0xe0), (0x11, 0xa0)]
    );
    let express = rig.read(0xe0) >> 16;
    assert_eq!(express, 0x0001, "endpoint, version 1");
    assert_eq!(rig.read(0xec), 0x0040_0011, "it has a link");
    assert_eq!(rig.read(0xf0) >> 16, 0x11);
    assert_eq!(extended_list(&rig), [(0x0001, 0x100), (0x0003, 0x140)]);
    assert_eq!(rig.read(0x44) & 0xffff, 0x55aa, "a register of its own");
    assert_eq!(rig.read(0xd0) >> 16, 0x0080, "one 64-bit MSI vector");
}

#[test]
fn bars_size_and_decode_as_the_device_says() {
    let rig = Rig::e1000e();
    for (at, size) in [
        (0x10, 0xfffe_0000),
        (0x18, 0xffff_ffe1),
        (0x1c, 0xffff_c000),
    ] {
        rig.write(at, u32::MAX);
        assert_eq!(rig.read(at), size, "{at:#x}");
    }
    rig.write(0x10, 0xc000_0000);
    rig.write(0x18, 0x0000_c000);
    assert_eq!(rig.device.windows(), []);
    assert!(rig.write_u16(0x04, 0b11).contains(Changes::DECODE));
    let window = |bar, space, base, size| Window {
        bar: BarIndex(bar),
        space,
        base,
        size,
    };
    assert_eq!(
        rig.device.windows(),
        [
            window(0, Space::Memory, 0xc000_0000, 0x20000),
            window(2, Space::Io, 0xc000, 32),
        ]
    );
}

#[test]
fn a_wide_bar_may_be_huge() {
    let mut hardware = nvme();
    hardware.regions.get_mut(&0).unwrap().size = 64 << 30;
    let rig = Rig::new(hardware);
    rig.write(0x10, u32::MAX);
    rig.write(0x14, u32::MAX);
    assert_eq!((rig.read(0x10), rig.read(0x14)), (0x4, 0xffff_fff0));
    rig.write(0x10, 0);
    rig.write(0x14, 0x40);
    rig.write_u16(0x04, 0b10);
    let windows = rig.device.windows();
    assert_eq!((windows[0].base, windows[0].size), (0x40 << 32, 64 << 30));
}

#[test]
fn the_device_decodes_always_and_masters_when_told() {
    let rig = Rig::e1000e();
    let command = || rig.hardware.config_u16(4);
    assert_eq!(command(), 0x0003, "memory and I/O");
    rig.write(0x10, 0xc000_0000);
    assert!(rig.write_u16(0x04, 0x0006).contains(Changes::BUS_MASTER));
    assert_eq!(command(), 0x0007);
    // Asleep, it must not master, whatever its command register says.
    let changes = rig.write_u16(0xcc, 3);
    assert!(changes.contains(Changes::POWER | Changes::BUS_MASTER | Changes::DECODE));
    assert_eq!(command(), 0x0403, "nor assert its pin");
    assert_eq!(
        rig.hardware.config_u16(0xcc) & 3,
        0,
        "the device stays in D0"
    );
    rig.write_u16(0xcc, 0);
    assert_eq!(command(), 0x0003, "and wakes as after a reset");
}

#[test]
fn waking_resets_a_function_unless_it_says_that_it_does_not() {
    const PMCSR: u16 = 0xcc;
    for (no_soft_reset, can_reset) in [(false, true), (true, true), (false, false)] {
        let mut hardware = e1000e();
        hardware.poke_config(PMCSR.into(), &[u8::from(no_soft_reset) << 3]);
        hardware.can_reset = can_reset;
        let rig = Rig::new(hardware);
        rig.write(0x10, 0xc000_0000);
        rig.write_u16(0x04, 0x0006);
        rig.write_u16(PMCSR, 3);
        assert_eq!(rig.device.windows(), [], "nothing answers asleep");
        assert_eq!(rig.read(0x10), 0xc000_0000, "but config space");
        rig.hardware.calls();
        let woken = rig.write_u16(PMCSR, 0);
        let resets = !no_soft_reset && can_reset;
        assert_eq!(woken.contains(Changes::FUNCTION_RESET), resets);
        assert!(woken.contains(Changes::POWER | Changes::DECODE));
        assert_eq!(rig.hardware.calls().contains(&Call::Reset), resets);
        assert_eq!(rig.read(PMCSR) & 0x8, if resets { 0 } else { 0x8 });
        assert_eq!(rig.device.windows().len(), usize::from(!resets));
        assert_eq!(rig.read(0x10) != 0, !resets);
    }
}

#[test]
fn errors_are_logged_by_the_device_and_masked_for_the_guest_alone() {
    let rig = Rig::igbvf();
    rig.hardware.poke_config(0x104, &[0x00, 0x00, 0x11, 0x00]);
    rig.hardware.poke_config(0x11c, &[0xaa; 16]);
    assert_eq!(rig.read(0x104), 0x0011_0000);
    assert_eq!(rig.read(0x11c), 0xaaaa_aaaa);
    rig.write(0x104, 0x0010_0000);
    let cleared = Call::Write(RegionId::Config, 0x104, vec![0, 0, 0x10, 0]);
    assert!(rig.hardware.calls().contains(&cleared));
    for (at, reset) in [(0x108, 0x0040_0000), (0x10c, 0x0046_2030), (0x114, 0xe000)] {
        assert_eq!(rig.read(at), reset);
        rig.write(at, 0);
        assert_eq!(rig.read(at), 0);
    }
    assert_eq!(
        rig.hardware.calls(),
        [],
        "what the host hears of is its own"
    );
    rig.device.reset();
    assert_eq!(rig.read(0x10c), 0x0046_2030);
}

#[test]
fn advanced_features_reset_a_function_without_pci_express() {
    let dump = format!("{IGBVF}34: 40\n40: 13 00 06 03 00 01 ff ff\n");
    let rig = Rig::new(FakeBackend::new(&dump, &[]));
    assert_eq!(list(&rig), [(0x13, 0x40)]);
    assert_eq!((rig.read(0x40), rig.read(0x44)), (0x0306_0013, 0x100));
    assert!(rig.write(0x44, 1).contains(Changes::FUNCTION_RESET));
    assert!(rig.hardware.calls().contains(&Call::Reset));
    assert!(!rig.write(0x44, 2).contains(Changes::FUNCTION_RESET));
}

#[test]
fn a_function_without_ports_is_not_told_to_decode_them() {
    let rig = Rig::igbvf();
    assert_eq!(rig.hardware.config_u16(4), 0x0402);
}

#[test]
fn device_control_reaches_the_device_but_for_the_reset_order() {
    let rig = Rig::nvme();
    rig.hardware.poke_config(0x8a, &[0x0f, 0x00]);
    rig.hardware.calls();
    rig.write(0x88, 0x0000_2810);
    let control = Call::Write(RegionId::Config, 0x88, vec![0x10, 0x28, 0]);
    assert_eq!(
        rig.hardware.calls(),
        [control],
        "no error bit is cleared by accident"
    );
    rig.write_u16(0x8a, 0x0004);
    let status = Call::Write(RegionId::Config, 0x8a, vec![0x04]);
    assert_eq!(rig.hardware.calls(), [status]);
    let changes = rig.write_u16(0x88, 0xa810);
    assert!(changes.contains(Changes::FUNCTION_RESET));
    let calls = rig.hardware.calls();
    assert!(calls.contains(&Call::Write(RegionId::Config, 0x88, vec![0x10, 0x28])));
    assert!(calls.contains(&Call::Reset));
}

#[test]
fn the_link_and_what_needs_the_root_complex_are_not_the_guests() {
    let rig = Rig::igbvf();
    rig.write(0xb0, u32::MAX);
    assert_eq!(rig.hardware.calls(), []);
    assert_eq!(rig.read(0xac) >> 10 & 3, 0, "no ASPM");
    // Device Capabilities 2 shows completion timeouts and no more.
    assert_eq!(rig.read(0xc4), 0x1f);
    rig.hardware.poke_config(0xc8, &[0x40, 0x04]);
    rig.write_u16(0xc8, 0xffff);
    assert_eq!(rig.read(0xc8) & 0xffff, 0x1f);
    assert_eq!(
        rig.hardware.config_u16(0xc8),
        0x045f,
        "what the host enabled stays"
    );
}

#[test]
fn no_reset_is_offered_that_cannot_be_done() {
    let mut hardware = nvme();
    hardware.can_reset = false;
    let rig = Rig::new(hardware);
    assert_eq!(rig.read(0x84) & 1 << 28, 0);
    assert!(
        !rig.write_u16(0x88, 0x8000)
            .contains(Changes::FUNCTION_RESET)
    );
}

#[test]
fn vital_product_data_is_read_and_never_written() {
    let dump = format!("{IGBVF}40: 03 00 00 80 11 22 33 44\n34: 40\n41: 70\n");
    let rig = Rig::new(FakeBackend::new(&dump, &[(0, 0x4000, true)]));
    assert_eq!(list(&rig)[0], (0x03, 0x40));
    assert_eq!(rig.read(0x44), 0x4433_2211);
    rig.write(0x44, 0xffff_ffff);
    rig.write_u16(0x42, 0x8010);
    let address = Call::Write(RegionId::Config, 0x42, vec![0x10, 0x00]);
    assert_eq!(rig.hardware.calls(), [address]);
}

#[test]
fn vendor_capabilities_pass_through_after_their_header() {
    let dump = format!("{IGBVF}40: 09 70 0c 05 01 02 03 04 05 06 07 08 09\n34: 40\n");
    let rig = Rig::new(FakeBackend::new(&dump, &[]));
    assert_eq!(rig.read(0x40), 0x050c_a009);
    assert_eq!(rig.read(0x48), 0x0807_0605);
    rig.write(0x40, u32::MAX);
    rig.write(0x44, 0xa5a5_a5a5);
    assert_eq!(
        rig.hardware.calls(),
        [
            Call::Write(RegionId::Config, 0x43, vec![0xff]),
            Call::Write(RegionId::Config, 0x44, vec![0xa5; 4]),
        ]
    );
}

#[test]
fn hidden_capabilities_leave_no_trace() {
    // Enhanced allocation at 40h, page requests at 200h.
    let dump =
        format!("{IGBVF}34: 40\n40: 14 70 01 00 ff ff ff ff\n152: 01 20\n200: 13 00 01 00 ff ff\n");
    let rig = Rig::new(FakeBackend::new(&dump, &[]));
    assert!(list(&rig).iter().all(|&(id, _)| id != 0x14));
    assert_eq!((rig.read(0x40), rig.read(0x44)), (0, 0));
    assert_eq!((rig.read(0x200), rig.read(0x204)), (0, 0));
    rig.write(0x44, 0);
    rig.write(0x204, 0);
    assert_eq!(rig.hardware.calls(), []);
}

#[test]
fn lists_that_loop_end_for_the_guest() {
    // The express capability leads back to MSI-X; the serial number to itself.
    let dump = format!("{NVME}81: 40\n61: 80\n102: 01 10\n");
    let rig = Rig::new(FakeBackend::new(&dump, &[(0, 0x4000, true)]));
    assert!(list(&rig).len() <= 2);
    assert_eq!(extended_list(&rig), [(0x0003, 0x100)]);
}

#[test]
fn msix_that_does_not_fit_its_bar_is_hidden() {
    let mut hardware = nvme();
    hardware.poke_config(0x44, &[0x00, 0xff, 0x00, 0x00]);
    assert!(list(&Rig::new(hardware)).iter().all(|&(id, _)| id != 0x11));
    hardware = nvme();
    hardware.msix.count = 0;
    assert!(list(&Rig::new(hardware)).iter().all(|&(id, _)| id != 0x11));
}

#[test]
fn what_is_no_endpoint_is_refused() {
    let routes = || Arc::new(FakeRoutes::default());
    let error = |hardware: FakeBackend| {
        let presentation = Presentation::default();
        let seat = seat("0000:02:10.0", Arc::new(hardware));
        let error = AssignedDevice::new(seat, routes(), &presentation);
        let error = error.err().unwrap();
        format!("{error}: {}", error.source)
    };
    let bridge = igbvf();
    bridge.poke_config(0x0e, &[0x81]);
    assert!(error(bridge).contains("0000:02:10.0 cannot be assigned: it is no endpoint"));
    let gone = igbvf();
    gone.poke_config(0, &[0xff; 64]);
    assert!(error(gone).contains("does not answer"));
    let dead = igbvf();
    dead.set_dead(true);
    assert!(error(dead).contains("cannot read its config space"));
}

#[test]
fn what_follows_an_msi_capability_without_masks_is_left_alone() {
    // Where the pending bits would be there is a vendor's capability.
    let dump = format!("{NVME}34: 50\n50: 05 60 00 00\n60: 09 00 08 00\n");
    let mut hardware = FakeBackend::new(&dump, &[(0, 0x4000, true)]);
    hardware.msi.count = 1;
    let rig = Rig::new(hardware);
    assert_eq!(list(&rig), [(0x05, 0x50), (0x09, 0x60)]);
}
