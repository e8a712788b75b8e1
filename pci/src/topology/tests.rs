use proptest::prelude::*;

use super::fuzz::{self, check_decoded, check_route};
use super::machine::*;
use super::*;
use crate::{BarIndex, Hierarchy, RootPort, RootPortConfig, Space, Window, Windows};

#[test]
fn cycles_follow_bus_numbers() {
    let machine = Machine::new();
    assert_eq!(machine.read(HOST, 0), 0x29c0_8086);
    assert_eq!(machine.read(NEAR, 0), u32::MAX, "not numbered");
    assert_eq!(machine.write(NEAR, 4, 7), None);
    let changes = machine.write(PORT, 0x18, 0x0001_0100);
    assert_eq!(changes, Some(Changes::BUS_NUMBERS));
    assert_eq!(machine.read(NEAR, 0), 0x0030_1234);
    machine.write(OUTER, 0x18, 0x0003_0200);
    assert_eq!(machine.read(FAR, 0), u32::MAX, "inner not numbered");
    machine.write(INNER, 0x18, 0x0003_0302);
    assert_eq!(machine.read(FAR, 0), 0x0041_1234);
    // An unnumbered bridge claims nothing, whatever its subordinate number.
    machine.write(PORT, 0x18, 0x00ff_0000);
    assert_eq!(machine.read(INNER, 0), 0x3420_8086);
    for (number, expected) in [(1, Some(NEAR)), (9, Some(Bdf::new(9, 0, 0))), (0, None)] {
        machine.write(PORT, 0x18, 0x00ff_0000 | number << 8);
        assert_eq!(machine.topology.bdf(machine.near), expected);
    }
}

#[test]
fn behind_a_link_only_device_zero_answers_without_ari() {
    let machine = Machine::numbered();
    let ari = Bdf::new(1, 8, 2);
    assert_eq!(machine.read(ari, 0), u32::MAX);
    let mut at = machine.read(PORT, 0x34) as u16 & 0xfc;
    while machine.read(PORT, at) & 0xff != 0x10 {
        at = (machine.read(PORT, at) >> 8) as u16 & 0xfc;
    }
    machine.write(PORT, at + 0x28, 0x20);
    assert_eq!(machine.read(ari, 0), 0x0031_1234);
    assert_eq!(machine.topology.locate(ari), Some(machine.ari));
}

#[test]
fn the_multi_function_bit_is_told_by_the_bus() {
    let machine = Machine::numbered();
    let bit = |bdf| machine.read(bdf, 0x0c) >> 23 & 1;
    assert_eq!(bit(Bdf::new(0, 2, 0)), 1);
    assert_eq!(bit(Bdf::new(0, 2, 1)), 1);
    assert_eq!(bit(PORT), 0);
    assert_eq!(bit(NEAR), 0);
}

#[test]
fn config_address_takes_dwords_and_config_data_any_lane() {
    let machine = Machine::new();
    let select = |offset: u8| {
        let address = 0x8000_1000_u32 | u32::from(offset);
        assert_eq!(machine.port_out(0xcf8, &address.to_le_bytes()), Ok(None));
    };
    select(0);
    assert_eq!(machine.port_in(0xcfc), [0x34, 0x12, 0x20, 0]);
    assert_eq!(machine.port_in(0xcfd), [0x12]);
    assert_eq!(machine.port_in(0xcfe), [0x20, 0]);
    assert_eq!(machine.port_in(0xcfe), [0x20, 0, 0xff, 0xff]);

    // A byte at CF9h is the reset register's, and leaves the latch alone.
    assert_eq!(machine.port_out(0xcf9, &[6]), Err(NotConfig));
    assert_eq!(machine.port_out(0xcf8, &[0, 0]), Err(NotConfig));
    assert!(machine.topology.port_read(0xcf9, &mut [0]).is_err());
    assert_eq!(machine.port_in(0xcf8), 0x8000_1000_u32.to_le_bytes());

    select(4);
    machine.port_out(0xcfd, &[0xff]).unwrap();
    assert_eq!(machine.port_in(0xcfc), [0, 5]);
    let written = machine.port_out(0xcfc, &[4]).unwrap();
    assert_eq!(written.map(|w| w.changes), Some(Changes::BUS_MASTER));

    // Disabled: reads float, writes are lost. Reserved bits do not stick.
    machine
        .port_out(0xcf8, &0x7f00_1007_u32.to_le_bytes())
        .unwrap();
    assert_eq!(machine.port_in(0xcf8), 0x0000_1004_u32.to_le_bytes());
    assert_eq!(machine.port_in(0xcfc), [0xff; 4]);
    assert_eq!(machine.port_out(0xcfc, &[0; 4]), Ok(None));
}

#[test]
fn ecam_is_a_page_a_function() {
    let machine = Machine::numbered();
    let at = |bdf: Bdf| u64::from(bdf.requester_id()) << 12;
    let mut data = [0; 8];
    machine.topology.ecam_read(at(NEAR), &mut data);
    assert_eq!(data[..4], [0x34, 0x12, 0x30, 0]);
    machine.topology.ecam_read(at(OUTER) + 0x100, &mut data);
    assert_eq!(data[..2], [1, 0], "extended space");
    // Across the end of a function into one that is not there.
    machine.topology.ecam_read(at(NEAR) + 0xffe, &mut data[..4]);
    assert_eq!(data[..4], [0, 0, 0xff, 0xff]);
    machine.topology.ecam_read(1 << 28, &mut data);
    assert_eq!(data, [0xff; 8]);
    machine.topology.ecam_read(u64::MAX - 3, &mut data[..4]);
    assert_eq!(data[..4], [0xff; 4]);
    let written = machine.topology.ecam_write(at(NEAR) + 4, &[4]);
    let expected = Written {
        function: machine.near,
        changes: Changes::BUS_MASTER,
    };
    assert_eq!(written, [expected]);
    assert!(machine.topology.ecam_write(at(NEAR) + 4, &[4]).is_empty());
}

#[test]
fn windows_are_cut_by_the_bridges_above() {
    let machine = Machine::numbered();
    machine.write(FAR, 0x10, 0xc020_0000);
    machine.write(FAR, 0x18, 0xd000);
    machine.write(FAR, 4, 3);
    assert_eq!(machine.topology.decoded(), []);
    machine.forward_everything(OUTER);
    assert_eq!(machine.topology.decoded(), []);
    machine.forward_everything(INNER);
    let window = |bar, space, base, size| Window {
        bar: BarIndex(bar),
        space,
        base,
        size,
    };
    let decoded = |window, offset| Decoded {
        function: machine.far,
        bdf: Some(FAR),
        window,
        offset,
    };
    assert_eq!(
        machine.topology.decoded(),
        [
            decoded(window(0, Space::Memory, 0xc020_0000, 0x20_0000), 0),
            decoded(window(2, Space::Io, 0xd000, 0x100), 0)
        ]
    );
    // The inner port forwards the BAR's second MiB only, and no I/O.
    machine.write(INNER, 0x1c, 0x00f0);
    machine.write(INNER, 0x20, 0xc030_c030);
    machine.write(INNER, 0x24, 0x0000_fff0);
    machine.write(INNER, 0x2c, 0);
    assert_eq!(
        machine.topology.decoded(),
        [decoded(
            window(0, Space::Memory, 0xc030_0000, 0x10_0000),
            0x10_0000
        )]
    );
}

#[test]
fn what_firmware_places_is_decoded() {
    let machine = Machine::new();
    let windows = Windows {
        io: 0x1000..=0xffff,
        memory32: 0xc000_0000..=0xfebf_ffff,
        memory64: 0x10_0000_0000..=0x1f_ffff_ffff,
    };
    let hierarchy = Hierarchy::survey(&machine.topology);
    hierarchy.place(&windows).unwrap();
    assert_eq!(machine.topology.bdf(machine.far), Some(FAR));
    let decoded = machine.topology.decoded();
    for id in [machine.near, machine.far] {
        let sizes: Vec<u64> = decoded
            .iter()
            .filter(|d| d.function == id && d.offset == 0)
            .map(|d| d.window.size)
            .collect();
        assert_eq!(sizes, [0x20_0000, 0x100], "whole BARs");
    }
}

#[test]
fn a_secondary_reset_resets_all_behind_and_nothing_answers_meanwhile() {
    let machine = Machine::numbered();
    machine.write(FAR, 4, 7);
    let changes = machine.write(OUTER, 0x3c, 0x0040_0000).unwrap();
    let all = Changes::SECONDARY_RESET | Changes::DECODE | Changes::BUS_NUMBERS;
    assert_eq!(changes, all);
    assert_eq!(machine.read(INNER, 0), u32::MAX);
    machine.write(OUTER, 0x3c, 0);
    assert_eq!(machine.read(INNER, 0), 0x3420_8086);
    assert_eq!(machine.read(INNER, 0x18), 0, "numbers are gone");
    machine.write(INNER, 0x18, 0x0003_0302);
    assert_eq!(machine.read(FAR, 4) & 7, 0);
    assert_eq!(machine.topology.bdf(machine.inner), Some(INNER));
}

#[test]
fn two_in_one_slot_are_named() {
    let mut machine = Machine::new();
    let taken = machine.topology.attach(BusAt::Root, 2, 0, "e1000", mock(1));
    let text = taken.unwrap_err().to_string();
    assert_eq!(text, "e1000 and two are both at 00:02.0");
    let behind = BusAt::Behind(machine.port);
    let taken = machine.topology.attach(behind, 0, 0, "vf", mock(1));
    let text = taken.unwrap_err().to_string();
    assert_eq!(text, "vf and near are both at 00.0 behind port3");
    let behind = BusAt::Behind(machine.near);
    let wrong = machine.topology.attach(behind, 0, 0, "vf", mock(1));
    let text = wrong.unwrap_err().to_string();
    assert_eq!(text, "vf cannot be behind near, which is not a bridge");
    let wrong = machine.topology.attach(BusAt::Root, 32, 0, "vf", mock(1));
    assert!(matches!(wrong, Err(TopologyError::NoSuchSlot { .. })));
}

#[test]
fn a_function_without_function_zero_is_told() {
    let mut topology: Topology<dyn Function> = Topology::new();
    let lone = topology.attach(BusAt::Root, 5, 1, "lone", mock(1));
    lone.unwrap();
    assert!(matches!(
        topology.check(),
        Err(TopologyError::NoFunctionZero { name, .. }) if name == "lone"
    ));
    let zero = topology.attach(BusAt::Root, 5, 0, "zero", mock(1));
    zero.unwrap();
    topology.check().unwrap();
}

#[test]
fn intx_comes_out_at_the_root_port() {
    let machine = Machine::new();
    let out = |id, pin| machine.topology.root_interrupt(id, pin);
    let pin = InterruptPin::IntC;
    assert_eq!(out(machine.far, pin), Some((4, pin)));
    assert_eq!(out(machine.port, pin), Some((3, pin)));
    assert_eq!(out(machine.ari, pin), Some((3, pin)));
}

#[derive(Clone, Debug)]
enum Step {
    Ports(u32, u16, Vec<u8>),
    Ecam(Bdf, u16, Vec<u8>),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let data = || prop::collection::vec(any::<u8>(), 1..9);
    // Mostly buses and registers where something is.
    let bdf = (0u8..6, prop::sample::select(vec![0u8, 2, 3, 4, 8]), 0u8..3)
        .prop_map(|(bus, device, function)| Bdf::new(bus, device, function));
    let offset = prop_oneof![
        Just(4u16),
        0x10..0x40u16,
        Just(0x18u16),
        Just(0x3eu16),
        any::<u16>().prop_map(|o| o & 0xfff)
    ];
    prop_oneof![
        30 => (bdf, offset, data()).prop_map(|(b, o, d)| Step::Ecam(b, o, d)),
        8 => (any::<u32>(), 0xcf0u16..0xd08, data()).prop_map(|(a, p, d)| Step::Ports(a, p, d)),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #[test]
    fn random_accesses_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        fuzz::config(&bytes);
    }

    #[test]
    fn no_guest_can_confuse_the_topology(steps in prop::collection::vec(step(), 1..80)) {
        let machine = Machine::numbered();
        for bdf in [PORT, OUTER, INNER] {
            machine.forward_everything(bdf);
        }
        for step in steps {
            let mut seen = [0; 8];
            match step {
                Step::Ecam(bdf, offset, data) => {
                    let at = u64::from(bdf.requester_id()) << 12 | u64::from(offset);
                    machine.topology.ecam_write(at, &data);
                    machine.topology.ecam_read(at, &mut seen[..data.len()]);
                    check_route(&machine.topology, bdf);
                }
                Step::Ports(address, port, data) => {
                    machine.port_out(0xcf8, &address.to_le_bytes()).unwrap();
                    let wrote = machine.port_out(port, &data).is_ok();
                    let read = machine.topology.port_read(port, &mut seen[..data.len()]);
                    prop_assert_eq!(wrote, read.is_ok());
                }
                Step::Reset => machine.topology.reset(),
            }
            check_decoded(&machine.topology);
        }
        prop_assert_eq!(machine.read(HOST, 0), 0x29c0_8086);
    }

    #[test]
    fn any_bus_numbers_route_right_or_nowhere(numbers in prop::array::uniform3(any::<u32>()), probe: u16) {
        let machine = Machine::numbered();
        // The inner port first, while it is reachable.
        for (bdf, number) in [INNER, PORT, OUTER].into_iter().zip(numbers) {
            machine.write(bdf, 0x18, number);
        }
        check_route(&machine.topology, Bdf::from_requester_id(probe));
        for bus in 0..=255 {
            check_route(&machine.topology, Bdf::new(bus, 0, 0));
        }
    }
}

#[test]
fn what_is_plugged_in_later_answers_and_what_is_taken_out_does_not() {
    let mut topology: Topology<dyn Function> = Topology::new();
    let port = Arc::new(RootPort::new(RootPortConfig::empty(1).hot_plug()).unwrap());
    let at = topology
        .attach(BusAt::Root, 3, 0, "slot", port.clone())
        .unwrap();
    let write = |offset, value| ConfigWrite::new(Register::containing(offset), value, 0xf);
    topology.config_write(PORT, write(0x18, 0x0001_0100));
    let vendor = |topology: &Topology<dyn Function>| {
        topology.config_read(Bdf::new(1, 0, 0), Register::containing(0)) as u16
    };
    let mut with = topology.clone();
    let first = with
        .attach(BusAt::Behind(at), 0, 0, "came", mock(0x50))
        .unwrap();
    port.insert();
    assert_eq!(vendor(&with), 0xffff, "no power yet");
    let control = find_express(&with, PORT) + 0x18;
    with.config_write(PORT, write(control, 0));
    assert_ne!(vendor(&with), 0xffff);
    assert_eq!(
        vendor(&topology),
        0xffff,
        "the one before has nothing there"
    );

    let mut without = with.clone();
    without.detach_behind(at);
    assert_eq!(vendor(&without), 0xffff);
    assert!(without.function(first).is_none());
    let second = without
        .attach(BusAt::Behind(at), 0, 0, "came", mock(0x51))
        .unwrap();
    assert_ne!(first, second, "an id is not used again");
}

fn find_express(topology: &Topology<dyn Function>, bdf: Bdf) -> u16 {
    let read = |offset| topology.config_read(bdf, Register::containing(offset));
    let mut at = read(0x34) as u16 & 0xff;
    while read(at) as u8 != 0x10 {
        at = (read(at) >> 8) as u16 & 0xff;
    }
    at
}
