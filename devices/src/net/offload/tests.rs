use proptest::prelude::*;

use super::*;
use crate::net::Sum;

/// A whole TCP or UDP packet as a NIC would hand it over: full lengths, and the sum of the
/// pseudo header where the checksum goes.
pub(in crate::net) fn packet(kind: SegmentKind, payload: &[u8], mss: u16) -> (Vec<u8>, Offload) {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    let l4_header = if kind.is_tcp() { 32 } else { 8 };
    let l4_len = l4_header + payload.len();
    let protocol = if kind.is_tcp() { 6u8 } else { 17 };
    let l4 = if kind.is_v4() {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(((20 + l4_len) as u16).to_be_bytes());
        frame.extend([0xff, 0xfe, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        34
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((l4_len as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend([0xfd; 16]);
        frame.extend([0xfe; 16]);
        54
    };
    let addresses = if kind.is_v4() { 26..34 } else { 22..54 };
    let mut pseudo = Sum::default();
    pseudo.add(&frame[addresses]);
    pseudo.add_word(u16::from(protocol));
    pseudo.add_long(l4_len as u32);
    frame.resize(l4 + l4_header, 0);
    let field = if kind.is_tcp() {
        put_u16(&mut frame, l4 + 4, 0xffff); // sequence number, about to wrap
        put_u16(&mut frame, l4 + 6, 0xff00);
        frame[l4 + 12] = 8 << 4;
        frame[l4 + 13] = 0x10 | TCP_FIN | TCP_PSH | TCP_CWR;
        l4 + 16
    } else {
        put_u16(&mut frame, l4 + 4, l4_len as u16);
        l4 + 6
    };
    put_u16(&mut frame, field, pseudo.value());
    frame.extend_from_slice(payload);
    let offload = Offload {
        checksum: Some(PartialChecksum {
            start: l4 as u16,
            field: field as u16,
            last: None,
        }),
        segments: Some(Segments {
            kind,
            l3: 14,
            l4: l4 as u16,
            header: (l4 + l4_header) as u16,
            mss,
        }),
    };
    (frame, offload)
}

/// Checks a finished frame's lengths and checksums from scratch, as a receiver would.
pub(in crate::net) fn check(frame: &[u8], kind: SegmentKind) {
    let l4 = if kind.is_v4() { 34 } else { 54 };
    let l4_len = (frame.len() - l4) as u16;
    let mut pseudo = Sum::default();
    if kind.is_v4() {
        assert_eq!(get_u16(frame, 16), l4_len + 20);
        assert_eq!(sum(&frame[14..34]).value(), 0xffff);
        pseudo.add(&frame[26..34]);
    } else {
        assert_eq!(get_u16(frame, 18), l4_len);
        pseudo.add(&frame[22..54]);
    }
    pseudo.add_word(if kind.is_tcp() { 6 } else { 17 });
    pseudo.add_word(l4_len);
    pseudo.add(&frame[l4..]);
    assert_eq!(pseudo.value(), 0xffff);
    if !kind.is_tcp() {
        assert_eq!(get_u16(frame, l4 + 4), l4_len);
    }
}

fn segments_of(frame: &mut [u8], offload: Offload) -> Vec<Vec<u8>> {
    let header = usize::from(offload.segments.unwrap().header);
    let (head, body) = frame.split_at_mut(header);
    // The body in two pieces, as guest memory may be.
    let (a, b) = body.split_at_mut(body.len() / 3);
    let body = [VolatileSlice::from(a), VolatileSlice::from(b)];
    let packet = Packet {
        offload,
        head,
        body: &body,
    };
    let mut frames = Vec::new();
    finish(&packet, &mut Vec::new(), |f| frames.push(f.to_vec()));
    frames
}

fn kinds() -> impl Strategy<Value = SegmentKind> {
    prop_oneof![
        Just(SegmentKind::Tcp4),
        Just(SegmentKind::Tcp6),
        Just(SegmentKind::Udp4),
        Just(SegmentKind::Udp6),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn segments_put_together_are_the_packet(
        kind in kinds(),
        payload in proptest::collection::vec(any::<u8>(), 0..5000),
        mss in 1u16..2000,
    ) {
        let mss = mss.max(payload.len() as u16 / 100);
        let (mut frame, offload) = packet(kind, &payload, mss.max(1));
        let header = usize::from(offload.segments.unwrap().header);
        let frames = segments_of(&mut frame, offload);
        prop_assert_eq!(frames.len(), segment_count(payload.len(), mss.max(1)));
        let mut together = Vec::new();
        let l4 = usize::from(offload.segments.unwrap().l4);
        for (i, segment) in frames.iter().enumerate() {
            check(segment, kind);
            let last = i + 1 == frames.len();
            if kind.is_v4() {
                prop_assert_eq!(get_u16(segment, 18), 0xfffe_u16.wrapping_add(i as u16));
            }
            if kind.is_tcp() {
                let at = u32::from_be_bytes(*segment[l4 + 4..].first_chunk().unwrap());
                prop_assert_eq!(at, 0xffff_ff00_u32.wrapping_add(together.len() as u32));
                prop_assert_eq!(segment[l4 + 13] & (TCP_FIN | TCP_PSH) != 0, last);
                prop_assert_eq!(segment[l4 + 13] & TCP_CWR != 0, i == 0);
            }
            together.extend_from_slice(&segment[header..]);
            prop_assert!(last || segment.len() == header + usize::from(mss));
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn nonsense_is_survived(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        start: u8, field: u8, last in proptest::option::of(any::<u16>()),
        segments in proptest::option::of((kinds(), any::<[u8; 3]>(), 0u16..100)),
    ) {
        let offload = Offload {
            checksum: Some(PartialChecksum { start: start.into(), field: field.into(), last }),
            segments: segments.map(|(kind, [l3, l4, header], mss)| Segments {
                kind, l3: l3.into(), l4: l4.into(), header: header.into(), mss,
            }),
        };
        let at = 30.min(bytes.len());
        let (head, body) = bytes.split_at_mut(at);
        let body = [VolatileSlice::from(body)];
        let mut out = 0;
        finish(&Packet { offload, head, body: &body }, &mut Vec::new(), |f| out += f.len());
        prop_assert!(out <= 200 * 256);
    }
}

#[test]
fn a_partial_checksum_is_filled_in() {
    let (mut frame, offload) = packet(SegmentKind::Udp4, b"hello", 100);
    let offload = Offload {
        segments: None,
        ..offload
    };
    let mut frames = Vec::new();
    let packet = Packet {
        offload,
        head: &frame,
        body: &[],
    };
    finish(&packet, &mut Vec::new(), |f| frames.push(f.to_vec()));
    frame = frames.remove(0);
    let checksum = !sum(&frame[14..34]).value();
    put_u16(&mut frame, 24, checksum);
    check(&frame, SegmentKind::Udp4);
}
