//! Devices on threads of their own, while the guest changes a page and invalidates it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iommu::vtd::{Deaf, Vtd, VtdConfig, Width, offset};
use iommu::{Access, Remapper};
use pci::Bdf;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const ROOT: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
const TABLES: [u64; 3] = [0x3000, 0x4000, 0x5000];
const QUEUE: u64 = 0x6000;
const IOVA: u64 = 0x7000;

struct Machine {
    memory: Arc<GuestMemoryMmap<()>>,
    vtd: Vtd,
}

impl Machine {
    /// Functions 0 to 7 of device 0 are in domain 5, of three levels; the queue runs.
    fn new() -> Self {
        let ram = [(GuestAddress(0), 0x1_0000)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ram).unwrap());
        let config = VtdConfig {
            width: Width::Bits39,
            ..VtdConfig::BASIC
        };
        let vtd = Vtd::new(config, memory.clone(), Arc::new(Deaf));
        let machine = Self { memory, vtd };
        machine.poke(ROOT, CONTEXTS | 1);
        for function in 0..8 {
            machine.poke(CONTEXTS + function * 16, TABLES[0] | 1);
            machine.poke(CONTEXTS + function * 16 + 8, 5 << 8 | 1);
        }
        machine.poke(TABLES[0], TABLES[1] | 3);
        machine.poke(TABLES[1], TABLES[2] | 3);
        machine.vtd.write(offset::RTADDR, 8, ROOT);
        machine.vtd.write(offset::GCMD, 4, 1 << 30);
        machine.vtd.write(offset::IQA, 8, QUEUE);
        machine.vtd.write(offset::GCMD, 4, 1 << 31 | 1 << 26);
        machine
    }

    fn poke(&self, address: u64, value: u64) {
        self.memory
            .store(value, GuestAddress(address), Ordering::Release)
            .unwrap();
    }

    fn page(&self, function: u8) -> u64 {
        let requester = Bdf::new(0, 0, function);
        let to = self.vtd.translate(requester, IOVA, 8, Access::Write);
        to.expect("the page is always there").gpa
    }
}

#[test]
fn after_an_invalidation_nobody_is_shown_the_page_from_before() {
    let machine = &Machine::new();
    let entry = TABLES[2] + (IOVA >> 12) * 8;
    machine.poke(entry, 0x8000 | 3);
    let over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        for function in 0..3 {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    assert!(matches!(machine.page(function), 0x8000 | 0x9000));
                }
            });
        }
        for round in 0..3000_u64 {
            let now = 0x8000 + round % 2 * 0x1000;
            machine.poke(entry, now | 3);
            let at = round * 16 % 0x1000;
            machine.poke(QUEUE + at, 2 | 3 << 4 | 5 << 16);
            machine.poke(QUEUE + at + 8, IOVA);
            machine.vtd.write(offset::IQT, 8, (at + 16) % 0x1000);
            for function in 0..3 {
                assert_eq!(machine.page(function), now, "round {round}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}
