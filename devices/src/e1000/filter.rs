//! Which packets are received (8254x SDM §3.2.1, §3.2.2, §9.2 and §13.5).
//!
//! **Reset.** Power-on, PCI reset and CTRL.RST load the first receive address from the
//! EEPROM and clear the rest of the tables.

use super::registers::{AddressHigh, ReceiveControl};
use crate::net::Mac;
use crate::net::offload::get_u16;

/// Receive addresses (§13.5.2).
pub const ADDRESSES: usize = 16;
/// Dwords of the multicast and of the VLAN table.
pub const TABLE: usize = 128;

/// The tables.
#[derive(Clone, serde::Serialize)]
pub struct Filter {
    /// RAL and RAH.
    addresses: [(u32, u32); ADDRESSES],
    #[serde(serialize_with = "super::state::boxed")]
    multicast: Box<[u32; TABLE]>,
    #[serde(serialize_with = "super::state::boxed")]
    vlan: Box<[u32; TABLE]>,
}

/// Why a packet is received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Match {
    /// It is for a receive address, or the NIC takes all.
    Exact,
    /// It is for a group by the multicast table alone: software has to look again (PIF).
    Inexact,
}

impl Filter {
    /// Tables as after a reset.
    pub fn new(mac: Mac) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        let mut high = AddressHigh(0);
        high.set_bytes(u16::from_le_bytes([e, f]));
        high.set_valid(true);
        let mut addresses = [(0, 0); ADDRESSES];
        addresses[0] = (u32::from_le_bytes([a, b, c, d]), high.0);
        Self {
            addresses,
            multicast: Box::new([0; TABLE]),
            vlan: Box::new([0; TABLE]),
        }
    }

    /// A dword of the receive addresses: low and high in turn.
    pub fn address(&self, index: usize) -> u32 {
        match self.addresses.get(index / 2) {
            Some(&(low, _)) if index.is_multiple_of(2) => low,
            Some(&(_, high)) => high,
            None => 0,
        }
    }

    /// Writes a dword of the receive addresses.
    pub fn set_address(&mut self, index: usize, value: u32) {
        let defined = 0x8003_ffff;
        match self.addresses.get_mut(index / 2) {
            Some((low, _)) if index.is_multiple_of(2) => *low = value,
            Some((_, high)) => *high = value & defined,
            None => {}
        }
    }

    /// The multicast table.
    pub fn multicast(&mut self) -> &mut [u32; TABLE] {
        &mut self.multicast
    }

    /// The VLAN table.
    pub fn vlan(&mut self) -> &mut [u32; TABLE] {
        &mut self.vlan
    }

    /// Decides about a frame, `tag` being its VLAN tag if it has one.
    pub fn accepts(&self, rctl: ReceiveControl, frame: &[u8], tag: Option<u16>) -> Option<Match> {
        let destination = Mac(*frame.first_chunk()?);
        if let Some(tag) = tag {
            if rctl.vlan_filter() && !bit(&self.vlan, tag & 0xfff) {
                return None;
            }
            if rctl.vlan_filter() && rctl.cfi_filter() && (tag >> 12 & 1 != 0) != rctl.cfi() {
                return None;
            }
        }
        if is_pause(frame) && (rctl.discard_pause() && !rctl.pass_control()) {
            return None;
        }
        self.accepts_address(rctl, destination)
    }

    fn accepts_address(&self, rctl: ReceiveControl, destination: Mac) -> Option<Match> {
        let promiscuous = if destination.is_multicast() {
            rctl.multicast_promiscuous()
        } else {
            rctl.unicast_promiscuous()
        };
        let broadcast = destination == Mac::BROADCAST && rctl.broadcast();
        if promiscuous || broadcast || self.is_ours(destination) {
            return Some(Match::Exact);
        }
        let hashed = destination.is_multicast()
            && bit(&self.multicast, hash(destination, rctl.multicast_offset()));
        hashed.then_some(Match::Inexact)
    }

    fn is_ours(&self, destination: Mac) -> bool {
        let [a, b, c, d, e, f] = destination.0;
        let wanted = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        self.addresses.iter().any(|&(low, high)| {
            let high = AddressHigh(high);
            high.valid() && high.select() == 0 && (low, high.bytes()) == wanted
        })
    }
}

/// The 12 bits that index the multicast table (§13.5.1): of the last two bytes, by MO
/// bits 47:36, 46:35, 45:34 or 43:32.
fn hash(address: Mac, offset: u32) -> u16 {
    let [.., low, high] = address.0;
    let shift = match offset {
        0 => 4,
        1 => 3,
        2 => 2,
        _ => 0,
    };
    (u16::from_le_bytes([low, high]) >> shift) & 0xfff
}

fn bit(table: &[u32; TABLE], index: u16) -> bool {
    table[usize::from(index >> 5) % TABLE] >> (index & 31) & 1 != 0
}

/// A MAC control frame that pauses (IEEE 802.3 §31B).
fn is_pause(frame: &[u8]) -> bool {
    get_u16(frame, 12) == 0x8808 && get_u16(frame, 14) == 0x0001
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

    fn frame(to: [u8; 6]) -> Vec<u8> {
        let mut frame = to.to_vec();
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn unicast_broadcast_and_promiscuous() {
        let filter = Filter::new(OURS);
        let (mine, other) = (frame(OURS.0), frame([0x52, 0x54, 0, 1, 2, 4]));
        let all = frame([0xff; 6]);
        let mut rctl = ReceiveControl(0);
        assert_eq!(filter.accepts(rctl, &mine, None), Some(Match::Exact));
        assert_eq!(filter.accepts(rctl, &other, None), None);
        assert_eq!(filter.accepts(rctl, &all, None), None);
        rctl.set_broadcast(true);
        assert_eq!(filter.accepts(rctl, &all, None), Some(Match::Exact));
        rctl.set_unicast_promiscuous(true);
        assert_eq!(filter.accepts(rctl, &other, None), Some(Match::Exact));
        assert_eq!(filter.accepts(rctl, &[1, 2, 3], None), None);
    }

    #[test]
    fn an_address_counts_while_it_is_valid() {
        let mut filter = Filter::new(OURS);
        let mine = frame(OURS.0);
        filter.set_address(1, filter.address(1) & !(1 << 31));
        assert_eq!(filter.accepts(ReceiveControl(0), &mine, None), None);
        filter.set_address(30, u32::from_le_bytes([0x52, 0x54, 0, 1]));
        filter.set_address(31, 1 << 31 | u32::from(u16::from_le_bytes([2, 3])));
        let exact = Some(Match::Exact);
        assert_eq!(filter.accepts(ReceiveControl(0), &mine, None), exact);
    }

    #[test]
    fn multicast_hashes_by_the_programmed_bits() {
        // The manual's own example (§13.5.1): 01:AA:00:12:34:56.
        let group = [0x01, 0xaa, 0x00, 0x12, 0x34, 0x56];
        for (offset, value) in [(0, 0x563), (1, 0xac6), (2, 0x58d), (3, 0x634)] {
            assert_eq!(hash(Mac(group), offset), value);
            let mut filter = Filter::new(OURS);
            let mut rctl = ReceiveControl(0);
            rctl.set_multicast_offset(offset);
            assert_eq!(filter.accepts(rctl, &frame(group), None), None);
            filter.multicast()[usize::from(value >> 5)] = 1 << (value & 31);
            let inexact = Some(Match::Inexact);
            assert_eq!(filter.accepts(rctl, &frame(group), None), inexact);
            // A unicast address is not looked up there.
            assert_eq!(
                filter.accepts(rctl, &frame([2, 0xaa, 0, 0x12, 0x34, 0x56]), None),
                None
            );
        }
    }

    #[test]
    fn vlans_are_filtered_when_told_to() {
        let mut filter = Filter::new(OURS);
        let mine = frame(OURS.0);
        let mut rctl = ReceiveControl(0);
        assert!(filter.accepts(rctl, &mine, Some(0x6123)).is_some());
        rctl.set_vlan_filter(true);
        assert!(filter.accepts(rctl, &mine, Some(0x6123)).is_none());
        assert!(filter.accepts(rctl, &mine, None).is_some());
        filter.vlan()[0x123 >> 5] |= 1 << (0x123 & 31);
        assert!(filter.accepts(rctl, &mine, Some(0x6123)).is_some());
        rctl.set_cfi_filter(true);
        assert!(filter.accepts(rctl, &mine, Some(0x1123)).is_none());
    }
}
