use std::cell::RefCell;
use std::collections::BTreeMap;

use pci::BarKind;
use proptest::prelude::*;

use super::*;
use crate::vfio::backend::RegionInfo;

/// A config space, an MSI-X table and a BAR, all of bytes.
#[derive(Default)]
struct Fake {
    config: RefCell<BTreeMap<u16, u32>>,
    config_writes: RefCell<Vec<(u16, u32, u32)>>,
    table: Option<RefCell<[u8; 64]>>,
    msi: Option<u16>,
    bar: RefCell<BTreeMap<u64, u8>>,
    bar_writes: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl Surroundings for Fake {
    fn read_config(&self, register: Register) -> u32 {
        let config = self.config.borrow();
        config.get(&register.offset()).copied().unwrap_or(0)
    }

    fn write_config(&self, write: ConfigWrite) {
        let at = write.register().offset();
        self.config_writes
            .borrow_mut()
            .push((at, write.value(), write.mask()));
    }

    fn msi(&self) -> Option<u16> {
        self.msi
    }

    fn read_msix_table(&self, offset: u64, data: &mut [u8]) -> bool {
        let Some(table) = &self.table else {
            return false;
        };
        let at = offset as usize;
        data.copy_from_slice(&table.borrow()[at..at + data.len()]);
        true
    }

    fn write_msix_table(&self, offset: u64, data: &[u8]) -> bool {
        let Some(table) = &self.table else {
            return false;
        };
        let at = offset as usize;
        table.borrow_mut()[at..at + data.len()].copy_from_slice(data);
        true
    }

    fn read_device(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.bar.borrow().get(&at).copied().unwrap_or(0xee);
        }
    }

    fn write_device(&self, offset: u64, data: &[u8]) {
        self.bar_writes.borrow_mut().push((offset, data.to_vec()));
        self.bar
            .borrow_mut()
            .extend((offset..).zip(data.iter().copied()));
    }
}

impl Fake {
    fn with_ids() -> Self {
        let fake = Self::default();
        fake.config.borrow_mut().extend([
            (0x00, 0x1234_10de),
            (0x10, 0xc000_0000),
            (0x68, 0x0080_7805),
        ]);
        fake
    }

    fn read(&self, quirk: &dyn Quirk, offset: u64, len: usize) -> u32 {
        let mut bytes = [0; 4];
        quirk.read(self, offset, &mut bytes[..len]);
        u32::from_le_bytes(bytes)
    }

    fn write(&self, quirk: &dyn Quirk, offset: u64, value: u32) {
        quirk.write(self, offset, &value.to_le_bytes());
    }

    fn config_writes(&self) -> Vec<(u16, u32, u32)> {
        self.config_writes.take()
    }

    fn bar_writes(&self) -> Vec<(u64, Vec<u8>)> {
        self.bar_writes.take()
    }
}

const MEMORY: BarKind = BarKind::Memory32 {
    prefetchable: false,
};
const WIDE: BarKind = BarKind::Memory64 { prefetchable: true };

fn bar(index: u8, kind: BarKind, size: u64) -> Bar {
    Bar {
        index: BarIndex(index),
        kind,
        size,
        info: RegionInfo {
            size,
            ..Default::default()
        },
    }
}

/// The names of all doors of a device.
fn doors(ids: (u16, u16), class: u16, bars: &[Bar]) -> Vec<&'static str> {
    all_doors(ids, class, bars)
        .iter()
        .map(|door| door.name())
        .collect()
}

fn all_doors(ids: (u16, u16), class: u16, bars: &[Bar]) -> Vec<Box<dyn Quirk>> {
    let identity = Identity {
        vendor: ids.0,
        device: ids.1,
        class,
        bars,
    };
    bars.iter()
        .flat_map(|bar| in_bar(&identity, bar.index))
        .collect()
}

fn geforce() -> Vec<Bar> {
    vec![
        bar(0, MEMORY, 16 << 20),
        bar(1, WIDE, 256 << 20),
        bar(5, BarKind::Io, 128),
    ]
}

#[test]
fn the_table_chooses_by_vendor_class_and_bars() {
    let nvidia = "nvidia config mirror at 88000h";
    let early = "nvidia config mirror at 1800h";
    assert_eq!(
        doors((0x10de, 0x1b80), 0x0300, &geforce()),
        [nvidia, "nvidia register ports"]
    );
    assert_eq!(
        doors((0x10de, 0x0140), 0x0300, &geforce()[..1]),
        [nvidia, early]
    );
    assert_eq!(doors((0x10de, 0x20b0), 0x0302, &geforce()[..1]), [nvidia]);
    // Its audio function, and a bridge chip.
    assert_eq!(doors((0x10de, 0x10f0), 0x0403, &geforce()[..1]), [""; 0]);
    let radeon = [
        bar(0, WIDE, 256 << 20),
        bar(2, WIDE, 128 << 10),
        bar(4, BarKind::Io, 256),
    ];
    let ati = ["ati config mirror at 4000h", "ati register ports"];
    assert_eq!(doors((0x1002, 0x6779), 0x0300, &radeon), ati);
    // In later ones BAR 2 has doorbells.
    let later = [&radeon[..], &[bar(5, MEMORY, 256 << 10)]].concat();
    assert_eq!(doors((0x1002, 0x67df), 0x0300, &later), ati[1..]);
    let realtek = [
        bar(0, BarKind::Io, 256),
        bar(2, WIDE, 4096),
        bar(4, WIDE, 16384),
    ];
    assert_eq!(doors((0x10ec, 0x8168), 0x0200, &realtek).len(), 1);
    assert_eq!(doors((0x10ec, 0x8139), 0x0200, &realtek), [""; 0]);
    assert_eq!(doors((0x8086, 0x10d3), 0x0200, &geforce()), [""; 0]);
}

#[test]
fn doors_lie_in_their_bars() {
    let small = [bar(0, MEMORY, 0x8_8800), bar(5, BarKind::Io, 8)];
    assert_eq!(doors((0x10de, 0x1b80), 0x0300, &small), [""; 0]);
}

#[test]
fn a_mirror_shows_the_guests_config_space() {
    let around = Fake::with_ids();
    let doors = all_doors((0x10de, 0x1b80), 0x0300, &geforce());
    let mirror = &*doors[0];
    assert_eq!(mirror.range(), 0x8_8000..0x8_9000);
    assert_eq!(around.read(mirror, 0x8_8000, 4), 0x1234_10de);
    assert_eq!(
        around.read(mirror, 0x8_8010, 4),
        0xc000_0000,
        "its own address"
    );
    assert_eq!(around.read(mirror, 0x8_8002, 2), 0x1234);
    around.write(mirror, 0x8_8050, 0xaabb_ccdd);
    mirror.write(&around, 0x8_8006, &[0x11, 0x22, 0x33]);
    assert_eq!(
        around.config_writes(),
        [
            (0x50, 0xaabb_ccdd, u32::MAX),
            (0x04, 0x2211_0000, 0xffff_0000),
            (0x08, 0x33, 0xff)
        ]
    );
    assert_eq!(around.bar_writes(), [], "nothing reaches the device");
}

#[test]
fn writing_the_msi_capabilitys_first_byte_acknowledges_an_interrupt() {
    let mut around = Fake::with_ids();
    around.msi = Some(0x68);
    let doors = all_doors((0x10de, 0x1b80), 0x0300, &geforce());
    let mirror = &*doors[0];
    mirror.write(&around, 0x8_8068, &[0xff]);
    assert_eq!(around.bar_writes(), [(0x8_8068, vec![0xff])]);
    // Of more than that byte, only that byte.
    around.write(mirror, 0x8_8068, 0x0081_78ff);
    assert_eq!(around.bar_writes(), [(0x8_8068, vec![0xff])]);
    mirror.write(&around, 0x8_8066, &[1, 2, 3, 4]);
    assert_eq!(around.bar_writes(), [(0x8_8068, vec![3])]);
    mirror.write(&around, 0x8_8069, &[0xff]);
    mirror.write(&around, 0x8_8064, &[0xff; 4]);
    assert_eq!(around.bar_writes(), []);
    around.msi = None;
    mirror.write(&around, 0x8_8068, &[0xff]);
    assert_eq!(around.bar_writes(), []);
}

#[test]
fn nvidias_ports_lead_to_config_space_once_enabled() {
    let around = Fake::with_ids();
    let doors = all_doors((0x10de, 0x1b80), 0x0300, &geforce());
    let ports = &*doors[1];
    around.write(ports, 0x8, 0x8_8010);
    assert_eq!(
        around.read(ports, 0xc, 4),
        0xeeee_eeee,
        "not enabled: the device's"
    );
    around.write(ports, 0x0, 1);
    assert_eq!(around.read(ports, 0xc, 4), 0xeeee_eeee, "not both");
    around.write(ports, 0x4, 1);
    assert_eq!(around.read(ports, 0xc, 4), 0xc000_0000);
    assert_eq!(
        around.read(ports, 0x8, 4),
        0x8_8010,
        "the address is the device's to show"
    );
    around.write(ports, 0x8, 0x1802);
    assert_eq!(around.read(ports, 0xc, 2), 0x1234);
    around.write(ports, 0x8, 0x1804);
    around.write(ports, 0xc, 7);
    assert_eq!(around.config_writes(), [(4, 7, u32::MAX)]);
    around.bar_writes();
    around.write(ports, 0x8, 0x1900);
    around.write(ports, 0xc, 5);
    assert_eq!(around.config_writes(), []);
    let address = 0x1900u32.to_le_bytes().to_vec();
    assert_eq!(around.bar_writes(), [(8, address), (0xc, vec![5, 0, 0, 0])]);
    around.write(ports, 0x8, 0x1800);
    ports.reset();
    around.write(ports, 0xc, 9);
    assert_eq!(around.config_writes(), [], "a reset turns it off");
}

#[test]
fn atis_ports_lead_to_config_space() {
    let around = Fake::with_ids();
    let bars = [bar(2, WIDE, 128 << 10), bar(4, BarKind::Io, 256)];
    let doors = all_doors((0x1002, 0x6779), 0x0300, &bars);
    let [mirror, ports] = &doors[..] else {
        panic!()
    };
    assert_eq!(mirror.range(), 0x4000..0x4100);
    assert_eq!(around.read(&**mirror, 0x4010, 4), 0xc000_0000);
    around.write(&**ports, 0, 0x4010);
    assert_eq!(around.read(&**ports, 4, 4), 0xc000_0000);
    assert_eq!(around.read(&**ports, 7, 1), 0xc0);
    around.write(&**ports, 0, 0x4100);
    assert_eq!(around.read(&**ports, 4, 4), 0xeeee_eeee);
    around.write(&**ports, 0, 0x3fff);
    assert_eq!(around.read(&**ports, 4, 4), 0xeeee_eeee);
}

#[test]
fn realteks_back_door_leads_to_the_guests_table() {
    let around = Fake {
        table: Some(RefCell::new([0; 64])),
        ..Default::default()
    };
    let doors = all_doors((0x10ec, 0x8168), 0x0200, &[bar(2, WIDE, 4096)]);
    let door = &*doors[0];
    // Write fee00000h to offset 10h.
    around.write(door, 0x70, 0xfee0_0000);
    around.bar_writes();
    around.write(door, 0x74, 0x8001_f010);
    assert_eq!(around.bar_writes(), [], "the device's table is the host's");
    assert_eq!(around.read(door, 0x74, 4), 0x0001_f010, "done");
    assert_eq!(
        around.table.as_ref().unwrap().borrow()[0x10..0x14],
        [0, 0, 0xe0, 0xfe]
    );
    // Read it back.
    around.write(door, 0x70, 0);
    around.write(door, 0x74, 0x0001_f010);
    assert_eq!(around.read(door, 0x74, 4), 0x8001_f010, "done");
    assert_eq!(around.read(door, 0x70, 4), 0xfee0_0000);
    // Anything else is the device's.
    around.write(door, 0x74, 0x0002_f000);
    assert_eq!(around.read(door, 0x74, 4), 0x0002_f000);
    assert_eq!(around.read(door, 0x70, 4), 0);
}

#[test]
fn without_a_table_realteks_registers_are_the_devices() {
    let around = Fake::default();
    let doors = all_doors((0x10ec, 0x8168), 0x0200, &[bar(2, WIDE, 4096)]);
    around.write(&*doors[0], 0x74, 0x8001_f000);
    assert_eq!(
        around.bar_writes(),
        [(0x74, 0x8001_f000u32.to_le_bytes().to_vec())]
    );
}

#[test]
fn a_cliques_capability_is_as_the_driver_expects() {
    let clique: clique::Clique = "5".parse().unwrap();
    let bytes: Vec<u8> = clique
        .dwords()
        .iter()
        .flat_map(|d| d.to_le_bytes())
        .collect();
    assert_eq!(bytes, [0x09, 0, 8, b'P', b'2', b'P', 5 << 3, 0]);
    assert!("16".parse::<clique::Clique>().is_err());
    assert_eq!(clique::place(|_| true), Some(0xc8));
    assert_eq!(clique::place(|range| !range.contains(&0xcf)), Some(0xd4));
    assert_eq!(clique::place(|_| false), None);
}

proptest! {
    /// Whatever is done to a door ends, and what it reads it reads whole.
    #[test]
    fn no_access_harms(
        which in 0usize..5,
        accesses in prop::collection::vec((any::<u64>(), 1usize..9, any::<u64>(), any::<bool>()), 1..40),
    ) {
        let around = Fake { table: None, msi: Some(0x68), ..Fake::with_ids() };
        let mut all = all_doors((0x10de, 0x1b80), 0x0300, &geforce());
        let bars = [bar(2, WIDE, 128 << 10), bar(4, BarKind::Io, 256)];
        all.extend(all_doors((0x1002, 0x6779), 0x0300, &bars));
        all.extend(all_doors((0x10ec, 0x8168), 0x0200, &[bar(2, WIDE, 4096)]));
        let door = &*all[which];
        let range = door.range();
        for (at, len, value, is_write) in accesses {
            let offset = range.start + at % (range.end - range.start);
            let len = len.min((range.end - offset) as usize);
            let mut bytes = value.to_le_bytes();
            if is_write {
                door.write(&around, offset, &bytes[..len]);
            } else {
                door.read(&around, offset, &mut bytes[..len]);
            }
        }
    }
}
