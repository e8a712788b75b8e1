//! A fake machine around a controller: ports with KVM's fast paths, memory, two lines.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use iommu::Identity;
use pci::{ConfigWrite, Function, MsiMessage, Register};
use vm_memory::{Bytes, GuestAddress};

use crate::block::{BlockBackend, RawImage};
use crate::bus::{Deferred, FastPath, PciDevice, Region};
use crate::dma::{Dma, GuestRam};
use crate::ide::{DriveConfig, DriveKind, IdeConfig, IdeController};
use crate::irq::{IrqLine, LineSink, MsiSink};

/// Where the guest has put BAR 4.
pub const BUS_MASTER: u16 = 0xc000;
/// Guest memory.
pub const RAM: usize = 16 << 20;

/// Long enough for a loaded machine, short enough to fail a test.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Line {
    /// Level, and how often it rose.
    state: Mutex<(bool, u64)>,
    changed: Condvar,
}

impl LineSink for Line {
    fn set(&self, asserted: bool) {
        let mut state = self.state.lock().unwrap();
        state.1 += u64::from(asserted && !state.0);
        state.0 = asserted;
        self.changed.notify_all();
    }
}

impl Line {
    pub fn level(&self) -> bool {
        self.state.lock().unwrap().0
    }

    pub fn edges(&self) -> u64 {
        self.state.lock().unwrap().1
    }

    pub fn wait(&self) {
        let state = self.state.lock().unwrap();
        let (_state, timeout) = self
            .changed
            .wait_timeout_while(state, PATIENCE, |s| !s.0)
            .unwrap();
        assert!(!timeout.timed_out(), "no interrupt");
    }
}

/// Interrupt requests that the guest had the controller write: it has no MSI.
#[derive(Default)]
pub struct Requests(Mutex<Vec<MsiMessage>>);

impl MsiSink for Requests {
    fn send(&self, message: MsiMessage) {
        self.0.lock().unwrap().push(message);
    }
}

impl Requests {
    pub fn take(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

type Write = (Arc<dyn Region>, u64, Vec<u8>);

/// The queue of coalesced writes, with the machine's rules: in order, one thread at a time,
/// and nothing when called from within.
#[derive(Default)]
pub struct Ring {
    queue: Mutex<VecDeque<Write>>,
    reader: Mutex<()>,
}

thread_local! {
    static DRAINING: Cell<bool> = const { Cell::new(false) };
}

impl Deferred for Ring {
    fn flush(&self) {
        if DRAINING.get() {
            return;
        }
        let _reader = self.reader.lock().unwrap();
        DRAINING.set(true);
        loop {
            let next = self.queue.lock().unwrap().pop_front();
            let Some((region, offset, data)) = next else {
                break;
            };
            region.write(offset, &data);
        }
        DRAINING.set(false);
    }
}

struct Place {
    base: u16,
    len: u16,
    region: Arc<dyn Region>,
    paths: Vec<FastPath>,
}

pub struct Rig {
    pub controller: IdeController,
    pub memory: Arc<GuestRam>,
    pub lines: [Arc<Line>; 2],
    pub ring: Arc<Ring>,
    pub requests: Arc<Requests>,
    places: Vec<Place>,
    exits: AtomicU64,
}

/// A temporary image with these contents.
pub fn image(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

pub fn disk(file: &tempfile::NamedTempFile) -> DriveConfig {
    drive(
        DriveKind::Disk,
        Arc::new(RawImage::open(file.path(), false).unwrap()),
    )
}

pub fn drive(kind: DriveKind, backend: Arc<dyn BlockBackend>) -> DriveConfig {
    DriveConfig {
        kind,
        backend,
        serial: "SL0001".into(),
    }
}

impl Rig {
    /// A machine whose drives are, by channel, these; started, and a bus master.
    pub fn new(drives: [[Option<DriveConfig>; 2]; 2]) -> Self {
        let rig = Self::stopped(drives, true);
        rig.controller.start().unwrap();
        rig
    }

    /// The same with I/O threads not started; without fast paths every access exits.
    pub fn stopped(drives: [[Option<DriveConfig>; 2]; 2], fast: bool) -> Self {
        let ranges = [(GuestAddress(0), RAM)];
        let memory = Arc::new(GuestRam::from_ranges(&ranges).unwrap());
        let requests = Arc::<Requests>::default();
        let dma = Dma::new(memory.clone(), Arc::new(Identity), requests.clone());
        let lines = [Arc::new(Line::default()), Arc::new(Line::default())];
        let ring = Arc::new(Ring::default());
        let controller = IdeController::new(IdeConfig {
            drives,
            dma,
            lines: [0, 1].map(|i: usize| IrqLine::new(lines[i].clone())),
            deferred: ring.clone(),
        })
        .unwrap();
        let mut places: Vec<Place> = controller
            .legacy_ports()
            .into_iter()
            .map(|p| Place {
                base: p.base,
                len: p.len,
                region: p.region,
                paths: p.fast_paths,
            })
            .collect();
        places.push(Place {
            base: BUS_MASTER,
            len: 16,
            region: controller.region(pci::BarIndex(4)).unwrap(),
            paths: controller.fast_paths(pci::BarIndex(4)),
        });
        if !fast {
            places.iter_mut().for_each(|p| p.paths.clear());
        }
        let rig = Self {
            controller,
            memory,
            lines,
            ring,
            requests,
            places,
            exits: AtomicU64::new(0),
        };
        rig.config(0x04, 0x0005, 0b0011);
        rig
    }

    pub fn config(&self, offset: u16, value: u32, enables: u8) -> pci::Changes {
        let write = ConfigWrite::new(Register::containing(offset), value, enables);
        self.controller.write_config(write)
    }

    /// Exits so far.
    pub fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    fn place(&self, port: u16) -> (&Place, u64) {
        let place = self
            .places
            .iter()
            .find(|p| (p.base..p.base + p.len).contains(&port))
            .expect("a port of the controller");
        (place, u64::from(port - place.base))
    }

    fn exit(&self) {
        self.exits.fetch_add(1, Ordering::Relaxed);
        self.ring.flush();
    }

    pub fn read(&self, port: u16, data: &mut [u8]) {
        self.exit();
        let (place, offset) = self.place(port);
        place.region.read(offset, data);
    }

    /// A string instruction's read.
    pub fn read_string(&self, port: u16, width: usize, data: &mut [u8]) {
        self.exit();
        let (place, offset) = self.place(port);
        place.region.read_string(offset, width, data);
    }

    /// A string instruction's write, to a register without a fast path.
    pub fn write_string(&self, port: u16, width: usize, data: &[u8]) {
        self.exit();
        let (place, offset) = self.place(port);
        place.region.write_string(offset, width, data);
    }

    /// A write as KVM treats it: rung, queued, or an exit.
    pub fn write(&self, port: u16, data: &[u8]) {
        let (place, at) = self.place(port);
        for path in &place.paths {
            match path {
                FastPath::Doorbell {
                    offset,
                    len,
                    value,
                    event,
                } if *offset == at && usize::from(*len) == data.len() => {
                    let mut bytes = [0; 8];
                    bytes[..data.len()].copy_from_slice(data);
                    if value.is_none_or(|v| v == u64::from_le_bytes(bytes)) {
                        event.write(1).unwrap();
                        return;
                    }
                }
                FastPath::Coalesced { offset, len }
                    if (*offset..offset + len).contains(&at)
                        && at + data.len() as u64 <= offset + len =>
                {
                    let write = (place.region.clone(), at, data.to_vec());
                    self.ring.queue.lock().unwrap().push_back(write);
                    return;
                }
                _ => {}
            }
        }
        self.exit();
        place.region.write(at, data);
    }

    pub fn in8(&self, port: u16) -> u8 {
        let mut byte = [0];
        self.read(port, &mut byte);
        byte[0]
    }

    pub fn out8(&self, port: u16, value: u8) {
        self.write(port, &[value]);
    }

    pub fn out32(&self, port: u16, value: u32) {
        self.write(port, &value.to_le_bytes());
    }

    pub fn store(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub fn load(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// Writes a descriptor table; the last entry ends it.
    pub fn prds(&self, table: u64, regions: &[(u32, u32)]) {
        for (i, &(address, len)) in regions.iter().enumerate() {
            let end = u32::from(i + 1 == regions.len()) << 31;
            let at = table + 8 * i as u64;
            self.store(at, &address.to_le_bytes());
            self.store(at + 4, &(len & 0xffff | end).to_le_bytes());
        }
    }

    /// Polls until `condition`.
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let begin = std::time::Instant::now();
        while !condition() {
            assert!(begin.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}
