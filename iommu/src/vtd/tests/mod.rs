//! A unit with tables to fill, and a sink that remembers.

mod caches;
mod faults;
mod hostile;
mod interrupts;
mod orders;
mod queue;
mod reasons;
pub(crate) mod reference;
mod registers;
pub(crate) mod scalable;
mod translation;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use pci::{Bdf, MsiMessage};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

/// RAM at the bottom, and some more above 4 GiB.
pub const RAM: usize = 32 << 20;
pub const HIGH: u64 = 1 << 32;
pub const HIGH_RAM: usize = 4 << 20;
/// Where the root table is; context tables follow, one for each bus.
pub const ROOT: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
/// The invalidation queue: one page, 256 descriptors.
pub const QUEUE: u64 = 0x20_0000;
/// The interrupt table.
pub const INTERRUPTS: u64 = 0x30_0000;
/// Page tables come from here on.
const TABLES: u64 = 0x40_0000;

pub const NIC: Bdf = Bdf::new(0, 2, 0);
pub const DISK: Bdf = Bdf::new(3, 0x1f, 7);

pub const R: u64 = 1;
pub const W: u64 = 2;
pub const RW: u64 = 3;

pub const TE: u32 = 1 << 31;
pub const SRTP: u32 = 1 << 30;
pub const QIE: u32 = 1 << 26;
pub const IRE: u32 = 1 << 25;
pub const SIRTP: u32 = 1 << 24;
pub const CFI: u32 = 1 << 23;

/// Everything on.
pub const CONFIG: VtdConfig = VtdConfig {
    width: Width::Bits57,
    interrupt_remapping: true,
    eim: true,
    snoop_control: true,
    device_tlb: true,
    draining: true,
    ..VtdConfig::BASIC
};

/// A fault record, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub reason: u8,
    pub source: Bdf,
    pub info: u64,
    pub read: bool,
}

type Watch = Box<dyn Fn() + Send>;

#[derive(Default)]
pub struct Recorder {
    pub messages: Mutex<Vec<MsiMessage>>,
    pub translations: Mutex<Vec<TranslationChange>>,
    pub interrupts: Mutex<Vec<Option<Range<u32>>>>,
    /// Called when translations change.
    pub watch: Mutex<Option<Watch>>,
}

impl VtdSink for Recorder {
    fn message(&self, message: MsiMessage) {
        self.messages.lock().unwrap().push(message);
    }

    fn translations_changed(&self, change: TranslationChange) {
        self.translations.lock().unwrap().push(change);
        if let Some(watch) = &*self.watch.lock().unwrap() {
            watch();
        }
    }

    fn interrupts_changed(&self, indices: Option<Range<u32>>) {
        self.interrupts.lock().unwrap().push(indices);
    }
}

pub struct Rig {
    pub vtd: Arc<Vtd>,
    pub memory: Arc<GuestMemoryMmap<()>>,
    pub sink: Arc<Recorder>,
    next_table: Mutex<u64>,
    next_descriptor: Mutex<u64>,
}

impl Rig {
    /// A unit with everything on offer, turned off.
    pub fn new() -> Self {
        Self::with(CONFIG)
    }

    pub fn with(config: VtdConfig) -> Self {
        let ram = [(GuestAddress(0), RAM), (GuestAddress(HIGH), HIGH_RAM)];
        let memory = Arc::new(GuestMemoryMmap::<()>::from_ranges(&ram).unwrap());
        let sink = Arc::new(Recorder::default());
        Self {
            vtd: Arc::new(Vtd::new(config, memory.clone(), sink.clone())),
            memory,
            sink,
            next_table: Mutex::new(TABLES),
            next_descriptor: Mutex::new(0),
        }
    }

    /// A unit that translates, with no tables but the root table.
    pub fn on() -> Self {
        let rig = Self::new();
        rig.enable();
        rig
    }

    pub fn enable(&self) {
        self.w64(offset::RTADDR, ROOT);
        self.w32(offset::GCMD, SRTP);
        self.w32(offset::GCMD, TE);
        assert_eq!(self.r32(offset::GSTS) & TE, TE);
    }

    pub fn r32(&self, offset: u64) -> u32 {
        self.vtd.read(offset, 4) as u32
    }

    pub fn r64(&self, offset: u64) -> u64 {
        self.vtd.read(offset, 8)
    }

    pub fn w32(&self, offset: u64, value: u32) {
        self.vtd.write(offset, 4, value.into());
    }

    pub fn w64(&self, offset: u64, value: u64) {
        self.vtd.write(offset, 8, value);
    }

    pub fn peek(&self, address: u64) -> u64 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    pub fn poke(&self, address: u64, value: u64) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    /// A page of zeros for a table.
    pub fn table(&self) -> u64 {
        let mut next = self.next_table.lock().unwrap();
        *next += 0x1000;
        *next - 0x1000
    }

    /// Where a root entry is.
    pub fn root_entry(requester: Bdf) -> u64 {
        ROOT + u64::from(requester.bus()) * 16
    }

    /// Where a context entry is.
    pub fn context_entry(requester: Bdf) -> u64 {
        CONTEXTS + u64::from(requester.requester_id()) * 16
    }

    /// Writes a context entry, raw, and the root entry above it.
    pub fn set_context(&self, requester: Bdf, low: u64, high: u64) {
        let table = CONTEXTS + u64::from(requester.bus()) * 0x1000;
        self.poke(Self::root_entry(requester), table | 1);
        self.poke(Self::context_entry(requester) + 8, high);
        self.poke(Self::context_entry(requester), low);
    }

    /// Puts a requester in a domain of four levels; gives the topmost table.
    pub fn domain(&self, requester: Bdf, domain: u16) -> u64 {
        let table = self.table();
        self.attach(requester, domain, table);
        table
    }

    /// Puts a requester in a domain whose topmost of four tables is `table`.
    pub fn attach(&self, requester: Bdf, domain: u16, table: u64) {
        self.set_context(requester, table | 1, u64::from(domain) << 8 | 2);
    }

    /// Where the entry for `iova` at `level` is, below a topmost table of `levels`. Tables on
    /// the way are made.
    pub fn slot(&self, top: u64, levels: u8, level: u8, iova: u64) -> u64 {
        let mut table = top;
        for at in (level..=levels).rev() {
            let slot = table + (iova >> (12 + 9 * (at - 1)) & 0x1ff) * 8;
            if at == level {
                return slot;
            }
            if self.peek(slot) & 3 == 0 {
                let next = self.table();
                self.poke(slot, next | RW);
            }
            table = self.peek(slot) & 0x000f_ffff_ffff_f000;
        }
        unreachable!("levels count down to the one asked for")
    }

    /// Maps a 4 KiB page in four levels.
    pub fn map(&self, top: u64, iova: u64, gpa: u64, flags: u64) {
        let slot = self.slot(top, 4, 1, iova);
        self.poke(slot, gpa | flags);
    }

    /// The first bytes of an access, or `None` if it is blocked.
    pub fn read(&self, requester: Bdf, iova: u64) -> Option<u64> {
        self.access(requester, iova, Access::Read)
    }

    pub fn write(&self, requester: Bdf, iova: u64) -> Option<u64> {
        self.access(requester, iova, Access::Write)
    }

    pub fn access(&self, requester: Bdf, iova: u64, access: Access) -> Option<u64> {
        let to = self.vtd.translate(requester, iova, 4, access);
        to.ok().map(|to| to.gpa)
    }

    /// The pending fault records in order, cleared.
    pub fn take_faults(&self) -> Vec<Record> {
        let status = self.r32(offset::FSTS);
        if status & 3 == 0 {
            return Vec::new();
        }
        let first = (status >> 8 & 0xff) as usize;
        let mut records = Vec::new();
        for i in 0..RECORDS {
            let at = offset::FRCD + 16 * ((first + i) % RECORDS) as u64;
            let high = self.r64(at + 8);
            if high >> 63 != 0 {
                records.push(Record {
                    reason: (high >> 32) as u8,
                    source: Bdf::from_requester_id(high as u16),
                    info: self.r64(at),
                    read: high >> 62 & 1 != 0,
                });
                self.w64(at + 8, 1 << 63);
            }
        }
        self.w32(offset::FSTS, 1);
        records
    }

    /// Turns the queue on.
    pub fn enable_queue(&self) {
        self.w64(offset::IQA, QUEUE);
        self.w64(offset::IQT, 0);
        let keep = self.r32(offset::GSTS) & (TE | IRE | CFI);
        self.w32(offset::GCMD, keep | QIE);
    }

    /// Puts a descriptor in the queue.
    pub fn submit(&self, low: u64, high: u64) {
        let mut next = self.next_descriptor.lock().unwrap();
        self.poke(QUEUE + *next, low);
        self.poke(QUEUE + *next + 8, high);
        *next = (*next + 16) % 0x1000;
        self.w64(offset::IQT, *next);
    }

    /// Invalidates the IOTLB by registers.
    pub fn iotlb(&self, granularity: u64, domain: u16, address_and_mask: u64) {
        self.w64(offset::IVA, address_and_mask);
        self.w64(
            offset::IOTLB,
            1 << 63 | granularity << 60 | u64::from(domain) << 32,
        );
        assert_eq!(self.r64(offset::IOTLB) >> 57 & 3, granularity);
    }

    /// Invalidates the context cache by registers.
    pub fn contexts(&self, granularity: u64, domain: u16, source: Bdf, function_mask: u64) {
        let source = u64::from(source.requester_id());
        self.w64(
            offset::CCMD,
            1 << 63 | granularity << 61 | function_mask << 32 | source << 16 | u64::from(domain),
        );
        assert_eq!(self.r64(offset::CCMD) >> 59 & 3, granularity);
    }

    pub fn take_messages(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.sink.messages.lock().unwrap())
    }

    pub fn take_translations(&self) -> Vec<TranslationChange> {
        std::mem::take(&mut self.sink.translations.lock().unwrap())
    }

    pub fn take_interrupts(&self) -> Vec<Option<Range<u32>>> {
        std::mem::take(&mut self.sink.interrupts.lock().unwrap())
    }

    /// Unmasks the fault event as message 0x41.
    pub fn unmask_fault_event(&self) -> MsiMessage {
        self.w32(offset::FEDATA, 0x41);
        self.w32(offset::FEADDR, 0xfee0_1000);
        self.w32(offset::FECTL, 0);
        MsiMessage {
            address: 0xfee0_1000,
            data: 0x41,
        }
    }

    /// Sets up the interrupt table of 256 entries, and turns remapping on.
    pub fn enable_interrupts(&self, extended: bool, command: u32) {
        self.w64(
            offset::IRTA,
            INTERRUPTS | 7 | if extended { 1 << 11 } else { 0 },
        );
        self.w32(offset::GCMD, SIRTP);
        self.w32(offset::GCMD, command);
        assert_eq!(self.r32(offset::GSTS) & IRE, command & IRE);
    }

    pub fn set_entry(&self, index: u64, low: u64, high: u64) {
        self.poke(INTERRUPTS + index * 16 + 8, high);
        self.poke(INTERRUPTS + index * 16, low);
    }
}
