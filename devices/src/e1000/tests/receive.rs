use super::*;
use crate::net::Sum;
use crate::net::offload::put_u16;

const ON: u32 = 1 << 1 | 1 << 15 | 1 << 26;

fn receive(rig: &Rig, frame: &[u8]) {
    rig.inject(frame);
    rig.turn();
}

/// A UDP packet to the NIC, with right checksums.
fn udp(payload: usize) -> Vec<u8> {
    let mut packet = frame(14);
    packet[12..14].copy_from_slice(&[8, 0]);
    packet.extend([
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1,
    ]);
    packet.extend([0, 53, 0, 99, 0, 0, 0, 0]);
    packet.extend((0..payload).map(|i| (i * 3) as u8));
    let len = (8 + payload) as u16;
    put_u16(&mut packet, 16, 20 + len);
    put_u16(&mut packet, 38, len);
    let mut sum = Sum::default();
    sum.add(&packet[14..34]);
    put_u16(&mut packet, 24, !sum.value());
    let mut sum = Sum::default();
    sum.add(&packet[26..34]);
    sum.add_word(17);
    sum.add_word(len);
    sum.add(&packet[34..]);
    put_u16(&mut packet, 40, sum.checksum());
    packet
}

#[test]
fn a_packet_arrives() {
    let rig = Rig::up();
    let packet = frame(200);
    receive(&rig, &packet);
    let status = rig.got(0);
    assert!(status.done() && status.end() && status.ignore_checksums());
    assert!(!status.inexact() && !status.vlan());
    assert_eq!(status.length(), 200);
    let mut sum = Sum::default();
    sum.add(&packet);
    assert_eq!(status.checksum(), sum.value());
    assert_eq!(rig.buffer(0, 200), packet);
    assert_eq!(rig.read(offset::RDH), 1);
    assert!(rig.asserted());
    assert_eq!(rig.read(offset::ICR), 0x80);
    assert!(!rig.asserted());
    // TPR, GPRC, TOR, PRC255.
    assert_eq!(rig.read(0x40d0), 1);
    assert_eq!(rig.read(0x4074), 1);
    assert_eq!(rig.read(0x40c0), 204);
    assert_eq!(rig.read(0x4064), 1);
}

#[test]
fn a_buffer_may_be_interrupt_requests() {
    let rig = Rig::up();
    let request = 0xfee0_1000_u64;
    let expected = |data| pci::MsiMessage {
        address: request,
        data,
    };
    // Buffers of 256 bytes: four of the packet's are in the second one.
    rig.write(offset::RCTL, ON | 3 << 16);
    rig.put(RX_RING + 16, &request.to_le_bytes());
    receive(&rig, &frame(260));
    assert!(rig.got(1).done() && rig.got(1).end() && !rig.got(1).data_error());
    assert_eq!(rig.got(1).length(), 4);
    let sent = |rig: &Rig| std::mem::take(&mut *rig.requests.0.lock().unwrap());
    assert_eq!(sent(&rig), [expected(0x0302_0100)]);
    // As many as there are bytes in other packets they are none.
    for (index, len) in [(2, 64), (3, 200)] {
        rig.put(RX_RING + 16 * index, &request.to_le_bytes());
        receive(&rig, &frame(len));
        assert!(rig.got(index as u32).done() && rig.got(index as u32).data_error());
    }
    assert_eq!(sent(&rig), []);
    assert_eq!(rig.nic.traffic().malformed, 2);
}

#[test]
fn a_ring_among_interrupt_requests_stands_still() {
    let rig = Rig::up();
    rig.write(offset::RDBAL, 0xfee0_1000);
    rig.write(offset::TDBAL, 0xfee0_2000);
    rig.write(offset::TDT, 5);
    receive(&rig, &frame(60));
    assert_eq!((rig.read(offset::RDH), rig.read(offset::TDH)), (0, 0));
    assert_eq!(rig.requests.0.lock().unwrap().len(), 0);
    // Received Master Abort.
    assert_ne!(rig.nic.read_config(Register::containing(4)) >> 29 & 1, 0);
}

#[test]
fn runts_are_padded_and_a_check_sequence_comes_where_wanted() {
    let rig = Rig::up();
    rig.write(offset::RCTL, ON & !(1 << 26));
    rig.put(RX_BUFFERS, &[0xff; 70]);
    receive(&rig, &frame(42));
    assert_eq!(rig.got(0).length(), 64);
    let mut padded = frame(42);
    padded.resize(64, 0);
    assert_eq!(rig.buffer(0, 65), [&padded[..], &[0xff]].concat());
}

#[test]
fn strangers_are_turned_away() {
    let rig = Rig::up();
    let mut other = frame(60);
    other[5] ^= 1;
    receive(&rig, &other);
    assert!(!rig.got(0).done() && !rig.asserted());
    assert_eq!(rig.read(0x40d0), 1); // seen
    assert_eq!(rig.read(0x4074), 0); // not received
    rig.write(offset::RCTL, ON | 1 << 3);
    receive(&rig, &other);
    assert!(rig.got(0).done());
    // By hash: software looks again.
    let mut group = frame(60);
    group[..6].copy_from_slice(&[0x01, 0, 0x5e, 0, 0, 0xfb]);
    receive(&rig, &group);
    assert!(!rig.got(1).done());
    rig.write(offset::MTA + 4 * (0xfb0 >> 5), 1 << (0xfb0 & 31));
    receive(&rig, &group);
    assert!(rig.got(1).done() && rig.got(1).inexact());
    assert_eq!(rig.read(0x407c), 1); // MPRC
}

#[test]
fn long_packets_only_when_allowed() {
    let rig = Rig::up();
    receive(&rig, &frame(1518));
    assert_eq!(rig.got(0).length(), 1518);
    receive(&rig, &frame(1519));
    assert!(!rig.got(1).done());
    assert_eq!(rig.read(0x40ac), 1); // ROC
    // LPE, BSEX and BSIZE 1: 16 KiB.
    rig.write(offset::RCTL, ON | 1 << 5 | 1 << 25 | 1 << 16);
    let long = frame(16380);
    receive(&rig, &long);
    assert_eq!(rig.got(1).length(), 16380);
    assert_eq!(rig.buffer(1, 16380), long);
    receive(&rig, &frame(16381));
    assert!(!rig.got(2).done());
}

#[test]
fn a_packet_spans_buffers() {
    let rig = Rig::up();
    // 2048-byte buffers, long packets.
    rig.write(offset::RCTL, ON | 1 << 5);
    let long = frame(9000);
    receive(&rig, &long);
    let mut together = Vec::new();
    for n in 0..5 {
        let status = rig.got(n);
        assert!(status.done());
        assert_eq!(status.end(), n == 4);
        together.extend(rig.buffer(n, status.length().into()));
    }
    assert_eq!(together, long);
    assert_eq!(rig.read(offset::RDH), 5);
    // 256-byte buffers, a packet that fills them to the last byte.
    rig.write(offset::RCTL, ON | 3 << 16);
    receive(&rig, &frame(512));
    assert_eq!((rig.got(5).length(), rig.got(6).length()), (256, 256));
    assert!(rig.got(6).end() && !rig.got(7).done());
}

#[test]
fn checksums_are_checked_when_asked() {
    let rig = Rig::up();
    rig.write(offset::RXCSUM, 3 << 8 | 14);
    let good = udp(101);
    let mut sum = Sum::default();
    sum.add(&good[14..]);
    receive(&rig, &good);
    let status = rig.got(0);
    assert!(!status.ignore_checksums() && status.ip_checked() && status.l4_checked());
    assert!(!status.ip_error() && !status.l4_error());
    assert_eq!(status.checksum(), sum.value());

    let mut bad = good.clone();
    bad[100] ^= 1;
    receive(&rig, &bad);
    assert!(rig.got(1).l4_checked() && rig.got(1).l4_error() && !rig.got(1).ip_error());

    let mut bad = good.clone();
    bad[22] ^= 1;
    receive(&rig, &bad);
    assert!(rig.got(2).ip_checked() && rig.got(2).ip_error());

    // A fragment, and UDP without a checksum: only IP's is checked.
    for (at, value) in [(20, 0x2000), (40, 0)] {
        let mut packet = good.clone();
        put_u16(&mut packet, at, value);
        put_u16(&mut packet, 24, 0);
        let mut sum = Sum::default();
        sum.add(&packet[14..34]);
        put_u16(&mut packet, 24, !sum.value());
        let index = rig.read(offset::RDH);
        receive(&rig, &packet);
        let status = rig.got(index);
        assert!(status.ip_checked() && !status.ip_error() && !status.l4_checked());
    }
}

#[test]
fn the_host_may_leave_a_checksum_to_us() {
    let rig = Rig::up();
    rig.write(offset::RXCSUM, 3 << 8);
    let whole = udp(33);
    let mut packet = whole.clone();
    let mut sum = Sum::default();
    sum.add(&packet[26..34]);
    sum.add_word(17);
    sum.add_word(41);
    put_u16(&mut packet, 40, sum.value());
    let message = [&[1, 0, 0, 0, 0, 0, 34, 0, 6, 0][..], &packet].concat();
    rig.peer.send(&message).unwrap();
    rig.turn();
    assert!(rig.got(0).l4_checked() && !rig.got(0).l4_error());
    assert_eq!(rig.buffer(0, whole.len()), whole);
}

#[test]
fn vlan_tags_are_filtered_and_stripped() {
    let rig = Rig::up();
    let plain = udp(60);
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0, 0x61, 0x23]);
    rig.write(offset::RXCSUM, 3 << 8);
    receive(&rig, &tagged);
    assert!(!rig.got(0).vlan() && rig.got(0).l4_checked());
    assert_eq!(rig.buffer(0, tagged.len()), tagged);
    rig.write(offset::CTRL, 1 << 30 | 0x241);
    receive(&rig, &tagged);
    let status = rig.got(1);
    assert!(status.vlan() && status.l4_checked() && !status.l4_error());
    assert_eq!(status.special(), 0x6123);
    assert_eq!(usize::from(status.length()), plain.len());
    assert_eq!(rig.buffer(1, plain.len()), plain);
    // The filter table.
    rig.write(offset::RCTL, ON | 1 << 18);
    receive(&rig, &tagged);
    assert!(!rig.got(2).done());
    rig.write(offset::VFTA + 4 * (0x123 >> 5), 1 << (0x123 & 31));
    receive(&rig, &tagged);
    assert!(rig.got(2).done());
}

#[test]
fn without_buffers_the_wire_waits() {
    let rig = Rig::up();
    for n in 0..COUNT {
        rig.inject(&frame(100 + n as usize));
    }
    let interest = rig.turn();
    assert!(!interest.read);
    assert_eq!(rig.read(offset::RDH), COUNT - 2);
    // The tail write sits in the kernel: the thread comes back for it by itself.
    assert!(interest.deadline.is_some());
    rig.write_later(offset::RDT, COUNT - 3);
    assert!(rig.turn().read);
    assert_eq!(rig.got(COUNT - 1).length(), 100 + COUNT as u16 - 1);
    assert_eq!(rig.read(0x4010), 0, "nothing was missed");
}

#[test]
fn waiting_for_buffers_gets_slower() {
    let rig = Rig::up();
    rig.write(offset::RDT, rig.read(offset::RDH));
    let waits: Vec<_> = (0..10).map(|_| rig.turn().deadline.unwrap()).collect();
    assert_eq!(waits[..3], [1_000_000, 2_000_000, 4_000_000]);
    assert_eq!(waits[9], 100_000_000);
    rig.write(offset::RDT, 5);
    assert_eq!(rig.turn().deadline, None);
}

#[test]
fn a_packet_waits_for_all_the_buffers_it_needs() {
    let rig = Rig::up();
    rig.write(offset::RCTL, ON | 1 << 5);
    rig.write(offset::RDT, 2);
    rig.inject(&frame(5000));
    assert!(
        rig.turn().deadline.is_some(),
        "a tail write may be in the kernel"
    );
    assert!(!rig.got(0).done());
    assert_eq!(rig.read(0x40a0), 1); // RNBC
    rig.write_later(offset::RDT, 3);
    rig.turn();
    assert!(rig.got(2).end());
    assert_eq!(rig.read(0x40a0), 0);
    // No ring of 8 holds it: it is lost, and the guest told.
    rig.write(offset::RDLEN, 128);
    rig.write(offset::RDH, 0);
    rig.write(offset::RDT, 7);
    rig.write(offset::RCTL, ON | 1 << 5 | 3 << 16);
    rig.read(offset::ICR);
    receive(&rig, &frame(5000));
    assert_eq!(rig.read(offset::ICR) & 0x40, 0x40);
    assert_eq!(rig.read(0x4010), 1); // MPC
}

#[test]
fn a_receiver_that_is_off_does_not_read() {
    let rig = Rig::up();
    rig.write(offset::RCTL, ON & !2);
    rig.inject(&frame(60));
    let interest = rig.turn();
    assert!(!interest.read && interest.deadline.is_none());
    rig.write(offset::RCTL, ON);
    rig.turn();
    assert!(rig.got(0).done());
}

#[test]
fn the_threshold_is_reported_once() {
    let rig = Rig::up();
    rig.read(offset::ICR);
    // Half the ring: 62 buffers fall to 32.
    for n in 1..=COUNT - 2 {
        receive(&rig, &frame(60));
        let threshold = rig.read(offset::ICR) & 0x10 != 0;
        assert_eq!(threshold, n == COUNT - 2 - COUNT / 2, "{n}");
    }
}
