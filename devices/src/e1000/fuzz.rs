//! A NIC at the hands of a hostile guest: arbitrary accesses, rings and frames, with the I/O
//! thread's turns in between. For property tests and for fuzz targets.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use iommu::{INTERRUPT_RANGE, Identity};
use pci::fuzz::Input;
use pci::{ConfigWrite, Function, Register};
use vm_memory::{Bytes, GuestAddress};

use super::registers::offset;
use super::{E1000, E1000Config, MEMORY, PORTS};
use crate::bus::{Deferred, NobodyWatches, PciDevice, Region};
use crate::dma::{Dma, GuestRam};
use crate::irq::{IrqLine, LineSink, MsiSink};
use crate::net::{Mac, NetBackend, Packet, Received, Sent, offload};
use crate::time::{Clock, Nanos};

const RAM: usize = 512 << 10;
const MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
/// Where rings and buffers are.
const TX_RING: u32 = 0x1000;
const RX_RING: u32 = 0x3000;
const BUFFERS: u64 = 0x10000;
const OUTGOING: u64 = 0x40000;
/// Descriptors in each ring.
const COUNT: u32 = 32;
/// No more than a packet of 64 KiB in buffers that overlap, with headers.
const LARGEST: usize = 0x4_0000;

/// The other end of the wire.
#[derive(Default)]
struct Peer {
    coming: VecDeque<Vec<u8>>,
    left: Vec<Vec<u8>>,
    full: bool,
}

struct Backend {
    peer: Arc<Mutex<Peer>>,
    scratch: Vec<u8>,
}

impl NetBackend for Backend {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn link(&self) -> bool {
        true
    }

    /// What is left to be done to a packet can be done, and makes no frame longer than asked.
    fn send(&mut self, packet: &Packet<'_>) -> Sent {
        let mut peer = self.peer.lock().unwrap();
        if std::mem::take(&mut peer.full) {
            return Sent::Full;
        }
        assert!(packet.len() <= LARGEST);
        let segments = packet.offload.segments;
        let longest = segments.map_or(packet.len(), |s| {
            assert!(s.mss > 0 && usize::from(s.header) <= packet.head.len());
            usize::from(s.header) + usize::from(s.mss)
        });
        let frames = &mut peer.left;
        frames.clear();
        offload::finish(packet, &mut self.scratch, |frame| {
            assert!(frame.len() <= longest);
            if frames.len() < 4 {
                frames.push(frame.to_vec());
            }
        });
        Sent::Done
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let Some(frame) = self.peer.lock().unwrap().coming.pop_front() else {
            return Received::Nothing;
        };
        let len = frame.len().min(buffer.len());
        buffer[..len].copy_from_slice(&frame[..len]);
        Received::Frame {
            len,
            verified: len % 2 == 0,
        }
    }
}

/// Nobody listens. An 82540EM has messages only where the guest has it write them.
struct Nobody;

impl LineSink for Nobody {
    fn set(&self, _: bool) {}
}

impl MsiSink for Nobody {
    fn send(&self, message: pci::MsiMessage) {
        assert!(INTERRUPT_RANGE.contains(&message.address) && message.address.is_multiple_of(4));
    }
}

#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed)
    }
}

/// Writes that wait in the kernel.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Vec<(u32, u32)>>,
    nic: Mutex<Weak<E1000>>,
}

impl Deferred for Queue {
    fn flush(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        let nic = self.nic.lock().unwrap().upgrade();
        for (nic, (at, value)) in nic.iter().cycle().zip(waiting) {
            nic.nic.write(at, value);
        }
    }
}

struct Rig {
    nic: Arc<E1000>,
    registers: Arc<dyn Region>,
    ports: Arc<dyn Region>,
    ram: Arc<GuestRam>,
    peer: Arc<Mutex<Peer>>,
    clock: Arc<Hands>,
    queue: Arc<Queue>,
    /// Where the driver writes its next transmit descriptor.
    tail: u32,
}

impl Rig {
    fn new() -> Self {
        let ranges = [(GuestAddress(0), RAM)];
        let ram = Arc::new(GuestRam::from_ranges(&ranges).unwrap());
        let (peer, clock) = (Arc::default(), Arc::new(Hands::default()));
        let queue = Arc::new(Queue::default());
        let nic = E1000::new(E1000Config {
            name: "e1000".to_owned(),
            mac: MAC,
            backend: Box::new(Backend {
                peer: Arc::clone(&peer),
                scratch: Vec::new(),
            }),
            dma: Dma::new(ram.clone(), Arc::new(Identity), Arc::new(Nobody)),
            line: IrqLine::new(Arc::new(Nobody)),
            deferred: queue.clone(),
            clock: clock.clone(),
            watcher: Arc::new(NobodyWatches),
        });
        let nic = Arc::new(nic.unwrap());
        *queue.nic.lock().unwrap() = Arc::downgrade(&nic);
        Self {
            registers: nic.region(MEMORY).unwrap(),
            ports: nic.region(PORTS).unwrap(),
            nic,
            ram,
            peer,
            clock,
            queue,
            tail: 0,
        }
    }

    /// As a driver leaves it when the interface is up.
    fn set_up(&mut self) {
        self.configure(4, 7, 0xf);
        self.tail = 0;
        for (at, value) in [
            (offset::TDBAL, TX_RING),
            (offset::TDBAH, 0),
            (offset::TDLEN, COUNT * 16),
            (offset::TCTL, 1 << 1 | 1 << 3),
            (offset::RDBAL, RX_RING),
            (offset::RDBAH, 0),
            (offset::RDLEN, COUNT * 16),
        ] {
            self.write(at, value);
        }
        for n in 0..COUNT {
            let buffer = BUFFERS + u64::from(n) * 2048;
            self.put((RX_RING + n * 16).into(), &buffer.to_le_bytes());
        }
        self.write(offset::RCTL, 1 << 1 | 1 << 15 | 1 << 26);
        self.write(offset::RDT, COUNT - 2);
        self.write(offset::IMS, 0x9d);
    }

    fn configure(&self, at: u16, value: u32, enables: u8) {
        let write = ConfigWrite::new(Register::containing(at), value, enables);
        self.nic.write_config(write);
    }

    fn write(&self, at: u32, value: u32) {
        self.queue.flush();
        self.registers.write(at.into(), &value.to_le_bytes());
    }

    fn read(&self, at: u32) -> u32 {
        self.queue.flush();
        let mut data = [0; 4];
        self.registers.read(at.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        // Beyond the end of memory it is not a guest's.
        let _ = self.ram.write_slice(bytes, GuestAddress(at));
    }

    /// The I/O thread's turns until it rests, which it does.
    fn turn(&self) {
        let mut turns = 0;
        while self.nic.nic.turn().again {
            turns += 1;
            assert!(turns < 10_000, "the I/O thread never rests");
        }
    }

    /// Puts a transmit descriptor in the ring.
    fn describe(&mut self, low: u64, high: u64) {
        let at = u64::from(TX_RING + self.tail * 16);
        self.put(at, &low.to_le_bytes());
        self.put(at + 8, &high.to_le_bytes());
        self.tail = (self.tail + 1) % COUNT;
    }

    /// A driver that starts anew finds everything in order.
    fn check_order(&mut self) {
        self.nic.reset();
        self.set_up();
        *self.peer.lock().unwrap() = Peer::default();
        let mut frame: Vec<u8> = (0..77).collect();
        frame[6..12].copy_from_slice(&MAC.0);
        self.put(OUTGOING, &frame);
        self.describe(OUTGOING, 77 | 1 << 24 | 1 << 27);
        self.write(offset::TDT, self.tail);
        // The link may take its time.
        for _ in 0..4 {
            self.clock.0.fetch_add(10_000_000_000, Ordering::Relaxed);
            self.turn();
        }
        assert_eq!(self.peer.lock().unwrap().left, [frame]);
        assert_eq!(self.read(offset::TDH), self.tail);
    }
}

/// Registers that do something.
const KNOWN: [u32; 32] = [
    offset::CTRL,
    offset::EECD,
    offset::EERD,
    offset::MDIC,
    offset::ICR,
    offset::ITR,
    offset::ICS,
    offset::IMS,
    offset::IMC,
    offset::RCTL,
    offset::TCTL,
    offset::RDBAL,
    offset::RDLEN,
    offset::RDH,
    offset::RDT,
    offset::RDTR,
    offset::RADV,
    offset::TDBAL,
    offset::TDLEN,
    offset::TDH,
    offset::TDT,
    offset::TIDV,
    offset::TADV,
    offset::RXCSUM,
    offset::VET,
    offset::STATISTICS,
    offset::MTA,
    offset::VFTA,
    offset::TDBAH,
    offset::RDBAH,
    offset::TDT,
    offset::RDT,
];

fn register(input: &mut Input<'_>) -> u32 {
    match input.u8() {
        known @ 0..0xe0 => KNOWN[usize::from(known & 31)],
        _ => u32::from(input.u16()) << 2 & (offset::END - 1),
    }
}

/// A descriptor that may be one, or anything.
fn describe(rig: &mut Rig, input: &mut Input<'_>) {
    let kind = input.u8();
    let (low, high) = match kind & 3 {
        // Legacy or extended data, somewhere in memory, of a plausible length.
        0 | 1 => {
            let (address, len) = (u64::from(input.u16()), u64::from(input.u16() & 0x1fff));
            let command = u64::from(kind) << 22 & 0xff00_0000 | u64::from(kind & 4) << 18;
            (address << 3, len | command | u64::from(input.u32()) << 32)
        }
        // A context: where headers begin and end.
        2 => (
            input.u64() & 0x00ff_3f3f_00ff_3f3f,
            u64::from(input.u32() & 0x0f0f_1fff) | 1 << 29 | u64::from(input.u32()) << 32,
        ),
        _ => (input.u64(), input.u64()),
    };
    rig.describe(low, high);
}

/// A packet to be cut into segments, whose headers may be sound.
fn segmented(rig: &mut Rig, input: &mut Input<'_>) {
    let [l3, l4, header, flags]: [u8; 4] = input.take();
    let l3 = 14 + (l3 & 7);
    let l4 = l3 + 20 + (l4 & 31);
    let header = u64::from(l4) + u64::from(header);
    let low = u64::from(l3) | u64::from(l3 + 10) << 8 | u64::from(l4) << 32;
    let low = low | u64::from(l4 + 16) << 40;
    let mss = u64::from(input.u16() & 0x7ff);
    let tse = 1_u64 << 26 | 1 << 29;
    let kind = u64::from(flags & 3) << 24;
    rig.describe(low, tse | kind | (header & 0xff) << 40 | mss << 48);
    let address = u64::from(input.u16()) << 2;
    let parts = u64::from(flags >> 2 & 3) + 1;
    for n in 1..=parts {
        let len = u64::from(input.u16()) >> (flags >> 4);
        let end = u64::from(n == parts) << 24;
        let sums = u64::from(flags >> 4 & 3) << 40;
        rig.describe(address + n * 64, len | 1 << 20 | tse | end | sums);
    }
    rig.write(offset::TDT, rig.tail);
}

/// Arbitrary register accesses, descriptors and frames. The I/O thread comes to rest, what is
/// sent is in bounds, and after a reset a packet goes out as it is.
pub fn accesses(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut rig = Rig::new();
    if input.u8() & 1 == 0 {
        rig.set_up();
    }
    while !input.is_empty() {
        let what = input.u8();
        match what & 15 {
            0 => {
                rig.read(register(&mut input));
            }
            1 | 2 => rig.write(register(&mut input), input.u32()),
            3 => rig.write(register(&mut input), u32::from(what >> 4)),
            4 => {
                let write = (register(&mut input), input.u32());
                rig.queue.waiting.lock().unwrap().push(write);
            }
            5 | 6 => describe(&mut rig, &mut input),
            7 => segmented(&mut rig, &mut input),
            8 => rig.write(offset::TDT, rig.tail),
            9 => rig.set_up(),
            10 => {
                let mut frame = input.take::<48>().to_vec();
                frame.resize(usize::from(input.u16() & 0x3fff).max(14), what);
                if what & 0x10 == 0 {
                    frame[..6].copy_from_slice(&MAC.0);
                }
                rig.peer.lock().unwrap().coming.push_back(frame);
            }
            11 => {
                let at = u64::from(input.u16()) << 3;
                rig.put(at, &input.take::<16>());
            }
            12 => {
                let time = u64::from(input.u32()) << (what >> 3 & 12);
                rig.clock.0.fetch_add(time, Ordering::Relaxed);
            }
            13 => {
                let at = u64::from(input.u8() & 63);
                rig.ports.write(at, &input.take::<4>());
                rig.ports.read(at, &mut [0; 4]);
            }
            14 => {
                let at = u16::from(input.u8());
                rig.configure(at, input.u32(), what >> 4);
                rig.nic.read_config(Register::containing(at));
            }
            _ if what == 0xff => rig.nic.reset(),
            _ => rig.peer.lock().unwrap().full = true,
        }
        if what & 0x80 == 0 {
            rig.turn();
        }
    }
    rig.turn();
    rig.nic.state();
    rig.check_order();
}
