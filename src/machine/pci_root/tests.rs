use std::sync::atomic::{AtomicU16, Ordering};

use devices::bus::PciDevice;
use pci::{
    BarIndex, BarKind, BusAt, ClassCode, ConfigSpace, Function, Ids, Register, RootPort,
    RootPortConfig,
};

use super::*;
use crate::machine::assigned::Peers;
use crate::machine::bus::Bus;
use crate::machine::installer::MemoryMap;

mod plugging;
mod relocation;

const VENDOR: u16 = 0x1b36;
const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const SIZE: u64 = 0x1000;
const MEMORY_SPACE: u32 = 2;

fn ids(tag: u8) -> Ids {
    Ids {
        vendor: VENDOR,
        device: tag.into(),
        revision: 0,
        class: ClassCode {
            base: 0xff,
            sub: 0,
            interface: 0,
        },
        subsystem_vendor: 0,
        subsystem: 0,
    }
}

/// A function with one BAR that reads as its tag.
struct Tagged {
    space: Mutex<ConfigSpace>,
    tag: u8,
    requester: AtomicU16,
}

impl Tagged {
    fn new(tag: u8) -> Arc<Self> {
        let mut space = ConfigSpace::endpoint(ids(tag));
        let kind = BarKind::Memory32 {
            prefetchable: false,
        };
        space.set_bar(BarIndex(0), kind, SIZE).unwrap();
        Arc::new(Self {
            space: Mutex::new(space),
            tag,
            requester: AtomicU16::new(0),
        })
    }
}

impl Function for Tagged {
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

impl PciDevice for Tagged {
    fn name(&self) -> &str {
        "tagged"
    }
    fn region(&self, _: BarIndex) -> Option<Arc<dyn Region>> {
        Some(Arc::new(Constant(self.tag)))
    }
    fn set_bdf(&self, bdf: Bdf) {
        self.requester.store(bdf.requester_id(), Ordering::SeqCst);
    }
}

/// Reads as itself.
struct Constant(u8);

impl Region for Constant {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0);
    }
    fn write(&self, _: u64, _: &[u8]) {}
}

struct Nobody;

impl Follower for Nobody {
    fn follow(&self, _: Changes) {}
}

struct Rig {
    root: Arc<PciRoot>,
    mmio: Arc<Bus>,
    io: Arc<Bus>,
    behind: Arc<Tagged>,
}

const ECAM_BASE: u64 = 0xb000_0000;
const FIRST: u8 = 1;
const SECOND: u8 = 2;

/// Two functions on the root bus and one behind a root port, started; where there is a KVM.
fn rig() -> Option<Rig> {
    rig_of(None, Tagged::new(0x11))
}

/// With this first function, and a memory map other than KVM's.
fn rig_of(memory: Option<Arc<dyn MemoryMap>>, first: Arc<dyn PciDevice>) -> Option<Rig> {
    let vm = Arc::new(kvm_ioctls::Kvm::new().ok()?.create_vm().ok()?);
    let (io, mmio) = (Arc::<Bus>::default(), Arc::<Bus>::default());
    let installer = Installer {
        memory: memory.unwrap_or(vm.clone()),
        vm,
        io: io.clone(),
        mmio: mmio.clone(),
        slots: Arc::default(),
        peers: Arc::<Peers>::default(),
    };
    let host_bridge = Arc::new(HostBridge::new(Some(ECAM_BASE)));
    let behind = Tagged::new(0xbb);
    let mut topology: Topology<dyn PciDevice> = Topology::new();
    let mut attach = |at, device, function: Arc<dyn PciDevice>| {
        topology
            .attach(at, device, 0, "one of the rig", function)
            .unwrap()
    };
    attach(BusAt::Root, 0, host_bridge.clone());
    attach(BusAt::Root, FIRST, first);
    attach(BusAt::Root, SECOND, Tagged::new(0x22));
    let port = RootPort::new(RootPortConfig::occupied(1)).unwrap();
    let port = attach(BusAt::Root, 3, Arc::new(port));
    attach(BusAt::Behind(port), 0, behind.clone());
    let root = PciRoot::new(topology, host_bridge, installer);
    let windows = Windows {
        io: 0x1000..=0xffff,
        memory32: 0xc000_0000..=0xfebf_ffff,
        memory64: 0x1_0000_0000..=0xff_ffff_ffff,
    };
    let follower: Weak<dyn Follower> = Weak::<Nobody>::new();
    root.open(windows, follower, Arc::new(Constant(0x0e)))
        .unwrap();
    root.start([]).unwrap();
    Some(Rig {
        root,
        mmio,
        io,
        behind,
    })
}

impl Rig {
    /// Writes a config register through ports CF8h and CFCh.
    fn write(&self, bdf: Bdf, offset: u16, value: u32) {
        let address = 1 << 31 | u32::from(bdf.requester_id()) << 8 | u32::from(offset);
        self.io.write(0xcf8, &address.to_le_bytes());
        self.io.write(0xcfc, &value.to_le_bytes());
    }

    fn bar(&self, device: u8) -> u64 {
        let register = Register::containing(BAR0);
        let bdf = Bdf::new(0, device, 0);
        u64::from(self.root.topology().config_read(bdf, register) & !0xf)
    }

    fn byte_at(&self, address: u64) -> u8 {
        let mut byte = [0];
        self.mmio.read(address, &mut byte);
        byte[0]
    }
}

macro_rules! rig_or_skip {
    () => {
        match rig() {
            Some(rig) => rig,
            None => {
                eprintln!("skipped: no /dev/kvm");
                return;
            }
        }
    };
}

#[test]
fn a_bar_answers_where_it_is_and_nowhere_else() {
    let rig = rig_or_skip!();
    let first = Bdf::new(0, FIRST, 0);
    let before = rig.bar(FIRST);
    assert_eq!(rig.byte_at(before), 0x11);
    assert_eq!(rig.byte_at(rig.bar(SECOND)), 0x22);
    rig.write(first, BAR0, 0xd000_0000);
    assert_eq!(
        (rig.byte_at(0xd000_0fff), rig.byte_at(before)),
        (0x11, 0xff)
    );
    rig.write(first, COMMAND, 0);
    assert_eq!(rig.byte_at(0xd000_0000), 0xff);
    rig.write(first, COMMAND, MEMORY_SPACE);
    assert_eq!(rig.byte_at(0xd000_0000), 0x11);
    // Outside the windows, where RAM or the chipset is, a BAR is not let in.
    rig.write(first, BAR0, 0xfec0_0000);
    assert_eq!(rig.byte_at(0xfec0_0000), 0xff);
    rig.root.close();
    assert_eq!(rig.byte_at(rig.bar(SECOND)), 0xff);
}

#[test]
fn of_two_bars_at_one_place_the_first_stays_and_the_other_comes_after_it() {
    let rig = rig_or_skip!();
    let place = rig.bar(FIRST);
    rig.write(Bdf::new(0, SECOND, 0), BAR0, place as u32);
    assert_eq!(rig.byte_at(place), 0x11);
    rig.write(Bdf::new(0, FIRST, 0), BAR0, 0xd000_0000);
    assert_eq!((rig.byte_at(place), rig.byte_at(0xd000_0000)), (0x22, 0x11));
}

#[test]
fn a_device_behind_a_bridge_learns_its_address() {
    let rig = rig_or_skip!();
    let requester = || rig.behind.requester.load(Ordering::SeqCst);
    assert_eq!(requester(), Bdf::new(1, 0, 0).requester_id());
    // Primary 0, secondary and subordinate 7.
    rig.write(Bdf::new(0, 3, 0), 0x18, 0x0007_0700);
    assert_eq!(requester(), Bdf::new(7, 0, 0).requester_id());
}

#[test]
fn ecam_moves_and_a_reset_puts_everything_back() {
    let rig = rig_or_skip!();
    const ID: u32 = 0x29c0_8086;
    const PCIEXBAR: u16 = 0x60;
    let id_at = |base| {
        let mut id = [0; 4];
        rig.mmio.read(base, &mut id);
        u32::from_le_bytes(id)
    };
    let place = rig.bar(FIRST);
    assert_eq!(id_at(ECAM_BASE), ID);
    rig.write(Bdf::new(0, 0, 0), PCIEXBAR, 0x8000_0001);
    assert_eq!((id_at(0x8000_0000), id_at(ECAM_BASE)), (ID, u32::MAX));
    rig.write(Bdf::new(0, FIRST, 0), BAR0, 0xd000_0000);
    rig.root.start([]).unwrap();
    assert_eq!((id_at(ECAM_BASE), rig.byte_at(place)), (ID, 0x11));
}

#[test]
fn the_reset_register_is_a_byte_among_the_config_ports() {
    let rig = rig_or_skip!();
    let mut byte = [0];
    rig.io.read(0xcf9, &mut byte);
    assert_eq!(byte, [0x0e]);
}

#[test]
fn fast_paths_stay_within_what_is_decoded() {
    let at = |offset, len| FastPath::Coalesced { offset, len };
    let paths = vec![at(0, 4), at(0xffc, 4), at(0xffd, 4), at(u64::MAX, 4)];
    let kept: Vec<_> = fast_paths_within(paths, SIZE)
        .iter()
        .map(|path| match path {
            FastPath::Coalesced { offset, .. } => *offset,
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(kept, [0, 0xffc]);
}
