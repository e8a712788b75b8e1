//! Looking into received packets: VLAN tags, and whether checksums are right (8254x SDM
//! §3.2.9, §9.3).

use super::registers::ReceiveChecksum;
use crate::net::Sum;
use crate::net::offload::get_u16;

/// What was found of a packet's checksums; `None` where there was nothing to check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// The IPv4 header's.
    pub ip: Option<bool>,
    /// TCP's or UDP's.
    pub l4: Option<bool>,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const DOT1Q: u16 = 0x8100;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The tag of a frame whose type is `vet`.
pub fn tag(frame: &[u8], vet: u16) -> Option<u16> {
    (frame.len() >= 18 && get_u16(frame, 12) == vet).then(|| get_u16(frame, 14))
}

/// Checks what RXCSUM asks for. With `verified`, TCP and UDP are known to be right. `frame`
/// may lack its source and destination: they are not looked at.
pub fn check(frame: &[u8], rxcsum: ReceiveChecksum, verified: bool) -> Verdict {
    let l3 = match get_u16(frame, 12) {
        DOT1Q => 18,
        _ => 14,
    };
    let Some(packet) = frame.get(l3..) else {
        return Verdict::default();
    };
    match get_u16(frame, l3 - 2) {
        IPV4 => check_v4(packet, rxcsum, verified),
        IPV6 if rxcsum.ipv6() => check_v6(packet, rxcsum, verified),
        _ => Verdict::default(),
    }
}

fn check_v4(packet: &[u8], rxcsum: ReceiveChecksum, verified: bool) -> Verdict {
    let mut verdict = Verdict::default();
    let header = packet.first().map_or(0, |b| usize::from(b & 0xf) * 4);
    let total = usize::from(get_u16(packet, 2));
    let (Some(headers), Some(payload)) = (packet.get(..header), packet.get(header..total)) else {
        return verdict;
    };
    if packet[0] >> 4 != 4 || header < 20 {
        return verdict;
    }
    if rxcsum.ip() {
        let mut sum = Sum::default();
        sum.add(headers);
        verdict.ip = Some(sum.value() == 0xffff);
    }
    let fragment = get_u16(packet, 6) & 0x3fff != 0;
    if rxcsum.tcp_udp() && !fragment {
        verdict.l4 = check_l4(&headers[12..20], headers[9], payload, verified);
    }
    verdict
}

fn check_v6(packet: &[u8], rxcsum: ReceiveChecksum, verified: bool) -> Verdict {
    let mut verdict = Verdict::default();
    let end = 40 + usize::from(get_u16(packet, 4));
    // Extension headers are left to software.
    if let (Some(headers), Some(payload)) = (packet.get(..40), packet.get(40..end))
        && rxcsum.tcp_udp()
        && headers[0] >> 4 == 6
    {
        verdict.l4 = check_l4(&headers[8..40], headers[6], payload, verified);
    }
    verdict
}

fn check_l4(addresses: &[u8], protocol: u8, payload: &[u8], verified: bool) -> Option<bool> {
    let shortest = match protocol {
        TCP => 20,
        UDP => 8,
        _ => return None,
    };
    // A UDP checksum of zero is none.
    if payload.len() < shortest || (protocol == UDP && get_u16(payload, 6) == 0) {
        return None;
    }
    if verified {
        return Some(true);
    }
    let mut sum = Sum::default();
    sum.add(addresses);
    sum.add_word(u16::from(protocol));
    sum.add_word(payload.len() as u16);
    sum.add(payload);
    Some(sum.value() == 0xffff)
}
