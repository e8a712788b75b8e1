//! A controller at the hands of a hostile guest: arbitrary accesses and commands, with what
//! the I/O threads would do done in between. For property tests and for fuzz targets.

use std::io;
use std::sync::{Arc, Mutex};

use iommu::{INTERRUPT_RANGE, Identity};
use pci::fuzz::Input;
use pci::{BarIndex, ConfigWrite, Function, Register};
use vm_memory::{Bytes, GuestAddress, VolatileSlice};

use super::worker::Worker;
use super::{DriveConfig, DriveKind, IdeConfig, IdeController};
use crate::block::{BlockBackend, Failure, SECTOR};
use crate::bus::{Deferred, FastPath, PciDevice, Region};
use crate::dma::{Dma, GuestRam};
use crate::irq::{IrqLine, LineSink, MsiSink};

const RAM: usize = 256 << 10;
/// Where descriptor tables and their data are.
const TABLE: u32 = 0x1000;
const DATA: u32 = 0x10000;
const SECTORS: [u64; 2] = [300, 200];
const DISC: u64 = 50 * 2048;

/// A medium in memory, which nobody reaches beyond its end, nor writes to if it is read-only.
struct Medium {
    bytes: Mutex<Vec<u8>>,
    readonly: bool,
}

impl Medium {
    fn new(len: u64, readonly: bool) -> Arc<Self> {
        let mut bytes = vec![0; len as usize];
        for (n, sector) in bytes.chunks_mut(SECTOR as usize).enumerate() {
            sector.fill(n as u8 ^ 0x5a);
        }
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            readonly,
        })
    }

    fn with(
        &self,
        pieces: &[VolatileSlice<'_>],
        offset: u64,
        each: fn(&VolatileSlice<'_>, &mut [u8]),
    ) {
        let mut bytes = self.bytes.lock().unwrap();
        let mut at = offset as usize;
        for piece in pieces {
            each(piece, &mut bytes[at..at + piece.len()]);
            at += piece.len();
        }
    }
}

impl BlockBackend for Medium {
    fn len(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn is_readonly(&self) -> bool {
        self.readonly
    }

    fn can_discard(&self) -> bool {
        !self.readonly
    }

    fn read_vectored_at(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), Failure> {
        self.with(pieces, offset, |piece, bytes| piece.copy_from(bytes));
        Ok(())
    }

    fn write_vectored_at(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), Failure> {
        assert!(!self.readonly);
        self.with(pieces, offset, |piece, bytes| {
            piece.copy_to(bytes);
        });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        assert!(!self.readonly);
        self.bytes.lock().unwrap()[offset as usize..][..len as usize].fill(0);
        Ok(())
    }
}

/// Nobody listens. A controller without MSI has messages only where the guest has it write them.
struct Nobody;

impl LineSink for Nobody {
    fn set(&self, _: bool) {}
}

impl MsiSink for Nobody {
    fn send(&self, message: pci::MsiMessage) {
        assert!(INTERRUPT_RANGE.contains(&message.address) && message.address.is_multiple_of(4));
    }
}

/// Writes that wait in the kernel.
#[derive(Default)]
struct Queue(Mutex<Vec<Write>>);

type Write = (Arc<dyn Region>, u64, Vec<u8>);

impl Deferred for Queue {
    fn flush(&self) {
        let waiting = std::mem::take(&mut *self.0.lock().unwrap());
        for (region, offset, data) in waiting {
            region.write(offset, &data);
        }
    }
}

/// Ports in a row.
struct Place {
    len: u64,
    region: Arc<dyn Region>,
    paths: Vec<FastPath>,
}

struct Rig {
    controller: IdeController,
    memory: Arc<GuestRam>,
    queue: Arc<Queue>,
    disc: Arc<Medium>,
    /// By channel, the command block and the control block; then the bus masters.
    places: Vec<Place>,
}

const BUS_MASTERS: usize = 4;

impl Rig {
    fn new() -> Self {
        let ranges = [(GuestAddress(0), RAM)];
        let memory = Arc::new(GuestRam::from_ranges(&ranges).unwrap());
        let dma = Dma::new(memory.clone(), Arc::new(Identity), Arc::new(Nobody));
        let queue = Arc::new(Queue::default());
        let disc = Medium::new(DISC, true);
        let drive = |kind, backend: Arc<Medium>| DriveConfig {
            kind,
            backend,
            serial: "SL0001".into(),
        };
        let disk = |n: usize| drive(DriveKind::Disk, Medium::new(SECTORS[n] * SECTOR, false));
        let controller = IdeController::new(IdeConfig {
            drives: [
                [Some(disk(0)), Some(drive(DriveKind::Cdrom, disc.clone()))],
                [Some(disk(1)), None],
            ],
            dma,
            lines: [0, 1].map(|_| IrqLine::new(Arc::new(Nobody))),
            deferred: queue.clone(),
        })
        .unwrap();
        let legacy = controller.legacy_ports().into_iter();
        let mut places: Vec<_> = legacy
            .map(|ports| Place {
                len: ports.len.into(),
                region: ports.region,
                paths: ports.fast_paths,
            })
            .collect();
        places.push(Place {
            len: 16,
            region: controller.region(BarIndex(4)).unwrap(),
            paths: controller.fast_paths(BarIndex(4)),
        });
        let rig = Self {
            controller,
            memory,
            queue,
            disc,
            places,
        };
        rig.configure(0x04, 0x0005, 0b0011);
        rig
    }

    fn configure(&self, offset: u16, value: u32, enables: u8) {
        let write = ConfigWrite::new(Register::containing(offset), value, enables);
        self.controller.write_config(write);
    }

    fn store(&self, at: u32, bytes: &[u8]) {
        // Beyond the end of memory it is not a guest's.
        let _ = self.memory.write_slice(bytes, GuestAddress(at.into()));
    }

    /// What the I/O threads would do.
    fn turn(&self) {
        for channel in &self.controller.channels {
            Worker::new(channel).turn();
        }
    }

    fn read(&self, place: usize, offset: u64, data: &mut [u8]) {
        self.queue.flush();
        self.places[place].region.read(offset, data);
    }

    fn write(&self, place: usize, offset: u64, data: &[u8]) {
        self.queue.flush();
        self.places[place].region.write(offset, data);
    }

    /// A write as KVM treats it: rung, queued, or an exit.
    fn write_fast(&self, place: usize, at: u64, data: &[u8]) {
        for path in &self.places[place].paths {
            match path {
                FastPath::Doorbell {
                    offset,
                    value,
                    event,
                    ..
                } if *offset == at && data.len() == 1 && *value == Some(data[0].into()) => {
                    event.write(1).unwrap();
                    return;
                }
                FastPath::Coalesced { offset, len }
                    if *offset <= at && at + data.len() as u64 <= offset + len =>
                {
                    let region = self.places[place].region.clone();
                    let write = (region, at, data.to_vec());
                    return self.queue.0.lock().unwrap().push(write);
                }
                _ => {}
            }
        }
        self.write(place, at, data);
    }

    fn set(&self, channel: usize, register: u64, value: u8) {
        self.write_fast(2 * channel, register, &[value]);
    }

    fn bus_master(&self, channel: usize, offset: u64, data: &[u8]) {
        self.write_fast(BUS_MASTERS, 8 * channel as u64 + offset, data);
    }

    /// A command with its registers, and the bus master's start.
    fn command(&self, channel: usize, registers: [u8; 10], direction: u8) {
        let [device, opcode, high_count, high_lba, low @ .., table] = registers;
        self.set(channel, 6, device);
        self.set(channel, 2, high_count);
        self.set(channel, 3, high_lba);
        for (register, value) in (1..).zip(low) {
            self.set(channel, register, value);
        }
        let table = TABLE + u32::from(table) * 8;
        self.bus_master(channel, 4, &table.to_le_bytes());
        self.bus_master(channel, 0, &[direction & 8]);
        self.set(channel, 7, opcode);
        self.bus_master(channel, 0, &[direction & 8 | 1]);
    }

    fn status(&self, channel: usize) -> u8 {
        let mut status = [0];
        self.read(2 * channel, 7, &mut status);
        status[0]
    }

    /// A guest that comes to its senses finds everything in order.
    fn check_order(&self) {
        self.controller.resume();
        self.controller.reset();
        self.configure(0x04, 0x0005, 0b0011);
        for (channel, sectors) in SECTORS.into_iter().enumerate() {
            self.store(TABLE, &DATA.to_le_bytes());
            self.store(TABLE + 4, &0x8000_0400_u32.to_le_bytes());
            // READ DMA of two sectors.
            self.command(channel, [0xe0, 0xc8, 0, 0, 0, 2, 3, 0, 0, 0], 8);
            self.turn();
            assert_eq!(self.status(channel), 0x50);
            let mut bus_master = [0];
            self.read(BUS_MASTERS, 8 * channel as u64 + 2, &mut bus_master);
            assert_eq!(bus_master[0] & 7, 4);
            // IDENTIFY DEVICE.
            self.set(channel, 7, 0xec);
            self.turn();
            assert_eq!(self.status(channel), 0x58);
            let mut identity = [0; 512];
            let data = &self.places[2 * channel].region;
            data.read_string(0, 2, &mut identity);
            assert_eq!(self.status(channel), 0x50);
            let told = identity[120..124].try_into().unwrap();
            assert_eq!(u64::from(u32::from_le_bytes(told)), sectors);
        }
        let disc = self.disc.bytes.lock().unwrap();
        assert!(*disc == *Medium::new(DISC, true).bytes.lock().unwrap());
    }
}

/// Descriptors of what is in memory, mostly, or interrupt requests.
fn descriptors(rig: &Rig, input: &mut Input<'_>) {
    let first = TABLE + u32::from(input.u8()) * 8;
    for at in (0..u32::from(input.u8() & 15)).map(|n| first + n * 8) {
        let (address, len) = (input.u16(), input.u16());
        let (high, low) = (u32::from(address & 0xfff), u32::from(address >> 12));
        let (address, len) = match low {
            15 => (0xfee0_0000 | high << 8, len & 0x8007),
            _ => (high << 6 | low, len),
        };
        rig.store(at, &address.to_le_bytes());
        rig.store(
            at + 4,
            &(u32::from(len & 0x1fff) | u32::from(len >> 15) << 31).to_le_bytes(),
        );
    }
}

/// Commands that move sectors, or ask for something.
const OPCODES: [u8; 32] = [
    0x06, 0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0x3d, 0x40, 0x42, 0x90, 0x91, 0xa1, 0xc4,
    0xc5, 0xc6, 0xc8, 0xca, 0xce, 0xe5, 0xe7, 0xea, 0xec, 0xef, 0xf8, 0x27, 0xc8, 0xca, 0x25, 0x35,
];

/// A command to sectors that are there, or just beyond, and its data if it takes any.
fn sectors(rig: &Rig, channel: usize, input: &mut Input<'_>) {
    let [opcode, count, table] = input.take();
    let lba = (input.u16() & 0x1ff).to_le_bytes();
    let opcode = OPCODES[usize::from(opcode & 31)];
    let feature = u8::from(opcode == 0x06);
    let (count_low, [low, mid]) = (count & 0x1f, lba);
    let registers = [
        0xe0,
        opcode,
        0,
        0,
        feature,
        count_low,
        low,
        mid,
        0,
        table & 7,
    ];
    rig.command(channel, registers, table >> 4);
    rig.turn();
    let mut data = [table; 2048];
    let len = usize::from(count >> 5) * 256;
    let region = &rig.places[2 * channel].region;
    match table & 8 {
        0 => region.read_string(0, 2, &mut data[..len]),
        _ => region.write_string(0, 2, &data[..len]),
    }
    rig.turn();
}

/// Arbitrary accesses to the ports, commands with descriptor tables and packets. Afterwards a
/// reset brings the drives back, and no medium was reached beyond its end.
pub fn accesses(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let rig = Rig::new();
    while !input.is_empty() {
        let what = input.u8();
        let channel = usize::from(what >> 7);
        let place = usize::from(what >> 4) % rig.places.len();
        let len = 1 << (what >> 6 & 1) << (what >> 5 & 1);
        match what & 15 {
            kind @ 0..=4 => {
                let at = u64::from(input.u8()) % rig.places[place].len;
                // The machine splits what goes beyond a region.
                let len = len.min((rig.places[place].len - at) as usize);
                let mut data: [u8; 4] = input.take();
                match kind {
                    0 | 1 => rig.read(place, at, &mut data[..len]),
                    2 => rig.write(place, at, &data[..len]),
                    _ => rig.write_fast(place, at, &data[..len]),
                }
            }
            kind @ 5..=6 => {
                let mut data = vec![what; usize::from(input.u16() & 0x1fff) / len * len];
                rig.queue.flush();
                let region = &rig.places[2 * channel].region;
                match kind {
                    5 => region.read_string(0, len, &mut data),
                    _ => region.write_string(0, len, &data),
                }
            }
            7 => {
                let registers = input.take();
                rig.command(channel, registers, what >> 2);
            }
            8 => sectors(&rig, channel, &mut input),
            9 => {
                // To the CD-ROM.
                rig.set(0, 6, 0x10);
                rig.command(
                    0,
                    [0x10, 0xa0, 0, 0, input.u8(), 0, 0, input.u8(), 0x08, 0],
                    8,
                );
                rig.turn();
                let packet: [u8; 12] = input.take();
                rig.write(0, 0, &packet);
            }
            10 => descriptors(&rig, &mut input),
            11 => {
                let at = input.u16();
                rig.store(at.into(), &input.u64().to_le_bytes());
            }
            12 => {
                let offset = u16::from(input.u8());
                rig.configure(offset, input.u32(), what >> 4);
            }
            13 if what & 0x80 != 0 => rig.controller.reset(),
            13 => rig.controller.quiesce(),
            14 => rig.controller.resume(),
            _ => {}
        }
        if what & 0x10 == 0 {
            rig.turn();
        }
    }
    rig.turn();
    rig.controller.state();
    rig.check_order();
}
