//! `cargo bench -p iommu`: what the unit itself costs a transfer of an emulated device, and a change of an assigned
//! one's mappings. Neither the guest nor the host's kernel has a part in it.

use std::hint::black_box;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use iommu::host::{HostMapper, MapError};
use iommu::shadow::{Shadow, ShadowConfig, ShadowLimits};
use iommu::vtd::{TranslationChange, Vtd, VtdConfig, VtdSink, offset};
use iommu::{Access, Identity, Remapper};
use pci::{Bdf, MsiMessage};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const ROUNDS: u64 = 1_000_000;
const RAM: usize = 64 << 20;

/// Where the guest has its tables.
const ROOT: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
const LEVELS: [u64; 3] = [0x3000, 0x4000, 0x5000];
/// 512 of the lowest tables, for 2 MiB each. The last one maps nothing.
const LEAVES: u64 = 0x10_0000;
const QUEUE: u64 = 0x6000;
const STATUS: u64 = 0x7000;
/// The 2 MiB that each of the others maps.
const DATA: u64 = 0x100_0000;
/// How many pages they map.
const PAGES: u64 = 511 * 512;

const READ_WRITE: u64 = 3;
const DOMAIN: u64 = 1;

fn main() {
    let device = Bdf::from_requester_id(0x0008);
    let unit = Unit::new(device);
    let translate = |name: &str, remapper: &dyn Remapper, stride: u64| {
        let mut page = 0;
        time(name, || {
            page = (page + stride) % PAGES;
            let iova = black_box(page << 12);
            black_box(remapper.translate(device, iova, 64, Access::Write)).is_ok()
        });
    };
    translate("a translation, no unit", &Identity, 1);
    translate("a translation, unit not turned on", &*unit.vtd, 1);
    unit.turn_on();
    translate("a translation that is cached", &*unit.vtd, 0);
    // Far more pages than are kept.
    translate("a translation that is walked for", &*unit.vtd, 1);
    time("a map and an unmap, each announced and followed", || {
        unit.set_page(PAGES, DATA | READ_WRITE);
        let mapped = unit.announce(PAGES);
        unit.set_page(PAGES, 0);
        mapped & unit.announce(PAGES)
    });
}

/// Says how long `work` takes each time.
fn time(name: &str, mut work: impl FnMut() -> bool) {
    let mut done = true;
    for _ in 0..ROUNDS / 10 {
        done &= work();
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        done &= work();
    }
    assert!(done, "{name}: refused");
    let each = start.elapsed().as_nanos() as f64 / ROUNDS as f64;
    println!("{name:<50} {each:>8.1} ns");
}

/// A unit with a device in a domain, whose shadow a host follows that does nothing.
struct Unit {
    vtd: Arc<Vtd>,
    memory: Arc<GuestMemoryMmap<()>>,
    shadow: Arc<Shadow>,
}

impl Unit {
    fn new(device: Bdf) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]);
        let memory = Arc::new(memory.expect("memory"));
        let config = VtdConfig {
            caching_mode: true,
            draining: true,
            ..VtdConfig::BASIC
        };
        let listener = Arc::new(Listener::default());
        let vtd = Arc::new(Vtd::new(config, memory.clone(), listener.clone()));
        let shadow = Arc::new(Shadow::new(ShadowConfig {
            vtd: vtd.clone(),
            name: "a device".into(),
            requesters: vec![device],
            memory: memory.clone(),
            mapper: Arc::new(Nothing),
            limits: ShadowLimits::default(),
        }));
        let _ = listener.0.set(Arc::downgrade(&shadow));
        let unit = Self {
            vtd,
            memory,
            shadow,
        };
        unit.build_tables(device);
        unit
    }

    fn build_tables(&self, device: Bdf) {
        let devfn = u64::from(device.requester_id() & 0xff);
        self.store(ROOT, CONTEXTS | 1);
        self.store(CONTEXTS + devfn * 16, LEVELS[0] | 1);
        // 48 bits.
        self.store(CONTEXTS + devfn * 16 + 8, DOMAIN << 8 | 2);
        self.store(LEVELS[0], LEVELS[1] | READ_WRITE);
        self.store(LEVELS[1], LEVELS[2] | READ_WRITE);
        for leaf in 0..512_u64 {
            let table = LEAVES + leaf * 0x1000;
            self.store(LEVELS[2] + leaf * 8, table | READ_WRITE);
        }
        for page in 0..PAGES {
            let data = DATA + ((page % 512) << 12);
            self.set_page(page, data | READ_WRITE);
        }
    }
    fn set_page(&self, page: u64, entry: u64) {
        self.store(LEAVES + page * 8, entry);
    }

    fn store(&self, address: u64, value: u64) {
        let stored = self.memory.write_obj(value, GuestAddress(address));
        stored.expect("in memory");
    }

    /// Translation and the queue.
    fn turn_on(&self) {
        const SRTP: u64 = 1 << 30;
        const TE: u64 = 1 << 31;
        const QIE: u64 = 1 << 26;
        self.vtd.write(offset::RTADDR, 8, ROOT);
        self.vtd.write(offset::GCMD, 4, SRTP);
        self.vtd.write(offset::IQA, 8, QUEUE);
        self.vtd.write(offset::GCMD, 4, QIE);
        self.vtd.write(offset::GCMD, 4, QIE | TE);
        assert_eq!(self.shadow.mapped_bytes(), PAGES << 12);
    }

    /// Invalidates a page and waits (VT-d 4.1 §6.5.2.3, §6.5.2.8);
    /// whether the wait has completed.
    fn announce(&self, page: u64) -> bool {
        const SIZE: u64 = 0x1000;
        let tail = self.vtd.read(offset::IQT, 8);
        let descriptors = [
            (2 | 3 << 4 | DOMAIN << 16, page << 12),
            (5 | 1 << 5 | 1 << 32, STATUS),
        ];
        self.store(STATUS, 0);
        for (at, (low, high)) in (tail..).step_by(16).zip(descriptors) {
            self.store(QUEUE + at, low);
            self.store(QUEUE + at + 8, high);
        }
        self.vtd.write(offset::IQT, 4, (tail + 32) % SIZE);
        self.memory
            .read_obj::<u32>(GuestAddress(STATUS))
            .is_ok_and(|status| status == 1)
    }
}

/// Who follows the unit.
#[derive(Default)]
struct Listener(OnceLock<Weak<Shadow>>);

impl VtdSink for Listener {
    fn message(&self, _: MsiMessage) {}

    fn translations_changed(&self, change: TranslationChange) {
        if let Some(shadow) = self.0.get().and_then(Weak::upgrade) {
            shadow.follow(change).expect("a host that does nothing");
        }
    }

    fn interrupts_changed(&self, _: Option<std::ops::Range<u32>>) {}
}

/// A host that does nothing.
struct Nothing;

impl HostMapper for Nothing {
    // SAFETY: nothing is done with the memory.
    unsafe fn map(&self, _: u64, _: *mut u8, _: u64, _: bool) -> Result<(), MapError> {
        Ok(())
    }

    fn unmap(&self, _: u64, _: u64) -> Result<(), MapError> {
        Ok(())
    }
}
