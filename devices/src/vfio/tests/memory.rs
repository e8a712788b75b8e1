use super::*;
use crate::bus::FastPath;
use crate::vfio::fake::Call;

fn mapped(rig: &Rig, bar: u8) -> Vec<(u64, usize)> {
    let paths = rig.device.fast_paths(BarIndex(bar));
    paths
        .iter()
        .map(|path| match path {
            FastPath::Mapped { offset, memory } => (*offset, memory.len()),
            _ => panic!("neither doorbells nor queues"),
        })
        .collect()
}

#[test]
fn the_msix_pages_are_trapped_and_the_rest_is_mapped() {
    let rig = Rig::igbvf();
    assert_eq!(mapped(&rig, 0), [(0, 0x4000)]);
    assert_eq!(mapped(&rig, 3), [(0x1000, 0x1000), (0x3000, 0x1000)]);
    let rig = Rig::nvme();
    assert_eq!(mapped(&rig, 0), [(0, 0x2000)]);
}

#[test]
fn what_the_kernel_does_not_let_map_is_trapped() {
    let mut hardware = nvme();
    hardware.regions.get_mut(&0).unwrap().mappable = vec![0x1000..0x2000, 0x3000..0x4000];
    assert_eq!(mapped(&Rig::new(hardware), 0), [(0x1000, 0x1000)]);
    let rig = Rig::e1000e();
    assert_eq!(mapped(&rig, 2), [], "ports");
}

/// The kernel says whether the rest of a small BAR's page is nobody else's on the host.
#[test]
fn a_bar_smaller_than_a_page_is_a_page_of_its_own_or_trapped() {
    let rig = Rig::new(FakeBackend::new(IGBVF, &[(0, 0x800, true)]));
    rig.write(0x10, u32::MAX);
    assert_eq!(rig.read(0x10) & !0xf, 0xffff_f000);
    assert_eq!(mapped(&rig, 0), [(0, 0x1000)]);
    assert_eq!(rig.bar_read(0, 0x800), u32::MAX, "beyond the device");

    let rig = Rig::new(FakeBackend::new(
        IGBVF,
        &[(0, 0x800, false), (3, 0x10, false)],
    ));
    for (at, size) in [(0x10, 0xffff_f800), (0x1c, 0xffff_fff0)] {
        rig.write(at, u32::MAX);
        assert_eq!(rig.read(at) & !0xf, size);
    }
    assert_eq!(mapped(&rig, 0), []);
    rig.bar_write(0, 0x7fc, 0x1234_5678);
    assert_eq!(rig.bar_read(0, 0x7fc), 0x1234_5678);
    // Both may lie in one page of the guest's.
    for (at, low) in [(0x10, 0xc000_0000), (0x1c, 0xc000_0810)] {
        rig.write(at, low);
        rig.write(at + 4, 0);
    }
    rig.write_u16(0x04, 2);
    let bases: Vec<_> = rig
        .device
        .windows()
        .iter()
        .map(|w| (w.base, w.size))
        .collect();
    assert_eq!(bases, [(0xc000_0000, 0x800), (0xc000_0810, 0x10)]);
}

#[test]
fn a_bar_that_cannot_be_mapped_is_trapped() {
    let rig = Rig::nvme();
    rig.hardware.fail_at(0);
    assert_eq!(mapped(&rig, 0), []);
    rig.bar_write(0, 0x1000, 7);
    assert_eq!(rig.hardware.peek_bar(0, 0x1000, 4), [7, 0, 0, 0]);
}

#[test]
fn mappings_are_made_once_and_end_with_the_device() {
    let rig = Rig::nvme();
    let paths = rig.device.fast_paths(BarIndex(0));
    rig.device.fast_paths(BarIndex(0));
    assert_eq!(*rig.hardware.mapped.lock().unwrap(), 1);
    rig.device.release();
    assert_eq!(
        *rig.hardware.mapped.lock().unwrap(),
        1,
        "someone still uses it"
    );
    drop(paths);
    assert_eq!(*rig.hardware.mapped.lock().unwrap(), 0);
}

#[test]
fn trapped_accesses_reach_the_device_with_their_width() {
    let rig = Rig::nvme();
    let region = rig.device.region(BarIndex(0)).unwrap();
    rig.hardware.calls();
    for len in [1, 2, 4, 8] {
        region.write(0x1000, &vec![0x5a; len]);
    }
    let widths: Vec<_> = rig
        .hardware
        .calls()
        .into_iter()
        .map(|call| match call {
            Call::Write(_, 0x1000, data) => data.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(widths, [1, 2, 4, 8]);
    let mut data = [0; 8];
    region.read(0x1000, &mut data);
    assert_eq!(data, [0x5a; 8]);
}

#[test]
fn an_access_across_the_table_is_cut_at_its_ends() {
    let rig = Rig::igbvf();
    let region = rig.device.region(BarIndex(3)).unwrap();
    // The table is 48 bytes at 0, and the device's own registers follow.
    rig.hardware.poke_bar(3, 48, &[0x11, 0x22, 0x33, 0x44]);
    rig.hardware.poke_bar(3, 40, &[0xee; 8]);
    let mut data = [0xaa; 12];
    region.read(40, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 1, 0, 0, 0, 0x11, 0x22, 0x33, 0x44]);
    region.write(44, &[0, 0, 0, 0, 0x99]);
    assert_eq!(
        rig.hardware.peek_bar(3, 44, 5),
        [0xee, 0xee, 0xee, 0xee, 0x99]
    );
    assert_eq!(rig.bar_read(3, 44), 0);
}

#[test]
fn beyond_the_device_and_on_failure_all_bits_are_ones() {
    let hardware = FakeBackend::new(IGBVF, &[(0, 0x3000, true)]);
    let rig = Rig::new(hardware);
    let region = rig.device.region(BarIndex(0)).unwrap();
    assert_eq!(rig.bar_read(0, 0x3000), u32::MAX);
    rig.bar_write(0, 0x3000, 1);
    let mut data = [0; 8];
    region.read(0x2ffc, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    region.read(u64::MAX - 3, &mut data);
    assert_eq!(data, [0xff; 8]);
    region.write(u64::MAX - 3, &data);
    region.read(0, &mut []);
    rig.hardware.set_dead(true);
    assert_eq!(rig.bar_read(0, 0), u32::MAX);
    rig.bar_write(0, 0, 1);
}

#[test]
fn there_is_no_region_where_there_is_no_bar() {
    let rig = Rig::nvme();
    for bar in [1, 5, 6, 255] {
        assert!(rig.device.region(BarIndex(bar)).is_none());
        assert!(rig.device.fast_paths(BarIndex(bar)).is_empty());
    }
}
