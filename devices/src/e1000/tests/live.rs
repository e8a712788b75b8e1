//! With its own thread, and with a real `passt` where there is one.

use std::time::{Duration, Instant};

use super::*;
use crate::net::{Passt, PasstConfig, Sum, Tap, TapError};

pub(super) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
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

/// A TAP of the kernel's with an address, in a network namespace of this thread's own.
/// `None`, saying so, where that is not allowed.
pub(super) fn tap_of_our_own() -> Option<Tap> {
    let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok()
        && ip("tuntap add sluice0 mode tap")
        && ip("address add 10.99.0.1/24 dev sluice0")
        && ip("link set sluice0 up");
    if !made {
        eprintln!("skipped: no network namespace and TAP for this test");
        return None;
    }
    Some(Tap::open("sluice0").unwrap())
}

pub(super) fn ip(arguments: &str) -> bool {
    let mut ip = std::process::Command::new("ip");
    let status = ip.args(arguments.split(' ')).status();
    status.is_ok_and(|status| status.success())
}

/// An echo request from 10.99.0.2, whose MAC is ours, to the TAP's address.
fn ping(to: &[u8], payload: usize) -> Vec<u8> {
    let len = 28 + payload as u16;
    let mut frame = [to, &MAC.0, &[8, 0, 0x45, 0]].concat();
    frame.extend(len.to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, 1, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1]);
    let mut sum = Sum::default();
    sum.add(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.checksum().to_be_bytes());
    frame.extend([8, 0, 0, 0, 0x12, 0x34, 0, 1]);
    frame.resize(42 + payload, 0x5a);
    let mut sum = Sum::default();
    sum.add(&frame[34..]);
    frame[36..38].copy_from_slice(&sum.checksum().to_be_bytes());
    frame
}

#[test]
fn the_kernel_answers_over_a_tap() {
    let Some(tap) = tap_of_our_own() else {
        return;
    };
    let taken = Tap::open("sluice0").err().unwrap();
    assert!(matches!(taken, TapError::Busy(_)), "{taken}");
    let (_, unused) = UnixDatagram::pair().unwrap();
    let mut rig = Rig::with(Box::new(tap), unused);
    rig.set_up();
    rig.nic.start().unwrap();
    // Who has 10.99.0.1? Tell 10.99.0.2.
    let mut arp = [&[0xff; 6][..], &MAC.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    arp.extend(MAC.0);
    arp.extend([10, 99, 0, 2, 0, 0, 0, 0, 0, 0, 10, 99, 0, 1]);
    rig.put(TX_BUFFERS, &arp);
    let find = |rig: &Rig, what: &dyn Fn(&[u8]) -> bool| {
        (0..COUNT)
            .map(|n| offer(rig, n))
            .find(|frame| frame.starts_with(&MAC.0) && what(frame))
    };
    let is_answer = |frame: &[u8]| frame[12..14] == [8, 6] && frame[20..22] == [0, 2];
    // The kernel takes up to a second to notice that a TAP has its other end.
    eventually("an ARP reply", || {
        rig.describe(u128::from(TX_BUFFERS) | (arp.len() as u128) << 64 | 0x0b << 88);
        rig.ring_doorbell();
        std::thread::sleep(Duration::from_millis(50));
        find(&rig, &is_answer).is_some()
    });
    let theirs = find(&rig, &is_answer).unwrap()[6..12].to_vec();
    for payload in [0, 56, 1400] {
        let request = ping(&theirs, payload);
        rig.put(TX_BUFFERS, &request);
        rig.describe(u128::from(TX_BUFFERS) | (request.len() as u128) << 64 | 0x0b << 88);
        rig.ring_doorbell();
        let is_echo = |frame: &[u8]| {
            frame[12..14] == [8, 0]
                && frame[23] == 1
                && frame[34] == 0
                && frame[42..].iter().filter(|&&b| b == 0x5a).count() == payload
        };
        eventually("an echo", || find(&rig, &is_echo).is_some());
    }
}
