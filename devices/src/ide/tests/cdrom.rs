//! ATAPI CD-ROMs, as libata's ATAPI code and sr_mod drive them.

use std::sync::Arc;

use super::libata::{BSY, DRQ, ERR, Port, TABLE, Tf};
use super::rig::{Rig, disk, drive, image};
use crate::block::RawImage;
use crate::ide::DriveKind;

const BLOCK: usize = 2048;
const BLOCKS: usize = 100;

fn contents() -> Vec<u8> {
    (0..BLOCKS * BLOCK)
        .map(|i| (i / BLOCK * 7 + i % 253) as u8)
        .collect()
}

fn rig() -> (Rig, tempfile::NamedTempFile) {
    let file = image(&contents());
    let backend = Arc::new(RawImage::open(file.path(), true).unwrap());
    let cdrom = drive(DriveKind::Cdrom, backend);
    (Rig::new([[None, None], [Some(cdrom), None]]), file)
}

/// Where a packet command ended.
#[derive(Debug, PartialEq)]
enum End {
    Good(Vec<u8>),
    /// Sense key, from the Error register.
    Check(u8),
}

fn cdb(bytes: &[u8]) -> [u8; 12] {
    let mut packet = [0; 12];
    packet[..bytes.len()].copy_from_slice(bytes);
    packet
}

impl Port<'_> {
    fn send_packet(&self, packet: &[u8; 12]) {
        self.rig.until("wants the packet", || {
            self.alternate_status() & (BSY | DRQ) == DRQ
        });
        assert_eq!(self.get(2) & 3, 1, "command, to the drive");
        for word in packet.chunks(2) {
            self.rig.write(self.command_block(), word);
        }
    }

    /// A packet command by PIO with a byte count limit, by interrupts.
    fn packet(&self, packet: &[u8; 12], limit: u16) -> End {
        let tf = Tf {
            device: 0,
            command: 0xa0,
            lba: u64::from(limit) << 8,
            ..Tf::default()
        };
        self.load(&tf);
        self.execute(tf.command);
        assert!(!self.line().level(), "asks for the packet in silence");
        self.send_packet(packet);
        let mut bytes = Vec::new();
        loop {
            self.line().wait();
            let status = self.status();
            assert_eq!(status & BSY, 0);
            let reason = self.get(2) & 3;
            if status & DRQ == 0 {
                assert_eq!(reason, 3, "status, to the host");
                assert_eq!(status & 0x40, 0x40);
                return if status & ERR != 0 {
                    End::Check(self.get(1) >> 4)
                } else {
                    End::Good(bytes)
                };
            }
            assert_eq!(reason, 2, "data, to the host");
            let count = u16::from_le_bytes([self.get(4), self.get(5)]);
            assert!(count > 0 && count <= limit, "{count} of {limit}");
            for _ in 0..count.div_ceil(2) {
                let mut word = [0; 2];
                self.rig.read(self.command_block(), &mut word);
                bytes.extend(word);
            }
            bytes.truncate(bytes.len() - usize::from(count % 2));
        }
    }

    /// A packet command by DMA; bus master and drive status.
    fn packet_dma(&self, packet: &[u8; 12], regions: &[(u32, u32)]) -> (u8, u8) {
        self.rig.prds(u64::from(TABLE), regions);
        let tf = Tf {
            device: 0,
            command: 0xa0,
            feature: 1,
            ..Tf::default()
        };
        self.load(&tf);
        self.bus_master_setup(TABLE, true);
        self.execute(tf.command);
        self.send_packet(packet);
        self.bus_master_start();
        self.line().wait();
        self.interrupt()
    }

    fn good(&self, packet: &[u8]) -> Vec<u8> {
        match self.packet(&cdb(packet), 0xfffe) {
            End::Good(bytes) => bytes,
            End::Check(key) => panic!("{packet:x?} ends with sense key {key}"),
        }
    }

    fn sense(&self) -> (u8, u8, u8) {
        let sense = self.good(&[0x03, 0, 0, 0, 18]);
        assert_eq!((sense[0], sense[7], sense.len()), (0x70, 10, 18));
        (sense[2], sense[12], sense[13])
    }

    fn refused(&self, packet: &[u8]) -> (u8, u8, u8) {
        let End::Check(key) = self.packet(&cdb(packet), 0xfffe) else {
            panic!("{packet:x?} was taken");
        };
        let sense = self.sense();
        assert_eq!(sense.0, key);
        sense
    }
}

#[test]
fn says_that_it_is_a_packet_device() {
    let (rig, _file) = rig();
    let port = Port::new(&rig, 1);
    port.soft_reset();
    assert_eq!(port.signature(0), [1, 1, 0x14, 0xeb]);
    assert_eq!(port.status(), 0, "not ready before its first command");
    assert_eq!(port.no_data(&Tf::rw(0xec, 0, 0)), 0x51);
    assert_eq!(
        [2, 3, 4, 5].map(|r| port.get(r)),
        [1, 1, 0x14, 0xeb],
        "IDENTIFY DEVICE"
    );
    let (bytes, status) = port.pio_in(&Tf::rw(0xa1, 0, 0), 512, 512);
    assert_eq!(status, 0x50);
    assert_eq!(bytes.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    assert_eq!(bytes[..2], [0xc0, 0x85]);
    assert_eq!(&bytes[54..68], b"LSIUECC -DOR M");
    // DEVICE RESET: the signature, and no interrupt.
    let edges = port.line().edges();
    port.load(&Tf::rw(0x08, 0, 0));
    port.execute(0x08);
    assert_eq!(port.line().edges(), edges);
    assert_eq!(port.signature(0), [1, 1, 0x14, 0xeb]);
}

#[test]
fn reads_by_pio_in_blocks_of_the_limit() {
    let (rig, _file) = rig();
    let port = Port::new(&rig, 1);
    let want = &contents()[3 * BLOCK..];
    for (limit, count) in [
        (2048u16, 4usize),
        (0xfffe, 40),
        (0xffff, 97),
        (10, 1),
        (301, 2),
    ] {
        let read_10 = cdb(&[0x28, 0, 0, 0, 0, 3, 0, 0, count as u8, 0]);
        let End::Good(bytes) = port.packet(&read_10, limit) else {
            panic!("limit {limit}");
        };
        assert!(bytes == want[..count * BLOCK], "limit {limit}");
    }
    let read_12 = cdb(&[0xa8, 0, 0, 0, 0, 3, 0, 0, 0, 2]);
    assert_eq!(
        port.packet(&read_12, 4096),
        End::Good(want[..2 * BLOCK].to_vec())
    );
    let read_cd = cdb(&[0xbe, 0, 0, 0, 0, 3, 0, 0, 2, 0x10]);
    assert_eq!(
        port.packet(&read_cd, 4096),
        End::Good(want[..2 * BLOCK].to_vec())
    );
    assert_eq!(
        port.packet(&cdb(&[0x28]), 2048),
        End::Good(vec![]),
        "no blocks"
    );
    // Data, but a limit of zero.
    let End::Check(_) = port.packet(&read_12, 0) else {
        panic!("no way to hand over the data");
    };
    assert_eq!(port.get(1), 4);
}

#[test]
fn reads_by_dma() {
    let (rig, _file) = rig();
    let port = Port::new(&rig, 1);
    let want = &contents()[10 * BLOCK..];
    let read = cdb(&[0x28, 0, 0, 0, 0, 10, 0, 0, 60, 0]);
    let regions = [
        (0x10000, 0x100),
        (0x20000, 0),
        (0x40000, 60 * 2048 - 0x10100),
    ];
    assert_eq!(port.packet_dma(&read, &regions), (4, 0x50));
    assert_eq!(port.get(2) & 3, 3);
    assert_eq!(rig.load(0x10000, 0x100), want[..0x100]);
    assert_eq!(rig.load(0x20000, 0x10000), want[0x100..0x10100]);
    let rest = 60 * BLOCK - 0x10100;
    assert!(rig.load(0x40000, rest) == want[0x10100..][..rest]);
    // An answer that is shorter than the memory for it.
    let inquiry = cdb(&[0x12, 0, 0, 0, 36]);
    assert_eq!(port.packet_dma(&inquiry, &[(0x50000, 96)]), (5, 0x50));
    assert_eq!(rig.load(0x50008, 8), b"SLUICE  ");
    // An error before any data.
    let beyond = cdb(&[0x28, 0, 0, 0, 0, 100, 0, 0, 1, 0]);
    let (host, status) = port.packet_dma(&beyond, &[(0x50000, 2048)]);
    assert_eq!((host & 4, status), (4, 0x51));
    assert_eq!(port.sense(), (5, 0x21, 0));
}

#[test]
fn what_sr_mod_asks_when_it_finds_a_drive() {
    let (rig, _file) = rig();
    let port = Port::new(&rig, 1);
    let inquiry = port.good(&[0x12, 0, 0, 0, 36]);
    assert_eq!(inquiry[..5], [5, 0x80, 5, 0x32, 31]);
    assert_eq!(inquiry.len(), 36);
    assert_eq!(&inquiry[8..32], b"SLUICE  SLUICE CD-ROM   ");
    assert_eq!(port.good(&[0x12, 0, 0, 0, 5]).len(), 5, "odd, and cut");
    port.good(&[0x00]);
    let capacity = port.good(&[0x25]);
    assert_eq!(capacity, [0, 0, 0, 99, 0, 0, 8, 0]);
    let page = port.good(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 128]);
    assert_eq!(page.len(), 8 + 22);
    assert_eq!(page[..2], [0, 28]);
    assert_eq!(page[8..10], [0x2a, 20]);
    assert_eq!(page[8 + 3], 0, "writes nothing");
    let page = port.good(&[0x1a, 0, 0x3f, 0, 255]);
    assert_eq!((usize::from(page[0]), page.len()), (page.len() - 1, 34));
    let toc = port.good(&[0x43, 0, 0, 0, 0, 0, 0, 0, 12]);
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    let toc = port.good(&[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 12]);
    assert_eq!(toc[8..], [0, 0, 3, 25], "100 blocks are 1 s 25 f after 2 s");
    let session = port.good(&[0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40]);
    assert_eq!(session, [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    let configuration = port.good(&[0x46, 2, 0, 0x1e, 0, 0, 0, 0, 16]);
    assert_eq!(configuration[6..8], [0, 8]);
    let event = port.good(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]);
    assert_eq!(event, [0, 6, 4, 0x10, 0, 2, 0, 0]);
    assert_eq!(
        port.good(&[0x4a, 1, 0, 0, 0x40, 0, 0, 0, 8]),
        [0, 2, 0x80, 0x10]
    );
    assert_eq!(port.good(&[0x51, 0, 0, 0, 0, 0, 0, 0, 34]).len(), 34);
    assert_eq!(port.good(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8]).len(), 8);
    assert_eq!(port.good(&[0xbb]), []);
    assert_eq!(port.sense(), (0, 0, 0));
}

#[test]
fn refuses_what_it_cannot_do_and_says_why() {
    let (rig, _file) = rig();
    let port = Port::new(&rig, 1);
    let (invalid_opcode, invalid_field) = ((5, 0x20, 0), (5, 0x24, 0));
    assert_eq!(port.refused(&[0x2a]), invalid_opcode);
    assert_eq!(port.refused(&[0xff; 12]), invalid_opcode);
    assert_eq!(port.refused(&[0x12, 1, 0, 0, 36]), invalid_field);
    assert_eq!(
        port.refused(&[0x5a, 0, 0x2c, 0, 0, 0, 0, 0, 8]),
        invalid_field
    );
    assert_eq!(
        port.refused(&[0x5a, 0, 0xea, 0, 0, 0, 0, 0, 8]),
        (5, 0x39, 0)
    );
    assert_eq!(
        port.refused(&[0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8]),
        invalid_field
    );
    assert_eq!(
        port.refused(&[0x43, 0, 5, 0, 0, 0, 0, 0, 12]),
        invalid_field
    );
    assert_eq!(
        port.refused(&[0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        (5, 0x21, 0)
    );
    assert_eq!(port.sense(), (0, 0, 0), "reported once");
    assert_eq!(port.no_data(&Tf::rw(0xc8, 0, 1)), 0x51);
    assert_eq!(port.no_data(&Tf::rw(0xe7, 0, 0)), 0x50);
}

#[test]
fn the_tray_ejects_unless_it_is_locked() {
    let (rig, _file) = rig();
    let port = Port::new(&rig, 1);
    port.good(&[0x1e, 0, 0, 0, 1]);
    assert_eq!(port.refused(&[0x1b, 0, 0, 0, 2]), (5, 0x53, 2));
    port.good(&[0x1e]);
    port.good(&[0x1b, 0, 0, 0, 2]);
    assert_eq!(port.refused(&[0x00]), (2, 0x3a, 2));
    assert_eq!(port.refused(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1]), (2, 0x3a, 2));
    let event = port.good(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]);
    assert_eq!(event[4..6], [3, 1], "removed, tray open");
    port.good(&[0x1b, 0, 0, 0, 3]);
    assert_eq!(port.refused(&[0x00]), (6, 0x28, 0), "medium changed");
    port.good(&[0x00]);
    let event = port.good(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]);
    assert_eq!(event[4..6], [2, 2]);
    port.good(&[0x1b, 0, 0, 0, 2]);
    pci::Function::reset(&rig.controller);
    rig.config(0x04, 0x0005, 0b0011);
    port.good(&[0x00]);
}

#[test]
fn an_image_that_is_cut_short_gives_a_medium_error() {
    let (rig, file) = rig();
    let port = Port::new(&rig, 1);
    file.as_file().set_len(50 * BLOCK as u64).unwrap();
    let read = cdb(&[0x28, 0, 0, 0, 0, 49, 0, 0, 2, 0]);
    assert_eq!(port.packet(&read, 4096), End::Check(3));
    assert_eq!(port.sense(), (3, 0x11, 0));
    let (host, status) = port.packet_dma(&read, &[(0x10000, 4096)]);
    assert_eq!((host & 6, status), (4, 0x51));
    assert_eq!(port.sense(), (3, 0x11, 0));
}

#[test]
fn beside_a_disk_on_one_cable() {
    let files = [image(&vec![3; 64 * 512]), image(&contents())];
    let backend = Arc::new(RawImage::open(files[1].path(), true).unwrap());
    let rig = Rig::new([
        [
            Some(disk(&files[0])),
            Some(drive(DriveKind::Cdrom, backend)),
        ],
        [None, None],
    ]);
    let port = Port::new(&rig, 0);
    port.soft_reset();
    assert_eq!(port.signature(0), [1, 1, 0, 0]);
    assert_eq!(port.signature(1), [1, 1, 0x14, 0xeb]);
    assert_eq!(port.pio_in(&Tf::rw(0x20, 0, 1), 512, 512).0, [3; 512]);
    let (bytes, _) = port.pio_in(&Tf::rw(0xa1, 0, 0).second(), 512, 512);
    assert_eq!(bytes[..2], [0xc0, 0x85]);
    port.load(&Tf::rw(0x08, 0, 0).second());
    port.execute(0x08);
    assert_eq!(port.get(6) & 0x10, 0x10, "DEVICE RESET keeps the selection");
    assert_eq!(port.pio_in(&Tf::rw(0x20, 0, 1), 512, 512).0, [3; 512]);
}
