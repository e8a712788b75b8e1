//! The e1000 against a TAP: every frame as it was sent, offloads, filters.

use std::time::Duration;

use crate::guest::{Guest, in_company};
use crate::net::{Frame, Tap, checksum, with_tap};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 7];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// For local experiments (IEEE 802, table 3).
const EXPERIMENTAL: u16 = 0x88b5;
const IPV4: u16 = 0x0800;
const PATIENCE: Duration = Duration::from_secs(5);

fn frame(to: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(to);
    frame.extend(HOST);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Frames of all lengths there are, shortest and longest among them.
fn lengths() -> Vec<usize> {
    let mut lengths = vec![60, 61, 62, 63, 64, 65, 127, 128, 129, 1513, 1514];
    lengths.extend((0..29).map(|n| 66 + n * 50));
    lengths
}

#[test]
fn frames_offloads_and_filters() {
    let _turn = in_company();
    with_tap(|tap| {
        let cmdline = format!("frames={}", lengths().len());
        let Some(guest) = Guest::start("e1000", &cmdline, &["--net", &tap.flag()]) else {
            return;
        };
        guest.expect("MAC 02:00:00:00:00:07");
        guest.expect("READY\n");
        echo(tap, &guest);
        checksums(tap, &guest);
        segments(tap, &guest);
        guest.expect("FILTER\n");
        filters(tap, &guest);
        guest.expect("CHECKSUMS\n");
        receive_checksums(tap);
        guest.passes();
    });
}

fn receive(tap: &Tap, guest: &Guest, ether_type: u16) -> Frame {
    let frame = tap.receive(ether_type, PATIENCE);
    frame.unwrap_or_else(|| panic!("no frame; the guest said:\n{}", guest.said()))
}

fn echo(tap: &Tap, guest: &Guest) {
    for (n, length) in lengths().into_iter().enumerate() {
        let payload: Vec<u8> = (14..length).map(|i| (i * 31 + n * 7) as u8).collect();
        let sent = frame(GUEST, EXPERIMENTAL, &payload);
        tap.send(&sent);
        let back = receive(tap, guest, EXPERIMENTAL);
        assert_eq!(back.bytes[..6], HOST);
        assert_eq!(back.bytes[6..12], GUEST);
        assert!(back.bytes[12..] == sent[12..], "a frame of {length} bytes");
        assert!(!back.partial_checksum && back.segment.is_none());
    }
}

/// The sum over pseudo header and the rest is zero.
fn assert_checksums(bytes: &[u8]) {
    let total = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    let ip = &bytes[14..14 + total];
    assert_eq!(checksum(&ip[..20]), 0, "the IP header's");
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend([0, ip[9]]);
    pseudo.extend((total as u16 - 20).to_be_bytes());
    pseudo.extend(&ip[20..]);
    assert_eq!(checksum(&pseudo), 0, "the transport's");
}

fn checksums(tap: &Tap, guest: &Guest) {
    for port in [9, 10] {
        let packet = receive(tap, guest, IPV4);
        assert_eq!(packet.bytes[35], port);
        assert_eq!(packet.bytes.len(), 34 + 109);
        assert_checksums(&packet.bytes);
    }
}

/// 4000 bytes of TCP, either whole with the word to cut it at 1000, or cut.
fn segments(tap: &Tap, guest: &Guest) {
    let mut payload: Vec<u8> = Vec::new();
    while payload.len() < 4000 {
        let packet = receive(tap, guest, IPV4);
        let bytes = &packet.bytes;
        assert_eq!(bytes[23], 6);
        let sequence = u32::from_be_bytes([bytes[38], bytes[39], bytes[40], bytes[41]]);
        assert_eq!(sequence as usize, 0x1234_5678 + payload.len());
        match packet.segment {
            Some(segment) => assert_eq!(segment, 1000),
            None => {
                assert_eq!(bytes.len(), 54 + 1000);
                assert_checksums(bytes);
            }
        }
        payload.extend(&bytes[54..]);
    }
    let expected: Vec<u8> = (0..4000).map(|i| (i * 7 + (i >> 8)) as u8).collect();
    assert!(payload == expected, "the payload differs");
}

fn filters(tap: &Tap, guest: &Guest) {
    let marked = |to, mark| frame(to, EXPERIMENTAL, &[mark; 50]);
    tap.send(&marked(GUEST, 1));
    tap.send(&marked(STRANGER, 2));
    guest.expect("BROADCAST\n");
    tap.send(&marked([0xff; 6], 3));
    guest.expect("PROMISCUOUS\n");
    tap.send(&marked(STRANGER, 4));
}

/// A UDP packet to the guest whose payload starts with `mark`.
fn udp(mark: u8, right: bool) -> Vec<u8> {
    let payload = [mark; 30];
    let length = 8 + payload.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((20 + length).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let mut udp = vec![0, 9, 0, 9];
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(&udp);
    let sum = checksum(&pseudo) ^ if right { 0 } else { 0x0101 };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    ip.extend(udp);
    frame(GUEST, IPV4, &ip)
}

fn receive_checksums(tap: &Tap) {
    tap.send(&udp(5, true));
    tap.send(&udp(6, false));
}
