//! Config space at the hands of a hostile guest: arbitrary accesses of any length, through
//! both mechanisms, to a hierarchy with ports.

use super::machine::{INNER, Machine, OUTER, PORT};
use super::{BusAt, FunctionId, Topology};
use crate::fakes::{Endpoint, ids};
use crate::fuzz::Input;
use crate::{
    Aer, Ari, BarIndex, BarKind, Bdf, Capability, ConfigSpace, ExtendedCapability, Function, InBar,
    Msi, Msix, Register, RootPort, RootPortConfig,
};

use std::collections::BTreeMap;
use std::sync::Arc;

/// Buses and slots where something is, or could be.
const BUSES: [u8; 8] = [0, 1, 2, 3, 4, 9, 0x80, 0xff];
const SLOTS: [u8; 8] = [0, 2, 3, 4, 5, 6, 8, 31];

/// The path up from where a cycle landed must name what it was routed by.
pub(super) fn check_route(topology: &Topology<dyn Function>, bdf: Bdf) {
    let Some(id) = topology.locate(bdf) else {
        return;
    };
    assert_eq!(topology.bdf(id), Some(bdf), "routed by its number");
    let mut place = &topology.places[&id];
    while let Some((above, bridge)) = topology.bridge_above(place) {
        assert!((bridge.secondary()..=bridge.subordinate()).contains(&bdf.bus()));
        assert!(!bridge.is_shut());
        assert!(place.devfn < 8 || bridge.forwards_ari());
        place = &topology.places[&above];
    }
}

pub(super) fn check_decoded(topology: &Topology<dyn Function>) {
    let decoded = topology.decoded();
    for (i, one) in decoded.iter().enumerate() {
        let (window, at) = (one.window, one.offset);
        let whole = topology.function(one.function).unwrap().windows();
        let bar = whole.iter().find(|w| w.bar == window.bar).unwrap();
        assert_eq!(bar.base + at, window.base);
        assert!(at + window.size <= bar.size);
        for other in &decoded[i + 1..] {
            let same = other.function == one.function && other.window.bar == window.bar;
            assert!(!same || other.window.base > window.base + (window.size - 1));
        }
    }
}

/// A function with messages, and a hot-plug port, beside what is there anyway.
fn machine() -> (Machine, Arc<RootPort>) {
    let mut machine = Machine::numbered();
    let mut space = ConfigSpace::endpoint(ids(0x50));
    let in_bar = |offset| InBar {
        bar: BarIndex(0),
        offset,
    };
    let memory = BarKind::Memory32 {
        prefetchable: false,
    };
    space.set_bar(BarIndex(0), memory, 0x4000).unwrap();
    space.set_bar(BarIndex::ROM, memory, 0x1_0000).unwrap();
    let msix = Msix::new(33, in_bar(0), in_bar(0x800));
    for capability in [
        Capability::Msi(Msi::new(8).maskable()),
        Capability::Msix(msix),
        Capability::Vendor(vec![0x55; 9]),
    ] {
        space.add_capability(capability).unwrap();
    }
    for capability in [
        ExtendedCapability::Aer(Aer { root: false }),
        ExtendedCapability::Ari(Ari { next_function: 0 }),
    ] {
        space.add_extended_capability(&capability).unwrap();
    }
    let port = Arc::new(RootPort::new(RootPortConfig::empty(6).hot_plug()).unwrap());
    let mut attach = |device, what: Arc<dyn Function>| {
        let attached = machine
            .topology
            .attach(BusAt::Root, device, 0, "more", what);
        attached.unwrap();
    };
    attach(5, Endpoint::shared(space));
    attach(6, port.clone());
    for bdf in [PORT, OUTER, INNER] {
        machine.forward_everything(bdf);
    }
    (machine, port)
}

/// What no write may change: who each function is, and where its capabilities are.
fn identities(topology: &Topology<dyn Function>) -> BTreeMap<FunctionId, Vec<u32>> {
    let identity = |function: &Arc<dyn Function>| {
        let read = |offset| function.read_config(Register::containing(offset));
        let mut words = vec![read(0), read(8), read(0x0c) >> 16 & 0xff];
        let mut at = read(0x34) as u16 & 0xff;
        while at != 0 {
            assert!(at >= 0x40 && at & 3 == 0 && words.len() < 64);
            words.push(u32::from(at) << 16 | read(at) & 0xffff);
            at = (read(at) >> 8) as u16 & 0xff;
        }
        let mut at = 0x100;
        while at != 0 && read(at) != 0 {
            assert!(at >= 0x100 && at & 3 == 0 && words.len() < 1024);
            words.push(read(at));
            at = (read(at) >> 20) as u16;
        }
        words
    };
    let functions = topology.functions();
    functions.map(|f| (f.id, identity(f.function))).collect()
}

/// A read is the same byte for byte, and where both mechanisms reach, through both.
fn check_read(topology: &Topology<dyn Function>, at: u64, len: usize) {
    let mut whole = [0xa5; 8];
    topology.ecam_read(at, &mut whole[..len]);
    for (one, offset) in whole[..len].iter().zip(at..) {
        let mut byte = [0x5a];
        topology.ecam_read(offset, &mut byte);
        assert_eq!(byte, [*one], "at {offset:#x}");
    }
    let (offset, lane) = (at & 0xfff, at as u16 & 3);
    if offset < 0x100 && usize::from(lane) + len <= 4 {
        let function = (at >> 12 & 0xffff) as u32;
        let address = 0x8000_0000 | function << 8 | offset as u32 & 0xfc;
        let selected = topology.port_write(0xcf8, &address.to_le_bytes());
        assert_eq!(selected, Ok(None));
        let mut through = [0; 4];
        let read = topology.port_read(0xcfc + lane, &mut through[..len]);
        assert_eq!((read, &through[..len]), (Ok(()), &whole[..len]));
    }
}

fn address(input: &mut Input<'_>) -> (Bdf, u64) {
    let where_to = input.u16();
    let pick = |all: &[u8; 8], shift: u16| all[usize::from(where_to >> shift & 7)];
    let bdf = Bdf::new(pick(&BUSES, 0), pick(&SLOTS, 3), (where_to >> 6 & 1) as u8);
    // Mostly the first 256 bytes.
    let offset = match where_to >> 7 & 3 {
        0 => u64::from(input.u16() & 0xfff),
        _ => u64::from(input.u8()),
    };
    (bdf, u64::from(bdf.requester_id()) << 12 | offset)
}

/// Arbitrary accesses through both mechanisms. Functions stay who they are, cycles are routed
/// by the numbers that bridges have, no window leaves its BAR, and a reset makes all as it was.
pub fn config(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (machine, port) = machine();
    let topology = &machine.topology;
    let identities_before = identities(topology);
    topology.reset();
    let state = || {
        let functions = topology.functions();
        let all = functions.flat_map(|f| {
            let read = |at| f.function.read_config(Register::containing(at));
            (0..0x200).step_by(4).map(read).collect::<Vec<_>>()
        });
        all.collect::<Vec<_>>()
    };
    let at_reset = state();
    for (bdf, numbers) in [
        (PORT, 0x0001_0100),
        (OUTER, 0x0003_0200),
        (INNER, 0x0003_0302),
    ] {
        machine.write(bdf, 0x18, numbers);
        machine.forward_everything(bdf);
    }
    while !input.is_empty() {
        let what = input.u8();
        let len = usize::from(what >> 5) + 1;
        match what & 0x1f {
            0..=14 => {
                let (bdf, at) = address(&mut input);
                let data: [u8; 8] = input.take();
                topology.ecam_write(at, &data[..len]);
                check_read(topology, at, len);
                check_route(topology, bdf);
            }
            15..=19 => {
                let selector = input.u32();
                let port = 0xcf8 | input.u16() & 7;
                let data: [u8; 8] = input.take();
                let selected = topology.port_write(0xcf8, &selector.to_le_bytes());
                assert_eq!(selected, Ok(None));
                let mut read = [0; 8];
                let may_write = topology.port_write(port, &data[..len]).is_ok();
                let may_read = topology.port_read(port, &mut read[..len]).is_ok();
                assert_eq!(may_write, may_read);
            }
            20..=25 => {
                let (_, at) = address(&mut input);
                check_read(topology, at, len);
            }
            26 => {
                let (at, data): (_, [u8; 8]) = (input.u64(), input.take());
                topology.ecam_write(at, &data[..len]);
                topology.ecam_read(at, &mut [0; 8][..len]);
            }
            27 => port.insert(),
            28 => port.press_attention(),
            29 => check_route(topology, Bdf::from_requester_id(input.u16())),
            30 => port.take_out(),
            _ => topology.reset(),
        }
        check_decoded(topology);
    }
    port.take_out();
    topology.reset();
    assert_eq!(identities(topology), identities_before);
    assert_eq!(state(), at_reset);
}
