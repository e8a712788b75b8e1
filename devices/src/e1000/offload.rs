//! What descriptors ask to be done to a packet (8254x SDM §3.3.3.1, §3.4 and §3.5): checked
//! once against the packet's length, so that nothing that follows can go out of bounds.

use super::descriptors::{Context, Kind, TransmitDescriptor};
use super::transmit::HEAD;
use crate::net::offload::{get_u16, put_u16};
use crate::net::{Offload, PartialChecksum, SegmentKind, Segments, Sum};

/// What is to be done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Work {
    /// Bytes that must be at hand for it.
    pub head: usize,
    /// An IP header checksum, to be filled in here.
    ip: Option<PartialChecksum>,
    offload: Offload,
}

/// What the descriptors of a packet of `total` bytes ask for; `None` if they ask for
/// segments and what they say cannot be right. Checksums that cannot be are left out.
pub fn work(
    first: TransmitDescriptor,
    last: TransmitDescriptor,
    context: Context,
    total: usize,
) -> Option<Work> {
    match first.kind() {
        Kind::Context => None,
        Kind::Legacy => Some(legacy(last, total)),
        Kind::Data if first.checksum_or_segment() => segmented(first, context, total),
        Kind::Data => Some(checksummed(first, context, total)),
    }
}

/// Legacy descriptors: one checksum to the end of the packet.
fn legacy(last: TransmitDescriptor, total: usize) -> Work {
    let mut work = Work::default();
    if last.checksum_or_segment() && last.kind() == Kind::Legacy {
        let (start, field) = (last.checksum_start(), last.checksum_offset());
        work.offload.checksum = l4_checksum(start, field, 0, total);
    }
    work.cover();
    work
}

/// Data descriptors without TSE.
fn checksummed(first: TransmitDescriptor, context: Context, total: usize) -> Work {
    let mut work = Work::default();
    if first.ip_checksum() {
        work.ip = ip_checksum(context, total);
    }
    if first.tcp_udp_checksum() {
        let (start, field) = (context.l4_start(), context.l4_field());
        work.offload.checksum = l4_checksum(start, field, context.l4_end(), total);
    }
    work.cover();
    work
}

/// Data descriptors with TSE.
fn segmented(first: TransmitDescriptor, context: Context, total: usize) -> Option<Work> {
    let kind = match (context.tcp(), context.ipv4()) {
        (true, true) => SegmentKind::Tcp4,
        (true, false) => SegmentKind::Tcp6,
        (false, true) => SegmentKind::Udp4,
        (false, false) => SegmentKind::Udp6,
    };
    let segments = Segments {
        kind,
        l3: context.ip_start().into(),
        l4: context.l4_start().into(),
        header: context.header().into(),
        mss: context.mss(),
    };
    let header = usize::from(segments.header);
    let checksum = match first.tcp_udp_checksum() {
        true => Some(l4_checksum(
            context.l4_start(),
            context.l4_field(),
            0,
            header,
        )?),
        false => None,
    };
    (segments.is_sound() && header <= total).then_some(Work {
        head: header,
        ip: None,
        offload: Offload {
            checksum,
            segments: Some(segments),
        },
    })
}

fn ip_checksum(context: Context, total: usize) -> Option<PartialChecksum> {
    let checksum = PartialChecksum {
        start: context.ip_start().into(),
        field: context.ip_field().into(),
        last: Some(context.ip_end()),
    };
    let end = usize::from(context.ip_end()) + 1;
    let fits = end <= total.min(HEAD) && usize::from(checksum.field) + 2 <= total;
    (fits && checksum.start <= context.ip_end()).then_some(checksum)
}

fn l4_checksum(start: u8, field: u8, end: u16, total: usize) -> Option<PartialChecksum> {
    let fits = usize::from(start) < total && usize::from(field) + 2 <= total;
    let whole = end == 0 || usize::from(end) + 1 >= total;
    fits.then_some(PartialChecksum {
        start: start.into(),
        field: field.into(),
        last: (!whole).then_some(end),
    })
}

impl Work {
    /// Has the bytes at hand that checksums are put in.
    fn cover(&mut self) {
        let field = |c: Option<PartialChecksum>| c.map_or(0, |c| usize::from(c.field) + 2);
        let ip_end = self
            .ip
            .and_then(|c| c.last)
            .map_or(0, |l| usize::from(l) + 1);
        self.head = field(self.ip).max(ip_end).max(field(self.offload.checksum));
    }

    /// Does what is done to the headers here; what is left for whoever sends the packet.
    pub fn apply(self, head: &mut [u8], total: usize) -> Offload {
        if let Some(checksum) = self.ip {
            // Not through `fill_in`: IP has no second form of zero.
            let (start, field) = (usize::from(checksum.start), usize::from(checksum.field));
            let end = checksum
                .last
                .map_or(head.len(), |last| usize::from(last) + 1);
            if let Some(covered) = head.get(start..end) {
                let mut sum = Sum::default();
                sum.add(covered);
                put_u16(head, field, !sum.value());
            }
        }
        let mut offload = self.offload;
        if let Some(segments) = offload.segments {
            describe_whole(head, total, segments, offload.checksum);
            let payload = total - usize::from(segments.header).min(total);
            if payload <= usize::from(segments.mss) {
                offload.segments = None;
            }
        }
        offload
    }
}

/// Makes the headers of a packet to be segmented describe it as a whole: drivers leave
/// lengths out, the hardware fills in each segment's (§3.5.7).
fn describe_whole(
    head: &mut [u8],
    total: usize,
    segments: Segments,
    checksum: Option<PartialChecksum>,
) {
    let (l3, l4) = (usize::from(segments.l3), usize::from(segments.l4));
    let from_l4 = total - l4.min(total);
    if segments.kind.is_v4() {
        put_u16(head, l3 + 2, (total - l3.min(total)) as u16);
        put_u16(head, l3 + 10, 0);
        let mut sum = Sum::default();
        sum.add(head.get(l3..l4).unwrap_or_default());
        put_u16(head, l3 + 10, !sum.value());
    } else {
        let payload = total.saturating_sub(l3 + 40);
        put_u16(head, l3 + 4, payload as u16);
    }
    if !segments.kind.is_tcp() {
        put_u16(head, l4 + 4, from_l4 as u16);
    }
    if let Some(checksum) = checksum {
        let field = usize::from(checksum.field);
        let mut pseudo = Sum::default();
        pseudo.add_word(get_u16(head, field));
        pseudo.add_long(from_l4 as u32);
        put_u16(head, field, pseudo.value());
    }
}
