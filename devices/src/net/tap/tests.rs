use std::os::unix::net::UnixDatagram;

use super::*;
use crate::net::{Offload, tap_pair};

fn segments(kind: SegmentKind) -> Segments {
    Segments {
        kind,
        l3: 14,
        l4: 34,
        header: 54,
        mss: 1448,
    }
}

fn checksum(start: u16, field: u16) -> Option<PartialChecksum> {
    Some(PartialChecksum {
        start,
        field,
        last: None,
    })
}

fn read(peer: &UnixDatagram) -> Vec<u8> {
    let mut buffer = [0; 2000];
    let len = peer.recv(&mut buffer).unwrap();
    buffer[..len].to_vec()
}

#[test]
fn work_left_to_do_goes_into_the_header() {
    let (mut tap, peer) = tap_pair().unwrap();
    let mut frame = [7; 100];
    let mut send = |offload| {
        let (head, body) = frame.split_at_mut(60);
        let body = [body.into()];
        let packet = Packet {
            offload,
            head,
            body: &body,
        };
        assert_eq!(tap.send(&packet), Sent::Done);
    };
    send(Offload::default());
    let got = read(&peer);
    assert_eq!((&got[..10], got.len()), (&[0; 10][..], 110));

    send(Offload {
        checksum: checksum(34, 40),
        segments: None,
    });
    assert_eq!(read(&peer)[..10], [1, 0, 0, 0, 0, 0, 34, 0, 6, 0]);

    send(Offload {
        checksum: checksum(34, 50),
        segments: Some(segments(SegmentKind::Tcp4)),
    });
    assert_eq!(read(&peer)[..10], [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0]);
}

#[test]
fn what_the_header_cannot_say_is_done_here() {
    let (mut tap, peer) = tap_pair().unwrap();
    let frame = [0x11; 100];
    // The field lies before what is summed.
    let packet = Packet {
        offload: Offload {
            checksum: checksum(98, 10),
            segments: None,
        },
        head: &frame,
        body: &[],
    };
    tap.send(&packet);
    let got = read(&peer);
    assert_eq!(got[..10], [0; 10]);
    assert_eq!(got[20..22], (!0x1111u16).to_be_bytes());
    assert_eq!(got[22..], [0x11; 88]);
}

#[test]
fn received_checksums_are_filled_in() {
    let (mut tap, peer) = tap_pair().unwrap();
    let mut message = vec![0; 10 + 60];
    message[0] = NEEDS_CSUM;
    message[6] = 20;
    message[8] = 6;
    message[10 + 20] = 1;
    peer.send(&message).unwrap();
    let mut buffer = [0; 100];
    let got = tap.receive(&mut buffer);
    let (len, verified) = (60, true);
    assert_eq!(got, Received::Frame { len, verified });
    assert_eq!(buffer[26..28], [0xfe, 0xff]);
    assert_eq!(tap.receive(&mut buffer), Received::Nothing);
}

#[test]
fn names_that_cannot_be_are_refused() {
    for name in ["", "..", "a/b", "sixteen-letters-", "a b", "tap%d"] {
        assert!(matches!(Tap::open(name), Err(TapError::Name(_))), "{name}");
    }
    assert!(matches!(Tap::open("sluicenone"), Err(TapError::Missing(_))));
    assert!(matches!(Tap::open("lo"), Err(TapError::NotTap(_))));
    assert!(nix::net::if_::if_nametoindex("sluicenone").is_err());
}
