//! With its own thread, and with a real `passt` where there is one.

use std::time::{Duration, Instant};

use super::*;
use crate::net::{Passt, PasstConfig};

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_thread_sends_receives_and_stops() {
    let mut rig = Rig::up();
    rig.nic.start().unwrap();
    rig.put(TX_BUFFERS, &outgoing(300));
    let index = rig.describe(u128::from(TX_BUFFERS) | 300 << 64 | 0x0b << 88);
    rig.ring_doorbell();
    eventually("sent", || rig.sent(index));
    assert_eq!(rig.out().unwrap().1, outgoing(300));
    eventually("interrupt", || rig.asserted());
    rig.read(offset::ICR);
    rig.inject(&frame(400));
    eventually("received", || rig.got(0).done());
    eventually("interrupt", || rig.asserted());
    rig.nic.stop();
    rig.inject(&frame(400));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!rig.got(1).done());
    // And on again.
    rig.nic.start().unwrap();
    eventually("received", || rig.got(1).done());
}

#[test]
fn resets_while_traffic_flows() {
    let mut rig = Rig::up();
    rig.nic.start().unwrap();
    for round in 0..50 {
        for _ in 0..30 {
            rig.describe(u128::from(TX_BUFFERS) | 100 << 64 | 0x0b << 88);
        }
        rig.ring_doorbell();
        let _ = rig.peer.send(&[0; 200]);
        rig.write(offset::CTRL, 1 << 26);
        // From here on nothing may be written to the rings.
        rig.put(TX_RING, &[0; COUNT as usize * 16]);
        rig.put(RX_RING, &[0; COUNT as usize * 16]);
        std::thread::yield_now();
        let clean = vec![0; COUNT as usize * 16];
        assert_eq!(rig.get(TX_RING, clean.len()), clean, "round {round}");
        assert_eq!(rig.get(RX_RING, clean.len()), clean, "round {round}");
        while rig.out().is_some() {}
        rig.tail = 0;
        rig.set_up();
    }
}

/// A DHCP DISCOVER from `MAC` (RFC 2131).
fn discover() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &MAC.0, &[8, 0]].concat();
    frame.extend([0x45, 0, 1, 0x48, 0, 1, 0, 0, 64, 17, 0x79, 0xa5, 0, 0, 0, 0]);
    frame.extend([0xff; 4]);
    frame.extend([0, 68, 0, 67, 1, 0x34, 0, 0]);
    frame.extend([1, 1, 6, 0, 1, 2, 3, 4]);
    frame.extend([0; 20]);
    frame.extend(MAC.0);
    frame.extend([0; 10 + 64 + 128]);
    frame.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    frame.resize(14 + 0x148, 0);
    frame
}

#[test]
fn passt_answers_dhcp() {
    let passt = match Passt::start(&PasstConfig::default()) {
        Ok(passt) => passt,
        Err(error) => {
            // No passt here, or no network for it: nothing to test against.
            eprintln!("skipped: {error}");
            return;
        }
    };
    let (_, unused) = UnixDatagram::pair().unwrap();
    let mut rig = Rig::with(Box::new(passt), unused);
    rig.set_up();
    rig.nic.start().unwrap();
    let discover = discover();
    rig.put(TX_BUFFERS, &discover);
    rig.describe(u128::from(TX_BUFFERS) | (discover.len() as u128) << 64 | 0x0b << 88);
    rig.ring_doorbell();
    // An offer comes back, from port 67 to 68, with our transaction id.
    eventually("an offer", || {
        (0..COUNT).any(|n| {
            let offer = self::offer(&rig, n);
            offer.starts_with(&MAC.0)
                && offer.get(34..38) == Some(&[0, 67, 0, 68])
                && offer.get(46..50) == Some(&[1, 2, 3, 4])
        })
    });
}

fn offer(rig: &Rig, index: u32) -> Vec<u8> {
    match rig.got(index).done() {
        true => rig.buffer(index, rig.got(index).length().into()),
        false => Vec::new(),
    }
}
