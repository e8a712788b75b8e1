//! Packets that the host's stack hands over whole, given out in segments.
//!
//! One system call brings up to 64 KiB, which the kernel then neither segments nor sums:
//! that is done here, while the payload is copied to where it is wanted anyway.

use super::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, HEADER, NEEDS_CSUM};
use crate::net::offload::{Cut, Offload, PartialChecksum, SegmentKind, Segments, fill_in, get_u16};

/// An IP packet of any length, the headers before it, and room to tell that it was longer.
const LONGEST: usize = 65535 + 14 + 2 * 4 + 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`.
const DATA_VALID: u8 = 2;
/// Types that stand between an Ethernet header and the network header.
const TAGS: [u16; 2] = [0x8100, 0x88a8];

/// A packet as it was read, and how much of it was given out.
pub struct Whole {
    bytes: Box<[u8]>,
    left: Option<Left>,
}

/// What is left of a packet that is given out in segments.
struct Left {
    cut: Cut,
    len: usize,
    /// Payload bytes, and segments, given out.
    done: usize,
    index: u32,
}

impl Whole {
    pub fn new() -> Self {
        Self {
            bytes: vec![0; LONGEST].into(),
            left: None,
        }
    }

    /// Where to read the next packet.
    pub fn buffer(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The next segment of what was read last; `None` when all of it was given out.
    pub fn next(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let left = self.left.as_mut()?;
        let packet = &self.bytes[..left.len];
        let (head, payload) = packet.split_at(left.cut.header());
        let rest = &payload[left.done..];
        let (now, later) = rest.split_at(left.cut.mss().min(rest.len()));
        let len = head.len() + now.len();
        let index = left.index;
        left.done += now.len();
        left.index += 1;
        let cut = &left.cut;
        if let Some(frame) = buffer.get_mut(..len) {
            frame[..head.len()].copy_from_slice(head);
            frame[head.len()..].copy_from_slice(now);
            cut.patch(frame, index, later.is_empty());
        }
        if later.is_empty() {
            self.left = None;
        }
        Some(len.min(buffer.len()))
    }

    /// Takes note of a packet of `len` bytes that was read behind `header`. Gives the
    /// length of its first frame and whether its checksum is known to be right; `None` for
    /// one that makes no sense.
    pub fn first(
        &mut self,
        header: &[u8; HEADER],
        len: usize,
        buffer: &mut [u8],
    ) -> Option<(usize, bool)> {
        let packet = self.bytes.get(..len)?;
        if header[1] != 0 {
            let offload = segments(header, packet)?;
            self.left = Some(Left {
                cut: Cut::new(offload, packet)?,
                len,
                done: 0,
                index: 0,
            });
            return Some((self.next(buffer)?, true));
        }
        let len = len.min(buffer.len());
        let frame = &mut buffer[..len];
        frame.copy_from_slice(&packet[..len]);
        match checksum(header) {
            Some(checksum) => fill_in(frame, checksum),
            None => return Some((len, header[0] & DATA_VALID != 0)),
        }
        Some((len, true))
    }
}

fn checksum(header: &[u8; HEADER]) -> Option<PartialChecksum> {
    let start = u16::from_le_bytes([header[6], header[7]]);
    let offset = u16::from_le_bytes([header[8], header[9]]);
    (header[0] & NEEDS_CSUM != 0).then(|| PartialChecksum {
        start,
        field: start.saturating_add(offset),
        last: None,
    })
}

/// How to cut `packet`. `hdr_len` is a hint only (virtio 1.2 §5.1.6.4.1), so where the
/// payload starts is read from the TCP header.
fn segments(header: &[u8; HEADER], packet: &[u8]) -> Option<Offload> {
    let kind = match header[1] & !GSO_ECN {
        GSO_TCPV4 => SegmentKind::Tcp4,
        GSO_TCPV6 => SegmentKind::Tcp6,
        _ => return None,
    };
    let checksum = checksum(header)?;
    let mut l3 = 14u16;
    while TAGS.contains(&get_u16(packet, usize::from(l3) - 2)) && l3 < 22 {
        l3 += 4;
    }
    let l4 = checksum.start;
    let data_offset = packet.get(usize::from(l4) + 12)? >> 4;
    let segments = Segments {
        kind,
        l3,
        l4,
        header: l4.checked_add(4 * u16::from(data_offset))?,
        mss: u16::from_le_bytes([header[4], header[5]]),
    };
    let tcp = Some(checksum.field) == l4.checked_add(16);
    tcp.then_some(Offload {
        checksum: Some(checksum),
        segments: Some(segments),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::offload::tests::{check, packet};

    /// What the kernel puts before `offload`.
    fn describe(offload: Offload) -> [u8; HEADER] {
        let (segments, checksum) = (offload.segments.unwrap(), offload.checksum.unwrap());
        let mut header = [0; HEADER];
        header[0] = NEEDS_CSUM;
        header[1] = match segments.kind.is_v4() {
            true => GSO_TCPV4 | GSO_ECN,
            false => GSO_TCPV6,
        };
        // Whatever hdr_len says.
        header[2..4].copy_from_slice(&[0xee, 0xff]);
        header[4..6].copy_from_slice(&segments.mss.to_le_bytes());
        header[6..8].copy_from_slice(&checksum.start.to_le_bytes());
        header[8..10].copy_from_slice(&(checksum.field - checksum.start).to_le_bytes());
        header
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn segments_put_together_are_the_packet(
            v4: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..20_000),
            mss in 500u16..9000,
        ) {
            let kind = if v4 { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 };
            let (frame, offload) = packet(kind, &payload, mss);
            let mut whole = Whole::new();
            whole.buffer()[..frame.len()].copy_from_slice(&frame);
            let mut buffer = [0; 16_384];
            let mut next = whole.first(&describe(offload), frame.len(), &mut buffer);
            let header = usize::from(offload.segments.unwrap().header);
            let l4 = usize::from(offload.segments.unwrap().l4);
            let mut together = Vec::new();
            while let Some((len, verified)) = next {
                prop_assert!(verified);
                let segment = &buffer[..len];
                check(segment, kind);
                let sequence = u32::from_be_bytes(*segment[l4 + 4..].first_chunk().unwrap());
                prop_assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(together.len() as u32));
                together.extend_from_slice(&segment[header..]);
                let last = together.len() == payload.len();
                prop_assert!(last || len == header + usize::from(mss));
                // FIN and PSH at the end, CWR at the start.
                prop_assert_eq!(segment[l4 + 13] & 0x09 != 0, last);
                prop_assert_eq!(segment[l4 + 13] & 0x80 != 0, sequence == 0xffff_ff00);
                next = whole.next(&mut buffer).map(|len| (len, true));
            }
            prop_assert_eq!(together, payload);
        }

        #[test]
        fn nonsense_is_survived(
            header: [u8; HEADER],
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            room in 0usize..100,
        ) {
            for gso in [header[1], GSO_TCPV4, GSO_TCPV6] {
                let mut whole = Whole::new();
                whole.buffer()[..bytes.len()].copy_from_slice(&bytes);
                let mut header = header;
                header[0] |= NEEDS_CSUM;
                header[1] = gso;
                (header[7], header[9]) = (0, 0);
                let mut buffer = vec![0; room];
                if whole.first(&header, bytes.len(), &mut buffer).is_some() {
                    for _ in 0..bytes.len() + 1 {
                        whole.next(&mut buffer);
                    }
                }
                prop_assert!(whole.next(&mut buffer).is_none());
            }
        }
    }
}
