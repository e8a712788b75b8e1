//! What a NIC may leave to be done to a packet, and doing it where nobody else will.

use vm_memory::{Bytes, VolatileSlice};

use super::Packet;
use super::checksum::sum;

/// Work left to be done to a frame. Offsets count from the frame's first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// A checksum to fill in.
    pub checksum: Option<PartialChecksum>,
    /// The frame is to be cut into segments. Its headers describe it as if it could be sent
    /// whole; the TCP or UDP checksum is then the one in `checksum`.
    pub segments: Option<Segments>,
}

/// A 16-bit ones' complement checksum over `start` to the end of the frame. Its field holds
/// what is to be added, as a rule the sum of a pseudo header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialChecksum {
    /// First byte that is summed.
    pub start: u16,
    /// Where the checksum goes.
    pub field: u16,
    /// Last byte that is summed, where that is not the last of the frame.
    pub last: Option<u16>,
}

/// How to cut a frame into segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segments {
    /// Network and transport protocol.
    pub kind: SegmentKind,
    /// Start of the IP header.
    pub l3: u16,
    /// Start of the TCP or UDP header.
    pub l4: u16,
    /// Length of all headers.
    pub header: u16,
    /// Payload bytes in each segment but the last; never zero.
    pub mss: u16,
}

/// Network and transport protocol of a packet to be segmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl SegmentKind {
    /// Over IPv4.
    pub const fn is_v4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Udp4)
    }

    /// Carries TCP.
    pub const fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }
}

impl Segments {
    /// The headers lie in order, are at least as long as their protocols' shortest, and
    /// there is a segment size: what [`finish`] relies on.
    pub fn is_sound(&self) -> bool {
        let l3 = if self.kind.is_v4() { 20 } else { 40 };
        let l4 = if self.kind.is_tcp() { 20 } else { 8 };
        self.mss > 0
            && u32::from(self.l3) + l3 <= u32::from(self.l4)
            && u32::from(self.l4) + l4 <= u32::from(self.header)
    }
}

impl Offload {
    /// The same work after `by` bytes were inserted before all of the headers it names.
    pub fn shifted(self, by: u16) -> Self {
        Self {
            checksum: self.checksum.map(|c| PartialChecksum {
                start: c.start.saturating_add(by),
                field: c.field.saturating_add(by),
                last: c.last.map(|l| l.saturating_add(by)),
            }),
            segments: self.segments.map(|s| Segments {
                l3: s.l3.saturating_add(by),
                l4: s.l4.saturating_add(by),
                header: s.header.saturating_add(by),
                ..s
            }),
        }
    }
}

/// Fills in a checksum. Out of range, it is left alone.
pub fn fill_in(frame: &mut [u8], checksum: PartialChecksum) {
    let (start, field) = (usize::from(checksum.start), usize::from(checksum.field));
    let end = match checksum.last {
        Some(last) => frame.len().min(usize::from(last) + 1),
        None => frame.len(),
    };
    let Some(value) = frame.get(start..end).map(|covered| sum(covered).checksum()) else {
        return;
    };
    put_u16(frame, field, value);
}

/// Does all the work that `packet` asks for and gives the frames that come of it, in order.
/// `scratch` holds the packet meanwhile.
pub fn finish(packet: &Packet<'_>, scratch: &mut Vec<u8>, mut emit: impl FnMut(&[u8])) {
    linearize(packet, scratch);
    if packet.offload.segments.is_none() {
        if let Some(checksum) = packet.offload.checksum {
            fill_in(scratch, checksum);
        }
        emit(scratch);
        return;
    }
    let Some(cut) = Cut::new(packet.offload, scratch) else {
        return;
    };
    let header = cut.header();
    let template = scratch[..header].to_vec();
    let (mss, payload) = (cut.mss(), scratch.len() - header);
    let mut done = 0;
    for index in 0.. {
        // Each segment's headers go right before its payload, over the segment before it,
        // which is out already.
        let len = mss.min(payload - done);
        let frame = &mut scratch[done..done + header + len];
        frame[..header].copy_from_slice(&template);
        done += len;
        cut.patch(frame, index, done == payload);
        emit(frame);
        if done == payload {
            break;
        }
    }
}

/// Number of frames that a packet with `payload` bytes after its headers is cut into.
pub fn segment_count(payload: usize, mss: u16) -> usize {
    payload.div_ceil(usize::from(mss.max(1))).max(1)
}

fn linearize(packet: &Packet<'_>, scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(packet.head);
    for piece in packet.body {
        append(scratch, piece);
    }
}

/// Appends the bytes of `piece`.
pub(super) fn append(out: &mut Vec<u8>, piece: &VolatileSlice<'_>) {
    let at = out.len();
    out.resize(at + piece.len(), 0);
    // A read within the piece cannot fail.
    let _ = piece.read_slice(&mut out[at..], 0);
}

/// What all segments of a packet share.
pub(super) struct Cut {
    segments: Segments,
    checksum: Option<PartialChecksum>,
    /// IPv4 identification of the first segment.
    id: u16,
    /// TCP sequence number of the first segment.
    sequence: u32,
    /// Length of the transport header and payload of the packet as a whole.
    whole: u32,
}

impl Cut {
    /// `None` if `packet` is not to be cut, or cannot be as `offload` says.
    pub(super) fn new(offload: Offload, packet: &[u8]) -> Option<Self> {
        let segments = offload.segments?;
        if !segments.is_sound() || packet.len() < usize::from(segments.header) {
            return None;
        }
        let (l3, l4) = (usize::from(segments.l3), usize::from(segments.l4));
        Some(Self {
            segments,
            checksum: offload.checksum,
            id: get_u16(packet, l3 + 4),
            sequence: u32::from(get_u16(packet, l4 + 4)) << 16 | u32::from(get_u16(packet, l4 + 6)),
            whole: packet.len().saturating_sub(l4) as u32,
        })
    }

    /// Length of all headers; no more than the packet's.
    pub(super) fn header(&self) -> usize {
        self.segments.header.into()
    }

    /// Payload bytes in each segment but the last; never zero.
    pub(super) fn mss(&self) -> usize {
        self.segments.mss.into()
    }

    /// Makes the headers of segment `index` its own (8254x SDM §3.5.8 and §3.5.9).
    pub(super) fn patch(&self, frame: &mut [u8], index: u32, last: bool) {
        let s = &self.segments;
        let (l3, l4) = (usize::from(s.l3), usize::from(s.l4));
        let from_l3 = (frame.len() - l3) as u16;
        let from_l4 = (frame.len() - l4) as u16;
        if s.kind.is_v4() {
            put_u16(frame, l3 + 2, from_l3);
            put_u16(frame, l3 + 4, self.id.wrapping_add(index as u16));
            put_u16(frame, l3 + 10, 0);
            let checksum = !sum(&frame[l3..l4]).value();
            put_u16(frame, l3 + 10, checksum);
        } else {
            put_u16(frame, l3 + 4, from_l3.wrapping_sub(40));
        }
        if s.kind.is_tcp() {
            let sequence = self
                .sequence
                .wrapping_add(index.wrapping_mul(u32::from(s.mss)));
            put_u16(frame, l4 + 4, (sequence >> 16) as u16);
            put_u16(frame, l4 + 6, sequence as u16);
            let mut flags = frame[l4 + 13];
            if !last {
                flags &= !(TCP_FIN | TCP_PSH);
            }
            if index > 0 {
                flags &= !TCP_CWR;
            }
            frame[l4 + 13] = flags;
        } else {
            put_u16(frame, l4 + 4, from_l4);
        }
        if let Some(checksum) = self.checksum {
            self.fill_in(frame, checksum, from_l4);
        }
    }

    /// The field holds a pseudo-header sum with the whole packet's length: take that out,
    /// put the segment's in.
    fn fill_in(&self, frame: &mut [u8], checksum: PartialChecksum, len: u16) {
        let field = usize::from(checksum.field);
        let mut pseudo = super::Sum::default();
        pseudo.add_word(get_u16(frame, field));
        pseudo.add_long(!self.whole);
        pseudo.add_word(len);
        put_u16(frame, field, pseudo.value());
        fill_in(frame, checksum);
    }
}

const TCP_FIN: u8 = 1 << 0;
const TCP_PSH: u8 = 1 << 3;
const TCP_CWR: u8 = 1 << 7;

pub(crate) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..).and_then(|b| b.first_chunk()) {
        Some(&b) => u16::from_be_bytes(b),
        None => 0,
    }
}

pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(b) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut()) {
        *b = value.to_be_bytes();
    }
}

#[cfg(test)]
pub(super) mod tests;
