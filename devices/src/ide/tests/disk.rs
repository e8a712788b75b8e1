//! ATA disks.

use super::libata::{BSY, DRQ, ERR, Port, Tf};
use super::rig::{Rig, disk, drive, image};
use crate::block::RawImage;
use crate::ide::DriveKind;
use std::sync::Arc;

const SECTOR: usize = 512;

fn pattern(sectors: usize) -> Vec<u8> {
    (0..sectors * SECTOR)
        .map(|i| (i / SECTOR * 31 + i % 251) as u8)
        .collect()
}

fn rig(bytes: &[u8]) -> (Rig, tempfile::NamedTempFile) {
    let file = image(bytes);
    let rig = Rig::new([[Some(disk(&file)), None], [None, None]]);
    (rig, file)
}

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes
        .chunks(2)
        .map(|w| u16::from_le_bytes([w[0], w[1]]))
        .collect()
}

#[test]
fn a_dma_read_costs_thirteen_exits() {
    let bytes = pattern(64);
    let (rig, _file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    let tf = Tf::rw(0xc8, 5, 8);
    port.dma(&tf, true, &[(0x10000, 4096)]);
    for sectors in [8u16, 32] {
        let before = rig.exits();
        let len = u32::from(sectors) * 512;
        let tf = Tf::rw(0xc8, 5, sectors);
        let (host, status) = port.dma(&tf, true, &[(0x10000, len)]);
        assert_eq!(rig.exits() - before, 13);
        assert_eq!((host & 7, status), (4, 0x50));
        assert_eq!(
            rig.load(0x10000, len as usize),
            bytes[5 * SECTOR..][..len as usize]
        );
    }
}

#[test]
fn dma_scatters_a_48_bit_read_over_odd_regions() {
    let bytes = pattern(300);
    let (rig, _file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    // 280 sectors: two bytes, almost 64 KiB, 64 KiB (count 0), the rest.
    let total = 280 * 512u32;
    let regions = [
        (0x20001, 2),
        (0x30000, 0xfffe),
        (0x80000, 0),
        (0xa0000, total - 0x20000),
    ];
    let tf = Tf::rw(0x25, 9, 280).ext();
    let (host, status) = port.dma(&tf, true, &regions);
    assert_eq!((host & 7, status), (4, 0x50));
    let want = &bytes[9 * SECTOR..];
    assert_eq!(rig.load(0x20000, 2), want[..2], "bit 0 is no address bit");
    assert_eq!(rig.load(0x30000, 0xfffe), want[2..0x10000]);
    assert_eq!(rig.load(0x80000, 0x10000), want[0x10000..0x20000]);
    let rest = total as usize - 0x20000;
    assert_eq!(rig.load(0xa0000, rest), want[0x20000..0x20000 + rest]);
}

#[test]
fn dma_writes_reach_the_image_and_nothing_else() {
    let bytes = pattern(64);
    let (rig, file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    rig.store(0x10000, &[0x5a; 1024]);
    for (command, lba, ext) in [(0xca, 3, false), (0x35, 40, true)] {
        let tf = Tf {
            lba48: ext,
            ..Tf::rw(command, lba, 2)
        };
        let (host, status) = port.dma(&tf, false, &[(0x10000, 512), (0x10000, 512)]);
        assert_eq!((host & 7, status), (4, 0x50));
    }
    let mut want = bytes;
    want[3 * SECTOR..5 * SECTOR].fill(0x5a);
    want[40 * SECTOR..42 * SECTOR].fill(0x5a);
    assert_eq!(std::fs::read(file.path()).unwrap(), want);
}

#[test]
fn a_large_transfer_goes_in_several_batches() {
    let mut bytes = pattern(8192);
    bytes[0] = 77;
    let (rig, _file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    let regions: Vec<_> = (0..64).map(|i| (0x200000 + i * 0x10000, 0)).collect();
    let (host, status) = port.dma(&Tf::rw(0x25, 0, 8192).ext(), true, &regions);
    assert_eq!((host & 7, status), (4, 0x50));
    assert_eq!(rig.load(0x200000, bytes.len()), bytes);
    let stats = rig.controller.statistics();
    assert_eq!((stats[0].1.bytes_read, stats[0].1.commands), (4 << 20, 1));
}

#[test]
fn the_table_may_be_longer_or_shorter_than_the_transfer() {
    let bytes = pattern(64);
    let (rig, _file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    let tf = Tf::rw(0xc8, 0, 4);
    // Longer: interrupt, and still active.
    let (host, status) = port.dma(&tf, true, &[(0x10000, 2048), (0x20000, 512)]);
    assert_eq!((host & 7, status), (5, 0x50));
    // Shorter: neither active nor interrupt, and the drive waits for more.
    rig.prds(0x8000, &[(0x30000, 1024)]);
    port.load(&tf);
    port.bus_master_setup(0x8000, true);
    port.execute(tf.command);
    port.bus_master_start();
    rig.until("inactive", || port.bus_master_status() & 1 == 0);
    assert_eq!(port.bus_master_status() & 7, 0);
    assert_eq!(port.alternate_status() & (BSY | ERR), BSY);
    assert!(!port.line().level());
    // A new table and another start give it the rest.
    rig.prds(0x9000, &[(0x40000, 1024)]);
    rig.out8(port.bus_master(), 0);
    port.bus_master_setup(0x9000, true);
    port.bus_master_start();
    port.line().wait();
    assert_eq!(port.interrupt(), (4, 0x50));
    assert_eq!(rig.load(0x30000, 1024), bytes[..1024]);
    assert_eq!(rig.load(0x40000, 1024), bytes[1024..2048]);
}

#[test]
fn pio_reads_and_writes_by_sector_and_by_block() {
    let bytes = pattern(600);
    let (rig, file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    for (command, block, sectors, ext) in [
        (0x20, 512, 3, false),
        (0xc4, 8192, 20, false),
        (0x24, 512, 260, true),
        (0x29, 8192, 300, true),
    ] {
        let tf = Tf {
            lba48: ext,
            ..Tf::rw(command, 7, sectors)
        };
        let edges = port.line().edges();
        let len = usize::from(sectors) * SECTOR;
        let (got, status) = port.pio_in(&tf, block, len);
        assert_eq!(status, 0x50);
        assert!(got == bytes[7 * SECTOR..][..len], "{command:#x}");
        let blocks = len.div_ceil(block) as u64;
        assert_eq!(port.line().edges() - edges, blocks, "an interrupt a block");
    }
    let mut want = bytes;
    for (command, block, sectors, lba, ext) in [
        (0x30u8, 512, 2u16, 1, false),
        (0xc5, 8192, 33, 10, false),
        (0x34, 512, 140, 100, true),
        (0x39, 8192, 257, 300, true),
    ] {
        let data: Vec<u8> = (0..usize::from(sectors) * SECTOR)
            .map(|i| (i / 3) as u8 ^ command)
            .collect();
        let tf = Tf {
            lba48: ext,
            ..Tf::rw(command, lba, sectors)
        };
        assert_eq!(port.pio_out(&tf, block, &data), 0x50);
        want[lba as usize * SECTOR..][..data.len()].copy_from_slice(&data);
    }
    assert!(std::fs::read(file.path()).unwrap() == want);
}

#[test]
fn a_string_instruction_moves_a_block_in_one_exit() {
    let bytes = pattern(8);
    let (rig, file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    let execute = |command, lba| {
        port.load(&Tf::rw(command, lba, 1));
        port.execute(command);
    };
    for width in [2, 4] {
        execute(0x20, 3);
        port.line().wait();
        assert_eq!(port.status() & (BSY | DRQ), DRQ);
        let mut block = [0; SECTOR];
        rig.read_string(port.command_block(), width, &mut block);
        assert_eq!(block, bytes[3 * SECTOR..][..SECTOR]);
        assert_eq!(port.wait_idle(), 0x50);
    }
    // A byte read is the low byte of a word.
    execute(0x20, 3);
    port.line().wait();
    port.status();
    let mut low = [0; SECTOR / 2];
    rig.read_string(port.command_block(), 1, &mut low);
    let want = words(&bytes[3 * SECTOR..][..SECTOR]);
    assert!(low.iter().zip(want).all(|(low, word)| *low == word as u8));
    assert_eq!(port.wait_idle(), 0x50);

    execute(0x30, 6);
    assert_eq!(port.status() & (BSY | DRQ), DRQ);
    rig.write_string(port.command_block(), 2, &bytes[..SECTOR]);
    port.line().wait();
    assert_eq!(port.status(), 0x50);
    let written = std::fs::read(file.path()).unwrap();
    assert_eq!(written[6 * SECTOR..][..SECTOR], bytes[..SECTOR]);
}

#[test]
fn chs_and_lba_name_the_same_sectors() {
    let bytes = pattern(2100);
    let (rig, _file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    // Cylinder 2, head 1, sector 4 of 16 heads and 63 sectors.
    let lba = (2 * 16 + 1) * 63 + 3;
    let tf = Tf {
        device: 0,
        command: 0x20,
        count: 1,
        lba: 1 << 24 | 2 << 8 | 4,
        ..Tf::default()
    };
    let (got, _) = port.pio_in(&tf, 512, 512);
    assert_eq!(got, bytes[lba * SECTOR..][..SECTOR]);
    assert_eq!([3, 4, 5].map(|r| port.get(r)), [4, 2, 0]);
    // INITIALIZE DEVICE PARAMETERS: 2 heads, 10 sectors.
    let tf = Tf {
        device: 1,
        command: 0x91,
        count: 10,
        ..Tf::default()
    };
    assert_eq!(port.no_data(&Tf { lba: 1 << 24, ..tf }), 0x50);
    let tf = Tf {
        device: 0,
        command: 0x20,
        count: 1,
        lba: 1 << 24 | 3 << 8 | 10,
        ..Tf::default()
    };
    let (got, _) = port.pio_in(&tf, 512, 512);
    assert_eq!(got, bytes[(7 * 10 + 9) * SECTOR..][..SECTOR]);
    let (_, status) = port.pio_in(&Tf { lba: 0, ..tf }, 512, 512);
    assert_eq!((status, port.get(1)), (0x51, 0x10), "no sector 0");
}

#[test]
fn identify_says_what_the_disk_is() {
    let file = image(&pattern(64));
    file.as_file().set_len(200 << 30).unwrap();
    let rig = Rig::new([[Some(disk(&file)), None], [None, None]]);
    let port = Port::new(&rig, 0);
    let (bytes, status) = port.pio_in(&Tf::rw(0xec, 0, 0), 512, 512);
    assert_eq!(status, 0x50);
    assert_eq!(bytes.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    assert_eq!(bytes[510], 0xa5);
    let id = words(&bytes);
    let text = |from: usize, to: usize| {
        let bytes = id[from..to].iter().flat_map(|w| w.to_be_bytes());
        String::from_utf8(bytes.collect()).unwrap()
    };
    assert_eq!(text(27, 47), format!("{:<40}", "SLUICE DISK"));
    assert_eq!(text(10, 20), format!("{:<20}", "SL0001"));
    let expect = [
        (0, 0x0040),
        (1, 16383),
        (3, 16),
        (6, 63),
        (47, 0x8010),
        (49, 0x0f00),
        (53, 7),
        (59, 0x0110),
        (60, 0xffff),
        (61, 0x0fff),
        (63, 7),
        (64, 3),
        (80, 0xf0),
        (82, 0x4068),
        (83, 0x7400),
        (84, 0x4040),
        (85, 0x4068),
        (86, 0x3400),
        (88, 0x3f),
        (100, 0),
        (101, (200u32 << 21 >> 16) as u16),
        (102, 0),
        (169, 1),
        (217, 1),
    ];
    for (word, value) in expect {
        assert_eq!(id[word], value, "word {word}");
    }
    // Set Ultra DMA 2, then multiword DMA 1: what is selected shows.
    let mode = |count| {
        port.no_data(&Tf {
            feature: 3,
            ..Tf::rw(0xef, 0, count)
        })
    };
    assert_eq!(mode(0x42), 0x50);
    let id = words(&port.pio_in(&Tf::rw(0xec, 0, 0), 512, 512).0);
    assert_eq!((id[63], id[88]), (7, 0x043f));
    assert_eq!(mode(0x21), 0x50);
    let id = words(&port.pio_in(&Tf::rw(0xec, 0, 0), 512, 512).0);
    assert_eq!((id[63], id[88]), (0x0207, 0x3f));
    assert_eq!(mode(0x47), 0x51, "no such mode");
    assert_eq!(port.get(1), 4);
}

#[test]
fn settings_are_kept_or_lost_by_resets_as_written_down() {
    let (rig, _file) = rig(&pattern(64));
    let port = Port::new(&rig, 0);
    let feature = |feature, count| {
        let tf = Tf {
            feature,
            ..Tf::rw(0xef, 0, count)
        };
        assert_eq!(port.no_data(&tf), 0x50);
    };
    let identity = || words(&port.pio_in(&Tf::rw(0xec, 0, 0), 512, 512).0);
    feature(3, 0x42);
    feature(0x82, 0);
    feature(0x55, 0);
    assert_eq!(port.no_data(&Tf::rw(0xc6, 0, 4)), 0x50);
    assert_eq!(port.no_data(&Tf::rw(0xc6, 0, 5)), 0x51, "no power of two");
    port.soft_reset();
    let id = identity();
    assert_eq!((id[59], id[85], id[88]), (0x0104, 0x4008, 0x043f), "kept");
    feature(0xcc, 0);
    port.soft_reset();
    let id = identity();
    assert_eq!(
        (id[59], id[85], id[88]),
        (0x0110, 0x4068, 0x043f),
        "reverted"
    );
    rig.controller.stop();
    pci::Function::reset(&rig.controller);
    rig.controller.start().unwrap();
    let id = identity();
    assert_eq!((id[59], id[88]), (0x0110, 0x003f), "as at power-on");
}

#[test]
fn soft_reset_shows_the_signature_and_drops_what_goes_on() {
    let (rig, _file) = rig(&pattern(64));
    let port = Port::new(&rig, 0);
    let tf = Tf::rw(0x20, 0, 4);
    port.load(&tf);
    port.execute(tf.command);
    port.line().wait();
    assert_eq!(port.alternate_status() & DRQ, DRQ);
    rig.out8(port.control_block(), 0x0c);
    assert_eq!(port.alternate_status(), BSY);
    assert!(!port.line().level());
    rig.out8(port.control_block(), 0x08);
    assert_eq!(port.alternate_status(), 0x50);
    assert_eq!((port.signature(0), port.get(1)), ([1, 1, 0, 0], 1));
    assert_eq!(port.signature(1), [0; 4], "no drive 1");
    assert_eq!(port.status(), 0);
    let (got, _) = port.pio_in(&Tf::rw(0x20, 1, 1), 512, 512);
    assert_eq!(got, pattern(2)[512..]);
}

#[test]
fn addresses_beyond_the_disk_are_not_found() {
    let (rig, _file) = rig(&pattern(64));
    let port = Port::new(&rig, 0);
    for tf in [
        Tf::rw(0x20, 64, 1),
        Tf::rw(0x20, 60, 5),
        Tf::rw(0x24, u64::MAX >> 16, 0).ext(),
        Tf::rw(0x40, 0, 0),
    ] {
        let (_, status) = port.pio_in(&tf, 512, 512);
        assert_eq!((status, port.get(1)), (0x51, 0x10));
    }
    // A DMA command fails before the bus master is started.
    let tf = Tf::rw(0xc8, 64, 1);
    port.load(&tf);
    port.bus_master_setup(0x8000, true);
    port.execute(tf.command);
    port.line().wait();
    assert_eq!((port.status(), port.get(1)), (0x51, 0x10));
}

#[test]
fn commands_without_data() {
    let (rig, _file) = rig(&pattern(4000));
    let port = Port::new(&rig, 0);
    for (command, lba, count) in [
        (0xe7, 0, 0),
        (0xea, 0, 0),
        (0x40, 0, 0),
        (0x42, 0, 100),
        (0x10, 0, 0),
        (0x70, 9, 1),
        (0xe0, 0, 0),
        (0xe1, 0, 0),
        (0xe3, 0, 0),
    ] {
        let lba48 = command == 0x42;
        let tf = Tf {
            lba48,
            ..Tf::rw(command, lba, count)
        };
        assert_eq!(port.no_data(&tf), 0x50, "{command:#x}");
    }
    assert_eq!(port.no_data(&Tf::rw(0xe5, 0, 0)), 0x50);
    assert_eq!(port.get(2), 0xff, "active");
    port.no_data(&Tf::rw(0xe2, 0, 0));
    port.no_data(&Tf::rw(0xe5, 0, 0));
    assert_eq!(port.get(2), 0, "standby");
    // READ NATIVE MAX, and in 48 bits.
    assert_eq!(port.no_data(&Tf::rw(0xf8, 0, 0)), 0x50);
    let max = [3, 4, 5, 6].map(|r| port.get(r));
    assert_eq!(max, [0x9f, 0x0f, 0, 0xe0]);
    assert_eq!(port.no_data(&Tf::rw(0x27, 0, 0).ext()), 0x50);
    assert_eq!([3, 4, 5].map(|r| port.get(r)), [0x9f, 0x0f, 0]);
    // Aborted: NOP, SMART, PACKET, SECURITY, vendor codes.
    for command in [0x00, 0xb0, 0xa0, 0xa1, 0xf1, 0x08, 0xff, 0x80] {
        assert_eq!(port.no_data(&Tf::rw(command, 0, 1)), 0x51, "{command:#x}");
        assert_eq!(port.get(1), 4);
    }
    // EXECUTE DEVICE DIAGNOSTIC.
    assert_eq!(port.no_data(&Tf::rw(0x90, 0, 0)), 0x50);
    assert_eq!((port.get(1), port.signature(0)), (1, [1, 1, 0, 0]));
}

#[test]
fn with_the_write_cache_off_writes_are_flushed() {
    let (rig, _file) = rig(&pattern(64));
    let port = Port::new(&rig, 0);
    let flushes = || rig.controller.statistics()[0].1.flushes;
    rig.store(0x10000, &[1; 512]);
    port.dma(&Tf::rw(0xca, 0, 1), false, &[(0x10000, 512)]);
    assert_eq!(flushes(), 0);
    port.dma(&Tf::rw(0x3d, 0, 1).ext(), false, &[(0x10000, 512)]);
    assert_eq!(flushes(), 1, "forced unit access");
    port.no_data(&Tf {
        feature: 0x82,
        ..Tf::rw(0xef, 0, 0)
    });
    assert_eq!(flushes(), 2);
    port.dma(&Tf::rw(0xca, 0, 1), false, &[(0x10000, 512)]);
    port.pio_out(&Tf::rw(0x30, 1, 1), 512, &[2; 512]);
    assert_eq!(flushes(), 4);
}

#[test]
fn trim_makes_holes() {
    let bytes = vec![0xee; 1 << 20];
    let (rig, file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    let range = |lba: u64, sectors: u64| (lba | sectors << 48).to_le_bytes();
    let mut list = vec![0; 512];
    list[..8].copy_from_slice(&range(8, 1024));
    list[16..24].copy_from_slice(&range(1600, 8));
    rig.store(0x10000, &list);
    let tf = Tf {
        feature: 1,
        ..Tf::rw(0x06, 0, 1).ext()
    };
    assert_eq!(port.dma(&tf, false, &[(0x10000, 512)]), (4, 0x50));
    let now = std::fs::read(file.path()).unwrap();
    assert!(now[8 * 512..1032 * 512].iter().all(|b| *b == 0));
    assert!(now[1600 * 512..1608 * 512].iter().all(|b| *b == 0));
    assert!(now[1608 * 512..].iter().all(|b| *b == 0xee));
    assert_eq!(now[8 * 512 - 1], 0xee);
    // A range beyond the disk discards nothing at all.
    list[..8].copy_from_slice(&range(0, 8));
    list[8..16].copy_from_slice(&range(2040, 9));
    rig.store(0x10000, &list);
    assert_eq!(port.dma(&tf, false, &[(0x10000, 512)]).1, 0x51);
    assert_eq!(std::fs::read(file.path()).unwrap()[0], 0xee);
    // Too long a payload, and no payload.
    for count in [0, 65] {
        assert_eq!(port.no_data(&Tf { count, ..tf }), 0x51);
    }
}

#[test]
fn a_read_only_disk_reads_and_aborts_writes() {
    let bytes = pattern(64);
    let file = image(&bytes);
    let backend = Arc::new(RawImage::open(file.path(), true).unwrap());
    let rig = Rig::new([[Some(drive(DriveKind::Disk, backend)), None], [None, None]]);
    let port = Port::new(&rig, 0);
    assert_eq!(
        port.pio_in(&Tf::rw(0x20, 1, 1), 512, 512).0,
        bytes[512..1024]
    );
    for command in [0x30, 0xca, 0xc5, 0x06] {
        let tf = Tf {
            feature: 1,
            ..Tf::rw(command, 0, 1)
        };
        assert_eq!(port.no_data(&tf), 0x51);
        assert_eq!(port.get(1), 4);
    }
    assert_eq!(port.no_data(&Tf::rw(0xe7, 0, 0)), 0x50, "nothing to flush");
}

#[test]
fn a_host_error_becomes_an_error_of_the_drive() {
    let (rig, file) = rig(&pattern(64));
    let port = Port::new(&rig, 0);
    file.as_file().set_len(10 * 512).unwrap();
    let (_, status) = port.pio_in(&Tf::rw(0x20, 8, 8), 512, 4096);
    assert_eq!((status, port.get(1)), (0x51, 0x40), "UNC");
    assert_eq!(port.get(3), 10, "the sector in error");
    let (host, status) = port.dma(&Tf::rw(0xc8, 8, 8), true, &[(0x10000, 4096)]);
    assert_eq!((host & 6, status, port.get(1)), (4, 0x51, 0x40));
    assert_eq!(port.no_data(&Tf::rw(0x40, 8, 8)), 0x51);
    assert_eq!(rig.controller.statistics()[0].1.errors, 3);
    assert_eq!(port.pio_in(&Tf::rw(0x20, 8, 1), 512, 512).1, 0x50);
}

#[test]
fn two_disks_on_one_cable_and_one_on_the_other() {
    let files = [pattern(64), vec![1; 64 * 512], vec![2; 64 * 512]].map(|b| image(&b));
    let rig = Rig::new([
        [Some(disk(&files[0])), Some(disk(&files[1]))],
        [None, Some(disk(&files[2]))],
    ]);
    let (primary, secondary) = (Port::new(&rig, 0), Port::new(&rig, 1));
    for port in [&primary, &secondary] {
        port.soft_reset();
    }
    assert_eq!(primary.signature(0), [1, 1, 0, 0]);
    assert_eq!(primary.signature(1), [1, 1, 0, 0]);
    assert_eq!(secondary.signature(0), [0; 4]);
    assert_eq!(secondary.signature(1), [1, 1, 0, 0]);
    let read = Tf::rw(0xc8, 0, 1);
    primary.dma(&read.second(), true, &[(0x10000, 512)]);
    assert_eq!(rig.load(0x10000, 512), [1; 512]);
    secondary.dma(&read.second(), true, &[(0x20000, 512)]);
    assert_eq!(rig.load(0x20000, 512), [2; 512]);
    assert_eq!(primary.pio_in(&read_sectors(), 512, 512).0, pattern(1));
    // The diagnosis is for both; drive 0 answers, whichever was asked.
    assert_eq!(primary.no_data(&Tf::rw(0x90, 0, 0).second()), 0x50);
    // A command to a drive that is not there does nothing.
    secondary.set(6, 0xa0);
    secondary.set(7, 0xec);
    assert_eq!(secondary.status(), 0);
    assert!(!secondary.line().level());
}

fn read_sectors() -> Tf {
    Tf::rw(0x20, 0, 1)
}

#[test]
fn interrupts_are_gated_and_follow_the_selected_drive() {
    let files = [pattern(64), pattern(64)].map(|b| image(&b));
    let rig = Rig::new([[Some(disk(&files[0])), Some(disk(&files[1]))], [None, None]]);
    let port = Port::new(&rig, 0);
    port.load(&Tf::rw(0xe7, 0, 0));
    rig.out8(port.control_block(), 0x0a);
    port.execute(0xe7);
    rig.until("done", || port.alternate_status() == 0x50);
    assert!(!port.line().level(), "nIEN");
    assert_eq!(port.bus_master_status() & 4, 0);
    rig.out8(port.control_block(), 0x08);
    assert!(port.line().level(), "still pending");
    assert_eq!(port.bus_master_status() & 4, 4);
    port.set(6, 0xb0);
    port.alternate_status();
    assert!(!port.line().level(), "drive 1 has none");
    assert_eq!(port.status(), 0x50);
    port.set(6, 0xa0);
    port.alternate_status();
    assert!(port.line().level());
    port.alternate_status();
    assert!(port.line().level(), "alternate status leaves it");
    port.status();
    assert!(!port.line().level());
    assert_eq!(port.bus_master_status() & 4, 4, "latched");
    rig.out8(port.bus_master() + 2, 4);
    assert_eq!(port.bus_master_status() & 4, 0);
}

#[test]
fn high_order_bytes_read_back() {
    let (rig, _file) = rig(&pattern(64));
    let port = Port::new(&rig, 0);
    port.set(3, 0x11);
    port.set(3, 0x22);
    assert_eq!(port.get(3), 0x22);
    rig.out8(port.control_block(), 0x88);
    assert_eq!(port.get(3), 0x11);
    port.set(4, 1);
    assert_eq!(port.get(3), 0x22, "a write ends it");
}

#[test]
fn legacy_ports_answer_while_decoded() {
    let (rig, _file) = rig(&pattern(64));
    let port = Port::new(&rig, 0);
    assert_eq!(port.status(), 0x50);
    rig.config(0x40, 0, 0b0011);
    assert_eq!((port.status(), port.alternate_status()), (0xff, 0xff));
    port.set(7, 0xec);
    rig.config(0x40, 0x8000, 0b0010);
    assert_eq!(port.status(), 0x50);
    assert_eq!(
        pci::Function::read_config(&rig.controller, pci::Register::containing(0x40)),
        0x8000_8000
    );
}

#[test]
fn pausing_keeps_a_command_for_later() {
    let bytes = pattern(64);
    let (rig, _file) = rig(&bytes);
    let port = Port::new(&rig, 0);
    rig.controller.quiesce();
    let tf = Tf::rw(0xc8, 2, 1);
    rig.prds(0x8000, &[(0x10000, 512)]);
    port.load(&tf);
    port.bus_master_setup(0x8000, true);
    port.execute(tf.command);
    port.bus_master_start();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(port.alternate_status() & BSY, BSY);
    let state = serde_json_like(&rig);
    assert!(state.contains("waiting for the bus master"), "{state}");
    rig.controller.resume();
    port.line().wait();
    assert_eq!(rig.load(0x10000, 512), bytes[1024..1536]);
}

fn serde_json_like(rig: &Rig) -> String {
    format!("{:?}", rig.controller.state())
}
