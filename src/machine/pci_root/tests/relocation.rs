//! BARs that are mapped into the guest, moved by it while they decode, with a KVM that
//! refuses on demand; and BARs too large for most address spaces.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use kvm_bindings::kvm_userspace_memory_region;

use super::*;
use crate::memory::{BarDemand, Layout, layout};

/// KVM's memory slots, without a KVM.
#[derive(Default)]
struct Slots {
    /// Guest address and length by number.
    live: Mutex<BTreeMap<u32, (u64, u64)>>,
    refuse_new: AtomicBool,
    refuse_removal: AtomicBool,
}

impl MemoryMap for Slots {
    // SAFETY: the memory is never touched.
    unsafe fn set(&self, region: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
        let mut live = self.live.lock().unwrap();
        let refuse = match region.memory_size {
            0 => &self.refuse_removal,
            _ => &self.refuse_new,
        };
        if refuse.load(Ordering::SeqCst) {
            return Err(kvm_ioctls::Error::new(nix::libc::ENOMEM));
        }
        if region.memory_size == 0 {
            live.remove(&region.slot).expect("a slot that there is");
            return Ok(());
        }
        let place = (region.guest_phys_addr, region.memory_size);
        assert_eq!(live.insert(region.slot, place), None, "a slot in use");
        Ok(())
    }
}

impl Slots {
    fn places(&self) -> Vec<(u64, u64)> {
        self.live.lock().unwrap().values().copied().collect()
    }
}

/// Memory of a device: never touched here, only counted.
struct Memory {
    len: usize,
    alive: Arc<AtomicBool>,
}

impl Mapping for Memory {
    fn host_address(&self) -> usize {
        0x7000_0000
    }
    fn len(&self) -> usize {
        self.len
    }
    fn writable(&self) -> bool {
        true
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::SeqCst);
    }
}

/// A function whose BAR 0 is mapped whole.
struct Mapped {
    space: Mutex<ConfigSpace>,
    memory: Mutex<Option<Arc<Memory>>>,
}

impl Mapped {
    fn new(kind: BarKind, size: u64, alive: &Arc<AtomicBool>) -> Arc<Self> {
        let mut space = ConfigSpace::endpoint(ids(0x77));
        space.set_bar(BarIndex(0), kind, size).unwrap();
        let memory = Memory {
            len: size as usize,
            alive: alive.clone(),
        };
        Arc::new(Self {
            space: Mutex::new(space),
            memory: Mutex::new(Some(Arc::new(memory))),
        })
    }
}

impl Function for Mapped {
    fn read_config(&self, register: Register) -> u32 {
        self.space.lock().unwrap().read(register)
    }
    fn write_config(&self, write: ConfigWrite) -> Changes {
        self.space.lock().unwrap().write(write)
    }
    fn windows(&self) -> Vec<pci::Window> {
        self.space.lock().unwrap().windows()
    }
    fn reset(&self) {
        self.space.lock().unwrap().reset();
    }
}

impl PciDevice for Mapped {
    fn name(&self) -> &str {
        "mapped"
    }
    fn region(&self, _: BarIndex) -> Option<Arc<dyn Region>> {
        Some(Arc::new(Constant(0x77)))
    }
    fn fast_paths(&self, _: BarIndex) -> Vec<FastPath> {
        let memory = self.memory.lock().unwrap().clone();
        let path = |memory| FastPath::Mapped { offset: 0, memory };
        memory.map(|memory| path(memory as _)).into_iter().collect()
    }
}

struct Moving {
    rig: Rig,
    slots: Arc<Slots>,
    function: Arc<Mapped>,
    alive: Arc<AtomicBool>,
}

const BDF: Bdf = Bdf::new(0, FIRST, 0);

fn moving(kind: BarKind, size: u64) -> Option<Moving> {
    let slots = Arc::<Slots>::default();
    let alive = Arc::new(AtomicBool::new(true));
    let function = Mapped::new(kind, size, &alive);
    let rig = rig_of(Some(slots.clone()), function.clone())?;
    Some(Moving {
        rig,
        slots,
        function,
        alive,
    })
}

const NARROW: BarKind = BarKind::Memory32 {
    prefetchable: false,
};
const OLD: u64 = 0xd000_0000;
const NEW: u64 = 0xd800_0000;

macro_rules! moving_or_skip {
    () => {
        match moving(NARROW, 0x4000) {
            Some(moving) => {
                moving.rig.write(BDF, BAR0, OLD as u32);
                assert_eq!(moving.slots.places(), [(OLD, 0x4000)]);
                moving
            }
            None => {
                eprintln!("skipped: no /dev/kvm");
                return;
            }
        }
    };
}

#[test]
fn a_mapped_bar_that_decodes_moves_with_its_mapping() {
    let Moving { rig, slots, .. } = moving_or_skip!();
    rig.write(BDF, BAR0, NEW as u32);
    assert_eq!(slots.places(), [(NEW, 0x4000)]);
    assert_eq!((rig.byte_at(OLD), rig.byte_at(NEW)), (0xff, 0x77));
    // As it is sized, it is nowhere.
    rig.write(BDF, BAR0, u32::MAX);
    assert_eq!(slots.places(), []);
    rig.write(BDF, BAR0, OLD as u32);
    assert_eq!(slots.places(), [(OLD, 0x4000)]);
}

#[test]
fn where_kvm_refuses_the_new_place_accesses_trap_until_it_does_not() {
    let Moving { rig, slots, .. } = moving_or_skip!();
    slots.refuse_new.store(true, Ordering::SeqCst);
    rig.write(BDF, BAR0, NEW as u32);
    assert_eq!(slots.places(), []);
    assert_eq!((rig.byte_at(OLD), rig.byte_at(NEW)), (0xff, 0x77));
    // And back, still refused.
    rig.write(BDF, BAR0, OLD as u32);
    assert_eq!((rig.byte_at(OLD), rig.byte_at(NEW)), (0x77, 0xff));
    slots.refuse_new.store(false, Ordering::SeqCst);
    // Whatever moves next, it is tried again.
    rig.write(Bdf::new(0, SECOND, 0), BAR0, 0xd100_0000);
    assert_eq!(slots.places(), [(OLD, 0x4000)]);
}

#[test]
fn what_kvm_does_not_give_back_stays_mapped_and_its_slot_taken() {
    let moving = moving_or_skip!();
    moving.slots.refuse_removal.store(true, Ordering::SeqCst);
    moving.rig.write(BDF, BAR0, NEW as u32);
    assert_eq!(moving.rig.byte_at(NEW), 0x77);
    assert_eq!(moving.slots.places(), [(OLD, 0x4000), (NEW, 0x4000)]);
    moving.slots.refuse_removal.store(false, Ordering::SeqCst);
    moving.rig.write(BDF, COMMAND, 0);
    drop(moving.function.memory.lock().unwrap().take());
    assert!(moving.alive.load(Ordering::SeqCst), "KVM has it still");
}

#[test]
fn of_a_bar_made_smaller_the_first_part_stays_mapped() {
    let Moving {
        rig,
        slots,
        function,
        ..
    } = moving_or_skip!();
    for (size, mapped) in [(0x2000, 0x2000), (0x1000, 0x1000), (0x4000, 0x4000)] {
        let resized = function.space.lock().unwrap().resize_bar(BarIndex(0), size);
        resized.unwrap();
        rig.root.settle(Changes::DECODE);
        assert_eq!(slots.places(), [(OLD, mapped)]);
    }
    function
        .space
        .lock()
        .unwrap()
        .resize_bar(BarIndex(0), 0x800)
        .unwrap();
    rig.root.settle(Changes::DECODE);
    assert_eq!(slots.places(), [], "less than a page is trapped");
    assert_eq!(rig.byte_at(OLD + 0x7ff), 0x77);
}

/// Lays out a machine of 4 GiB with a BAR of this size.
fn with_bar(size: u64, phys_bits: u8) -> Option<(Moving, Layout)> {
    let moving = moving(BarKind::Memory64 { prefetchable: true }, size)?;
    let (total, largest) = moving.rig.root.demand64();
    let layout = layout(4 << 30, phys_bits, &BarDemand { total, largest });
    let layout = layout.unwrap_or_else(|error| panic!("{error}"));
    Some((moving, layout))
}

#[test]
fn the_wide_window_is_as_large_as_the_largest_bars_need() {
    // 39 bits hold one BAR of 256 GiB beside RAM, right to the end.
    for (size, phys_bits) in [
        (64u64 << 30, 39),
        (64 << 30, 46),
        (256 << 30, 39),
        (256 << 30, 46),
    ] {
        let Some((moving, layout)) = with_bar(size, phys_bits) else {
            eprintln!("skipped: no /dev/kvm");
            return;
        };
        assert!(layout.pci64.size() >= size);
        let windows = Windows {
            io: 0x1000..=0xffff,
            memory32: 0xc000_0000..=0xfebf_ffff,
            memory64: layout.pci64.first..=layout.pci64.last,
        };
        let topology = &*moving.rig.root.topology();
        Hierarchy::survey(topology).place(&windows).unwrap();
        let window = moving.function.windows()[0];
        assert_eq!((window.base % size, window.size), (0, size));
        assert!(layout.pci64.first <= window.base);
        assert!(window.base + (size - 1) <= layout.pci64.last);
        assert!(window.base + (size - 1) < 1 << phys_bits);
    }
}

#[test]
fn a_bar_that_the_address_width_has_no_room_for_is_refused_with_a_remedy() {
    let demand = BarDemand {
        total: 256 << 30,
        largest: 256 << 30,
    };
    let error = layout(4 << 30, 38, &demand).unwrap_err().to_string();
    for part in ["--memory 4G", "256G", "38-bit", "resourceN_resize"] {
        assert!(error.contains(part), "{error}");
    }
}
