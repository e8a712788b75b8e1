use proptest::prelude::*;

use super::*;
use crate::{
    Acs, Aer, Express, ExtendedCapability, InBar, PowerManagement, Space, read_bytes, write_bytes,
};

const IDS: Ids = Ids {
    vendor: 0x8086,
    device: 0x100e,
    revision: 3,
    class: ClassCode {
        base: 2,
        sub: 0,
        interface: 0,
    },
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

fn endpoint() -> ConfigSpace {
    ConfigSpace::endpoint(IDS)
}

fn read(space: &ConfigSpace, offset: u16, len: usize) -> u32 {
    let mut bytes = [0; 4];
    read_bytes(offset, &mut bytes[..len], |r| space.read(r));
    u32::from_le_bytes(bytes)
}

fn write(space: &mut ConfigSpace, offset: u16, len: usize, value: u32) -> Changes {
    let mut changes = Changes::empty();
    write_bytes(offset, &value.to_le_bytes()[..len], |w| {
        changes |= space.write(w);
    });
    changes
}

#[test]
fn says_what_it_is_and_lets_nobody_change_it() {
    let mut space = endpoint();
    for offset in [0, 8, 0x2c] {
        write(&mut space, offset, 4, 0);
    }
    assert_eq!(read(&space, 0, 4), 0x100e_8086);
    assert_eq!(read(&space, 8, 4), 0x0200_0003);
    assert_eq!(read(&space, 0x2c, 4), 0x1100_1af4);
    assert_eq!(read(&space, 0x0a, 2), 0x0200);
}

#[test]
fn a_byte_of_the_command_register_changes_that_byte_only() {
    let mut space = endpoint();
    write(&mut space, 4, 2, 0xffff);
    assert_eq!(space.command().0, 0x0547);
    let changes = write(&mut space, 5, 1, 0);
    assert_eq!(space.command().0, 0x0047);
    assert_eq!(changes, Changes::INTERRUPTS);
    let changes = write(&mut space, 4, 1, 0x03);
    assert_eq!(changes, Changes::BUS_MASTER);
}

#[test]
fn status_errors_are_cleared_by_ones_and_only_in_enabled_bytes() {
    let mut space = endpoint();
    space.put_u16(6, 0xf900);
    write(&mut space, 4, 2, 0xffff);
    assert_eq!(read(&space, 6, 2), 0xf900);
    write(&mut space, 7, 1, 0x80);
    assert_eq!(read(&space, 6, 2), 0x7900);
    write(&mut space, 6, 2, 0xffff);
    assert_eq!(read(&space, 6, 2), 0);
}

#[test]
fn a_bar_decodes_when_enabled_and_placed() {
    let mut space = endpoint();
    let memory = BarKind::Memory32 {
        prefetchable: false,
    };
    space.set_bar(BarIndex(0), memory, 0x2_0000).unwrap();
    space.set_bar(BarIndex(1), BarKind::Io, 0x40).unwrap();
    assert!(write(&mut space, 4, 2, 3).is_empty(), "both at zero");
    assert_eq!(write(&mut space, 0x10, 4, 0xfeb8_0000), Changes::DECODE);
    assert_eq!(write(&mut space, 0x14, 4, 0xc001), Changes::DECODE);
    let window = |bar, space, base, size| Window {
        bar: BarIndex(bar),
        space,
        base,
        size,
    };
    assert_eq!(
        space.windows(),
        [
            window(0, Space::Memory, 0xfeb8_0000, 0x2_0000),
            window(1, Space::Io, 0xc000, 0x40)
        ]
    );
    assert_eq!(write(&mut space, 0x10, 4, 0xffff_ffff), Changes::DECODE);
    assert_eq!(read(&space, 0x10, 4), 0xfffe_0000);
    assert_eq!(space.windows().len(), 1, "being sized");
    assert_eq!(write(&mut space, 4, 2, 2), Changes::DECODE);
    assert_eq!(space.windows(), []);
}

#[test]
fn a_wide_bar_decodes_above_four_gigabytes_and_not_while_sized() {
    let mut space = endpoint();
    let wide = BarKind::Memory64 { prefetchable: true };
    space.set_bar(BarIndex(2), wide, 1 << 36).unwrap();
    write(&mut space, 4, 2, 2);
    write(&mut space, 0x18, 4, 0xffff_ffff);
    write(&mut space, 0x1c, 4, 0xffff_ffff);
    assert_eq!(read(&space, 0x18, 4), 0xc);
    assert_eq!(read(&space, 0x1c, 4), 0xffff_fff0);
    assert_eq!(space.windows(), []);
    write(&mut space, 0x1c, 4, 0x40);
    assert_eq!(space.windows()[0].base, 0x40_0000_0000);
}

#[test]
fn a_bar_that_shrinks_and_grows_keeps_the_address_bits_it_has() {
    let mut space = endpoint();
    let wide = BarKind::Memory64 { prefetchable: true };
    space.set_bar(BarIndex(0), wide, 1 << 30).unwrap();
    write(&mut space, 4, 2, 2);
    write(&mut space, 0x10, 4, 0x4000_0000);
    write(&mut space, 0x14, 4, 0x12);
    space.resize_bar(BarIndex(0), 1 << 20).unwrap();
    let window = space.windows()[0];
    assert_eq!((window.base, window.size), (0x12_4000_0000, 1 << 20));
    write(&mut space, 0x10, 4, 0x4030_0000);
    space.resize_bar(BarIndex(0), 1 << 34).unwrap();
    let window = space.windows()[0];
    assert_eq!((window.base, window.size), (0x10_0000_0000, 1 << 34));
    assert_eq!(read(&space, 0x10, 4), 0xc);
    for index in [1, 6, 7] {
        let none = space.resize_bar(BarIndex(index), 1 << 20);
        assert_eq!(none, Err(BarError::NoSuchBar(index)));
    }
}

#[test]
fn a_rom_has_an_enable_of_its_own() {
    let mut space = endpoint();
    let kind = BarKind::Memory32 {
        prefetchable: false,
    };
    space.set_bar(BarIndex::ROM, kind, 0x1_0000).unwrap();
    write(&mut space, 4, 2, 2);
    write(&mut space, 0x30, 4, 0xffff_fffe);
    assert_eq!(read(&space, 0x30, 4), 0xffff_0000);
    assert!(write(&mut space, 0x30, 4, 0xfeb0_0000).is_empty());
    assert_eq!(write(&mut space, 0x30, 4, 0xfeb0_0001), Changes::DECODE);
    assert_eq!(space.windows()[0].bar, BarIndex::ROM);
}

#[test]
fn bars_that_cannot_be_are_refused() {
    let mut space = endpoint();
    let wide = BarKind::Memory64 {
        prefetchable: false,
    };
    let size = |index, size| BarError::Size { index, size };
    for (index, kind, bytes, error) in [
        (5, wide, 0x1000, BarError::NoSuchBar(5)),
        (7, BarKind::Io, 0x10, BarError::NoSuchBar(7)),
        (255, wide, 0x10, BarError::NoSuchBar(255)),
        (0, wide, 0x1001, size(0, 0x1001)),
        (0, wide, 0, size(0, 0)),
        (0, BarKind::Io, 2, size(0, 2)),
        (6, wide, 0x1_0000, BarError::RomKind),
    ] {
        assert_eq!(space.set_bar(BarIndex(index), kind, bytes), Err(error));
    }
    space.set_bar(BarIndex(2), wide, 0x1000).unwrap();
    let again = space.set_bar(BarIndex(3), BarKind::Io, 16);
    assert_eq!(again, Err(BarError::InUse(3)));
    let across = space.set_bar(BarIndex(1), wide, 0x1000);
    assert_eq!(across, Err(BarError::InUse(2)));
}

#[test]
fn capabilities_are_linked_in_order_around_what_is_defined() {
    let mut space = endpoint();
    space.define(0x40, 0x1234, 0xffff, 0);
    let power = PowerManagement {
        no_soft_reset: true,
    };
    let first = space.add_capability(Capability::PowerManagement(power));
    assert_eq!(first, Ok(0x44));
    assert_eq!(
        space.add_capability(Capability::Vendor(vec![1, 2])),
        Ok(0x4c)
    );
    assert_eq!(
        space.add_capability_at(0xe0, Capability::Express(Express::endpoint())),
        Err(CapabilityError::Overlap(0xe0))
    );
    let express = space.add_capability_at(0x80, Capability::Express(Express::endpoint()));
    assert_eq!(express, Ok(0x80));
    assert_eq!(read(&space, 0x34, 1), 0x44);
    assert!(space.status().capabilities());
    assert_eq!(read(&space, 0x44, 2), 0x4c01);
    assert_eq!(read(&space, 0x4c, 4), 0x0105_8009);
    assert_eq!(read(&space, 0x80, 2), 0x0010);
    space.reset();
    assert_eq!(read(&space, 0x44, 2), 0x4c01);
}

#[test]
fn capabilities_stop_where_config_space_does() {
    let mut space = endpoint();
    let express = || Capability::Express(Express::endpoint());
    for _ in 0..3 {
        space.add_capability(express()).unwrap();
    }
    let none = space.add_capability(express());
    assert_eq!(none, Err(CapabilityError::NoRoom));
}

#[test]
fn extended_capabilities_are_linked_from_100h() {
    let mut space = endpoint();
    let aer = ExtendedCapability::Aer(Aer { root: false });
    assert_eq!(space.add_extended_capability(&aer), Ok(0x100));
    let serial = ExtendedCapability::SerialNumber(0x1122_3344_5566_7788);
    assert_eq!(space.add_extended_capability(&serial), Ok(0x12c));
    // Egress control has no vector to go with it.
    let acs = ExtendedCapability::Acs(Acs { services: 0x7f });
    assert_eq!(space.add_extended_capability(&acs), Ok(0x138));
    assert_eq!(read(&space, 0x100, 4), 0x12c2_0001);
    assert_eq!(read(&space, 0x12c, 4), 0x1381_0003);
    assert_eq!(read(&space, 0x130, 4), 0x5566_7788);
    write(&mut space, 0x13e, 2, 0xffff);
    assert_eq!(read(&space, 0x13c, 4), 0x005f_005f);
}

#[test]
fn d3hot_stops_decoding_and_waking_resets_unless_told_otherwise() {
    for no_soft_reset in [false, true] {
        let mut space = endpoint();
        let power = PowerManagement { no_soft_reset };
        let at = space.add_capability(Capability::PowerManagement(power));
        let control = u16::from(at.unwrap()) + 4;
        let kind = BarKind::Memory32 {
            prefetchable: false,
        };
        space.set_bar(BarIndex(0), kind, 0x1000).unwrap();
        write(&mut space, 0x10, 4, 0xfeb0_0000);
        write(&mut space, 4, 2, 6);

        assert!(write(&mut space, control, 1, 1).is_empty(), "D1 is not");
        let asleep = write(&mut space, control, 1, 3);
        let awake_only = Changes::POWER | Changes::INTERRUPTS;
        let all = awake_only | Changes::DECODE | Changes::BUS_MASTER;
        assert_eq!(asleep, all);
        assert!(write(&mut space, control, 1, 2).is_empty(), "nor is D2");
        assert_eq!(space.power_state(), PowerState::D3Hot);
        let awake = write(&mut space, control, 2, 0);
        assert_eq!(space.power_state(), PowerState::D0);
        if no_soft_reset {
            assert_eq!(awake, all);
            assert_eq!(space.windows().len(), 1);
        } else {
            assert_eq!(awake, awake_only | Changes::FUNCTION_RESET);
            assert_eq!(read(&space, 0x10, 4), 0);
        }
    }
}

#[test]
fn a_function_level_reset_keeps_what_is_the_links() {
    let mut space = endpoint();
    let express = Express::endpoint().function_level_reset();
    let at = u16::from(space.add_capability(Capability::Express(express)).unwrap());
    write(&mut space, 4, 2, 4);
    write(&mut space, at + 8, 2, 0x0020);
    write(&mut space, at + 0x10, 2, 0x0040);
    let changes = write(&mut space, at + 8, 2, 0x8020);
    assert_eq!(changes, Changes::FUNCTION_RESET | Changes::BUS_MASTER);
    assert_eq!(read(&space, at + 8, 2), 0x2830, "payload size kept");
    assert_eq!(read(&space, at + 0x10, 2), 0x0040);
    assert_eq!(space.command(), Command(0));
}

#[test]
fn msi_vectors_are_told_apart_masked_and_pending() {
    let mut space = endpoint();
    let msi = Capability::Msi(Msi::new(3).maskable());
    let at = u16::from(space.add_capability(msi).unwrap());
    assert_eq!(read(&space, at + 2, 2), 0x0184);
    write(&mut space, at + 4, 4, 0xfee0_1003);
    write(&mut space, at + 8, 4, 1);
    write(&mut space, at + 12, 2, 0x4042);
    assert_eq!(space.signal_msi(0), None, "off");
    assert_eq!(write(&mut space, at + 2, 2, 0x21), Changes::INTERRUPTS);
    let message = |data| {
        Some(MsiMessage {
            address: 0x1_fee0_1000,
            data,
        })
    };
    assert_eq!(space.signal_msi(1), message(0x4041));
    assert_eq!(space.signal_msi(3), message(0x4043));
    assert_eq!(space.signal_msi(4), None);
    assert_eq!(write(&mut space, at + 16, 1, 0xff), Changes::INTERRUPTS);
    assert_eq!(read(&space, at + 16, 4), 0xf);
    assert_eq!(space.signal_msi(2), None);
    assert_eq!(read(&space, at + 20, 4), 4);
    assert_eq!(space.next_pending_msi(), None);
    write(&mut space, at + 16, 1, 0);
    assert_eq!(space.next_pending_msi(), message(0x4042));
    assert_eq!(space.next_pending_msi(), None);
    assert_eq!(read(&space, at + 20, 4), 0);
}

#[test]
fn msi_takes_the_place_of_intx() {
    let mut space = endpoint();
    space.set_interrupt_pin(InterruptPin::IntA);
    let table = |offset| InBar {
        bar: BarIndex(1),
        offset,
    };
    let msix = Msix::new(2048, table(0), table(0x8000));
    let at = u16::from(space.add_capability(Capability::Msix(msix)).unwrap());
    assert_eq!(read(&space, at + 2, 2), 0x07ff);
    assert_eq!(read(&space, at + 8, 4), 0x8001);
    space.set_interrupt_status(true);
    assert!(space.intx());
    write(&mut space, 4, 2, 0x400);
    assert!(!space.intx());
    write(&mut space, 4, 2, 0);
    assert_eq!(write(&mut space, at + 3, 1, 0x80), Changes::INTERRUPTS);
    assert!(!space.intx());
    assert!(space.msix().is_some_and(Msix::enabled));
    space.reset();
    assert!(!space.msix().is_some_and(Msix::enabled));
    assert!(!space.status().interrupt());
}

/// A space with a bit of everything, and its masks for the reference model.
fn busy() -> ConfigSpace {
    let mut space = endpoint();
    let wide = BarKind::Memory64 { prefetchable: true };
    space.set_bar(BarIndex(0), wide, 0x4000).unwrap();
    space.set_bar(BarIndex(2), BarKind::Io, 0x20).unwrap();
    space.define(0x60, 0x1234_5678, 0x0f0f_f0f0, 0x00f0_000f);
    let power = PowerManagement {
        no_soft_reset: true,
    };
    for capability in [
        Capability::PowerManagement(power),
        Capability::Msi(Msi::new(32).maskable()),
        Capability::Express(Express::legacy_endpoint()),
    ] {
        space.add_capability(capability).unwrap();
    }
    space
}

/// What the bytes of a plain register do, one byte at a time.
struct Reference {
    bytes: [u8; 4096],
    writable: [u8; 4096],
    clearable: [u8; 4096],
}

impl Reference {
    fn write(&mut self, offset: u16, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            let at = (usize::from(offset) + i) % 4096;
            let kept = self.bytes[at] & !self.writable[at];
            self.bytes[at] = (kept | byte & self.writable[at]) & !(byte & self.clearable[at]);
        }
    }
}

proptest! {
    #[test]
    fn accesses_do_what_bytes_would(
        start: [u32; 4], writable: [u32; 4], clearable: [u32; 4],
        accesses in prop::collection::vec((0u16..16, prop::collection::vec(any::<u8>(), 1..9)), 1..40),
    ) {
        let mut space = endpoint();
        let mut reference = Reference {
            bytes: [0; 4096],
            writable: [0; 4096],
            clearable: [0; 4096],
        };
        for i in 0..4 {
            let clearable = clearable[i] & !writable[i];
            space.define(0x80 + 4 * i as u16, start[i], writable[i], clearable);
            let at = 0x80 + 4 * i;
            reference.bytes[at..at + 4].copy_from_slice(&start[i].to_le_bytes());
            reference.writable[at..at + 4].copy_from_slice(&writable[i].to_le_bytes());
            reference.clearable[at..at + 4].copy_from_slice(&clearable.to_le_bytes());
        }
        for (offset, data) in accesses {
            let offset = 0x7c + offset;
            write_bytes(offset, &data, |w| { space.write(w); });
            reference.write(offset, &data);
            let mut seen = vec![0; data.len()];
            read_bytes(offset, &mut seen, |r| space.read(r));
            prop_assert_eq!(&seen[..], &reference.bytes[usize::from(offset)..][..data.len()]);
        }
    }

    #[test]
    fn any_write_anywhere_keeps_the_rules(
        accesses in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 1..9)), 1..60),
    ) {
        let mut space = busy();
        let cold = space.state();
        for (offset, data) in accesses {
            // Mostly where there is something.
            let offset = if offset & 1 == 0 { offset & 0xff } else { offset };
            write_bytes(offset, &data, |w| {
                let before = space.windows();
                let changes = space.write(w);
                let moved = before != space.windows();
                assert_eq!(moved, changes.contains(Changes::DECODE));
            });
            for window in space.windows() {
                prop_assert!(window.base != 0 && window.base % window.size == 0);
                prop_assert!(window.base.checked_add(window.size).is_some());
            }
            prop_assert_eq!(read(&space, 0, 4), 0x100e_8086);
            while space.next_pending_msi().is_some() {}
            space.signal_msi(data[0]);
        }
        space.reset();
        prop_assert_eq!(space.state(), cold);
    }

    #[test]
    fn sizing_reads_back_the_size(log2 in 4u32..63, wide: bool, base: u64) {
        let log2 = if wide { log2 } else { 4 + log2 % 28 };
        let size = 1u64 << log2;
        let mut space = endpoint();
        let kind = if wide {
            BarKind::Memory64 { prefetchable: false }
        } else {
            BarKind::Memory32 { prefetchable: false }
        };
        space.set_bar(BarIndex(0), kind, size).unwrap();
        write(&mut space, 4, 2, 2);
        write(&mut space, 0x10, 4, u32::MAX);
        write(&mut space, 0x14, 4, u32::MAX);
        let low = u64::from(read(&space, 0x10, 4) & !0xf);
        let high = if wide { read(&space, 0x14, 4) } else { u32::MAX };
        prop_assert_eq!((!(u64::from(high) << 32 | low)).wrapping_add(1), size);
        prop_assert_eq!(space.windows(), []);

        write(&mut space, 0x10, 4, base as u32);
        write(&mut space, 0x14, 4, (base >> 32) as u32);
        let base = if wide { base } else { base & 0xffff_ffff } & !(size - 1);
        if let Some(window) = space.windows().first() {
            prop_assert_eq!((window.base, window.size), (base, size));
        }
    }
}
