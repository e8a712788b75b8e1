//! What a guest must not be able to do: hang, panic, or reach what is not its own.

use proptest::prelude::*;

use super::*;

const EOP_RS: u128 = 1 << 88 | 1 << 91;

#[test]
fn a_packet_without_end_is_thrown_away() {
    let mut rig = Rig::up();
    rig.put(TX_BUFFERS, &outgoing(60));
    for _ in 0..COUNT - 1 {
        rig.describe(u128::from(TX_BUFFERS) | 60 << 64);
    }
    rig.ring_doorbell();
    rig.turn();
    assert_eq!(rig.read(offset::TDH), COUNT - 1);
    // Its end goes with it; what follows is a packet again.
    rig.describe(u128::from(TX_BUFFERS) | 60 << 64 | EOP_RS);
    rig.describe(u128::from(TX_BUFFERS) | 60 << 64 | EOP_RS);
    rig.ring_doorbell();
    rig.turn();
    assert_eq!(rig.read(offset::TDH), 1);
    assert_eq!(rig.out().unwrap().1, outgoing(60));
    assert!(rig.out().is_none());
}

#[test]
fn data_that_is_not_there_is_not_sent() {
    let mut rig = Rig::up();
    let index = rig.describe(u128::from(u64::MAX - 10) | 60 << 64 | EOP_RS);
    rig.ring_doorbell();
    rig.turn();
    assert!(rig.sent(index) && rig.out().is_none());
    assert_eq!(rig.nic.traffic().malformed, 1);
    // A receive buffer that is not there.
    rig.put(RX_RING, &u64::MAX.to_le_bytes());
    rig.inject(&frame(60));
    rig.turn();
    assert!(rig.got(0).done() && rig.got(0).data_error());
}

#[test]
fn a_ring_that_is_not_there_stands_still() {
    let rig = Rig::up();
    rig.write(offset::TDBAH, 1 << 20);
    rig.write(offset::TDT, 5);
    rig.write(offset::RDBAH, 1 << 20);
    rig.inject(&frame(60));
    let interest = rig.turn();
    assert!(!interest.write && !interest.again && !interest.read);
    assert_eq!(rig.read(offset::TDH), 0);
    // Received Master Abort, until cleared.
    let command = Register::containing(4);
    assert_ne!(rig.nic.read_config(command) >> 29 & 1, 0);
    // Programmed anew, it goes on.
    rig.write(offset::RDBAH, 0);
    rig.inject(&frame(60));
    rig.turn();
    assert!(rig.got(0).done());
}

#[test]
fn segmentation_that_cannot_be_is_dropped() {
    let mut rig = Rig::up();
    rig.put(TX_BUFFERS, &outgoing(200));
    let tse = 1u128 << 90 | 1 << 93;
    // No segment size; headers longer than the packet; headers out of order.
    for (start, l4, header, mss) in [(14, 34, 54, 0), (14, 34, 255, 100), (34, 14, 54, 100)] {
        let context = start as u128 | (l4 as u128) << 32 | 50 << 40 | 3 << 88;
        rig.describe(context | tse | (header as u128) << 104 | (mss as u128) << 112);
        let data = u128::from(TX_BUFFERS) | 200 << 64 | 1 << 84 | 3 << 104;
        rig.describe(data | tse | EOP_RS);
    }
    rig.ring_doorbell();
    rig.turn();
    assert!(rig.out().is_none());
    assert_eq!(rig.nic.traffic().malformed, 3);
    assert_eq!(rig.read(offset::TDH), 6);
}

#[test]
fn a_transmitter_that_never_stops_yields() {
    // A ring whose descriptors are all the same packet, and a guest that keeps ringing.
    let mut rig = Rig::up();
    for _ in 0..COUNT {
        rig.describe(u128::from(TX_BUFFERS) | 60 << 64 | 1 << 88);
    }
    for lap in 0..100 {
        rig.write(offset::TDT, (lap * 7) % COUNT);
        rig.turn();
        while rig.out().is_some() {}
    }
    assert_eq!(rig.read(offset::TDH), rig.read(offset::TDT));
}

/// Offsets that do something, and any others.
fn offsets() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => proptest::sample::select(vec![
            offset::CTRL, offset::EECD, offset::EERD, offset::MDIC, offset::ICR, offset::ITR,
            offset::ICS, offset::IMS, offset::IMC, offset::RCTL, offset::TCTL, offset::RDBAL,
            offset::RDLEN, offset::RDH, offset::RDT, offset::RDTR, offset::RADV, offset::TDBAL,
            offset::TDLEN, offset::TDH, offset::TDT, offset::TIDV, offset::TADV, offset::RXCSUM,
            offset::VET,
        ]),
        1 => 0u32..offset::END,
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Read(u32),
    Write(u32, u32),
    Small(u32, u32),
    Later(u32, u32),
    Frame(usize),
    Wait(u32),
    Scribble(u32, [u8; 16]),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => offsets().prop_map(Step::Read),
        3 => (offsets(), any::<u32>()).prop_map(|(at, value)| Step::Write(at, value)),
        6 => (offsets(), 0u32..0x200).prop_map(|(at, value)| Step::Small(at, value)),
        1 => (offsets(), any::<u32>()).prop_map(|(at, value)| Step::Later(at, value)),
        3 => (14usize..20_000).prop_map(Step::Frame),
        1 => any::<u32>().prop_map(Step::Wait),
        4 => (0u32..0x6000, any::<[u8; 16]>()).prop_map(|(at, bytes)| Step::Scribble(at, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_stream_of_accesses_hurts(steps in proptest::collection::vec(steps(), 1..120), up: bool) {
        let rig = Rig::new();
        if up {
            rig.set_up();
        }
        let mut now = 0u64;
        for step in steps {
            match step {
                Step::Read(at) => {
                    rig.read(at & !3);
                }
                Step::Write(at, value) | Step::Small(at, value) => rig.write(at & !3, value),
                Step::Later(at, value) => rig.write_later(at & !3, value),
                Step::Frame(len) => {
                    let _ = rig.peer.send(&[&[0; 10][..], &frame(len)].concat());
                }
                Step::Wait(time) => {
                    now += u64::from(time);
                    rig.sleep_until(now);
                }
                Step::Scribble(at, bytes) => rig.put(at.into(), &bytes),
            }
            rig.turn();
            while rig.out().is_some() {}
        }
    }

    #[test]
    fn no_ring_of_descriptors_hurts(
        descriptors in proptest::collection::vec(
            (any::<[u8; 8]>(), any::<[u8; 8]>(), 0u64..0x50_0000, any::<bool>()), 1..60),
        vlan: bool,
    ) {
        let mut rig = Rig::up();
        if vlan {
            rig.write(offset::CTRL, 1 << 30 | 0x241);
        }
        for (low, high, address, sane) in descriptors {
            let mut high = u64::from_le_bytes(high);
            let mut low = u64::from_le_bytes(low);
            if sane {
                // An address that may be one, a length that may be one, and an end.
                low = address;
                high = high & !0xf_f000 | 1 << 24;
            }
            rig.describe(u128::from(high) << 64 | u128::from(low));
        }
        rig.ring_doorbell();
        rig.turn();
        while rig.out().is_some() {
            rig.turn();
        }
        // A new start always works.
        rig.write(offset::CTRL, 1 << 26);
        rig.set_up();
        rig.tail = 0;
        rig.put(TX_BUFFERS, &outgoing(77));
        rig.describe(u128::from(TX_BUFFERS) | 77 << 64 | EOP_RS);
        rig.ring_doorbell();
        rig.turn();
        prop_assert_eq!(rig.out().unwrap().1, outgoing(77));
    }
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        super::super::fuzz::accesses(&bytes);
    }
}
