//! The transmit side: descriptors in, packets out (8254x SDM §3.3 to §3.5).
//!
//! A packet is gathered from its descriptors without being copied: only its first bytes
//! are, those that headers are read from or changed in, because the guest may change its
//! memory while we look. Descriptors are given back once the packet is on its way.
//!
//! A frame check sequence is never sent, whatever IFCS says: nothing behind a backend wants
//! one. Thresholds in TXDCTL change nothing, as every descriptor is written back at once.

use iommu::Access;
use vm_memory::VolatileSlice;

use super::descriptors::{Context, Kind, ReadAhead, Ring, TransmitDescriptor};
use super::nic::{Nic, Outcome, Wire};
use super::offload::{Work, work};
use crate::dma::{DmaError, UnderWay};
use crate::net::offload::segment_count;
use crate::net::{Mac, Offload, Packet, Sent};

/// Packets sent before other work has its turn.
const BATCH: usize = 64;
/// Descriptors of one packet. Linux needs some 40 for the longest.
const MAX_CHAIN: usize = 512;
/// Bytes of one packet.
const MAX_BYTES: usize = 1 << 18;
/// Bytes of a packet that are copied at most: any headers, padding, a VLAN tag.
pub(super) const HEAD: usize = 512;
/// Length of a VLAN tag.
const TAG: usize = 4;
/// The shortest frame on the wire, without its frame check sequence (TCTL.PSP).
const SHORTEST: usize = 60;
/// Frame check sequence.
const FCS: usize = 4;
/// DD in the status byte of a transmit descriptor.
const DONE: u8 = 1;

/// What transmission remembers from packet to packet.
pub struct Transmitter {
    /// The context for packets that are not segmented.
    plain: Context,
    /// The context for those that are.
    segment: Context,
    /// The rest of an impossible packet is thrown away, up to its end.
    discarding: bool,
    chain: Vec<TransmitDescriptor>,
    ahead: ReadAhead,
}

/// The registers that a packet depends on, at one moment.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub ring: Ring,
    pub vlan: Option<u16>,
    pub pad: bool,
    /// Where it goes.
    pub wire: Wire,
}

/// The first bytes of a packet.
struct Head {
    bytes: [u8; HEAD + TAG],
    len: usize,
}

impl Transmitter {
    /// As after a reset.
    pub fn new() -> Self {
        Self {
            plain: Context(0),
            segment: Context(0),
            discarding: false,
            chain: Vec::with_capacity(MAX_CHAIN),
            ahead: ReadAhead::new(),
        }
    }

    /// CTRL.RST and other resets.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Sends what is there, up to a batch. `send` takes each packet.
    pub(super) fn run(
        &mut self,
        nic: &Nic,
        mut send: impl FnMut(&Packet<'_>, Wire) -> Sent,
    ) -> Outcome {
        self.ahead.forget();
        let under_way = nic.dma.begin();
        let mut body = Vec::new();
        for _ in 0..BATCH {
            if nic.is_held() {
                return Outcome::More;
            }
            let Some(view) = nic.transmit_view() else {
                return Outcome::Idle;
            };
            match self.collect(nic, &view.ring) {
                Ok(true) => {}
                Ok(false) if nic.transmit_idle(&view.ring) => return Outcome::Idle,
                Ok(false) => continue,
                Err(error) => {
                    nic.transmit_failed(error);
                    return Outcome::Idle;
                }
            }
            match self.one(nic, &under_way, &view, &mut body, &mut send) {
                Ok(Sent::Done) => self.retire(nic, &view.ring),
                Ok(Sent::Full) => return Outcome::Full,
                // It was all taken away in the midst of it: do it again when it is back.
                Err(DmaError::NotMaster) => return Outcome::Idle,
                Err(error) => {
                    nic.malformed(&format_args!("a packet's data: {error}"));
                    self.retire(nic, &view.ring);
                }
            }
        }
        Outcome::More
    }

    /// Collects the descriptors of the next packet, or one context descriptor; false if the
    /// guest has not given all of it yet.
    fn collect(&mut self, nic: &Nic, ring: &Ring) -> Result<bool, DmaError> {
        self.chain.clear();
        let available = ring.available();
        for n in 0..available {
            let index = ring.after(ring.head(), n);
            let raw = self.ahead.get(&nic.dma, ring, index, available - n)?;
            let descriptor = TransmitDescriptor(raw);
            self.chain.push(descriptor);
            let alone = n == 0 && descriptor.kind() == Kind::Context;
            if alone || (descriptor.end() && descriptor.kind() != Kind::Context) {
                return Ok(true);
            }
            // It will not get an end: there is no room for one, or it is without measure.
            if self.chain.len() >= MAX_CHAIN || n + 2 >= ring.count() {
                if !self.discarding {
                    nic.malformed(&"a packet without end");
                }
                self.discarding = true;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends the packet in the chain, or takes note of the context.
    fn one<'a>(
        &mut self,
        nic: &'a Nic,
        under_way: &UnderWay<'_>,
        view: &View,
        body: &mut Vec<VolatileSlice<'a>>,
        send: &mut impl FnMut(&Packet<'_>, Wire) -> Sent,
    ) -> Result<Sent, DmaError> {
        let (Some(&first), Some(&last)) = (self.chain.first(), self.chain.last()) else {
            return Ok(Sent::Done);
        };
        if first.kind() == Kind::Context {
            let context = Context(first.0);
            if context.segment() {
                self.segment = context;
            } else {
                self.plain = context;
            }
            return Ok(Sent::Done);
        }
        if self.discarding {
            self.discarding = !last.end();
            return Ok(Sent::Done);
        }
        let total: usize = self.chain.iter().map(|d| d.length()).sum();
        if total == 0 {
            return Ok(Sent::Done);
        }
        let context = match first.checksum_or_segment() {
            true => self.segment,
            false => self.plain,
        };
        let work = match work(first, last, context, total) {
            Some(work) if total <= MAX_BYTES => work,
            _ => {
                nic.malformed(&"a packet whose parts do not fit together");
                return Ok(Sent::Done);
            }
        };
        let mut head = self.gather(nic, under_way, &work, total, body)?;
        let offload = self.finish_head(view, work, total, &mut head);
        let packet = Packet {
            offload,
            head: &head.bytes[..head.len],
            body,
        };
        let sent = send(&packet, view.wire);
        if sent == Sent::Done {
            account(nic, &packet);
        }
        Ok(sent)
    }

    /// Copies the first bytes, and finds the memory that the others are in.
    fn gather<'a>(
        &self,
        nic: &'a Nic,
        under_way: &UnderWay<'_>,
        work: &Work,
        total: usize,
        body: &mut Vec<VolatileSlice<'a>>,
    ) -> Result<Head, DmaError> {
        body.clear();
        let mut head = Head {
            bytes: [0; HEAD + TAG],
            len: 0,
        };
        // A short packet is copied whole, to be padded.
        let wanted = match total <= SHORTEST {
            true => total,
            false => work.head.clamp(14, HEAD).min(total),
        };
        for descriptor in &self.chain {
            let (address, len) = (descriptor.address(), descriptor.length());
            nic.dma
                .for_each_piece(under_way, address, len, Access::Read, |piece| {
                    let copied = piece.len().min(wanted - head.len);
                    let to = &mut head.bytes[head.len..head.len + copied];
                    piece.copy_to(to);
                    head.len += copied;
                    if let Ok(rest) = piece.offset(copied)
                        && !rest.is_empty()
                    {
                        body.push(rest);
                    }
                })?;
        }
        Ok(head)
    }

    /// Makes the headers what they have to be, tags and pads; what is left to be done.
    fn finish_head(&self, view: &View, work: Work, total: usize, head: &mut Head) -> Offload {
        let mut offload = work.apply(&mut head.bytes[..head.len], total);
        let tagged = self.chain.iter().find(|d| d.vlan());
        if let (Some(vet), Some(descriptor)) = (view.vlan, tagged)
            && head.len >= 12
        {
            head.bytes.copy_within(12..head.len, 12 + TAG);
            head.bytes[12..14].copy_from_slice(&vet.to_be_bytes());
            head.bytes[14..16].copy_from_slice(&descriptor.special().to_be_bytes());
            head.len += TAG;
            offload = offload.shifted(TAG as u16);
        }
        if view.pad && total <= SHORTEST {
            head.len = head.len.max(SHORTEST);
        }
        offload
    }

    /// Gives the chain's descriptors back (§3.3.3.2).
    fn retire(&self, nic: &Nic, ring: &Ring) {
        let mut reported = 0;
        let mut delayed = true;
        for (n, descriptor) in self.chain.iter().enumerate() {
            if !descriptor.reports() {
                continue;
            }
            let address = ring.address(ring.after(ring.head(), n as u32));
            let status = descriptor.status() | DONE;
            if let Err(error) = nic.dma.write(address.wrapping_add(12), &[status]) {
                return nic.transmit_failed(error);
            }
            reported += 1;
            delayed &= descriptor.delay();
        }
        nic.transmitted(self.chain.len() as u32, reported, delayed);
    }
}

/// Counts a packet as what it is on the wire.
fn account(nic: &Nic, packet: &Packet<'_>) {
    let Some(&destination) = packet.head.first_chunk() else {
        return;
    };
    let (destination, len) = (Mac(destination), packet.len());
    let mut registers = nic.registers();
    registers.traffic.sent += 1;
    registers.traffic.sent_bytes += len as u64;
    let statistics = &mut registers.statistics;
    let Some(segments) = packet.offload.segments else {
        return statistics.sent(destination, len + FCS, 1);
    };
    let header = usize::from(segments.header);
    let (payload, mss) = (len.saturating_sub(header), usize::from(segments.mss));
    let count = segment_count(payload, segments.mss);
    let last = payload - mss * (count - 1);
    statistics.sent(destination, header + mss + FCS, count as u32 - 1);
    statistics.sent(destination, header + last + FCS, 1);
    statistics.segmented();
}
