//! Devices on threads of their own, whose walks mark first-stage entries as used, while the guest
//! takes pages and tables away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, yield_now};

use iommu::vtd::{Deaf, Vtd, VtdConfig, offset};
use iommu::{Access, Remapper};
use pci::Bdf;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const ROOT: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const PASIDS: u64 = 0x4000;
const TABLES: [u64; 4] = [0x5000, 0x6000, 0x7000, 0x8000];
const QUEUE: u64 = 0x9000;
const IOVA: u64 = 0xa000;
/// The entries for it: of the lowest table, and of the one above.
const PAGE: u64 = TABLES[3] + (IOVA >> 12) * 8;
const TABLE: u64 = TABLES[2];
/// P, R/W, U/S; with A; with D too.
const USABLE: u64 = 7;
const ACCESSED: u64 = 0x27;
const DIRTY: u64 = 0x67;

const ROUNDS: u64 = 2000;

struct Machine {
    memory: Arc<GuestMemoryMmap<()>>,
    vtd: Vtd,
}

impl Machine {
    /// Function 0 of device 0 is PASID 0 of domain 5, of four levels; the queue runs.
    fn new() -> Self {
        let ram = [(GuestAddress(0), 0x1_0000)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ram).unwrap());
        let config = VtdConfig {
            scalable: true,
            first_stage: true,
            ..VtdConfig::BASIC
        };
        let vtd = Vtd::new(config, memory.clone(), Arc::new(Deaf));
        let machine = Self { memory, vtd };
        machine.poke(ROOT, CONTEXTS | 1);
        machine.poke(CONTEXTS, DIRECTORY | 1);
        machine.poke(DIRECTORY, PASIDS | 1);
        machine.poke(PASIDS + 16, TABLES[0]);
        machine.poke(PASIDS + 8, 5);
        machine.poke(PASIDS, 1 << 6 | 1);
        machine.poke(TABLES[0], TABLES[1] | USABLE);
        machine.poke(TABLES[1], TABLES[2] | USABLE);
        machine.vtd.write(offset::RTADDR, 8, ROOT | 1 << 10);
        machine.vtd.write(offset::GCMD, 4, 1 << 30);
        machine.vtd.write(offset::IQA, 8, QUEUE | 1 << 11);
        machine.vtd.write(offset::GCMD, 4, 1 << 31 | 1 << 26);
        machine
    }

    fn poke(&self, address: u64, value: u64) {
        self.memory
            .store(value, GuestAddress(address), Ordering::Release)
            .unwrap();
    }

    fn peek(&self, address: u64) -> u64 {
        let value = self.memory.load(GuestAddress(address), Ordering::Acquire);
        value.unwrap()
    }

    /// Invalidates the PASID's pages.
    fn invalidate(&self) {
        let tail = self.vtd.read(offset::IQT, 8);
        self.poke(QUEUE + tail, 6 | 2 << 4 | 5 << 16);
        self.vtd.write(offset::IQT, 8, (tail + 32) % 0x1000);
    }

    /// Writes, for as long as the guest does something else.
    fn beside(&self, guest: impl FnOnce()) {
        let over = &AtomicBool::new(false);
        scope(|scope| {
            for _ in 0..2 {
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let _ = self.vtd.translate(Bdf::default(), IOVA, 8, Access::Write);
                    }
                });
            }
            guest();
            over.store(true, Ordering::Relaxed);
        });
    }
}

/// What the guest finds when it takes an entry tells it whether the page was written. No mark
/// comes to the entry afterwards.
#[test]
fn marks_are_set_on_the_entry_that_was_read_or_not_at_all() {
    let machine = &Machine::new();
    machine.poke(TABLE, TABLES[3] | USABLE);
    let mut seen = [0; 2];
    machine.beside(|| {
        for _ in 0..ROUNDS {
            machine.poke(PAGE, 0xb000 | USABLE);
            yield_now();
            let found = machine.peek(PAGE) & 0xfff;
            assert!(found == USABLE || found == DIRTY, "{found:#x}");
            seen[usize::from(found == DIRTY)] += 1;
            machine.poke(PAGE, 0);
            assert_eq!(machine.peek(PAGE), 0);
            machine.invalidate();
            assert_eq!(machine.peek(PAGE), 0);
        }
    });
    assert_ne!(seen[1], 0, "devices wrote");
}

/// Once the invalidation is over the guest has other use for the memory of a table, and what
/// looks like an entry there is a number.
#[test]
fn no_mark_comes_to_a_table_that_is_gone() {
    let machine = &Machine::new();
    machine.beside(|| {
        for _ in 0..ROUNDS {
            machine.poke(PAGE, 0xb000 | USABLE);
            machine.poke(TABLE, TABLES[3] | USABLE);
            yield_now();
            let found = machine.peek(TABLE) & 0xfff;
            assert!(found == USABLE || found == ACCESSED, "{found:#x}");
            machine.poke(TABLE, 0);
            machine.invalidate();
            machine.poke(PAGE, 0xc000 | USABLE);
            yield_now();
            assert_eq!(machine.peek(PAGE), 0xc000 | USABLE);
        }
    });
}
