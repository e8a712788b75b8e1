//! What the operator may change of a device: its ROM, its capabilities, its mappings.

use std::io::Write;

use super::*;
use crate::bus::FastPath;
use crate::vfio::presentation::RomSource;

/// A PC image and an EFI image after it, for this device, with a right check sum.
fn rom(vendor: u16, device: u16) -> Vec<u8> {
    let mut rom = vec![0; 3 * 512];
    for (start, kind, last, blocks) in [(0, 0u8, 0u8, 2u16), (1024, 3, 0x80, 1)] {
        let data = start + 0x40;
        rom[start..start + 3].copy_from_slice(&[0x55, 0xaa, blocks as u8]);
        rom[start + 0x18] = 0x40;
        rom[data..data + 4].copy_from_slice(b"PCIR");
        rom[data + 4..data + 6].copy_from_slice(&vendor.to_le_bytes());
        rom[data + 6..data + 8].copy_from_slice(&device.to_le_bytes());
        rom[data + 0x10..data + 0x12].copy_from_slice(&blocks.to_le_bytes());
        rom[data + 0x14] = kind;
        rom[data + 0x15] = last;
    }
    rom[1023] = 0u8.wrapping_sub(sum(&rom[..1023]));
    rom
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

fn with_rom(image: &[u8]) -> FakeBackend {
    let hardware = e1000e();
    hardware.set_rom(image);
    hardware
}

fn read_rom(rig: &Rig) -> Vec<u8> {
    let region = rig.device.region(BarIndex::ROM).unwrap();
    let mut bytes = vec![0; 0x800];
    region.read(0, &mut bytes);
    bytes
}

fn sized(rig: &Rig) -> u32 {
    rig.write(0x30, 0xffff_f800);
    rig.read(0x30)
}

#[test]
fn the_guest_reads_the_devices_rom_and_cannot_write_it() {
    let image = rom(0x8086, 0x10d3);
    let rig = Rig::new(with_rom(&image));
    assert_eq!(sized(&rig), 0xffff_f800);
    rig.write(0x30, 0xc000_0001);
    rig.write_u16(0x04, 2);
    let window = rig.device.windows().pop().unwrap();
    assert_eq!(
        (window.bar, window.base, window.size),
        (BarIndex::ROM, 0xc000_0000, 0x800)
    );
    let region = rig.device.region(BarIndex::ROM).unwrap();
    region.write(0, &[0; 4]);
    let seen = read_rom(&rig);
    assert_eq!(seen[..image.len()], image);
    assert!(seen[image.len()..].iter().all(|&byte| byte == 0xff));
    let mut crooked = [0; 8];
    region.read(0x7fd, &mut crooked);
    region.read(u64::MAX - 2, &mut crooked);
    assert_eq!(crooked, [0xff; 8]);
}

#[test]
fn a_large_rom_is_mapped_to_be_read_only() {
    let mut image = rom(0x8086, 0x10d3);
    image.resize(0x3000, 0);
    let rig = Rig::new(with_rom(&image));
    assert_eq!(sized(&rig), 0xffff_c000);
    let paths = rig.device.fast_paths(BarIndex::ROM);
    let [FastPath::Mapped { offset: 0, memory }] = &paths[..] else {
        panic!("one mapping");
    };
    assert_eq!((memory.len(), memory.writable()), (0x4000, false));
    assert_eq!(memory.host_address() % 0x1000, 0);
}

#[test]
fn a_shadow_with_a_bad_sum_or_anothers_id_is_mended() {
    let mut image = rom(0x8086, 0x1234);
    image[200] ^= 0x5a;
    let seen = read_rom(&Rig::new(with_rom(&image)));
    assert_eq!(sum(&seen[..1024]), 0);
    for data in [0x40, 1024 + 0x40] {
        assert_eq!(seen[data + 6..data + 8], 0x10d3u16.to_le_bytes());
    }
    // Of another vendor's, nothing is known; a device list may have this one.
    let foreign = rom(0x10de, 0x1234);
    assert_eq!(
        read_rom(&Rig::new(with_rom(&foreign)))[..foreign.len()],
        foreign
    );
    let mut listed = rom(0x8086, 0x1234);
    listed[0x40 + 0x0c] = 3;
    listed[0x40 + 8] = 0x20;
    listed[0x60..0x64].copy_from_slice(&[0x11, 0x11, 0xd3, 0x10]);
    listed[1023] = listed[1023].wrapping_sub(sum(&listed[..1024]));
    let seen = read_rom(&Rig::new(with_rom(&listed)));
    assert_eq!(seen[..1024], listed[..1024]);
}

#[test]
fn a_rom_that_is_none_is_hidden() {
    let mut no_structure = rom(0x8086, 0x10d3);
    no_structure[0x40] = 0;
    for image in [
        &[0xff; 0x800][..],
        &[0; 0x800],
        &[0x55, 0xaa],
        &no_structure,
    ] {
        let rig = Rig::new(with_rom(image));
        assert!(rig.device.region(BarIndex::ROM).is_none());
        assert!(rig.device.fast_paths(BarIndex::ROM).is_empty());
        assert_eq!(sized(&rig), 0);
    }
    let off = Presentation {
        rom: RomSource::Off,
        ..Default::default()
    };
    let rig = Rig::presented(with_rom(&rom(0x8086, 0x10d3)), &off);
    assert_eq!(sized(&rig), 0);
}

#[test]
fn a_rom_that_the_kernel_does_not_read_is_hidden() {
    // How many calls there are without a ROM; reading it is the one after.
    let hardware = Arc::new(e1000e());
    let take = |hardware: &Arc<FakeBackend>| {
        let (routes, presentation) = (FakeRoutes::default(), Presentation::default());
        AssignedDevice::new(
            seat("0000:03:00.0", hardware.clone()),
            Arc::new(routes),
            &presentation,
        )
    };
    let before = take(&hardware).unwrap();
    before.release();
    let image = rom(0x8086, 0x10d3);
    let mut hidden = 0;
    for call in 0.. {
        let hardware = Arc::new(with_rom(&image));
        hardware.fail_at(call);
        let Ok(device) = take(&hardware) else {
            continue;
        };
        if !hardware.has_failed() {
            break;
        }
        hidden += usize::from(device.region(BarIndex::ROM).is_none());
    }
    assert_eq!(hidden, 1, "the one call that reads it");
}

#[test]
fn a_rom_from_a_file_must_be_good() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let image = rom(0x8086, 0x10d3);
    file.write_all(&image).unwrap();
    let given = |path: &std::path::Path| Presentation {
        rom: RomSource::File(path.to_owned()),
        ..Default::default()
    };
    let rig = Rig::presented(e1000e(), &given(file.path()));
    assert_eq!(read_rom(&rig)[..image.len()], image);
    let error = |path: &std::path::Path| {
        let routes = Arc::new(FakeRoutes::default());
        let taken = AssignedDevice::new(seat("a", Arc::new(e1000e())), routes, &given(path));
        taken.err().unwrap().source.to_string()
    };
    file.as_file().set_len(4).unwrap();
    assert!(error(file.path()).contains("no PCI data structure"));
    file.as_file().set_len(0).unwrap();
    assert!(error(file.path()).contains("does not begin with 55h AAh"));
    file.as_file().set_len((16 << 20) + 1).unwrap();
    assert!(error(file.path()).contains("larger than 16 MiB"));
    assert!(error("/nowhere/x.rom".as_ref()).contains("rom=/nowhere/x.rom: cannot read it"));
}

#[test]
fn what_the_operator_hides_is_gone_and_the_list_whole() {
    let hide = |names: &str| Presentation {
        hide: names.split('+').map(|name| name.parse().unwrap()).collect(),
        ..Default::default()
    };
    let rig = Rig::presented(nvme(), &hide("pm+pcie+dsn"));
    assert_eq!(rig.read(0x34), 0x40);
    assert_eq!(rig.read(0x40) & 0xffff, 0x0011, "MSI-X, and the end");
    for at in [0x60, 0x64, 0x80, 0x84, 0x88, 0x100, 0x104] {
        assert_eq!(rig.read(at), 0, "{at:#x}");
        rig.write(at, u32::MAX);
        assert_eq!(rig.read(at), 0, "{at:#x}");
    }
    let rig = Rig::presented(nvme(), &hide("msix+pm+pcie"));
    assert_eq!(rig.read(0x34), 0);
    assert_eq!(rig.read(0x04) & 1 << 20, 0, "no list at all");
    let rig = Rig::presented(e1000e(), &hide("aer"));
    assert_eq!(rig.read(0x100), 0x1400_0000, "a null capability leads on");
    assert_eq!(rig.read(0x104), 0);
}

#[test]
fn nothing_is_mapped_that_shall_be_trapped() {
    let trapped = Presentation {
        no_mmap: true,
        ..Default::default()
    };
    let rig = Rig::presented(nvme(), &trapped);
    assert!(rig.device.fast_paths(BarIndex(0)).is_empty());
    assert_eq!(rig.hardware.calls(), []);
    rig.bar_write(0, 0, 0x1234_5678);
    assert_eq!(rig.bar_read(0, 0), 0x1234_5678);
    assert_eq!(rig.hardware.peek_bar(0, 0, 4), [0x78, 0x56, 0x34, 0x12]);
}
