//! The shadow behind a unit, as a machine has it: it follows what comes out of the guest's
//! queue, while the guest waits.

use std::sync::{Mutex, OnceLock, Weak};

use pci::MsiMessage;
use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;
use crate::vtd::VtdSink;
use crate::vtd::tests::reference::{HAW, POOL, entry, fill_pool, iova};
use crate::vtd::tests::{QUEUE, TE};
use crate::{Access, Remapper};

/// Has the shadow follow, and notes what the wait's status was when it had.
#[derive(Default)]
struct Follower {
    shadow: OnceLock<Weak<Shadow>>,
    memory: OnceLock<Arc<GuestMemoryMmap<()>>>,
    statuses: Mutex<Vec<u32>>,
}

const STATUS: u64 = 0x9000;

impl VtdSink for Follower {
    fn message(&self, _: MsiMessage) {}

    fn translations_changed(&self, change: TranslationChange) {
        let Some(shadow) = self.shadow.get().and_then(Weak::upgrade) else {
            return;
        };
        shadow.follow(change).unwrap();
        let memory = self.memory.get().unwrap();
        let status = memory.read_obj(GuestAddress(STATUS)).unwrap();
        self.statuses.lock().unwrap().push(status);
    }
}

/// A machine's wiring, with the NIC shadowed.
fn machine() -> (Rig, Arc<Follower>, Arc<Host>, Arc<Shadow>) {
    let sink = Arc::new(Follower::default());
    let mut rig = Rig::with(VtdConfig {
        caching_mode: true,
        ..CONFIG
    });
    rig.vtd = Arc::new(Vtd::new(
        *rig.vtd.config(),
        rig.memory.clone(),
        sink.clone(),
    ));
    let (host, shadow) = shadow_nic(&rig, ShadowLimits::default());
    let shadow = Arc::new(shadow);
    shadow.replay().unwrap();
    let _ = sink.memory.set(rig.memory.clone());
    let _ = sink.shadow.set(Arc::downgrade(&shadow));
    (rig, sink, host, shadow)
}

#[test]
fn the_host_has_followed_when_the_guest_is_told() {
    let (rig, sink, host, _shadow) = machine();
    let top = rig.domain(NIC, 5);
    assert_eq!(host.reach(0x4000), Some((0x4000, true)));
    rig.enable();
    assert_eq!(host.runs(), [], "the domain is empty");
    rig.w64(offset::IQA, QUEUE);
    rig.w32(offset::GCMD, TE | 1 << 26);
    sink.statuses.lock().unwrap().clear();

    // Map, announce, wait; unmap, announce, wait: as Linux does with iommu.strict=1.
    for round in 0..20_u64 {
        let mapped = round % 2 == 0;
        rig.map(top, 0x4000, 0x8000, if mapped { RW } else { 0 });
        let at = QUEUE + round * 32;
        rig.poke(STATUS, 2);
        rig.poke(at, 0x32 | 5 << 16);
        rig.poke(at + 8, 0x4000);
        rig.poke(at + 16, 5 | 1 << 5 | 1 << 32);
        rig.poke(at + 24, STATUS);
        rig.w64(offset::IQT, round * 32 + 32);
        assert_eq!(rig.peek(STATUS), 1);
        assert_eq!(host.reach(0x4000), mapped.then_some((0x8000, true)));
    }
    assert_eq!(*sink.statuses.lock().unwrap(), [2; 20]);
}

#[test]
fn a_reset_gives_all_memory_back() {
    let (rig, _, host, _shadow) = machine();
    rig.domain(NIC, 5);
    rig.enable();
    assert_eq!(host.runs(), []);
    rig.vtd.reset();
    assert_eq!(host.runs(), [(0, RAM as u64), (HIGH, HIGH_RAM as u64)]);
}

proptest! {
    /// Tables that share tables, contain themselves and have reserved bits set: what the
    /// device reaches is what the unit lets it reach, or the limits have been met.
    #[test]
    fn random_tables_are_mirrored(
        entries in vec(entry(), 48),
        requests in vec(iova(), 1..60),
        width in 1_u64..4,
    ) {
        let rig = Rig::with(VtdConfig { host_width: HAW as u8, ..CONFIG });
        fill_pool(&rig, &entries);
        rig.set_context(NIC, POOL.start << 12 | 1, width);
        rig.enable();
        let limits = ShadowLimits { mappings: 300, tables: 500, bytes: 1 << 40 };
        let (host, shadow) = shadow_nic(&rig, limits);
        let whole = shadow.replay().is_ok();
        prop_assert!(shadow.mappings() <= limits.mappings);
        prop_assert_eq!(shadow.mappings(), host.runs().len());
        for iova in requests {
            let reach = |access| rig.vtd.translate(NIC, iova, 1, access).ok().map(|to| to.gpa);
            let (read, write) = (reach(Access::Read), reach(Access::Write));
            let is_ram = |gpa: &u64| {
                *gpa < RAM as u64 || (HIGH..HIGH + HIGH_RAM as u64).contains(gpa)
            };
            let wanted = read.or(write).filter(is_ram).map(|gpa| (gpa, write.is_some()));
            let reached = host.reach(iova);
            prop_assert!(reached == wanted || !whole && reached.is_none(), "{:#x}", iova);
        }
    }
}
