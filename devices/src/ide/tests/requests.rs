//! DMA that goes where interrupt requests are taken.

use pci::MsiMessage;

use super::libata::{Port, Tf};
use super::rig::{Rig, disk, image};

const SECTOR: usize = 512;

fn rig() -> (Rig, Vec<u8>, tempfile::NamedTempFile) {
    let bytes: Vec<u8> = (0..4 * SECTOR).map(|i| (i % 251) as u8).collect();
    let file = image(&bytes);
    let rig = Rig::new([[Some(disk(&file)), None], [None, None]]);
    (rig, bytes, file)
}

#[test]
fn a_region_of_a_dword_may_be_an_interrupt_request() {
    let (rig, bytes, _file) = rig();
    let port = Port::new(&rig, 0);
    // At the beginning, in the midst, at the end; the last region is longer than what is left.
    let regions = [
        (0xfee0_1000, 4),
        (0x10000, 496),
        (0xfee0_2008, 4),
        (0x20000, 516),
        (0xfeef_fffc, 256),
    ];
    let (host, status) = port.dma(&Tf::rw(0xc8, 1, 2), true, &regions);
    assert_eq!((host & 7, status), (5, 0x50), "the table is longer");
    let read = &bytes[SECTOR..3 * SECTOR];
    let request = |address, at: usize| MsiMessage {
        address,
        data: u32::from_le_bytes(read[at..at + 4].try_into().unwrap()),
    };
    let expected = [
        request(0xfee0_1000, 0),
        request(0xfee0_2008, 500),
        request(0xfeef_fffc, 1020),
    ];
    assert_eq!(rig.requests.take(), expected);
    assert_eq!(rig.load(0x10000, 496), read[4..500]);
    assert_eq!(rig.load(0x20000, 516), read[504..1020]);
}

#[test]
fn other_regions_among_interrupt_requests_are_an_error() {
    let (rig, _, _file) = rig();
    let port = Port::new(&rig, 0);
    for (read, opcode, region) in [
        (true, 0xc8, (0xfee0_1000, 512)),
        (true, 0xc8, (0xfee0_1000, 2)),
        (true, 0xc8, (0xfee0_1002, 4)),
        (false, 0xca, (0xfee0_1000, 4)),
    ] {
        let regions = [region, (0x10000, 512)];
        let (host, status) = port.dma(&Tf::rw(opcode, 0, 1), read, &regions);
        assert_eq!((host & 7, status), (6, 0x51), "{region:x?}");
    }
    assert_eq!(rig.requests.take(), []);
}
