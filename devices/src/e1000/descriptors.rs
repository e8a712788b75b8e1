//! Descriptors in guest memory (8254x SDM §3.2.3 and §3.3.3 to §3.3.7), and the rings that
//! hold them.

use bitfield::bitfield;

use super::registers::ReceiveControl;
use crate::dma::{Dma, DmaError};

/// Bytes of any descriptor.
pub const SIZE: u64 = 16;

bitfield! {
    /// A legacy transmit descriptor (§3.3.3), or the parts that a data descriptor (§3.3.7)
    /// has in common with it.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct TransmitDescriptor(pub u128);
    impl Debug;
    /// Buffer address.
    pub u64, address, set_address: 63, 0;
    /// Length of a legacy descriptor's buffer.
    pub u16, legacy_length, set_legacy_length: 79, 64;
    /// CSO: where a legacy descriptor's checksum goes.
    pub u8, checksum_offset, set_checksum_offset: 87, 80;
    /// Length of a data descriptor's buffer.
    pub u32, data_length, set_data_length: 83, 64;
    /// DTYP: 0 is a context descriptor, 1 a data descriptor.
    pub u8, extended_type, set_extended_type: 87, 84;
    /// EOP: end of packet.
    pub end, set_end: 88;
    /// IFCS: insert the frame check sequence.
    pub insert_fcs, set_insert_fcs: 89;
    /// IC: insert a checksum (legacy); TSE: segment (data and context).
    pub checksum_or_segment, set_checksum_or_segment: 90;
    /// RS: report status.
    pub report, set_report: 91;
    /// RPS: report packet sent; the same here.
    pub report_sent, set_report_sent: 92;
    /// DEXT: not a legacy descriptor.
    pub extended, set_extended: 93;
    /// VLE: insert a VLAN tag.
    pub vlan, set_vlan: 94;
    /// IDE: the interrupt may be delayed.
    pub delay, set_delay: 95;
    /// Status byte; bit 0 is DD.
    pub u8, status, set_status: 103, 96;
    /// CSS: where a legacy descriptor's checksum starts.
    pub u8, checksum_start, set_checksum_start: 111, 104;
    /// IXSM: insert the IP checksum (data).
    pub ip_checksum, set_ip_checksum: 104;
    /// TXSM: insert the TCP or UDP checksum (data).
    pub tcp_udp_checksum, set_tcp_udp_checksum: 105;
    /// The VLAN tag.
    pub u16, special, set_special: 127, 112;
}

/// What a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Legacy data.
    Legacy,
    /// A context for data descriptors to come.
    Context,
    /// Data.
    Data,
}

impl TransmitDescriptor {
    /// What it is. Reserved types count as data.
    pub fn kind(self) -> Kind {
        match (self.extended(), self.extended_type()) {
            (false, _) => Kind::Legacy,
            (true, 0) => Kind::Context,
            (true, _) => Kind::Data,
        }
    }

    /// Bytes in its buffer.
    pub fn length(self) -> usize {
        match self.kind() {
            Kind::Legacy => usize::from(self.legacy_length()),
            Kind::Context => 0,
            Kind::Data => self.data_length() as usize,
        }
    }

    /// Its status is to be written back.
    pub fn reports(self) -> bool {
        self.report() || self.report_sent()
    }
}

bitfield! {
    /// A context descriptor (§3.3.6): where checksums start, end and go, and how to segment.
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct Context(pub u128);
    impl Debug;
    /// IPCSS: start of the IP header.
    pub u8, ip_start, set_ip_start: 7, 0;
    /// IPCSO: where its checksum goes.
    pub u8, ip_field, set_ip_field: 15, 8;
    /// IPCSE: its last byte.
    pub u16, ip_end, set_ip_end: 31, 16;
    /// TUCSS: start of the TCP or UDP header.
    pub u8, l4_start, set_l4_start: 39, 32;
    /// TUCSO: where its checksum goes.
    pub u8, l4_field, set_l4_field: 47, 40;
    /// TUCSE: last byte summed; 0 for all of the packet.
    pub u16, l4_end, set_l4_end: 63, 48;
    /// PAYLEN: payload bytes of the packet to be segmented.
    pub u32, payload, set_payload: 83, 64;
    /// TCP, or else UDP.
    pub tcp, set_tcp: 88;
    /// IPv4, or else IPv6.
    pub ipv4, set_ipv4: 89;
    /// TSE: this is the context for segmentation.
    pub segment, set_segment: 90;
    /// HDRLEN: length of all headers.
    pub u8, header, set_header: 111, 104;
    /// MSS: payload of each segment.
    pub u16, mss, set_mss: 127, 112;
}

bitfield! {
    /// The half of a receive descriptor that the device writes (§3.2.3).
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct ReceiveStatus(pub u64);
    impl Debug;
    /// Bytes in the buffer.
    pub u16, length, set_length: 15, 0;
    /// Packet checksum.
    pub u16, checksum, set_checksum: 31, 16;
    /// DD: done.
    pub done, set_done: 32;
    /// EOP: end of packet.
    pub end, set_end: 33;
    /// IXSM: the other checksum bits mean nothing.
    pub ignore_checksums, set_ignore_checksums: 34;
    /// VP: a VLAN tag was stripped.
    pub vlan, set_vlan: 35;
    /// TCPCS: the TCP or UDP checksum was checked.
    pub l4_checked, set_l4_checked: 37;
    /// IPCS: the IP checksum was checked.
    pub ip_checked, set_ip_checked: 38;
    /// PIF: passed by an inexact filter.
    pub inexact, set_inexact: 39;
    /// TCPE: the TCP or UDP checksum is wrong.
    pub l4_error, set_l4_error: 45;
    /// IPE: the IP checksum is wrong.
    pub ip_error, set_ip_error: 46;
    /// RXE: the data is wrong.
    pub data_error, set_data_error: 47;
    /// The VLAN tag.
    pub u16, special, set_special: 63, 48;
}

/// A ring and its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ring {
    base: u64,
    length: u32,
    head: u32,
    tail: u32,
    /// Its memory could not be reached. It stands still until it is programmed anew.
    halted: bool,
}

impl Ring {
    /// Base address; the low 4 bits are zero.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Writes the low or high half of the base address.
    pub fn set_base(&mut self, value: u32, high: bool) {
        self.halted = false;
        self.base = if high {
            self.base & 0xffff_ffff | u64::from(value) << 32
        } else {
            self.base & !0xffff_ffff | u64::from(value & !0xf)
        };
    }

    /// Length in bytes, a multiple of 128.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Writes the length.
    pub fn set_length(&mut self, value: u32) {
        self.halted = false;
        self.length = value & 0xf_ff80;
    }

    /// First descriptor that the device has.
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Writes the head.
    pub fn set_head(&mut self, value: u32) {
        self.halted = false;
        self.head = value & 0xffff;
    }

    /// First descriptor that the device does not have.
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// Writes the tail.
    pub fn set_tail(&mut self, value: u32) {
        self.tail = value & 0xffff;
    }

    /// Stops it until it is programmed anew.
    pub fn halt(&mut self) {
        self.halted = true;
    }

    /// It has descriptors, and its memory could be reached so far.
    pub fn is_usable(&self) -> bool {
        self.count() > 0 && !self.halted
    }

    /// Descriptors in the ring.
    pub fn count(&self) -> u32 {
        self.length / SIZE as u32
    }

    /// Descriptors that the device has: none in a ring that makes no sense.
    pub fn available(&self) -> u32 {
        let count = self.count();
        if self.halted || self.head >= count || self.tail >= count {
            return 0;
        }
        (self.tail + count - self.head) % count
    }

    /// The index `by` after `index`.
    pub fn after(&self, index: u32, by: u32) -> u32 {
        (index + by) % self.count().max(1)
    }

    /// Moves the head on.
    pub fn advance(&mut self, by: u32) {
        self.head = self.after(self.head, by);
    }

    /// Where descriptor `index` is.
    pub fn address(&self, index: u32) -> u64 {
        self.base.wrapping_add(u64::from(index) * SIZE)
    }

    /// The threshold that RDMTS asks for, in descriptors (§13.4.22).
    pub fn threshold(&self, rctl: ReceiveControl) -> u32 {
        self.count() >> (rctl.minimum_threshold().min(2) + 1)
    }
}

/// Descriptors read ahead, so that a ring costs one memory access for many.
pub struct ReadAhead {
    bytes: [u8; Self::MOST as usize * SIZE as usize],
    from: u32,
    count: u32,
}

impl ReadAhead {
    /// How far ahead.
    const MOST: u32 = 32;

    /// Nothing read yet.
    pub fn new() -> Self {
        Self {
            bytes: [0; Self::MOST as usize * SIZE as usize],
            from: 0,
            count: 0,
        }
    }

    /// Forgets what was read.
    pub fn forget(&mut self) {
        self.count = 0;
    }

    /// Descriptor `index` of `ring`, one of `left` in a row that the device has.
    pub fn get(&mut self, dma: &Dma, ring: &Ring, index: u32, left: u32) -> Result<u128, DmaError> {
        let mut at = index.wrapping_sub(self.from);
        if at >= self.count {
            let to_end = ring.count().saturating_sub(index);
            let count = left.min(to_end).clamp(1, Self::MOST);
            let bytes = &mut self.bytes[..count as usize * SIZE as usize];
            self.count = 0;
            dma.read(ring.address(index), bytes)?;
            (self.from, self.count) = (index, count);
            at = 0;
        }
        let at = at as usize * SIZE as usize;
        let bytes = self.bytes.get(at..).and_then(|b| b.first_chunk());
        Ok(bytes.map_or(0, |&b| u128::from_le_bytes(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_count_and_wrap() {
        let mut ring = Ring::default();
        assert_eq!(ring.available(), 0);
        ring.set_length(0xfff0_00ff);
        assert_eq!((ring.length(), ring.count()), (0x80, 8));
        ring.set_head(6);
        ring.set_tail(2);
        assert_eq!(ring.available(), 4);
        ring.advance(3);
        assert_eq!((ring.head(), ring.available()), (1, 1));
        assert_eq!(ring.after(7, 1), 0);
    }

    #[test]
    fn a_ring_out_of_bounds_has_nothing() {
        let mut ring = Ring::default();
        ring.set_length(128);
        for (head, tail) in [(8, 0), (0, 8), (0xffff, 0xffff)] {
            ring.set_head(head);
            ring.set_tail(tail);
            assert_eq!(ring.available(), 0);
        }
        ring.set_head(0);
        ring.set_tail(4);
        ring.halt();
        assert_eq!(ring.available(), 0);
        ring.set_head(0);
        assert_eq!(ring.available(), 4);
    }

    #[test]
    fn base_is_aligned_and_64_bits_wide() {
        let mut ring = Ring::default();
        ring.set_base(0x1234_567f, false);
        ring.set_base(0x9, true);
        assert_eq!(ring.base(), 0x9_1234_5670);
        assert_eq!(ring.address(2), 0x9_1234_5690);
    }
}
