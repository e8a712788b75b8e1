use super::*;
use crate::net::Sum;
use crate::net::offload::{get_u16, put_u16};

const EOP: u128 = 1 << 88;
const IFCS: u128 = 1 << 89;
const IC_TSE: u128 = 1 << 90;
const RS: u128 = 1 << 91;
const DEXT: u128 = 1 << 93;
const VLE: u128 = 1 << 94;
const IDE: u128 = 1 << 95;
const DATA: u128 = DEXT | 1 << 84;
const IXSM: u128 = 1 << 104;
const TXSM: u128 = 1 << 105;
const TCP: u128 = 1 << 88;
const IPV4: u128 = 1 << 89;

fn legacy(address: u64, len: usize) -> u128 {
    u128::from(address) | (len as u128) << 64 | IFCS
}

fn context(ip: [u8; 2], ip_end: u16, l4: [u8; 2], header: u8, mss: u16, command: u128) -> u128 {
    let low = u64::from_le_bytes([
        ip[0],
        ip[1],
        ip_end as u8,
        (ip_end >> 8) as u8,
        l4[0],
        l4[1],
        0,
        0,
    ]);
    u128::from(low) | DEXT | command | u128::from(header) << 104 | u128::from(mss) << 112
}

/// A TCP packet as Linux hands it to this NIC: no IP length or checksums, the sum of the
/// pseudo header (without length when it is to be segmented) where TCP's goes.
fn tcp(payload: usize, segmented: bool) -> Vec<u8> {
    let mut frame = outgoing(14);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame.extend([
        0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    frame.extend([
        0x12, 0x34, 0, 80, 0, 0, 1, 0, 0, 0, 2, 0, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    let len = 20 + payload;
    let mut pseudo = Sum::default();
    pseudo.add(&frame[26..34]);
    pseudo.add_word(6);
    if !segmented {
        put_u16(&mut frame, 16, (20 + len) as u16);
        pseudo.add_word(len as u16);
    }
    put_u16(&mut frame, 50, pseudo.value());
    frame.extend((0..payload).map(|i| (i * 7) as u8));
    frame
}

fn check_tcp(frame: &[u8]) {
    assert_eq!(usize::from(get_u16(frame, 16)), frame.len() - 14);
    let mut sum = Sum::default();
    sum.add(&frame[14..34]);
    assert_eq!(sum.value(), 0xffff, "IP checksum");
    let mut sum = Sum::default();
    sum.add(&frame[26..34]);
    sum.add_word(6);
    sum.add_word((frame.len() - 34) as u16);
    sum.add(&frame[34..]);
    assert_eq!(sum.value(), 0xffff, "TCP checksum");
}

#[test]
fn a_legacy_packet_goes_out_as_it_is() {
    let mut rig = Rig::up();
    rig.put(TX_BUFFERS, &outgoing(100));
    let index = rig.describe(legacy(TX_BUFFERS, 100) | EOP | RS);
    rig.ring_doorbell();
    rig.turn();
    assert_eq!(rig.out(), Some((vec![0; 10], outgoing(100))));
    assert!(rig.sent(index));
    assert_eq!(rig.read(offset::TDH), 1);
    assert!(rig.asserted());
    // TXDW and TXQE.
    assert_eq!(rig.read(offset::ICR), 3);
    assert_eq!(rig.read(0x40d4), 1); // TPT
    assert_eq!(rig.read(0x4090), 104); // GOTCL
    assert_eq!(rig.read(0x40dc), 1); // PTC127
}

#[test]
fn descriptors_of_one_packet_are_put_together() {
    let mut rig = Rig::up();
    let whole = outgoing(1000);
    rig.put(TX_BUFFERS, &whole);
    rig.describe(legacy(TX_BUFFERS, 5));
    rig.describe(legacy(TX_BUFFERS + 5, 0));
    rig.describe(legacy(TX_BUFFERS + 5, 495));
    // Not all there yet.
    rig.ring_doorbell();
    rig.turn();
    assert!(rig.out().is_none());
    assert_eq!(rig.read(offset::TDH), 0);
    rig.describe(legacy(TX_BUFFERS + 500, 500) | EOP | RS);
    rig.ring_doorbell();
    rig.turn();
    assert_eq!(rig.out().unwrap().1, whole);
    assert_eq!(rig.read(offset::TDH), 4);
}

#[test]
fn short_packets_are_padded_when_told_to() {
    let mut rig = Rig::up();
    rig.put(TX_BUFFERS, &outgoing(42));
    rig.describe(legacy(TX_BUFFERS, 42) | EOP);
    rig.ring_doorbell();
    rig.turn();
    let mut padded = outgoing(42);
    padded.resize(60, 0);
    assert_eq!(rig.out().unwrap().1, padded);
    rig.write(offset::TCTL, 1 << 1);
    rig.describe(legacy(TX_BUFFERS, 42) | EOP);
    rig.ring_doorbell();
    rig.turn();
    assert_eq!(rig.out().unwrap().1, outgoing(42));
}

#[test]
fn a_legacy_checksum_is_left_to_the_host() {
    let mut rig = Rig::up();
    rig.put(TX_BUFFERS, &outgoing(100));
    let command = IC_TSE | 24 << 80 | 20 << 104;
    rig.describe(legacy(TX_BUFFERS, 100) | EOP | command);
    rig.ring_doorbell();
    rig.turn();
    let (header, frame) = rig.out().unwrap();
    assert_eq!(header, [1, 0, 0, 0, 0, 0, 20, 0, 4, 0]);
    assert_eq!(frame, outgoing(100));
}

#[test]
fn checksums_by_context() {
    let mut rig = Rig::up();
    let packet = tcp(500, false);
    rig.put(TX_BUFFERS, &packet);
    rig.describe(context([14, 24], 33, [34, 50], 0, 0, TCP | IPV4));
    let data = u128::from(TX_BUFFERS) | (packet.len() as u128) << 64 | DATA | EOP | RS;
    rig.describe(data | IXSM | TXSM);
    rig.ring_doorbell();
    rig.turn();
    let (header, mut frame) = rig.out().unwrap();
    assert_eq!(header, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0]);
    // The host finishes it.
    let mut sum = Sum::default();
    sum.add(&frame[34..]);
    put_u16(&mut frame, 50, sum.checksum());
    check_tcp(&frame);
    // The context holds for the next packet, which may ask for less.
    rig.describe(data);
    rig.ring_doorbell();
    rig.turn();
    assert_eq!(rig.out(), Some((vec![0; 10], packet)));
}

#[test]
fn segmentation_is_left_to_the_host() {
    let mut rig = Rig::up();
    let packet = tcp(5000, true);
    rig.put(TX_BUFFERS, &packet);
    rig.describe(context(
        [14, 24],
        33,
        [34, 50],
        54,
        1460,
        TCP | IPV4 | IC_TSE,
    ));
    let data = |at: usize, len: usize| {
        u128::from(TX_BUFFERS + at as u64) | (len as u128) << 64 | DATA | IC_TSE | IDE
    };
    // Headers and data in several descriptors, split at odd places.
    rig.describe(data(0, 30) | IXSM | TXSM);
    rig.describe(data(30, 100));
    rig.describe(data(130, 4001));
    let last = rig.describe(data(4131, packet.len() - 4131) | EOP | RS);
    rig.ring_doorbell();
    rig.turn();
    let (header, mut frame) = rig.out().unwrap();
    assert_eq!(header, [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0]);
    let mut sum = Sum::default();
    sum.add(&frame[34..]);
    put_u16(&mut frame, 50, sum.checksum());
    check_tcp(&frame);
    assert_eq!(frame[54..], packet[54..]);
    assert!(rig.sent(last));
    // Four segments: 1514 bytes three times, 674 once, and four more each.
    assert_eq!(rig.read(0x4080), 4);
    assert_eq!(rig.read(0x40c8), 3 * 1518 + 678);
    assert_eq!(rig.read(0x40f8), 1);
}

#[test]
fn segmentation_is_done_here_for_a_plain_stream() {
    let (stream, mut peer) = crate::net::stream_pair().unwrap();
    let (_, unused) = UnixDatagram::pair().unwrap();
    let mut rig = Rig::with(Box::new(stream), unused);
    rig.set_up();
    let packet = tcp(5000, true);
    rig.put(TX_BUFFERS, &packet);
    rig.describe(context(
        [14, 24],
        33,
        [34, 50],
        54,
        1460,
        TCP | IPV4 | IC_TSE,
    ));
    let data = u128::from(TX_BUFFERS) | (packet.len() as u128) << 64 | DATA | IC_TSE;
    rig.describe(data | IXSM | TXSM | EOP | RS);
    rig.ring_doorbell();
    rig.turn();
    let mut payload = Vec::new();
    for n in 0..4 {
        let mut prefix = [0; 4];
        std::io::Read::read_exact(&mut peer, &mut prefix).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
        std::io::Read::read_exact(&mut peer, &mut frame).unwrap();
        check_tcp(&frame);
        assert_eq!(get_u16(&frame, 18), 0x1234 + n);
        assert_eq!(u32::from(get_u16(&frame, 40)), 0x100 + payload.len() as u32);
        assert_eq!(frame[47], if n == 3 { 0x18 } else { 0x10 });
        payload.extend_from_slice(&frame[54..]);
    }
    assert_eq!(payload, packet[54..]);
}

#[test]
fn vlan_tags_are_inserted() {
    let mut rig = Rig::up();
    let packet = tcp(100, false);
    rig.put(TX_BUFFERS, &packet);
    rig.describe(context([14, 24], 33, [34, 50], 0, 0, TCP | IPV4));
    let data = u128::from(TX_BUFFERS) | (packet.len() as u128) << 64 | DATA | EOP;
    let tagged = data | VLE | TXSM | 0x6123 << 112;
    // Only while CTRL.VME is set.
    rig.describe(tagged);
    rig.ring_doorbell();
    rig.turn();
    assert_eq!(rig.out().unwrap().1, packet);
    rig.write(offset::CTRL, 1 << 30 | 0x241);
    rig.describe(tagged);
    rig.ring_doorbell();
    rig.turn();
    let (header, frame) = rig.out().unwrap();
    assert_eq!(header[6..], [38, 0, 16, 0]);
    assert_eq!(frame[12..16], [0x81, 0, 0x61, 0x23]);
    assert_eq!(frame[..12], packet[..12]);
    assert_eq!(frame[16..], packet[12..]);
}

#[test]
fn without_a_link_packets_get_lost() {
    let mut rig = Rig::up();
    rig.write(offset::CTRL, 1 << 31 | 0x241);
    rig.put(TX_BUFFERS, &outgoing(60));
    let index = rig.describe(legacy(TX_BUFFERS, 60) | EOP | RS);
    rig.ring_doorbell();
    rig.turn();
    assert!(rig.sent(index) && rig.out().is_none());
}

#[test]
fn a_full_backend_stops_the_ring_until_there_is_room() {
    let mut rig = Rig::up();
    let mut number = 0u32;
    let interest = loop {
        let mut frame = outgoing(1000);
        frame[20..24].copy_from_slice(&number.to_le_bytes());
        rig.put(TX_BUFFERS + u64::from(rig.tail) * 2048, &frame);
        rig.describe(legacy(TX_BUFFERS + u64::from(rig.tail) * 2048, 1000) | EOP | RS);
        rig.ring_doorbell();
        number += 1;
        let interest = rig.turn();
        if interest.write {
            break interest;
        }
    };
    assert!(interest.descriptor.is_some() && !interest.again);
    assert_ne!(rig.read(offset::TDH), rig.tail);
    for expected in 0..number {
        let (_, frame) = rig.out().unwrap();
        assert_eq!(frame[20..24], expected.to_le_bytes());
        rig.turn();
    }
    assert_eq!(rig.read(offset::TDH), rig.tail);
}

#[test]
fn the_ring_wraps() {
    let mut rig = Rig::up();
    for n in 0..3 * COUNT {
        let len = 100 + n as usize;
        rig.put(TX_BUFFERS, &outgoing(len));
        rig.describe(legacy(TX_BUFFERS, len) | EOP | RS);
        rig.ring_doorbell();
        rig.turn();
        assert_eq!(rig.out().unwrap().1.len(), len);
    }
}

#[test]
fn doorbells_wake_a_sleeping_thread_once() {
    let mut rig = Rig::up();
    rig.turn();
    rig.put(TX_BUFFERS, &outgoing(60));
    let before = rig.nic.traffic().wakeups;
    for _ in 0..5 {
        rig.describe(legacy(TX_BUFFERS, 60) | EOP | RS);
        rig.ring_doorbell();
    }
    assert_eq!(rig.nic.traffic().wakeups - before, 1);
    rig.turn();
    rig.describe(legacy(TX_BUFFERS, 60) | EOP | RS);
    rig.ring_doorbell();
    assert_eq!(rig.nic.traffic().wakeups - before, 2);
}

#[test]
fn loopback_receives_what_was_sent() {
    let mut rig = Rig::up();
    // RCTL.LBM.
    rig.write(offset::RCTL, rig.read(offset::RCTL) | 3 << 6 | 1 << 3);
    rig.put(TX_BUFFERS, &outgoing(200));
    rig.describe(legacy(TX_BUFFERS, 200) | EOP | RS);
    rig.ring_doorbell();
    rig.turn();
    assert!(rig.out().is_none());
    assert_eq!(rig.got(0).length(), 200);
    assert_eq!(rig.buffer(0, 200), outgoing(200));
}
