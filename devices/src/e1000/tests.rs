//! The NIC driven as a driver drives it: registers, rings in guest memory, a TAP whose
//! other end is here, and a clock that only moves when told.

use std::os::unix::net::UnixDatagram;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use iommu::Identity;
use vm_memory::{Bytes, GuestAddress};

use super::nic::Interest;
use super::*;
use crate::dma::GuestRam;
use crate::irq::{LineSink, MsiSink};
use crate::net::tap_pair;
use crate::time::Nanos;

mod hostile;
mod interrupts;
mod live;
mod receive;
mod registers;
mod tcp;
mod transmit;

const MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0, 9];
const RAM: usize = 4 << 20;

/// Where the driver has its rings and buffers.
const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x3000;
const TX_BUFFERS: u64 = 0x10_0000;
const RX_BUFFERS: u64 = 0x20_0000;
const RX_BUFFER: u64 = 0x4000;
/// Descriptors in each ring.
const COUNT: u32 = 64;

#[derive(Default)]
struct Wire(AtomicBool);

impl LineSink for Wire {
    fn set(&self, asserted: bool) {
        self.0.store(asserted, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}

/// Counts how often fast paths changed.
#[derive(Default)]
struct Watcher(AtomicU64);

impl FastPathWatcher for Watcher {
    fn fast_paths_changed(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Interrupt requests that the driver had the NIC write: an 82540EM has no MSI.
#[derive(Default)]
struct Requests(Mutex<Vec<pci::MsiMessage>>);

impl MsiSink for Requests {
    fn send(&self, message: pci::MsiMessage) {
        self.0.lock().unwrap().push(message);
    }
}

/// Writes that wait in the kernel.
#[derive(Default)]
struct Kernel {
    queue: Mutex<Vec<(u64, u32)>>,
    device: Mutex<Weak<E1000>>,
}

impl Deferred for Kernel {
    fn flush(&self) {
        let queue = std::mem::take(&mut *self.queue.lock().unwrap());
        let Some(device) = self.device.lock().unwrap().upgrade() else {
            return;
        };
        for (offset, value) in queue {
            let region = device.region(MEMORY).unwrap();
            region.write(offset, &value.to_le_bytes());
        }
    }
}

struct Rig {
    nic: Arc<E1000>,
    registers: Arc<dyn Region>,
    ram: Arc<GuestRam>,
    peer: UnixDatagram,
    wire: Arc<Wire>,
    requests: Arc<Requests>,
    clock: Arc<Hands>,
    kernel: Arc<Kernel>,
    watcher: Arc<Watcher>,
    /// Where the driver writes its next transmit descriptor.
    tail: u32,
}

impl Rig {
    /// Powered on, decoded and bus master.
    fn new() -> Self {
        let (tap, peer) = tap_pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        Self::with(Box::new(tap), peer)
    }

    fn with(backend: Box<dyn NetBackend>, peer: UnixDatagram) -> Self {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let ram = Arc::new(ram);
        let (wire, clock) = (Arc::new(Wire::default()), Arc::new(Hands::default()));
        let requests = Arc::<Requests>::default();
        let (kernel, watcher) = (Arc::new(Kernel::default()), Arc::new(Watcher::default()));
        let nic = E1000::new(E1000Config {
            name: "e1000".to_owned(),
            mac: MAC,
            backend,
            dma: Dma::new(
                Arc::clone(&ram),
                Arc::new(Identity),
                Arc::clone(&requests) as _,
            ),
            line: IrqLine::new(Arc::clone(&wire) as _),
            deferred: Arc::clone(&kernel) as _,
            clock: Arc::clone(&clock) as _,
            watcher: Arc::clone(&watcher) as _,
        });
        let nic = Arc::new(nic.unwrap());
        *kernel.device.lock().unwrap() = Arc::downgrade(&nic);
        nic.write_config(ConfigWrite::new(Register::containing(4), 7, 0xf));
        Self {
            registers: nic.region(MEMORY).unwrap(),
            nic,
            ram,
            peer,
            wire,
            requests,
            clock,
            kernel,
            watcher,
            tail: 0,
        }
    }

    /// As a driver leaves it when the interface is up, interrupts on.
    fn up() -> Self {
        let rig = Self::new();
        rig.set_up();
        rig
    }

    fn set_up(&self) {
        self.write(offset::TDBAL, TX_RING as u32);
        self.write(offset::TDLEN, COUNT * 16);
        self.write(offset::TCTL, 1 << 1 | 1 << 3);
        self.write(offset::RDBAL, RX_RING as u32);
        self.write(offset::RDLEN, COUNT * 16);
        for i in 0..COUNT {
            let buffer = RX_BUFFERS + u64::from(i) * RX_BUFFER;
            self.put(RX_RING + u64::from(i) * 16, &buffer.to_le_bytes());
        }
        // Enable, broadcast, strip the frame check sequence.
        self.write(offset::RCTL, 1 << 1 | 1 << 15 | 1 << 26);
        self.write(offset::RDT, COUNT - 2);
        self.write(offset::IMS, 0x9d);
    }

    fn read(&self, at: u32) -> u32 {
        self.kernel.flush();
        let mut data = [0; 4];
        self.registers.read(at.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, at: u32, value: u32) {
        self.kernel.flush();
        self.registers.write(at.into(), &value.to_le_bytes());
    }

    /// A write that takes the kernel's slow way.
    fn write_later(&self, at: u32, value: u32) {
        let mut queue = self.kernel.queue.lock().unwrap();
        queue.push((at.into(), value));
    }

    fn turn(&self) -> Interest {
        let mut turns = 0;
        loop {
            let interest = self.nic.nic.turn();
            turns += 1;
            assert!(turns < 10_000, "the I/O thread never rests");
            if !interest.again {
                return interest;
            }
        }
    }

    fn asserted(&self) -> bool {
        self.wire.0.load(Ordering::SeqCst)
    }

    fn sleep_until(&self, now: Nanos) {
        self.clock.0.store(now, Ordering::SeqCst);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Puts a transmit descriptor in the ring.
    fn describe(&mut self, descriptor: u128) -> u32 {
        let index = self.tail;
        self.put(TX_RING + u64::from(index) * 16, &descriptor.to_le_bytes());
        self.tail = (index + 1) % COUNT;
        index
    }

    fn ring_doorbell(&self) {
        self.write(offset::TDT, self.tail);
    }

    /// Status of a transmit descriptor.
    fn sent(&self, index: u32) -> bool {
        self.get(TX_RING + u64::from(index) * 16 + 12, 1)[0] & 1 != 0
    }

    /// What came out of the NIC: virtio-net header and frame.
    fn out(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut buffer = vec![0; 1 << 18];
        let len = self.peer.recv(&mut buffer).ok()?;
        let frame = buffer[10..len].to_vec();
        Some((buffer[..10].to_vec(), frame))
    }

    /// Gives the NIC a frame.
    fn inject(&self, frame: &[u8]) {
        let message = [&[0; 10][..], frame].concat();
        self.peer.send(&message).unwrap();
    }

    /// The device's half of a receive descriptor.
    fn got(&self, index: u32) -> descriptors::ReceiveStatus {
        let bytes = self.get(RX_RING + u64::from(index) * 16 + 8, 8);
        descriptors::ReceiveStatus(u64::from_le_bytes(bytes.try_into().unwrap()))
    }

    /// What is in a receive buffer.
    fn buffer(&self, index: u32, len: usize) -> Vec<u8> {
        self.get(RX_BUFFERS + u64::from(index) * RX_BUFFER, len)
    }
}

/// A frame to the NIC of `len` bytes.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = [&MAC.0[..], &OTHER, &[0x88, 0xb5]].concat();
    frame.extend((frame.len()..len).map(|i| i as u8));
    frame
}

/// The same out of the NIC.
fn outgoing(len: usize) -> Vec<u8> {
    let mut frame = frame(len);
    frame[..6].copy_from_slice(&OTHER);
    frame[6..12].copy_from_slice(&MAC.0);
    frame
}
