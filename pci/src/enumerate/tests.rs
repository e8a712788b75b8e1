use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fakes::{Endpoint, ids};
use crate::{BarIndex, BarKind, BusAt, ConfigSpace, Function, RootPort, RootPortConfig, Topology};

/// An endpoint with BARs and nothing else.
fn endpoint(bars: &[(u8, BarKind, u64)]) -> Arc<dyn Function> {
    let mut space = ConfigSpace::endpoint(ids(0x1234));
    for &(index, kind, size) in bars {
        space.set_bar(BarIndex(index), kind, size).unwrap();
    }
    Endpoint::shared(space)
}

fn windows() -> Windows {
    Windows {
        io: 0x1000..=0xffff,
        memory32: 0xc000_0000..=0xfebf_ffff,
        memory64: 0x1_0000_0000..=0x3f_ffff_ffff,
    }
}

const WIDE: BarKind = BarKind::Memory64 { prefetchable: true };
const NARROW: BarKind = BarKind::Memory32 {
    prefetchable: false,
};

/// `on_root` directly on the root bus, and each of `behind` behind a root port of its own.
fn hierarchy(
    on_root: &[Arc<dyn Function>],
    behind: &[Arc<dyn Function>],
) -> Topology<dyn Function> {
    let mut topology: Topology<dyn Function> = Topology::new();
    for (i, function) in on_root.iter().enumerate() {
        topology
            .attach(BusAt::Root, i as u8, 0, "on root", function.clone())
            .unwrap();
    }
    for (i, function) in behind.iter().enumerate() {
        let port = Arc::new(RootPort::new(RootPortConfig::occupied(i as u16 + 1)).unwrap());
        let port = topology
            .attach(BusAt::Root, 16 + i as u8, 0, "port", port)
            .unwrap();
        topology
            .attach(BusAt::Behind(port), 0, 0, "behind", function.clone())
            .unwrap();
    }
    topology
}

fn base_of(topology: &Topology<dyn Function>, function: usize, bar: u8) -> u64 {
    let decoded = topology.decoded();
    let id = topology.functions().nth(function).unwrap().id;
    let is_it = |d: &&crate::Decoded| d.function == id && d.window.bar == BarIndex(bar);
    decoded.iter().find(is_it).expect("decoded").window.base
}

#[test]
fn everything_placed_is_reached_through_its_bridge() {
    let nic = endpoint(&[(0, NARROW, 0x2_0000), (1, BarKind::Io, 0x40)]);
    let gpu = endpoint(&[
        (0, NARROW, 0x100_0000),
        (1, WIDE, 1 << 34),
        (5, BarKind::Io, 0x80),
    ]);
    let topology = hierarchy(&[nic], &[gpu]);
    let survey = Hierarchy::survey(&topology);
    assert_eq!(survey.demand64(), (1 << 34, 1 << 34));
    assert_eq!(survey.last_bus(), 1);
    survey.place(&windows()).unwrap();
    assert_eq!(
        topology.functions().nth(2).unwrap().bdf,
        Some(Bdf::new(1, 0, 0))
    );
    assert_eq!(base_of(&topology, 2, 1) % (1 << 34), 0);
    assert!(base_of(&topology, 2, 1) >= 1 << 32);
    assert_eq!(topology.decoded().len(), 5);
}

#[test]
fn what_does_not_fit_names_the_window() {
    let big = endpoint(&[(0, NARROW, 0x4000_0000)]);
    let topology = hierarchy(&[big], &[]);
    let error = Hierarchy::survey(&topology).place(&windows()).unwrap_err();
    assert_eq!(error.window, "32-bit memory");
    assert!(error.to_string().contains("0x40000000"));
}

#[test]
fn a_bridge_with_nothing_behind_it_forwards_nothing() {
    let topology = hierarchy(&[], &[endpoint(&[])]);
    Hierarchy::survey(&topology).place(&windows()).unwrap();
    let port = topology.functions().next().unwrap();
    assert_eq!(port.function.as_bridge().unwrap().forwarded(), []);
}

proptest! {
    #[test]
    fn placed_bars_never_overlap_and_all_decode(
        sizes in prop::collection::vec((0u8..3, 4u32..22, any::<bool>()), 1..16),
    ) {
        let functions: Vec<_> = sizes
            .iter()
            .map(|&(kind, bits, _)| match kind {
                0 => endpoint(&[(0, BarKind::Io, 1 << bits.min(8))]),
                1 => endpoint(&[(0, NARROW, 1 << bits)]),
                _ => endpoint(&[(0, WIDE, 1 << (bits + 8))]),
            })
            .collect();
        let (mut on_root, mut behind) = (Vec::new(), Vec::new());
        for (function, &(_, _, deep)) in functions.iter().zip(&sizes) {
            if deep { behind.push(function.clone()) } else { on_root.push(function.clone()) }
        }
        let topology = hierarchy(&on_root, &behind);
        Hierarchy::survey(&topology).place(&windows()).unwrap();
        let mut decoded = topology.decoded();
        prop_assert_eq!(decoded.len(), functions.len());
        decoded.sort_by_key(|d| (d.window.space, d.window.base));
        for pair in decoded.windows(2) {
            let (a, b) = (pair[0].window, pair[1].window);
            prop_assert!(a.space != b.space || a.base + a.size <= b.base);
            prop_assert_eq!(a.base % a.size, 0);
        }
    }
}

#[test]
fn a_rom_has_its_place_and_is_off() {
    let nic = endpoint(&[(0, NARROW, 0x2_0000), (6, NARROW, 0x4_0000)]);
    let topology = hierarchy(&[], &[nic]);
    Hierarchy::survey(&topology).place(&windows()).unwrap();
    assert_eq!(topology.decoded().len(), 1, "BAR 0 alone");
    let nic = Bdf::new(1, 0, 0);
    let rom = Register::containing(0x30);
    let at = topology.config_read(nic, rom);
    assert_eq!(at & 0x3_ffff, 0);
    topology.config_write(nic, ConfigWrite::new(rom, at | 1, 0xf));
    let base = u64::from(at);
    let decoded = topology.decoded();
    assert!(
        decoded
            .iter()
            .any(|d| d.window.base == base && d.window.size == 0x4_0000)
    );
}

#[test]
fn an_empty_hot_plug_slot_has_a_bus_and_windows_for_what_comes() {
    let mut topology = hierarchy(&[], &[endpoint(&[(0, WIDE, 0x4000)])]);
    let port = Arc::new(RootPort::new(RootPortConfig::empty(9).hot_plug()).unwrap());
    topology
        .attach(BusAt::Root, 0x11, 0, "slot", port.clone())
        .unwrap();
    let survey = Hierarchy::survey(&topology);
    assert_eq!(survey.last_bus(), 2);
    survey.place(&windows()).unwrap();
    let size = |f: &crate::Forwarded| f.last - f.first + 1;
    let as_bridge = port.as_bridge().unwrap();
    let sizes: Vec<u64> = as_bridge.forwarded().iter().map(size).collect();
    assert_eq!(sizes, [HOT_PLUG_MEMORY32, HOT_PLUG_MEMORY64]);
    assert_eq!(as_bridge.secondary(), 2);
}
