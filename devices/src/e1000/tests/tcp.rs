//! A TCP connection to the host's own stack, segments left to be cut by it: what arrives
//! there is what was in the descriptors.

use std::io::Read;
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::live::tap_of_our_own;
use super::*;
use crate::net::offload::{get_u16, put_u16};
use crate::net::{Offload, Packet, Received, Sent, Sum, Tap};

const PORT: u16 = 7777;
const MSS: usize = 1448;
const SYN: u8 = 2;
const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// The guest's end of the connection, at 10.99.0.2.
struct Client {
    rig: Rig,
    theirs: [u8; 6],
    next: u32,
    acknowledged: u32,
    received: u32,
    window: u32,
    /// The receive descriptor to look at next.
    head: u32,
}

impl Client {
    /// Headers with the sum of the pseudo header, as a driver leaves them for TSO.
    fn headers(&self, flags: u8) -> Vec<u8> {
        let mut frame = [&self.theirs[..], &MAC.0, &[8, 0, 0x45, 0, 0, 0]].concat();
        frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1]);
        frame.extend(1234u16.to_be_bytes());
        frame.extend(PORT.to_be_bytes());
        frame.extend(self.next.to_be_bytes());
        frame.extend(self.received.to_be_bytes());
        frame.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let mut pseudo = Sum::default();
        pseudo.add(&frame[26..34]);
        pseudo.add_word(6);
        put_u16(&mut frame, 50, pseudo.value());
        frame
    }

    /// Sends `data` with one context and, at 4 KiB a piece, several data descriptors.
    fn send(&mut self, flags: u8, data: &[u8]) {
        let packet = [self.headers(flags), data.to_vec()].concat();
        let at = TX_BUFFERS;
        self.rig.put(at, &packet);
        let context = 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40 | (data.len() as u128) << 64;
        let tse = 1u128 << 90 | 1 << 93;
        let limits = 54 << 104 | (MSS as u128) << 112;
        self.rig.describe(context | tse | 3 << 88 | limits);
        let pieces = packet.len().div_ceil(4096);
        let mut last = 0;
        for n in 0..pieces {
            let len = (packet.len() - n * 4096).min(4096) as u128;
            let end = if n + 1 == pieces {
                1u128 << 88 | 1 << 91
            } else {
                0
            };
            let address = u128::from(at + 4096 * n as u64);
            let data = address | len << 64 | 1 << 84 | 3 << 104;
            last = self.rig.describe(data | tse | end);
        }
        self.rig.ring_doorbell();
        super::live::eventually("sent", || self.rig.sent(last));
        self.rig.put(TX_RING + 16 * u64::from(last) + 12, &[0]);
        self.next = self.next.wrapping_add(data.len() as u32);
    }

    /// Takes what came; true if it was for the connection.
    fn poll(&mut self) -> bool {
        let status = self.rig.got(self.head);
        if !status.done() {
            return false;
        }
        assert!(!status.l4_error() && !status.ip_error());
        let frame = self.rig.buffer(self.head, status.length().into());
        self.rig
            .put(RX_RING + 16 * u64::from(self.head) + 8, &[0; 8]);
        self.rig.write(offset::RDT, (self.head + COUNT - 1) % COUNT);
        self.head = (self.head + 1) % COUNT;
        if get_u16(&frame, 12) != 0x0800 || frame[23] != 6 {
            return false;
        }
        let long = |at: usize| u32::from_be_bytes(*frame[at..].first_chunk().unwrap());
        if frame[47] & SYN != 0 {
            self.received = long(38).wrapping_add(1);
        }
        assert_eq!(frame[47] & 4, 0, "reset by the host");
        self.acknowledged = long(42);
        // Without window scaling.
        self.window = get_u16(&frame, 48).into();
        true
    }

    fn wait(&mut self, mut until: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !until(self) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "the host is silent"
            );
            if !self.poll() {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

/// Cuts packets itself, as a backend does that has nobody to do it.
struct Cutter(Tap, Vec<u8>);

impl NetBackend for Cutter {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.descriptor()
    }

    fn link(&self) -> bool {
        self.0.link()
    }

    fn send(&mut self, packet: &Packet<'_>) -> Sent {
        let Self(tap, scratch) = self;
        crate::net::offload::finish(packet, scratch, |head| {
            let (offload, body) = (Offload::default(), &[][..]);
            tap.send(&Packet {
                offload,
                head,
                body,
            });
        });
        Sent::Done
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        self.0.receive(buffer)
    }
}

#[test]
fn a_stream_in_segments_arrives_whole() {
    if let Some(tap) = tap_of_our_own() {
        stream(Box::new(tap));
    }
}

#[test]
fn a_stream_in_segments_cut_here_arrives_whole() {
    if let Some(tap) = tap_of_our_own() {
        stream(Box::new(Cutter(tap, Vec::new())));
    }
}

fn stream(backend: Box<dyn NetBackend>) {
    assert!(super::live::ip(
        "link set sluice0 address 02:00:00:00:00:77"
    ));
    let neighbour = format!("neighbour replace 10.99.0.2 lladdr {MAC} dev sluice0");
    assert!(super::live::ip(&neighbour));
    let (_, unused) = UnixDatagram::pair().unwrap();
    let rig = Rig::with(backend, unused);
    rig.set_up();
    rig.write(offset::RXCSUM, 3 << 8);
    rig.nic.start().unwrap();
    let listener = TcpListener::bind(("10.99.0.1", PORT)).unwrap();
    let server = std::thread::spawn(move || {
        let mut data = Vec::new();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_to_end(&mut data).unwrap();
        data
    });
    let mut client = Client {
        rig,
        theirs: [2, 0, 0, 0, 0, 0x77],
        next: 1000,
        acknowledged: 0,
        received: 0,
        window: 0,
        head: 0,
    };
    client.send(SYN, &[]);
    client.next += 1;
    client.wait(|c| c.acknowledged == 1001);
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i ^ i >> 8) as u8).collect();
    let mut sent = 0;
    while sent < data.len() {
        client.wait(|c| {
            let flying = c.next.wrapping_sub(c.acknowledged);
            c.window.saturating_sub(flying) as usize >= 20_000.min(data.len() - sent)
        });
        let flying = client.next.wrapping_sub(client.acknowledged);
        let room = client.window.saturating_sub(flying) as usize;
        let len = room.min(data.len() - sent).min(60_000);
        client.send(ACK | PSH, &data[sent..sent + len]);
        sent += len;
    }
    client.send(ACK | FIN, &[]);
    let arrived = server.join().unwrap();
    assert!(arrived == data, "{} of {} bytes", arrived.len(), data.len());
}
