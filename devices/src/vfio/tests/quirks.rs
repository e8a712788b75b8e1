use super::*;
use crate::bus::FastPath;
use crate::vfio::backend::RegionId;
use crate::vfio::fake::Call;

/// The 82574L's config space with the name of an NVIDIA display adapter on it.
fn gpu() -> FakeBackend {
    let bars = [(0, 0x10_0000, true), (1, 0x20000, true), (3, 0x4000, true)];
    let mut hardware = FakeBackend::new(E1000E, &bars);
    hardware.poke_config(0, &[0xde, 0x10, 0x80, 0x1b]);
    hardware.poke_config(0x0a, &[0x02, 0x03]);
    hardware.msi.count = 1;
    hardware
}

#[test]
fn the_mirrors_page_is_trapped_and_shows_what_the_guest_has() {
    let rig = Rig::new(gpu());
    let paths = rig.device.fast_paths(BarIndex(0));
    let mapped: Vec<_> = paths
        .iter()
        .map(|path| match path {
            FastPath::Mapped { offset, memory } => (*offset, memory.len()),
            _ => panic!("neither doorbells nor queues"),
        })
        .collect();
    assert_eq!(mapped, [(0, 0x8_8000), (0x8_9000, 0x7_7000)]);
    rig.write(0x10, 0xc000_0000);
    assert_eq!(rig.bar_read(0, 0x8_8000), 0x1b80_10de);
    assert_eq!(rig.bar_read(0, 0x8_8010), rig.read(0x10));
    assert_eq!(rig.bar_read(0, 0x8_8004), rig.read(0x04));
    assert_eq!(
        rig.device.state().quirks,
        ["nvidia config mirror at 88000h"]
    );
}

#[test]
fn what_a_driver_writes_there_is_as_if_in_config_space_but_does_not_move_it() {
    let rig = Rig::new(gpu());
    rig.write(0x10, 0xc000_0000);
    rig.write_u16(0x04, 2);
    // Bus mastering, with decode as it was.
    rig.bar_write(0, 0x8_8004, 6);
    assert_eq!(rig.hardware.config_u16(4) & 4, 4);
    rig.hardware.calls();
    // Decode off, the BAR elsewhere, D3hot.
    rig.bar_write(0, 0x8_8004, 0);
    rig.bar_write(0, 0x8_8010, 0xd000_0000);
    rig.bar_write(0, 0x8_80cc, 3);
    assert_eq!(rig.hardware.calls(), []);
    assert_eq!(rig.device.windows()[0].base, 0xc000_0000);
    // The message of MSI, at d0h.
    rig.bar_write(0, 0x8_80d4, 0xfee0_0000);
    assert_eq!(rig.read(0xd4), 0xfee0_0000);
    rig.hardware.calls();
    rig.device
        .region(BarIndex(0))
        .unwrap()
        .write(0x8_80d0, &[0xff]);
    let acknowledged = Call::Write(RegionId::Bar(BarIndex(0)), 0x8_80d0, vec![0xff]);
    assert_eq!(rig.hardware.calls(), [acknowledged]);
}

#[test]
fn a_clique_is_a_capability_at_the_end_of_the_list() {
    let in_clique = Presentation {
        clique: "3".parse().ok(),
        ..Default::default()
    };
    let list = |rig: &Rig| {
        let (mut ids, mut at) = (Vec::new(), rig.read(0x34) as u16 & 0xff);
        while at != 0 {
            ids.push((rig.read(at) as u8, at));
            at = (rig.read(at) >> 8) as u16 & 0xff;
        }
        ids
    };
    // C8h is taken; D4h is by MSI, from D0h on, which goes here.
    let hardware = gpu();
    hardware.poke_config(0xc9, &[0xe0]);
    let rig = Rig::presented(hardware, &in_clique);
    assert_eq!(list(&rig).last(), Some(&(0x09, 0xd4)));
    assert_eq!(rig.read(0xd4) >> 16, 0x5008);
    assert_eq!(rig.read(0xd8), 0x0018_5032);
    rig.write(0xd8, 0);
    assert_eq!(rig.read(0xd8), 0x0018_5032, "read-only");
    let refused = |hardware: FakeBackend| {
        let (seat, routes) = (seat("a", Arc::new(hardware)), Arc::<FakeRoutes>::default());
        let taken = AssignedDevice::new(seat, routes, &in_clique);
        taken.err().unwrap().source.to_string()
    };
    assert!(refused(e1000e()).contains("NVIDIA's display adapters only"));
    assert!(refused(gpu()).contains("no place"));
}
