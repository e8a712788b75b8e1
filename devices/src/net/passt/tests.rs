use std::io::{Read, Write};

use super::*;
use crate::net::offload::{Offload, PartialChecksum};
use crate::net::stream_pair;

fn send(passt: &mut Passt, frame: &[u8]) -> Sent {
    let mut body = frame[14.min(frame.len())..].to_vec();
    let body = [body.as_mut_slice().into()];
    passt.send(&Packet {
        offload: Offload::default(),
        head: &frame[..14.min(frame.len())],
        body: &body,
    })
}

fn prefixed(frame: &[u8]) -> Vec<u8> {
    let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(frame);
    bytes
}

#[test]
fn frames_go_out_after_their_length() {
    let (mut passt, mut peer) = stream_pair().unwrap();
    let frame: Vec<u8> = (0..100).collect();
    assert_eq!(send(&mut passt, &frame), Sent::Done);
    let mut got = [0; 104];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got[..], prefixed(&frame));
}

#[test]
fn work_is_done_before_sending() {
    let (mut passt, mut peer) = stream_pair().unwrap();
    let checksum = PartialChecksum {
        start: 58,
        field: 20,
        last: None,
    };
    let packet = Packet {
        offload: Offload {
            checksum: Some(checksum),
            segments: None,
        },
        head: &[1; 60],
        body: &[],
    };
    assert_eq!(passt.send(&packet), Sent::Done);
    let mut got = [0; 64];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got[24..26], [0xfe, 0xfe]);
}

#[test]
fn frames_in_pieces_are_put_together() {
    let (mut passt, mut peer) = stream_pair().unwrap();
    let mut buffer = vec![0; 2000];
    let (first, second) = ([5; 60], [6; 1514]);
    let stream = [prefixed(&first), prefixed(&second)].concat();
    let mut frames = Vec::new();
    for piece in stream.chunks(7) {
        peer.write_all(piece).unwrap();
        while let Received::Frame { len, .. } = passt.receive(&mut buffer) {
            frames.push(buffer[..len].to_vec());
        }
    }
    assert_eq!(frames, [first.to_vec(), second.to_vec()]);
}

#[test]
fn a_full_socket_holds_back_and_loses_nothing() {
    let (mut passt, mut peer) = stream_pair().unwrap();
    let mut sent = Vec::new();
    for i in 0.. {
        let frame = vec![i as u8; 1000 + i];
        if send(&mut passt, &frame) == Sent::Full {
            break;
        }
        sent.extend(prefixed(&frame));
    }
    let mut got = vec![0; sent.len()];
    let mut at = 0;
    while at < got.len() {
        at += peer.read(&mut got[at..]).unwrap();
        passt.flush();
    }
    assert!(!passt.has_unsent());
    assert!(got == sent);
    assert_eq!(send(&mut passt, &[1; 60]), Sent::Done);
}

#[test]
fn nonsense_or_an_end_takes_the_link_down() {
    let (mut passt, mut peer) = stream_pair().unwrap();
    peer.write_all(&[0xff; 8]).unwrap();
    assert!(passt.link());
    assert_eq!(passt.receive(&mut [0; 100]), Received::Nothing);
    assert!(!passt.link() && passt.descriptor().is_none());

    let (mut passt, peer) = stream_pair().unwrap();
    drop(peer);
    assert_eq!(passt.receive(&mut [0; 100]), Received::Nothing);
    assert!(!passt.link());
    assert_eq!(send(&mut passt, &[1; 60]), Sent::Done);
}

#[test]
fn forwards_are_read() {
    let forward: Forward = "2222:22".parse().unwrap();
    assert_eq!(
        (forward.protocol, forward.host, forward.guest),
        (Protocol::Tcp, 2222, 22)
    );
    let forward: Forward = "udp:127.0.0.1/53".parse().unwrap();
    assert_eq!(forward.protocol, Protocol::Udp);
    assert_eq!(forward.to_string(), "udp:127.0.0.1/53:53");
    for text in ["", "x", "0:1", "1:70000", "sctp:1:1", "host/1:1"] {
        assert!(text.parse::<Forward>().is_err(), "{text}");
    }
}

#[test]
fn failures_come_in_one_line() {
    let missing = PasstConfig {
        program: "/nonexistent/passt".into(),
        ..PasstConfig::default()
    };
    assert!(matches!(
        Passt::start(&missing),
        Err(PasstError::Start { .. })
    ));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let forward = format!("127.0.0.1/{port}:80").parse().unwrap();
    let clash = PasstConfig {
        forwards: vec![forward],
        ..PasstConfig::default()
    };
    let error = Passt::start(&clash).err().unwrap().to_string();
    assert!(error.contains(&format!("{port}:80")), "{error}");
    // A stand-in that fails as the real one does.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("passt");
    std::fs::write(
        &program,
        "#!/bin/sh\necho 'Failed to send 46 bytes to syslog' >&2\n\
         echo 'External interface not usable' >&2\nexit 1\n",
    )
    .unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    let config = PasstConfig {
        program,
        ..PasstConfig::default()
    };
    let error = Passt::start(&config).err().unwrap();
    assert_eq!(error.to_string(), "passt: External interface not usable");
}

#[test]
fn padding_is_taken_off_short_ipv4_frames() {
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[16..18].copy_from_slice(&40u16.to_be_bytes());
    assert_eq!(without_padding(&frame).len(), 54);
    // What claims to be longer than it is, and what is not IPv4, stays whole.
    frame[16..18].copy_from_slice(&1500u16.to_be_bytes());
    assert_eq!(without_padding(&frame).len(), 60);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(without_padding(&frame).len(), 60);
    assert_eq!(without_padding(&frame[..10]).len(), 10);
}
